"""Associations between covariates, and interactions of their effects.

For a pair of effect covariates, q columns z of products (standardised value x standardised value or level) are added to the
design of the model. With R the residuals of sampled columns on the design as declared, each person in units of their batch's
deviation, and Q an orthonormal basis of the part of z outside the design, column v has the share of variance

    t_v = |Q^T R_v|^2 / |M R_v|^2,    M the projection off the design.

The test takes the mean and the maximum over columns, against permutations of R between people (Freedman and Lane 1983), which
keep the columns' correlation, and the smaller p of the two, calibrated by the same permutations; over pairs it is corrected
by Holm's rule. Repeated scans of a person are averaged first, so that people are what is exchanged.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep.cohort.covariates import Categorical, Continuous, CovariateSchema, membership
from medrep.models.linear.design import Design

ALIASED, STRONG, MODERATE = 0.999, 0.7, 0.4


def confounding(
    frame: pd.DataFrame, schema: CovariateSchema, participants: Sequence[str] | None = None
) -> pd.DataFrame:
    """Measure the association of every pair of covariates.

    Args:
        frame: The people's covariates.
        schema: What they are.
        participants: Whose each row is, the first of which is looked at; by default each is a person.

    Returns:
        Tidy table, strongest first: first, second, measure (``|r|``, ``eta`` or ``V``, each 0 to 1; eta and V corrected for
        the number of levels), n, estimate, verdict (``aliased``, ``strong``, ``moderate``, ``weak``).
    """
    if participants is not None:
        frame = frame[~pd.Series(list(participants)).duplicated().to_numpy()]
    rows = []
    for first, second in combinations(schema.fitted, 2):
        a, b = frame[first.declared.name], frame[second.declared.name]
        if isinstance(first, Continuous) and isinstance(second, Continuous):
            measure, estimate = "|r|", correlation(a.to_numpy(float), b.to_numpy(float))
        elif isinstance(first, Categorical) and isinstance(second, Categorical):
            measure, estimate = "V", _cramers_v(a.astype(str), b.astype(str))
        else:
            numbers, levels = (a, b) if isinstance(first, Continuous) else (b, a)
            measure, estimate = "eta", correlation_ratio(numbers.to_numpy(float), levels.astype(str))
        names = (first.declared.name, second.declared.name)
        rows.append((*names, measure, len(frame), estimate, _verdict(estimate)))
    table = pd.DataFrame(rows, columns=["first", "second", "measure", "n", "estimate", "verdict"])
    return table.sort_values("estimate", ascending=False, ignore_index=True)


def small_levels(
    schema: CovariateSchema,
    least: int = 10,
    *,
    frame: pd.DataFrame | None = None,
    participants: Sequence[str] | None = None,
) -> list[str]:
    """Return one line for each level with fewer people than ``least``.

    Args:
        schema: The covariates, with how many rows have each level.
        least: Fewest people that are no worry.
        frame: Covariates of the rows, where a person can have several.
        participants: Whose each row is.
    """
    lines = []
    for covariate in schema.fitted:
        if not isinstance(covariate, Categorical):
            continue
        counts = dict(zip(covariate.levels, covariate.counts, strict=True))
        if frame is not None and participants is not None:
            who = pd.Series(list(participants)).groupby(frame[covariate.declared.name].astype(str).to_numpy()).nunique()
            counts = {level: int(who.get(level, 0)) for level in covariate.levels}
        lines += [
            f"{covariate.declared.name} {level!r} has {count} {'person' if count == 1 else 'people'}"
            for level, count in counts.items()
            if count < least
        ]
    return lines


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the absolute correlation; 0 where one of them has the same value for everybody."""
    return abs(float(np.corrcoef(a, b)[0, 1])) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def correlation_ratio(numbers: np.ndarray, levels: pd.Series) -> float:
    """Return the correlation ratio, 0 to 1.

    Its square is adjusted like R2 (epsilon squared), so that many small levels do not inflate it.

    Args:
        numbers: One a person.
        levels: One a person.
    """
    if not np.ptp(numbers) > 0:
        return 0.0
    groups = pd.Series(numbers).groupby(levels.to_numpy())
    total = float(((numbers - numbers.mean()) ** 2).sum())
    within = float(((numbers - groups.transform("mean").to_numpy()) ** 2).sum())
    n, k = len(numbers), groups.ngroups
    if n <= k:
        return 1.0
    adjusted = 1 - (within / (n - k)) / (total / (n - 1))
    return float(np.sqrt(np.clip(adjusted, 0, 1)))


def _cramers_v(a: pd.Series, b: pd.Series) -> float:
    """Cramer's V with the bias correction of Bergsma (2013)."""
    counts = pd.crosstab(a.to_numpy(), b.to_numpy()).to_numpy(float)
    n, (r, k) = counts.sum(), counts.shape
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / n
    phi2 = float(((counts - expected) ** 2 / expected).sum() / n)
    if n <= 1 or min(r, k) < 2:
        return 0.0
    if np.isclose(phi2, min(r, k) - 1):
        return 1.0
    corrected = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
    rows, columns = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)
    return float(np.sqrt(min(1.0, corrected / max(min(rows, columns) - 1, 1e-9))))


def _verdict(estimate: float) -> str:
    if estimate >= ALIASED:
        return "aliased"
    return "strong" if estimate >= STRONG else "moderate" if estimate >= MODERATE else "weak"


LEVEL = 0.05
_MOST_COLUMNS, _MOST_SPOTS = 64, 128
_MOST_PEOPLE = 2000
_FEWEST_IN_CELL = 5
_SPARE = 10
_FIRST, _PERMUTATIONS, _MOST_PERMUTATIONS = 99, 499, 1999
_CLEARLY_NOT = 0.3
_PRIOR_PEOPLE = 10.0


@dataclass(frozen=True)
class Interaction:
    """Result of the test of one pair.

    Attributes:
        covariates: The pair.
        share: Mean over columns of the share of what is left of their variance that the product explains, its expectation
            without interaction taken off.
        p: Corrected for the number of pairs.
        n: People.
    """

    covariates: tuple[str, str]
    share: float
    p: float
    n: int

    @property
    def found(self) -> bool:
        """True if the pair interacts."""
        return self.p < LEVEL


def sample_columns(count: int) -> Int[np.ndarray, " some"]:
    """Return which of ``count`` columns are looked at: all, or some evenly spread, background included."""
    return _spread(count, _MOST_SPOTS)


def probe_interactions(
    data: Float[np.ndarray, "rows columns"],
    frame: pd.DataFrame,
    schema: CovariateSchema,
    *,
    degrees: int,
    declared: Sequence[Sequence[str]] = (),
    participants: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[Interaction, ...]:
    """Test every pair of effect covariates that is not declared to interact.

    Args:
        data: Some columns (`sample_columns`); those with missing cells, or with one value for half of the people, are left out.
        frame: Covariates of the rows.
        schema: The covariates.
        degrees: Degrees of freedom of continuous effects in the model.
        declared: Interactions that the model has already.
        participants: Whose each row is; by default each is a person.
        seed: Of the permutations.

    Returns:
        One result a pair, in the order of the covariates; none where there are too few people to tell.
    """
    effects = [name for name in schema.names if name not in schema.batches]
    known = {frozenset(pair) for group in declared for pair in combinations(group, 2)}
    pairs = [pair for pair in combinations(effects, 2) if frozenset(pair) not in known]
    if not pairs:
        return ()
    who = np.arange(len(frame)) if participants is None else np.unique(participants, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(np.isin(who, rng.permutation(int(who.max()) + 1)[:_MOST_PEOPLE]))
    frame, who = frame.iloc[chosen], np.unique(who[chosen], return_inverse=True)[1]
    columns = _usable(np.asarray(data, dtype=np.float64)[chosen])
    if len(frame) <= _SPARE or frame[effects].nunique().min() < 2:
        return ()
    design = Design.fit(schema, frame, degrees, declared)
    batches = design.batches(frame)
    base = np.concatenate([design.effects(frame), batches], axis=1)
    products = [_products(frame, schema, pair, who) for pair in pairs]
    if columns.shape[1] == 0 or who.max() + 1 < np.linalg.matrix_rank(base) + _SPARE:
        return ()
    columns, base, batches, *products = (_person_means(part, who) for part in (columns, base, batches, *products))
    weights = _weights(columns, base, batches)[:, None]
    columns, base = columns * weights, base * weights
    basis = _orthonormal(base)
    residuals = _off(basis, columns)
    residuals /= np.sqrt((residuals**2).sum(axis=0))
    directions = [_orthonormal(_off(basis, product * weights), 1e-6) for product in products]
    tested = [k for k, own in enumerate(directions) if own.shape[1]]
    if not tested:
        return ()
    n, shares = len(columns), [_shares(residuals, basis, directions)]
    for draws in (_FIRST, min(max(_PERMUTATIONS, 50 * len(pairs)), _MOST_PERMUTATIONS)):
        while len(shares) <= draws:
            shares.append(_shares(residuals[rng.permutation(n)], basis, directions))
        p = [combined_p(np.array([[own[k].mean(), own[k].max()] for own in shares])) for k in tested]
        if min(p) > _CLEARLY_NOT:
            break
    usual = [float(np.mean([own[k].mean() for own in shares[1:]])) for k in tested]
    return tuple(
        Interaction(pairs[k], max(float(shares[0][k].mean()) - chance, 0.0), corrected, n)
        for k, chance, corrected in zip(tested, usual, _holm(p), strict=True)
    )


def suggestion(found: Collection[Interaction], declared: Sequence[Sequence[str]], setting: str) -> str:
    """Return the ``--set`` that declares the interactions found beside those that are there, or an empty text.

    Args:
        found: What was tested.
        declared: Interactions that the configuration has.
        setting: Its key, for instance ``settings.interactions``.
    """
    new = [result.covariates for result in found if result.found]
    groups = ", ".join(f"[{', '.join(group)}]" for group in [*declared, *new])
    return f"--set '{setting}=[{groups}]'" if new else ""


def _usable(data: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows usable"]:
    data = data[:, np.isfinite(data).all(axis=0)]
    spread = data.std(axis=0) > 1e-9 * np.abs(data).max(axis=0, initial=0)
    middle = np.sort(data, axis=0)[len(data) // 2] if len(data) else np.zeros(data.shape[1])
    usable = np.flatnonzero(spread & ((data == middle).mean(axis=0) < 0.5))
    return data[:, usable[_spread(len(usable), _MOST_COLUMNS)]]


def _spread(count: int, most: int) -> Int[np.ndarray, " some"]:
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def _products(
    frame: pd.DataFrame, schema: CovariateSchema, pair: tuple[str, str], who: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows products"]:
    """Return products of the two covariates, without those of too few people."""
    parts = []
    for name in pair:
        covariate = schema[name]
        if isinstance(covariate, Continuous):
            parts.append(((frame[name].to_numpy(float) - covariate.mean) / covariate.sd)[:, None])
        else:
            parts.append(membership(frame[name], covariate)[:, 1:])
    product = (parts[0][:, :, None] * parts[1][:, None, :]).reshape(len(frame), -1)
    people = np.array([len(np.unique(who[column != 0])) for column in product.T])
    return product[:, people >= _FEWEST_IN_CELL] if product.shape[1] else product


def _person_means(rows: Float[np.ndarray, "rows columns"], who: Int[np.ndarray, " rows"]) -> np.ndarray:
    people = int(who.max()) + 1
    if people == len(rows):
        return rows
    sums = np.zeros((people, rows.shape[1]))
    np.add.at(sums, who, rows)
    means: np.ndarray = sums / np.bincount(who)[:, None]
    return means


def _weights(columns: np.ndarray, base: np.ndarray, batches: np.ndarray) -> Float[np.ndarray, " people"]:
    """Return one over each person's usual deviation: that of their batch, levels of few people drawn towards all."""
    basis = _orthonormal(base)
    residuals = _off(basis, columns)
    squares = (residuals**2 / np.maximum((residuals**2).mean(axis=0), 1e-300)).mean(axis=1)
    freedom = np.maximum(1 - (basis**2).sum(axis=1), 1e-6)
    log_variance = np.zeros(len(columns))
    for level in batches.T:
        if level.any():
            ratio = (level @ squares + _PRIOR_PEOPLE) / (level @ freedom + _PRIOR_PEOPLE)
            log_variance += level * np.log(ratio)
    weights: np.ndarray = np.exp(-log_variance / 2)
    return weights


def _orthonormal(columns: np.ndarray, least: float = 1e-9) -> np.ndarray:
    """Return an orthonormal basis of the span of columns, each of which counts as large as it is."""
    sizes = np.sqrt((columns**2).mean(axis=0))
    columns = columns[:, sizes > least]
    if not columns.shape[1]:
        return columns
    left, values, _ = np.linalg.svd(columns / sizes[sizes > least], full_matrices=False)
    return left[:, values > 1e-7 * values[0]]


def _off(basis: np.ndarray, columns: np.ndarray) -> np.ndarray:
    rest: np.ndarray = columns - basis @ (basis.T @ columns)
    return rest


def _shares(residuals: np.ndarray, basis: np.ndarray, directions: list[np.ndarray]) -> list[np.ndarray]:
    """Return t_v of each pair."""
    whole = np.maximum((residuals**2).sum(axis=0) - ((basis.T @ residuals) ** 2).sum(axis=0), 1e-12)
    return [((own.T @ residuals) ** 2).sum(axis=0) / whole for own in directions]


def combined_p(statistics: Float[np.ndarray, "draws two"]) -> float:
    """Return the p of the better of two statistics; the first draw is the one observed."""
    best = (pd.DataFrame(-statistics).rank(method="max").to_numpy() / len(statistics)).min(axis=1)
    return float((best <= best[0]).mean())


def _holm(p: Sequence[float]) -> list[float]:
    order = np.argsort(p)
    corrected = np.maximum.accumulate([min(1.0, p[k] * (len(p) - rank)) for rank, k in enumerate(order)])
    found = np.empty(len(p))
    found[order] = corrected
    return [float(value) for value in found]
