"""`Chart`: a growth chart of a feature table as a scikit-learn transformer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from medrep.errors import EstimatorError, listed
from medrep.estimators.remover import CovariateRemover
from medrep.models import GrowthChart

CENTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)


class Chart(CovariateRemover):
    """Says how unusual each feature of a person is at their covariates: z; looks at nobody but the people it is fitted on.

    Covariates come beside X or as columns of it, as with `CovariateRemover`, and z of everybody has one column a feature. What is
    not known of the chart is counted in z. With no covariates declared X is returned as it is.

    Args:
        covariates: Name, or position in X -> ``"continuous"``, ``"categorical"``, ``"batch"``, or properties as in a YAML
            configuration, see `Covariate`.
        settings: Of the chart, by name (`ChartSettings`); None has the defaults.
        unseen_site: What levels of a batch covariate do that training did not have: ``"error"``, or ``"adapt"``, which
            estimates them from the people given to that call of ``transform``.
        missing: ``"error"``, or ``"keep"``: NaN cells are left out of the fit and have no z.
        random_state: Seed of every random step, a whole number.

    Attributes:
        model_: The fitted, frozen `GrowthChart`; None where nothing was declared.
        schema_: Its covariates as fitted, or None.
        history_: What the fit tells: metric, name, value.
        n_features_in_: Columns of X, covariates among them counted.
        feature_names_in_: Their names, where X has any.
    """

    remove = None
    references = None
    compositions = None
    model = "growth_chart"
    output = "deviations"

    def __init__(
        self,
        *,
        covariates: Any = None,
        settings: Any = None,
        unseen_site: Any = "error",
        missing: Any = "error",
        random_state: Any = 0,
    ) -> None:
        self.covariates = covariates
        self.settings = settings
        self.unseen_site = unseen_site
        self.missing = missing
        self.random_state = random_state

    def centiles(
        self, covariates: pd.DataFrame, probabilities: Sequence[float] = CENTILES
    ) -> dict[float, pd.DataFrame]:
        """Return the predictive centiles of each feature at some covariates.

        Args:
            covariates: A row a place; columns as declared. ``(pooled)`` in a batch covariate is no site.
            probabilities: Between 0 and 1.

        Returns:
            Probability -> table, a row a place, a column a feature, in the data's units.

        Raises:
            EstimatorError: Probabilities that are none, or nothing was declared.
            CovariateError: Levels that training did not have, or covariates that are missing.
        """
        check_is_fitted(self, "model_")
        if not isinstance(self.model_, GrowthChart):
            raise EstimatorError("no covariates were declared, so that there is no chart; declare them")
        odd = [str(one) for one in probabilities if not 0 < one < 1]
        if odd:
            raise EstimatorError(listed("probabilities that are not between 0 and 1", odd))
        frame = self.model_.schema.transfer(covariates)
        found = self.model_.centiles(frame, np.asarray(probabilities, dtype=float))
        names = list(self.model_.columns.names)
        if (form := self._form) is not None:
            middle = self.model_.centiles(frame, np.array([0.5]))[0]
            found = np.stack([form.against_rest(own, middle) for own in found])
        return {
            float(one): pd.DataFrame(own, index=covariates.index, columns=names)
            for one, own in zip(probabilities, found, strict=True)
        }

    @classmethod
    def load(cls, folder: Path | str, *, unseen_site: Any = "error") -> "Chart":  # type: ignore[override]  # one thing to do
        """Return a fitted estimator from a chart's model folder; see `CovariateRemover.load`."""
        known = CovariateRemover.load(folder, unseen_site=unseen_site, output="deviations")
        found = cls(**{name: getattr(known, name) for name in cls().get_params()})
        found.__dict__ |= vars(known)
        return found

    def _parameters(self) -> Mapping[str, Any]:
        fixed = {name: getattr(self, name) for name in ("remove", "references", "model", "output")}
        return {**fixed, **super()._parameters()}
