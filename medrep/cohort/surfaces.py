"""An organ's surface: out of a label map, as triangles in world millimetres, with exact signed distances to it.

Voxels become triangles in index space and the whole affine is applied to the vertices, so that oblique, flipped and
anisotropic grids need no case of their own. Pieces and cavities are told apart by voxel faces, not by corners.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy import ndimage
from scipy.optimize import brentq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medrep.cohort.inputs import ShapeInput
from medrep.cohort.nifti import LabelMap
from medrep.errors import CohortError, lacking

try:
    import igl
    from skimage.measure import marching_cubes
except ImportError as error:
    raise lacking("shapes", error) from None

FEWEST_VOXELS = 30
"""An organ of fewer voxels has no shape."""

_SECOND_ORGAN = 0.05  # a second piece of this share of the largest is no speck of the segmentation
_SHARES = (1.0, 0.5, 0.25, 0.0)  # of the smoothing, tried in this order
_VOLUME_ERROR = 1e-4  # of the mesh's volume against the voxels', where the iso level counts as found
_MOST_VOLUME_ERROR = 1e-3  # above this, a change of topology at the iso level kept the volume from being met


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed triangle mesh.

    Attributes:
        vertices: World coordinates, millimetres, RAS+.
        faces: Vertices of each triangle, counter-clockwise seen from outside.
    """

    vertices: Float64[np.ndarray, "vertices 3"]
    faces: Int64[np.ndarray, "faces 3"]

    @property
    def corners(self) -> Float64[np.ndarray, "faces 3 3"]:
        """Corners of each triangle, millimetres: triangle, corner, coordinate."""
        return self.vertices[self.faces]

    @property
    def face_vectors(self) -> Float64[np.ndarray, "faces 3"]:
        """Outward normal of each triangle, as long as its area in mm2."""
        a, b, c = np.moveaxis(self.corners, 1, 0)
        return np.cross(b - a, c - a) / 2

    @property
    def face_areas(self) -> Float64[np.ndarray, " faces"]:
        """Area of each triangle in mm2."""
        return np.linalg.norm(self.face_vectors, axis=1)

    @property
    def area(self) -> float:
        """Area in mm2."""
        return float(self.face_areas.sum())

    @property
    def volume(self) -> float:
        """Enclosed volume in mm3 by the divergence theorem, V = sum of centre . normal / 3; positive if faces look out."""
        centres = self.corners.mean(axis=1)
        return float(np.sum((centres - self.vertices.mean(axis=0)) * self.face_vectors) / 3)

    @property
    def centroid(self) -> Float64[np.ndarray, "3"]:
        """Centroid of the area (not of the enclosed volume), millimetres."""
        return np.average(self.corners.mean(axis=1), axis=0, weights=self.face_areas)

    def transformed(self, matrix: Float[np.ndarray, "4 4"]) -> "Surface":
        """Return the surface under an affine; faces look outward also where it mirrors."""
        vertices = self.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        mirrors = np.linalg.det(matrix[:3, :3]) < 0
        return Surface(vertices, np.ascontiguousarray(self.faces[:, ::-1]) if mirrors else self.faces)


@dataclass(frozen=True, eq=False)
class Organ:
    """One connected piece without cavities, clear of the image border.

    Attributes:
        mask: Its voxels, axes as stored.
        affine: Voxel index -> world, millimetres, RAS+.
        notes: What was mended in the label map, a sentence each.
    """

    mask: Bool[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    notes: tuple[str, ...] = ()


def organ_mask(labels: LabelMap, wanted: tuple[int, ...], path: Path, structure: str = "") -> Organ:
    """Take one organ out of a label map.

    Args:
        labels: The map.
        wanted: Region numbers that are the organ together; empty: every number above 0.
        path: The map's file, for messages.
        structure: The organ's name, for messages; empty where there is one organ.

    Returns:
        The organ; specks are dropped, cavities filled and absent numbers noted.

    Raises:
        CohortError: One line: nothing of the organ is there, or it is too small, in several pieces, or cut by the border.
    """
    where = f"{path}: structure {structure}" if structure else str(path)
    present = [int(label) for label in np.unique(labels.data) if label > 0]
    if not present:
        raise CohortError(f"{where}: the mask is empty, no voxel has a label above 0; segment the organ again")
    found = [label for label in wanted if label in present]
    if wanted and not found:
        raise CohortError(
            f"{where}: none of the labels {_shown(wanted)} is there; it has {_shown(present)}: choose among those"
        )
    absent = [label for label in wanted if label not in present]
    notes = [f"label {label} is absent" for label in absent]
    parts, _ = ndimage.label(np.isin(labels.data, found or present))
    sizes = np.bincount(parts.ravel())[1:]
    largest = int(np.argmax(sizes))
    others = sorted((int(size) for size in np.delete(sizes, largest)), reverse=True)
    if others and others[0] >= _SECOND_ORGAN * sizes[largest]:
        raise CohortError(
            f"{where}: {len(sizes)} separate pieces of {_shown([int(sizes[largest]), *others])} voxels;"
            " one organ is needed: choose its label, or mend the map"
        )
    if sizes[largest] < FEWEST_VOXELS:
        raise CohortError(
            f"{where}: {sizes[largest]} voxels are too few for a shape ({FEWEST_VOXELS} are needed);"
            " check the labels, or segment on a finer grid"
        )
    if others:
        plural = "s" * (len(others) > 1)
        notes.append(f"dropped {len(others)} piece{plural} of {_shown(others)} voxel{'s' * (others != [1])}")
    piece = parts == largest + 1
    _refuse_cut(piece, where)
    mask = np.asarray(ndimage.binary_fill_holes(piece), dtype=bool)
    filled = int(np.count_nonzero(mask) - np.count_nonzero(piece))
    if filled:
        notes.append(f"filled enclosed cavities of {filled} voxel{'s' * (filled > 1)}")
    named = tuple(f"{structure}: {note}" if structure else note for note in notes)
    return Organ(mask, labels.affine, named)


@dataclass(frozen=True, eq=False)
class FoundOrgans:
    """Organs of a label map by structure, and why others are not there, a line each."""

    organs: Mapping[str, Organ]
    problems: tuple[str, ...]

    def all(self) -> tuple[Organ, ...]:
        """Return all organs.

        Raises:
            CohortError: Those that are not there, one line.
        """
        if self.problems:
            raise CohortError("; ".join(self.problems))
        return tuple(self.organs.values())


def find_organs(labels: LabelMap, wanted: ShapeInput, path: Path) -> FoundOrgans:
    """Take the organ, or each structure, out of a label map.

    A cavity of one structure that another fills stays.

    Args:
        labels: The map.
        wanted: Says which.
        path: The map's file, for messages.
    """
    organs: dict[str, Organ] = {}
    problems = []
    for name, numbers in wanted.regions.items():
        try:
            organs[name] = organ_mask(labels, numbers, path, name)
        except CohortError as error:
            problems.append(str(error))
    own = {name: one.mask & np.isin(labels.data, wanted.regions[name]) for name, one in organs.items()}
    for name, organ in organs.items() if len(organs) > 1 else ():
        others = np.any([there for other, there in own.items() if other != name], axis=0)
        organs[name] = replace(organ, mask=organ.mask & ~others)
    return FoundOrgans(organs, tuple(problems))


def extract_surface(
    mask: Bool[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], smoothing: float = 0.6
) -> Surface:
    """Triangulate a mask by marching cubes on its smoothed indicator, at the level that keeps its volume.

    A Gaussian rounds the steps of the voxels, equally in mm along every axis. The level is found by bracketing so that
    the mesh holds the voxels' volume to 0.1%. Where smoothing breaks a thin organ into pieces, or the volume cannot be
    met, a half, a quarter and at last none of it is used.

    Args:
        mask: At least one voxel; it may touch the border of the array.
        affine: Voxel index -> world, millimetres, RAS+.
        smoothing: Standard deviation of the Gaussian in units of the smallest voxel edge.

    Returns:
        The closed surface in world coordinates, faces outward.

    Raises:
        CohortError: The mask is empty.
    """
    if not mask.any():
        raise CohortError("the mask is empty, so it has no surface; check the labels")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    widths = smoothing * edges.min() / edges
    pad = int(np.ceil(4 * widths.max())) + 2
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    padded = np.pad(mask[box], pad)
    voxels, most_pieces = int(np.count_nonzero(padded)), _pieces_of(padded)
    for share in _SHARES:
        surface = _with_volume(ndimage.gaussian_filter(padded.astype(np.float32), share * widths), voxels)
        if _pieces(surface) <= most_pieces and abs(surface.volume / voxels - 1) <= _MOST_VOLUME_ERROR:
            break
    shift = np.eye(4)
    shift[:3, 3] = [span.start - pad for span in box]
    return surface.transformed(affine @ shift)


def signed_distance(points: Float[np.ndarray, "points 3"], surface: Surface) -> Float64[np.ndarray, " points"]:
    """Return the distance of each point to the surface in mm, negative inside.

    The sign is that of the fast winding number, which small gaps in a mesh do not upset. The length is taken from the
    nearest points: libigl's own is multiplied by 1 - 2 w, the winding number's rounding included (up to 1%).
    """
    places = np.ascontiguousarray(points, dtype=np.float64)
    signed, _, nearest, _ = igl.signed_distance(
        places,
        np.ascontiguousarray(surface.vertices, dtype=np.float64),
        np.ascontiguousarray(surface.faces, dtype=np.int64),
        sign_type=igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER,
    )
    return np.copysign(np.linalg.norm(places - nearest, axis=1), signed)


def joined_surface(surfaces: Sequence[Surface]) -> Surface:
    """Return the surfaces of several structures as one."""
    starts = np.cumsum([0, *(len(one.vertices) for one in surfaces)])
    faces = [one.faces + start for one, start in zip(surfaces, starts, strict=False)]
    return Surface(np.concatenate([one.vertices for one in surfaces]), np.concatenate(faces))


def sample_surface(
    surface: Surface, count: int, seed: int
) -> tuple[Float64[np.ndarray, "count 3"], Float64[np.ndarray, "count 3"]]:
    """Draw points on the surface, uniform by area (mm), and the outward unit normals there."""
    generator = np.random.default_rng(seed)
    areas = surface.face_areas
    chosen = generator.choice(len(areas), size=count, p=areas / areas.sum())
    root, along = np.sqrt(generator.random(count)), generator.random(count)
    weights = np.stack([1 - root, root * (1 - along), root * along], axis=1)  # uniform over a triangle
    points = np.einsum("pc,pcx->px", weights, surface.corners[chosen])
    return points, surface.face_vectors[chosen] / areas[chosen, None]


def _refuse_cut(piece: Bool[np.ndarray, "x y z"], where: str) -> None:
    sides = [
        f"the {side} of axis {axis}"
        for axis in range(3)
        for side, index in (("start", 0), ("end", -1))
        if piece.take(index, axis=axis).any()
    ]
    if sides:
        raise CohortError(
            f"{where}: the organ touches the image border at {', '.join(sides)}; crop the image wider,"
            " or pad it with 0 if nothing was cut off"
        )


def _with_volume(density: Float32[np.ndarray, "x y z"], voxels: int) -> Surface:
    """Return the level set of a density that encloses so many voxels, in index space."""

    def excess(level: float) -> float:
        relative = _level_set(density, level).volume / voxels - 1
        return 0.0 if abs(relative) < _VOLUME_ERROR else relative

    highest = float(density.max()) * (1 - 1e-6)
    return _level_set(density, float(brentq(excess, 1e-3 * highest, highest, xtol=1e-7)))


def _level_set(density: Float32[np.ndarray, "x y z"], level: float) -> Surface:
    vertices, faces, _, _ = marching_cubes(density, level, allow_degenerate=False)
    surface = Surface(vertices.astype(np.float64), faces.astype(np.int64))
    return surface if surface.volume > 0 else Surface(surface.vertices, np.ascontiguousarray(surface.faces[:, ::-1]))


def _pieces(surface: Surface) -> int:
    starts, ends = surface.faces.ravel(), np.roll(surface.faces, 1, axis=1).ravel()
    joined = coo_array((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(len(surface.vertices),) * 2)
    return int(connected_components(joined, directed=False)[0])


def _pieces_of(mask: Bool[np.ndarray, "x y z"]) -> int:
    """Return how many closed surfaces bound a mask that is clear of the border: its pieces and their cavities."""
    return int(ndimage.label(mask)[1] + ndimage.label(~mask)[1] - 1)


def _shown(numbers: Sequence[int], most: int = 6) -> str:
    more = f", ... ({len(numbers) - most} more)" if len(numbers) > most else ""
    shown = [str(number) for number in numbers[:most]]
    return (" and ".join(shown) if len(shown) == 2 and not more else ", ".join(shown)) + more
