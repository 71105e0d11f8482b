"""Mechanisms: is a column's relation to a kept covariate another one at each site? Location and scale cannot mend that.

For a batch and a kept covariate, X are 1, natural splines of numbers, levels, and all batches; Z are products of each level of
the batch with the covariate, as far as X does not span them. With r what X leaves of a column, the score s = Z'r is a sum of what
people do to it. The test turns the sign of everybody's part at random (a wild bootstrap under the reduced model, Wu 1986; sign
flips of effective scores, Hemerik, Goeman and Finos 2020): all visits of a person turn together, and no two sites, and no two
people of one, need to spread alike. Parts are made larger by 1 / sqrt(1 - leverage), so that they vary as errors do and
not as residuals. With S their matrix (people x products), U its left singular vectors and f the signs,

    Q(f) = |U'f|^2,   observed Q = s'(S'S)^-1 s.

A column's p is the share of turned signs with as large a Q. Where fewer than ten are, it is the tail of chi-square on as many
degrees of freedom as products: no moment of Q under random signs is above that of a chi-square (Khintchine). The test of all
columns takes their mean and their largest Q under the same signs, and the smaller p of the two, calibrated by these.

The size of a mechanism is the standard deviation of slopes over sites (weighted by people), per standard deviation of the
covariate, in deviations of what the model leaves of the column. With b the slopes, C their sandwich covariance and A the form
of the variance over sites, b'Ab less tr AC estimates its square; tr(AC AC) / tr AC times a non-central chi-square of the
degrees tr(AC)^2 / tr(AC AC) serves as its distribution (Patnaik 1949), and is inverted for the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.optimize import brentq
from scipy.stats import chi2, false_discovery_control, ncx2

from medrep.audit.confounding import combined_p
from medrep.audit.data import MOST_COLUMNS, AuditData, design_basis, residual
from medrep.audit.finding import Finding
from medrep.audit.intervals import LEVEL, participant_codes, permutation_p
from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.models.linear.design import natural_spline, spline_knots

FOUND = 0.05
"""Share of false ones among columns that are said to have a mechanism (Benjamini and Hochberg 1995)."""
FLIPS = 999
_MOST_COLUMNS, _MOST_PEOPLE, _SHOWN = 1024, 2000, 10
_AT_SITE, _SPARE, _DEGREES = 10, 10, 4
_AT_ONCE = 64  # columns
_IN_TAIL = 10  # turned signs that a share is made of at least
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Products:
    """Batch x covariate, ready to be looked for.

    Attributes:
        base: Columns of the reduced model.
        products: Columns that are added: each contrast of the covariate at each level of the batch.
        shares: Share of people at each of these levels.
        participants: A code of the person of each row.
        too_few: Why nothing can be said; empty where it can.
    """

    base: Float[np.ndarray, "rows width"]
    products: Float[np.ndarray, "rows more"]
    shares: Float[np.ndarray, " levels"]
    participants: Int[np.ndarray, " rows"]
    too_few: str = ""

    @property
    def people(self) -> int:
        """How many people there are."""
        return len(np.unique(self.participants))


@dataclass(frozen=True, eq=False)
class Tested:
    """Result of the test of all columns of a table.

    Attributes:
        statistics: Q of each column.
        p: Of each column, not corrected.
        p_any: That any column has a mechanism.
        p_largest: Of the largest Q, corrected for the number of columns (Westfall and Young 1993).
    """

    statistics: Float[np.ndarray, " columns"]
    p: Float[np.ndarray, " columns"]
    p_any: float
    p_largest: float

    @property
    def q(self) -> Float[np.ndarray, " columns"]:
        """Their p, corrected for the number of columns."""
        return np.asarray(false_discovery_control(self.p, method="bh")) if len(self.p) else self.p


def audit_mechanisms(data: AuditData, *, min_n: int = 20, seed: int = 0) -> list[Finding]:
    """Look for columns whose relation to a kept covariate differs between levels of a batch.

    Args:
        data: People whom the model never saw.
        min_n: Fewest people.
        seed: Of signs, and of the people and columns drawn where there are many.

    Returns:
        Of each table (``raw``, ``exported``), batch and kept covariate ``mechanism_columns`` (share of columns found, p of any)
        and, of the strongest columns found, ``mechanism_slope`` (standard deviation of slopes over sites).
    """
    effects = [name for name in data.kept if name not in data.schema.batches]
    tables = {name: table for name, table in data.tables.items() if name != "latents"}
    found: list[Finding] = []
    for batch in data.schema.batches:
        for effect in effects:
            who = data.participants
            rows = _some_people(who, seed)
            asked = products_of(data.frame.iloc[rows], data.schema, batch, effect, who[rows], min_n=min_n)
            for name, table in tables.items():
                group = f"{name}/{batch} x {effect}"
                if asked.too_few:
                    found.append(
                        Finding("mechanism_columns", group, asked.people, status="insufficient", note=asked.too_few)
                    )
                else:
                    some = spread_columns(table.shape[1])
                    own = np.asarray(table[np.ix_(rows, some)], float)
                    found += mechanism_findings(group, own, asked, data.column_labels(some), seed)
    return found


def mechanism_findings(
    group: str, table: Float[np.ndarray, "rows columns"], asked: Products, labels: Sequence[str], seed: int
) -> list[Finding]:
    """Return the finding of all columns, and those of the strongest columns found.

    Args:
        group: How findings are called.
        table: Without missing cells.
        asked: The batch and the covariate; people enough.
        labels: Names of the columns.
        seed: Of the signs.
    """
    chosen = varying_columns(table)
    if not len(chosen):
        return [
            Finding("mechanism_columns", group, asked.people, status="insufficient", note="no column has two values")
        ]
    table = table[:, chosen]
    tested = mechanism_test(table, asked, seed)
    told = tested.q <= FOUND
    first = int(np.argmax(tested.statistics))
    note = (
        f"share of {len(chosen)} columns found at a false discovery rate of {FOUND:g}; p: of any column, mean and largest taken"
        f" together; of the largest alone {tested.p_largest:.3g} ({labels[chosen[first]]})"
    )
    found = [
        Finding("mechanism_columns", group, asked.people, float(told.mean()), p=tested.p_any, note=note),
    ]
    strongest = [k for k in np.argsort(-tested.statistics, kind="stable") if told[k]][:_SHOWN]
    for k in strongest:
        size, low, high = slope_spread(table[:, k], asked)
        note = f"sd over sites of the slope, in sd of what the model leaves; p: corrected for {len(chosen)} columns"
        label = f"{group} & {labels[chosen[k]]}"
        found.append(Finding("mechanism_slope", label, asked.people, size, low, high, float(tested.q[k]), note=note))
    return found


def products_of(
    frame: pd.DataFrame,
    schema: CovariateSchema,
    batch: str,
    effect: str,
    participants: Shaped[np.ndarray, " rows"],
    *,
    min_n: int = 20,
) -> Products:
    """Return the reduced model and the products of a batch and a covariate.

    Args:
        frame: Covariates of the rows.
        schema: What they are.
        batch: Whose levels may differ.
        effect: The covariate whose effect may differ between them.
        participants: Whose each row is.
        min_n: Fewest people.
    """
    who = participant_codes(participants)
    base, labels = smooth_design(frame, schema), frame[batch].astype(str).to_numpy(object)
    contrasts = covariate_contrasts(frame, schema, effect)
    levels = [level for level in np.unique(labels) if _tells(contrasts, who, labels == level)]
    member = [(labels == level).astype(float) for level in levels]
    added = np.zeros((len(frame), 0))
    if levels and contrasts.shape[1]:
        added = np.stack([own * contrast for contrast in contrasts.T for own in member], axis=1)
    counts = np.array([len(np.unique(who[labels == level])) for level in levels], dtype=float)
    people, short = len(np.unique(who)), ""
    needed = int(np.linalg.matrix_rank(base)) + added.shape[1] + _SPARE
    if len(levels) < 2:
        short = f"fewer than two levels of {batch} have {_AT_SITE} people or more who differ in {effect}"
    elif people < max(min_n, needed):
        short = f"{people} people; {max(min_n, needed)} are needed"
    return Products(base, added, counts / max(counts.sum(), 1.0), who, short)


def smooth_design(
    frame: pd.DataFrame, schema: CovariateSchema, without: Sequence[str] = ()
) -> Float[np.ndarray, "rows width"]:
    """Return 1, natural splines of numbers, and levels, of all covariates but some."""
    columns = [np.ones((len(frame), 1))]
    for covariate in schema.fitted:
        name = covariate.declared.name
        if name in without:
            continue
        if isinstance(covariate, Continuous):
            values = frame[name].to_numpy(float)
            if np.ptp(values) > 0:
                columns.append(natural_spline(values, spline_knots(values, _DEGREES)))
        else:
            labels = frame[name].astype(str).to_numpy(object)
            columns.append(np.stack([(labels == level).astype(float) for level in np.unique(labels)], axis=1))
    return np.concatenate(columns, axis=1)


def covariate_contrasts(frame: pd.DataFrame, schema: CovariateSchema, name: str) -> Float[np.ndarray, "rows contrasts"]:
    """Return a number in deviations from its mean, or each level but the most frequent one as 0 and 1."""
    if isinstance(schema[name], Continuous):
        values = frame[name].to_numpy(float)
        spread = float(values.std())
        return ((values - values.mean()) / spread)[:, None] if spread > 0 else np.zeros((len(frame), 0))
    labels = frame[name].astype(str).to_numpy(object)
    known, counts = np.unique(labels, return_counts=True)
    others = np.delete(known, int(np.argmax(counts)))
    return (labels[:, None] == others[None, :]).astype(float)


def mechanism_test(table: Float[np.ndarray, "rows columns"], asked: Products, seed: int, flips: int = FLIPS) -> Tested:
    """Test each column, and all of them together.

    Args:
        table: Columns that vary, without missing cells.
        asked: The batch and the covariate.
        seed: Of the signs.
        flips: How many are drawn.
    """
    basis = design_basis(asked.base)
    added = design_basis(asked.products - basis @ (basis.T @ asked.products))
    grow = 1 / np.sqrt(np.maximum(1 - (basis**2).sum(axis=1), _TINY))
    order = np.argsort(asked.participants, kind="stable")
    starts = np.flatnonzero(np.diff(asked.participants[order], prepend=-1))
    signs = np.random.default_rng([seed, 71]).choice([-1.0, 1.0], size=(flips, len(starts)))
    observed, turned, freedom = [], [], []
    for start in range(0, table.shape[1], _AT_ONCE):
        left = table[:, start : start + _AT_ONCE]
        left = left - basis @ (basis.T @ left)
        score = added.T @ left
        parts = added[order][:, None, :] * (left * grow[:, None])[order][:, :, None]
        parts = np.add.reduceat(parts, starts, axis=0).transpose(1, 0, 2)
        vectors, sizes, turns = np.linalg.svd(parts, full_matrices=False)
        told = sizes > _TINY * np.maximum(sizes[:, :1], 1e-300)
        whitened = np.where(told, np.einsum("ckj,jc->ck", turns, score) / np.where(told, sizes, 1.0), 0.0)
        observed.append((whitened**2).sum(axis=1))
        flat = (vectors * told[:, None, :]).transpose(1, 0, 2).reshape(len(starts), -1)
        turned.append(((signs @ flat) ** 2).reshape(flips, len(told), -1).sum(axis=2))
        freedom.append(told.sum(axis=1))
    statistics, null, degrees = np.concatenate(observed), np.concatenate(turned, axis=1), np.concatenate(freedom)
    above = (null >= statistics - 1e-12).sum(axis=0)
    share = (1 + above) / (1 + flips)
    tail = np.where(degrees > 0, chi2.sf(statistics, np.maximum(degrees, 1)), 1.0)
    p = np.where(above >= _IN_TAIL, share, np.minimum(share, tail))
    both = np.concatenate([statistics[None], null])
    together = combined_p(np.stack([both.mean(axis=1), both.max(axis=1)], axis=1))
    return Tested(statistics, p, together, permutation_p(float(statistics.max()), null.max(axis=1)))


def slope_spread(column: Float[np.ndarray, " rows"], asked: Products) -> tuple[float, float, float]:
    """Return the standard deviation of slopes over sites and its interval, in deviations of what the whole model leaves.

    Args:
        column: One column.
        asked: The batch and the covariate.
    """
    whole = np.concatenate([asked.base, asked.products], axis=1)
    basis = design_basis(whole)
    left = residual(column[:, None], whole)[:, 0]
    deviation = float(np.sqrt((left**2).sum() / (len(left) - basis.shape[1])))
    levels = len(asked.shares)
    over = np.sqrt(asked.shares)[:, None] * (np.eye(levels) - asked.shares[None, :])
    over = np.kron(np.eye(asked.products.shape[1] // levels), over)
    solved = over @ np.linalg.pinv(whole, rcond=1e-9)[asked.base.shape[1] :]
    slopes = solved @ column
    parts = (solved * (left / np.sqrt(np.maximum(1 - (basis**2).sum(axis=1), _TINY)))).T
    sums = np.zeros((int(asked.participants.max()) + 1, parts.shape[1]))
    np.add.at(sums, asked.participants, parts)
    spread = sums.T @ sums
    noise, squares = float(np.trace(spread)), float((spread**2).sum())
    total = float(slopes @ slopes)
    unit, freedom = squares / noise, noise**2 / squares

    def end(tail: float) -> float:
        """Return the non-centrality under which as much or less has this probability."""

        def excess(centre: float) -> float:
            return float(ncx2.cdf(total / unit, freedom, centre)) - tail

        if excess(1e-9) <= 0:
            return 0.0
        most = 4 * (total / unit + freedom + 40)
        return float(brentq(excess, 1e-9, most))

    low, high = end((1 + LEVEL) / 2), end((1 - LEVEL) / 2)
    scaled = np.sqrt(np.array([max(total - noise, 0.0), low * unit, high * unit])) / deviation
    return float(scaled[0]), float(scaled[1]), float(scaled[2])


def _tells(contrasts: np.ndarray, who: np.ndarray, here: np.ndarray) -> bool:
    """Return whether a level has people enough who differ in the covariate, in each of its contrasts."""
    if len(np.unique(who[here])) < _AT_SITE or not contrasts.shape[1]:
        return False
    own = contrasts[here]
    if len(np.unique(own[:, 0])) > 2:
        return True
    return all(
        min(len(np.unique(who[here][own[:, k] == value])) for value in (0.0, 1.0)) >= 2 for k in range(own.shape[1])
    )


def varying_columns(table: Float[np.ndarray, "rows columns"]) -> Int[np.ndarray, " some"]:
    """Return columns that vary, some evenly spread ones where there are many."""
    usable = np.flatnonzero(table.std(axis=0) > 1e-9 * np.maximum(np.abs(table).max(axis=0, initial=0.0), 1e-300))
    return usable[spread_columns(len(usable), _MOST_COLUMNS)]


def spread_columns(count: int, most: int = MOST_COLUMNS) -> Int[np.ndarray, " some"]:
    """Return numbers of all columns, or of some evenly spread ones where there are more."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(int))


def _some_people(participants: Shaped[np.ndarray, " rows"], seed: int) -> Int[np.ndarray, " some"]:
    who = participant_codes(participants)
    drawn = np.random.default_rng([seed, 73]).permutation(int(who.max(initial=-1)) + 1)[:_MOST_PEOPLE]
    return np.flatnonzero(np.isin(who, drawn))
