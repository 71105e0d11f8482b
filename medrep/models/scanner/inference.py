"""Estimate a scanner from people who are not those of the anchor, by indirect inference.

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

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float32

from medrep._persisted import stored
from medrep.models.scanner.content import Box, void
from medrep.models.scanner.frame import Frame
from medrep.models.scanner.images import Image
from medrep.models.scanner.point_spread import fit_point_spread, mean_power, middle
from medrep.models.scanner.quantiles import feature_levels, quantile_features
from medrep.models.scanner.scanner import TABLE, Rendering, Scanner, curve_table

STEPS = 4
LEAST_PEOPLE = 5
"""Of a level whose curve, blur and noise are estimated; of fewer people, the person passes for the scanner."""
PRIOR_GAIN, PRIOR_SHADING, PRIOR_SLOPE, PRIOR_BEND = 0.5, 0.3, 0.3, 0.15
_PINNED = 1e-4
_TO_DIAGONAL = 0.2


@dataclass(frozen=True)
class Evidence:
    """What the training people told about the anchor and about people within scanners.

    Attributes:
        features: Mean features of the anchor's people.
        effects: Their mean covariate columns.
        power: Their mean power.
        people: How many they are.
        slopes: Of features on covariate columns, within scanners.
        covariance: Of features between people, within scanners.
    """

    features: Float[np.ndarray, " features"]
    effects: Float[np.ndarray, " effects"]
    power: Float[np.ndarray, "x y z"]
    people: int = field(metadata=stored("anchor_people"))
    slopes: Float[np.ndarray, "effects features"]
    covariance: Float[np.ndarray, "features features"]


@dataclass(frozen=True)
class Estimate:
    """One scanner after a step.

    Attributes:
        scanner: The posterior mode.
        precision: Of shading and curve, as the people tell it.
        prior: Prior deviations of shading and curve.
    """

    scanner: Scanner
    precision: Float[np.ndarray, "parameters parameters"]
    prior: Float[np.ndarray, " parameters"]


@dataclass(frozen=True)
class Group:
    """One scanner's own people, as the last step left them.

    Attributes:
        images: Their volumes.
        features: Theirs, straightened.
    """

    images: Sequence[Image]
    features: Float[np.ndarray, "people features"]

    @property
    def effects(self) -> Float[np.ndarray, "people effects"]:
        """Their covariate columns."""
        return np.stack([image.effects for image in self.images])


class Comparison:
    """The anchor's side of the comparison.

    Args:
        frame: The axes.
        window: Of the power.
        anchor: People of the anchor; all of them while fitting, or the few that were kept (even none).
        rng: Of simulated noise.

    Attributes:
        untouched: Features of those people.
        places: Mean of each shading field over each feature's voxels.
        power: Their mean power.
    """

    def __init__(
        self, frame: Frame, window: tuple[int, int, int], anchor: Sequence[Image], rng: np.random.Generator
    ) -> None:
        self.frame, self.window, self.anchor, self._rng = frame, window, anchor, rng
        self._labels = frame.blocks()
        self._count = int(self._labels.max()) + 1
        self.places = self._mean_fields()
        self.untouched = self.straightened(Scanner.identity(frame), anchor)
        self.power = group_power(anchor, window)

    def evidence(self, effects: int) -> Evidence:
        """Return what the people at hand tell of the anchor; slopes and covariance are still to come.

        Args:
            effects: Number of covariate columns.
        """
        own = np.array([image.effects for image in self.anchor]).reshape(len(self.anchor), effects)
        width, people = self.untouched.shape[1], max(len(own), 1)
        nothing = np.zeros((effects, width)), np.eye(width)
        return Evidence(self.untouched.sum(axis=0) / people, own.sum(axis=0) / people, self.power, people, *nothing)

    def straightened(self, scanner: Scanner, images: Sequence[Image]) -> Float[np.ndarray, "people features"]:
        """Return the features of people once shading and curve of a scanner are undone."""
        rendering = Rendering(self.frame, scanner)
        rows = [self._features(rendering.straighten(i.values(), i.box), i.box) for i in images]
        return np.stack(rows) if rows else np.zeros((0, len(self.places)))

    def step(self, now: Scanner, own: Group, evidence: Evidence, *, first: bool, pointwise: bool) -> Estimate:
        """Move a scanner's parameters once.

        Args:
            now: The scanner as it is believed to be.
            own: Its people.
            evidence: The anchor's people, and people within scanners.
            first: Whether this is the first step: before blur and noise are known, tails are not to be trusted.
            pointwise: Fit shading alone, for a scanner of few people.
        """
        target, mean = evidence.features, own.features.mean(axis=0)
        if not first and now.spreads:
            target = target + (self._simulated(now) - self.untouched).mean(axis=0)
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

    def simulate(self, scanner: Scanner, image: Image) -> Float32[np.ndarray, "a b c"]:
        """Return one of the anchor's people, sent through a scanner and straightened again."""
        rendering = Rendering(self.frame, scanner)
        return rendering.straighten(rendering.hiss(image.values(), image.box, self._rng), image.box)

    def _simulated(self, scanner: Scanner) -> Float[np.ndarray, "people features"]:
        return np.stack([self._features(self.simulate(scanner, image), image.box) for image in self.anchor])

    def _with_spread(self, scanner: Scanner, own: Sequence[Image], evidence: Evidence) -> Scanner:
        large, voids = [i for i in own if _holds(i, self.window)], []
        if not large or not self.power.any():
            return scanner
        for image in large:
            empty = void(image.values()[middle(image.size, self.window)])
            voids.append(0.0 if empty is None else float(empty.mean()))
        bent = group_power(self.anchor, self.window, Rendering(self.frame, scanner))
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

    def _features(self, values: Float32[np.ndarray, "a b c"], box: Box) -> Float[np.ndarray, " features"]:
        features: np.ndarray = np.arcsinh(quantile_features(values, self._labels[box], self._count) / self.frame.eps)
        return features


def group_power(
    images: Sequence[Image], window: tuple[int, int, int], bent: Rendering | None = None
) -> Float[np.ndarray, "x y z"]:
    """Return the mean power of people's middles, as they are or as a scanner bends them; zeros if nobody is large enough."""

    def centre(image: Image) -> np.ndarray:
        part = middle(image.size, window)
        values = image.values()[part]
        first, second, third = (
            slice(box.start + own.start, box.start + own.stop) for box, own in zip(image.box, part, strict=True)
        )
        return values if bent is None else bent.bend(values, (first, second, third))

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
    centred: np.ndarray = rows - rows.mean(axis=0)
    return centred
