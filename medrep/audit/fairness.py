"""Counterfactual fairness of a predictor: how much its answer about a person changes with a covariate (Kusner et al. 2017).

Whether it may change is not said here: a change is what the predictor makes of what the model moves, and as true as the model.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.audit.counterfactuals import DRAWS, MIN_N, Targets, default_targets
from medrep.audit.findings import Finding
from medrep.audit.readers import Components, fit_reader
from medrep.audit.resampling.means import mean_finding
from medrep.models import Model

Predict = Callable[[np.ndarray], np.ndarray]


def counterfactual_fairness(
    predict: Predict,
    model: Model,
    data: Float[np.ndarray, "people columns"],
    frame: pd.DataFrame,
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    targets: Targets | None = None,
    unit: str = "of the prediction",
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> list[Finding]:
    """Return the mean of |f(x) - f(x_cf)| for each covariate.

    Args:
        predict: f: people x columns to a number a person, or to a share of each class; then half the sum of the absolute
            differences is meant, the total variation. It must not have been trained on these people.
        model: Makes the counterfactuals.
        data: People, in their own units.
        frame: Their covariates.
        participants: Whose each row is.
        seed: Of resampling.
        targets: Covariate -> values to move to (`default_targets`); a person counts with the mean over the values that are
            not their own.
        unit: Of the prediction.
        min_n: Fewest participants.
        draws: Bootstrap samples.
    """
    own = _answers(predict, data)
    spread = float(np.abs(own - own.mean(axis=0)).sum(axis=1).mean()) / (1 if own.shape[1] == 1 else 2)
    found = []
    for name, values in (default_targets(model.schema, frame) if targets is None else targets).items():
        sums, counts = np.zeros(len(data)), np.zeros(len(data))
        for value in values:
            target = {name: value if isinstance(value, str) else float(value)}
            away = (frame[name] != target[name]).to_numpy()
            change = np.abs(_answers(predict, model.remove(data, frame, target)) - own).sum(axis=1)
            sums += np.where(away, change / (1 if own.shape[1] == 1 else 2), 0.0)
            counts += away
        mean = np.divide(sums, counts, out=np.full(len(data), np.nan), where=counts > 0)
        note = (
            f"mean absolute change, {unit}; moved to {', '.join(map(str, values))}; people differ by {spread:.2g} from"
            " the mean prediction"
        )
        found.append(
            mean_finding("counterfactual_fairness", name, mean, participants, seed, note=note, min_n=min_n, draws=draws)
        )
    return found


def outcome_predictor(
    data: Float[np.ndarray, "people columns"],
    outcome: pd.Series,
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    continuous: bool = False,
) -> Predict:
    """Train the default predictor of an outcome, to be audited on other people (`readers.halves`).

    Args:
        data: People of the training half.
        outcome: What is predicted.
        participants: Whose each row is.
        seed: Of the folds and the columns drawn.
        continuous: Whether it is a number.

    Returns:
        People x columns -> the number in its unit, or the probability of each class, classes taken as equally frequent.

    Raises:
        CohortError: An outcome that cannot be learned from these people.
    """
    components = Components.fit(data, seed)
    reader = fit_reader(components, data, outcome, participants, seed, continuous=continuous)
    return reader.number if continuous else reader.shares


def _answers(predict: Predict, data: np.ndarray) -> Float[np.ndarray, "people _"]:
    answers = np.asarray(predict(data), dtype=float)
    return answers.reshape(len(data), -1)
