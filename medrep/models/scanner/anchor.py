"""Which scanner the others are compared with: the one from whose images those of the others could best be made.

Blur and noise cannot be taken back, only added. Each level's mean power S, in units of its power at slow frequencies (so that
gain does not count), is held against its noise N, the mean power at the fastest 5 % of frequencies:

    score = mean over frequencies of log(1 + (S - N) / max(N, median of N over the levels))

A blurred scanner loses S at fast frequencies, a noisy one has a large N; quieter than the median earns nothing, so that a
blurred scanner cannot win by its quiet.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from medrep.models.scanner.point_spread import SLOWEST, frequencies

LEAST_PEOPLE = 10
"""Of a level that may be chosen as the anchor."""
_SLOW = 1.0  # radians a voxel


def choose_anchor(
    powers: Mapping[str, Float[np.ndarray, "x y z"]], people: Mapping[str, int], window: tuple[int, int, int]
) -> str:
    """Return the level with the highest score among those with `LEAST_PEOPLE`, else the level with the most people.

    Args:
        powers: Level -> mean power of its people (`mean_power`).
        people: Level -> how many they are.
        window: Of the powers.
    """
    able = sorted(level for level, count in people.items() if count >= LEAST_PEOPLE and level in powers)
    if not able:
        return max(sorted(people), key=lambda level: people[level])
    distance = np.sqrt(sum(w**2 for w in np.ix_(*frequencies(window))))
    fast = distance > SLOWEST
    slow = fast & (distance < _SLOW)
    fastest = distance >= np.quantile(distance, 0.95)
    scaled = {level: _relative(powers[level], fast, slow) for level in able}
    floors = {level: max(float(power[fastest].mean()), 1e-12) for level, power in scaled.items()}
    usual = float(np.median(list(floors.values())))

    def score(level: str) -> float:
        signal = scaled[level] - floors[level]
        return float(np.log1p(signal / max(floors[level], usual))[fast | fastest].mean())

    return max(able, key=score)


def _relative(power: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> Float[np.ndarray, "x y z"]:
    base = power[slow] if slow.any() else power[fast] if fast.any() else power
    relative: np.ndarray = power / max(float(base.mean()), 1e-300)
    return relative
