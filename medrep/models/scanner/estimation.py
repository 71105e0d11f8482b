"""Estimation of a scanner from participants that differ from those of the reference, by indirect inference.

With S0 the mean power of the anchor's people as the scanner would bend them, and S that of the scanner's own people::

    S(w) = H(w)^2 S0(w) + noise^2,     H(w) = prod_axis (1 + 2 sum_j taps_j (cos(j w_axis) - 1))

fitted in log power by least squares over the frequencies above a floor, where anatomy's slow differences between groups of
people do not reach; a weak ridge keeps taps that the spectra do not tell at zero. H above 1 is a scanner sharper than the anchor.

The features q of a person are intensity quantiles, block by block and overall, in asinh units. The anchor's people are sent
through the scanner as it is believed to be (blur, curve, shading, noise) and straightened again, so that blur and noise act
on both sides of the comparison; the scanner's own people are straightened. What is left between the two groups, adjusted for
covariates, is

    d = mean_anchor(q - beta c) - mean_own(q - beta c) ~ N(J (theta - theta_now), (1/n_own + 1/n_anchor) C)

with theta = (shading, curve), C the covariance of q between people within scanners (shrunk towards its diagonal) and beta
fitted within scanners, so that scanners of older people do not pass for darker ones. A few Gauss-Newton steps under the
prior theta ~ N(0, prior^2) give the posterior mode: the ridge that shrinks what the people do not tell. Taps and noise are
refitted after every step (`point_spread`). A quantile in which all people agree (the 99th percentile where images come in
its units) has little variance in C, and so the most weight, without being told.

Only some of the anchor's people need be at hand to see what blur and noise do: the means of all are kept in `Evidence`, and
the few add how q and power change. So a scanner can be estimated later, from a model that kept a few volumes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.optimize import least_squares

from medrep._persisted import stored
from medrep.models.scanner.forward import TABLE, TAPS, Box, Content, Frame, Image, Rendering, Scanner, curve_table, void

Power = Float[np.ndarray, "x y z"]

LOCAL = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
OVERALL = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
_ENOUGH = 2**18


def quantile_features(image: Content, labels: Int[np.ndarray, "a b c"], count: int) -> Float[np.ndarray, " features"]:
    """Return `LOCAL` quantiles of each block, block by block, and `OVERALL` quantiles of the volume.

    Of more than 2^18 voxels every n-th is looked at; a block without voxels gets the overall quantiles.
    """
    # An odd stride does not fall into step with the usual even side lengths.
    stride = image.size // _ENOUGH + 1 | 1
    values, places = image.ravel()[::stride], labels.ravel()[::stride]
    order = np.argsort(values)
    ranked, chunks = values[order].astype(np.float64), places[order]
    grouped = ranked[np.argsort(chunks, kind="stable")]
    sizes = np.bincount(chunks, minlength=count)
    starts = np.cumsum(sizes) - sizes
    whole = np.zeros(1, int), np.array([len(ranked)])
    local = _interpolated(grouped, starts[:, None], sizes[:, None], LOCAL)
    local[sizes == 0] = _interpolated(ranked, *whole, LOCAL)
    return np.concatenate([local.ravel(), _interpolated(ranked, *whole, OVERALL)])


def feature_levels(count: int) -> Float[np.ndarray, " features"]:
    """Return the level of each feature's quantile."""
    return np.concatenate([np.tile(LOCAL, count), OVERALL])


def _interpolated(ranked: np.ndarray, start: np.ndarray, size: np.ndarray, levels: np.ndarray) -> np.ndarray:
    place = start + levels * np.maximum(size - 1, 0)
    below = np.minimum(np.floor(place).astype(int), len(ranked) - 1)
    part = place - below
    return ranked[below] * (1 - part) + ranked[np.minimum(below + 1, len(ranked) - 1)] * part


SLOWEST = 0.25  # radians a voxel
_WIDEST = 64
_RIDGE = 3.0
_BOUNDS = (-0.25, 0.3)


def common_window(sizes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return the middle that nearly all images have, at most 64 voxels wide: those under half the median size do not count."""
    fits = np.maximum(np.min(sizes, axis=0), np.median(sizes, axis=0) // 2)
    x, y, z = (int(n) for n in np.clip(fits, 1, _WIDEST))
    return x, y, z


def middle(shape: tuple[int, ...], window: tuple[int, int, int]) -> Box:
    """Return the middle of a volume."""
    starts = [(have - want) // 2 for have, want in zip(shape, window, strict=True)]
    first, second, third = (slice(start, start + want) for start, want in zip(starts, window, strict=True))
    return first, second, third


def mean_power(volumes: Iterable[Float32[np.ndarray, "..."]], window: tuple[int, int, int]) -> Power:
    """Average the power of the volumes' middles, none smaller than the window, under a sine window.

    White noise has its variance as power; the frequencies are 0 to Nyquist of each axis.
    """
    axes = np.ix_(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in window))
    taper = (axes[0] * axes[1] * axes[2]).astype(np.float32)
    energy = float((taper.astype(np.float64) ** 2).sum())
    total, count = np.zeros([n // 2 + 1 for n in window]), 0
    for volume in volumes:
        centre = volume[middle(volume.shape, window)]
        centre = (centre - (centre * taper**2).sum() / energy) * taper
        power = np.abs(np.fft.rfftn(centre)) ** 2 / energy
        for axis in (0, 1):
            forth = np.arange(window[axis] // 2 + 1)
            power = (np.take(power, forth, axis) + np.take(power, -forth % window[axis], axis)) / 2
        total += power
        count += 1
    return total / max(count, 1)


def frequencies(window: tuple[int, int, int]) -> tuple[Float[np.ndarray, " n"], ...]:
    """Return the frequencies of `mean_power` along each axis, in radians a voxel."""
    return tuple(2 * np.pi * np.arange(n // 2 + 1) / n for n in window)


def transfer(taps: Float[np.ndarray, "3 taps"], window: tuple[int, int, int]) -> Power:
    """Return H at the frequencies of `mean_power`."""
    sides = [
        1 + 2 * sum(weight * (np.cos((j + 1) * w) - 1) for j, weight in enumerate(own))
        for own, w in zip(taps, frequencies(window), strict=True)
    ]
    first, second, third = np.ix_(*sides)
    return first * second * third


def fit_point_spread(
    own: Power, reference: Power, window: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "3 taps"], float]:
    """Fit taps and noise to the mean power of the scanner's people.

    `reference` is that of the anchor's people, with the scanner's shading and curve applied to them. The taps are weights beside
    the kernel's centre along each axis, the noise a deviation in data units; zeros where a window is too small to tell them.
    """
    grid = np.ix_(*frequencies(window))
    fast = np.sqrt(sum(w**2 for w in grid)) > SLOWEST
    if fast.sum() <= 3 * TAPS + 1:
        return np.zeros((3, TAPS)), 0.0
    tiny = 1e-12 * float(own.max()) + 1e-300
    measured, base = np.log(own[fast] + tiny), reference[fast]

    def residual(parameters: np.ndarray) -> np.ndarray:
        taps = parameters[:-1].reshape(3, TAPS)
        power = transfer(taps, window)[fast] ** 2 * base + np.exp(parameters[-1])
        return np.concatenate([measured - np.log(power + tiny), _RIDGE * parameters[:-1]])

    start = np.zeros((3, TAPS))
    start[:, 0] = 0.05
    floor = np.log(np.quantile(own, 0.02) / 2 + tiny)
    lowest = np.log(tiny)
    bounds = (np.r_[np.full(3 * TAPS, _BOUNDS[0]), lowest], np.r_[np.full(3 * TAPS, _BOUNDS[1]), measured.max() + 1])
    found = least_squares(residual, np.r_[start.ravel(), max(floor, lowest + 1e-6)], bounds=bounds).x
    return found[:-1].reshape(3, TAPS), float(np.exp(found[-1] / 2))


STEPS = 4
LEAST_PEOPLE = 5
"""Of a level whose curve, blur and noise are estimated; of fewer people, the person passes for the scanner."""
PRIOR_GAIN, PRIOR_SHADING, PRIOR_SLOPE, PRIOR_BEND = 0.5, 0.3, 0.3, 0.15
_PINNED = 1e-4
_TO_DIAGONAL = 0.2


@dataclass(frozen=True)
class Evidence:
    """Statistics of training participants: of the reference scanner, and of participants within scanners.

    `slopes` are those of features on covariate columns, within scanners, and `covariance` is that of features between people,
    within scanners; the others are means over the anchor's people.
    """

    features: Float[np.ndarray, " features"]
    effects: Float[np.ndarray, " effects"]
    power: Power
    people: int = field(metadata=stored("anchor_people"))
    slopes: Float[np.ndarray, "effects features"]
    covariance: Float[np.ndarray, "features features"]


@dataclass(frozen=True)
class Estimate:
    """One scanner after a step, the posterior mode.

    `precision` is that of shading and curve, as the people tell it, and `prior` has their prior deviations.
    """

    scanner: Scanner
    precision: Float[np.ndarray, "parameters parameters"]
    prior: Float[np.ndarray, " parameters"]


@dataclass(frozen=True)
class Group:
    """One scanner's own people, as the last step left them, with their features straightened."""

    images: Sequence[Image]
    features: Float[np.ndarray, "people features"]

    @property
    def effects(self) -> Float[np.ndarray, "people effects"]:
        """Their covariate columns."""
        return np.stack([image.effects for image in self.images])


class Comparison:
    """The anchor's side of the comparison: all its people while fitting, or the few that were kept (even none).

    `untouched` are the features of those people, `places` the mean of each shading field over each feature's voxels, and
    `power` is their mean power.
    """

    def __init__(
        self, frame: Frame, window: tuple[int, int, int], reference: Sequence[Image], rng: np.random.Generator
    ) -> None:
        self.frame, self.window, self.reference, self._rng = frame, window, reference, rng
        self._labels = frame.chunks()
        self._count = int(self._labels.max()) + 1
        self.places = self._mean_fields()
        self.untouched = self.inverted(Scanner.identity(frame), reference)
        self.power = group_power(reference, window)

    def evidence(self, effects: int) -> Evidence:
        """Return what the people at hand tell of the anchor; slopes and covariance are still to come."""
        own = np.array([image.effects for image in self.reference]).reshape(len(self.reference), effects)
        width, people = self.untouched.shape[1], max(len(own), 1)
        nothing = np.zeros((effects, width)), np.eye(width)
        return Evidence(self.untouched.sum(axis=0) / people, own.sum(axis=0) / people, self.power, people, *nothing)

    def inverted(self, scanner: Scanner, images: Sequence[Image]) -> Float[np.ndarray, "people features"]:
        """Return the features of people once shading and curve of a scanner are undone."""
        rendering = Rendering(self.frame, scanner)
        rows = [self._features(rendering.invert(i.values(), i.box), i.box) for i in images]
        return np.stack(rows) if rows else np.zeros((0, len(self.places)))

    def step(self, now: Scanner, own: Group, evidence: Evidence, *, first: bool, pointwise: bool) -> Estimate:
        """Move a scanner's parameters once, from what it is believed to be.

        In the first step, before blur and noise are known, tails are not trusted. If `pointwise`, shading alone is fitted, for a
        scanner of few people.
        """
        target, mean = evidence.features, own.features.mean(axis=0)
        if not first and now.spreads:
            simulated = [self._features(self.simulate(now, image), image.box) for image in self.reference]
            target = target + (np.stack(simulated) - self.untouched).mean(axis=0)
        adjusted = (evidence.effects - own.effects.mean(axis=0)) @ evidence.slopes
        people = 1 / (1 / len(own.images) + 1 / evidence.people)
        prior = _prior(len(now.shading), len(now.curve), bends=not (first or pointwise), slope=not pointwise)
        kept = np.ones(len(mean), dtype=bool)
        if first:
            levels = feature_levels(self._count)
            kept = (levels >= 0.25) & (levels <= 0.9)
        J = self._jacobian(now, mean)[kept]
        weighed = np.linalg.solve(evidence.covariance[np.ix_(kept, kept)], J).T * people
        theta = np.concatenate([now.shading, now.curve])
        pull = weighed @ (target - mean - adjusted)[kept] - theta / prior**2
        theta = theta + np.linalg.solve(weighed @ J + np.diag(prior**-2.0), pull)
        shading, curve = np.split(theta, [len(now.shading)])
        found = replace(now, shading=shading, curve=np.zeros_like(curve) if pointwise else curve)
        if not pointwise:
            found = self._with_spread(found, own.images, evidence)
        return Estimate(found, weighed @ J, prior)

    def simulate(self, scanner: Scanner, image: Image) -> Content:
        """Return one of the anchor's people, sent through a scanner and straightened again."""
        rendering = Rendering(self.frame, scanner)
        return rendering.invert(rendering.simulate(image.values(), image.box, self._rng), image.box)

    def _with_spread(self, scanner: Scanner, own: Sequence[Image], evidence: Evidence) -> Scanner:
        large, voids = [i for i in own if _holds(i, self.window)], []
        if not large or not self.power.any():
            return scanner
        for image in large:
            empty = void(image.values()[middle(image.size, self.window)])
            voids.append(0.0 if empty is None else float(empty.mean()))
        bent = group_power(self.reference, self.window, Rendering(self.frame, scanner))
        tiny = 1e-12 * float(self.power.max()) + 1e-300
        base = bent * (evidence.power + tiny) / (self.power + tiny)
        taps, noise = fit_point_spread(group_power(large, self.window), base, self.window)
        # What a mask left empty has no noise; the rest has all of it.
        return replace(scanner, taps=taps, noise=noise / max(1 - float(np.mean(voids)), 0.05) ** 0.5)

    def _jacobian(
        self, scanner: Scanner, features: Float[np.ndarray, " features"]
    ) -> Float[np.ndarray, "features parameters"]:
        """Return how straightened features move with the parameters, at the blocks' mean fields."""
        curve = curve_table(self.frame, scanner.curve)
        before = np.interp(features, curve, TABLE)
        slope = np.interp(before, (TABLE[1:] + TABLE[:-1]) / 2, np.diff(curve) / np.diff(TABLE))
        shading = -(slope * np.tanh(before))[:, None] * self.places
        bends = []
        for weight in 0.01 * np.eye(self.frame.curves):
            up, down = (curve_table(self.frame, scanner.curve + sign * weight) for sign in (1, -1))
            bends.append((np.interp(before, TABLE, up) - np.interp(before, TABLE, down)) / 0.02)
        return np.concatenate([shading, np.stack(bends, axis=1)], axis=1)

    def _mean_fields(self) -> Float[np.ndarray, "features fields"]:
        """Return the mean of each field over each feature's voxels."""
        inside = np.zeros(self.frame.shape, dtype=bool)
        inside[tuple(slice(low, high + 1) for low, high in self.frame.extent)] = True
        labels = self._labels[inside]
        sizes = np.maximum(np.bincount(labels, minlength=self._count), 1)
        local, whole = [], []
        for weights in np.eye(len(Scanner.identity(self.frame).shading)):
            field = self.frame.log_field(weights)[inside].astype(np.float64)
            local.append(np.bincount(labels, field, self._count) / sizes)
            whole.append(field.mean())
        repeats = len(feature_levels(1)) - (overall := len(feature_levels(0)))
        return np.concatenate([np.repeat(np.stack(local, axis=1), repeats, axis=0), np.tile(whole, (overall, 1))])

    def _features(self, values: Content, box: Box) -> Float[np.ndarray, " features"]:
        return np.arcsinh(quantile_features(values, self._labels[box], self._count) / self.frame.eps)


def group_power(images: Sequence[Image], window: tuple[int, int, int], bent: Rendering | None = None) -> Power:
    """Return the mean power of people's middles, as they are or as a scanner bends them; zeros if nobody is large enough."""

    def centre(image: Image) -> np.ndarray:
        part = middle(image.size, window)
        values = image.values()[part]
        first, second, third = (
            slice(box.start + own.start, box.start + own.stop) for box, own in zip(image.box, part, strict=True)
        )
        return values if bent is None else bent.apply_response(values, (first, second, third))

    return mean_power((centre(image) for image in images if _holds(image, window)), window)


def people_within(evidence: Evidence, groups: Sequence[Group]) -> Evidence:
    """Learn from everybody, within scanners, the slopes of features on covariates and the covariance of the rest."""
    effects = np.concatenate([_centred(group.effects) for group in groups])
    features = np.concatenate([_centred(group.features) for group in groups])
    slopes = np.linalg.lstsq(effects, features, rcond=None)[0]
    residual = features - effects @ slopes
    freedom = max(len(residual) - len(groups) - effects.shape[1], 1)
    covariance = residual.T @ residual / freedom
    own = np.diag(covariance)
    shrunk = (1 - _TO_DIAGONAL) * covariance + np.diag(_TO_DIAGONAL * own + 0.01 * np.median(own) + 1e-8)
    return replace(evidence, slopes=slopes, covariance=shrunk)


def _prior(fields: int, curves: int, *, bends: bool, slope: bool) -> Float[np.ndarray, " parameters"]:
    return np.concatenate(
        [
            [PRIOR_GAIN],
            np.full(fields - 1, PRIOR_SHADING),
            [PRIOR_SLOPE if slope else _PINNED],
            np.full(curves - 1, PRIOR_BEND if bends else _PINNED),
        ]
    )


def _holds(image: Image, window: tuple[int, int, int]) -> bool:
    return all(have >= want for have, want in zip(image.size, window, strict=True))


def _centred(rows: np.ndarray) -> np.ndarray:
    return rows - rows.mean(axis=0)
