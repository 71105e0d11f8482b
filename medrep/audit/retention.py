"""How much of what differs between people is left in an export.

`identity_kept` asks whether a person's profile is still theirs; this asks each column by itself. What a removal is allowed to
do, shifting batches and bringing them to one scale, costs nothing here; leaving directions out, or blurring, does.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped

from medrep.audit.findings import Finding
from medrep.audit.profiles import drawn_columns, residual
from medrep.audit.resampling.means import Sampling
from medrep.audit.resampling.relabelling import sample_weights
from medrep.audit.resampling.small_samples import expanded_interval, studentised_interval

_AT_ONCE = 2000  # columns
_FEWEST_ROWS = 5  # of a batch level that has a deviation of its own


def variance_kept(
    raw: Float[np.ndarray, "people columns"],
    exported: Float[np.ndarray, "people columns"],
    design: Float[np.ndarray, "people width"],
    participants: Shaped[np.ndarray, " people"],
    batches: "Shaped[np.ndarray, ' people'] | None",
    sampling: Sampling,
) -> Finding:
    """Return the share of the variance between people that can be had back from the export, in the mean over columns.

    Both sides are residuals of the same regression on the covariates, in deviations of each batch level, as batches may be
    brought to one scale. Of a column it is the squared correlation; one that the export flattened counts 0.

    The interval is the wider of two of resampled participants, as that of repeats (`agreement_interval`): percentiles, and the
    bootstrap-t of draws moved so that their mean is the estimate, both expanded. It is of what so many people show: where
    tails are long, squared correlations of few people are lower on average than of many.

    Args:
        raw: As it was.
        exported: As it is handed out.
        design: `covariate_design`.
        participants: Whose each row is.
        batches: The batch level of each row; None: one for all.
        sampling: How the interval is drawn; its seed also draws columns.
    """
    seed, min_n, draws = sampling.seed, sampling.min_n, sampling.draws
    before, after = (residual(drawn_columns(table, seed), design) for table in (raw, exported))
    whole = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    size = np.abs(drawn_columns(raw, seed)[:, whole]).max(axis=0, initial=0.0)
    varies = before[:, whole].std(axis=0) > 1e-9 * np.maximum(size, 1e-300)
    who = np.unique(np.asarray(participants).astype(str), return_inverse=True)[1]
    people = len(np.unique(who))
    if not varies.any() or people < max(min_n, 2):
        few = f"{people} participants, {min_n} are needed; {varies.sum()} columns vary"
        return Finding("variance_kept", "exported", people, status="insufficient", note=few)
    levels = np.zeros(len(who), dtype=int) if batches is None else np.unique(batches, return_inverse=True)[1]
    x, y = (_in_deviations(part[:, whole][:, varies], levels) for part in (before, after))
    weights = np.concatenate([np.ones((1, len(who))), *sample_weights(who, draws, np.random.default_rng(seed))])
    shares, means, errors = _shares(x, y, who, weights)
    low, high = _interval(means, errors, people)
    note = f"squared correlation before and after, {varies.sum()} columns; in the middle column {np.median(shares):.2f}"
    return Finding("variance_kept", "exported", people, float(means[0]), low, high, note=note)


def _shares(
    x: Float[np.ndarray, "people columns"],
    y: Float[np.ndarray, "people columns"],
    who: Int[np.ndarray, " people"],
    weights: Float[np.ndarray, "draws people"],
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Return each column's share in the first draw, and the mean over columns of each draw with its standard error.

    The error is that of the delta method: of r2 = xy^2 / (x2 y2), a row with the products p, q and s adds
    2 xy p / (x2 y2) - r2 (q / x2 + s / y2), and a participant the sum of their rows.
    """
    count, (draws, rows) = x.shape[1], weights.shape
    shares, means, added = np.zeros(count), np.zeros(draws), np.zeros((draws, rows))
    for first in range(0, count, _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        products = x[:, some] * y[:, some], x[:, some] ** 2, y[:, some] ** 2
        both, before, after = (weights @ part for part in products)
        bottom = np.maximum(before * after, 1e-300)
        own = both**2 / bottom
        shares[some] = own[0]
        means += own.sum(axis=1) / count
        slopes = 2 * both / bottom, -own / np.maximum(before, 1e-300), -own / np.maximum(after, 1e-300)
        added += sum(slope @ part.T for slope, part in zip(slopes, products, strict=True)) / count
    _, firsts = np.unique(who, return_index=True)
    order = np.argsort(who, kind="stable")
    starts = np.searchsorted(who[order], np.arange(len(firsts)))
    of_people = np.add.reduceat(added[:, order], starts, axis=1)
    errors = np.sqrt((weights[:, firsts] * of_people**2).sum(axis=1))
    return shares, means, errors


def _interval(
    means: Float[np.ndarray, " draws"], errors: Float[np.ndarray, " draws"], people: int
) -> tuple[float, float]:
    """Return the interval of the first draw, everybody, from the others."""
    estimate, drawn = float(means[0]), means[1:]
    low, high = expanded_interval(drawn, people)
    ends = studentised_interval(estimate, float(errors[0]), drawn - drawn.mean() + estimate, errors[1:], people)
    return max(min(low, ends[0]), 0.0), min(max(high, ends[1]), 1.0)


def _in_deviations(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return columns over their deviation within each level; a level of fewer than `_FEWEST_ROWS` gets that of everybody."""
    everybody = np.sqrt((rows**2).mean(axis=0))
    sd = np.tile(everybody, (len(rows), 1))
    for level in np.unique(levels):
        own = levels == level
        if own.sum() >= _FEWEST_ROWS:
            sd[own] = np.sqrt((rows[own] ** 2).mean(axis=0))
    return np.divide(rows, sd, out=np.zeros_like(rows), where=sd > 1e-9 * np.maximum(everybody, 1e-300))
