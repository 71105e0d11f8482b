"""Disentanglement of latents: InfoMEC (Hsu et al. 2023), and active, passive and mixed latents.

With NMI_ij = I(s_i; z_j) / H(s_i) over F sources and L latents that are not pruned:

    InfoM = (mean_j max_i NMI_ij / sum_i NMI_ij - 1/F) / (1 - 1/F)
    InfoC = (mean_i max_j NMI_ij / sum_j NMI_ij - 1/L) / (1 - 1/L)
    InfoE = mean_i (H0_i - H(s_i | z)) / H0_i,   of predictions out of fold, linear in z

I by the k-nearest-neighbour estimate of Ross (2014), k = 10; numbers are cut into bins of equal counts for it, since the
entropy of a number can be negative. InfoE: levels by a class-balanced logistic regression with next to no penalty (one that
keeps it finite where levels are separated), H0 the log of their number; numbers by linear regression, with variances for
entropies (R2). A latent with a range of at most a twentieth of the largest is pruned.

**Not zero on noise** (InfoM near .7), and it depends on sizes: so each score is told as (score - floor) / (1 - floor), the
floor being its mean where the sources of participants are exchanged with each other's. InfoM and InfoC are ratios: of few
latents that tell nothing they are sometimes near 1, and p says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.special import digamma
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from medrep.audit.finding import Finding
from medrep.audit.intervals import percentile_interval, permutation_p, random_halves, resampled_rows, student
from medrep.audit.means import shuffled_participants

MIN_ACTIVE_N, DRAWS = 20, 1000
KINDS: tuple[Literal["active", "passive", "mixed"], ...] = ("active", "passive", "mixed")
_STEADY, _KNOWN, _PRIOR = 0.1, 0.1, (0.9, 1.1)  # variance of s2; its mean where active; and where passive
_COLLAPSED = 0.01  # share of the widest latent's variance


def describe_latents(
    means: Float[np.ndarray, "people latents"], sds: Float[np.ndarray, "people latents"] | None
) -> pd.DataFrame:
    """Judge every latent.

    With s2 the posterior variance over people: active if Var(s2) < 0.1 and mean(s2) <= 0.1; passive if Var(s2) < 0.1 and
    mean(s2) in [0.9, 1.1]; mixed otherwise. Without deviations only Var(mu) speaks, and no prior fixes its unit: active from
    a hundredth of the widest latent's variance on (the threshold of Burda 2016, relative), passive below.

    Returns:
        latent (number), kind, kl (nats to N(0, 1), mean over people; NaN without deviations), mean_variance (of s2; NaN
        without), var_mean (Var(mu)).
    """
    rows = np.arange(len(means))[None]
    kinds = _kinds(means, sds, rows)[0]
    variance = np.full(means.shape, np.nan) if sds is None else np.asarray(sds, float) ** 2
    kl = 0.5 * (means**2 + variance - 1 - np.log(np.maximum(variance, 1e-300)))
    return pd.DataFrame(
        {
            "latent": np.arange(means.shape[1]),
            "kind": [KINDS[kind] for kind in kinds],
            "kl": kl.mean(axis=0),
            "mean_variance": variance.mean(axis=0),
            "var_mean": means.var(axis=0),
        }
    )


def audit_latents(
    means: Float[np.ndarray, "people latents"],
    sds: Float[np.ndarray, "people latents"] | None,
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    min_n: int = MIN_ACTIVE_N,
    draws: int = DRAWS,
) -> list[Finding]:
    """Count latents of each kind: `latents_active`, `latents_passive`, `latents_mixed`, with participants resampled.

    Args:
        means: Posterior means.
        sds: Posterior standard deviations, None where the model has none.
        participants: Whose each row is.
        seed: Of resampling.
        min_n: Fewest participants.
        draws: Bootstrap samples.
    """
    who = np.asarray(participants).astype(str)
    people, latents = len(np.unique(who)), means.shape[1]
    metrics = [f"latents_{kind}" for kind in KINDS]
    if people < max(min_n, 2) or not latents:
        few = f"{people} participants, {min_n} are needed" if latents else "the model has no latents"
        return [Finding(metric, "latents", people, status="insufficient", note=few) for metric in metrics]
    table = describe_latents(means, sds)
    note = f"of {latents} latents; " + (
        "no posterior deviation: judged from the variance of the latent alone"
        if sds is None
        else f"KL {table['kl'].sum():.3g} nats in all"
    )
    resampled = np.stack(
        [
            _kinds(means, sds, rows[None])[0]
            for rows in resampled_rows(len(who), draws, np.random.default_rng(seed), who)
        ]
    )
    found = []
    for code, (metric, kind) in enumerate(zip(metrics, KINDS, strict=True)):
        low, high = percentile_interval((resampled == code).sum(axis=1).astype(float))
        found.append(Finding(metric, "latents", people, float((table["kind"] == kind).sum()), low, high, note=note))
    return found


def _kinds(means: np.ndarray, sds: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """Return the number of each latent's kind, for every set of rows."""
    if sds is None:
        spread = means[rows].var(axis=1)
        return np.where(spread > _COLLAPSED * spread.max(axis=1, keepdims=True, initial=0.0), 0, 1)
    variance = np.asarray(sds, float)[rows] ** 2
    mean, steady = variance.mean(axis=1), variance.var(axis=1) < _STEADY
    passive = (mean >= _PRIOR[0]) & (mean <= _PRIOR[1])
    return np.where(steady & (mean <= _KNOWN), 0, np.where(steady & passive, 1, 2))


MIN_N, PERMUTATIONS, NEIGHBOURS = 50, 49, 10
SCORES = ("info_modularity", "info_compactness", "info_explicitness")
_BIN, _MOST_BINS, _FEWEST = 25, 10, 12  # people a bin; bins; rows a level
_PRUNED, _HALVES, _FOLDS, _C = 20, 20, 5, 10.0
_FARTHEST = 1.5  # on the scale of a logarithm


@dataclass(frozen=True, eq=False)
class Source:
    """A thing that latents may tell.

    Attributes:
        name: For the note.
        codes: Level, or bin of equal counts, of each person.
        numbers: The number itself; None for levels.
    """

    name: str
    codes: Int[np.ndarray, " people"]
    numbers: Float[np.ndarray, " people"] | None

    def of(self, rows: Int[np.ndarray, " rows"]) -> "Source":
        """Return the source of these rows."""
        return Source(self.name, self.codes[rows], None if self.numbers is None else self.numbers[rows])


def make_sources(frame: pd.DataFrame, continuous: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Return a source a column of ``frame``, and the names of those with fewer than two levels of 12 rows.

    Args:
        frame: Covariates, or anything that latents may tell, without missing values. A level of fewer than 12 rows, too few
            for the neighbours, is joined with the others like it.
        continuous: Columns that are numbers.
    """
    sources, left_out = [], []
    for name in map(str, frame.columns):
        if name in continuous:
            numbers = frame[name].to_numpy(float)
            bins = int(np.clip(len(numbers) // _BIN, 2, _MOST_BINS))
            codes = np.searchsorted(np.unique(np.quantile(numbers, np.arange(1, bins) / bins)), numbers, side="right")
        else:
            labels, numbers = frame[name].astype(str), None
            rare = labels.map(labels.value_counts()) < _FEWEST
            codes = pd.factorize(labels.where(~rare, "\x1f"), sort=True)[0]
        counts = np.bincount(codes)
        if (counts >= _FEWEST).sum() < 2:
            left_out.append(name)
        else:
            sources.append(Source(name, codes.astype(np.int64), numbers))
    return sources, left_out


def audit_disentanglement(
    latents: Float[np.ndarray, "people latents"],
    frame: pd.DataFrame,
    continuous: Sequence[str],
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    permutations: int = PERMUTATIONS,
    min_n: int = MIN_N,
) -> list[Finding]:
    """Score latents against sources; estimates are above the floor: 0 as noise, 1 perfect.

    Intervals are by the delete-half jackknife (Shao and Wu 1989: the spread over random halves of the participants is the error
    of all of them, also of figures that are not smooth) and Student's t; resampling with replacement would make neighbours of a
    person and their copy. InfoM and InfoC lie in 0 to 1 and vary least near the ends: theirs are score intervals (Wilson 1927),
    with the error at the value that is asked about, as of a share of so many people as have this error (plain ones lay above
    the truth in up to 15%). On top comes the error of the floor, a mean over few exchanges, to which a score near it owes most.
    What a linear prediction leaves, 1 - InfoE, is never below 0 and skewed: its interval is that of its logarithm. p:
    participants' sources exchanged.

    Args:
        latents: Posterior means.
        frame: Sources: the covariates, perhaps with outcomes.
        continuous: Columns of ``frame`` that are numbers.
        participants: Whose each row is.
        seed: Of folds, groups and exchanges.
        permutations: How many exchanges.
        min_n: Fewest participants.
    """
    who = np.asarray(participants).astype(str)
    people = len(np.unique(who))
    sources, left_out = make_sources(frame, continuous)
    kept = unpruned(latents)
    said = f"; left out, too few levels: {', '.join(left_out)}" if left_out else ""
    if people < max(min_n, 2) or not sources or not kept.any():
        few = f"{people} participants ({min_n} are needed), {len(sources)} sources, {kept.sum()} latents{said}"
        return [Finding(score, "latents", people, status="insufficient", note=few) for score in SCORES]
    z, rng = _separate(latents[:, kept], seed), np.random.default_rng(seed)
    observed = info_scores(z, sources, who, seed)
    orders = shuffled_participants(who, permutations, rng)
    null = np.stack([info_scores(z, [s.of(order) for s in sources], who, seed) for order in orders])
    parts = random_halves(who, _HALVES, rng)
    of_parts = np.stack([info_scores(z[rows], [s.of(rows) for s in sources], who[rows], seed) for rows in parts])
    found = []
    for k, score in enumerate(SCORES):
        if not np.isfinite(observed[k]):
            few = f"needs two {'latents' if k == 1 else 'sources'}, there are {kept.sum() if k == 1 else len(sources)}{said}"
            found.append(Finding(score, "latents", people, status="insufficient", note=few))
            continue
        floor = float(null[:, k].mean())
        estimate = (float(observed[k]) - floor) / (1 - floor)
        freedom = max(len(null) - 1, 1)
        of_floor = student(freedom) * (1 - estimate) * float(null[:, k].std()) / math.sqrt(freedom)
        sides = _sides(float(observed[k]), of_parts[:, k], people, bounded=k < 2)
        below, above = (math.hypot(side, of_floor) / (1 - floor) for side in sides)
        note = (
            f"above the floor; score {observed[k]:.3f}, floor {floor:.3f}; {', '.join(s.name for s in sources)} in"
            f" {kept.sum()} of {len(kept)} latents, the others pruned{said}"
        )
        p = permutation_p(float(observed[k]), null[:, k])
        low, high = estimate - below, min(estimate + above, 1.0)
        left = 1 - estimate
        if score == "info_explicitness" and left > 0:
            low, high = min(low, 1 - left * math.exp(min(below / left, _FARTHEST))), 1 - left * math.exp(-above / left)
        found.append(Finding(score, "latents", people, estimate, low, high, p, note=note))
    return found


def _sides(score: float, scores: Float[np.ndarray, " parts"], people: int, *, bounded: bool) -> tuple[float, float]:
    """Return how far below and above a score its interval reaches, by scores of random halves; Wilson's if ``bounded``."""
    longer, mean = student(len(scores) - 1), float(scores.mean())
    if not bounded:
        return longer * float(scores.std()), longer * float(scores.std())
    by = longer**2 * max(float(scores.var()) / max(mean * (1 - mean), 1e-9), 1 / people)
    centre, reach = (score + by / 2) / (1 + by), math.sqrt(max(score * (1 - score) * by + by**2 / 4, 0.0)) / (1 + by)
    return max(score - centre + reach, 0.0), max(centre + reach - score, 0.0)


def info_scores(
    z: Float[np.ndarray, "people latents"], sources: Sequence[Source], who: Shaped[np.ndarray, " people"], seed: int
) -> Float[np.ndarray, "3"]:
    """Return InfoM, InfoC and InfoE as they are, no floor taken off; InfoM of one source and InfoC of one latent are NaN."""
    nmi = np.array([[information(z[:, j], source.codes) for j in range(z.shape[1])] for source in sources])
    nmi /= np.array([_entropy(source.codes) for source in sources])[:, None]
    explicit = float(np.mean([explicitness(z, source, who, seed) for source in sources]))
    return np.array([_concentration(nmi.T), _concentration(nmi), explicit])


def information(z: Float[np.ndarray, " people"], codes: Int[np.ndarray, " people"]) -> float:
    """Return the mutual information, nats, of a number without ties and a level (Ross 2014), 0 at least.

    With d_i the distance to the k-th neighbour of the same level, m_i the people that are nearer (the person counted), N_i the
    people of the level: digamma(N) + mean digamma(k) - mean digamma(N_i) - mean digamma(m_i).
    """
    ordered, total, counted = np.sort(z), 0.0, 0
    for level in np.unique(codes):
        own = np.sort(z[codes == level])
        if len(own) < 2:
            continue
        k, n = min(NEIGHBOURS, len(own) - 1), len(own)
        radius = np.full(n, np.inf)
        for below in range(k + 1):  # the k neighbours are so many below and the rest above
            place = np.arange(below, n - (k - below))
            reach = np.maximum(own[place] - own[place - below], own[place + k - below] - own[place])
            radius[place] = np.minimum(radius[place], reach)
        # A hair less, more than rounding errs by, so that the k-th neighbour itself is not counted.
        radius = radius * (1 - 1e-10) - 1e-15 * np.maximum(np.abs(own), 1.0)
        near = np.searchsorted(ordered, own + radius, side="right") - np.searchsorted(
            ordered, own - radius, side="left"
        )
        total += float((digamma(k) - digamma(n) - digamma(np.maximum(near, 1))).sum())
        counted += n
    return max(0.0, float(digamma(counted)) + total / counted) if counted else 0.0


def explicitness(
    z: Float[np.ndarray, "people latents"], source: Source, who: Shaped[np.ndarray, " people"], seed: int
) -> float:
    """Return the share of a source's uncertainty that a linear prediction out of fold takes away; negative if it misleads."""
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=seed).split(z, groups=who)
    if source.numbers is not None:
        y, missed, base = source.numbers, 0.0, 0.0
        for train, test in folds:
            columns = np.concatenate([np.ones((len(z), 1)), z - z[train].mean(axis=0)], axis=1)
            told = columns[test] @ np.linalg.lstsq(columns[train], y[train], rcond=1e-9)[0]
            missed += float(((y[test] - told) ** 2).sum())
            base += float(((y[test] - y[train].mean()) ** 2).sum())
        return 1 - missed / max(base, 1e-300)
    levels, codes = np.unique(source.codes, return_inverse=True)
    if len(levels) < 2:
        return 0.0
    logs = np.full(len(z), -float(np.log(len(levels))))
    for train, test in folds:
        if len(np.unique(codes[train])) < 2:
            continue  # the few of a level all in one fold, as in a half of the people: nothing was learned
        sd = np.maximum(z[train].std(axis=0), 1e-300)
        fitted = LogisticRegression(C=_C, class_weight="balanced", max_iter=2000, tol=1e-3)
        fitted.fit(z[train] / sd, codes[train])
        shares = np.full((len(test), len(levels)), 1e-12)
        shares[:, fitted.classes_] = fitted.predict_proba(z[test] / sd)
        logs[test] = np.log(np.maximum(shares[np.arange(len(test)), codes[test]], 1e-12))
    balanced = float(np.mean([logs[codes == level].mean() for level in range(len(levels))]))
    return 1 + balanced / float(np.log(len(levels)))


def unpruned(latents: Float[np.ndarray, "people latents"]) -> Shaped[np.ndarray, " latents"]:
    """Return which latents have more than a twentieth of the largest range."""
    ranges = np.ptp(latents, axis=0) if len(latents) else np.zeros(latents.shape[1])
    return (ranges > ranges.max(initial=0.0) / _PRUNED) & (ranges > 0)


def _separate(z: Float[np.ndarray, "people latents"], seed: int) -> Float[np.ndarray, "people latents"]:
    """Return latents in deviations with ties broken at random, as neighbours need (quantised latents are full of them)."""
    scaled = (z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-300)
    return scaled + 1e-9 * np.random.default_rng(seed).standard_normal(z.shape)


def _entropy(codes: Int[np.ndarray, " people"]) -> float:
    shares = np.bincount(codes)[np.unique(codes)] / len(codes)
    return max(float(-(shares * np.log(shares)).sum()), 1e-300)


def _concentration(nmi: Float[np.ndarray, "rows columns"]) -> float:
    """Return the mean over rows of max / sum, from 1 / columns (spread evenly, or nothing at all) to 1, as 0 to 1."""
    columns = nmi.shape[1]
    if columns < 2:
        return float("nan")
    sums = nmi.sum(axis=1)
    share = np.divide(nmi.max(axis=1), sums, out=np.full(len(nmi), 1 / columns), where=sums > 0)
    return float((share.mean() - 1 / columns) / (1 - 1 / columns))
