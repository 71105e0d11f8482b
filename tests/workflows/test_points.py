"""Points through every command: aligned, cleaned of a planted site, and back where everybody lay."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cohort.point_files import read_points
from medrep.cohort.procrustes import consensus_of, superimposed
from medrep.derivatives.bids import write_tsv
from tests.point_cohorts import (
    PEOPLE,
    POINTS,
    landmarks_path,
    turned,
    write_gifti_mesh,
    write_landmarks,
    write_points_cohort,
)
from tests.workflows.conftest import run

KIND = ("--set", "input.kind=points")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """Return a cohort of landmarks, what was trained on it, and what site S2 adds to aligned points."""
    root = tmp_path_factory.mktemp("points")
    _, _, stretch = write_points_cohort(root / "cohort")
    assert run("train", root / "cohort", root / "trained", "--hold-out", 0.3, "--quiet", *KIND) == 0
    return root / "cohort", root / "trained" / "model", stretch


def shapes(root: Path, people: list[str], desc: str = "") -> list[np.ndarray]:
    return [read_points(landmarks_path(root, who, desc)).points for who in people]


def test_a_site_goes_and_position_turn_and_the_rest_stay(
    trained: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    cohort, model, stretch = trained
    assert run("export", cohort, tmp_path / "out", "--model", model, "--remove", "site", "--quiet") == 0
    table = pd.read_csv(cohort / "participants.tsv", sep="\t")
    people = table["participant_id"].tolist()
    before, after = shapes(cohort, people), shapes(tmp_path / "out", people, "_desc-residualized")
    away = (table["site"] == sorted(table["site"].unique())[1]).to_numpy()

    def gap(points: list[np.ndarray]) -> np.ndarray:
        consensus = consensus_of(points, "rigid")
        aligned = np.stack([superimposed(own, consensus, "rigid").apply(own) for own in points])
        return np.asarray(aligned[away].mean(axis=0) - aligned[~away].mean(axis=0))

    assert np.abs(gap(before)).max() > 0.5 * np.abs(stretch).max()
    assert np.abs(gap(after)).max() < 0.25 * np.abs(gap(before)).max()
    moved = np.array(
        [np.abs(new.mean(axis=0) - old.mean(axis=0)).max() for old, new in zip(before, after, strict=True)]
    )
    assert moved.max() < 0.3  # millimetres, of positions that differ by tens
    note = landmarks_path(tmp_path / "out", people[0], "_desc-residualized").read_text().splitlines()
    assert note[0] == "name\tx\ty\tz\tnote"
    assert note[1].endswith("\tseen")
    said = json.loads(
        (landmarks_path(tmp_path / "out", people[0], "_desc-residualized")).with_suffix(".json").read_text()
    )
    assert said["Removed"] == ["site"]


def test_nothing_moves_where_everybody_is_already(trained: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    cohort, model, _ = trained
    site = pd.read_csv(cohort / "participants.tsv", sep="\t")["site"].iloc[0]
    assert run("counterfactual", cohort, tmp_path / "out", "--model", model, "--set", f"site={site}", "--quiet") == 0
    table = pd.read_csv(cohort / "participants.tsv", sep="\t")
    desc = next((tmp_path / "out").rglob("*_landmarks.tsv")).name.split("_")[1]
    for who in table.loc[table["site"] == site, "participant_id"]:
        assert (
            landmarks_path(tmp_path / "out", who, f"_{desc}").read_bytes() == landmarks_path(cohort, who).read_bytes()
        )


def test_it_is_checked_scored_and_audited_and_python_reads_it(
    trained: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, model, _ = trained
    assert run("check", cohort, *KIND) == 0
    said = capsys.readouterr().err
    assert f"{PEOPLE} people with {3 * POINTS} coordinates of points" in said
    assert "turned by up to" in said
    assert "mirrored" not in said
    assert run("score", cohort, tmp_path / "s", "--model", model, "--quiet") == 0
    assert len(pd.read_csv(tmp_path / "s" / "scores.tsv", sep="\t")) == PEOPLE
    assert run("audit", cohort, tmp_path / "a", "--model", model, "--by", "sex", "--min-n", 5, "--quiet") == 0
    dataset = mr.read_cohort(cohort, overrides=["input.kind=points"])
    assert dataset.columns.names[:3] == ("mark0_x", "mark0_y", "mark0_z")
    assert len(mr.train(dataset).model.columns.names) == 3 * POINTS


def test_people_who_cannot_be_used_are_all_listed(
    trained: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained[0], cohort := tmp_path / "cohort")
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")["participant_id"].tolist()
    points = shapes(cohort, people[:4])
    write_landmarks(landmarks_path(cohort, people[0]), points[0][:-1])
    write_landmarks(landmarks_path(cohort, people[1]), points[1], names=False)
    points[2][4] = np.nan
    path = landmarks_path(cohort, people[2])
    write_landmarks(path, points[2])
    path.write_text(path.read_text().replace("nan", "n/a"))
    assert run("train", cohort, tmp_path / "m", *KIND, "--quiet") == 1
    said = capsys.readouterr().err
    assert "points that cannot be used (3)" in said
    assert all(who in said for who in people[:3])
    assert not (tmp_path / "m").exists()
    for who, own in zip(people[:3], points[:3], strict=True):
        write_landmarks(landmarks_path(cohort, who), np.nan_to_num(own))
    write_landmarks(landmarks_path(cohort, people[3]), points[3] * [-1, 1, 1])
    assert run("check", cohort, *KIND) == 0
    said = capsys.readouterr().err
    assert "look mirrored" in said
    assert people[3] in said


def test_missing_points_stay_missing_and_others_are_cleaned(
    trained: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    shutil.copytree(trained[0], cohort := tmp_path / "cohort")
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")["participant_id"].tolist()
    path = landmarks_path(cohort, people[5])
    lines = path.read_text().splitlines()
    lines[3] = "mark2\tn/a\tn/a\tn/a\tseen"
    path.write_text("\n".join(lines) + "\n")
    keep = ("--set", "input={kind: points, missing: keep}")
    assert run("train", cohort, tmp_path / "m", *keep, "--quiet") == 0
    assert (
        run("export", cohort, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site", "--quiet") == 0
    )
    after = landmarks_path(tmp_path / "o", people[5], "_desc-residualized").read_text().splitlines()
    assert after[3] == lines[3]
    assert after[1] != lines[1]


def test_meshes_of_both_hemispheres_are_one_person(trained: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    cohort = trained[0]
    table = pd.read_csv(cohort / "participants.tsv", sep="\t")
    root = tmp_path / "meshes"
    for who, own in zip(table["participant_id"], shapes(cohort, table["participant_id"].tolist()), strict=True):
        for side, part in zip("LR", np.split(own, 2), strict=True):
            write_gifti_mesh(root / who / "anat" / f"{who}_hemi-{side}_pial.surf.gii", part)
    shutil.copy(cohort / "participants.tsv", root)
    kind = ("--set", "input={kind: points, suffix: pial}")
    assert run("train", root, tmp_path / "m", *kind, "--quiet") == 0
    assert run("export", root, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site", "--quiet") == 0
    one = table["participant_id"].iloc[0]
    written = sorted(path.name for path in (tmp_path / "o" / one / "anat").iterdir())
    stem = f"{one}_hemi-{{}}_desc-residualized_pial.{{}}"
    assert written == sorted(stem.format(side, end) for side in "LR" for end in ("json", "surf.gii"))
    assert (
        run("export", tmp_path / "o", tmp_path / "again", "--model", tmp_path / "m" / "model", "--remove", "site") == 1
    )


def test_people_who_come_again_are_forecast_where_they_lay(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    root, people = tmp_path / "cohort", 30
    shape = rng.normal(size=(POINTS, 3)) * 20
    growth = 0.01 * (shape - shape.mean(axis=0))  # a year
    rows = []
    for number in range(people):
        own = shape + rng.normal(size=shape.shape) * 2
        start, pace = rng.uniform(20, 40), 1 + rng.normal() * 0.5
        for visit in range(3):
            who, session, age = f"sub-{number:02d}", f"ses-{visit + 1}", start + 2 * visit
            points = own + (pace * 2 * visit + start - 30) * growth + rng.normal(size=shape.shape) * 0.1
            write_landmarks(root / who / session / "anat" / f"{who}_{session}_landmarks.tsv", turned(points, rng))
            rows.append((who, session, age))
    write_tsv(root / "participants.tsv", pd.DataFrame(rows, columns=["participant_id", "session_id", "age"]))
    simple = ("--set", "covariates={age: {kind: continuous}}", "--set", "settings.spline_degrees=1")
    assert run("train", root, tmp_path / "m", "--quiet", *KIND, *simple) == 0
    words = ("--model", tmp_path / "m" / "model", "--years", "4", "--extrapolate", "--quiet")
    assert run("forecast", root, tmp_path / "f", *words) == 0
    folder = tmp_path / "f" / "sub-00" / "ses-3" / "anat"
    last = read_points(root / "sub-00" / "ses-3" / "anat" / "sub-00_ses-3_landmarks.tsv").points
    there = read_points(folder / "sub-00_ses-3_desc-forecast4_landmarks.tsv").points
    sizes = [np.sqrt(((one - one.mean(axis=0)) ** 2).sum()) for one in (last, there)]
    assert 1.01 < sizes[1] / sizes[0] < 1.1
    assert np.abs(there.mean(axis=0) - last.mean(axis=0)).max() < 0.5
    spread = pd.read_csv(folder / "sub-00_ses-3_desc-forecast4sd_landmarks.tsv", sep="\t")
    assert (spread[["x", "y", "z"]].to_numpy() > 0).all()
    assert (folder / "sub-00_ses-3_desc-forecast4sd_landmarks.json").is_file()
