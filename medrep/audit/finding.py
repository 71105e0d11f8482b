"""A finding: one measured figure of an audit, with its interval, its p-value and whether there were people enough to say.

Findings are what the audit's modules hand on, what audit.tsv holds a row of each, and what gates look at.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
import pandas as pd

Status = Literal["ok", "insufficient"]


@dataclass(frozen=True)
class Finding:
    """One figure.

    Attributes:
        metric: What was measured, one word of lower case (``leakage_excess``).
        group: Of what or of whom, for instance ``exported/site`` or ``sex=F``; several conditions are joined by `` & ``.
        n: People it was measured on.
        estimate: The figure; NaN where there are too few people.
        ci_low: Lower end of the 95% interval; NaN where none can be given.
        ci_high: Upper end.
        p: Of the test that belongs to the figure; NaN without one.
        status: ``insufficient``: too few people (or too few of an outcome) to say anything; never a pass.
        note: What a reader has to know of this row: unit, probe, margin, which class had too few.
    """

    metric: str
    group: str
    n: int
    estimate: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    p: float = float("nan")
    status: Status = "ok"
    note: str = ""


COLUMNS = ("metric", "group", "n", "estimate", "ci_low", "ci_high", "p", "q", "status", "note")


def findings_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Return findings as a tidy table, in order, with q: p corrected for all tests of the same metric (Benjamini-Hochberg)."""
    found = list(findings)
    table = pd.DataFrame([asdict(finding) for finding in found], columns=[field.name for field in fields(Finding)])
    table["q"] = np.nan
    for _, rows in table.groupby("metric", sort=False):
        tested = rows.index[rows["p"].notna()]
        if len(tested):
            from scipy.stats import false_discovery_control  # half a second, which readers of findings do not need

            table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"].to_numpy(float), method="bh")
    return table[list(COLUMNS)]
