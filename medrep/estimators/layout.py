"""Where features and covariates are in what scikit-learn hands over; fixed by the fit, and asked for everybody after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import Covariate
from medrep.errors import EstimatorError
from medrep.estimators.people import beside, covariate_frame, feature_matrix, people_keys
from medrep.estimators.plan import Plan

UNDECLARED = (
    "covariates lie beside X, but none is declared, so that nothing would be removed; declare them:"
    " CovariateRemover(covariates={'site': 'batch'})"
)


@dataclass(frozen=True)
class Layout:
    """Columns of X, and which of them are covariates.

    Attributes:
        columns: Names of the columns of X.
        declared: The covariates.
        places: Covariate -> position of its column in X; empty where covariates come beside X.
        missing: ``error``, or ``keep`` to let NaN pass.
    """

    columns: tuple[str, ...]
    declared: tuple[Covariate, ...]
    places: dict[str, int]
    missing: str

    @classmethod
    def of(cls, plan: Plan, columns: Sequence[str], covariates: Any, missing: str) -> "Layout":
        """Return the layout of training.

        Args:
            plan: The parameters.
            columns: Names of the columns of X.
            covariates: What lies beside X, or None.
            missing: As of the estimator.

        Raises:
            EstimatorError: Covariates that come in both ways, or in none.
        """
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

        Raises:
            EstimatorError: Covariates that come in another way than in training, and cannot be found.
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
        """Read people.

        Args:
            X: A table, or a matrix of any dtype.
            covariates: What lies beside X, or None.
            people: How many there have to be at least.

        Returns:
            Features, and covariates (`read_covariates`; without columns where none are declared).

        Raises:
            EstimatorError: Cells, rows or columns that cannot be used, all of them.
            CovariateError: Covariates that cannot be read, all of them.
        """
        labelled = [table for table in (X, covariates) if isinstance(table, pd.DataFrame) and len(table) == len(X)]
        keys = people_keys(labelled[0].index if labelled else pd.RangeIndex(len(X)))
        inside = list(self.places.values())
        data = feature_matrix(X, inside, self.columns, keys, people=people, missing=self.missing)
        if not self.declared:
            return data, pd.DataFrame(index=keys)
        if not self.places:
            return data, covariate_frame(covariates, beside(covariates, self.declared, X, len(X)), self.declared, keys)
        return data, covariate_frame(pd.DataFrame(X), self.places, self.declared, keys)
