"""Whether repeats agree: intraclass correlations of each column, and the interval of their median.

With x_iv of participant i at visit v, o_i the mean over visits and R, E, C the mean squares of participants, of error and of
visits, ICC(2,1) = (R - E) / (R + (k - 1) E + k (C - E) / n). Its bootstrap is too narrow where people's or errors' tails are
long, so that it is studentised on Fisher's scale z = log((1 + (k - 1) icc) / (1 - icc)) / 2.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.audit.resampling.small_samples import expanded_interval, studentised_interval

_CELLS = 20_000_000  # of draws x columns and their coefficients, at a time
_ENDS = 1e-9  # away from these Fisher's scale is finite


@dataclass(frozen=True)
class Agreement:
    """Intraclass correlations of each column, in each draw of participants; NaN where a column does not vary.

    Attributes:
        absolute: ICC(2,1): a shift between visits counts as disagreement.
        consistent: ICC(3,1): it does not.
        error: Standard error of the mean over columns of ICC(2,1) on Fisher's scale, by the delta method.
    """

    absolute: Float[np.ndarray, "draws columns"]
    consistent: Float[np.ndarray, "draws columns"]
    error: Float[np.ndarray, " draws"]


def agreement(
    visits: Float[np.ndarray, "participants visits columns"],
    weights: Float[np.ndarray, "draws participants"] | None = None,
) -> Agreement:
    """Return the intraclass correlations of Shrout and Fleiss (1979), from a two-way analysis of variance.

    Args:
        visits: Every participant at every visit.
        weights: How often each participant counts, in one draw or several; once by default.
    """
    people, count, _ = visits.shape
    w = np.ones((1, people)) if weights is None else weights
    n = w.sum(axis=1, keepdims=True)
    x = visits - visits.mean(axis=(0, 1))
    own = x.mean(axis=1)
    centre = w @ own / n
    shifts = [w @ (x[:, visit] - own) / n for visit in range(count)]
    between = count * (w @ own**2 - n * centre**2)
    across = n * sum(shift**2 for shift in shifts)
    total = w @ (x**2).sum(axis=1) - n * count * centre**2
    rows, columns = between / (n - 1), across / (count - 1)
    error = np.maximum(total - between - across, 0.0) / ((n - 1) * (count - 1))
    spread = rows + (count - 1) * error
    bottom = spread + count * (columns - error) / n
    absolute = _ratio(rows - error, bottom)
    # What each participant adds to each column's figure: gradient times squares, linear in what is known of the participant.
    safe = np.clip(np.nan_to_num(absolute), -(1 - _ENDS) / (count - 1), 1 - _ENDS)
    slope = _ratio(((count - 1) / (1 + (count - 1) * safe) + 1 / (1 - safe)) / 2, bottom)
    by_rows, by_error = (1 - safe) * slope, -(1 + safe * (count - 1 - count / n)) * slope
    by_columns = -safe * count * slope
    coefficients = [count * by_rows, -2 * count * centre * by_rows, by_error / (count - 1)]
    coefficients += [2 * shift * (by_columns - by_error) / (count - 1) for shift in shifts]
    known = [own**2, own, ((x - own[:, None]) ** 2).sum(axis=1), *(x[:, visit] - own for visit in range(count))]
    parts = np.nan_to_num(np.concatenate(coefficients, axis=1)) @ np.concatenate(known, axis=1).T / visits.shape[2]
    parts -= (w * parts).sum(axis=1, keepdims=True) / n
    errors = np.sqrt((w * parts**2).sum(axis=1)) / n[:, 0]
    return Agreement(absolute, _ratio(rows - error, spread), errors)


def agreement_interval(
    visits: Float[np.ndarray, "participants visits columns"], draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the interval of the median over columns of ICC(2,1), participants resampled.

    The wider of two: percentiles, and the bootstrap-t on Fisher's scale, whose draws are moved so that their mean is the
    estimate (the median over noisier columns lies lower). Both are expanded (`small_samples`).

    Args:
        visits: Every participant at every visit; every column varies.
        draws: Bootstrap samples.
        rng: Of these.
    """
    people, count, columns = visits.shape
    counts = rng.multinomial(people, np.full(people, 1 / people), size=draws).astype(float)
    some = max(1, _CELLS // ((count + 8) * columns))
    found = [agreement(visits, counts[first : first + some]) for first in range(0, draws, some)]
    medians = np.concatenate([_medians(part.absolute) for part in found])
    errors = np.concatenate([part.error for part in found])
    sound = np.isfinite(medians)
    low, high = expanded_interval(medians[sound], people)
    whole = agreement(visits)
    estimate, drawn = _fisher(_medians(whole.absolute), count), _fisher(medians[sound], count)
    recentred = drawn - drawn.mean() + estimate[0]
    ends = studentised_interval(float(estimate[0]), float(whole.error[0]), recentred, errors[sound], people)
    other = [float((np.exp(2 * end) - 1) / (np.exp(2 * end) + count - 1)) for end in np.clip(ends, -300, 300)]
    return min(low, other[0]), max(high, other[1])


def _fisher(icc: Float[np.ndarray, " draws"], visits: int) -> Float[np.ndarray, " draws"]:
    inside = np.clip(icc, -(1 - _ENDS) / (visits - 1), 1 - _ENDS)
    return np.log((1 + (visits - 1) * inside) / (1 - inside)) / 2


def _medians(icc: Float[np.ndarray, "draws columns"]) -> Float[np.ndarray, " draws"]:
    """Return the median over the columns that vary; NaN where none does."""
    known = np.isfinite(icc).any(axis=1)
    medians = np.full(len(icc), np.nan)
    medians[known] = np.nanmedian(icc[known], axis=1)
    return medians


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
