"""Sites that training did not have, told from some of their people only."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cli import main

SHIFT = 3.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chart of three sites, and a cohort of a fourth, half of whose people are ill and shifted."""
    folder, rng = tmp_path_factory.mktemp("reference"), np.random.default_rng(0)

    def write(name: str, sites: list[str], ill: np.ndarray) -> None:
        people = len(sites)
        table = pd.DataFrame({"participant_id": [f"sub-{k:03d}" for k in range(people)], "site": sites})
        table["age"] = rng.uniform(20, 70, people).round(2)
        table["sex"] = rng.choice(["F", "M"], people)
        table["diagnosis"] = np.where(ill, "ASD", "TD")
        offsets = {site: rng.normal(0, 1.5, 6) for site in sorted(set(sites))}
        values = rng.standard_normal((people, 6)) + 0.03 * table[["age"]].to_numpy() + SHIFT * ill[:, None]
        values += np.stack([offsets[site] for site in sites])
        features = pd.DataFrame(values, columns=[f"f{k}" for k in range(6)])
        features.insert(0, "participant_id", table["participant_id"])
        (folder / name).mkdir()
        table.to_csv(folder / name / "participants.tsv", sep="\t", index=False)
        features.to_csv(folder / name / "features.tsv", sep="\t", index=False)

    write("known", ["A", "B", "C"] * 60, np.zeros(180, bool))
    write("new", ["N"] * 40, np.arange(40) % 2 == 0)
    write("clinic", ["N"] * 90, np.arange(90) % 3 == 0)
    settings = ["--set", "settings.components=0", "--set", "settings.power=none"]
    known, chart = str(folder / "known"), str(folder / "chart")
    assert main(["train", known, chart, "--config", "growth_chart.yaml", *settings]) == 0
    return folder


def score(folder: Path, out: str, *options: str) -> int:
    model = str(folder / "chart" / "model")
    return main(["score", str(folder / "new"), str(folder / out), "--model", model, "--unseen-site", "adapt", *options])


def deviations(folder: Path, out: str) -> pd.DataFrame:
    return pd.read_csv(folder / out / "deviations.tsv", sep="\t", index_col=0)


def test_controls_tell_the_site_and_the_others_stand_out(trained: Path) -> None:
    assert score(trained, "all") == 0
    assert score(trained, "controls", "--reference-people", "diagnosis=TD") == 0
    table = pd.read_csv(trained / "new" / "participants.tsv", sep="\t", index_col=0)
    ill = (table["diagnosis"] == "ASD").to_numpy()
    whole, told = (deviations(trained, out).loc[table.index].to_numpy() for out in ("all", "controls"))
    assert abs(told[~ill].mean()) < 0.5
    assert told[ill].mean() > 1.8
    assert whole[~ill].mean() < -0.8


def test_python_says_what_the_command_does(trained: Path, tmp_path: Path) -> None:
    model = mr.load(trained / "chart" / "model")
    people = mr.read_cohort(trained / "new", model, unseen_site="adapt")
    mr.score(model, people, unseen_site="adapt", reference_people="diagnosis=TD", out=tmp_path / "python")
    assert score(trained, "command", "--reference-people", "diagnosis=TD") == 0
    for name in ("scores.tsv", "deviations.tsv"):
        assert (tmp_path / "python" / name).read_bytes() == (trained / "command" / name).read_bytes()


def test_an_audit_judges_the_others_of_a_new_site(trained: Path) -> None:
    options = ["--model", str(trained / "chart" / "model"), "--unseen-site", "adapt", "--by", "site", "--min-n", "15"]
    whom = ("all", ()), ("others", ("--reference-people", "diagnosis=TD"))
    found = {}
    for out, chosen in whom:
        assert (
            main(["audit", str(trained / "clinic"), str(trained / f"audit-{out}"), *options, *chosen, "--quiet"]) == 0
        )
        table = pd.read_csv(trained / f"audit-{out}" / "audit.tsv", sep="\t").set_index(["metric", "group"])
        found[out] = table.loc[("z_mean", "site=N")]
    assert found["all"]["status"] == "insufficient"
    assert (found["others"]["status"], found["others"]["n"]) == ("ok", 30)
    assert found["others"]["estimate"] > 1.8, "controls tell the site, and patients stand out"
    assert "over what 60 people of training leave" in found["others"]["note"]
    judged = pd.read_csv(trained / "audit-others" / "people.tsv", sep="\t")["participant_id"]
    table = pd.read_csv(trained / "clinic" / "participants.tsv", sep="\t")
    assert judged.tolist() == table.loc[table["diagnosis"] == "ASD", "participant_id"].tolist()
    about = json.loads((trained / "audit-others" / "audit.json").read_text())["options"]
    assert about["reference_people"] == "diagnosis=TD"
    assert "reference_people" not in json.loads((trained / "audit-all" / "audit.json").read_text())["options"]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("TD", "give COLUMN=VALUE"),
        ("group=TD", "no column group; it has"),
        ("diagnosis=ADHD", "nobody has that; diagnosis is ASD, TD"),
    ],
)
def test_what_nobody_has_is_refused(trained: Path, capsys: pytest.CaptureFixture[str], said: str, answer: str) -> None:
    assert score(trained, "refused", "--reference-people", said) == 1
    assert answer in " ".join(capsys.readouterr().err.split())
    assert not (trained / "refused").exists()


def test_a_site_without_such_people_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(trained / "new" / "participants.tsv", sep="\t")
    only = [
        who for who, diagnosis in zip(table["participant_id"], table["diagnosis"], strict=True) if diagnosis == "ASD"
    ]
    table["site"] = np.where(table["participant_id"].isin(only), "M", "N")
    (trained / "two").mkdir()
    table.to_csv(trained / "two" / "participants.tsv", sep="\t", index=False)
    (trained / "two" / "features.tsv").write_bytes((trained / "new" / "features.tsv").read_bytes())
    model = str(trained / "chart" / "model")
    options = ["--model", model, "--unseen-site", "adapt", "--reference-people", "diagnosis=TD"]
    assert main(["score", str(trained / "two"), str(trained / "out"), *options]) == 1
    assert "site 'M': diagnosis of its people is ASD" in " ".join(capsys.readouterr().err.split())
