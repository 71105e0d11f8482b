"""Regions: from which columns a reader of the data tells a covariate or an outcome.

A linear reader (ridge regression, tuned within the half that teaches it) tells a label y of people of the other half from all
columns x. Then they are read again without region g, the columns of which are replaced by what all others let expect,

    x_g <- E(x_g | x_-g) = L_g^T z,    z = (I + sum_{h != g} L_h P_h L_h^T)^-1 sum_{h != g} L_h P_h x_h,    P = diag(1 / psi),

and with region g alone, all others replaced by what g lets expect. Cov(x) = L^T L + diag(psi) is the factor model of the half
that teaches (`FactorModel`), in deviations of its columns, with the number of factors that predicts regions of people best who
did not fit it. A model's own factors are not taken: they are of residuals given the covariates, so that an expectation needs the
label that is asked for, and would write it into the region. Sums over regions are all that is kept, so that voxels cost a pass
and no matrix of voxels is made.

A box of zeros (of the mean) in the place of a region takes away, too, what the reader uses the region for beside its own: columns
that cancel what others have in common with it. The expectation leaves what can be told from elsewhere, so that

- `region_reliance` is what is read of all less what is read without g: what g tells that no other region does. That may be what
  others share with a region in which the label is: it tells these apart. Its p exchanges between people what g has beyond its
  expectation, x_g - E(x_g | x_-g), as the reader weighs it: a permutation test of y and x_g given all else, where this rest does
  not hang on the others (they go together linearly);
- `region_only` is what g alone tells, what it shares with others included; its p exchanges labels.

Intervals are of resampled people, the same ones for both sides, longer by who taught the reader (`taught_interval`). One row a
person, the first one.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata
from sklearn.cluster import KMeans

from medrep.audit.data import MOST_COLUMNS, AuditData
from medrep.audit.finding import Finding
from medrep.audit.holdout_split import HoldoutSplit, Probing
from medrep.audit.intervals import permutation_p
from medrep.audit.linear_reader import Reading, TaughtColumns, reader_weights
from medrep.audit.probe_figures import NUMBER
from medrep.audit.utility import first_rows
from medrep.cohort.grid import Columns
from medrep.cohort.regions import Regions
from medrep.models.chunks import ChunkSource
from medrep.models.vae.components import FactorModel

ANATOMY, BACKGROUND = "anatomy", "background"
MOST_FEATURES = 64
"""Of how many features at most each one is a region where nobody names regions."""
METRICS = ("region_full", "region_reliance", "region_only")
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of factors that are tried."""
_PORTIONS = 8  # of exchanges


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores that a reader gives the people of the other half.

    Readers are the one taught by the whole half and, after it, those taught without each fold of it; outputs are the number,
    or the levels.

    Attributes:
        full: Of all columns.
        without: With each region replaced by its expectation.
        only: With all others replaced by theirs.
        box: With each region replaced by its mean.
        factors: How many factors the expectations are of.
    """

    full: Float[np.ndarray, "test readers outputs"]
    without: Float[np.ndarray, "regions test readers outputs"]
    only: Float[np.ndarray, "regions test readers outputs"]
    box: Float[np.ndarray, "regions test readers outputs"]
    factors: int


@dataclass(frozen=True, eq=False)
class RegionFigures:
    """Figures of regions.

    Attributes:
        full: Of all columns: the figure, its interval and p.
        reliance: The same of each region, all columns less all but these.
        only: The same of each region alone.
    """

    full: tuple[float, float, float, float]
    reliance: list[tuple[float, float, float, float]]
    only: list[tuple[float, float, float, float]]


def region_scores(table: Float[np.ndarray, "people columns"], split: HoldoutSplit, regions: Regions) -> RegionScores:
    """Teach a reader on one half and read the other one in all versions.

    Args:
        table: Rows as those of the labels, one a person, without missing cells.
        split: The halves.
        regions: Of the columns.
    """
    columns = TaughtColumns(table, split.train)
    weights = reader_weights(columns, split)
    factors = _factors(columns, regions, split.seed)
    people, count, readers = len(split.test), len(regions.names), weights.shape[1] * weights.shape[2]
    own, told = np.zeros((count, people, readers)), np.zeros((count, len(factors.loadings), readers))
    sums = _Evidence.empty(count, len(factors.loadings), people)
    both, taught = np.concatenate([split.train, split.test]), len(split.train)
    for part, block in columns.chunks(both):
        of_readers = block[:taught].T @ weights.reshape(taught, readers) / table.shape[1]
        for code in np.unique(regions.codes[part]).tolist():
            some = np.flatnonzero(regions.codes[part] == code)
            loadings = factors.loadings[:, part][:, some]
            own[code] += block[taught:, some] @ of_readers[some]
            told[code] += loadings @ of_readers[some]
            sums.add(code, loadings, factors.noise[part][some], block[taught:, some])
    shape = (count, people, *weights.shape[1:])
    without, only = np.zeros(own.shape), np.zeros(own.shape)
    for code in range(count):
        without[code] = own.sum(axis=0) - own[code] + sums.expected(code, others=True).T @ told[code]
        only[code] = own[code] + sums.expected(code, others=False).T @ (told.sum(axis=0) - told[code])
    return RegionScores(
        own.sum(axis=0).reshape(shape[1:]),
        without.reshape(shape),
        only.reshape(shape),
        (own.sum(axis=0) - own).reshape(shape),
        len(factors.loadings),
    )


@dataclass(frozen=True, eq=False)
class _Evidence:
    """Sums over the columns of each region by which factors are expected: L P L^T, and L P x of each person."""

    precision: Float[np.ndarray, "regions factors factors"]
    seen: Float[np.ndarray, "regions factors people"]

    @classmethod
    def empty(cls, regions: int, factors: int, people: int) -> "_Evidence":
        return cls(np.zeros((regions, factors, factors)), np.zeros((regions, factors, people)))

    def add(self, code: int, loadings: np.ndarray, noise: np.ndarray, values: np.ndarray) -> None:
        """Count some columns of a region in."""
        weighted = loadings * np.divide(1, noise, out=np.zeros_like(noise), where=noise > 0)
        self.precision[code] += weighted @ loadings.T
        self.seen[code] += weighted @ values.T

    def expected(self, code: int, *, others: bool) -> Float[np.ndarray, "factors people"]:
        """Return what a region, or all others, let expect of the factors."""
        precision, seen = self.precision[code], self.seen[code]
        if others:
            precision, seen = self.precision.sum(axis=0) - precision, self.seen.sum(axis=0) - seen
        return np.linalg.solve(np.eye(len(precision)) + precision, seen)


def _factors(columns: TaughtColumns, regions: Regions, seed: int) -> FactorModel:
    """Fit the factor model of the half that teaches."""
    train = columns.train
    most = min(_COUNTS[-1], max(1, len(train) // 4), columns.table.shape[1])
    tried = [count for count in _COUNTS if count <= most]
    some = np.arange(columns.table.shape[1])
    rng = np.random.default_rng([seed, 7])
    if len(some) > MOST_COLUMNS:
        some = np.sort(rng.choice(len(some), MOST_COLUMNS, replace=False))
    table, codes = columns.block(some, train), regions.codes[some]
    part = rng.permutation(len(train)) % 2
    missed = [
        sum(_missed(table[part != half], table[part == half], codes, count) for half in (0, 1)) for count in tried
    ]
    source = ChunkSource((len(train), columns.table.shape[1]), lambda part: columns.block(part, train))
    return FactorModel.fit(source, max(len(train) - 1.0, 1.0), tried[int(np.argmin(missed))], seed=0)


def _missed(fit: np.ndarray, left: np.ndarray, codes: np.ndarray, count: int) -> float:
    """Return the squares that expectations of regions miss in people who did not fit them."""
    mean = fit.mean(axis=0)
    factors = FactorModel.fit(ChunkSource.of(fit - mean), max(len(fit) - 1.0, 1.0), count, seed=0)
    values = left - mean
    names, own = np.unique(codes, return_inverse=True)
    sums = _Evidence.empty(len(names), len(factors.loadings), len(values))
    for code in range(len(names)):
        some = own == code
        sums.add(code, factors.loadings[:, some], factors.noise[some], values[:, some])
    missed = 0.0
    for code in range(len(names)):
        expected = sums.expected(code, others=True).T @ factors.loadings[:, own == code]
        missed += float(((values[:, own == code] - expected) ** 2).sum())
    return missed


def region_figures(scores: RegionScores, split: HoldoutSplit) -> RegionFigures:
    """Judge regions by the half that did not teach.

    Args:
        scores: Of its people.
        split: The halves.
    """
    full = Reading.of(scores.full, split)
    reliance, only = [], []
    for without, alone in zip(scores.without, scores.only, strict=True):
        rest = Reading.of(without, split)
        low, high = full.minus(rest, split)
        p = _exchanged_p(without[:, 0], scores.full[:, 0] - without[:, 0], split)
        reliance.append((full.figure - rest.figure, low, high, p))
        only.append(Reading.of(alone, split).summary(alone, split))
    return RegionFigures(full.summary(scores.full, split), reliance, only)


def _exchanged_p(
    without: Float[np.ndarray, "test outputs"], rest: Float[np.ndarray, "test outputs"], split: HoldoutSplit
) -> float:
    """Return p of the full figure where what a region has beyond its expectation is exchanged between people."""
    labels = split.labels[split.test]
    figures = np.concatenate(
        [
            _figures(without, rest, own, labels, split.measure)
            for own in np.array_split(np.concatenate([np.arange(len(labels))[None], split.sources]), _PORTIONS)
        ]
    )
    return permutation_p(float(figures[0]), figures[1:])


def _figures(
    without: np.ndarray, rest: np.ndarray, sources: np.ndarray, labels: np.ndarray, measure: str
) -> Float[np.ndarray, " draws"]:
    """Return the figure of scores whose rest comes from other people; figures as `weighted_figures`."""
    scores = without + rest[sources]
    if measure == NUMBER:
        x = scores[:, :, 0] - scores[:, :, 0].mean(axis=1, keepdims=True)
        y = labels - labels.mean()
        below = np.linalg.norm(x, axis=1) * np.linalg.norm(y)
        r = np.divide(x @ y, below, out=np.zeros(len(x)), where=below > 1e-12)
        return r * np.abs(r)
    areas = []
    # Of two levels the scores are each other's opposites, and so say the same.
    for level in range(1 if scores.shape[2] == 2 else 0, scores.shape[2]):
        member = labels == level
        ones, others = int(member.sum()), int((~member).sum())
        if ones and others:
            ranks = rankdata(scores[:, :, level], axis=1)
            areas.append((ranks[:, member].sum(axis=1) - ones * (ones + 1) / 2) / (ones * others))
    return np.mean(areas, axis=0)


def usual_regions(columns: Columns, data: Float[np.ndarray, "people columns"]) -> Regions:
    """Return regions where nobody named any: each feature by itself; of scans what is bright in the average one, and the rest.

    The two are those of least variance within each (Otsu 1979).

    Args:
        columns: The model's.
        data: Of people in these columns.
    """
    if columns.names:
        return Regions.of(columns.names)
    mean = np.nan_to_num(data.mean(axis=0, dtype=float))[:, None]
    bright = KMeans(2, init=np.array([mean.min(axis=0), mean.max(axis=0)]), n_init=1).fit_predict(mean) == 1
    return Regions.of(np.where(bright, ANATOMY, BACKGROUND).tolist())


def audit_regions(
    data: AuditData,
    regions: Regions,
    outcome: "tuple[pd.Series, bool] | None" = None,
    *,
    min_n: int = 20,
    seed: int = 0,
) -> list[Finding]:
    """Find out from which regions covariates and the outcome are read.

    Args:
        data: People whom the model never saw.
        regions: Of all columns of the model.
        outcome: A value a row, missing where it is not known, and whether it is a number; None: none is named.
        min_n: Fewest people who are read.
        seed: Of halves, samples and exchanges.

    Returns:
        ``region_full`` of each label in what is handed out (``exported/age``), and of removed ones in the data as they are
        (``raw/site``); ``region_reliance`` and ``region_only`` of each region (``exported/age & thalamus``), the one most relied
        on first.
    """
    asked = {name: (data.frame[name], data.continuous(name)) for name in data.schema.names}
    if outcome is not None:
        asked[str(outcome[0].name)] = outcome
    own = regions.among(data.whole)
    found: list[Finding] = []
    for name, (values, continuous) in asked.items():
        known = np.flatnonzero(values.notna().to_numpy())
        rows = known[first_rows(data.participants[known])]
        probing = Probing(min_n=min_n, probes=("linear",))
        split = HoldoutSplit.of(
            values.iloc[rows], data.participants[rows], seed, continuous=continuous, probing=probing
        )
        for table in ("raw", "exported") if name in data.removed else ("exported",):
            group = f"{table}/{name}"
            if split.too_few or len(own.names) < 2:
                why = split.too_few or "fewer than two regions have columns without missing cells"
                found += [Finding(metric, group, split.people, status="insufficient", note=why) for metric in METRICS]
                continue
            scores = region_scores(data.tables[table][rows], split, own)
            found += _findings(group, region_figures(scores, split), split, own, scores.factors)
    return found


def _findings(group: str, figures: RegionFigures, split: HoldoutSplit, regions: Regions, factors: int) -> list[Finding]:
    people, measure, full = split.people, split.measure, figures.full[0]
    note = f"{measure} of a linear reader of all columns; {split.note}"
    found = [Finding(METRICS[0], group, people, *figures.full, note=note)]
    order: list[int] = np.argsort([-own[0] for own in figures.reliance], kind="stable").tolist()
    columns = np.bincount(regions.codes, minlength=len(regions.names))
    for rank, place in enumerate(order, start=1):
        reliance, only = figures.reliance[place], figures.only[place]
        where = f"{group} & {regions.names[place]}"
        said = (
            f"rank {rank} of {len(order)}; {measure} {full:.3f} of all, {full - reliance[0]:.3f} without its {columns[place]}"
            f" columns, {only[0]:.3f} of these alone; expectations by {factors} factors"
        )
        found.append(Finding(METRICS[1], where, people, *reliance, note=said))
        found.append(Finding(METRICS[2], where, people, *only, note=f"{measure} of {columns[place]} columns alone"))
    return found
