"""What a linear fit found, as a tidy table: shares of variance, scales of batches, columns left as they are."""

import numpy as np
import pandas as pd

from medrep.models.batch_effects import BatchEffects
from medrep.models.design import Design
from medrep.models.linear_fit import Moments


def linear_history(design: Design, moments: Moments, batches: BatchEffects, frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise a fit.

    Args:
        design: The design matrix.
        moments: One pass over the training data.
        batches: The shrunk batch effects.
        frame: The training people's covariates.

    Returns:
        Columns metric, name, value. ``variance_share``: how much of the columns' variance a covariate explains, mean over
        columns that vary; ``mean_scale``: a batch level's scale; ``columns``: how many are left as they are,
        and why, and how many are left so in part.
    """
    varies = moments.total > 0
    effects, memberships = design.effects(frame), design.batches(frame)

    def share(columns: np.ndarray, coefficients: np.ndarray) -> float:
        covariance = np.atleast_2d(np.cov(columns.T, bias=True))
        explained = (coefficients * (covariance @ coefficients)).sum(axis=0)[varies]
        return float((explained / moments.total[varies]).mean()) if varies.any() else 0.0

    rows: list[tuple[str, str, float]] = []
    start = 1
    for term in design.terms:
        part = slice(start, start + len(term.centre))
        rows.append(
            ("variance_share", " x ".join(term.covariates), share(effects[:, part], moments.coefficients[part]))
        )
        start = part.stop
    for name, part in design.batch_slices().items():
        rows.append(("variance_share", name, share(memberships[:, part], batches.location[part])))
        for level, log_scale in zip(design.schema.levels(name), batches.log_scale[part], strict=True):
            rows.append(("mean_scale", f"{name}={level}", float(np.exp(log_scale).mean())))
    left = len(moments.unfitted) + len(moments.atoms)
    rows.append(("columns", "constant", float(np.count_nonzero(moments.sd == 0) - left)))
    rows.append(("columns", "mostly one value", float(len(moments.atoms))))
    rows.append(("columns", "too few values", float(len(moments.unfitted))))
    rows.append(("columns", "point masses", float(len(moments.masses.columns()))))
    rows.append(("columns", "not measured in some level", float(len(moments.support.columns))))
    return pd.DataFrame(rows, columns=["metric", "name", "value"])
