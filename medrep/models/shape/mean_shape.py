"""Template, smooth fields, mean shape at given covariates, observations of a subject, and their registration to it.

A field is a cubic spline on a coarse lattice around the organ. Its coefficients at nodes x, y have, a priori, the covariance

    k(x, y) = sum_j sd_j^2 exp(-|x - y|^2 / (2 length_j^2)),

a sum over a few scales, from shifts of the whole organ to its details. The leading eigenvectors of k, scaled to unit prior
variance, are the modes: a field is a sum of modes times coefficients a ~ N(0, I). Lengths and deviations are shares of the
organ's size, so that the same settings serve a hippocampus and a heart.

Where a field squeezes or stretches space, the template's level is no distance any more, except where it is zero: what is near the
surface counts most. Points off it say on which side they are and how far, which a template needs that is still far away.

Registration finds a person's own field, which brings what is expected of their covariates onto them: the most probable one, and
how sure that is. With E what is expected (`MeanShape`), F(p) the modes at p, h(p) = F(p) a, and what is predicted of the signed
distance at p

    displacement: E(p + h(p)),      distance: E(p) + h(p),

a is the maximum of -1/2 sum_j w_j rho((predicted_j - s_j) / noise) - 1/2 a^T precision a with Cauchy's rho,
found by Gauss-Newton steps that are halved until they gain. The precision of the posterior is that of the last step (Laplace).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.ndimage import spline_filter
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from medrep._persisted import given, persisted, stored
from medrep.cohort.grid import Lattice, grid_lattice

Points = Float[np.ndarray, "points dims"]
Field = Float[np.ndarray, "points outputs"]
Levels = Float[np.ndarray, " points"]

_TILE = 16384


Structures = Int[np.ndarray, " points"]
"""Which structure, by number, each of some points belongs to."""


@persisted(sizes={"levels": lambda read: read["columns"].count})
@dataclass(frozen=True, eq=False)
class LevelFunction:
    """A cubic spline through values on a lattice, one coefficient a node; of several structures one after another."""

    lattice: Lattice = field(metadata=given(lambda read: grid_lattice(read["columns"].grid)))
    coefficients: Float[np.ndarray, " levels"] = field(metadata=stored(""))

    @classmethod
    def through(cls, lattice: Lattice, values: Float[np.ndarray, " levels"]) -> "LevelFunction":
        """Return the spline that takes the values, mm, at the inner nodes."""
        boxes = np.asarray(values, np.float64).reshape(-1, *lattice.shape)
        filtered = [spline_filter(box, order=3, mode="mirror").ravel() for box in boxes]
        return cls(lattice, np.concatenate(filtered))

    @property
    def count(self) -> int:
        """Number of structures."""
        return len(self.coefficients) // self.lattice.size

    @cached_property
    def parts(self) -> "tuple[LevelFunction, ...]":
        """The level function of each structure."""
        return tuple(LevelFunction(self.lattice, own) for own in self.coefficients.reshape(self.count, -1))

    def values(self, points: Points, structures: Structures | None = None) -> Levels:
        """Return the level at points, mm; of several structures that of each point's own."""
        out = np.empty(len(points))
        for start in range(0, len(points), _TILE):
            tile = slice(start, start + _TILE)
            index, weight = self.lattice.weights(points[tile])
            out[tile] = np.einsum("pt,pt->p", weight, self.coefficients[self._own(index, structures, tile)])
        return out

    def everywhere(self, points: Points) -> Float[np.ndarray, " levels"]:
        """Return the level of every structure at every point, mm, one structure after another."""
        out = np.empty((self.count, len(points)))
        for start in range(0, len(points), _TILE):
            tile = slice(start, start + _TILE)
            index, weight = self.lattice.weights(points[tile])
            for level, part in zip(out, self.parts, strict=True):
                level[tile] = np.einsum("pt,pt->p", weight, part.coefficients[index])
        return out.ravel()

    def slopes(self, points: Points, structures: Structures | None = None) -> tuple[Levels, Points]:
        """Return level, mm, and gradient at points; of several structures those of each point's own."""
        index, weight, gradient = self.lattice.slopes(points)
        coefficients = self.coefficients[self._own(index, structures, slice(None))]
        return np.einsum("pt,pt->p", weight, coefficients), np.einsum("pdt,pt->pd", gradient, coefficients)

    def onto_surface(self, points: Points, structures: Structures | None = None) -> Points:
        """Move points near the zero level onto it, along the gradient, mm."""
        for _ in range(3):
            level, slope = self.slopes(points, structures)
            points = points - (level / np.maximum((slope**2).sum(axis=1), 0.25))[:, None] * slope
        return points

    def surface(self, most: int) -> "SurfacePoints":
        """Return at most so many points of the zero level of each structure, spread evenly."""
        nodes = self.lattice.nodes()
        found, areas = [], []
        for part in self.parts:
            close = nodes[np.abs(part.values(nodes)) < max(self.lattice.spacing)]
            found.append(part.onto_surface(close[np.unique(np.linspace(0, len(close) - 1, most).astype(int))]))
            # Every so many nodes, line by line, are not spread evenly, and more are near where the level is flat.
            level, slope = part.slopes(close)
            band = np.clip(1 - np.abs(level) / max(self.lattice.spacing), 0, None) * np.linalg.norm(slope, axis=1)
            nearest = cKDTree(found[-1]).query(close)[1]
            areas.append(np.bincount(nearest, band, len(found[-1])) / band.sum())
        slope = np.concatenate([part.slopes(points)[1] for part, points in zip(self.parts, found, strict=True)])
        normals = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
        structures = np.repeat(np.arange(self.count), [len(points) for points in found])
        return SurfacePoints(np.concatenate(found), normals, np.concatenate(areas), structures)

    def _own(self, index: np.ndarray, structures: Structures | None, tile: slice) -> np.ndarray:
        return index if structures is None else index + structures[tile, None] * self.lattice.size


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points of surfaces, mm, outward normals there, which share of the area of its structure each stands for, and that one."""

    points: Points
    normals: Points
    areas: Levels
    structures: Structures

    def fewer(self, every: int) -> "SurfacePoints":
        """Return every so many points."""
        some = slice(None, None, every)
        return SurfacePoints(self.points[some], self.normals[some], self.areas[some], self.structures[some])


def soft_volumes(levels: Float[np.ndarray, "organs points"], step: float) -> Float[np.ndarray, " organs"]:
    """Return volumes inside of levels on a lattice, mm, in voxels; distances tell which part of a voxel is inside."""
    return np.asarray(np.clip(0.5 - levels / step, 0, 1).sum(axis=1))


def without_overlap(levels: Float[np.ndarray, "structures points"]) -> Float[np.ndarray, "structures points"]:
    """Return levels, mm, of structures that share no point: what lies in two belongs to the one in which it lies deeper.

    Half of the difference of two levels is about the distance to where they are alike.
    """
    if len(levels) == 1:
        return levels
    found = levels.copy()
    for own, level in enumerate(levels):
        others = np.delete(levels, own, axis=0).min(axis=0)
        np.maximum(level, (level - others) / 2, out=found[own])
    return found


def clear_level(level: LevelFunction, structure: int) -> Callable[[Points], Levels]:
    """Return the level of one structure, clear of the others (`without_overlap`)."""
    if level.count == 1:
        return level.values
    return lambda points: without_overlap(level.everywhere(points).reshape(level.count, -1))[structure]


SCALES = ((0.15, np.inf), (0.08, 2.0), (0.055, 1.0), (0.04, 0.5), (0.03, 0.28))
"""Deviation and length of each scale, as shares of the organ's size."""
SPACING = 0.3
"""Distance of lattice nodes, as a share of the organ's size."""
REACH = 1.0
"""Nodes farther than this from the template's surface carry nothing; a share of the organ's size."""
_POINTS_AT_ONCE = 1024  # points at a time, so that all about them stays in cache


@dataclass(frozen=True, eq=False)
class SmoothBasis:
    """Modes of smooth fields, by the value of each, mm, at each node that carries something."""

    lattice: Lattice = field(metadata=stored(""))
    nodes: Int[np.ndarray, " nodes"]
    shapes: Float[np.ndarray, "nodes modes"]

    @classmethod
    def around(
        cls,
        low: Float[np.ndarray, " dims"],
        high: Float[np.ndarray, " dims"],
        distance: Callable[[np.ndarray], np.ndarray],
        size: float,
        count: int,
    ) -> "SmoothBasis":
        """Make at most `count` modes around an organ in a box from `low` to `high`, mm.

        `distance` is that of points to the template's surface, mm, either sign; `size` the root mean square distance of the
        organ's surface from its centre, mm.
        """
        lattice = Lattice.around(low, high, SPACING * size)
        places = lattice.nodes()
        nodes = np.flatnonzero(np.abs(distance(np.clip(places, low, high))) < REACH * size)
        squared = ((places[nodes][:, None] - places[nodes][None]) ** 2).sum(axis=2)
        kernel = np.zeros_like(squared)
        for sd, length in SCALES:
            kernel += (sd * size) ** 2 * np.exp(-squared / (2 * (length * size) ** 2))
        count = min(count, len(nodes))
        values, vectors = eigh(kernel, subset_by_index=[len(nodes) - count, len(nodes) - 1])
        present = values > 1e-9 * values[-1]
        shapes = (vectors * np.sqrt(np.maximum(values, 0)))[:, present][:, ::-1]
        # An eigenvector's sign is arbitrary: its largest entry is made positive, so that a refit gives the same latents.
        # The first of entries that are as large but for rounding: symmetric modes have several.
        sizes = np.abs(shapes)
        strongest = (sizes >= (1 - 1e-6) * sizes.max(axis=0)).argmax(axis=0)
        signs = np.sign(shapes[strongest, np.arange(shapes.shape[1])])
        return cls(lattice, nodes, np.ascontiguousarray(shapes * signs))

    @property
    def count(self) -> int:
        """Number of modes."""
        return self.shapes.shape[1]

    def at(self, points: Points) -> Float[np.ndarray, "points modes"]:
        """Return the value of each mode at points, mm."""
        return self._values(points, self.shapes)

    def field(self, points: Points, coefficients: Float[np.ndarray, "modes outputs"]) -> Field:
        """Return a field, a sum of modes, at points, mm."""
        return self._values(points, self.shapes @ coefficients)

    def field_slopes(
        self, points: Points, coefficients: Float[np.ndarray, "modes outputs"]
    ) -> tuple[Field, Float[np.ndarray, "points outputs dims"]]:
        """Return a field, mm, and its derivative by position (no unit)."""
        control = self.shapes @ coefficients
        found = np.empty((len(points), control.shape[1]))
        slopes = np.empty((*found.shape, self.lattice.dims))
        for start in range(0, len(points), _POINTS_AT_ONCE):
            tile = slice(start, start + _POINTS_AT_ONCE)
            index, weight, gradient = self.lattice.slopes(points[tile])
            splines = self._splines(index)
            found[tile] = splines(weight) @ control
            for axis in range(self.lattice.dims):
                slopes[tile, :, axis] = splines(gradient[:, axis]) @ control
        return found, slopes

    def _values(self, points: Points, control: Float[np.ndarray, "nodes outputs"]) -> Field:
        found = np.empty((len(points), control.shape[1]))
        for start in range(0, len(points), _POINTS_AT_ONCE):
            tile = slice(start, start + _POINTS_AT_ONCE)
            index, weight = self.lattice.weights(points[tile])
            found[tile] = self._splines(index)(weight) @ control
        return found

    @cached_property
    def _place(self) -> Int[np.ndarray, " lattice"]:
        """Where each node of the lattice is among those that carry something; -1 where it carries nothing."""
        place = np.full(self.lattice.size, -1)
        place[self.nodes] = np.arange(len(self.nodes))
        return place

    def _splines(self, index: Int[np.ndarray, "points taps"]) -> Callable[[np.ndarray], csr_array]:
        """Return what makes a sparse matrix, points x nodes, of weights of these taps."""
        own = self._place[index].ravel()
        kept = np.flatnonzero(own >= 0)
        own = own[kept]
        starts = np.searchsorted(kept, np.arange(len(index) + 1) * index.shape[1])
        return lambda weight: csr_array((weight.ravel()[kept], own, starts), shape=(len(index), len(self.nodes)))


_SOLVES = 20
_CLOSE = 1e-4


def solve_back(
    goal: Points, start: Points, modes: SmoothBasis, coefficients: Float[np.ndarray, " coefficients"]
) -> Points:
    """Return q with q + d(q) = goal, mm, by damped Newton steps from a start."""
    dims = goal.shape[1]
    field_of, found = coefficients.reshape(-1, dims), start.copy()
    open_ = np.arange(len(goal))
    for _ in range(_SOLVES):
        field, slopes = modes.field_slopes(found[open_], field_of)
        gap = goal[open_] - found[open_] - field
        still = np.abs(gap).max(axis=1) > _CLOSE
        open_, gap, slopes = open_[still], gap[still], slopes[still]
        if not len(open_):
            break
        # A fold of the field has no way back: there the step is that of a rigid shift.
        jacobian = np.eye(dims) + slopes
        bad = np.linalg.det(jacobian) < 0.1
        jacobian[bad] = np.eye(dims)
        found[open_] += np.linalg.solve(jacobian, gap[:, :, None])[:, :, 0]
    return found


@dataclass(frozen=True, eq=False)
class MeanShape:
    """A level function, mm, negative inside: T, and coefficients of g, what the covariates do.

    If `displaces`, g moves points; else it is added to the level.
    """

    template: LevelFunction
    modes: SmoothBasis
    effect: Float[np.ndarray, "modes outputs"]
    displaces: bool

    def values(self, points: Points) -> Float[np.ndarray, " levels"]:
        """Return the level of every structure at every point, mm."""
        field = self.modes.field(points, self.effect)
        if self.displaces:
            return self.template.everywhere(points + field)
        return self.template.values(points) + field[:, 0]

    def seen(self, points: Points, identity: Field) -> Float[np.ndarray, " levels"]:
        """Return `values` of somebody whose own field is ``identity`` there."""
        if self.displaces:
            return self.values(points + identity)
        return self.values(points) + identity[:, 0]

    def slopes(self, points: Points, identity: Field, structures: Structures | None = None) -> tuple[Levels, Field]:
        """Return the level at points of each one's own structure, mm, and how it answers to the own field."""
        if not self.displaces:
            return self.seen(points, identity), np.ones((len(points), 1))
        own = points + identity
        if not self.effect.any():
            return self.template.slopes(own, structures)
        field, bend = self.modes.field_slopes(own, self.effect)
        level, slope = self.template.slopes(own + field, structures)
        return level, slope + np.einsum("pi,pij->pj", slope, bend)


BAND = 0.25
"""Distances are looked at, and clipped, up to this share of the organ's size."""
TRUST = 0.08
"""At this distance from the surface (a share of the organ's size) a point of the band counts half."""
PATCH = 0.08
"""Errors of neighbouring points are alike over this length, a share of the organ's size: a patch of surface counts once."""
FAR = 0.4
"""Points beyond the band, as a share of those on the surface: they keep the template from surfaces that nobody has."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Some points, mm, and the person's signed distance there, mm, clipped to the band.

    The sum of their weights is the number of patches of surface. `structures` is None where there is one.
    """

    points: Points
    distances: Levels
    weights: Levels
    band: float
    structures: Structures | None = None

    @classmethod
    def of(
        cls,
        own: LevelFunction,
        row: Float[np.ndarray, " levels"],
        size: float,
        count: int,
        rng: np.random.Generator,
    ) -> "Observations":
        """Draw at most `count` points on a person's surface, and as many around it, evenly from all structures.

        `own` is the spline through the signed distance, `row` the distance at its nodes, and `size` the organ's, all in mm.
        """
        rows = np.asarray(row).reshape(own.count, -1)
        some = [cls._of_one(*one, size, count // own.count, rng) for one in zip(own.parts, rows, strict=True)]
        if len(some) == 1:
            return some[0]
        return cls(
            np.concatenate([one.points for one in some]),
            np.concatenate([one.distances for one in some]),
            np.concatenate([one.weights for one in some]),
            some[0].band,
            np.repeat(np.arange(len(some)), [len(one.points) for one in some]),
        )

    @classmethod
    def _of_one(
        cls, own: LevelFunction, row: Float[np.ndarray, " nodes"], size: float, count: int, rng: np.random.Generator
    ) -> "Observations":
        band, lattice = BAND * size, own.lattice
        distance, nodes = np.abs(np.asarray(row, np.float64)), lattice.nodes()
        close, near = distance < max(lattice.spacing), distance < band
        cell = float(np.prod(lattice.spacing))
        patches = np.count_nonzero(near) * cell / (2 * band) / (PATCH * size) ** (lattice.dims - 1)
        around, far = _some(near, count, rng), _some(~near, int(FAR * count), rng)
        surface = own.onto_surface(nodes[_some(close, count, rng)])
        off = np.concatenate([around, far])
        clipped = np.clip(np.asarray(row, np.float64)[off], -band, band)
        less = 1 / (1 + (clipped[: len(around)] / (TRUST * size)) ** 2)
        # Far points say nothing while the template stays away from them, and all the more where it does not.
        trust = np.concatenate([np.ones(len(surface)), less, np.ones(len(far))])
        return cls(
            np.concatenate([surface, nodes[off]]),
            np.concatenate([np.zeros(len(surface)), clipped]),
            trust * (patches / trust.sum()),
            band,
        )


def _some(where: Bool[np.ndarray, " nodes"], count: int, rng: np.random.Generator) -> Int[np.ndarray, " some"]:
    found = np.flatnonzero(where)
    return np.sort(rng.choice(found, min(count, len(found)), replace=False))


Moves = Literal["displacement", "distance"]
OUTLIER = 4.0
"""Residuals beyond this many times the noise count less and less."""
STEPS = 12
STILL = 2e-3
"""A step that moves no point by more than this share of the band ends the search."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of a subject's own field: the most probable coefficients, and the inverse of their covariance.

    `error` is the weighted root mean square residual near the surface, mm.
    """

    mean: Float[np.ndarray, " coefficients"]
    precision: Float[np.ndarray, "coefficients coefficients"]
    error: float

    def covariance(self) -> Float[np.ndarray, "coefficients coefficients"]:
        """Return the covariance of the coefficients."""
        return cho_solve(cho_factor(self.precision), np.eye(len(self.mean)))


def register(
    observations: Observations,
    mean_shape: MeanShape,
    precision: Float[np.ndarray, "coefficients coefficients"],
    noise: float,
) -> Posterior:
    """Find a person's own field, given what their covariates make expect.

    `precision` is the inverse of the covariance of the coefficients a, those of one mode side by side (mode-major), and `noise`
    the standard deviation of a signed distance, mm.
    """
    return _Search(observations, mean_shape, mean_shape.modes.at(observations.points), precision, noise).run()


@dataclass(frozen=True, eq=False)
class _Search:
    observations: Observations
    mean_shape: MeanShape
    basis: Float[np.ndarray, "points modes"]
    prior: Float[np.ndarray, "coefficients coefficients"]
    noise: float

    def run(self) -> Posterior:
        """Go from no field to the most probable one nearby."""
        a = np.zeros(len(self.prior))
        now, precision = self.at(a), self.prior
        for _ in range(STEPS):
            step, precision = now.step()
            length = 1.0
            while (then := self.at(a + length * step)).loss > now.loss and length > 0.1:
                length /= 2
            if then.loss > now.loss:
                break
            a, now = a + length * step, then
            transformed = np.abs(self.basis @ (length * step).reshape(self.basis.shape[1], -1)).max(initial=0.0)
            if transformed < STILL * self.observations.band:
                break
        return Posterior(a, precision, now.error())

    def at(self, a: Float[np.ndarray, " coefficients"]) -> "_Point":
        points, band = self.observations.points, self.observations.band
        field = self.basis @ a.reshape(self.basis.shape[1], -1)
        level, slope = self.mean_shape.slopes(points, field, self.observations.structures)
        residual = np.clip(level, -band, band) - self.observations.distances
        # Beyond the band on both sides nothing can be said about where the surface is.
        seen = (np.abs(level) < band) | (np.abs(self.observations.distances) < band)
        scaled = (residual / (OUTLIER * self.noise)) ** 2
        data = self.observations.weights @ (OUTLIER**2 * np.log1p(scaled))
        return _Point(self, a, residual, slope * seen[:, None], scaled, float(data + a @ self.prior @ a))


@dataclass(frozen=True, eq=False)
class _Point:
    search: _Search
    a: Float[np.ndarray, " coefficients"]
    residual: Float[np.ndarray, " points"]
    slope: Float[np.ndarray, "points outputs"]
    scaled: Float[np.ndarray, " points"]
    loss: float

    def step(self) -> tuple[Float[np.ndarray, " coefficients"], Float[np.ndarray, "coefficients coefficients"]]:
        """Return the Gauss-Newton step and the matrix it was solved with."""
        basis, prior = self.search.basis, self.search.prior
        weight = self.search.observations.weights / self.search.noise**2 / (1 + self.scaled)
        jacobian = (basis[:, :, None] * self.slope[:, None, :]).reshape(len(basis), -1)
        precision = jacobian.T @ (jacobian * weight[:, None]) + prior
        pull = jacobian.T @ (weight * self.residual) + prior @ self.a
        return -cho_solve(cho_factor(precision), pull), precision

    def error(self) -> float:
        """Return the root mean square residual, mm, weighted as in the search."""
        weights = self.search.observations.weights / (1 + self.scaled)
        return float(np.sqrt((weights @ self.residual**2) / weights.sum()))
