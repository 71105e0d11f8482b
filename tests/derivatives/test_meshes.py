import nibabel as nib
import numpy as np
import pytest
import trimesh

from medrep.cohort.surfaces import Surface
from medrep.derivatives.meshes import write_mesh, write_shape_map
from medrep.errors import MedrepError

MADE = trimesh.creation.icosphere(3, 7.0)
SURFACE = Surface(np.array(MADE.vertices) * [1, 2, 1] + [30.0, -40, 12.345], np.array(MADE.faces, dtype=np.int64))
VALUES = np.random.default_rng(0).normal(size=len(SURFACE.vertices))
ENDINGS = [".surf.gii", ".gii", ".stl", ".ply"]


def read(path):
    if path.suffix == ".gii":
        points, triangles = nib.load(path).darrays
        return points.data, triangles.data
    mesh = trimesh.load_mesh(path, process=False)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_what_others_read(tmp_path, ending):
    path = tmp_path / "deep" / f"sub-1_hippocampus{ending}"
    write_mesh(path, SURFACE)
    vertices, faces = read(path)
    np.testing.assert_allclose(vertices[faces], SURFACE.corners, rtol=1e-6, atol=1e-5)
    assert Surface(vertices.astype(float), faces.astype(np.int64)).volume == pytest.approx(SURFACE.volume, rel=1e-5)
    if ending != ".stl":  # which repeats a vertex for each of its triangles
        np.testing.assert_array_equal(faces, SURFACE.faces)
        np.testing.assert_array_equal(vertices.astype(np.float32), SURFACE.vertices.astype(np.float32))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_surface_gives_the_same_bytes_in_any_folder(tmp_path, ending):
    paths = [tmp_path / name / f"a{ending}" for name in ("one", "two")]
    for path in paths:
        write_mesh(path, SURFACE)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_gifti_says_that_its_points_are_scanner_millimetres(tmp_path):
    write_mesh(tmp_path / "a.surf.gii", SURFACE)
    points, triangles = nib.load(tmp_path / "a.surf.gii").darrays
    codes = nib.nifti1.intent_codes
    assert (points.intent, triangles.intent) == (codes["NIFTI_INTENT_POINTSET"], codes["NIFTI_INTENT_TRIANGLE"])
    assert points.data.dtype == np.float32
    assert triangles.data.dtype == np.int32
    assert (points.coordsys.dataspace, points.coordsys.xformspace) == (1, 1)
    np.testing.assert_array_equal(points.coordsys.xform, np.eye(4))


@pytest.mark.parametrize("ending", [".shape.gii", ".func.gii"])
def test_maps_come_back_with_their_names(tmp_path, ending):
    values = VALUES.copy()
    values[3] = np.nan
    paths = [tmp_path / name / f"a{ending}" for name in ("one", "two")]
    for path in paths:
        write_shape_map(path, {"change in mm": values, "age": 2 * values})
    first, second = nib.load(paths[0]).darrays
    assert [array.meta["Name"] for array in (first, second)] == ["change in mm", "age"]
    assert {array.intent for array in (first, second)} == {nib.nifti1.intent_codes["NIFTI_INTENT_SHAPE"]}
    np.testing.assert_array_equal(first.data, values.astype(np.float32))
    np.testing.assert_array_equal(second.data, (2 * values).astype(np.float32))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("name", ["a.obj", "a.vtk", "a", "a.nii.gz", "a.shape.gii", "a.func.gii"])
def test_other_endings_of_a_surface_are_refused(tmp_path, name):
    with pytest.raises(
        MedrepError, match=r"not a file a surface is written to; end it in \.surf\.gii, \.gii, \.stl, \.ply"
    ):
        write_mesh(tmp_path / name, SURFACE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.gii", "a.surf.gii", "a.ply"])
def test_other_endings_of_a_map_are_refused(tmp_path, name):
    with pytest.raises(MedrepError, match=r"not a file values are written to; end it in \.shape\.gii or \.func\.gii"):
        write_shape_map(tmp_path / name, {"age": VALUES})


def test_values_that_do_not_fit_are_refused(tmp_path):
    short = rf"age \(5\): not one number for each of {len(VALUES)} vertices; give as many"
    with pytest.raises(MedrepError, match=short):
        write_shape_map(tmp_path / "a.shape.gii", {"sex": VALUES, "age": VALUES[:5]})
    with pytest.raises(MedrepError, match="there are no values to write; give at least one map"):
        write_shape_map(tmp_path / "a.shape.gii", {})
