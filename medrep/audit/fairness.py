"""Counterfactual fairness of a predictor: how much its answer about a person changes with a covariate (Kusner et al. 2017).

Whether it may change is not said here: a change is what the predictor makes of what the model moves, and as true as the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.audit.counterfactuals import DRAWS, MIN_N, Targets, default_targets
from medrep.audit.findings import Finding
from medrep.audit.readers import Components, fit_reader
from medrep.audit.resampling.means import Sampling, mean_finding
from medrep.cohort.dataset import Dataset
from medrep.models import Model


@dataclass(frozen=True)
class Predictor:
    """What is audited.

    Attributes:
        answers: People x columns to a number a person, or to a share of each class.
        unit: Of the answers.
    """

    answers: Callable[[np.ndarray], np.ndarray]
    unit: str = "of the prediction"


def counterfactual_fairness(
    predictor: Predictor,
    model: Model,
    dataset: Dataset,
    seed: int,
    *,
    targets: Targets | None = None,
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> list[Finding]:
    """Return the mean of |f(x) - f(x_cf)| for each covariate.

    Args:
        predictor: f; of shares of classes half the sum of the absolute differences is meant, the total variation. It must not
            have been trained on these people.
        model: Makes the counterfactuals.
        dataset: People, their data in their own units.
        seed: Of resampling.
        targets: Covariate -> values to move to (`default_targets`); a person counts with the mean over the values that are
            not their own.
        min_n: Fewest participants.
        draws: Bootstrap samples.
    """
    frame, own = dataset.covariates, _answers(predictor, dataset.values)
    spread = float(np.abs(own - own.mean(axis=0)).sum(axis=1).mean()) / (1 if own.shape[1] == 1 else 2)
    found = []
    for name, values in (default_targets(model.schema, frame) if targets is None else targets).items():
        sums, counts = np.zeros(len(dataset)), np.zeros(len(dataset))
        for value in values:
            target = {name: value if isinstance(value, str) else float(value)}
            away = (frame[name] != target[name]).to_numpy()
            change = np.abs(_answers(predictor, model.remove(dataset, target)) - own).sum(axis=1)
            sums += np.where(away, change / (1 if own.shape[1] == 1 else 2), 0.0)
            counts += away
        mean = np.divide(sums, counts, out=np.full(len(dataset), np.nan), where=counts > 0)
        note = (
            f"mean absolute change, {predictor.unit}; moved to {', '.join(map(str, values))}; people differ by {spread:.2g} from"
            " the mean prediction"
        )
        found.append(
            mean_finding(
                Finding("counterfactual_fairness", name, 0, note=note),
                mean,
                dataset.whose,
                Sampling(seed, min_n, draws),
            )
        )
    return found


def outcome_predictor(
    data: Float[np.ndarray, "people columns"],
    outcome: pd.Series,
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    continuous: bool = False,
) -> Predictor:
    """Train the default predictor of an outcome, to be audited on other people (`readers.halves`).

    Args:
        data: People of the training half.
        outcome: What is predicted.
        participants: Whose each row is.
        seed: Of the folds and the columns drawn.
        continuous: Whether it is a number.

    Returns:
        Of the number in its unit, or the probability of each class, classes taken as equally frequent.

    Raises:
        CohortError: An outcome that cannot be learned from these people.
    """
    components = Components.fit(data, seed)
    reader = fit_reader(components, data, outcome, participants, seed, continuous=continuous)
    return Predictor(reader.number if continuous else reader.shares, f"of the predicted {outcome.name}")


def _answers(predictor: Predictor, data: np.ndarray) -> Float[np.ndarray, "people _"]:
    answers = np.asarray(predictor.answers(data), dtype=float)
    return answers.reshape(len(data), -1)
