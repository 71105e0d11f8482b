"""Which columns of a surface are neighbours: vertices that share an edge of the mesh, voxels that share a face.

A mesh is that of a GIFTI file, or one of FreeSurfer's icospheres (fsaverage3 to fsaverage6, and fsaverage), whose vertices are
numbered by the subdivision that made them, so that their triangles follow from their number.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
from jaxtyping import Int

from medrep.cohort.bids import parse_name
from medrep.cohort.grid import Mesh
from medrep.cohort.surface_files import SurfaceFile
from medrep.errors import CohortError

NO_MESH = "none"
"""Value of ``input.mesh`` that leaves columns without neighbours."""

_ICOSPHERES = {10 * 4**level + 2: level for level in range(3, 8)}
_ICOSAHEDRON = (
    *((0, 3, 4), (0, 4, 5), (0, 5, 1), (0, 1, 2), (0, 2, 3), (3, 2, 8), (3, 8, 9), (3, 9, 4), (4, 9, 10), (4, 10, 5)),
    *(
        (5, 10, 6),
        (5, 6, 1),
        (1, 6, 7),
        (1, 7, 2),
        (2, 7, 8),
        (8, 11, 9),
        (9, 11, 10),
        (10, 11, 6),
        (6, 11, 7),
        (7, 11, 8),
    ),
)
_VERTEX = re.compile(r"(.*)_(\d+)")
_VOXEL = re.compile(r"(.*)_(\d+)_(\d+)_(\d+)")
_SIDES = {"left": "L", "right": "R", "CORTEX_LEFT": "L", "CORTEX_RIGHT": "R"}
_SURFACE = (".surf.gii",)


def icosphere(level: int) -> Int[np.ndarray, "faces 3"]:
    """Return the triangles of an icosahedron of which each was divided into four, ``level`` times, numbered as FreeSurfer's are.

    New vertices are numbered as triangles a, b, c come by them: in the middle of a and c, of c and b, of b and a.
    """
    faces, count = np.array(_ICOSAHEDRON), 12
    for _ in range(level):
        a, b, c = faces.T
        pairs = np.sort(np.stack([a, c, c, b, b, a], axis=1).reshape(-1, 2), axis=1)
        _, first, edge = np.unique(pairs[:, 0] * count + pairs[:, 1], return_index=True, return_inverse=True)
        number = np.empty(len(first), int)
        number[np.argsort(first)] = np.arange(count, count + len(first))
        ac, cb, ba = number[edge].reshape(-1, 3).T
        others = np.stack([ac, cb, c, ba, cb, ac, ba, b, cb], axis=1).reshape(-1, 3)
        faces, count = np.concatenate([np.stack([a, ba, ac], axis=1), others]), count + len(first)
    return faces


def read_mesh(path: Path, vertices: int) -> Int[np.ndarray, "faces 3"]:
    """Read the triangles of a GIFTI mesh.

    Args:
        path: The file.
        vertices: How many it must have.

    Raises:
        CohortError: One line: no mesh, or one of other vertices.
    """
    cure = "set input.mesh to GIFTI meshes (.surf.gii) with {hemi} in the place of L and R, or to none"
    try:
        from nibabel import GiftiImage  # a tenth of a second to import

        image = GiftiImage.from_bytes(path.read_bytes())
        points, faces = (
            image.get_arrays_from_intent(f"NIFTI_INTENT_{name}")[0].data for name in ("POINTSET", "TRIANGLE")
        )
    except FileNotFoundError:
        raise CohortError(f"{path}: no such mesh; {cure}") from None
    except Exception as error:  # nibabel lets through whatever a damaged file trips over
        raise CohortError(f"{path}: not a mesh ({' '.join(str(error).split())[:120]}); {cure}") from None
    if len(points) != vertices:
        raise CohortError(f"{path}: a mesh of {len(points)} vertices, and people have values of {vertices}; {cure}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.min(initial=0) < 0 or faces.max(initial=0) >= vertices:
        raise CohortError(f"{path}: its triangles are not of its vertices; {cure}")
    return np.asarray(faces, np.int64)


def find_neighbours(names: Sequence[str], files: Sequence[SurfaceFile], wanted: str) -> tuple[Mesh | None, str]:
    """Find which columns are neighbours.

    Args:
        names: Of the columns.
        files: One person's.
        wanted: ``input.mesh``: a file, with ``{hemi}`` for L and R; `NO_MESH`; or empty: a mesh beside the files or of
            TemplateFlow's folder, or an icosphere of FreeSurfer.

    Returns:
        The neighbours, and where they are from; None and why, where they are not known; None and nothing of columns that have
        none, such as parcels.

    Raises:
        CohortError: A mesh that is named and cannot be used; one line.
    """
    parts = {name for file in files for name, _ in file.parts}
    meshes = {name for file in files for name, _ in file.meshes}
    places = _places(names, parts, meshes)
    if wanted == NO_MESH or not places:
        return None, ""
    edges, told = list[np.ndarray](), list[str]()
    for part, own in places.items():
        at = np.array(own)
        if at.shape[1] == 4:
            edges.append(_voxel_edges(at))
            continue
        found = _mesh_of(part, files, wanted)
        if found is None:
            return None, f"{part}: no mesh is known (input.mesh); batch effects borrow strength from all columns alike"
        faces, source, vertices = found
        column = np.full(vertices, -1)
        column[at[:, 1]] = at[:, 0]
        sides = column[np.concatenate([faces[:, :2], faces[:, 1:], faces[:, ::2]])]
        edges.append(sides[(sides >= 0).all(axis=1)])
        told.append(source)
    pairs = np.unique(np.sort(np.concatenate(edges), axis=1), axis=0).astype(np.int32)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    said = " and ".join(dict.fromkeys(told)) or "voxels that share a face"
    return Mesh(pairs), f"batch effects borrow strength from neighbours on the mesh ({said})"


def _places(names: Sequence[str], parts: Set[str], meshes: Set[str]) -> Mapping[str, list[tuple[int, ...]]]:
    """Return structure -> column and vertex of each place, or column and voxel; nothing where a column is neither.

    Args:
        names: Of the columns.
        parts: Structures.
        meshes: Those of them that are surfaces.
    """
    places: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for column, name in enumerate(names):
        vertex, voxel = _VERTEX.fullmatch(name), _VOXEL.fullmatch(name)
        if vertex and vertex[1] in meshes:
            places[vertex[1]].append((column, int(vertex[2])))
        elif voxel and voxel[1] in parts:
            places[voxel[1]].append((column, *map(int, voxel.groups()[1:])))
        else:
            return {}
    return places


def _voxel_edges(at: Int[np.ndarray, "voxels 4"]) -> Int[np.ndarray, "edges 2"]:
    """Return columns of voxels that share a face; each row has a column and the voxel's indices."""
    size = at[:, 1:].max(axis=0) + 2
    flat = np.ravel_multi_index(tuple(at[:, 1:].T), tuple(size))
    order = np.argsort(flat)
    found = []
    for step in (size[1] * size[2], size[2], 1):
        place = np.minimum(np.searchsorted(flat[order], flat + step), len(flat) - 1)
        there = flat[order][place] == flat + step
        found.append(np.stack([at[there, 0], at[order[place[there]], 0]], axis=1))
    return np.concatenate(found)


def _mesh_of(part: str, files: Sequence[SurfaceFile], wanted: str) -> tuple[np.ndarray, str, int] | None:
    """Return the triangles of a structure, where they are from, and how many vertices they have."""
    side = _SIDES.get(part, "")
    file, vertices = next((file, count) for file in files for name, count in file.meshes if name == part)
    if wanted:
        path = Path(wanted.replace("{hemi}", side))
        return read_mesh(path, vertices), path.name, vertices
    named = parse_name(file.path.name, (".shape.gii", ".func.gii", ".dscalar.nii", ".dtseries.nii"))
    space = named.entities.get("space", "") if named else ""
    home = Path(os.environ.get("TEMPLATEFLOW_HOME") or Path.home() / ".cache" / "templateflow")
    beside = [*file.path.parent.glob("*.surf.gii"), *(home.glob(f"tpl-{space}/*_sphere.surf.gii") if space else ())]
    for path in sorted(beside):
        own = parse_name(path.name, _SURFACE)
        if (
            own is None
            or own.entities.get("hemi") != side
            or own.entities.get("space", own.entities.get("tpl", "")) != space
        ):
            continue
        try:
            return read_mesh(path, vertices), path.name, vertices
        except CohortError:
            continue
    level = _ICOSPHERES.get(vertices) if side and (not space or space.startswith("fsaverage")) else None
    if level is None:
        return None
    return icosphere(level), "fsaverage" if level == max(_ICOSPHERES.values()) else f"fsaverage{level}", vertices
