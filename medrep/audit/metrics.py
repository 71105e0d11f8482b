"""Metrics of people in groups, as statistics of weighted rows: means of a value a person, and the AUROC of a prediction.

A row's weight is how often it was drawn (bootstrap), or whether it is in the group (permutation), so that one function serves
both and works on many draws at once. Each statistic comes with a standard error of its own, by which differences are
studentised: the sandwich over participants for a mean, that of DeLong et al. (1988) for an AUROC.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from medrep.audit.intervals import participant_codes
from medrep.cohort.parsing import merge_levels, parse_level, parse_number
from medrep.errors import CohortError, listed


@dataclass(frozen=True, eq=False)
class ParticipantMetric(ABC):
    """A statistic of weighted rows.

    Attributes:
        participants: A code of the participant of each row, 0, 1, ...
        unit: Of the estimate, for people to read.
    """

    participants: Int[np.ndarray, " rows"]
    unit: str

    @abstractmethod
    def outcome(self) -> Int[np.ndarray, " rows"] | None:
        """Return the class of a binary outcome, 0 or 1 (-1: missing), or None; a group needs people of both."""

    @abstractmethod
    def present(self) -> Bool[np.ndarray, " rows"]:
        """Return which rows have all that the statistic needs."""

    @abstractmethod
    def measure(
        self, weights: Float[np.ndarray, "draws rows"], rows: Int[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
        """Return the statistic on some rows and its standard error, for each draw of weights; NaN where not defined."""

    @abstractmethod
    def strata(self) -> Int[np.ndarray, " rows"]:
        """Return within which rows labels of groups may be exchanged."""


@dataclass(frozen=True, eq=False)
class ParticipantMean(ParticipantMetric):
    """The mean over rows of a value a row: an error, a deviation, a signed difference.

    Attributes:
        values: One a row; NaN where there is none.
        classes: Of the binary outcome behind the values, if there is one.
    """

    values: Float[np.ndarray, " rows"]
    classes: Int[np.ndarray, " rows"] | None = None

    def outcome(self) -> Int[np.ndarray, " rows"] | None:
        """Return the classes."""
        return self.classes

    def present(self) -> Bool[np.ndarray, " rows"]:
        """Return which rows have a finite value."""
        return np.isfinite(self.values)

    @property
    def is_share(self) -> bool:
        """True if every value is 0 or 1, so that the mean is a proportion."""
        return bool(np.isin(self.values[self.present()], (0.0, 1.0)).all())

    def measure(
        self, weights: Float[np.ndarray, "draws rows"], rows: Int[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
        """Return weighted means, and their standard errors with a participant's rows held together."""
        centre = float(self.values[rows].mean()) if len(rows) else 0.0
        values = self.values[rows] - centre
        total = weights.sum(axis=1)
        owners, codes = np.unique(self.participants[rows], return_inverse=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            means = weights @ values / total
            if len(owners) == len(rows):
                # As below, without a matrix of residuals: sum w (x - m)^2.
                raw = weights @ values**2 - means**2 * total
            else:
                # A participant drawn twice is two participants: w times the square of their own sum.
                order = np.argsort(codes, kind="stable")
                starts = np.searchsorted(codes[order], np.arange(len(owners)))
                own = np.maximum(np.maximum.reduceat(weights[:, order], starts, axis=1), 1e-300)
                residuals = weights * (values - means[:, None])
                raw = (np.add.reduceat(residuals[:, order], starts, axis=1) ** 2 / own).sum(axis=1)
            errors = np.sqrt(np.where(raw > 1e-12 * (values @ values), raw, 0.0)) / total
        return means + centre, errors

    def strata(self) -> Int[np.ndarray, " rows"]:
        """Return one stratum: labels may go to anybody."""
        return np.zeros(len(self.values), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Auroc(ParticipantMetric):
    """The probability that a person of class 1 is scored above one of class 0 (ties count half).

    Attributes:
        scores: Predicted score of each row; NaN where there is none.
        classes: 1 for cases, 0 for others, -1 where the outcome is missing.
    """

    scores: Float[np.ndarray, " rows"]
    classes: Int[np.ndarray, " rows"]

    def outcome(self) -> Int[np.ndarray, " rows"] | None:
        """Return the classes."""
        return self.classes

    def present(self) -> Bool[np.ndarray, " rows"]:
        """Return which rows have a score and an outcome."""
        return np.isfinite(self.scores) & (self.classes >= 0)

    def measure(
        self, weights: Float[np.ndarray, "draws rows"], rows: Int[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
        """Return weighted AUROCs and the standard errors of DeLong, Delong and Clarke-Pearson (1988)."""
        order = np.argsort(self.scores[rows], kind="stable")
        scores, positive = self.scores[rows][order], self.classes[rows][order] == 1
        starts = np.flatnonzero(np.r_[True, scores[1:] > scores[:-1]])
        ordered = weights[:, order]
        hits = np.add.reduceat(np.where(positive, ordered, 0.0), starts, axis=1)
        others = np.add.reduceat(np.where(positive, 0.0, ordered), starts, axis=1)
        n_hits, n_others = hits.sum(axis=1), others.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            above = (others.cumsum(axis=1) - others / 2) / n_others[:, None]
            below = 1 - (hits.cumsum(axis=1) - hits / 2) / n_hits[:, None]
            area = (hits * above).sum(axis=1) / n_hits
            spread_hits = ((hits * above**2).sum(axis=1) / n_hits - area**2) / (n_hits - 1)
            spread_others = ((others * below**2).sum(axis=1) / n_others - area**2) / (n_others - 1)
            errors = np.sqrt(np.maximum(spread_hits + spread_others, 0))
        return area, errors

    def strata(self) -> Int[np.ndarray, " rows"]:
        """Return the classes: a group keeps its number of cases, so that a difference in prevalence is no difference here."""
        return self.classes


def person_mean(
    values: Float[np.ndarray, " rows"], participants: Shaped[np.ndarray, " rows"], unit: str = ""
) -> ParticipantMean:
    """Make a metric of one value a row.

    Args:
        values: For instance the reconstruction error; NaN is counted and named, not dropped in silence.
        participants: Participant of each row; sessions share one.
        unit: Of the values.
    """
    return ParticipantMean(participant_codes(participants), unit, np.asarray(values, dtype=float))


def prediction_metrics(
    outcome: pd.Series, predicted: pd.Series, participants: Shaped[np.ndarray, " rows"], positive: str | None = None
) -> dict[str, ParticipantMetric]:
    """Make the metrics of a predictor whose output comes with the cohort.

    With a binary outcome: ``auroc`` of any score; where the scores are probabilities (0 to 1) also ``error``, the rate at the
    threshold 0.5, and ``calibration``, mean of predicted - observed (calibration in the large). With a number: ``error``, the
    mean absolute error, and ``calibration``, mean of predicted - observed. Predicted labels: ``error``, the rate.

    Args:
        outcome: What was observed: numbers, or labels; text as participants.tsv holds it.
        predicted: What was predicted: numbers, or the outcome's labels; same index.
        participants: Participant of each row; sessions share one.
        positive: The class that a high score stands for; with a 0/1 outcome it is 1.

    Returns:
        Metric by name.

    Raises:
        CohortError: Predictions that do not fit the outcome, or a class that is not there.
    """
    owners = participant_codes(participants)
    observed = _one_spelling([parse_level(_text(cell)) for cell in outcome])
    levels = sorted({level for level in observed if level is not None})
    given = _one_spelling([parse_level(_text(cell)) for cell in predicted], levels)
    numbers, scores = _numbers(observed), _numbers(given)
    if len(levels) < 2:
        raise CohortError(f"outcome {outcome.name}: a metric of a predictor needs two values or more, here: {levels}")
    if len(levels) > 2 and numbers is not None and scores is not None:
        difference = scores - numbers
        absolute = ParticipantMean(owners, "mean absolute error", np.abs(difference))
        return {"error": absolute, "calibration": ParticipantMean(owners, "predicted - observed", difference)}
    if scores is None or (len(levels) > 2 and numbers is None):
        unknown = sorted({level for level in given if level is not None} - set(levels))
        if unknown:
            cure = f"predict {', '.join(levels)}, or a number"
            raise CohortError(listed(f"{predicted.name}: labels that {outcome.name} does not have", unknown, cure))
        return {"error": _wrong(owners, observed, given, levels)}
    case = _case(str(outcome.name), levels, positive)
    classes = np.array([-1 if level is None else int(level == case) for level in observed], dtype=np.int64)
    found: dict[str, ParticipantMetric] = {"auroc": Auroc(owners, f"of {outcome.name}={case}", scores, classes)}
    if np.nanmin(scores) >= 0 and np.nanmax(scores) <= 1:
        known = np.where(classes < 0, np.nan, classes)
        wrong = np.where(np.isnan(scores + known), np.nan, (scores >= 0.5) != (known == 1))
        found["error"] = ParticipantMean(owners, "error rate at 0.5", wrong, classes)
        found["calibration"] = ParticipantMean(owners, "predicted - observed", scores - known, classes)
    return found


def _one_spelling(cells: list[str | None], known: Sequence[str] = ()) -> list[str | None]:
    spelling = merge_levels([cell for cell in cells if cell is not None], known)
    return [None if cell is None else spelling[cell] for cell in cells]


def _wrong(
    owners: np.ndarray, observed: list[str | None], given: list[str | None], levels: list[str]
) -> ParticipantMean:
    pairs = list(zip(observed, given, strict=True))
    wrong = np.array([np.nan if None in pair else float(pair[0] != pair[1]) for pair in pairs])
    binary = np.array([-1 if level is None else levels.index(level) for level in observed], dtype=np.int64)
    return ParticipantMean(owners, "error rate", wrong, binary if len(levels) == 2 else None)


def _case(name: str, levels: list[str], positive: str | None) -> str:
    numbers = _numbers(list(levels))
    if positive is None and numbers is not None and sorted(numbers) == [0.0, 1.0]:
        return levels[int(np.argmax(numbers))]
    if positive not in levels:
        said = (
            "say with --positive which one a high score stands for" if positive is None else f"{positive!r} is neither"
        )
        raise CohortError(f"outcome {name} is {levels[0]} or {levels[1]}; {said}")
    return positive


def _numbers(cells: list[str | None]) -> Float[np.ndarray, " rows"] | None:
    """Return cells as numbers (NaN where missing), or None where one is no number."""
    read = [parse_number(cell or "") for cell in cells]
    return None if any(n.reading == "unreadable" for n in read) else np.array([n.value for n in read], dtype=float)


def _text(cell: object) -> str:
    return "" if cell is None or bool(pd.isna(cell)) else str(cell)
