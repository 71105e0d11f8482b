"""Task factories: how workers load a model and open their task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.base import Sample, sample_files
from medrep.cohort.splits import TrainingRows, known_rows
from medrep.derivatives.bids import Destination
from medrep.derivatives.scores import Scorer, ShiftDetector, score_task
from medrep.derivatives.tasks import PRELOADED, TABLES, Result, Task, TaskFactory, Transform, transform_task
from medrep.models.prediction import How
from medrep.models.saved import SavedModel, load_input
from medrep.models.shift import LOGGED, ShiftGate


@dataclass(frozen=True)
class PreflightFactory(TaskFactory):
    """Opens the step that reads images and keeps nothing.

    Attributes:
        model: A model folder, for its ``input`` section.
    """

    model: Path

    def open(self) -> Task:
        """See `TaskFactory.open`."""
        return _Read(load_input(self.model))


class _Read(Task):
    def __init__(self, kind: InputKind[Any]) -> None:
        self._kind, self.block_size = kind, 1

    def work(self, people: Sequence[Sample]) -> list[Result]:
        return [Result(key, error, "read") for key, error in self._kind.errors(sample_files(people))]


ANYBODY = "all"
"""The scanner of everybody where no covariate has the role of a batch."""


@dataclass(frozen=True, eq=False)
class ConformalShiftDetector(ShiftDetector):
    """Says accept, warn or reject of each person.

    Attributes:
        gate: As calibrated with people whom the model never saw.
        scanner: The covariate that names the scanner; empty where none does.
        rate: Of false alarms.
        trained: The rows that the model was trained on; None where nobody says.
    """

    gate: ShiftGate
    scanner: str
    rate: float
    trained: TrainingRows | None = None

    def figures(
        self, statistics: pd.DataFrame, people: Sequence[Sample], rows: Float[np.ndarray, "people columns"]
    ) -> list[dict[str, float | str]]:
        """Return status, p-value and what stands out most where it is no accept; see `ShiftDetector.figures`."""
        statistics = statistics.set_axis(range(len(statistics)))  # one person can stand for several
        known = np.array([self.trained is not None and self.trained.holds(row) for row in rows])
        errors = [name for name in LOGGED if name in statistics]
        statistics.loc[known, errors] = 0.0  # fitted to them, so not to be compared with those of others
        if len(errors) == statistics.shape[1] and known.any():
            judged = self._judged(statistics[~known], [one for one, own in zip(people, known, strict=True) if not own])
            rest = iter(judged)
            unjudged: dict[str, float | str] = {"status": "scored", "shift_p": "n/a", "shift_reason": "in training"}
            said = [dict(unjudged) if own else next(rest) for own in known]
        else:
            said = self._judged(statistics, people)
        told = ["n/a" if self.trained is None else "yes" if own else "no" for own in known]
        return [figures | {"in_training": own} for figures, own in zip(said, told, strict=True)]

    def _judged(self, statistics: pd.DataFrame, people: Sequence[Sample]) -> list[dict[str, float | str]]:
        if not len(statistics):
            return []
        statistics = statistics.set_axis(range(len(statistics)))
        scanners = pd.Series([str(one.covariates.get(self.scanner, ANYBODY)) for one in people])
        p = self.gate.p_value(statistics, scanners, self.rate)
        statuses = [self.gate.status(float(value), self.rate) for value in p]
        odd = [row for row, status in enumerate(statuses) if status != "accept"]
        reasons = dict(zip(odd, self.gate.reason(statistics.loc[odd], scanners.loc[odd]), strict=True)) if odd else {}
        return [
            {"status": statuses[row], "shift_p": float(p[row]), "shift_reason": reasons.get(row, "n/a")}
            for row in range(len(people))
        ]


def scanner_of(schema: CovariateSchema) -> str:
    """Return the covariate that names the scanner: the first batch; empty where there is none."""
    return next(iter(schema.batches), "")


def saved_shift_detector(saved: SavedModel, rate: float, marks: frozenset[str] | None) -> ConformalShiftDetector | None:
    """Return the judge of a saved model, or None where its training held nobody out.

    Args:
        saved: The model.
        rate: Of false alarms.
        marks: Fingerprints of the rows that the model was trained on, from people.tsv; None without one.
    """
    if saved.shift is None:
        return None
    known = known_rows(saved.provenance.rows, marks)
    return ConformalShiftDetector(saved.shift, scanner_of(saved.model.schema), rate, known)


@dataclass(frozen=True)
class ScoreFactory(TaskFactory):
    """Opens the step that scores people.

    Attributes:
        model: A model folder.
        rate: Of false alarms of the shift gate.
        unshrink: How the regression of predictions to the mean is undone.
        trained: Fingerprints of the rows that the model was trained on, from people.tsv; None without one.
        names: Columns of the cohort's table, in its order; none for files.
        visits: How many one person has at most.
    """

    model: Path
    rate: float
    unshrink: How
    trained: frozenset[str] | None = None
    names: tuple[str, ...] = ()
    visits: int = 1

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of tables or of images; see `TaskFactory`."""
        return _preload(self.names, self.model)

    def open(self) -> Task:
        """Load the model; see `TaskFactory.open`."""
        return self.step(_loaded(self.model))

    def step(self, saved: SavedModel) -> Task:
        """Return the step of a model that is at hand: itself, its shift gate and its readouts, as far as it has them."""
        judge = saved_shift_detector(saved, self.rate, self.trained)
        scorer = Scorer(saved.model, judge=judge, readouts=saved.readouts, unshrink=self.unshrink, visits=self.visits)
        return score_task(scorer, saved.input, self.names)


@dataclass(frozen=True)
class TransformFactory(TaskFactory):
    """Opens the step that moves people.

    Attributes:
        model: A model folder.
        to: Where to write.
        target: Removed covariate -> reference.
        label_free: Whether nobody's covariates are looked at.
        visits: How many one person has at most.
        years: How far people are moved along their own trajectories; None where ``target`` has values for everybody.
    """

    model: Path
    to: Destination
    target: Mapping[str, str | float]
    label_free: bool = False
    visits: int = 1
    years: float | None = None

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of tables or of images; see `TaskFactory`."""
        return _preload(self.to.names, self.model)

    def open(self) -> Task:
        """Load the model; see `TaskFactory.open`."""
        return self.step(_loaded(self.model))

    def step(self, saved: SavedModel) -> Task:
        """Return the step of a model that is at hand."""
        transform = Transform(saved.model, self.target, self.label_free, saved.unit, self.visits, self.years)
        return transform_task(transform, saved.input, self.to)


def _preload(names: tuple[str, ...], model: Path) -> tuple[str, ...]:
    # Tables and surfaces need little, and what images need takes seconds to load.
    return TABLES if names or not load_input(model).on_grid else PRELOADED


def _loaded(folder: Path) -> SavedModel:
    saved = SavedModel.load(folder)
    return replace(saved, model=saved.model.accelerated())
