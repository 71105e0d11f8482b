"""The shift gate of a trained model, as scoring asks it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from medrep.audit.shift import ShiftGate
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.visits import Visit
from medrep.export.scoring import Judge
from medrep.training.checkpoint import Checkpoint

ANYBODY = "all"
"""The scanner of everybody where no covariate has the role of a batch."""


@dataclass(frozen=True, eq=False)
class ShiftJudge(Judge):
    """Says accept, warn or reject of each person.

    Attributes:
        gate: As calibrated with people whom the model never saw.
        scanner: The covariate that names the scanner; empty where none does.
        rate: Of false alarms.
    """

    gate: ShiftGate
    scanner: str
    rate: float

    def figures(self, statistics: pd.DataFrame, people: Sequence[Visit]) -> list[dict[str, float | str]]:
        """Return status, p-value and what stands out most where it is no accept; see `Judge.figures`."""
        statistics = statistics.set_axis(range(len(statistics)))  # one person can stand for several
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


def saved_judge(checkpoint: Checkpoint, schema: CovariateSchema, rate: float) -> ShiftJudge | None:
    """Return the judge of a model folder, or None where its training held nobody out."""
    if not checkpoint.shift:
        return None
    return ShiftJudge(ShiftGate.from_json(checkpoint.shift), scanner_of(schema), rate)
