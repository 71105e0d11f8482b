"""People with several visits, from a folder to what is written of them: a person's visits are moved together."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.batch.store import Part
from medrep.cli import main
from medrep.cohort.features import FeatureTable
from medrep.cohort.samples import Samples, Source
from tests.documents import DOCS, run_line
from tests.models.linear.test_visits import Planted

PEOPLE = 60


def run(*arguments: object) -> int:
    return main([*(str(argument) for argument in arguments), "--quiet"])


def write(folder: Path, planted: Planted, order: np.ndarray) -> Path:
    """Write a cohort whose rows stand by visit and not by person."""
    folder.mkdir()
    frame = planted.frame.assign(
        participant_id="sub-" + planted.frame["who"],
        session_id="ses-" + planted.frame.groupby("who").cumcount().astype(str),
    ).iloc[order]
    ids = frame[["participant_id", "session_id"]]
    ids.join(frame[["age", "sex", "site"]]).to_csv(folder / "participants.tsv", sep="\t", index=False)
    names = [f"c{k}" for k in range(planted.values.shape[1])]
    values = pd.DataFrame(planted.values[order], index=frame.index, columns=names)
    ids.join(values).to_csv(folder / "features.tsv", sep="\t", index=False)
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planted = Planted(4, people=PEOPLE, columns=5)
    visit = planted.frame.groupby("who").cumcount().to_numpy()
    return write(tmp_path_factory.mktemp("visits") / "cohort", planted, np.argsort(visit, kind="stable"))


@pytest.fixture(scope="module")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "trained"
    assert run("train", cohort, out, "--tracking", "none") == 0
    return out


def features(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "features.tsv", sep="\t", index_col=["participant_id", "session_id"])


def test_a_person_moves_as_one(cohort: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("export", cohort, out, "--model", trained / "model", "--remove", "site") == 0
    written, raw = features(out), features(cohort)
    assert written.index.equals(raw.index)
    model = mr.load(trained)
    moved = model.remove(mr.read_cohort(cohort, model), "site")
    np.testing.assert_allclose(written.to_numpy(), moved.values, rtol=1e-9, atol=1e-12)
    one = raw.index.get_level_values(0)[0]
    alone = tmp_path / "alone"
    chosen = ("--model", trained / "model", "--remove", "site", "--participant-label", one)
    assert run("export", cohort, alone, *chosen) == 0
    np.testing.assert_allclose(features(alone).to_numpy(), written.loc[[one]].to_numpy(), rtol=1e-9, atol=1e-12)


def test_summaries_count_people_and_visits(
    cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visits = len(features(cohort))
    command = ["export", cohort, tmp_path / "out", "--model", trained / "model", "--remove", "site"]
    assert main([str(one) for one in command]) == 0
    assert f"{visits} visits of {PEOPLE} people delivered, 0 failed" in " ".join("".join(capsys.readouterr()).split())
    facts = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"<dt>People written</dt><dd>{PEOPLE} people, {visits} scans</dd>" in facts
    done = ["train", cohort, tmp_path / "trained", "--tracking", "none", "--hold-out", "0.3"]
    assert main([str(one) for one in done]) == 0
    people = pd.read_csv(tmp_path / "trained" / "people.tsv", sep="\t")
    parts = people.groupby("part")["participant_id"].nunique()
    said = " ".join("".join(capsys.readouterr()).split())
    assert (
        f"{parts['train']} people, {(people['part'] == 'train').sum()} scans trained on, {parts['held-out']} held out"
        in said
    )


@pytest.mark.parametrize("parts", [2, 7])
def test_parts_give_the_same_bytes(cohort: Path, trained: Path, tmp_path: Path, parts: int) -> None:
    asked = ("--model", trained / "model", "--remove", "site")
    assert run("export", cohort, tmp_path / "whole", *asked) == 0
    for part in range(parts):
        assert run("export", cohort, tmp_path / "out", *asked, "--num-parts", parts, "--part-id", part) == 0
    assert run("merge", tmp_path / "out") == 0
    for name in ("features.tsv", "latents.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_further_visit_moves_the_persons_others_again(cohort: Path, trained: Path, tmp_path: Path) -> None:
    raw, people = features(cohort), pd.read_csv(cohort / "participants.tsv", sep="\t")
    several = raw.index.get_level_values(0).value_counts()
    who = several.index[several == 3][0]
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    last = (raw.index.get_level_values(0) == who) & (raw.index.get_level_values(1) == "ses-2")
    raw[~last].to_csv(fewer / "features.tsv", sep="\t")
    people[~last].to_csv(fewer / "participants.tsv", sep="\t", index=False)
    asked = ("--model", trained / "model", "--remove", "site")
    assert run("export", fewer, tmp_path / "out", *asked) == 0
    before = features(tmp_path / "out")
    for name in ("features.tsv", "participants.tsv"):
        (fewer / name).write_bytes((cohort / name).read_bytes())
    assert run("export", fewer, tmp_path / "out", *asked) == 0
    assert run("export", cohort, tmp_path / "whole", *asked) == 0
    assert (tmp_path / "out/features.tsv").read_bytes() == (tmp_path / "whole/features.tsv").read_bytes()
    assert not np.array_equal(features(tmp_path / "out").loc[before.loc[[who]].index], before.loc[[who]])


def test_the_report_draws_people_who_came_again(cohort: Path, trained: Path, tmp_path: Path) -> None:
    asked = ("--model", trained / "model", "--remove", "site")
    assert run("export", cohort, tmp_path / "out", *asked) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "People who came again" in page
    drawn = json.loads((tmp_path / "out/report/visits.json").read_text())
    steps = [
        [
            np.abs(np.diff(one[state]))[np.array(one["levels"][1:]) != np.array(one["levels"][:-1])]
            for one in row["people"]
        ]
        for row in drawn["rows"]
        for state in ("before", "after")
    ]
    before, after = (np.concatenate([*steps[k], *steps[k + 2]]) for k in range(2))
    assert after.mean() < 0.8 * before.mean()
    assert run("export", cohort, tmp_path / "nobody", *asked, "--show", "nobody") == 0
    assert "People who came again" not in (tmp_path / "nobody/report.html").read_text()


def test_what_goes_with_age_between_and_within_people_is_written(trained: Path) -> None:
    table = pd.read_csv(trained / "within_effects.tsv", sep="\t")
    assert table.columns.tolist() == [
        "covariate",
        "feature",
        *(f"{name}{end}" for name in ("between", "within") for end in ("", "_low", "_high")),
    ]
    assert table["feature"].tolist() == [f"c{k}" for k in range(5)]


def test_check_says_who_came_how_often_and_who_changed(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(cohort)]) == 0
    said = capsys.readouterr()
    text = said.out + said.err
    assert "independent" not in text
    for words in ("people with 3 visits", "follow-up in age", "people who changed site", "of them seen elsewhere"):
        assert words in text


def test_a_scanner_that_everybody_changes_with_time_is_refused(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = Planted(6, people=PEOPLE, columns=5, visits=(2, 2))
    planted.frame["site"] = [f"S{visit}" for visit in planted.frame.groupby("who").cumcount()]
    aliased = write(tmp_path / "aliased", planted, np.arange(len(planted.frame)))
    for command in (("check", aliased), ("train", aliased, tmp_path / "out", "--tracking", "none")):
        assert main([str(word) for word in command]) != 0
        said = capsys.readouterr()
        assert "cannot be told apart within people: site and age: 60 of 60 people" in " ".join(
            (said.out + said.err).split()
        )
    assert not (tmp_path / "out").exists()
    free = ("--set", "settings.visits=independent", "--tracking", "none")
    assert run("train", aliased, tmp_path / "out", *free) == 0


def test_blocks_hold_whole_persons() -> None:
    counts = [3, 1, 2, 3, 1, 1, 2]
    whose = [str(person) for visit in range(3) for person, count in enumerate(counts) if visit < count]
    keys = pd.Index([f"{who}_{place}" for place, who in enumerate(whose)])
    table = FeatureTable(pd.DataFrame(index=keys), np.arange(2.0 * len(keys)).reshape(-1, 2), ("a", "b"), None)
    samples = Source.of_table(table).samples(pd.DataFrame(index=keys))
    together = samples.together(whose, 4)
    assert isinstance(together, Samples)
    assert sorted(together.keys) == sorted(samples.keys)
    assert len(set(together.places.tolist())) == len(keys)
    for person in set(together.persons.tolist()):
        assert len(set((together.places[together.persons == person] // 4).tolist())) == 1
    blocks = together.blocks(4)
    assert [place for block in blocks for place in block] == list(range(len(keys)))
    shares = [Part(number, 2).of(blocks) for number in range(2)]
    assert sum(len(block) for share in shares for block in share) == len(keys)
    for key, row in zip(together.keys, together.rows, strict=True):
        np.testing.assert_array_equal(row, samples.rows[samples.keys.index(key)])


def test_the_page_is_right(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cohort, "my_visits")
    people = pd.read_csv("my_visits/participants.tsv", sep="\t")
    families = pd.factorize(people["participant_id"])[0] // 2
    people.assign(family_id=families).to_csv("my_visits/participants.tsv", sep="\t", index=False)
    page = (DOCS / "visits.md").read_text(encoding="utf-8")
    commands, (code,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("bash", "python"))
    assert len(commands) == 3
    for line in "".join(commands).splitlines():
        assert run_line(line) == 0, line
    exec(compile(code, "visits.md", "exec"), {})  # noqa: S102
