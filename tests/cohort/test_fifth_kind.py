"""A kind of input that medrep does not have, defined here alone and registered by one line, goes through every command."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import yaml

from medrep.cli import main
from medrep.cohort.features import FeatureTable
from medrep.cohort.inputs import ImageInput
from medrep.cohort.kinds import INPUTS, KINDS, saved_input
from medrep.cohort.kinds.base import Found, InputKind
from medrep.cohort.kinds.features import TableKind
from medrep.cohort.participants import KEY_COLUMNS
from medrep.cohort.samples import Sample, Source, no_table
from medrep.derivatives.bids import Destination, parsed, write_tsv
from medrep.derivatives.tasks import Result, Task
from medrep.derivatives.transform import Transform, TransformRows
from medrep.errors import CohortError, listed
from medrep.simulate import simulate_features, simulate_participants
from medrep.workflows.cohorts import Selection, load_trained, read_unseen

PEOPLE, POINTS = 48, 3


@dataclass(frozen=True)
class ProfileInput(ImageInput):
    """Section of the toy kind: a vector of ``points`` numbers a person, in ``sub-X/anat/sub-X_profile.npy``."""

    suffix: str = "profile"
    points: int = POINTS


@dataclass(frozen=True)
class ProfileKind(TableKind[ProfileInput]):
    """The toy kind."""

    section: ProfileInput = field(default_factory=ProfileInput)

    kind: ClassVar[str] = "profile"
    section_type: ClassVar[type[ProfileInput]] = ProfileInput
    transform: ClassVar[str] = f"{__name__}:MoveProfiles"

    def table(self, root: Path, people: Sequence[str]) -> tuple[FeatureTable, None]:
        del root, people
        return no_table(pd.Index([])), None

    def find(self, root: Path, table: pd.DataFrame, rows: FeatureTable, *, tolerant: bool) -> Found:
        del rows, tolerant
        names = [f"{who}/anat/{who}_{self.suffix}.npy" for who in table["participant_id"]]
        return self.take(root, pd.Series([root / name for name in names], index=table.index, dtype=object), table)

    def take(self, root: Path, files: pd.Series, table: pd.DataFrame) -> Found:
        rows = {key: np.load(path) for key, path in files.items() if path.is_file()}
        wrong = [
            f"{key}: no profile of {self.section.points} points" for key in files.index if self._strange(rows.get(key))
        ]
        if wrong:
            raise CohortError(listed(f"{root}: people without a profile", wrong))
        ids = table[[column for column in KEY_COLUMNS if column in table]]
        columns = tuple(f"p{number}" for number in range(self.section.points))
        return Found(Source.of_table(FeatureTable(ids, np.stack([*rows.values()]), columns, None)))

    def _strange(self, row: "np.ndarray | None") -> bool:
        return row is None or row.shape != (self.section.points,)


class MoveProfiles(Task):
    """Writes a vector a person, besides the table."""

    def __init__(self, transform: Transform, kind: InputKind[Any], to: Destination) -> None:
        self._rows, self._to, self._suffix = TransformRows(transform, to.names), to, kind.suffix
        self.block_size = self._rows.block_size

    def work(self, people: Sequence[Sample]) -> list[Result]:
        outcomes = self._rows.work(people)
        for one in outcomes:
            path = self._to.folder / one.key / "anat" / f"{one.key}_desc-{self._to.done.desc}_{self._suffix}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, parsed(one.lines["features"]))
        return outcomes


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cohort of profiles, and the kind registered."""
    monkeypatch.setitem(KINDS, "profile", f"{__name__}:ProfileKind")  # the one line
    root = tmp_path / "cohort"
    participants = simulate_participants(PEOPLE, n_sites=2, seed=3)
    for who, row in simulate_features(participants, n_features=POINTS, seed=3).features.iterrows():
        folder = root / str(who) / "anat"
        folder.mkdir(parents=True)
        np.save(folder / f"{who}_profile.npy", row.to_numpy(float))
    write_tsv(root / "participants.tsv", participants)
    return root


def run(*arguments: object) -> int:
    return main([*(str(argument) for argument in arguments), "--quiet"])


def test_a_fifth_kind_is_checked_trained_exported_scored_and_audited(profiles: Path, tmp_path: Path) -> None:
    chosen = ("--set", "input.kind=profile")
    assert run("check", profiles, *chosen) == 0
    trained, clean, scored, audited = (tmp_path / name for name in ("trained", "clean", "scored", "audited"))
    assert run("train", profiles, trained, "--hold-out", 0.5, *chosen) == 0
    chosen = ("--model", trained / "model")
    assert run("export", profiles, clean, *chosen, "--remove", "site") == 0
    assert run("score", profiles, scored, *chosen) == 0
    assert run("audit", profiles, audited, *chosen, "--by", "sex", "--min-n", 10) == 0

    assert yaml.safe_load((trained / "config.yaml").read_text())["input"]["points"] == POINTS
    saved = load_trained(trained / "model")
    cohort, frame = read_unseen(profiles, saved, Selection())
    model = saved.model
    expected = model.remove(model.dataset(cohort.source.features.values, frame), model.schema.references(["site"]))
    table = pd.read_csv(clean / "features.tsv", sep="\t", index_col="participant_id")
    np.testing.assert_allclose(table, expected, rtol=1e-9)
    assert not np.allclose(table, cohort.source.features.values)
    for who, row in table.iterrows():
        vector = np.load(clean / str(who) / "anat" / f"{who}_desc-residualized_profile.npy")
        np.testing.assert_array_equal(vector, row)
    assert len(pd.read_csv(scored / "scores.tsv", sep="\t")) == PEOPLE
    assert (audited / "audit.tsv").is_file()


def test_what_is_wrong_with_a_fifth_kind_is_said_as_with_any(
    profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (profiles / "sub-0003" / "anat" / "sub-0003_profile.npy").unlink()
    np.save(profiles / "sub-0007" / "anat" / "sub-0007_profile.npy", np.zeros(4))
    assert run("train", profiles, tmp_path / "m", "--set", "input.kind=profile") == 1
    said = capsys.readouterr().err
    assert "people without a profile (2)" in said
    assert all(f"sub-{who}: no profile of {POINTS} points" in said for who in ("0003", "0007"))
    assert run("train", profiles, tmp_path / "m", "--set", "input.kind=profile", "--set", "input.point=4") == 1
    assert "input.point: unknown; did you mean points?" in capsys.readouterr().err


def test_a_kind_that_is_not_registered_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "profile" not in INPUTS
    assert run("check", tmp_path, "--set", "input.kind=profile") == 1
    assert "allowed: features, volume, shape, connectivity" in capsys.readouterr().err


def test_its_section_is_read_back_and_leaves_the_others_alone(profiles: Path) -> None:
    kind = ProfileKind(ProfileInput(points=7))
    assert saved_input(kind.to_json(), "model.json") == kind
    assert "points" not in INPUTS["volume"]().to_json()
