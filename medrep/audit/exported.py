"""What probes read from an export, one row a table and covariate."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medrep.audit.probing.probes import FOLDS, Probed, age_r2, sex_auc, site_auc
from medrep.cohort.covariates import Continuous, CovariateSchema

_FEWEST = 30


def probe_export(
    schema: CovariateSchema,
    frame: pd.DataFrame,
    tables: Mapping[str, np.ndarray],
    removed: Sequence[str],
    seed: int = 0,
    *,
    participants: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure every covariate in every table.

    Args:
        schema: The covariates.
        frame: The people's covariates, as they are.
        tables: Name -> people x columns; columns with missing cells are left out.
        removed: Which covariates were removed.
        seed: Of folds and boosting.
        participants: Whose each row is, the first of which is probed; by default each is a person.

    Returns:
        Columns table, covariate, role, measure, n, estimate (NaN: too few people or one value), floor (0.5 for an AUC, 0
        for R2).
    """
    first = np.ones(len(frame), dtype=bool)
    if participants is not None:
        first = ~pd.Series(list(participants)).duplicated().to_numpy()
    frame, rows = frame[first], []
    for name, whole_table in tables.items():
        data = whole_table[first]
        whole = data[:, np.isfinite(data).all(axis=0)]
        for covariate in schema.fitted:
            own = covariate.declared.name
            continuous = isinstance(covariate, Continuous)
            found = _probe(whole, frame[own], seed, continuous=continuous)
            n, estimate = (len(frame), np.nan) if found is None else (found.n, found.strongest)
            role = "removed" if own in removed else "kept"
            rows.append((name, own, role, "R2" if continuous else "AUC", n, estimate, 0.0 if continuous else 0.5))
    return pd.DataFrame(rows, columns=["table", "covariate", "role", "measure", "n", "estimate", "floor"])


def _probe(data: np.ndarray, values: pd.Series, seed: int, *, continuous: bool) -> Probed | None:
    if len(values) < _FEWEST or values.nunique() < 2:
        return None
    if continuous:
        return age_r2(data, values.to_numpy(float), seed)
    counts = values.value_counts()
    if (counts >= FOLDS).sum() < 2:
        return None
    labels = values.astype(str).to_numpy()
    return sex_auc(data, labels, seed) if len(counts) == 2 else site_auc(data, labels, seed, min_people=FOLDS)
