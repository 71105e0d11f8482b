"""Surfaces of organs and values on them as files that viewers open.

Every file is atomic, holds float32 world millimetres (RAS+) and has the same bytes for the same surface.
"""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TypeVar

import nibabel as nib
import numpy as np
from jaxtyping import Shaped

from medrep._files import atomic_file
from medrep.cohort.surfaces import Surface
from medrep.derivatives.bids import MeshFormat
from medrep.errors import MedrepError, lacking

try:
    import trimesh
except ImportError as error:
    raise lacking("shapes", error) from None

_Place = TypeVar("_Place", bound=PurePath)

MAP_ENDINGS = (".shape.gii", ".func.gii")
"""Files that hold values on the vertices of a surface, and no surface."""


def mesh_beside(image: _Place, form: MeshFormat) -> _Place:
    """Return where the surface of an organ goes whose label map is ``image`` (.nii.gz)."""
    ending = {"gifti": ".surf.gii", "stl": ".stl", "ply": ".ply"}[form]
    return image.with_name(image.name.removesuffix(".nii.gz") + ending)


def write_mesh(path: Path, surface: Surface) -> None:
    """Write a surface: GIFTI (.surf.gii, .gii), binary STL or binary PLY, by the ending of the path; MedrepError for another."""
    name = path.name.lower()
    ending = next((ending for ending in _WRITERS if name.endswith(ending)), "")
    if not ending or name.endswith(MAP_ENDINGS):
        raise MedrepError(f"{path}: not a file a surface is written to; end it in .surf.gii, {', '.join(_WRITERS)}")
    with atomic_file(path) as partial:
        partial.write_bytes(_WRITERS[ending](surface))


def write_shape_map(path: Path, maps: Mapping[str, Shaped[np.ndarray, " vertices"]]) -> None:
    """Write values on the vertices of a surface as GIFTI, one array a map (NIFTI_INTENT_SHAPE), to .shape.gii or .func.gii.

    The maps are in the order of the surface's vertices; NaN stays NaN. Raises MedrepError, one line, for another ending, no
    map, or maps of different lengths.
    """
    if not path.name.lower().endswith(MAP_ENDINGS):
        raise MedrepError(f"{path}: not a file values are written to; end it in {' or '.join(MAP_ENDINGS)}")
    if not maps:
        raise MedrepError(f"{path}: there are no values to write; give at least one map")
    vertices = len(next(iter(maps.values())))
    unfit = [f"{name} ({len(numbers)})" for name, numbers in maps.items() if numbers.shape != (vertices,)]
    if unfit:
        raise MedrepError(f"{path}: {', '.join(unfit)}: not one number for each of {vertices} vertices; give as many")
    arrays = [_array(numbers, "SHAPE", {"Name": name}) for name, numbers in maps.items()]
    with atomic_file(path) as partial:
        partial.write_bytes(_gifti(arrays))


def _as_gifti(surface: Surface) -> bytes:
    points = _array(surface.vertices, "POINTSET", {})
    points.coordsys = nib.gifti.GiftiCoordSystem("NIFTI_XFORM_SCANNER_ANAT", "NIFTI_XFORM_SCANNER_ANAT", np.eye(4))
    return _gifti([points, _array(surface.faces, "TRIANGLE", {})])


def _as_stl(surface: Surface) -> bytes:
    return bytes(_trimesh(surface).export(file_type="stl"))


def _as_ply(surface: Surface) -> bytes:
    return bytes(_trimesh(surface).export(file_type="ply", encoding="binary", vertex_normal=False))


_WRITERS: dict[str, Callable[[Surface], bytes]] = {".gii": _as_gifti, ".stl": _as_stl, ".ply": _as_ply}


def _trimesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices, surface.faces, process=False)


def _array(numbers: Shaped[np.ndarray, "..."], intent: str, meta: Mapping[str, str]) -> nib.gifti.GiftiDataArray:
    whole = intent == "TRIANGLE"
    array = nib.gifti.GiftiDataArray(
        np.asarray(numbers, dtype=np.int32 if whole else np.float32),
        intent=f"NIFTI_INTENT_{intent}",
        datatype="NIFTI_TYPE_INT32" if whole else "NIFTI_TYPE_FLOAT32",
        meta=nib.gifti.GiftiMetaData(meta),
    )
    array.coordsys = None  # only points have one
    return array


def _gifti(arrays: list[nib.gifti.GiftiDataArray]) -> bytes:
    return bytes(nib.GiftiImage(darrays=arrays).to_bytes())
