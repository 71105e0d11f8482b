"""The zero level of a function as a surface, coarse to fine: the function is only asked where the level can be.

A cell with edges L_i and values f at its corners holds a zero at p only if |f(c)| <= slope |c - p| at every corner c. The
nearest of the corners that differ in the axes S alone is within reach(S)^2 = sum_{i in S} (L_i / 2)^2 + sum_{i not in S}
L_i^2 of p, wherever p is in the cell; so the least |f| among them is at most slope * reach(S), for each of the groups.

Within a cell the field differs from the multilinear interpolation of its corners by at most a sum of one term an axis
(sum_i L_i^2 / 8 max |f_ii| where it is smooth). Halving an axis shows its term, the bend |f(middle) - (f(start) +
f(end)) / 2| of the cell's edges, and twice the largest bend is the bound in both halves: a kink on an axis comes up to
it, a smooth field to an eighth of it. A cell with corners of one sign holds no zero if all are beyond the axes' sum.

Cells that fail either test are dropped with the sign of their corners, the others are halved, one axis at a time, until
the sum is within a fine cell. Then signs are interpolated, and the field is only asked at the points that the sum leaves
in doubt and at those that the mesh depends on: the ends of fine edges on which the sign changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from medrep.cohort.grid import Lattice
from medrep.cohort.surfaces import Surface
from medrep.errors import ModelError, lacking

try:
    from skimage.measure import marching_cubes
except ImportError as error:
    raise lacking("shapes", error) from None

Field = Callable[[Float64[np.ndarray, "points 3"]], Float[np.ndarray, " points"]]

TILE = 65536
"""Points a field is asked for at once, at most."""

_ORGAN_SLOPE = 1.5  # of a level that was carried along; the band is widened where it is steeper
_FAR = 1e6  # mm; what a point of known sign holds that was never evaluated
_SAFETY = 0.05  # fine cells that every reach and bound is widened by, against rounding in the field
_AMBIGUOUS = 9  # edges with sign changes of the one kind of cell whose triangles depend on a corner that has none
_BENDS = 2.0  # bends of a whole that bound the interpolation error in its halves
_NUDGE = 1e-4  # fine cells; a value nearer to zero gets this one, since a level through lattice points tears the mesh
_WIDENINGS = 5  # of the band, 1.5 times each; then every point is evaluated


class BorderError(ModelError):
    """A zero level that leaves the box."""


@dataclass(frozen=True, eq=False)
class Meshed:
    """A surface and what it cost.

    Attributes:
        surface: The zero level, faces outward (from negative to positive), in the coordinates of the field.
        evaluations: Points at which the field was evaluated.
    """

    surface: Surface
    evaluations: int


def mesh_lattice(field: Field, lattice: Lattice, cells: int) -> Surface:
    """Mesh the zero level of an organ's level function within a lattice.

    Args:
        field: About a signed distance, mm, as steep as squeezing and stretching make it.
        lattice: In three dimensions.
        cells: Along its longest axis.

    Raises:
        ModelError: As `mesh_field`.
    """
    nodes = lattice.nodes()
    return mesh_field(field, nodes[0], nodes[-1], cells=cells, slope=_ORGAN_SLOPE).surface


def mesh_field(
    field: Field,
    low: Float[np.ndarray, "3"],
    high: Float[np.ndarray, "3"],
    cells: int = 256,
    *,
    slope: float = 1.0,
    coarse: int = 32,
    dense: bool = False,
) -> Meshed:
    """Mesh the zero level of a field in a box.

    Where ``slope`` holds, the mesh is that of all lattice points (``dense``). Where it does not and the refined cells
    are seen to cut the level, the band is widened, up to all points; a piece that lies wholly between points where the
    field claims to be far from zero or straight cannot be seen.

    Args:
        field: Points (mm) -> values (mm), negative inside.
        low: Lower corner of the box in mm.
        high: Upper corner in mm; moved out to whole cells.
        cells: Cubic cells along the longest axis.
        slope: Upper bound of the field's gradient, mm per mm.
        coarse: Cells along the longest axis to start from; ``cells`` is halved down to at least so many.
        dense: Evaluate every lattice point.

    Raises:
        BorderError: A zero level that touches the border of the box, which would cut the organ.
        ModelError: One line: an unusable box or slope, a field that is not finite, or no zero level.
    """
    lengths = np.asarray(high, dtype=np.float64) - low
    if not (np.isfinite(lengths).all() and lengths.min() > 0 and cells >= 1 and coarse >= 1 and 0 < slope < np.inf):
        raise ModelError(
            f"nothing to mesh: box {_listed(low)} to {_listed(high)} mm, {cells} cells, slope {slope};"
            " give a box with volume, at least one cell and a slope above zero"
        )
    lattice = _Lattice(field, np.asarray(low, dtype=np.float64), lengths, cells)
    stride = 1
    while cells >= 2 * stride * coarse:
        stride *= 2
    for widening in range(_WIDENINGS + 1):
        everything = dense or widening == _WIDENINGS
        lattice.refine(1 if everything else stride, 1.5**widening * slope, 1.5**widening * _BENDS)
        if everything or not lattice.cuts_level():
            break
    return Meshed(lattice.surface(), lattice.evaluations)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Cells of one size.

    Attributes:
        starts: First corners, lattice steps.
        edges: Lattice steps along each axis; the last cells end with the lattice.
        errors: Bounds of what interpolation along each axis is wrong by, mm.
    """

    starts: Int64[np.ndarray, "cells 3"]
    edges: Int64[np.ndarray, "3"]
    errors: Float64[np.ndarray, "cells 3"]

    def some(self, which: Bool[np.ndarray, " cells"]) -> "_Cells":
        return _Cells(self.starts[which], self.edges, self.errors[which])


@final
class _Lattice:
    """Points of cubic cells over a box: ``values`` in mm where the field was evaluated, else NaN; ``inside`` for all."""

    def __init__(
        self, field: Field, low: Float64[np.ndarray, "3"], lengths: Float64[np.ndarray, "3"], cells: int
    ) -> None:
        self.field, self.low, self.step = field, low, float(lengths.max()) / cells
        self.last = np.maximum(np.ceil(lengths / self.step - 1e-6).astype(np.int64), 1)
        self.values = np.full(self.last + 1, np.nan, dtype=np.float32)
        self.inside = np.zeros(self.last + 1, dtype=bool)
        self.evaluations = 0

    def refine(self, stride: int, slope: float, bends: float) -> None:
        """Evaluate lattice points next to the level, found in cells with edges from ``stride`` lattice steps down."""
        if stride == 1:
            self._evaluate(np.arange(self.values.size))
            self.inside = self.values < 0
            return
        axes = [np.append(np.arange(0, last, stride), last) for last in self.last]
        self._evaluate(np.ravel_multi_index(np.ix_(*axes), self.values.shape))
        owners = np.ix_(*(np.arange(last + 1) // stride for last in self.last))
        self.inside = (self.values[np.ix_(*axes)] < 0)[owners]
        starts = np.stack(np.meshgrid(*(axis[:-1] for axis in axes), indexing="ij"), axis=-1).reshape(-1, 3)
        cells, fine = _Cells(starts, np.full(3, stride), np.full(starts.shape, np.inf)), []
        cells = cells.some(self._near_level(cells, slope))
        while cells.edges.max() > 1:
            cells = self._halved(cells, bends)
            near = self._near_level(cells, slope)
            self._paint(cells.some(~near))
            straight = near & (self._bounds(cells) < self.step)
            fine.append(self._interpolate(cells.some(straight)))
            cells = cells.some(near & ~straight)
        self._complete(np.concatenate(fine))

    def cuts_level(self) -> bool:
        """Return whether neighbours differ in sign although one of them was never evaluated."""
        unknown = np.isnan(self.values)
        for axis in range(3):
            fore, aft = (
                tuple(span if i == axis else slice(None) for i in range(3)) for span in (slice(1, None), slice(-1))
            )
            if np.any((self.inside[fore] != self.inside[aft]) & (unknown[fore] | unknown[aft])):
                return True
        return False

    def surface(self) -> Surface:
        """Return the zero level."""
        box = f"box {_listed(self.low)} to {_listed(self.low + self.step * self.last)} mm"
        if self.inside.all() or not self.inside.any():
            sign = "negative" if self.inside.all() else "positive"
            raise ModelError(f"{box}: no zero level, the field is {sign} everywhere; check the units, or move the box")
        spans, sides = [], []
        for axis in range(3):
            planes = np.flatnonzero(self.inside.any(axis=tuple({0, 1, 2} - {axis})))
            first, last = int(planes[0]), int(planes[-1])
            ends = {"low": first == 0, "high": last == self.last[axis]}
            sides += [f"{end} side of axis {axis}" for end, touched in ends.items() if touched]
            spans.append(slice(first - 1, last + 2))
        if sides:
            raise BorderError(f"{box}: the zero level touches the border ({', '.join(sides)}); give a larger box")
        values, inside = self.values[tuple(spans)], self.inside[tuple(spans)]
        filled = np.where(np.isnan(values), np.where(inside, -_FAR, _FAR), values).astype(np.float32)
        vertices, faces, _, _ = marching_cubes(filled, 0.0, allow_degenerate=False)
        corner = np.array([span.start for span in spans])
        found = Surface(self.low + self.step * (corner + vertices.astype(np.float64)), faces.astype(np.int64))
        return found if found.volume > 0 else Surface(found.vertices, np.ascontiguousarray(found.faces[:, ::-1]))

    def _evaluate(self, points: Int64[np.ndarray, "..."]) -> None:
        """Evaluate points that have not been."""
        flat = self.values.reshape(-1)
        asked = np.zeros(flat.size, dtype=bool)
        asked[points] = True
        wanted = np.flatnonzero(asked & np.isnan(flat))
        for start in range(0, len(wanted), TILE):
            tile = wanted[start : start + TILE]
            places = self.low + self.step * np.stack(np.unravel_index(tile, self.values.shape), axis=1)
            values = np.asarray(self.field(places), dtype=np.float64)
            lost = np.flatnonzero(~np.isfinite(values))
            if len(lost):
                raise ModelError(
                    f"the field is {values[lost[0]]} at {_listed(places[lost[0]])} mm ({len(lost)} of {len(tile)} points);"
                    " check the weights of the model and the box"
                )
            least = _NUDGE * self.step
            flat[tile] = np.where(np.abs(values) < least, least, values)
        self.evaluations += len(wanted)

    def _points(
        self, starts: Int64[np.ndarray, "cells 3"], offsets: Sequence[Int64[np.ndarray, " _"]]
    ) -> Int64[np.ndarray, "cells x y z"]:
        x, y, z = (np.minimum(starts[:, [i]] + offsets[i], self.last[i]) for i in range(3))
        return np.ravel_multi_index((x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]), self.values.shape)

    def _corners(self, cells: _Cells) -> Float32[np.ndarray, "cells 2 2 2"]:
        return self.values.reshape(-1)[self._points(cells.starts, [edge * np.arange(2) for edge in cells.edges])]

    def _bounds(self, cells: _Cells) -> Float64[np.ndarray, " cells"]:
        return cells.errors.sum(axis=1) + self.step * _SAFETY

    def _near_level(self, cells: _Cells, slope: float) -> Bool[np.ndarray, " cells"]:
        values = self._corners(cells)
        near = np.abs(values).min(axis=(1, 2, 3)) <= self._bounds(cells)
        for axes in (subset for size in range(4) for subset in combinations(range(3), size)):
            reach = np.sqrt(sum((edge / 2 if axis in axes else edge) ** 2 for axis, edge in enumerate(cells.edges)))
            least = np.abs(values).min(axis=tuple(axis + 1 for axis in axes), keepdims=True)
            near &= least.max(axis=(1, 2, 3)) <= slope * self.step * (reach + _SAFETY)
        negative = (values < 0).sum(axis=(1, 2, 3))
        return near | ((negative > 0) & (negative < 8))

    def _halved(self, cells: _Cells, bends: float) -> _Cells:
        """Evaluate the middles of the longest edges and return the halves."""
        axis = int(np.argmax(cells.edges))
        along = np.arange(3) == axis
        edges = cells.edges // (1 + along)
        points = self._points(
            cells.starts, [edge * np.arange(2 + half) for edge, half in zip(edges, along, strict=True)]
        )
        self._evaluate(points)
        start, middle, end = np.moveaxis(self.values.reshape(-1)[points], axis + 1, 0)
        bend = np.abs(middle - (start + end) / 2).max(axis=(1, 2))
        whole = cells.starts[:, axis] + cells.edges[axis] <= self.last[axis]  # else the middle is none
        errors = np.where(along & whole[:, None], bends * bend[:, None], cells.errors)
        starts = np.concatenate([cells.starts, cells.starts + edges * along])
        return _Cells(starts, edges, np.tile(errors, (2, 1))).some(starts[:, axis] < self.last[axis])

    def _paint(self, cells: _Cells) -> None:
        """Give all points of dropped cells the sign of their first corner."""
        signs = self.values[tuple(cells.starts.T)] < 0
        points = self._points(cells.starts, [np.arange(edge + 1) for edge in cells.edges])
        self.inside.reshape(-1)[points] = signs[:, None, None, None]

    def _interpolate(self, cells: _Cells) -> Int64[np.ndarray, "fine 2 2 2"]:
        """Interpolate the signs in cells, evaluate what is in doubt, and return the corners of the fine cells there."""
        points = self._points(cells.starts, [np.arange(edge + 1) for edge in cells.edges])
        lengths = np.minimum(cells.edges, self.last - cells.starts)
        shares = [np.minimum(np.arange(edge + 1) / lengths[:, [i]], 1) for i, edge in enumerate(cells.edges)]
        weights = [np.stack([1 - share, share], axis=-1) for share in shares]
        values = np.einsum("nabc,nia,njb,nkc->nijk", self._corners(cells), *weights, optimize=True)
        self.inside.reshape(-1)[points] = values < 0
        self._evaluate(points[np.abs(values) <= self._bounds(cells)[:, None, None, None]])
        offsets = np.stack(np.meshgrid(*map(np.arange, cells.edges), indexing="ij"), axis=-1).reshape(-1, 3)
        starts = (cells.starts[:, None] + offsets).reshape(-1, 3)
        return self._points(starts[(starts < self.last).all(axis=1)], [np.arange(2)] * 3)

    def _complete(self, corners: Int64[np.ndarray, "fine 2 2 2"]) -> None:
        """Evaluate what the mesh in fine cells depends on, until no sign changes any more."""
        evaluations = -1
        while evaluations < self.evaluations:
            evaluations = self.evaluations
            known = ~np.isnan(self.values)
            self.inside[known] = self.values[known] < 0
            inside = self.inside.reshape(-1)[corners]
            changes = np.sum([inside != np.flip(inside, axis) for axis in (1, 2, 3)], axis=0)
            ambiguous = changes.sum(axis=(1, 2, 3), keepdims=True) == 2 * _AMBIGUOUS
            self._evaluate(corners[ambiguous | (changes > 0)])


def _listed(point: Float[np.ndarray, "3"]) -> str:
    return "(" + ", ".join(f"{coordinate:g}" for coordinate in point) + ")"
