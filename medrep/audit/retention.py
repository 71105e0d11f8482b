"""How much of what differs between people is left in an export.

`identity_kept` asks whether a person's profile is still theirs; this asks each column by itself. What a removal is allowed to
do, shifting batches and bringing them to one scale, costs nothing here; leaving directions out, or blurring, does.
"""

import numpy as np
from jaxtyping import Float, Shaped

from medrep.audit.findings import Finding
from medrep.audit.profiles import drawn_columns, residual
from medrep.audit.resampling.intervals import percentile_interval
from medrep.audit.resampling.relabelling import sample_weights

MIN_N, DRAWS = 20, 1000
_FEWEST_ROWS = 5  # of a batch level that has a deviation of its own


def variance_kept(
    raw: Float[np.ndarray, "people columns"],
    exported: Float[np.ndarray, "people columns"],
    design: Float[np.ndarray, "people width"],
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    batches: "Shaped[np.ndarray, ' people'] | None" = None,
    *,
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> Finding:
    """Return the share of the variance between people that can be had back from the export, in the mean over columns.

    Both sides are residuals of the same regression on the covariates, in deviations of each batch level, as batches may be
    brought to one scale. Of a column it is the squared correlation; one that the export flattened counts 0. The interval is of
    resampled participants.

    Args:
        raw: As it was.
        exported: As it is handed out.
        design: `covariate_design`.
        participants: Whose each row is.
        seed: Of resampling and the columns drawn.
        batches: The batch level of each row; one for all by default.
        min_n: Fewest participants.
        draws: Bootstrap samples.
    """
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
    shares = (weights @ (x * y)) ** 2 / np.maximum((weights @ x**2) * (weights @ y**2), 1e-300)
    means = shares.mean(axis=1)
    low, high = percentile_interval(means[1:])
    note = (
        f"squared correlation before and after, {varies.sum()} columns; in the middle column {np.median(shares[0]):.2f}"
    )
    return Finding("variance_kept", "exported", people, float(means[0]), low, high, note=note)


def _in_deviations(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return columns over their deviation within each level; a level of fewer than `_FEWEST_ROWS` gets that of everybody."""
    everybody = np.sqrt((rows**2).mean(axis=0))
    sd = np.tile(everybody, (len(rows), 1))
    for level in np.unique(levels):
        own = levels == level
        if own.sum() >= _FEWEST_ROWS:
            sd[own] = np.sqrt((rows[own] ** 2).mean(axis=0))
    return np.divide(rows, sd, out=np.zeros_like(rows), where=sd > 1e-9 * np.maximum(everybody, 1e-300))
