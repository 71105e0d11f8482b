"""Neighbours on meshes: FreeSurfer's icospheres, GIFTI meshes that are named or found, and voxels that share a face."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage

from medrep.cohort.grid import Mesh
from medrep.cohort.kinds.surface import SurfaceInput, read_person
from medrep.cohort.neighbours import find_neighbours, icosphere, read_mesh
from medrep.errors import CohortError
from tests.surface_cohorts import cifti_path, gifti_path, write_cifti, write_gifti, write_person


def write_mesh(path: Path, faces: np.ndarray, vertices: int = 0) -> Path:
    """Write a GIFTI mesh; where its vertices lie is of no account."""
    points = np.zeros((vertices or faces.max() + 1, 3), np.float32)
    arrays = [
        GiftiDataArray(points, intent="NIFTI_INTENT_POINTSET", datatype="float32"),
        GiftiDataArray(faces.astype(np.int32), intent="NIFTI_INTENT_TRIANGLE", datatype="int32"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(GiftiImage(darrays=arrays), path)
    return path


def edges_of(faces: np.ndarray) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for face in faces.tolist() for a, b in zip(face, face[1:] + face[:1], strict=True)}


def found(path: Path, wanted: str = "", **keys: object) -> tuple[Mesh | None, str]:
    person = read_person(path, SurfaceInput(**keys))
    return find_neighbours(person.names, person.files, wanted)


def pair(root: Path, vertices: int) -> Path:
    write_person(root, "sub-01", np.arange(2 * vertices, dtype=np.float32))
    return gifti_path(root, "sub-01")


@pytest.mark.parametrize("level", [0, 1, 3])
def test_an_icosphere_is_closed_and_holds_the_coarser_one(level: int) -> None:
    faces, count = icosphere(level), 10 * 4**level + 2
    edges = np.sort(np.concatenate([faces[:, :2], faces[:, 1:], faces[:, ::2]]), axis=1)
    pairs, often = np.unique(edges, axis=0, return_counts=True)
    assert (len(faces), faces.max() + 1, len(pairs)) == (20 * 4**level, count, 30 * 4**level)
    assert (often == 2).all()
    assert sorted(np.bincount(pairs.ravel()))[:12] == [5] * 12
    assert (np.bincount(pairs.ravel())[:12] == 5).all()
    finer = edges_of(icosphere(level + 1))
    assert all(
        any((low, m) in finer and (high, m) in finer for m in range(count, 4 * count)) for low, high in pairs[:8]
    )


def test_the_icosphere_is_that_of_fsaverage5() -> None:
    datasets = pytest.importorskip("nilearn.datasets")
    named = Path(str(datasets.__file__)).parent / "data" / "fsaverage5" / "pial_left.gii.gz"
    if not named.is_file():
        pytest.skip("this nilearn does not hold fsaverage5")
    np.testing.assert_array_equal(icosphere(5), nib.load(named).darrays[1].data)


def test_vertices_of_fsaverage_are_neighbours_within_their_hemisphere(tmp_path: Path) -> None:
    mesh, told = found(pair(tmp_path, 642))
    assert mesh is not None
    assert told == "batch effects borrow strength from neighbours on the mesh (fsaverage3)"
    own = edges_of(icosphere(3))
    assert set(map(tuple, mesh.edges.tolist())) == own | {(a + 642, b + 642) for a, b in own}


def test_other_spaces_and_counts_have_no_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "none"))
    told = "left: no mesh is known (input.mesh); batch effects borrow strength from all columns alike"
    assert found(pair(tmp_path / "a", 20)) == (None, told)
    other = tmp_path / "b" / "sub-01_space-fsLR_hemi-L_thickness.shape.gii"
    for side in "LR":
        other.parent.mkdir(exist_ok=True)
        write_gifti(other.with_name(other.name.replace("hemi-L", f"hemi-{side}")), np.zeros(642, np.float32))
    assert found(other) == (None, told)
    assert found(pair(tmp_path / "c", 642), "none") == (None, "")


@pytest.mark.parametrize("where", ["beside", "templateflow"])
def test_a_mesh_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(home))
    folder = tmp_path / "sub-01"
    folder.mkdir()
    for side in "LR":
        write_gifti(folder / f"sub-01_hemi-{side}_space-fsLR_thickness.shape.gii", np.zeros(42, np.float32))
        write_mesh(folder / f"sub-01_hemi-{side}_midthickness.surf.gii", icosphere(1))  # of no space: the person's own
        if where == "beside":
            write_mesh(folder / f"sub-01_hemi-{side}_space-fsLR_midthickness.surf.gii", icosphere(1))
        else:
            write_mesh(home / "tpl-fsLR" / f"tpl-fsLR_hemi-{side}_den-32k_sphere.surf.gii", icosphere(2))
            write_mesh(home / "tpl-fsLR" / f"tpl-fsLR_hemi-{side}_den-4k_sphere.surf.gii", icosphere(1))
    mesh, told = found(folder / "sub-01_hemi-L_space-fsLR_thickness.shape.gii")
    assert mesh is not None
    assert len(mesh.edges) == 2 * 120
    name = "sub-01_hemi-L_space-fsLR_mid" if where == "beside" else "tpl-fsLR_hemi-L_den-4k_sphere"
    assert f"({name}" in told


def test_a_mesh_that_is_named_is_used_or_refused(tmp_path: Path) -> None:
    path = pair(tmp_path, 12)
    for side in "LR":
        write_mesh(tmp_path / f"{side}.surf.gii", icosphere(0))
    mesh, told = found(path, str(tmp_path / "{hemi}.surf.gii"))
    assert mesh is not None
    assert len(mesh.edges) == 60
    assert told.endswith("(L.surf.gii and R.surf.gii)")
    write_gifti(tmp_path / "values.surf.gii", np.zeros(12, np.float32))
    write_mesh(tmp_path / "more.surf.gii", icosphere(0), vertices=13)
    write_mesh(tmp_path / "beyond.surf.gii", icosphere(0) + 1, vertices=12)
    for name, problem in (
        ("absent", "no such mesh; set input.mesh to GIFTI meshes"),
        ("values", "not a mesh"),
        ("more", "a mesh of 13 vertices, and people have values of 12"),
        ("beyond", "its triangles are not of its vertices"),
    ):
        with pytest.raises(CohortError, match=problem):
            read_mesh(tmp_path / f"{name}.surf.gii", 12)


def test_grayordinates_are_neighbours_on_their_mesh_and_in_space(tmp_path: Path) -> None:
    write_person(tmp_path, "sub-01", np.zeros(40, np.float32), "cifti")
    path = cifti_path(tmp_path, "sub-01")
    person = read_person(path, SurfaceInput())
    count = dict(person.files[0].meshes)["CORTEX_LEFT"]
    band = (np.arange(count)[:, None] + np.arange(3)) % count
    write_mesh(tmp_path / "band.surf.gii", np.concatenate([band, band[:1, [0, 0, 0]]]))  # one triangle is a point
    mesh, _ = found(path, str(tmp_path / "band.surf.gii"))
    assert mesh is not None
    between = {person.names[low].rsplit("_", 1)[0] for low, _ in mesh.edges}
    assert between == {"CORTEX_LEFT", "CORTEX_RIGHT", "THALAMUS_LEFT_1_1", "THALAMUS_LEFT_1_2"}
    for low, high in mesh.edges:
        one, other = (np.array(person.names[at].split("_")[2:], int) for at in (low, high))
        far = np.abs(one - other).sum()
        assert far == 1 if len(one) == 3 else far in {2, count - 2}
    assert len(mesh.edges) == 2 * count // 2 + 4


def test_parcels_have_no_neighbours(tmp_path: Path) -> None:
    write_cifti(cifti_path(tmp_path, "sub-01", "parcels"), np.zeros((1, 40), np.float32))
    assert found(cifti_path(tmp_path, "sub-01", "parcels")) == (None, "")
