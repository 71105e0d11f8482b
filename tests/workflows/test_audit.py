"""`medrep audit` as a user runs it; what it measures is tested in tests/audit."""

import gzip
import json
import re
from hashlib import sha256
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep.audit.calibration import METRICS
from medrep.cli import ERROR, OK, TOO_LITTLE, main
from medrep.cohort.splits import cohort_fingerprint
from medrep.config import SHIPPED
from medrep.models.saved import digest
from medrep.tracking.audits import seal_problems
from medrep.tracking.gates import read_gates
from tests.small_runs import ASKED, BY, Runs
from tests.tracking.registering import copied


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def table(runs: Runs) -> Path:
    return runs("table")


@pytest.fixture
def trained(runs: Runs) -> Path:
    return runs("table_model")


@pytest.fixture
def key(runs: Runs) -> Path:
    return runs("key") / "key.pem"


@pytest.fixture
def audited(runs: Runs) -> Path:
    return runs("table_audit")


def read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "audit.tsv", sep="\t", keep_default_na=True)


def test_the_whole_audit_is_one_tidy_table(audited: Path) -> None:
    found = read(audited)
    columns = ["metric", "group", "n", "estimate", "ci_low", "ci_high", "p", "q", "status", "note"]
    assert list(found.columns) == columns
    assert not found.duplicated(["metric", "group"]).any()
    rows = set(zip(found["metric"], found["group"], strict=True))
    assert rows >= {
        ("leakage", "raw/site"),
        ("leakage", "exported/site"),
        ("leakage", "latents/age"),
        ("leakage_excess", "exported/site"),
        ("leakage_equivalence", "exported/site"),
        ("dependence", "latents/sex"),
        ("injection", "exported/age"),
        ("injection_gain", "exported/sex"),
        ("reconstruction_error", "sex=F"),
        ("reconstruction_error", "age=40-60"),
        ("reconstruction_error", "sex=F & site=S1"),
        ("reconstruction_error_gap_excess", "site"),
        ("reconstruction_error_trend", "age"),
        ("deviation_gap", "sex"),
        ("auroc", "sex=M"),
        ("calibration_gap", "site"),
        ("identity_kept", "exported"),
        ("utility_change", "exported/diagnosis"),
        ("latents_active", "latents"),
        ("info_explicitness", "latents"),
        ("cf_composition", "site"),
        ("cf_effectiveness_gap", "sex=F"),
        ("counterfactual_fairness", "age"),
    }
    assert set(found["status"]) <= {"ok", "insufficient"}
    few = found[found["status"] == "insufficient"]
    assert few["estimate"].isna().all()
    assert (found.loc[found["status"] == "ok", "estimate"].notna()).all()


def test_it_tells_what_is_true_of_generated_people(audited: Path) -> None:
    found = read(audited).set_index(["metric", "group"])
    assert found.loc[("leakage", "raw/site"), "estimate"] > 0.8
    assert found.loc[("leakage_excess", "exported/site"), "estimate"] < 0.2
    assert found.loc[("identity_kept", "exported"), "estimate"] > 0.8
    assert 0.65 < found.loc[("auroc", "everybody"), "estimate"] < 0.92
    # Who is at the target comes back as they are; the note says what a nudge does.
    assert found.loc[("cf_composition", "age"), "estimate"] < 1e-6


def test_the_same_audit_twice_is_the_same_file_and_the_same_figures_for_a_script(
    audited: Path, table: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    # A model that lies elsewhere, without people.tsv, knows by itself that it never saw them.
    elsewhere = copied(trained / "model", tmp_path / "elsewhere" / "model")
    split = pd.read_csv(trained / "people.tsv", sep="\t", index_col="participant_id")["part"]
    who = ("--participant-label", *split.index[split == "held-out"])
    assert run("audit", table, out, "--model", elsewhere, *ASKED, *who, "--json", "--quiet") == 0
    for name in ("audit.tsv", "audit.json"):
        assert (out / name).read_bytes() == (audited / name).read_bytes()
    said = capsys.readouterr()
    assert said.err == ""
    found = json.loads(said.out, parse_constant=pytest.fail)
    assert found["exit_code"] == 0
    assert found["paths"] == {"report": str(out / "report.html"), "table": str(out / "audit.tsv")}
    table_again = read(out).fillna({"note": ""})
    pd.testing.assert_frame_equal(pd.DataFrame(found["figures"]), table_again, check_dtype=False)
    foreseen = read_gates(SHIPPED / "gates.yaml").judge(read(out).fillna({"note": ""}))
    assert (found["decision"], found["reasons"]) == (foreseen.verdict, list(foreseen.reasons))
    assert [one["verdict"] for one in found["gates"]] == [one.verdict for one in foreseen.judged]
    few = [row for row in found["figures"] if row["status"] == "insufficient"]
    assert few
    assert all(row["estimate"] is None for row in few)


def test_only_people_who_were_held_out_are_looked_at(audited: Path, trained: Path) -> None:
    people = pd.read_csv(audited / "people.tsv", sep="\t")
    split = pd.read_csv(trained / "people.tsv", sep="\t")
    assert set(people["participant_id"]) == set(split.loc[split["part"] == "held-out", "participant_id"])
    about = json.loads((audited / "audit.json").read_text())
    assert about["model"] == {"kind": "linear", "digest": digest(trained / "model")}
    assert about["cohort"]["people"] == len(people)
    assert len(about["cohort"]["fingerprint"]) == len(cohort_fingerprint([]))
    assert about["options"]["training_known"]
    assert "stress" not in about["options"]


def test_no_participant_is_in_what_is_shared(audited: Path, table: Path) -> None:
    ids = pd.read_csv(table / "participants.tsv", sep="\t")["participant_id"]
    for name in ("audit.tsv", "audit.json", "report.html", "latent_diagnostics.tsv"):
        text = (audited / name).read_text(encoding="utf-8")
        assert not [who for who in ids if who in text], name


def test_the_report_opens_from_disk(audited: Path) -> None:
    page = (audited / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(http|//)|@import|url\(""", page)
    assert page.count('<table class="chart">') >= 3
    for text in (
        "What probes read",
        "By group: reconstruction error",
        "Counterfactuals",
        "insufficient",
        "Model sheet",
    ):
        assert text in page
    assert (audited / "figures" / "leakage.png").read_bytes().startswith(b"\x89PNG")


def test_people_of_training_under_other_names_are_refused(
    table: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    for name in ("participants.tsv", "features.tsv"):
        text = (table / name).read_text(encoding="utf-8").replace("sub-", "sub-x")
        (cohort / name).write_text(text, encoding="utf-8")
    assert run("audit", cohort, tmp_path / "a", "--model", trained / "model", "--quiet") == 1
    said = capsys.readouterr().err
    assert "people whose data the model was trained on (100)" in said
    assert not (tmp_path / "a").exists()


def renamed(table: Path, to: Path, who: pd.Index, digits: int = 0) -> Path:
    """Write a cohort of some people under other names, their numbers exported again if digits are given."""
    to.mkdir()
    names = {old: f"sub-y{k:04d}" for k, old in enumerate(who)}
    for name in ("participants.tsv", "features.tsv"):
        content = pd.read_csv(table / name, sep="\t", index_col="participant_id").loc[who].rename(index=names)
        rounded = f"%.{digits}g" if digits and name == "features.tsv" else None
        content.iloc[::-1, ::-1].to_csv(to / name, sep="\t", float_format=rounded)
    return to


@pytest.mark.parametrize("digits", [0, 6, 8])
def test_a_model_that_lies_elsewhere_knows_its_own_people_under_other_names(
    table: Path, trained: Path, tmp_path: Path, digits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = copied(trained / "model", tmp_path / "elsewhere" / "model")
    split = pd.read_csv(trained / "people.tsv", sep="\t", index_col="participant_id")["part"]
    own, others = split.index[split == "train"], split.index[split == "held-out"]
    cohort = renamed(table, tmp_path / "cohort", own[3:40].append(others), digits)
    assert run("audit", cohort, tmp_path / "a", "--model", elsewhere, *BY, "--quiet") == 1
    said = capsys.readouterr().err
    assert "people whose data the model was trained on (37)" in said
    named = re.findall(r"^  (sub-y\d+)$", said, flags=re.MULTILINE)
    assert sorted(named) == [f"sub-y{k:04d}" for k in range(37)]
    assert "leave them out with --exclude, or give the people.tsv of training with --trained" in said
    assert not (tmp_path / "a").exists()


def test_the_people_of_another_training_are_told_apart(
    table: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "people.tsv"
    people = pd.read_csv(trained / "people.tsv", sep="\t")
    people[people["part"] == "train"].iloc[1:].to_csv(other, sep="\t", index=False)
    given = ("audit", table, tmp_path / "a", "--quiet")
    assert run(*given, "--model", trained / "model", "--trained", other) == 1
    assert f"{other}: is of another training than the model" in capsys.readouterr().err
    assert run(*given, "--model", copied(trained / "model", tmp_path / "model")) == 1
    assert "give the one of this model with --trained" in capsys.readouterr().err


def test_a_second_scan_of_training_is_known_without_its_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(24)],
            "age": 20 + np.arange(24),
            "sex": [*"FM"] * 12,
            "site": [*"AABB"] * 6,
        }
    )
    scans = people[["participant_id"]].merge(pd.DataFrame({"session_id": ["ses-1", "ses-2"]}), how="cross")
    scans[["a", "b", "c", "d"]] = 3 + 0.1 * rng.normal(size=(len(scans), 4))
    samples = scans[scans["session_id"] == "ses-2"].drop(columns="session_id").iloc[:8].round(8)
    for name, who, what in (("all", people, scans), ("some", people.iloc[:8], samples)):
        (tmp_path / name).mkdir()
        for table, file in ((who, "participants.tsv"), (what, "features.tsv")):
            renamed = table.assign(participant_id=table["participant_id"] + ("" if name == "all" else "x"))
            renamed.to_csv(tmp_path / name / file, sep="\t", index=False)
    simple = ("--set", "settings.spline_degrees=1", "--tracking", "none", "--quiet")
    assert run("train", tmp_path / "all", tmp_path / "m", *simple) == OK
    model = copied(tmp_path / "m" / "model", tmp_path / "model")
    (tmp_path / "m" / "people.tsv").unlink()
    assert run("audit", tmp_path / "some", tmp_path / "a", "--model", model, "--min-n", 2, "--quiet") == ERROR
    said = capsys.readouterr().err
    assert "people whose data the model was trained on (8)" in said
    assert "sub-07x" in said


def test_names_of_training_may_be_given_from_elsewhere(table: Path, trained: Path, tmp_path: Path) -> None:
    elsewhere = copied(trained / "model", tmp_path / "elsewhere" / "model")
    asked = ("audit", table, tmp_path / "a", "--model", elsewhere, "--min-n", 80, "--quiet")
    assert run(*asked, "--trained", trained / "people.tsv") == TOO_LITTLE
    assert run(*asked) == ERROR


def test_an_audit_binds_its_table_to_model_and_people_and_is_signed(
    table: Path, trained: Path, audited: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = json.loads((audited / "audit.json").read_text())
    assert not seal_problems(about, audited / "audit.tsv")
    assert about["files"] == {"audit.tsv": sha256((audited / "audit.tsv").read_bytes()).hexdigest()}
    for section, name in (("model", "digest"), ("cohort", "fingerprint"), ("options", "training_known")):
        forged = {**about, section: {**about[section], name: "0" * 64}}
        assert seal_problems(forged, audited / "audit.tsv") == ["audit.json is not as the audit wrote it"]
    pub, loose = key.with_name("pub.pem"), tmp_path / "loose.pem"
    store = ("--name", "brains", "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}", "--trusted-key", pub)
    assert run("register", trained / "model", "--audit", audited, *store, "--quiet") == OK
    loose.write_bytes(key.read_bytes())
    loose.chmod(0o644)
    assert run("audit", table, tmp_path / "a", "--model", trained / "model", "--sign", loose) == ERROR
    said = capsys.readouterr().err
    assert f"--sign {loose}: others may read this key" in said
    assert "people from" not in said, "before anything is read"


def test_too_few_people_is_an_exit_code_of_its_own(
    table: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("audit", table, tmp_path / "a", "--model", trained / "model", "--min-n", 80, "--quiet") == 5
    assert "100 participants whom the model never saw; an audit needs 160" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--by", "sex,height"), "height"),
        (("--by", "age:60/20"), "edges have to increase"),
        (("--intersect", "sex"), "two columns or more"),
        (("--outcome", "illness"), "--outcome illness"),
        (("--prediction", "risk"), "--prediction needs --outcome"),
        (("--outcome", "diagnosis", "--prediction", "risk"), "--positive"),
        (("--min-n", "0"), "--min-n 0: give 2 or more"),
        (("--margin", "1.5"), "--margin 1.5"),
        (("--remove", "scanner"), "does not know scanner"),
        (("--stress", "mechanisms,clues"), "--stress clues: not known"),
        (("--stress", "corruptions"), "needs scans to corrupt"),
        (("--stress", "regions", "--regions", "nothing.tsv"), "--regions nothing.tsv: no such file"),
        (("--trained", "nobody.tsv"), "nobody.tsv: no such file"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    table: Path,
    trained: Path,
    tmp_path: Path,
    asked: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("audit", table, tmp_path / "a", "--model", trained / "model", *asked, "--quiet") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_stress_adds_findings_and_chapters_of_its_own(
    table: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other questions are left out here: they take most of the time, and other tests ask them."""
    for step in (
        "_leakage",
        "_independence",
        "_injection",
        "_subgroups",
        "_identity",
        "_utility",
        "_latents",
        "_counterfactuals",
    ):
        monkeypatch.setattr(f"medrep.audit.suite.{step}", lambda *given: [])
    regions = tmp_path / "regions.tsv"
    regions.write_text("feature\tregion\n" + "".join(f"region_{k:03d}\tfront\n" for k in range(1, 6)))
    named = "robustness,mechanisms,cues,regions,traversals"
    asked = ("--outcome", "diagnosis", "--stress", named, "--regions", regions)
    assert run("audit", table, tmp_path / "a", "--model", trained / "model", *asked, "--quiet") == OK
    found = read(tmp_path / "a").set_index(["metric", "group"])
    assert found.loc[("mechanism_columns", "exported/site x age"), "status"] == "ok"
    assert found.loc[("robustness_value", "exported/age"), "status"] == "ok"
    assert ("acquisition_outcome", "diagnosis") in found.index
    assert found.loc[("region_reliance", "exported/diagnosis & front"), "status"] == "ok"
    assert found.loc[("region_only", "raw/site & elsewhere"), "status"] == "ok"
    assert ("cue_followed", "exported") in found.index
    assert ("minority_gap", "exported/diagnosis by site") in found.index
    options = json.loads((tmp_path / "a" / "audit.json").read_text())["options"]
    assert options["stress"] == named.split(",")
    assert options["regions"] == {"file": "regions.tsv", "sha256": sha256(regions.read_bytes()).hexdigest()}
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    for title in (
        "Mechanisms that differ between sites",
        "Robustness of effects",
        "Regions that labels are read from",
        "Planted cues",
        "Shortcuts",
        "Each latent at its extremes",
    ):
        assert title in page


def test_volumes_are_audited_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medrep.audit.corruptions.STRENGTHS", {"noise": (0.1,)})
    cohort, out = tmp_path / "cohort", tmp_path / "trained"
    assert run("simulate", cohort, "--kind", "volume", "--n", 44, "--sites", 2, "--quiet") == 0
    switches = ("--set", "input.kind=volume", "--hold-out", 0.5, "--tracking", "none", "--quiet")
    assert run("train", cohort, out, *switches) == 0
    atlas = nib.load(next(cohort.rglob("*_T1w.nii.gz")))
    left = np.zeros(atlas.shape, np.int16)
    left[: len(left) // 2] = 1
    nib.save(nib.Nifti1Image(left, atlas.affine), tmp_path / "halves_dseg.nii.gz")
    (tmp_path / "halves_dseg.tsv").write_text("index\tname\n1\tleft\n")
    stress = ("--stress", "regions,corruptions", "--regions", tmp_path / "halves_dseg.nii.gz")
    assert run("audit", cohort, tmp_path / "a", "--model", out / "model", "--min-n", 10, *stress, "--quiet") == 0
    found = read(tmp_path / "a").set_index(["metric", "group"])
    assert found.loc[("leakage", "raw/site"), "status"] == "ok"
    assert found.loc[("reconstruction_error", "everybody"), "status"] == "ok"
    assert found.loc[("region_reliance", "exported/age & left"), "status"] == "ok"
    assert found.loc[("region_only", "exported/age & elsewhere"), "status"] == "ok"
    assert found.loc[("corruption_error", "noise/0.1"), "ci_low"] > 0
    assert found.loc[("corruption_flagged", "noise/0.1"), "status"] == "insufficient"
    # A scan of training under another name, packed otherwise, beside people whom the model never saw.
    split = pd.read_csv(out / "people.tsv", sep="\t", index_col="participant_id")["part"]
    seen, stands_for = split.index[split == "train"][0], split.index[split == "held-out"][0]
    scans = [next((cohort / who).rglob("*_T1w.nii.gz")) for who in (seen, stands_for)]
    scans[1].write_bytes(gzip.compress(gzip.decompress(scans[0].read_bytes()), 1))
    elsewhere = copied(out / "model", tmp_path / "elsewhere" / "model")
    who = ("--participant-label", *split.index[split == "held-out"])
    assert run("audit", cohort, tmp_path / "b", "--model", elsewhere, "--min-n", 10, *who, "--quiet") == 1
    assert f"people whose data the model was trained on: {stands_for};" in capsys.readouterr().err


def test_a_growth_chart_is_audited_for_calibration_and_nothing_else_is(
    runs: Runs, audited: Path, tmp_path: Path
) -> None:
    chart = ("--config", "growth_chart.yaml", "--set", "settings.power=none", "--tracking", "none", "--quiet")
    assert run("train", runs("table"), tmp_path / "m", "--hold-out", 0.5, *chart) == OK
    by = ("--by", "sex,age:50,site", "--quiet")
    assert run("audit", runs("table"), tmp_path / "a", "--model", tmp_path / "m" / "model", *by) == OK
    found = read(tmp_path / "a").set_index(["metric", "group"])
    assert set(METRICS) <= set(found.index.get_level_values("metric"))
    own = found.loc[list(METRICS)]
    assert own.loc[("z_mean", "sex=F & age>=50"), "status"] == "ok"
    assert (own.loc[own["status"] == "ok", ["ci_low", "ci_high", "p", "q"]].notna()).all(axis=None)
    assert "By group: pit distance" in (tmp_path / "a" / "report.html").read_text()
    assert not set(METRICS) & set(read(audited)["metric"])
