"""What a shape tells of covariates that nobody noted: their probabilities, given the shape and the covariates that are known.

With b = P a - C^-1 m0 what the person's surface says (P, a: precision and mean of what is known of effect and identity together
where the covariates' field is m0), a value
c with field m(c) has, to second order (Laplace) and where the identity is small, the log evidence

    1/2 (b + C^-1 m)^T P^-1 (b + C^-1 m) - 1/2 m^T C^-1 m + log prior(c).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import logsumexp

from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.errors import CovariateError
from medrep.models.additive_shape import AdditiveShape

_STEPS = 31
_MOST = 20_000


@dataclass(frozen=True, eq=False)
class Inferred:
    """What is believed of one covariate.

    Attributes:
        covariate: Its name.
        values: The values that were considered: numbers or levels.
        probabilities: Of each; they sum to 1.
    """

    covariate: str
    values: tuple[float | str, ...]
    probabilities: Float[np.ndarray, " values"]

    @property
    def expected(self) -> float | str:
        """The mean of numbers, the most probable level."""
        if all(isinstance(value, float) for value in self.values):
            return float(np.asarray(self.values, float) @ self.probabilities)
        return self.values[int(np.argmax(self.probabilities))]

    @property
    def sd(self) -> float:
        """Standard deviation of a number; for a level the probability that it is another."""
        if all(isinstance(value, float) for value in self.values):
            numbers = np.asarray(self.values, float)
            return float(np.sqrt((numbers - numbers @ self.probabilities) ** 2 @ self.probabilities))
        return float(1 - self.probabilities.max())


def infer_covariates(
    model: AdditiveShape, row: Float[np.ndarray, " columns"], frame: pd.DataFrame, unknown: Sequence[str]
) -> tuple[Inferred, ...]:
    """Say what one person's shape tells of covariates.

    Args:
        model: With covariates.
        row: The person's signed distance on the grid, mm.
        frame: One row of covariates; those that are unknown are not looked at.
        unknown: Which to infer, together.

    Raises:
        CovariateError: Unknown names, or more of them than can be gone through together.
    """
    strangers = [name for name in unknown if name not in model.schema.names]
    if strangers or not unknown:
        allowed = ", ".join(model.schema.names)
        raise CovariateError(f"cannot infer {', '.join(strangers) or 'nothing'}; the model was trained with {allowed}")
    choices = {name: _choices(model.schema, name) for name in unknown}
    cells = list(product(*(values for values, _ in choices.values())))
    if len(cells) > _MOST:
        raise CovariateError(f"{', '.join(unknown)}: {len(cells)} combinations are too many; infer fewer at a time")
    home = model.schema.references(list(unknown))
    start = frame.assign(**{name: [value] for name, value in home.items()})
    person = model.person(row, start)
    precision = np.linalg.inv(model.population.covariance)
    said = person.posterior.precision @ (person.posterior.mean + person.mean) - precision @ person.mean
    table = pd.concat([frame] * len(cells), ignore_index=True)
    table = table.assign(**{name: [cell[k] for cell in cells] for k, name in enumerate(unknown)})
    means = model.means(table)
    pull = means @ precision
    both = said + pull
    evidence = (both * np.linalg.solve(person.posterior.precision, both.T).T).sum(axis=1) / 2 - (pull * means).sum(
        axis=1
    ) / 2
    prior = np.array([sum(logs) for logs in product(*(logs for _, logs in choices.values()))])
    total = evidence + prior
    shape = tuple(len(values) for values, _ in choices.values())
    joint = np.exp(total - logsumexp(total)).reshape(shape)
    return tuple(
        Inferred(name, choices[name][0], joint.sum(axis=tuple(other for other in range(len(shape)) if other != k)))
        for k, name in enumerate(unknown)
    )


def _choices(schema: CovariateSchema, name: str) -> tuple[tuple[float | str, ...], list[float]]:
    """Return the values of a covariate that are considered, and the log prior of each, up to a constant."""
    covariate = schema[name]
    if isinstance(covariate, Continuous):
        values = np.linspace(covariate.low, covariate.high, _STEPS)
        return tuple(values.tolist()), (-(((values - covariate.mean) / covariate.sd) ** 2) / 2).tolist()
    present = [(level, count) for level, count in zip(covariate.levels, covariate.counts, strict=True) if count > 0]
    return tuple(level for level, _ in present), [float(np.log(count)) for _, count in present]
