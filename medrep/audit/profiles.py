"""A table as profiles of people: columns in deviations, and what covariates tell taken out."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import Continuous, CovariateSchema

MOST_COLUMNS = 20_000
"""Of a wider table (volumes) this many columns are drawn: neighbouring voxels say the same."""


def drawn_columns(table: Float[np.ndarray, "people columns"], seed: int) -> Float[np.ndarray, "people _"]:
    """Return the table, or `MOST_COLUMNS` of its columns; tables of one width get the same ones. Float64."""
    if table.shape[1] <= MOST_COLUMNS:
        return np.asarray(table, dtype=float)
    chosen = np.sort(np.random.default_rng(seed).choice(table.shape[1], MOST_COLUMNS, replace=False))
    return np.asarray(table[:, chosen], dtype=float)


def standardised(table: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people varying"]:
    """Return columns in deviations from their mean, without constant ones; a cell that is not finite counts as the mean."""
    known = np.isfinite(table)
    counts = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, table, 0.0)
    size = np.abs(centred).max(axis=0, initial=0.0)
    centred -= centred.sum(axis=0) / counts
    centred[~known] = 0.0
    sd = np.sqrt((centred**2).sum(axis=0) / counts)
    varies = sd > 1e-9 * np.maximum(size, 1e-300)
    return centred[:, varies] / sd[varies]


def compact(table: Float[np.ndarray, "people columns"], seed: int) -> Float[np.ndarray, "people _"]:
    """Return coordinates with the inner products of the standardised rows, whose mean squared length is 1.

    At most as many coordinates as people. Methods that know rows by inner products alone (ridge, a penalised logistic
    regression, any RBF kernel) lose nothing by it.
    """
    rows = standardised(drawn_columns(table, seed))
    rows = rows / max(rows.shape[1], 1) ** 0.5
    if rows.shape[1] <= len(rows):
        return rows
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def covariate_design(frame: pd.DataFrame, schema: CovariateSchema) -> Float[np.ndarray, "people width"]:
    """Return the columns of a regression on covariates: 1, each number and its square (in deviations), each level."""
    columns = [np.ones(len(frame))]
    for covariate in schema.fitted:
        values = frame[covariate.declared.name]
        if isinstance(covariate, Continuous):
            scaled = (values.to_numpy(float) - covariate.mean) / covariate.sd
            columns += [scaled, scaled**2]
        else:
            labels = values.astype(str).to_numpy(object)
            columns += [(labels == level).astype(float) for level in np.unique(labels)]
    return np.stack(columns, axis=1)


def residual(
    table: Float[np.ndarray, "people columns"], design: Float[np.ndarray, "people width"]
) -> Float[np.ndarray, "people columns"]:
    """Return what a regression on the design leaves; aliased columns of the design do no harm."""
    basis, sizes, _ = np.linalg.svd(design, full_matrices=False)
    basis = basis[:, sizes > 1e-9 * sizes.max(initial=0.0)]
    return table - basis @ (basis.T @ table)
