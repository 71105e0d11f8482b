"""Identity that is left: re-identification of repeats, and their agreement.

With x_iv of participant i at visit v, o_i the mean over visits and R, E, C the mean squares of participants, of error and of
visits, ICC(2,1) = (R - E) / (R + (k - 1) E + k (C - E) / n). Its bootstrap is too narrow where people's or errors' tails are
long, so that it is studentised on Fisher's scale z = log((1 + (k - 1) icc) / (1 - icc)) / 2.

With repeats: a session is known again where the nearest other session (1 - correlation of the standardised columns; Finn
2015) is of the same participant, and columns agree by the intraclass correlations of Shrout and Fleiss (1979). Without:
`identity_kept`, the correlation over columns of a person's residual profile before and after, both residualised by the same
regression on the covariates. Distances between people would be a weaker witness: they change when a few columns are
rescaled, and a cohort of clusters (sites) correlates well in them although nobody in a cluster is kept apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from medrep.audit.data import covariate_design, drawn_columns, residual, standardised
from medrep.audit.finding import Finding
from medrep.audit.intervals import expanded_interval, participant_codes, permutation_p, studentised_interval
from medrep.audit.means import (
    Sampling,
    mean_finding,
    participant_means,
    shuffled_participants,
)
from medrep.audit.retention import KeptProfiles, profiles
from medrep.cohort.dataset import Dataset

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


MIN_N, DRAWS, PERMUTATIONS = 20, 1000, 999
_MOST_RETESTED = 2000  # columns whose agreement is resampled
_FEWEST_COLUMNS = 3  # of a correlation between two people


def audit_identity(
    tables: Mapping[str, Float[np.ndarray, "people _"]],
    dataset: Dataset,
    seed: int,
    *,
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> list[Finding]:
    """Measure what is left of the person in every table.

    Args:
        tables: Name -> table; ``raw`` is what ``exported`` is compared with, others (``latents``) stand alone.
        dataset: The people and their covariates; a participant's rows stand in the order of their visits.
        seed: Of resampling, permuting, and the columns drawn from wide tables.
        min_n: Fewest participants (with repeats, where it is about repeats) to say anything.
        draws: Bootstrap samples.
    """
    participants = dataset.whose
    found = reidentification(tables, participants, seed, min_n=min_n, draws=draws)
    for name, table in tables.items():
        found.append(retest_agreement(name, table, participants, seed, min_n=min_n, draws=draws))
    if {"raw", "exported"} <= set(tables):
        raw, exported = tables["raw"], tables["exported"]
        design = covariate_design(dataset.covariates, dataset.schema)
        found.append(identity_kept(raw, exported, design, participants, seed, min_n=min_n, draws=draws))
    return found


def reidentification(
    tables: Mapping[str, Float[np.ndarray, "people _"]],
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> list[Finding]:
    """Return how often the nearest other session is the same participant's, and by how much that changed from raw.

    Every session is searched for; those of participants with repeats are asked for. A participant counts once, and the
    sessions that are searched stay as they are when participants are resampled. p: sessions exchanged at random. Covariates
    that a participant's sessions share (site) help in ``raw``: chance is the floor of people who share nothing.
    """
    who = participant_codes(participants)
    same = who[:, None] == who[None, :]
    np.fill_diagonal(same, val=False)
    asked = np.flatnonzero(same.any(axis=1))
    chance = float(same[asked].sum(axis=1).mean() / max(len(who) - 1, 1)) if len(asked) else float("nan")
    found, hits = [], {}
    for name, table in tables.items():
        note = f"chance {chance:.3f}; {len(asked)} of {len(who)} sessions are of participants with repeats"
        similar = _similarity(drawn_columns(table, seed))
        if similar is None:
            few = f"fewer than {_FEWEST_COLUMNS} columns vary"
            found.append(Finding("reidentification", name, len(np.unique(who[asked])), status="insufficient", note=few))
            continue
        hits[name] = _nearest_is_same(similar[asked], same[asked])
        p = _reidentified_p(similar, who, asked, float(hits[name].mean()) if len(asked) else np.nan, seed)
        found.append(
            mean_finding(
                Finding("reidentification", name, 0, p=p, note=note),
                hits[name],
                who[asked],
                Sampling(seed, min_n, draws),
                values_are="shares",
            )
        )
    if "raw" in hits:
        for name in [name for name in hits if name != "raw"]:
            change = hits[name] - hits["raw"]
            note = f"{name} minus raw, paired"
            about = Finding("reidentification_change", name, 0, note=note)
            found.append(mean_finding(about, change, who[asked], Sampling(seed, min_n, draws), values_are="changes"))
    return found


def retest_agreement(
    name: str,
    table: Float[np.ndarray, "people columns"],
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> Finding:
    """Return the median over columns of ICC(2,1), of as many first visits as everybody with repeats has.

    The interval is `agreement_interval`; columns that are not finite or do not vary are left out and counted in the note.
    """
    who = participant_codes(participants)
    rows = [own for own in (np.flatnonzero(who == code) for code in range(who.max(initial=-1) + 1)) if len(own) > 1]
    if len(rows) < max(min_n, 3):
        few = f"{len(rows)} participants with repeats, {min_n} are needed"
        return Finding("test_retest", name, len(rows), status="insufficient", note=few)
    first = np.stack([own[: min(map(len, rows))] for own in rows])
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(table.shape[1])[:_MOST_RETESTED])
    visits = np.asarray(table[:, chosen], dtype=float)[first]
    used = np.isfinite(visits).all(axis=(0, 1)) & (np.ptp(visits, axis=(0, 1)) > 0)
    if not used.any():
        return Finding("test_retest", name, len(rows), status="insufficient", note="no column is complete and varies")
    visits = visits[:, :, used]
    found = agreement(visits)
    low, high = agreement_interval(visits, draws, rng)
    quartiles = np.nanquantile(found.absolute, [0.25, 0.75])
    note = (
        f"median ICC(2,1) of {used.sum()} of {table.shape[1]} columns, {first.shape[1]} visits;"
        f" quartiles {quartiles[0]:.2f} and {quartiles[1]:.2f}; median ICC(3,1) {_median(found.consistent):.2f}"
    )
    return Finding("test_retest", name, len(rows), _median(found.absolute), low, high, note=note)


def identity_kept(
    raw: Float[np.ndarray, "people columns"],
    exported: Float[np.ndarray, "people columns"],
    design: Float[np.ndarray, "people width"],
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> Finding:
    """Return the mean over people of the correlation of their residual profile before and after.

    Residuals of both are those of the same regression on the covariates, in deviations of the raw residual, so that columns
    weigh alike and one that the export flattened counts as lost. 1: removal took nothing but what covariates tell on
    average; rescaling by batch, a proper part of removal, costs a few hundredths. p: profiles exchanged between participants.
    The interval is that of influences (`KeptProfiles`).

    Args:
        raw: As it was.
        exported: As it is handed out.
        design: `covariate_design`.
        participants: Whose each row is.
        seed: Of resampling, permuting and the columns drawn.
        min_n: Fewest participants.
        draws: Bootstrap samples.
    """
    both = [drawn_columns(table, seed) for table in (raw, exported)]
    whole = np.isfinite(both[0]).all(axis=0) & np.isfinite(both[1]).all(axis=0)
    before, after = (residual(table[:, whole], design) for table in both)
    size, sd = np.abs(both[0][:, whole]).max(axis=0, initial=0.0), before.std(axis=0)
    used = sd > 1e-9 * np.maximum(size, 1e-300)
    freedom = len(raw) - np.linalg.matrix_rank(design)
    people = len(np.unique(participant_codes(participants)))
    if used.sum() < _FEWEST_COLUMNS or freedom < max(min_n, 2):
        few = f"{used.sum()} columns vary; {freedom} people more than covariates tell apart, {min_n} are needed"
        return Finding("identity_kept", "exported", people, status="insufficient", note=few)
    kept = KeptProfiles.of(before[:, used], after[:, used], sd[used], design, participants)
    own, every = kept.own, kept.before @ kept.after.T
    rng, rows = np.random.default_rng(seed), np.arange(len(own))
    null = np.array([every[rows, order].mean() for order in shuffled_participants(participants, PERMUTATIONS, rng)])
    p = permutation_p(float(own.mean()), null)
    note = (
        f"correlation of residual profiles over {used.sum()} columns; with another's profile {null.mean():.2f};"
        f" lowest tenth of people below {np.quantile(own, 0.1):.2f}"
    )
    estimate = float(participant_means(own, participants).mean())
    low, high = kept.interval(estimate, draws, np.random.default_rng(seed))
    return Finding("identity_kept", "exported", people, estimate, low, high, p, note=note)


def _similarity(table: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people people"] | None:
    columns = standardised(table)
    if columns.shape[1] < _FEWEST_COLUMNS:
        return None
    own, _ = profiles(columns)
    similar = own @ own.T
    np.fill_diagonal(similar, -np.inf)
    return similar


def _nearest(similar: Float[np.ndarray, "asked people"]) -> Float[np.ndarray, "asked people"]:
    """Return the weight of each session as the nearest one; sessions that are equally near share it."""
    ties = similar >= similar.max(axis=1, keepdims=True, initial=-np.inf) - 1e-12
    return ties / ties.sum(axis=1, keepdims=True)


def _nearest_is_same(similar: np.ndarray, same: np.ndarray) -> Float[np.ndarray, " asked"]:
    return (_nearest(similar) * same).sum(axis=1)


def _reidentified_p(similar: np.ndarray, who: np.ndarray, asked: np.ndarray, observed: float, seed: int) -> float:
    if not len(asked):
        return float("nan")
    rows, columns = np.nonzero(nearest := _nearest(similar))
    weight, counts = nearest[rows, columns], np.bincount(who)
    rng, null = np.random.default_rng(seed), np.zeros(PERMUTATIONS)
    for draw in range(PERMUTATIONS):
        own = rng.permutation(who)
        null[draw] = (weight * (own[rows] == own[columns]))[counts[own[rows]] > 1].sum() / len(asked)
    return permutation_p(observed, null)


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
