"""Quality of counterfactuals by the axioms of Monteiro et al. (2023), and counterfactual fairness.

- **composition**: moved to what they are already, people stay as they are;
- **reversibility**: moved and moved back, they are who they were;
- **effectiveness**: what was moved is read from the counterfactual as from real people who are like that;
- **minimality**: what was not moved is read as before, and nobody is moved further than people are from each other.

Half of the audited participants train the readers, the other half are moved. Distances are means over columns of absolute
differences, each in its column's standard deviation. Where a reader cannot read a covariate of real people, what it says
of counterfactuals means nothing, and the findings that need it are ``insufficient``.

Whether it may change is not said here: a change is what the predictor makes of what the model moves, and as true as the model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from medrep.audit.finding import Finding
from medrep.audit.intervals import Z, joined_interval
from medrep.audit.means import (
    Sampling,
    difference_interval,
    mean_finding,
    participant_means,
    share_of,
)
from medrep.audit.predictors import FEWEST, Components, LabelPredictor, Reading, fit_predictor, fit_readings, split
from medrep.audit.retention import Apart, Ruler
from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models import Model

MIN_N, DRAWS, MOST_PEOPLE = 20, 1000, 200
TIMES = 3
"""How often in a row the null intervention is made."""
_QUANTILES = (0.1, 0.5, 0.9)
_NUDGE, _NEAR = 1e-3, 0.5  # sd of a continuous covariate

Targets = Mapping[str, Sequence[str | float]]


def audit_counterfactuals(
    model: Model,
    dataset: Dataset,
    seed: int,
    *,
    targets: Targets | None = None,
    min_n: int = MIN_N,
    draws: int = DRAWS,
    most_people: int = MOST_PEOPLE,
) -> list[Finding]:
    """Judge a model's counterfactuals of people it never saw.

    Args:
        model: Any model.
        dataset: Audited people, their data in their own units.
        seed: Of the halves, the folds and resampling.
        targets: Covariate -> values to move to; `default_targets` of the audited people by default.
        min_n: Fewest participants to say anything.
        draws: Bootstrap samples.
        most_people: Of the half that is moved, at most so many rows are.

    Returns:
        ``cf_composition`` of each covariate; of each value moved to ``cf_reversibility``, ``cf_effectiveness`` (share read as
        the level, or mean error to the value, of those who were elsewhere), ``cf_effectiveness_gap`` (how much worse that is
        than of real people who are there) and ``cf_minimality`` (distance moved over the distance between people); and
        ``cf_minimality`` of ``moved/kept``, how much the reading of a kept covariate changes.
    """
    data, frame, who = dataset.values, dataset.covariates, dataset.units
    train, transformed = split(dataset, seed)
    transformed = np.sort(np.random.default_rng(seed).permutation(transformed)[:most_people])
    readings = fit_readings(dataset, train, transformed, seed)
    ruler = Ruler.of(data, seed)
    between = ruler.between_people(data[transformed], who[transformed])
    case = _Case(model, dataset.take(transformed), who[transformed], who, readings, ruler, between, seed, min_n, draws)
    wanted = default_targets(model.schema, frame) if targets is None else targets
    found: list[Finding] = []
    for name, values in wanted.items():
        found.append(case.composition(name))
        changes: dict[str, list[np.ndarray]] = {kept: [] for kept in model.schema.names if kept != name}
        for value in values:
            found += case.transformed(name, value, changes)
        found += [case.kept(name, kept, own) for kept, own in changes.items()]
    return found


def default_targets(schema: CovariateSchema, frame: pd.DataFrame) -> dict[str, tuple[str | float, ...]]:
    """Return what people are moved to: every level that occurs; a low, a middle and a high value (tenths 1, 5 and 9)."""
    targets: dict[str, tuple[str | float, ...]] = {}
    for covariate in schema.fitted:
        name = covariate.declared.name
        if isinstance(covariate, Continuous):
            quantiles = [float(f"{q:.3g}") for q in np.quantile(frame[name].to_numpy(float), _QUANTILES)]
            targets[name] = tuple(dict.fromkeys(float(np.clip(q, covariate.low, covariate.high)) for q in quantiles))
        else:
            present = set(frame[name].astype(str))
            targets[name] = tuple(level for level in covariate.levels if level in present)
    return targets


@dataclass(frozen=True, eq=False)
class _Case:
    """The people who are moved, and who reads them."""

    model: Model
    dataset: Dataset
    participants: Shaped[np.ndarray, " people"]
    everybody: Shaped[np.ndarray, " rows"]
    readings: Mapping[str, Reading]
    ruler: Ruler
    between: Apart
    seed: int
    min_n: int
    draws: int

    def composition(self, name: str) -> Finding:
        """Move people to where they are, several times."""
        own, x = self.dataset.covariates[name], self.dataset
        for _ in range(TIMES):
            before, x = x, x.with_values(self.model.transform(x, own.to_frame()))
            if np.array_equal(x.values, before.values, equal_nan=True):
                break  # and so it would go on
        start = self.dataset.values
        apart = self.ruler.between(x.values, start)
        note = f"sd of a column; null intervention {TIMES} times; the person moved most {apart.max(initial=0.0):.2g}"
        covariate = self.model.schema[name]
        if isinstance(covariate, Continuous):
            nudged = self.model.transform(self.dataset, (own + _NUDGE * covariate.sd).to_frame())
            note += f"; moved by {_NUDGE:g} sd of {name}: {self.ruler.between(nudged, start).mean():.2g}"
        pulls = self.ruler.pulls(x.values, start, np.isfinite(apart))
        return self._distance("cf_composition", name, apart, pulls, note)

    def transformed(self, name: str, value: str | float, changes: dict[str, list[np.ndarray]]) -> list[Finding]:
        """Move people to one value, and back; note in ``changes`` how the reading of each kept covariate changes."""
        group = f"{name}={value}" if isinstance(value, str) else f"{name}={value:g}"
        target = {name: value if isinstance(value, str) else float(value)}
        own = self.dataset.covariates
        x = self.model.remove(self.dataset, target)
        away = (own[name] != target[name]).to_numpy()
        back = self.model.transform(self.dataset.transformed(target).with_values(x), own[[name]])
        gone = self.ruler.between(x, self.dataset.values)
        between = self.between.mean
        for kept, noted in changes.items():
            noted.append(np.where(away, self._change(kept, x), np.nan))
        of_lost, of_moved = (self.ruler.pulls(other, self.dataset.values, away) for other in (back, x))
        lost = np.where(away, self.ruler.between(back, self.dataset.values), np.nan)
        transformed = np.where(away, gone, np.nan)
        return [
            self._distance(
                "cf_reversibility",
                group,
                lost,
                of_lost,
                f"sd of a column; on the way {_mean(transformed):.2g} sd were moved",
            ),
            *self._effect(name, target[name], group, x, away),
            self._distance(
                "cf_minimality",
                group,
                transformed,
                of_moved,
                f"of the distance between people, {between:.2g} sd",
                per=True,
            ),
        ]

    def kept(self, name: str, kept: str, changes: Sequence[np.ndarray]) -> Finding:
        """Say how much the reading of a kept covariate changes, over all values that ``name`` is moved to."""
        reading, group = self.readings[kept], f"{name}/{kept}"
        if not reading.able or reading.predictor is None or not changes:
            return Finding(
                "cf_minimality", group, len(np.unique(self.participants)), status="insufficient", note=reading.note
            )
        number = isinstance(self.model.schema[kept], Continuous)
        unit = f"sd of {kept}, mean absolute change" if number else "share of people whose class changes"
        # A person who was at one of the values is judged at the others.
        together = np.stack(changes)
        counts = np.isfinite(together).sum(axis=0)
        mean = np.where(counts > 0, np.nansum(together, axis=0) / np.maximum(counts, 1), np.nan)
        note = f"reading of {kept} when {name} moves: {unit}; {reading.note}"
        return self._read("cf_minimality", group, reading.predictor, mean, note)

    def _effect(
        self,
        name: str,
        value: str | float,
        group: str,
        x: Float[np.ndarray, "people columns"],
        away: Bool[np.ndarray, " _"],
    ) -> list[Finding]:
        reading, metrics = self.readings[name], ("cf_effectiveness", "cf_effectiveness_gap")
        predictor = reading.predictor if reading.able else None
        if predictor is None or (predictor.levels and value not in predictor.levels):
            few = f"{value} has fewer than {FEWEST} participants to learn from; {reading.note}"
            note = reading.note if predictor is None else few
            return [Finding(metric, group, int(away.sum()), status="insufficient", note=note) for metric in metrics]
        if isinstance(value, str):
            code, number = predictor.levels.index(value), False
            there, transformed = ((predictor.readings(part) == code).astype(float) for part in (self.dataset.values, x))
            real = np.where((self.dataset.covariates[name].astype(str) == value).to_numpy(), there, np.nan)
            unit = f"share read as {value} of those moved there; not moved {_mean(there[0, away]):.2f}"
        else:
            number, sd = True, float(self.model.schema[name].sd)  # type: ignore[union-attr]  # value is a number
            own = self.dataset.covariates[name].to_numpy(float)
            near = np.abs(own - value) <= _NEAR * sd
            real = np.where(near, np.abs(predictor.readings(self.dataset.values) - own), np.nan)
            transformed = np.abs(predictor.readings(x) - value)
            unit = f"mean error to {value:g}, {self.model.schema[name].declared.unit or 'own unit'}"
        reached = np.where(away, transformed, np.nan)
        note = f"{unit}; of real people who are there {_mean(real[0]):.2f}; {reading.note}"
        return [
            self._read("cf_effectiveness", group, predictor, reached, note),
            self._gap(group, predictor, *((reached, real) if number else (real, reached)), note),
        ]

    def _gap(
        self,
        group: str,
        predictor: LabelPredictor,
        worse: Float[np.ndarray, "readers people"],
        better: Float[np.ndarray, "readers people"],
        note: str,
    ) -> Finding:
        metric = "cf_effectiveness_gap"
        table = pd.DataFrame({"worse": worse[0], "better": better[0]}).groupby(self.participants).mean()
        values, counts = table.to_numpy(float), table.notna().sum()
        if counts.min() < FEWEST or len(values) < self.min_n:
            few = f"{counts['worse']} and {counts['better']} participants are compared, {FEWEST} are needed; {note}"
            return Finding(metric, group, len(values), status="insufficient", note=few)

        sides = [side[np.isfinite(side)] for side in values.T]
        estimate = float(sides[0].mean() - sides[1].mean())
        taught = self._error_of_teaching(predictor, worse, better)
        if predictor.levels:
            # Also where a side is all 0 or 1.
            shares = [share_of(side, len(side)) for side in sides]
            ends = [(low, float(side.mean()), high) for side, (low, high) in zip(sides, shares, strict=True)]
            low, high = joined_interval(ends[0], ends[1])
            low, high = (
                estimate - math.hypot(estimate - low, Z * taught),
                estimate + math.hypot(high - estimate, Z * taught),
            )
        else:
            low, high = difference_interval(values, self.draws, np.random.default_rng(self.seed), beside=taught)
        text = f"worse than real people by; {note}"
        return Finding(metric, group, len(values), estimate, low, high, note=text)

    def _change(self, kept: str, x: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "readers people"]:
        predictor, covariate = self.readings[kept].predictor, self.model.schema[kept]
        if predictor is None:
            return np.full((1, len(x)), np.nan)
        if isinstance(covariate, Continuous):
            return np.abs(predictor.readings(x) - predictor.readings(self.dataset.values)) / covariate.sd
        return (predictor.readings(x) != predictor.readings(self.dataset.values)).astype(float)

    def _read(
        self, metric: str, group: str, predictor: LabelPredictor, values: Float[np.ndarray, "readers people"], note: str
    ) -> Finding:
        """Return the mean of what is read; its interval counts who taught the reader, too."""
        return mean_finding(
            Finding(metric, group, 0, note=note),
            values[0],
            self.participants,
            Sampling(self.seed, self.min_n, self.draws),
            values_are="shares" if predictor.levels else "numbers",
            beside=self._error_of_teaching(predictor, values),
        )

    def _error_of_teaching(self, predictor: LabelPredictor, *sides: Float[np.ndarray, "readers people"]) -> float:
        """Return the error that comes with who taught the reader, of a mean or a difference of means."""
        if not all(np.isfinite(side).any() for side in sides):
            return 0.0
        means = [np.nanmean(_by_participant(side, self.participants), axis=1) for side in sides]
        return predictor.teaching_error(means[0] - means[1] if len(means) > 1 else means[0])

    def _distance(
        self,
        metric: str,
        group: str,
        values: Float[np.ndarray, " people"],
        pulls: Float[np.ndarray, " rows"],
        note: str,
        *,
        per: bool = False,
    ) -> Finding:
        """Return the mean of distances, ``per`` distance between people; what all do to both is part of its interval."""
        unit = self.between.mean if per else 1.0
        means = participant_means(values / unit, self.participants)
        if len(means) < max(self.min_n, 2):
            few = Finding(metric, group, 0, note=note)
            return mean_finding(few, values, self.participants, Sampling(self.seed, self.min_n, self.draws))
        estimate, whole = float(means.mean()), len(self.everybody)
        people = pd.unique(self.everybody)
        # Each participant's share of the mean, and what they do to everybody's by way of the deviations and, ``per``, the unit.
        own = pd.Series(values / unit).groupby(self.participants).mean().reindex(people).to_numpy(float)
        shared = pd.Series(pulls / unit / whole).groupby(self.everybody).sum().reindex(people)
        if per:
            to_unit = pd.Series(self.between.pulls / whole).groupby(self.everybody).sum()
            apart = pd.Series(self.between.own / len(self.participants)).groupby(self.participants).sum()
            shared -= to_unit.add(apart, fill_value=0.0).reindex(people) * (estimate / unit)
        added = len(people) * shared.to_numpy(float)
        both = np.column_stack([own, added.mean() - added])
        low, high = difference_interval(both, self.draws, np.random.default_rng(self.seed))
        return Finding(metric, group, len(means), estimate, low, high, note=note)


def _by_participant(values: Float[np.ndarray, "readers people"], who: np.ndarray) -> Float[np.ndarray, "readers _"]:
    """Return the mean over each participant's rows."""
    return pd.DataFrame(values.T).groupby(who).mean().to_numpy(float).T


def _mean(values: Float[np.ndarray, " people"]) -> float:
    """Return the mean of the values that are there; NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class Predictor:
    """A predictor to audit.

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
                dataset.units,
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
    """Train the default predictor of an outcome, to be audited on other people (`predictors.split`).

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
    predictor = fit_predictor(components, data, outcome, participants, seed, continuous=continuous)
    return Predictor(predictor.number if continuous else predictor.shares, f"of the predicted {outcome.name}")


def _answers(predictor: Predictor, data: np.ndarray) -> Float[np.ndarray, "people _"]:
    answers = np.asarray(predictor.answers(data), dtype=float)
    return answers.reshape(len(data), -1)
