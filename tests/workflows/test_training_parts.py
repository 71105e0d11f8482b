"""A training whose images many processes read gives the model of one that reads all: bit for bit, for any number of parts."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import ERROR, OK, USAGE, main
from medrep.cohort.nifti import Volume, write_image
from tests.surface_cohorts import write_person

PEOPLE, SHAPE = 30, (7, 8, 6)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
FITTED = ("--set", "settings.spline_degrees=1", "--set", "settings.components=1", "--set", "predict=[age]")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def table_of_people() -> pd.DataFrame:
    table = pd.DataFrame({"participant_id": [f"sub-{k:02d}" for k in range(PEOPLE)]})
    table["age"] = np.random.default_rng(0).uniform(20, 80, PEOPLE).round(1)
    table["sex"], table["site"] = ["F", "M"] * (PEOPLE // 2), [f"S{k // 2 % 2}" for k in range(PEOPLE)]
    return table


def head(k: int, row: pd.Series) -> np.ndarray:
    """Return a head with a background, a point mass, and some missing voxels; S1 is noisier in a part of it."""
    rng = np.random.default_rng(k)
    noise = rng.normal(0, 2, SHAPE)
    noise[:3] *= 4 if row.site == "S1" else 1
    data = 100 + (row.age - 50) / 10 + noise
    data[:, 3, 2] = 0 if k % 3 else 7
    data[4, 4, k % 4] = np.nan
    data[0], data[:, 0] = 0, 0
    return data.astype(np.float32)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same people with a table, with heads, and with surfaces; the cohorts are not changed."""
    root, table, rng = tmp_path_factory.mktemp("parts"), table_of_people(), np.random.default_rng(1)
    made = {kind: root / kind for kind in ("features", "volume", "surface")}
    for k, row in enumerate(table.itertuples()):
        who = row.participant_id
        write_image(made["volume"] / who / "anat" / f"{who}_T1w.nii.gz", Volume(head(k, row), AFFINE))
        write_person(made["surface"], who, rng.normal(size=40).astype(np.float32))
    for folder in made.values():
        folder.mkdir(exist_ok=True)
        table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    features = pd.DataFrame(rng.normal(size=(PEOPLE, 5)).round(4), columns=list("abcde"))
    features.insert(0, "participant_id", table["participant_id"])
    features.to_csv(made["features"] / "features.tsv", sep="\t", index=False)
    return made


def files(out: Path) -> dict[str, bytes]:
    found = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("report")}


def asked(kind: str, *more: str) -> tuple[str, ...]:
    return (
        "--set",
        f"input={{kind: {kind}{''.join(f', {one}' for one in more)}}}",
        *FITTED,
        "--show",
        "nobody",
        "--tracking",
        "none",
        "--quiet",
    )


def in_parts(cohort: Path, out: Path, count: int, *how: str) -> int:
    for part in reversed(range(count)):
        assert run("train", cohort, out, *how, "--num-parts", count, "--part-id", part) == OK
    return run("merge", out, "--tracking", "none", "--quiet")


CASES = {
    "table": ("features", ()),
    "heads": ("volume", ("missing: keep",)),
    "heads in a mask": ("volume", ("missing: keep", "mask: auto")),
    "heads with landmarks": ("volume", ("missing: keep", "intensity: zscore", "harmonize_unit: true")),
    "surfaces": ("surface", ()),
}


@pytest.mark.parametrize("case", CASES)
def test_parts_give_the_model_of_the_whole_bit_for_bit(cohorts: dict[str, Path], tmp_path: Path, case: str) -> None:
    kind, section = CASES[case]
    how = (*asked(kind, *section), "--hold-out", "0.3")
    assert run("train", cohorts[kind], tmp_path / "whole", *how) == OK
    whole = files(tmp_path / "whole")
    assert {"model/model.json", "model/model.safetensors", "people.tsv"} <= set(whole)
    for count in (3, 8):
        out = tmp_path / str(count)
        assert in_parts(cohorts[kind], out, count, *how) == OK
        assert files(out) == whole
        assert (out / "report.html").is_file()
        assert [path.name for path in (out / ".medrep").iterdir()] == ["output.json"]


def test_a_network_is_trained_of_parts_as_of_the_whole(cohorts: dict[str, Path], tmp_path: Path) -> None:
    settings = ("latents=2", "training.epochs=2", "hidden=[8]")
    chosen = [part for one in settings for part in ("--set", f"settings.{one}")]
    how = ("--config", "vae_features.yaml", *chosen, "--show", "nobody", "--tracking", "none", "--quiet")
    assert run("train", cohorts["features"], tmp_path / "whole", *how) == OK
    assert in_parts(cohorts["features"], tmp_path / "parts", 2, *how) == OK
    assert files(tmp_path / "parts" / "model") == files(tmp_path / "whole" / "model")


def test_a_part_that_is_there_is_not_read_again_and_more_parts_than_people_do_no_harm(
    cohorts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = [one for one in asked("volume", "missing: keep") if one != "--quiet"]
    part = ("--num-parts", PEOPLE + 2, "--part-id")
    for number in (0, 0, PEOPLE + 1):
        assert run("train", cohorts["volume"], tmp_path / "out", *how, *part, number) == OK
    said = capsys.readouterr().err
    assert said.count("they are read already") == 1
    assert f"0 of {PEOPLE} images" in said
    assert run("merge", tmp_path / "out", "--tracking", "none") == USAGE
    said = capsys.readouterr().err
    assert f"parts that are to be read ({PEOPLE}):" in said
    assert "part 1 of 32 is not read" in said
    assert "--part-id 1,2,3" in said


def test_a_broken_image_is_told_by_its_part_alone(
    cohorts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads, out = tmp_path / "heads", tmp_path / "out"
    shutil.copytree(cohorts["volume"], heads)
    for who in ("sub-04", "sub-07"):
        image = heads / who / "anat" / f"{who}_T1w.nii.gz"
        image.write_bytes(image.read_bytes()[:-200])
    how = asked("volume", "missing: keep")
    codes = [run("train", heads, out, *how, "--num-parts", 3, "--part-id", part) for part in range(3)]
    said = capsys.readouterr().err
    assert codes == [OK, ERROR, OK]
    assert "images that cannot be used (2)" in said
    assert "sub-04: " in said
    assert "sub-07: " in said
    assert "Traceback" not in said
    assert run("merge", out, "--quiet") == USAGE
    assert "part 1 of 3 is not read; call train again with --num-parts 3 --part-id 1 " in capsys.readouterr().err


def test_parts_that_do_not_belong_together_are_named(
    cohorts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads, how = cohorts["volume"], asked("volume", "missing: keep")
    outs = {name: tmp_path / name for name in ("mine", "other")}
    for name, seed in (("mine", 0), ("other", 3)):
        for part in range(3):
            assert (
                run("train", heads, outs[name], *how, "--set", f"seed={seed}", "--num-parts", 3, "--part-id", part)
                == OK
            )
    state = outs["mine"] / ".medrep"
    shutil.copy(outs["other"] / ".medrep" / "part-00001-of-00003.json", state)
    values = state / "part-00002-of-00003.float32"
    values.write_bytes(values.read_bytes()[:-4])
    (state / "part-00000-of-00003.json").write_text("{")
    assert run("merge", outs["mine"], "--quiet") == USAGE
    said = capsys.readouterr().err
    assert "part 0 of 3 is damaged" in said
    assert "part 1 of 3 is of another training, cohort or configuration" in said
    assert "part 2 of 3 holds 13436 bytes of values, not 13440" in said
    for part in range(3):  # what is not as it should be is read again
        assert run("train", heads, outs["mine"], *how, "--num-parts", 3, "--part-id", part) == OK
    assert run("merge", outs["mine"], "--quiet", "--tracking", "none") == OK
    assert run("merge", outs["mine"], "--quiet") == ERROR
    assert "no batch was begun here" in capsys.readouterr().err


def test_another_configuration_and_a_cohort_that_changes_are_refused(
    cohorts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people, out, how = tmp_path / "people", tmp_path / "out", asked("features")
    shutil.copytree(cohorts["features"], people)
    for part in range(2):
        assert run("train", people, out, *how, "--num-parts", 2, "--part-id", part) == OK
    assert run("train", people, out, *how, "--set", "seed=1", "--num-parts", 2, "--part-id", 0) == ERROR
    said = capsys.readouterr().err
    assert "holds another job: seed: 0 there, 1 now" in said
    assert run("train", people, out, *how, "--num-parts", 3, "--part-id", 0) == ERROR
    assert "parts: 2 there, 3 now" in capsys.readouterr().err
    table = people / "participants.tsv"
    table.write_text(table.read_text().replace("\tF\t", "\tM\t", 1))
    assert run("merge", out, "--quiet") == ERROR
    assert "the cohort has changed since its parts were read" in capsys.readouterr().err


def test_a_task_of_an_array_is_a_part_only_where_it_is_said_of_how_many(
    cohorts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ID": 1, "COUNT": 2, "MIN": 0, "MAX": 1, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert run("train", cohorts["features"], tmp_path / "whole", *asked("features")) == OK
    assert (tmp_path / "whole" / "model").is_dir()
    assert run("train", cohorts["features"], tmp_path / "part", *asked("features"), "--num-parts", 2) == OK
    assert (tmp_path / "part" / ".medrep" / "part-00001-of-00002.json").is_file()
