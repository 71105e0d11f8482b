"""The verbs of ``import medrep as mr`` on people at hand: the same bytes, figures and sentences as those of the command line."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.workflows.transform import ExportRequest
from tests.workflows.conftest import run

pytestmark = pytest.mark.filterwarnings("ignore:what .* does depends on:UserWarning")
DECLARED = {"age": "continuous", "sex": "categorical", "site": "batch"}
VOLUME = ["input.kind=volume"]


@pytest.fixture(scope="module")
def trained(table_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training by the command line that held people out."""
    out = tmp_path_factory.mktemp("held-out") / "trained"
    assert run("train", table_cohort, out, "--hold-out", 0.5, "--quiet") == 0
    return out


def held_out_of(trained: Path) -> list[str]:
    people = pd.read_csv(trained / "people.tsv", sep="\t", dtype=str)
    return people.loc[people["part"] == "held-out", "participant_id"].tolist()


def same_files(one: Path, other: Path) -> None:
    """Compare what two folders hold for a reader."""
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and ".medrep" not in path.parts)
    assert names == sorted(
        path.relative_to(other) for path in other.rglob("*") if path.is_file() and ".medrep" not in path.parts
    )
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_what_there_is_is_listed() -> None:
    verbs = {
        "read_cohort",
        "train",
        "load",
        "score",
        "audit",
        "compare",
        "export",
        "split_participants",
        "Dataset",
        "CovariateRemover",
    }
    assert verbs <= set(dir(mr))
    assert all(getattr(mr, name) is not None for name in dir(mr))


def test_a_folder_of_the_package_that_is_named_like_a_verb_is_one(table_cohort: Path) -> None:
    import medrep.audit.groups
    import medrep.derivatives.bids

    assert callable(mr.audit)
    assert callable(mr.export)
    assert medrep.audit.groups.__name__ == "medrep.audit.groups"
    cohort = mr.read_cohort(table_cohort)
    with pytest.raises(mr.MedrepError, match="people whose data the model was trained on"):
        mr.audit(mr.train(cohort), cohort)


def test_a_table_is_trained_on_scored_audited_and_exported_as_by_the_command_line(
    table_cohort: Path, trained: Path, tmp_path: Path
) -> None:
    cohort = mr.read_cohort(table_cohort, "linear.yaml")
    held = cohort.table["participant_id"].isin(held_out_of(trained)).to_numpy()
    model = mr.train(cohort.take(~held), held_out=cohort.take(held))
    model.save(tmp_path / "model")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (trained / "model" / name).read_bytes()

    model, new = mr.load(trained), cohort.take(held)
    only = ("--participant-label", *new.keys)
    using = ("--model", trained / "model", *only, "--quiet")
    assert run("score", table_cohort, tmp_path / "scored", *using) == 0
    scores = pd.read_csv(tmp_path / "scored" / "scores.tsv", sep="\t", dtype={"participant_id": str})
    pd.testing.assert_frame_equal(mr.score(model, new), scores)

    assert run("export", table_cohort, tmp_path / "there", *using, "--remove", "site", "--reference", "site=S0") == 0
    done = mr.export(model, new, tmp_path / "here", ["site"], references={"site": "S0"})
    assert (done.delivered, done.failed) == (len(new), 0)
    same_files(tmp_path / "here", tmp_path / "there")

    clean = model.remove(new, ["site"], references={"site": "S0"})
    written = pd.read_csv(tmp_path / "here" / "features.tsv", sep="\t", index_col="participant_id")
    np.testing.assert_allclose(clean.values, written, rtol=1e-8)
    latents = pd.read_csv(tmp_path / "here" / "latents.tsv", sep="\t", index_col="participant_id")
    np.testing.assert_allclose(model.encode(new), latents, rtol=1e-8, atol=1e-8)


def test_an_audit_is_that_of_the_command_line_and_leaves_out_people_of_training(
    table_cohort: Path, trained: Path, tmp_path: Path
) -> None:
    by = "sex,age:40/60"
    assert run("audit", table_cohort, tmp_path / "there", "--model", trained / "model", "--by", by, "--quiet") == 0
    found = mr.audit(mr.load(trained), mr.read_cohort(table_cohort), by=by.split(","), out=tmp_path / "here")
    same_files(tmp_path / "here", tmp_path / "there")
    table = pd.read_csv(tmp_path / "there" / "audit.tsv", sep="\t")
    assert found.findings["metric"].tolist() == table["metric"].tolist()
    assert len(found.people) == len(held_out_of(trained))
    assert found.expected.verdict in {"passed", "refused", "insufficient"}


def test_images_are_those_of_the_command_line(bids_cohort: Path, bids_model: Path, tmp_path: Path) -> None:
    scans = mr.read_cohort(bids_cohort, "linear.yaml", overrides=VOLUME)
    assert isinstance(scans.values, np.memmap)
    mr.train(scans).save(tmp_path / "model")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (bids_model / name).read_bytes()

    model, some = mr.load(bids_model), scans.take(slice(0, 4))
    only = ("--participant-label", *some.keys)
    assert (
        run("export", bids_cohort, tmp_path / "there", "--model", bids_model, "--remove", "site", *only, "--quiet") == 0
    )
    mr.export(model, some, tmp_path / "here", remove=["site"])
    same_files(tmp_path / "here", tmp_path / "there")
    assert mr.score(model, some)["participant_id"].tolist() == list(some.keys)

    clean = model.remove(some, "site")
    again = model.remove(mr.read_cohort(bids_cohort, model, only=list(some.keys)), "site")
    np.testing.assert_array_equal(clean.values, again.values)
    assert clean.origin is None
    assert model.encode(clean).shape == model.encode(some).shape
    for verb in (lambda: mr.train(clean), lambda: mr.score(model, clean)):
        with pytest.raises(mr.MedrepError, match="these images come from no file: write them with export"):
            verb()


def test_images_on_another_grid_are_read_again_on_that_of_the_model(bids_cohort: Path, bids_model: Path) -> None:
    model = mr.load(bids_model)
    coarse = mr.read_cohort(
        bids_cohort, "linear.yaml", overrides=[*VOLUME, "input.spacing=[8, 8, 8]"], only=["0001", "0002", "0003"]
    )
    own = mr.read_cohort(bids_cohort, model, only=["0001", "0002", "0003"])
    assert coarse.values.shape[1] < own.values.shape[1]
    np.testing.assert_array_equal(model.people(coarse).values, own.values)


def test_people_of_an_unseen_site_are_adapted_and_broken_files_named(bids_cohort: Path, tmp_path: Path) -> None:
    table = pd.read_csv(bids_cohort / "participants.tsv", sep="\t", dtype=str).set_index("participant_id")
    known, strange = table.index[table["site"] != "S3"], table.index[table["site"] == "S3"][:4]
    model = mr.train(mr.read_cohort(bids_cohort, overrides=VOLUME, only=list(known)))
    model.save(tmp_path / "model")
    copied = tmp_path / "cohort"
    shutil.copytree(bids_cohort, copied)
    new = mr.read_cohort(copied, model, only=list(strange), unseen_site="adapt")
    for verb in (lambda: mr.score(model, new), lambda: model.remove(new, "site")):
        with pytest.raises(mr.MedrepError, match="'S3' was not in training"):
            verb()
    adapting = ExportRequest((), unseen_site="adapt")
    mr.export(mr.load(tmp_path / "model"), new, tmp_path / "here", ["site"], request=adapting)
    only = ("--unseen-site", "adapt", "--participant-label", *strange, "--quiet")
    assert run("export", copied, tmp_path / "there", "--model", tmp_path / "model", "--remove", "site", *only) == 0
    same_files(tmp_path / "here", tmp_path / "there")
    next((copied / strange[0]).rglob("*.nii.gz")).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=rf"failed: {strange[0]}: .*not a readable image"):
        scores = mr.score(model, new, unseen_site="adapt")
    assert scores["status"].tolist() == ["failed", "scored", "scored", "scored"]


def test_several_visits_of_a_person_stay_together(table_cohort: Path, tmp_path: Path) -> None:
    one = mr.read_cohort(table_cohort).take(slice(0, 60))
    features = pd.DataFrame(one.values, index=one.keys, columns=list(one.columns.names))
    whose, samples = [f"p{k // 2:02d}" for k in range(60)], [str(k % 2) for k in range(60)]
    people = mr.Dataset.from_frames(features, one.table, DECLARED, participants=whose, sessions=samples)
    with pytest.warns(UserWarning, match="60 scans of 30 people are treated as independent"):
        mr.train(people, settings={"visits": "independent"})
    model = mr.train(people)
    assert model.provenance.people == 30
    assert mr.score(model, people)[["participant_id", "session_id"]].to_numpy().tolist()[1] == ["p00", "1"]


def test_tables_of_a_notebook_need_no_folder(table_cohort: Path, tmp_path: Path) -> None:
    features = pd.read_csv(table_cohort / "features.tsv", sep="\t", index_col="participant_id")
    table = pd.read_csv(table_cohort / "participants.tsv", sep="\t", index_col="participant_id")
    people = mr.Dataset.from_frames(features[:100], table[:100], DECLARED)
    assert set(people.table) == {"participant_id", *table}
    model = mr.train(people, seed=0)
    same = mr.train(mr.read_cohort(table_cohort, only=list(people.keys)))
    np.testing.assert_allclose(model.remove(people, "site").values, same.remove(people, "site").values, rtol=1e-9)
    new = mr.Dataset.from_frames(features[100:], table[100:], DECLARED)
    assert mr.audit(model, new, by="sex", outcome="diagnosis").findings["metric"].str.contains("utility").any()
    turned = mr.Dataset.from_frames(features[100:][features.columns[::-1]], table[100:], DECLARED)
    pd.testing.assert_frame_equal(mr.score(model, turned), mr.score(model, new))
    done = mr.export(model, new, tmp_path / "out", ["site"], request=ExportRequest((), probe=True))
    assert done.delivered == 60
    assert (tmp_path / "out" / "leakage.tsv").is_file()
    assert mr.train(model.remove(people, "site"), model="conditional_vae", settings={"body": "linear"}).model.kind


def test_settings_and_models_are_named_as_in_a_configuration(table_cohort: Path) -> None:
    cohort = mr.read_cohort(table_cohort)
    assert mr.train(cohort, settings={"components": 3}).model.settings.components == 3
    assert mr.train(cohort, settings=mr.LinearSettings(components=2), seed=4).model.seed == 4
    with pytest.raises(mr.MedrepError, match="unknown; did you mean components"):
        mr.train(cohort, settings={"componets": 3})
    with pytest.raises(mr.MedrepError, match="model 'linea' is unknown; allowed: linear"):
        mr.train(cohort, model="linea")


def test_what_cannot_be_is_said_in_the_sentences_of_the_command_line(
    table_cohort: Path, table_model: Path, bids_cohort: Path, tmp_path: Path
) -> None:
    model, cohort = mr.load(table_model), mr.read_cohort(table_cohort)
    scans = mr.read_cohort(bids_cohort, overrides=VOLUME, only=["0001", "0002", "0003", "0004"])
    refusals = {
        "no such folder; COHORT is a folder": lambda: mr.read_cohort(tmp_path / "absent"),
        "no model.json; give the folder that train wrote": lambda: mr.load(tmp_path),
        "was trained on features data, and these are volume data": lambda: mr.score(model, scans),
        "features data, and these are volume data": lambda: model.remove(scans, "site"),
        "unknown covariate sit; the model knows age, sex, site": lambda: model.remove(cohort, "sit"),
        "values beyond the people of training": lambda: model.remove(cohort, "age", {"age": 140}),
        "the model does not know sit": lambda: mr.export(model, cohort, tmp_path / "o", ["sit"]),
        "give a rate between 0 and 1": lambda: mr.score(model, cohort, false_alarms=2.0),
        "is or holds the input": lambda: mr.export(model, cohort, table_cohort, ["site"]),
    }
    for said, verb in refusals.items():
        with pytest.raises(mr.MedrepError, match=said):
            verb()


def test_doubts_are_warnings_of_python(table_cohort: Path) -> None:
    cohort = mr.read_cohort(table_cohort)
    table = cohort.table.assign(age=[*(f"{40 + k % 9}" for k in range(len(cohort) - 1)), "72"])
    features = pd.DataFrame(cohort.values, index=cohort.keys, columns=list(cohort.columns.names))
    people = mr.Dataset.from_frames(features, table, DECLARED)
    with pytest.warns(UserWarning, match="age is far from what others have"):
        mr.train(people)
