"""Validation of what scikit-learn hands over: features and covariates by row and column."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.sparse import issparse
from sklearn.utils.validation import check_array

from medrep.cohort.columns import cell_text, read_covariates
from medrep.cohort.covariates import Covariate
from medrep.cohort.parsing import plain_number
from medrep.errors import EstimatorError, listed
from medrep.estimators.parameters import Plan


def _people_keys(index: pd.Index) -> pd.Index:
    """Return a name for each row, by which messages speak of it: its label, or its number where labels are numbers or repeat."""
    keys = pd.Index([label if isinstance(label, str) else f"row {label}" for label in index])
    return keys if keys.is_unique else pd.Index([f"row {row}" for row in range(len(index))])


def sorting_keys(keys: pd.Index) -> pd.Index:
    """Return keys of rows such that numbered rows sort as their numbers do: fits choose people by the order of their keys."""
    return pd.Index([re.sub(r"\Arow (\d+)\Z", lambda found: f"row {int(found[1]):012d}", key) for key in keys])


def dense(X: Any) -> pd.DataFrame | np.ndarray:
    """Return X as a table, or as a matrix of any dtype, whatever it comes as.

    Raises EstimatorError for no matrix of at least one row and column, sparse ones, or complex numbers.
    """
    if issparse(X):
        raise EstimatorError("Sparse data was passed for X; effects are removed from every cell: give X.toarray()")
    if isinstance(X, pd.DataFrame):
        return X
    try:
        return check_array(X, dtype=None, ensure_all_finite=False)
    except ValueError as error:
        raise EstimatorError(str(error)) from None


def _feature_matrix(
    X: pd.DataFrame | np.ndarray,
    places: Sequence[int],
    names: Sequence[str],
    keys: pd.Index,
    *,
    people: int,
    missing: str,
) -> Float[np.ndarray, "people features"]:
    """Return the columns of X that are no covariates, in float32 if X is, else float64.

    `places` are positions of the columns that are covariates, `names` those of all columns; there are at least so many
    people. With ``missing="keep"`` NaN passes. Raises EstimatorError for cells that are no numbers, not finite, or too few
    rows or columns; all are listed.
    """
    least = max([len(places), *places]) + 1 if places else 1
    if X.shape[1] < least:
        raise EstimatorError(
            f"Found array with {X.shape[1]} feature(s) (shape={X.shape}) while a minimum of {least} is required:"
            f" {len(places)} of them are covariates"
        )
    features = [position for position in range(X.shape[1]) if position not in set(places)]
    cells = X if not places else X.iloc[:, features] if isinstance(X, pd.DataFrame) else X[:, features]
    try:
        values = check_array(cells, dtype=[np.float64, np.float32], ensure_all_finite=False, ensure_min_samples=people)
    except (ValueError, TypeError) as error:
        told = _no_numbers(cells, keys)
        if isinstance(error, TypeError) and not told:
            raise  # scikit-learn's callers expect one of a cell that is an object
        raise EstimatorError(told or str(error)) from None
    odd = _odd_numbers(cells, keys)
    if odd:
        raise EstimatorError(odd)
    _refuse_holes(values, keys, [names[position] for position in features], missing)
    return np.array(values, order="C")


def _covariate_frame(
    source: pd.DataFrame, columns: Mapping[str, int], declared: Sequence[Covariate], keys: pd.Index
) -> pd.DataFrame:
    """Read declared covariates at these positions; the keys are the index, and the rows' names in messages."""
    cells = {(c.column or c.name): [cell_text(cell) for cell in source.iloc[:, columns[c.name]]] for c in declared}
    return read_covariates(pd.DataFrame(cells, index=keys, dtype=str), declared).frame


def beside(covariates: Any, declared: Sequence[Covariate], X: Any, people: int) -> dict[str, int]:
    """Return the position of each covariate in a table that lies beside X.

    Raises EstimatorError for no table, other rows than X has, or no such column.
    """
    if not isinstance(covariates, pd.DataFrame):
        raise EstimatorError(
            f"covariates is a {type(covariates).__name__}; give a pandas DataFrame, one row a row of X"
        )
    if len(covariates) != people:
        raise EstimatorError(f"covariates has {len(covariates)} rows, X has {people}; give one row a row of X")
    if isinstance(X, pd.DataFrame) and not covariates.index.equals(X.index):
        pairs = zip(X.index, covariates.index, strict=True)
        unlike = [f"row {row}: X {x!r}, covariates {own!r}" for row, (x, own) in enumerate(pairs) if x != own]
        cure = "bring them into one order, for instance covariates.loc[X.index]"
        raise EstimatorError(listed("rows of X and of covariates that do not belong together", unlike, cure))
    names = [str(column) for column in covariates.columns]
    wanted = {covariate.name: covariate.column or covariate.name for covariate in declared}
    unclear = [
        f"{column!r}: {names.count(column) or 'no'} column{'s' if names.count(column) else ''} of that name"
        for column in wanted.values()
        if names.count(column) != 1
    ]
    if unclear:
        cure = f"covariates has the columns {', '.join(names) or 'none'}"
        raise EstimatorError(listed("covariates without a column of their own", unclear, cure))
    return {name: names.index(column) for name, column in wanted.items()}


def _no_numbers(cells: Any, keys: pd.Index) -> str:
    """Return a message about columns of a table that hold text; empty where that is not what is wrong."""
    if not isinstance(cells, pd.DataFrame):
        return ""
    offenders = []
    for position, name in enumerate(cells.columns):
        column = cells.iloc[:, position]
        numbers = pd.Series(pd.to_numeric(column.astype(str), errors="coerce"), index=column.index)
        strange = numbers.isna() & column.notna()
        if strange.any():
            offenders.append(f"{keys[strange][0]}: column {name!r} holds {column[strange].iloc[0]!r}")
    cure = "declare the column in covariates, turn it into numbers, or leave it out"
    return listed("columns of X that are no numbers", offenders, cure) if offenders else ""


def _odd_numbers(cells: Any, keys: pd.Index) -> str:
    """Return a message about texts that only Python takes for numbers, such as ``1_000``; empty where there are none."""
    columns = pd.DataFrame(cells).select_dtypes(exclude=["number", "bool"])
    offenders = [
        f"{key}: column {str(name)!r} holds {cell!r}"
        for name, column in columns.items()
        for key, cell in zip(keys, column, strict=True)
        if isinstance(cell, str) and plain_number(cell) is None and cell.strip().lower().lstrip("+-") != "nan"
    ]
    return listed("cells of X that are no numbers", offenders, "write them as numbers") if offenders else ""


def _refuse_holes(values: np.ndarray, keys: pd.Index, names: Sequence[str], missing: str) -> None:
    refused = np.isinf(values) if missing == "keep" else ~np.isfinite(values)
    holes = [
        f"{keys[row]}: {names[column]} is {'NaN' if np.isnan(values[row, column]) else f'{values[row, column]:g}'}"
        for row, column in zip(*np.nonzero(refused), strict=True)
    ]
    if holes:
        keep = "; missing='keep' leaves NaN out of the fit and as it is in the result" if missing == "error" else ""
        raise EstimatorError(
            listed("X: cells that are NaN or infinite", holes, f"mend them, or leave the rows out{keep}")
        )


UNDECLARED = (
    "covariates lie beside X, but none is declared, so that nothing would be removed; declare them:"
    " CovariateRemover(covariates={'site': 'batch'})"
)


@dataclass(frozen=True)
class Layout:
    """Columns of X, and which of them are covariates, by position; none where covariates come beside X."""

    columns: tuple[str, ...]
    declared: tuple[Covariate, ...]
    places: dict[str, int]
    missing: str

    @classmethod
    def of(cls, plan: Plan, columns: Sequence[str], covariates: Any, missing: str) -> "Layout":
        """Return the layout of training; EstimatorError for covariates that come in both ways, or in none."""
        if covariates is not None and not plan.covariates:
            raise EstimatorError(UNDECLARED)
        if covariates is not None and plan.places:
            raise EstimatorError(
                f"{', '.join(plan.places)}: a column of X, and of covariates; leave it out of one, or rename the feature"
            )
        absent = [covariate.name for covariate in plan.covariates if covariate.name not in plan.places]
        if covariates is None and absent:
            raise EstimatorError(
                f"covariates that are nowhere: {', '.join(absent)}; give them beside X (fit(X, covariates=frame), in a"
                " pipeline with set_fit_request(covariates=True)) or, all of them, as columns of X"
            )
        return cls(tuple(columns), plan.covariates, plan.places, missing)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns that are no covariates."""
        return tuple(name for position, name in enumerate(self.columns) if position not in self.places.values())

    def parted(
        self, X: pd.DataFrame | np.ndarray, covariates: Any
    ) -> tuple[pd.DataFrame | np.ndarray, pd.DataFrame | None]:
        """Return X as in training, and the covariates beside it; a table that has both is parted.

        Raises EstimatorError for covariates that come in another way than in training, and cannot be found.
        """
        if covariates is not None and not self.declared:
            raise EstimatorError(UNDECLARED)
        if self.places and covariates is not None:
            raise EstimatorError("the covariates are columns of X, as in fit; leave covariates out")
        if self.places or not self.declared or covariates is not None:
            return X, covariates
        wanted = [covariate.column or covariate.name for covariate in self.declared]
        if not isinstance(X, pd.DataFrame) or not set(wanted) <= set(X.columns):
            raise EstimatorError(
                f"no covariates ({', '.join(wanted)}); give transform(X, covariates=frame), in a pipeline with"
                " set_transform_request(covariates=True). cross_val_predict and scorers hand metadata to fit only: there,"
                " let the covariates be columns of X"
            )
        return X.drop(columns=wanted), X[wanted]

    def read(
        self, X: pd.DataFrame | np.ndarray, covariates: Any, *, people: int = 1
    ) -> tuple[Float[np.ndarray, "people features"], pd.DataFrame]:
        """Read features, and covariates (`read_covariates`; without columns where none are declared), of at least so many people.

        Raises EstimatorError and CovariateError for all cells, rows or columns that cannot be used.
        """
        labelled = [table for table in (X, covariates) if isinstance(table, pd.DataFrame) and len(table) == len(X)]
        keys = _people_keys(labelled[0].index if labelled else pd.RangeIndex(len(X)))
        inside = list(self.places.values())
        data = _feature_matrix(X, inside, self.columns, keys, people=people, missing=self.missing)
        if not self.declared:
            return data, pd.DataFrame(index=keys)
        if not self.places:
            return data, _covariate_frame(covariates, beside(covariates, self.declared, X, len(X)), self.declared, keys)
        return data, _covariate_frame(pd.DataFrame(X), self.places, self.declared, keys)
