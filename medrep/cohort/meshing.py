"""The zero level of a function as a surface, coarse to fine: the function is only asked where the level can be.

A cell with edges L_i and values f at its corners holds a zero at p only if |f(c)| <= slope |c - p| at every corner c. The
nearest of the corners that differ in the axes S alone is within reach(S)^2 = sum_{i in S} (L_i / 2)^2 + sum_{i not in S}
L_i^2 of p, wherever p is in the cell; so the least |f| among them is at most slope * reach(S), for each of the groups.
Cells that fail are dropped with the sign of their corners, the others are halved, one axis at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from skimage.measure import marching_cubes

from medrep.cohort.lattice import Lattice
from medrep.cohort.surfaces import Surface
from medrep.errors import ModelError

Field = Callable[[Float64[np.ndarray, "points 3"]], Float[np.ndarray, " points"]]

TILE = 65536
"""Points a field is asked for at once, at most."""

_ORGAN_SLOPE = 1.5  # of a level that was carried along; the band is widened where it is steeper
_FAR = 1e6  # mm; what a point of known sign holds that was never evaluated
_SAFETY = 0.05  # fine cells that every reach is widened by, against rounding in the field
_NUDGE = 1e-4  # fine cells; a value nearer to zero gets this one, since a level through lattice points tears the mesh
_WIDENINGS = 5  # of the band, 1.5 times each; then every point is evaluated


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
    are seen to cut the level, the band is widened, up to all points; a piece that lies wholly between coarse points
    where the field claims to be far from zero cannot be seen.

    Args:
        field: Points (mm) -> values (mm), negative inside.
        low: Lower corner of the box in mm.
        high: Upper corner in mm; moved out to whole cells.
        cells: Cubic cells along the longest axis.
        slope: Upper bound of the field's gradient, mm per mm.
        coarse: Cells along the longest axis to start from; ``cells`` is halved down to at least so many.
        dense: Evaluate every lattice point.

    Raises:
        ModelError: One line: an unusable box or slope, a field that is not finite, no zero level, or one that touches
            the border of the box, which would cut the organ.
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
        lattice.refine(1 if everything else stride, slope * 1.5**widening)
        if everything or not lattice.cuts_level():
            break
    return Meshed(lattice.surface(), lattice.evaluations)


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

    def refine(self, stride: int, slope: float) -> None:
        """Evaluate the corners of cells from ``stride`` lattice steps down to one, wherever the level can be."""
        if stride == 1:
            self._evaluate(np.arange(self.values.size))
            self.inside = self.values < 0
            return
        axes = [np.append(np.arange(0, last, stride), last) for last in self.last]
        self._evaluate(np.ravel_multi_index(np.ix_(*axes), self.values.shape).ravel())
        owners = np.ix_(*(np.arange(last + 1) // stride for last in self.last))
        self.inside = (self.values[np.ix_(*axes)] < 0)[owners]
        starts = np.stack(np.meshgrid(*(axis[:-1] for axis in axes), indexing="ij"), axis=-1).reshape(-1, 3)
        edges = np.full(3, stride)
        starts = starts[self._near_level(starts, edges, slope)]
        while edges.max() > 1:
            axis = int(np.argmax(edges))
            edges[axis] //= 2
            further = starts + edges * (np.arange(3) == axis)
            starts = np.concatenate([starts, further[further[:, axis] < self.last[axis]]])
            self._evaluate(np.unique(self._corners(starts, edges)))
            near = self._near_level(starts, edges, slope)
            self._paint(starts[~near], edges)
            starts = starts[near]
        known = ~np.isnan(self.values)
        self.inside[known] = self.values[known] < 0

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
            raise ModelError(f"{box}: the zero level touches the border ({', '.join(sides)}); give a larger box")
        values, inside = self.values[tuple(spans)], self.inside[tuple(spans)]
        filled = np.where(np.isnan(values), np.where(inside, -_FAR, _FAR), values).astype(np.float32)
        vertices, faces, _, _ = marching_cubes(filled, 0.0, allow_degenerate=False)
        corner = np.array([span.start for span in spans])
        found = Surface(self.low + self.step * (corner + vertices.astype(np.float64)), faces.astype(np.int64))
        return found if found.volume > 0 else Surface(found.vertices, np.ascontiguousarray(found.faces[:, ::-1]))

    def _evaluate(self, points: Int64[np.ndarray, " points"]) -> None:
        flat = self.values.reshape(-1)
        wanted = points[np.isnan(flat[points])]
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

    def _corners(
        self, starts: Int64[np.ndarray, "cells 3"], edges: Int64[np.ndarray, "3"]
    ) -> Int64[np.ndarray, "cells 2 2 2"]:
        x, y, z = np.moveaxis(np.stack([starts, np.minimum(starts + edges, self.last)], axis=1), 2, 0)
        places = (x[:, :, None, None], y[:, None, :, None], z[:, None, None, :])
        return np.ravel_multi_index(places, self.values.shape)

    def _near_level(
        self, starts: Int64[np.ndarray, "cells 3"], edges: Int64[np.ndarray, "3"], slope: float
    ) -> Bool[np.ndarray, " cells"]:
        values = self.values.reshape(-1)[self._corners(starts, edges)]
        near = np.ones(len(starts), dtype=bool)
        for axes in (subset for size in range(4) for subset in combinations(range(3), size)):
            reach = np.sqrt(sum((edges[axis] / 2 if axis in axes else edges[axis]) ** 2 for axis in range(3)))
            least = np.abs(values).min(axis=tuple(axis + 1 for axis in axes), keepdims=True)
            near &= least.max(axis=(1, 2, 3)) <= slope * self.step * (reach + _SAFETY)
        negative = (values < 0).sum(axis=(1, 2, 3))
        return near | ((negative > 0) & (negative < 8))

    def _paint(self, starts: Int64[np.ndarray, "cells 3"], edges: Int64[np.ndarray, "3"]) -> None:
        """Give all points of dropped cells the sign of their first corner."""
        signs = self.values[tuple(starts.T)] < 0
        x, y, z = (np.minimum(starts[:, [i]] + np.arange(edges[i] + 1), self.last[i]) for i in range(3))
        self.inside[x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]] = signs[:, None, None, None]


def _listed(point: Float[np.ndarray, "3"]) -> str:
    return "(" + ", ".join(f"{coordinate:g}" for coordinate in point) + ")"
