"""What each latent does: active, passive or mixed ('Be More Active!', 2023), its KL, and how much its mean varies."""

from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.audit.findings import Finding
from medrep.audit.resampling.intervals import percentile_interval, resampled_rows

MIN_N, DRAWS = 20, 1000
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
    min_n: int = MIN_N,
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
