"""Label maps as signed distances on one grid where all organs lie alike, and the way back.

The grid lies around ``centre`` in aligned millimetres; what the cohort's grid, centre and size are is measured on training people
once and stays in the ``input`` section of the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Float64

from medrep._persisted import persisted
from medrep.cohort.grid import Columns, Grid, Lattice, grid_lattice
from medrep.cohort.inputs import FINEST, ShapeInput
from medrep.cohort.nifti import LabelMap, form_notes, read_labels
from medrep.cohort.surfaces import (
    Organ,
    Surface,
    extract_surface,
    find_organs,
    joined_surface,
    signed_distance,
)
from medrep.errors import CohortError, listed

How = Literal["none", "centre", "rigid", "similarity"]

_TOLERANCE = 1e-6  # of a matrix read back against rotation times scale
_TURNS = np.array(
    [
        turn
        for order in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=3)
        if np.linalg.det(turn := np.diag(signs)[:, list(order)]) > 0
    ]
)
"""The 24 proper rotations that map the axes of the world onto one another."""


def _refuse_no_similarity(alignment: "Alignment") -> None:
    matrix = alignment.matrix
    if not np.isfinite(matrix).all() or matrix[3].tolist() != [0, 0, 0, 1]:
        raise ValueError(f"matrix {matrix.tolist()} is not 4 x 4 finite numbers that end in 0, 0, 0, 1")
    scale, turn = np.cbrt(np.linalg.det(matrix[:3, :3])), matrix[:3, :3]
    if not (scale > 0 and np.allclose(turn @ turn.T, scale**2 * np.eye(3), rtol=0, atol=_TOLERANCE * scale**2)):
        raise ValueError(f"matrix {matrix.tolist()} is not a rotation times a positive scale")


@persisted(check=_refuse_no_similarity)
@dataclass(frozen=True, eq=False)
class Alignment:
    """A similarity transform.

    Attributes:
        matrix: World millimetres -> aligned millimetres.
    """

    matrix: Float64[np.ndarray, "4 4"]

    @property
    def scale(self) -> float:
        """Aligned millimetres per world millimetre."""
        return float(np.cbrt(np.linalg.det(self.matrix[:3, :3])))

    def apply(self, points: Float[np.ndarray, "points 3"]) -> Float64[np.ndarray, "points 3"]:
        """Bring points from world to aligned millimetres."""
        return np.asarray(points @ self.matrix[:3, :3].T + self.matrix[:3, 3], dtype=np.float64)

    def back(self, points: Float[np.ndarray, "points 3"]) -> Float64[np.ndarray, "points 3"]:
        """Bring points from aligned to world millimetres; the inverse of `apply`."""
        shifted = np.asarray(points - self.matrix[:3, 3], dtype=np.float64)
        return np.linalg.solve(self.matrix[:3, :3], shifted.T).T


def align_surface(
    surface: Surface, how: How, centre: Float[np.ndarray, "3"] | None = None, size: float | None = None
) -> Alignment:
    """Find the transform that brings an organ to where the others lie.

    ``none`` leaves it; ``centre`` moves its area centroid to ``centre``; ``rigid`` also turns its principal axes (of the
    second moments of the surface by area) onto the axes of the world: of the 24 ways to do so the one that turns
    least, R = argmax trace R, so that nobody is mirrored or put upside down; ``similarity`` also scales it, so that the
    root mean square distance of the surface from its centroid is ``size``.

    Where two principal moments are nearly equal, those two axes follow noise.

    Args:
        surface: The organ, world millimetres.
        how: As above.
        centre: Where the centroid goes, in aligned millimetres; None: the origin.
        size: Aligned root mean square radius in mm; needed for ``similarity``, unused otherwise.

    Raises:
        CohortError: ``similarity`` without a size above zero.
    """
    matrix = np.eye(4)
    if how == "none":
        return Alignment(matrix)
    middle, moments = surface.centroid, second_moments(surface)
    if how in {"rigid", "similarity"}:
        axes = np.linalg.eigh(moments)[1]
        turns = _TURNS @ (axes * np.sign(np.linalg.det(axes))).T
        matrix[:3, :3] = turns[np.argmax(np.trace(turns, axis1=1, axis2=2))]
    if how == "similarity":
        if size is None or not 0 < size < np.inf:
            raise CohortError(f"alignment similarity: size {size} is no length in mm; give the cohort's mean radius")
        matrix[:3, :3] *= size / np.sqrt(np.trace(moments))
    goal = np.zeros(3) if centre is None else centre
    matrix[:3, 3] = goal - matrix[:3, :3] @ middle
    return Alignment(matrix)


def second_moments(surface: Surface) -> Float64[np.ndarray, "3 3"]:
    """Return the covariance of a point drawn uniformly from the surface, in mm2; its trace is the squared RMS radius.

    Over one triangle with corners v and area A, the integral of x x' is A / 12 (s s' + sum of v v'), s = sum of v.
    """
    corners = surface.corners - surface.centroid
    sums = corners.sum(axis=1)
    weights = surface.face_areas / 12
    whole = np.einsum("f,fx,fy->xy", weights, sums, sums) + np.einsum("f,fcx,fcy->xy", weights, corners, corners)
    return whole / surface.area


MARGIN = 0.5
"""Room around the organs of training, a share of their mean size (root mean square distance of the surface from its centre)."""
FARTHEST = 1.5
"""How far beyond the grid an organ may lie for which it grows, a share of their size; who lies farther is not in one space."""
ROOMS = (0.0, 0.5, 1.5)
"""Room around the grid in which a person is moved or drawn, shares of the size: more where the organ leaves the grid."""
EXACT = 0.4
"""Distances are exact up to this share of the size; beyond it they are interpolated between every fourth point."""
_FINEST = 25.0  # grid points over the size, unless input.spacing says otherwise
_STRIDE = 4


@dataclass(frozen=True, eq=False)
class PlacedShape:
    """A person's organ, or structures, where all organs lie alike.

    Attributes:
        row: Signed distance on the grid, mm of the aligned organ, negative inside; of structures one after another.
        alignment: World -> aligned millimetres, one for all structures.
        labels: The label map as read.
        organs: The organ in it, or each structure.
        wanted: The ``input`` section with the grid: the model's, or a larger one around it.
        centroid: Of the organ's surface, world mm.
    """

    row: Float32[np.ndarray, " points"]
    alignment: Alignment
    labels: LabelMap
    organs: tuple[Organ, ...]
    wanted: ShapeInput
    centroid: Float64[np.ndarray, "3"]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on what was mended in the label map, a sentence each."""
        return tuple(note for organ in self.organs for note in organ.notes)

    @property
    def lattice(self) -> Lattice:
        """The grid."""
        return grid_lattice(shape_grid(self.wanted))

    @property
    def to_grid(self) -> Float64[np.ndarray, "4 4"]:
        """World -> coordinates of the grid, mm."""
        shift = np.eye(4)
        shift[:3, 3] = -np.asarray(self.wanted.centre)
        return shift @ self.alignment.matrix

    def voxels(self, motion: Float[np.ndarray, "4 4"] | None = None) -> Float[np.ndarray, "voxels 3"]:
        """Return where the label map's voxels are in the coordinates of the grid, mm, in C order.

        Args:
            motion: In the world, mm: where the points were that it brings to the voxels.
        """
        affine = self.labels.affine if motion is None else np.linalg.solve(motion, self.labels.affine)
        index = np.indices(self.labels.data.shape).reshape(3, -1).T
        world = index @ affine[:3, :3].T + affine[:3, 3]
        return self.alignment.apply(world) - np.asarray(self.wanted.centre)


@dataclass(frozen=True)
class LoadedShape:
    """One person's organ, or why there is none.

    Attributes:
        key: The person (and session).
        path: The file.
        placed: The organ; None after a failure.
        error: One line, empty if all went well.
    """

    key: str
    path: Path
    placed: PlacedShape | None
    error: str


def _small(having: Mapping[str, tuple[int, float]]) -> list[str]:
    largest = max(having, key=lambda name: having[name][1])
    return [
        f"structure {name} of {size:.1f} mm is small beside {largest} of {having[largest][1]:.1f} mm: fields are made for"
        f" {FINEST * having[largest][1]:.1f} mm and more; train it by itself where its details matter"
        for name, (people, size) in having.items()
        if people and size < FINEST * having[largest][1]
    ]


@dataclass(frozen=True)
class MeasuredShapes:
    """Measures of a cohort's organs.

    Attributes:
        having: How many people have each structure, and its mean size, mm.
        measured: The ``input`` section with spacing, shape, centre and size filled in; None if no organ could be used.
        notes: What was mended in the label maps.
        problems: Every label map that cannot be used.
    """

    measured: ShapeInput | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    having: Mapping[str, tuple[int, float]]


def measure_shapes(files: pd.Series, wanted: ShapeInput, advance: Callable[[int], None]) -> MeasuredShapes:
    """Find the grid, its centre and the size on which a cohort's organs are looked at.

    Args:
        files: Index: key; values: paths of label maps.
        wanted: The ``input`` section; spacing and shape that are given stay.
        advance: Called with the number of people read.
    """
    corners, sizes, edges, problems, notes = [], [], [], [], []
    apart: dict[str, tuple[float, float]] = {}
    having: dict[str, list[float]] = {name: [] for name in wanted.regions}
    for key, path in files.items():
        try:
            labels = read_labels(Path(str(path)))
            found = find_organs(labels, wanted, Path(str(path)))
            surfaces = {name: extract_surface(one.mask, one.affine) for name, one in found.organs.items()}
            for name, surface in surfaces.items():
                having[name].append(organ_size([surface]))
            organs = found.all()
            surface, size = joined_surface(list(surfaces.values())), organ_size(list(surfaces.values()))
            aligned = surface.transformed(_aligned(list(surfaces.values()), wanted.align, size).matrix)
            corners.append(np.stack([aligned.vertices.min(axis=0), aligned.vertices.max(axis=0)]))
            sizes.append(size)
            edges.append(labels.shortest_edge)
            apart[str(key)] = (labels.forms_apart, labels.shortest_edge)
            notes += [f"{key}: {note}" for organ in organs for note in organ.notes]
        except CohortError as error:
            problems.append(f"{key}: {error}")
        advance(1)
    notes += form_notes(apart)
    known = {name: (len(own), float(np.mean(own or [0.0]))) for name, own in having.items()}
    notes += _small(known)
    if not sizes:
        return MeasuredShapes(None, tuple(notes), tuple(problems), known)
    size = float(np.mean(sizes))
    boxes = np.stack(corners)
    if wanted.align == "similarity":
        boxes = boxes * (size / np.asarray(sizes))[:, None, None]
    low, high = boxes[:, 0].min(axis=0) - MARGIN * size, boxes[:, 1].max(axis=0) + MARGIN * size
    spacing = wanted.spacing or (max(float(np.median(edges)), size / _FINEST),) * 3
    shape = wanted.shape or tuple(int(n) for n in np.ceil((high - low) / np.asarray(spacing)) + 1)
    centre = tuple(float(x) for x in (low + high) / 2)
    measured = replace(wanted, spacing=tuple(spacing), shape=shape, centre=centre, size=size)
    return MeasuredShapes(measured, tuple(notes), tuple(problems), known)


def organ_size(surfaces: Sequence[Surface]) -> float:
    """Return the root mean square distance of surfaces from their centres, mm: of structures, of each from its own."""
    areas = np.array([one.area for one in surfaces])
    squares = np.array([np.trace(second_moments(one)) for one in surfaces])
    return float(np.sqrt(areas / areas.sum() @ squares))


def _aligned(surfaces: Sequence[Surface], how: How, size: float) -> Alignment:
    """Return the one motion that brings all structures of a person to where those of others lie; `size` is the cohort's, mm."""
    whole = joined_surface(surfaces)
    if how != "similarity" or len(surfaces) == 1:
        return align_surface(whole, how, size=size)
    own = float(np.sqrt(np.trace(second_moments(whole))))
    return align_surface(whole, how, size=size * own / organ_size(surfaces))


def shape_columns(wanted: ShapeInput) -> Columns:
    """Return the columns of a measured ``input`` section: the points of its grid, of each structure.

    Raises:
        CohortError: As `shape_grid`.
    """
    return Columns.of_grid(shape_grid(wanted), structures=tuple(wanted.structures))


def shape_grid(wanted: ShapeInput) -> Grid:
    """Return the grid of a measured ``input`` section.

    Raises:
        CohortError: A section without it.
    """
    if not (len(wanted.spacing) == len(wanted.shape) == len(wanted.centre) == 3 and wanted.size > 0):
        raise CohortError("input.spacing, shape, centre and size of a shape model are filled in by training")
    x, y, z = wanted.shape
    a, b, c = wanted.spacing
    return Grid((x, y, z), (a, b, c))


def grid_frames(wanted: ShapeInput, files: pd.Series) -> Float64[np.ndarray, "people 4 4"]:
    """Return what brings each person's world to the coordinates of the grid, mm.

    Args:
        wanted: A measured ``input`` section.
        files: Index: key; values: paths of label maps; none is read where nobody is aligned.

    Raises:
        CohortError: A file that cannot be used.
    """
    shift = np.eye(4)
    shift[:3, 3] = -np.asarray(wanted.centre)
    if wanted.align == "none":
        return np.repeat(shift[None], len(files), axis=0)
    found = []
    for path in map(Path, files.astype(str)):
        organs = find_organs(read_labels(path), wanted, path).all()
        surfaces = [extract_surface(organ.mask, organ.affine) for organ in organs]
        found.append(shift @ _aligned(surfaces, wanted.align, wanted.size).matrix)
    return np.stack(found)


def larger_grid(wanted: ShapeInput, room: float) -> ShapeInput:
    """Return a section whose grid has some millimetres more on every side; the points that there were stay where they are."""
    nodes = [2 * int(np.ceil(room / edge)) for edge in wanted.spacing]
    return replace(wanted, shape=tuple(count + more for count, more in zip(wanted.shape, nodes, strict=True)))


def load_shapes(files: pd.Series, wanted: ShapeInput, *, grow: bool = False) -> Iterator[LoadedShape]:
    """Read organs one after another, in the order of ``files``.

    Args:
        files: Index: key; values: paths of label maps.
        wanted: A measured ``input`` section.
        grow: Whether the grid grows for an organ that lies not far beyond it; else that is an error.

    Yields:
        One entry a file. A file that cannot be used is an entry with an error, never an exception.
    """
    points = grid_lattice(shape_grid(wanted)).nodes()
    for key, path in files.items():
        try:
            placed = place_shape(Path(str(path)), wanted, points, grow=grow)
            yield LoadedShape(str(key), Path(str(path)), placed, "")
        except CohortError as error:
            yield LoadedShape(str(key), Path(str(path)), None, str(error))


def load_alike(files: pd.Series, wanted: ShapeInput, *, grow: bool) -> list[LoadedShape]:
    """Read the organs of one person's visits on one grid, which grows for all of them where one lies beyond it.

    Args:
        files: Index: key; values: paths of label maps.
        wanted: A measured ``input`` section.
        grow: Whether the grid may grow.
    """
    found = list(load_shapes(files, wanted, grow=grow))
    shapes = {one.placed.wanted.shape for one in found if one.placed is not None}
    if len(shapes) < 2:
        return found
    return list(load_shapes(files, replace(wanted, shape=tuple(max(axis) for axis in zip(*shapes, strict=True)))))


def fill_shapes(
    files: pd.Series, wanted: ShapeInput, matrix: Callable[[int, int], np.ndarray], advance: Callable[[int], None]
) -> Float32[np.ndarray, "people points"]:
    """Read all organs of a cohort into one matrix, a row a person.

    Args:
        files: Index: key; values: paths of label maps.
        wanted: A measured ``input`` section.
        matrix: Makes the float32 matrix (people, points), for instance memory-mapped.
        advance: Called with the number of people read.

    Raises:
        CohortError: Every label map that cannot be used.
    """
    rows = matrix(len(files), shape_columns(wanted).count)
    problems: list[str] = []
    for position, loaded in enumerate(load_shapes(files, wanted)):
        if loaded.placed is None:
            problems.append(f"{loaded.key}: {loaded.error}")
        else:
            rows[position] = loaded.placed.row
        advance(1)
    refuse_unusable(problems)
    return rows


def refuse_unusable(problems: Sequence[str]) -> None:
    """Raise one error that lists every label map that cannot be used.

    Raises:
        CohortError: If there is any problem.
    """
    if problems:
        cure = "mend them, or leave the people out with --exclude"
        raise CohortError(listed("label maps that cannot be used", list(problems), cure))


def place_shape(
    path: Path, wanted: ShapeInput, points: Float[np.ndarray, "points 3"], *, grow: bool = False
) -> PlacedShape:
    """Read one label map and measure its signed distance on the grid.

    Args:
        path: The file.
        wanted: A measured ``input`` section.
        points: the points of its grid, mm.
        grow: Whether the grid grows for an organ that lies not far beyond it.

    Raises:
        CohortError: One line: an unusable file, or an organ that does not lie within the grid.
    """
    labels = read_labels(path)
    organs = find_organs(labels, wanted, path).all()
    surfaces = [extract_surface(organ.mask, organ.affine) for organ in organs]
    alignment = _aligned(surfaces, wanted.align, wanted.size)
    transform = np.eye(4)
    transform[:3, 3] = -np.asarray(wanted.centre)
    aligned = [surface.transformed(transform @ alignment.matrix) for surface in surfaces]
    room = points[-1] - 2 * np.asarray(wanted.spacing)
    over = np.max([np.abs(one.vertices).max(axis=0) for one in aligned], axis=0) - room
    if grow and 0 < over.max() <= FARTHEST * wanted.size:
        wanted = larger_grid(wanted, float(over.max()))
        points = grid_lattice(shape_grid(wanted)).nodes()
    elif (over > 0).any():
        raise CohortError(
            f"{path}: the organ lies up to {over.max():.1f} mm beyond the model's grid; bring images to one space"
            " first, or train with --set input.align=centre (or rigid)"
        )
    row = np.concatenate([distances_on(one, wanted, points) for one in aligned])
    areas, centroids = zip(*((surface.area, surface.centroid) for surface in surfaces), strict=True)
    return PlacedShape(row, alignment, labels, organs, wanted, np.average(centroids, axis=0, weights=areas))


def distances_on(
    surface: Surface, wanted: ShapeInput, points: Float[np.ndarray, "points 3"]
) -> Float32[np.ndarray, " points"]:
    """Return signed distances, mm: exact near the surface, interpolated further away.

    Args:
        surface: The organ in the coordinates of the grid.
        wanted: A measured ``input`` section.
        points: the points of its grid, mm.
    """
    shape = wanted.shape
    grid = points.reshape(*shape, 3)
    coarse_axes = [np.unique([*range(0, n, _STRIDE), n - 1]) for n in shape]
    coarse = signed_distance(grid[np.ix_(*coarse_axes)].reshape(-1, 3), surface)
    values = coarse.reshape([len(axis) for axis in coarse_axes])
    for axis, nodes in enumerate(coarse_axes):
        values = _stretched(values, axis, nodes, shape[axis])
    values = values.ravel()
    reach = EXACT * wanted.size + _STRIDE * float(np.linalg.norm(wanted.spacing)) / 2
    near = np.abs(values) < reach
    values[near] = signed_distance(points[near], surface)
    return values.astype(np.float32)


def _stretched(values: np.ndarray, axis: int, nodes: np.ndarray, count: int) -> np.ndarray:
    """Interpolate linearly along an axis from some positions to all."""
    place = np.arange(count)
    upper = np.clip(np.searchsorted(nodes, place, side="right"), 1, len(nodes) - 1)
    share = (place - nodes[upper - 1]) / (nodes[upper] - nodes[upper - 1])
    shape = [1] * values.ndim
    shape[axis] = count
    share = share.reshape(shape)
    return values.take(upper - 1, axis=axis) * (1 - share) + values.take(upper, axis=axis) * share
