"""How much of a removed covariate what is handed out tells, beyond what kept covariates tell.

Take a label y (a number, or whether somebody has a level), what kept covariates K let expect of it, e = E(y | K), and the rest,
r = y - e. Where the data tell nothing of y that K does not, r has nothing to do with any function of the data, however well
these tell K: that is what is measured, rather than a floor taken off. A table is read by `TableStatistics`, and

- the test (`p` of `leakage`) compares the strongest reader of all levels with what it is where labels are exchanged as K would
  have it (`conditional_exchange.py`): exact where nothing is kept, and the choice of the strongest is in it (Westfall and Young
  1993). Readers see shifts, spreads, covariances, products and single columns. `leakage_shape` is the same test of readers of
  all that is not a mean (`ShapeStatistics`): means, of which the next figure gives the size, are taken out before they look;
- the size (`leakage_excess`) is what a linear reader taught by four fifths of the people tells of the others, over what it tells
  under exchanged labels: a ridge regression of r, cross-fitted in five parts and three times over, judged by the AUC in
  which members of a level weigh 1 - e and others e. These overlap weights (Li, Morgan and Zaslavsky 2018) make both alike in the
  kept covariates, so that the AUC is 0.5 where the data add nothing, and no ceiling is near where kept covariates tell much. Of
  a number it is the signed squared correlation with r (the generalised covariance measure, Shah and Peters 2020, on a scale).

Whoever estimates what a level does from n people errs by a random person's deviation over the root of n, in a direction that
nobody knows, and new people of that level tell it; of what a standard deviation of a number does, alike.
`leakage_beyond_training` is the excess less what that leaves: the figure of the same reader under exchanged labels, once people
are moved by such errors. A model with a large excess and little beyond is as good as so few people of training allow; one with
much beyond is wrong.

The interval is a normal one, with the largest of standard errors: under exchanged labels, where readers are taught anew, and of
resampled people, where they are not. What a number's reader finds depends more on who taught it, so that a third is asked, that
of the delete-half jackknife (Shao and Wu 1989): the spread over random halves of the people, taught anew in each. Participants
are what is exchanged, divided and counted: where a label is the same in all rows of a participant, their rows count as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import norm

from medrep.audit.data import Question, refuse_gaps
from medrep.audit.finding import Finding
from medrep.audit.holdout_split import (
    FEWEST,
    MIN_N,
    MOST,
    exchangeable,
    figure_interval,
    rows_each,
)
from medrep.audit.intervals import (
    LEVEL,
    Z,
    area_interval,
    participant_codes,
    permuted,
    random_halves,
    sample_weights,
    student,
)
from medrep.audit.permutation import conditional_exchanges, expected_labels
from medrep.audit.probe_figures import AUC, NUMBER, stratified_group_split, weighted_area, weighted_figures
from medrep.audit.probe_statistics import ShapeStatistics, TableStatistics

MARGIN, PERMUTATIONS = 0.1, 499
_FOLDS, _REPEATS, _DRAWS = 5, 3, 200
_TAUGHT = 99  # exchanges of labels with which the linear reader is taught anew
_SHAPES = 299  # exchanges of labels under which shapes are read
_HALVED = 20  # halves in which a number's reader is taught anew
_MOVED = 20  # errors of training that are drawn
_ONE_SIDED = float(norm.ppf(LEVEL))


@dataclass(frozen=True, eq=False)
class _Asked:
    """One covariate of people, ready to be looked for in tables.

    Attributes:
        rows: Everybody's rows that count, those of one person side by side.
        starts: Where each unit begins in ``rows``: a participant, or a row where labels vary within participants.
        who: Participant of each unit.
        label: Label of each unit: the number in standard deviations, or whether they have each of ``names``.
        names: All levels; none for a number.
        levels: The levels looked for; none for a number.
        targets: What is looked for of each unit: the number, or whether they have each level.
        expected: What kept covariates let expect of them.
        sources: For each exchange and unit, the unit whose label it gets.
        left_out: Level -> how many people have it, and why nothing can be said of it.
        too_few: Why nothing can be said at all; empty where it can.
        told: What kept covariates alone tell of the label, and its interval.
    """

    rows: Int[np.ndarray, " rows"]
    starts: Int[np.ndarray, " units"]
    who: Int[np.ndarray, " units"]
    label: Float[np.ndarray, "units width"]
    names: tuple[str, ...]
    levels: tuple[str, ...]
    targets: Float[np.ndarray, "units outputs"]
    expected: Float[np.ndarray, "units outputs"]
    sources: Int[np.ndarray, "exchanges units"]
    left_out: dict[str, tuple[int, str]]
    too_few: str
    told: tuple[float, float, float]

    @property
    def people(self) -> int:
        """How many participants count."""
        return len(np.unique(self.who))

    def table(self, data: Float[np.ndarray, "_ columns"]) -> Float[np.ndarray, "units columns"]:
        """Return a row a unit: the mean of its rows."""
        return _means(data, self.rows, self.starts)


def audit_leakage(
    tables: Mapping[str, Float[np.ndarray, "people _"]],
    question: Question,
    seed: int,
    *,
    trained: Mapping[str, Mapping[str, float]] | None = None,
    margin: float = MARGIN,
    permutations: int = PERMUTATIONS,
    min_n: int = MIN_N,
) -> list[Finding]:
    """Measure what tables tell of one covariate.

    Args:
        tables: Name -> rows of audited people, whom the model never saw, without missing cells.
        question: The covariate: of a number the share of its variance that is told counts, of levels the AUC.
        seed: Of every random step.
        trained: Table -> level, or "" of a number -> how many people told the model what it does.
        margin: What `leakage_equivalence` asks the excess to be under, in units of the figure.
        permutations: Exchanges of labels.
        min_n: Fewest participants.

    Returns:
        ``leakage_kept``, what kept covariates alone tell; and of each table ``leakage`` (the figure, chance included, with the p
        of telling anything in any way), ``leakage_excess``, ``leakage_shape`` and ``leakage_equivalence`` (the upper 95% bound of
        the excess, and the p of its being the margin or more); of tables in ``trained`` also ``leakage_beyond_training``.

    Raises:
        CohortError: Tables with missing cells, or of other people.
    """
    name, kept = question.name, question.kept
    refuse_gaps({**tables, "kept covariates": kept}, len(question.values))
    asked = _ask(question, seed, permutations, min_n)
    found = [
        Finding("leakage", f"{table}/{name}={level}", count, status="insufficient", note=why)
        for table in tables
        for level, (count, why) in asked.left_out.items()
    ]
    metrics = ("leakage", "leakage_excess", "leakage_shape", "leakage_equivalence")
    if asked.too_few:
        groups = [("leakage_kept", name), *((metric, f"{table}/{name}") for table in tables for metric in metrics)]
        return found + [
            Finding(metric, group, asked.people, status="insufficient", note=asked.too_few) for metric, group in groups
        ]
    measure = "AUC" if asked.levels else "R2"
    told = f"{measure} of a regression on kept covariates, out of fold" if kept.shape[1] else "nothing is kept"
    found.append(Finding("leakage_kept", name, asked.people, *asked.told, note=told))
    for table, data in tables.items():
        predictors = TableStatistics.of(asked.table(data))
        read = _read(asked, predictors, seed)
        found += _of_table(f"{table}/{name}", asked, read, margin, given=bool(kept.shape[1]))
        people = (trained or {}).get(table, {})
        counts = np.array([people.get(level, 0.0) for level in asked.names or ("",)])
        if counts.all():
            found.append(_beyond_training(f"{table}/{name}", asked, predictors, read, counts, seed))
    return found


@dataclass(frozen=True)
class _Strongest:
    """The strongest of some readers, and of what level: the p of the choice, and standard deviations over exchanged labels."""

    p: float
    predictor: str
    strength: float


@dataclass(frozen=True)
class _Read:
    """Figures of one table: the linear statistic over exchanged labels, its value, its error, and the strongest statistics."""

    excess: float
    by_chance: float
    error: float
    any: _Strongest
    shape: _Strongest


def _read(asked: _Asked, predictors: TableStatistics, seed: int) -> _Read:
    """Read one table."""
    rng = np.random.default_rng([seed, 1])
    draws = np.concatenate([np.arange(len(asked.who))[None], asked.sources])
    # Parts know nothing of labels: balanced in the observed ones, they would treat these unlike exchanged ones.
    parts = np.stack(
        [stratified_group_split(asked.who, np.zeros(len(asked.who)), _FOLDS, rng) for _ in range(_REPEATS)]
    )
    weights = np.concatenate(list(sample_weights(asked.who, _DRAWS, rng)))
    rests = [(label[draws] - expected).T for label, expected in zip(asked.targets.T, asked.expected.T, strict=True)]
    centred = [rest - rest.mean(axis=0) for rest in rests]
    taught = predictors.taught(np.concatenate([rest[:, : _TAUGHT + 1] for rest in centred], axis=1), parts)
    strengths, figures, resampled = [], [], []
    for rest, own, scores in zip(rests, centred, np.split(taught, len(rests), axis=1), strict=True):
        read = predictors.read(own)
        strengths.append(_standardised(read))
        figures.append([_figure(scores[:, k], rest[:, k], asked) for k in range(scores.shape[1])])
        resampled.append(_figures(scores[:, 0], rest[:, 0], weights, asked))
    macro = np.mean(figures, axis=0)
    error = max(float(macro[1:].std()), float(np.nanstd(np.mean(resampled, axis=0))))
    if not asked.levels:
        error = max(error, _spread_of_halves(asked, predictors, rng))
    shapes = ShapeStatistics.of(predictors)
    taken = draws[: _SHAPES + 1]
    rests = [asked.targets[source] - asked.expected for source in taken]
    read = np.stack(
        [shapes.read(rest - rest.mean(axis=0), asked.label[k]) for rest, k in zip(rests, taken, strict=True)]
    )
    found = [
        _strongest(np.stack(strengths), predictors.names, asked),
        _strongest(_standardised(read.transpose(2, 1, 0)), shapes.names, asked),
    ]
    most = 0.5 if asked.levels else 1.0
    by_chance = float(macro[1:].mean())
    return _Read(min(float(macro[0]) - by_chance, most), by_chance, error, found[0], found[1])


def _spread_of_halves(asked: _Asked, predictors: TableStatistics, rng: np.random.Generator) -> float:
    """Return the spread of a number's figure over random halves of the people, taught anew in each, as Student's t has it."""
    figures = []
    for rows in random_halves(asked.who, _HALVED, rng):
        rest = (asked.targets - asked.expected)[rows]
        parts = stratified_group_split(asked.who[rows], np.zeros(len(rows)), _FOLDS, rng)[None]
        scores = predictors.among(rows).taught(rest - rest.mean(axis=0), parts)
        figures.append(_figure(scores[:, 0], rest[:, 0], asked))
    return float(np.std(figures, ddof=1)) * student(_HALVED - 1) / Z


def _standardised(read: np.ndarray) -> np.ndarray:
    """Return statistics in standard deviations over exchanges, the last axis."""
    spread = read.std(axis=-1, keepdims=True)
    strengths: np.ndarray = np.divide(read - read.mean(axis=-1, keepdims=True), spread, where=spread > 0, out=read * 0)
    return strengths


def _strongest(
    strengths: Float[np.ndarray, "outputs readers draws"], names: tuple[str, ...], asked: _Asked
) -> _Strongest:
    """Choose the strongest reader of any level, and say how often exchanged labels have one as strong."""
    largest = strengths.max(axis=(0, 1))
    level, predictor = divmod(int(strengths[:, :, 0].argmax()), len(names))
    name = f"{names[predictor]} of {asked.levels[level]}" if asked.levels else names[predictor]
    return _Strongest(float(np.mean(largest >= largest[0] - 1e-9)), name, float(largest[0]))


def _beyond_training(
    group: str,
    asked: _Asked,
    predictors: TableStatistics,
    read: _Read,
    counts: Float[np.ndarray, " directions"],
    seed: int,
) -> Finding:
    """Return the excess less that of a model without any fault but how few people of training tell what labels do."""
    rng = np.random.default_rng([seed, 2])
    people, figures = len(asked.who), []
    for source in asked.sources[:_MOVED]:
        steps = asked.label[source]
        drawn = rng.normal(size=(len(counts), people))
        errors = (drawn - drawn.mean(axis=1, keepdims=True)) / np.sqrt(people * counts[:, None])
        rest = asked.targets[source] - asked.expected
        parts = np.stack([stratified_group_split(asked.who, np.zeros(people), _FOLDS, rng) for _ in range(_REPEATS)])
        scores = predictors.taught_moved(steps, errors, rest - rest.mean(axis=0), parts)
        figures.append(np.mean([_figure(scores[:, k], rest[:, k], asked) for k in range(rest.shape[1])]))
    left = float(np.mean(figures)) - read.by_chance
    error = max(read.error, float(np.std(figures, ddof=1))) * (1 + 1 / len(figures)) ** 0.5
    low, high = (float(np.clip(read.excess - left + k * error, -1, 1)) for k in (-Z, Z))
    of = f"{counts.min():.0f} to {counts.max():.0f} people a level" if asked.levels else f"{counts[0]:.0f} people"
    note = f"{'AUC' if asked.levels else 'R2'}; {left:.3f} is what a model without fault leaves that learned from {of}"
    return Finding("leakage_beyond_training", group, asked.people, read.excess - left, low, high, note=note)


def _figure(scores: np.ndarray, rest: np.ndarray, asked: _Asked) -> float:
    return float(_figures(scores, rest, np.ones((1, len(rest))), asked)[0])


def _figures(scores: np.ndarray, rest: np.ndarray, weights: np.ndarray, asked: _Asked) -> np.ndarray:
    """Return the overlap-weighted AUC of a level, or the signed squared correlation with a number, of each sample."""
    if asked.levels:
        return weighted_area(scores, rest > 0, weights * np.abs(rest))
    return weighted_figures(scores[None, :, None], rest, weights, NUMBER)[:, 0]


def _of_table(group: str, asked: _Asked, read: _Read, margin: float, *, given: bool) -> list[Finding]:
    people, chance, measure = asked.people, 0.5 if asked.levels else 0.0, "AUC" if asked.levels else "R2"
    most = 1 - chance
    low, high = (float(np.clip(read.excess + k * read.error, -most, most)) for k in (-Z, Z))
    over = " given kept covariates" if given else ""
    note = (
        f"{measure} of a linear reader taught by four fifths of these people{over}; p: of any reader; strongest:"
        f" {read.any.predictor}, {read.any.strength:.1f} standard deviations over exchanged labels"
    )
    lower, bound = (float(np.clip(read.excess + k * read.error, -most, most)) for k in (-_ONE_SIDED, _ONE_SIDED))
    shape = f"standard deviations over exchanged labels of the strongest reader, means taken out{over}: {read.shape.predictor}"
    p_margin = float(norm.sf((margin - read.excess) / read.error)) if read.error > 0 else float(read.excess >= margin)
    shown = "shown to be under" if bound < margin else "not shown to be under"
    return [
        Finding("leakage", group, people, read.excess + chance, low + chance, high + chance, read.any.p, note=note),
        Finding("leakage_excess", group, people, read.excess, low, high, note=f"{measure} over exchanged labels{over}"),
        Finding("leakage_shape", group, people, read.shape.strength, p=read.shape.p, note=shape),
        Finding(
            "leakage_equivalence",
            group,
            people,
            bound,
            lower,
            bound,
            p_margin,
            note=f"upper {LEVEL:.0%} bound (ci_low: lower) of {measure} over exchanged labels{over};"
            f" p: that it is {margin:g} or more;"
            f" {shown} the margin",
        ),
    ]


def _ask(question: Question, seed: int, permutations: int, min_n: int) -> _Asked:
    """Prepare a covariate: who counts, what kept covariates let expect of them, and exchanges of labels."""
    values, kept, continuous = question.values, question.kept, question.continuous
    rng = np.random.default_rng(seed)
    who = participant_codes(question.participants)
    known = values.notna().to_numpy().copy()
    own = np.unique(who[known])
    if len(own) > MOST:
        known &= np.isin(who, rng.permutation(own)[:MOST])
    left_out: dict[str, tuple[int, str]] = {}
    labels = values.to_numpy(float, na_value=np.nan) if continuous else values.astype(str).to_numpy(object)
    if not continuous:
        counts = pd.Series(who[known]).groupby(labels[known]).nunique()
        few = counts[counts < 2 * FEWEST]
        left_out = {
            str(level): (int(count), f"{count} people; {2 * FEWEST} are needed") for level, count in few.items()
        }
        known &= ~np.isin(labels, list(left_out))
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(who[rows], kind="stable")]
    levels, codes = np.unique(labels[rows], return_inverse=True)
    first = np.flatnonzero(np.diff(who[rows], prepend=-1))
    fixed = len(first) > 0 and bool(np.all(codes == np.repeat(codes[first], np.diff([*first, len(rows)]))))
    starts = first if fixed else np.arange(len(rows))
    unit_who, numbers = who[rows][starts], (labels[rows].astype(float) if continuous else codes.astype(float))[starts]
    people, free = len(first), exchangeable(unit_who)
    too_few = ""
    if min(people, free) < max(min_n, FEWEST):
        too_few = f"{people} people, {free} of them with as many sessions as others; {max(min_n, FEWEST)} are needed"
    elif len(levels) < 2:
        too_few = (
            f"fewer than two levels have {2 * FEWEST} people" if not continuous else "everybody has the same value"
        )
    nothing = np.zeros((0, len(starts)))
    if too_few:
        gone = (float("nan"),) * 3
        empty = nothing.T
        return _Asked(rows, starts, unit_who, empty, (), (), empty, empty, nothing.astype(int), left_out, too_few, gone)
    given = _means(kept, rows, starts)
    targets = numbers[:, None] if continuous else np.eye(len(levels))[numbers.astype(int)]
    expected = expected_labels(numbers, given, continuous=continuous)
    names = () if continuous else tuple(map(str, levels))
    overlap = 4 * (expected * (1 - expected)).sum(axis=0) if not continuous else np.array([np.inf])
    lone = [k for k, size in enumerate(overlap) if size < 2 * FEWEST]
    for k in lone:
        alone = "kept covariates tell who they are, so that nobody is like them"
        left_out[names[k]] = (len(np.unique(unit_who[numbers == k])), alone)
    looked = [k for k in range(targets.shape[1]) if k not in lone]
    if len(names) == 2:
        looked = looked[:1]  # of two levels one says all
    if not looked:
        too_few = "kept covariates tell every level: nobody of one is like anybody of another"
    if given.shape[1]:
        sources = conditional_exchanges(unit_who, numbers, given, permutations, rng, continuous=continuous)
    else:
        sources = np.concatenate(list(permuted(unit_who, numbers, rows_each(unit_who), permutations, rng)))
    told = _told_by_kept(numbers, given, unit_who, len(names), rng)
    shown = tuple(names[k] for k in looked) if names else ()
    return _Asked(
        rows,
        starts,
        unit_who,
        targets if names else (targets - targets.mean()) / max(float(targets.std()), 1e-300),
        names,
        shown,
        targets[:, looked],
        expected[:, looked],
        sources,
        left_out,
        too_few,
        told,
    )


def _told_by_kept(
    numbers: np.ndarray, given: np.ndarray, who: np.ndarray, levels: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return what a regression on kept covariates tells of labels out of fold (macro AUC, or R2), with its interval."""
    if not given.shape[1]:
        at = 0.5 if levels else 0.0
        return at, at, at
    part = stratified_group_split(who, numbers, _FOLDS, rng)
    measure = AUC if levels else NUMBER
    scores = np.zeros((1 + _FOLDS, len(numbers), max(levels, 1)))
    for number, without in combinations_with_replacement(range(_FOLDS), 2):
        rest = (part != number) & (part != without)
        if levels and len(np.unique(numbers[rest])) < levels:
            continue
        at = (part == number) | (part == without)
        told = expected_labels(numbers[rest], given[rest], continuous=not levels, at=given[at])
        if number == without:
            scores[0, at] = told
            continue
        # Whoever is read is read by those who were taught neither by their own fold nor by the one that is left out.
        for own, other in ((number, without), (without, number)):
            scores[1 + other, part == own] = told[part[at] == own]
            if other == (own + 1) % _FOLDS:
                scores[1 + own, part == own] = told[part[at] == own]
    weights = np.concatenate([np.ones((1, len(who))), *sample_weights(who, _DRAWS, rng)])
    figures = weighted_figures(scores[:1], numbers, weights, measure)[:, 0]
    of_folds = weighted_figures(scores[1:], numbers, weights[:1], measure)[0]
    low, high = figure_interval(measure, float(figures[0]), figures[1:], of_folds)
    if levels == 2:  # which has a width where everybody is told apart
        people = [len(np.unique(who[numbers == level])) for level in range(2)]
        ends = area_interval(float(figures[0]), *people)
        low, high = min(low, ends[0]), max(high, ends[1])
    return float(figures[0]), low, high


def _means(data: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the mean of each unit's rows."""
    if len(starts) == len(rows):
        return np.asarray(data[rows])
    counts = np.diff([*starts, len(rows)])[:, None]
    means: np.ndarray = np.add.reduceat(np.asarray(data[rows], dtype=float), starts, axis=0) / counts
    return means
