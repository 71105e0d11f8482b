"""Stand-ins of several charts, regressed together: location, levels, log scale and its prior (mathematics: `merging.py`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from medrep.cohort.covariates import CovariateSchema
from medrep.models.chart.by_column import pooled_components, pooled_masses, pooled_powers, pooled_support
from medrep.models.chart.location import Location, posterior, told_levels
from medrep.models.chart.model import GrowthChart
from medrep.models.chart.parts import Part, Told, kept_levels, leverage
from medrep.models.chart.powers import Powers
from medrep.models.chart.shapes import Shapes
from medrep.models.chart.spread import LEAST, MANY, ScalePrior, Scales
from medrep.models.chart.stand_ins import NOBODY, Rows, Square, in_schema, inverse
from medrep.models.linear.batch_effects import BatchEffects
from medrep.models.linear.design import Design, spline_knots
from medrep.models.linear.model import no_scores

Columns = Float[np.ndarray, " columns"]
Some = Int[np.ndarray, " some"]

_AT_ONCE = 1024  # columns


@dataclass(frozen=True, eq=False)
class Regression:
    """Weighed least squares of stand-ins of some parts, for all columns that these have.

    Attributes:
        design: Of the rows.
        rows: Of each part.
        weights: Of each part.
    """

    design: Design
    rows: Sequence[Rows]
    weights: Sequence[Float[np.ndarray, " points"]]

    @cached_property
    def products(self) -> Square:
        """R'wR."""
        return np.asarray(sum(own.T @ (w[:, None] * own) for own, w in zip(self.rows, self.weights, strict=True)))

    @cached_property
    def basis(self) -> Float[np.ndarray, "rows columns"]:
        """Of coefficients whose levels average to zero over people; levels that no part has get none."""
        levels = sum(len(self.design.schema.levels(name)) for name in self.design.schema.batches)
        return self.design.contrasts(self.products.diagonal()[len(self.products) - levels :] > NOBODY)

    def sums(self, values: Sequence[np.ndarray]) -> Float[np.ndarray, "rows columns"]:
        """Return R'wy."""
        told = zip(self.rows, self.weights, values, strict=True)
        return np.asarray(sum(own.T @ (w[:, None] * one) for own, w, one in told))

    def solve(self, values: Sequence[np.ndarray]) -> Float[np.ndarray, "rows columns"]:
        """Return coefficients, not shrunk."""
        known = inverse(self.basis.T @ self.products @ self.basis)
        return np.asarray(self.basis @ (known @ (self.basis.T @ self.sums(values))))


@dataclass(frozen=True, eq=False)
class Pooling:
    """Parts in the designs of the merged chart.

    Attributes:
        parts: The parts.
        design: Of location.
        scale_design: Of log scale.
        rows: Of each part's stand-ins in both.
        powers: Of the columns.
    """

    parts: Sequence[Part]
    design: Design
    scale_design: Design
    rows: tuple[tuple[Rows, Rows], ...]
    powers: Powers

    @classmethod
    def of(cls, parts: Sequence[Part], schema: CovariateSchema) -> "Pooling":
        """Place knots, centre the designs and choose powers."""
        frames, settings = [in_schema(one.stand_ins.frame, schema) for one in parts], parts[0].chart.settings
        frame, weights = pd.concat(frames, ignore_index=True), np.concatenate([one.stand_ins.weights for one in parts])
        design, scale_design = (
            Design.centred(schema, frame, _knots(own, frame, weights, degrees), settings.interactions, weights)
            for own, degrees in (
                ([one.location.line.design for one in parts], settings.spline_degrees),
                ([one.chart.scales.design for one in parts], settings.scale_degrees),
            )
        )
        design.check_aliases(pd.concat([frame, frame]))  # each stands for several people
        rows = tuple((design.full(own), scale_design.full(own)) for own in frames)
        return cls(parts, design, scale_design, rows, pooled_powers(parts))

    def regression(self, those: Sequence[int], which: int = 0) -> Regression:
        """Return that of location (0) or of log scale (1) on some parts."""
        design = self.scale_design if which else self.design
        weights = [self.parts[k].stand_ins.weights for k in those]
        return Regression(design, [self.rows[k][which] for k in those], weights)

    @property
    def people(self) -> Float[np.ndarray, " parts"]:
        """How many people each part has."""
        return np.array([one.people for one in self.parts])

    @property
    def has(self) -> Bool[np.ndarray, "parts columns"]:
        """Which columns each part models."""
        return np.stack([one.has for one in self.parts])

    def patterns(self) -> Iterator[tuple[list[int], Some]]:
        """Yield parts, and some of the columns that these and no others model."""
        patterns, which = np.unique(self.has, axis=1, return_inverse=True)
        for number, pattern in enumerate(patterns.T):
            columns = np.flatnonzero(np.ravel(which) == number)
            if pattern.any():
                for some in np.array_split(columns, -(-len(columns) // _AT_ONCE)):
                    yield np.flatnonzero(pattern).tolist(), some

    def chart(self) -> GrowthChart:
        """Return the merged chart."""
        first, people = self.parts[0].chart, self.people
        both = self.regression(range(len(self.parts))), self.regression(range(len(self.parts)), 1)
        width, line = first.columns.count, first.location.line
        means, sd = np.zeros((len(both[0].products), width)), np.zeros(width)
        logs, raw_logs = np.zeros((2, len(both[1].products), width))
        shapes = np.zeros((4, width))
        means[0] = people @ np.stack([one.location.line.coefficients[0] for one in self.parts]) / people.sum()
        start = float(people @ [one.location.level_variance for one in self.parts] / people.sum())
        effects = len(both[0].products) - self.levels
        covariance = posterior(both[0].products, effects, start)
        for those, columns in self.patterns():
            told = [self.parts[k].told(columns, self.powers.some(columns)) for k in those]
            fit, count = self.regression(those), people[those]
            means[:, columns] = self.settled(fit.solve([one.values for one in told]), those, columns)
            missed = [own @ means[:, columns] - one.values for own, one in zip(fit.rows, told, strict=True)]
            left = count - [self.parts[k].location.line.design.contrasts().shape[1] for k in those]
            square = np.maximum(left, 1) @ np.stack([one.sd**2 for one in told])
            square += sum(w @ off**2 for w, off in zip(fit.weights, missed, strict=True))
            sd[columns] = np.sqrt(square / max(count.sum() - fit.basis.shape[1], 1))
            if first.settings.shape != "gaussian":
                some = [np.full(len(columns), own) for own in count]
                shapes[:, columns] = Shapes.pooled([Shapes(one.shapes) for one in told], some).parameters
            own = [
                _with_missed(one, self.parts[k].taken, leverage(self.rows[k][0], covariance), off)
                for k, one, off in zip(those, told, missed, strict=True)
            ]
            scale = self.regression(those, 1)
            raw_logs[:, columns], logs[:, columns] = scale.solve(own), scale.sums(own)
        location = self.location(means, sd, both[0].products, start)
        prior = self.prior(raw_logs[len(raw_logs) - self.levels :])
        for those, columns in self.patterns():
            information = prior.information(self.regression(those, 1).products)
            pull = (prior.precision(len(logs)) * prior.centre(len(logs)))[:, None]
            logs[:, columns] = np.linalg.solve(information, 2 * prior.tempering * logs[:, columns] + pull)
        scales = Scales(self.scale_design, logs, np.linalg.inv(prior.information(both[1].products)), prior)
        return GrowthChart(
            self.design.schema,
            first.columns,
            first.settings,
            location,
            scales,
            Shapes(shapes),
            self.powers,
            pooled_components(self.parts).astype(line.coefficients.dtype),
            first.seed,
        )

    @property
    def levels(self) -> int:
        """How many batch levels there are."""
        return sum(len(self.design.schema.levels(name)) for name in self.design.schema.batches)

    def settled(self, means: np.ndarray, those: Sequence[int], columns: Some) -> Float[np.ndarray, "rows some"]:
        """Return coefficients whose levels average over people to what those of the parts do, which changes no mean.

        Shrunk levels do not average to 0, and the pooled batch is where they are 0.
        """
        effects, people = len(means) - self.levels, self.people[list(those)]
        for name, rows in self.design.batch_slices().items():
            counts = np.asarray(self.design.level_counts(name), float)
            here = means[effects + rows.start : effects + rows.stop]
            wanted = people @ np.stack([self.parts[k].mean_level(name)[columns] for k in those]) / people.sum()
            change = wanted - counts @ here / counts.sum()
            here += change
            means[0] -= change
        return means

    def location(self, means: np.ndarray, sd: Columns, products: Square, start: float) -> Location:
        """Return location, levels shrunk.

        Args:
            means: Coefficients, levels not shrunk.
            sd: Deviation of each column.
            products: Of all stand-ins' rows.
            start: A first guess of the variance of levels.
        """
        effects, varies = len(means) - self.levels, sd > 0
        unit = means[effects:, varies] / sd[varies]

        def square(variance: float) -> float:
            return float(np.mean((unit * kept_levels(self.design, products, variance)) ** 2)) if unit.size else 0.0

        covariance, variance = told_levels(products, effects, start, square)
        shrunk = means[effects:] * kept_levels(self.design, products, variance)
        first = self.parts[0].location.line
        kept = first.coefficients.dtype
        line = replace(
            first,
            schema=self.design.schema,
            design=self.design,
            coefficients=means[:effects].astype(kept),
            sd=sd.astype(kept),
            batches=self.batches(shrunk.astype(kept)),
            score_batches=no_scores(self.levels, 0),
            masses=pooled_masses(self.parts, self.powers),
            support=pooled_support(self.parts, self.design.schema),
            effect_covariance=np.zeros((0, 0)),
        )
        return Location(line, covariance, variance)

    def batches(self, location: np.ndarray) -> BatchEffects:
        """Return levels with the log scale that parts gave them, a mean over people where several have one."""
        logs, counts = np.zeros(location.shape), np.zeros((len(location), 1))
        own = [one.location.line.batches for one in self.parts]
        for one, effects in zip(self.parts, own, strict=True):
            for there, here, people in self.shared(one):
                if here is not None:
                    logs[there] += people * effects.log_scale[here]
                counts[there] += people
        noise = [np.mean([getattr(one, name) for one in own], axis=0) for name in ("location_noise", "log_scale_noise")]
        return BatchEffects(location, (logs / np.maximum(counts, 1)).astype(location.dtype), *noise)

    def shared(self, part: Part) -> Iterator[tuple[int, int | None, int]]:
        """Yield the row of each level of a part among all levels, its row among the part's, None if given, and its people."""
        own = part.location.line.design
        for name, rows in self.design.batch_slices().items():
            levels = self.design.schema.levels(name)
            if name in part.given:
                yield rows.start + levels.index(part.given[name]), None, sum(part.support.counts)
                continue
            counts = zip(own.schema.levels(name), own.level_counts(name), strict=True)
            for number, (level, count) in enumerate(counts):
                yield rows.start + levels.index(level), own.batch_slices()[name].start + number, count

    def prior(self, levels: Float[np.ndarray, "levels columns"]) -> ScalePrior:
        """Return the prior of log scale: that of parts, and by how much these are apart.

        Args:
            levels: Log scale of all levels, not shrunk.
        """
        priors, people = [one.chart.scales.prior for one in self.parts], self.people
        tempering = float(people @ [one.tempering for one in priors] / people.sum())
        if not len(levels):
            return replace(priors[0], tempering=tempering)
        told = self.has.all(axis=0) if self.has.all(axis=0).any() else self.has.any(axis=0)
        levels = levels[:, told]
        counts, centre, within, noise = np.zeros((4, len(levels)))
        apart = np.zeros(levels.shape)
        for one, prior in zip(self.parts, priors, strict=True):
            found = list(self.shared(one))
            for rows in self.design.batch_slices().values():
                here = [entry for entry in found if rows.start <= entry[0] < rows.stop]
                offset = levels[[there for there, _, _ in here]].mean(axis=0)
                for there, own, count in here:
                    mean, variance = (0.0, 0.0) if own is None else (prior.mean[own], prior.variance)
                    counts[there] += count
                    centre[there] += count * mean
                    within[there] += count * variance
                    noise[there] += count / (2 * tempering * one.people)
                    apart[there] += count * offset
        centre, within, noise, apart = centre / counts, within / counts, noise / counts, apart / counts[:, None]
        for rows in self.design.batch_slices().values():
            apart[rows] -= apart[rows].mean(axis=0)
        if levels.shape[1] >= MANY:
            shift = apart.mean(axis=1)
            centre, apart = centre + shift, apart - shift[:, None]
        between = max(float((apart**2).mean() - noise.mean()), 0.0)
        return ScalePrior(centre, max(float(within.mean()) + between, LEAST), tempering)


def _with_missed(told: Told, part: Columns, merged: Columns, missed: np.ndarray) -> np.ndarray:
    """Return log scale, with what the merged curve misses.

    Args:
        told: Of a part.
        part: Share of the residual that its curve took at each stand-in.
        merged: Share that the merged curve takes.
        missed: By how much that is off.
    """
    left = 1 - part[:, None] + missed**2 * np.exp(-2 * told.shrunk)
    return np.asarray(told.logs + 0.5 * np.log(left / (1 - merged[:, None])))


def _knots(
    designs: Sequence[Design], frame: pd.DataFrame, weights: np.ndarray, degrees: int
) -> dict[str, tuple[float, ...]]:
    """Return the knots that all designs share, or else those of all people together."""
    first = designs[0].knots
    if all(one.knots == first for one in designs):
        return first
    names = dict.fromkeys(name for one in designs for name in one.knots)
    return {name: spline_knots(frame[name].to_numpy(float), degrees, np.maximum(weights, 0)) for name in names}
