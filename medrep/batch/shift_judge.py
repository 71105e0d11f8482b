"""The shift gate of a trained model, as scoring asks it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.training_rows import TrainingRows, known_rows
from medrep.cohort.visits import Visit
from medrep.export.scoring import Judge
from medrep.models.saved import SavedModel
from medrep.models.shift import LOGGED, ShiftGate

ANYBODY = "all"
"""The scanner of everybody where no covariate has the role of a batch."""


@dataclass(frozen=True, eq=False)
class ShiftJudge(Judge):
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
        self, statistics: pd.DataFrame, people: Sequence[Visit], rows: Float[np.ndarray, "people columns"]
    ) -> list[dict[str, float | str]]:
        """Return status, p-value and what stands out most where it is no accept; see `Judge.figures`."""
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

    def _judged(self, statistics: pd.DataFrame, people: Sequence[Visit]) -> list[dict[str, float | str]]:
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


def saved_judge(saved: SavedModel, rate: float, marks: frozenset[str] | None) -> ShiftJudge | None:
    """Return the judge of a saved model, or None where its training held nobody out.

    Args:
        saved: The model.
        rate: Of false alarms.
        marks: Fingerprints of the rows that the model was trained on, from people.tsv; None without one.
    """
    if saved.shift is None:
        return None
    known = known_rows(saved.provenance.rows, marks)
    return ShiftJudge(saved.shift, scanner_of(saved.model.schema), rate, known)
