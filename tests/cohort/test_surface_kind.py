"""Surfaces as an input kind: what is found and read of people's files, and what is said of those that cannot be used."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel import cifti2

from medrep.cohort.bids import hemispheres
from medrep.cohort.cohort import read_cohort
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import SILENT, build_input
from medrep.cohort.kinds.surface import SurfaceInput, SurfaceKind, load_surfaces, read_person
from medrep.errors import CohortError
from tests.surface_cohorts import (
    VERTICES,
    Form,
    cifti_path,
    gifti_path,
    grayordinates,
    write_cifti,
    write_gifti,
    write_person,
    write_surface_cohort,
)

ENCODINGS = ("GIFTI_ENCODING_ASCII", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_B64GZ")


def kind(**keys: object) -> SurfaceKind:
    problems: list[str] = []
    found = build_input({"kind": "surface", **keys}, "input", problems)
    assert not problems
    assert isinstance(found, SurfaceKind)
    return found


def matrix(root: Path, wanted: SurfaceKind, like: Columns | None = None) -> tuple[np.ndarray, Columns]:
    source = read_cohort(root, wanted).source
    return wanted.matrix(source, lambda n, m: np.empty((n, m), np.float32), SILENT, like=like)


def refused(root: Path, wanted: SurfaceKind | None = None) -> str:
    with pytest.raises(CohortError) as error:
        matrix(root, wanted or kind())
    return str(error.value)


@pytest.fixture
def gifti(tmp_path: Path) -> Path:
    return write_surface_cohort(tmp_path / "gifti", people=4)


@pytest.fixture
def cifti(tmp_path: Path) -> Path:
    return write_surface_cohort(tmp_path / "cifti", "cifti", people=4)


@settings(max_examples=8)
@given(arrays(np.float32, st.integers(1, 9)), st.sampled_from(ENCODINGS), st.booleans())
def test_values_of_gifti_are_those_that_nibabel_reads(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, encoding: str, double: bool
) -> None:
    path = tmp_path_factory.mktemp("one") / "sub-1_thickness.shape.gii"
    with np.errstate(all="ignore"):
        write_gifti(path, values.astype(np.float64) if double else values, encoding=encoding)
        wanted = np.asarray(nib.load(path).darrays[0].data, np.float32)
    row = read_person(path, SurfaceInput(missing="keep")).row
    np.testing.assert_array_equal(row, np.where(np.isfinite(wanted), wanted, np.nan))


@pytest.mark.parametrize("form", ["gifti", "cifti", "parcels"])
def test_a_row_is_a_persons_and_columns_are_named(tmp_path: Path, form: str) -> None:
    root = write_surface_cohort(tmp_path / form, form, people=3)  # type: ignore[arg-type]
    values, columns = matrix(root, kind())
    assert values.shape == (3, 2 * VERTICES) == (3, len(columns.names))
    if form == "gifti":
        assert (columns.names[0], columns.names[-1]) == ("left_0", f"right_{VERTICES - 1}")
        parts = [nib.load(gifti_path(root, "sub-0002", side)).darrays[0].data for side in "LR"]
        np.testing.assert_array_equal(values[1], np.concatenate(parts))
    else:
        names = ("parcel 0", "parcel 39") if form == "parcels" else ("CORTEX_LEFT_0", "THALAMUS_LEFT_1_2_2")
        assert (columns.names[0], columns.names[-1]) == names
        path = cifti_path(root, "sub-0002", form)  # type: ignore[arg-type]
        np.testing.assert_array_equal(values[1], nib.load(path).get_fdata()[0])
    again, _ = matrix(root, kind(), columns)
    np.testing.assert_array_equal(again, values)


def test_hemispheres_are_found_by_their_names() -> None:
    left, right = gifti_path(Path("a"), "sub-1"), gifti_path(Path("a"), "sub-1", "R")
    assert hemispheres(left) == hemispheres(right) == (left, right)
    for alone in ("sub-1_hemi-L_mask.nii.gz", "sub-1_thickness.shape.gii", "sub-1_hemi-L.gii", "sub-1_xhemi-L_a.gii"):
        assert hemispheres(Path(alone)) == (Path(alone),)


def test_one_hemisphere_alone_is_taken_where_it_is_asked_for(gifti: Path) -> None:
    for side, word in (("L", "left"), ("R", "right")):
        _, columns = matrix(gifti, kind(entities={"hemi": side}))
        assert columns.names == tuple(f"{word}_{k}" for k in range(VERTICES))
    gifti_path(gifti, "sub-0002").unlink()
    gifti_path(gifti, "sub-0003", "R").unlink()
    gifti_path(gifti, "sub-0004").unlink()
    gifti_path(gifti, "sub-0004", "R").unlink()
    said = refused(gifti)
    assert "people without exactly one image (3)" in said
    assert "sub-0002: sub-0002_hemi-L_thickness.shape.gii is absent; for one hemisphere alone" in said
    assert "sub-0003: sub-0003_hemi-R_thickness.shape.gii is absent" in said
    assert "sub-0004: no sub-*_thickness (GIFTI or CIFTI) under" in said


def test_a_hemisphere_that_leads_out_of_the_cohort_is_refused(gifti: Path, tmp_path: Path) -> None:
    right = gifti_path(gifti, "sub-0002", "R")
    right.rename(tmp_path / "elsewhere.shape.gii")
    right.symlink_to(tmp_path / "elsewhere.shape.gii")
    assert "leads out of" in refused(gifti)


def test_several_images_that_fit_are_listed_and_entities_choose(gifti: Path) -> None:
    for who in ("sub-0001", "sub-0002", "sub-0003", "sub-0004"):
        write_cifti(cifti_path(gifti, who), np.zeros((1, 8), np.float32))
    assert "sub-0001: 2 images match (sub-0001/anat/sub-0001_hemi-L_thickness.shape.gii, sub-0001/anat/" in refused(
        gifti
    )
    assert matrix(gifti, kind(entities={"space": "fsLR"}))[0].shape == (4, 8)
    assert matrix(gifti, kind(entities={"space": "none"}))[0].shape == (4, 2 * VERTICES)
    assert matrix(gifti, kind(entities={"hemi": "R"}))[0].shape == (4, VERTICES)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cut off or damaged"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'Dim0="20"', b'Dim0="21"')), "20 values of the 21"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"<Data>eJ", b"<Data>eK")), "cut off or damaged"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"GZipBase64Binary", b"ExternalFileBinary")),
            "encoding",
        ),
        (lambda path: path.write_bytes(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'), "declares the entity b"),
        (lambda path: path.write_bytes(b"<GIFTI/>"), "holds no values"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())), "cut off or damaged"),
        (lambda path: write_gifti(path, np.arange(20, dtype=np.int32)), "holds NIFTI_TYPE_INT32; convert it to"),
        (lambda path: write_gifti(path, np.zeros((20, 3), np.float32), intent="POINTSET"), "holds a mesh"),
        (lambda path: write_gifti(path, np.zeros((20, 3), np.float32)), "an array of 20 x 3 values"),
        (lambda path: write_gifti(path, np.zeros(20, "f4"), np.zeros(9, "f4")), "maps of different lengths"),
        (
            lambda path: write_gifti(path, np.zeros(18, np.float32)),
            "38 values (left 20, right 18), unlike most people",
        ),
        (lambda path: write_gifti(path, np.array([np.nan, np.inf, *range(18)], "f4")), "2 of 20 values are NaN"),
    ],
)
def test_what_is_wrong_with_a_hemisphere_is_said_of_the_person(
    gifti: Path, wrong: Callable[[Path], object], said: str
) -> None:
    wrong(gifti_path(gifti, "sub-0003", "R"))
    told = refused(gifti)
    assert said in told
    assert "sub-0003: " in told
    assert not any(f"sub-000{k}: " in told for k in (1, 2, 4))
    checked = kind().check(read_cohort(gifti, kind()).source, SILENT, lambda key, row: None)
    assert len(checked.problems) == 1
    assert said in checked.problems[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "cut off or damaged"),
        (lambda path: path.write_bytes(b"x" * 2000), "cut off or damaged"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"CIFTI_STRUCTURE_CORTEX_LEFT", b"C" * 27)),
            "damaged",
        ),
        (lambda path: write_cifti(path, np.zeros((1, 40), np.int16)), "its values are int16 or scaled"),
        (
            lambda path: write_cifti(path, np.zeros((1, 36), np.float32)),
            "THALAMUS_LEFT 4), unlike most people, who have 40",
        ),
        (
            lambda path: write_cifti(path, np.zeros((1, 40), np.float32), grayordinates(44)[4:]),
            "(CORTEX_LEFT 16, CORTEX_RIGHT 20, THALAMUS_LEFT 4), unlike most people",
        ),
        (
            lambda path: write_cifti(
                path, np.zeros((1, 40), np.float32), grayordinates(42)[[*range(17), *range(18, 36), *range(37, 42)]]
            ),
            "as many of other vertices or parcels",
        ),
        (
            lambda path: nib.save(nib.Cifti2Image(np.zeros((8, 8), "f4"), (grayordinates(8), grayordinates(8))), path),
            "a CIFTI matrix of BrainModel x BrainModel",
        ),
    ],
)
def test_what_is_wrong_with_a_cifti_file_is_said_of_the_person(
    cifti: Path, wrong: Callable[[Path], object], said: str
) -> None:
    wrong(cifti_path(cifti, "sub-0002"))
    told = refused(cifti)
    assert said in told
    assert "sub-0002: " in told


@settings(max_examples=40)
@given(
    st.sampled_from(["gifti", "cifti", "parcels"]), st.floats(0, 1), st.binary(min_size=1, max_size=4), st.booleans()
)
def test_no_damage_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, form: Form, where: float, damage: bytes, cut: bool
) -> None:
    root = tmp_path_factory.mktemp("one")
    write_person(root, "sub-1", np.arange(12, dtype=np.float32), form)
    path = gifti_path(root, "sub-1", "R") if form == "gifti" else cifti_path(root, "sub-1", form)
    content = path.read_bytes()
    place = int(where * len(content))
    path.write_bytes(content[:place] + damage + (b"" if cut else content[place + len(damage) :]))
    ((key, found, error),) = load_surfaces(
        pd.Series([hemispheres(path)[0]], index=["sub-1"]), SurfaceInput(missing="keep")
    )
    assert key == "sub-1"
    assert (found is None) == bool(error)
    assert "\n" not in error


def test_everybody_is_listed_at_once(gifti: Path) -> None:
    write_gifti(gifti_path(gifti, "sub-0001", "R"), np.zeros(18, np.float32))
    gifti_path(gifti, "sub-0002").write_bytes(b"<")
    write_gifti(gifti_path(gifti, "sub-0004"), np.array([np.nan, *range(19)], "f4"))
    said = refused(gifti)
    assert "surfaces that cannot be used (3)" in said or "sub-0001" in said
    assert all(f"sub-000{k}: " in said for k in (2, 4))


def test_a_model_takes_surfaces_of_its_own_vertices_only(gifti: Path) -> None:
    _, columns = matrix(gifti, kind())
    write_gifti(gifti_path(gifti, "sub-0002", "R"), np.zeros(18, np.float32))
    files = read_cohort(gifti, kind()).source.files
    told = [error for _, _, error in load_surfaces(files, SurfaceInput(), columns.names)]
    assert [bool(error) for error in told] == [False, True, False, False]
    assert "has 38 values (left 20, right 18), not the 40 values of the model" in told[1]
    adapted = [key for some, _ in kind().adapting(read_cohort(gifti, kind()).source, columns, SILENT) for key in some]
    assert adapted == ["sub-0001", "sub-0003", "sub-0004"]
    with pytest.raises(CohortError, match="not the 40 values of the model"):
        kind().row(read_cohort(gifti, kind()).source, "sub-0002", columns)


@pytest.mark.parametrize("ending", ["func.gii", "ptseries.nii", "dscalar.nii"])
def test_of_several_maps_one_or_their_mean_is_chosen(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"sub-1_bold.{ending}"
    data = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    if ending == "func.gii":
        write_gifti(path, *data)
    else:
        write_cifti(path, data)
    with pytest.raises(CohortError, match=r"maps or time points: 3 \(.*one value a vertex is needed: set input.map"):
        read_person(path, SurfaceInput())
    with pytest.raises(CohortError, match="none or several are '4'"):
        read_person(path, SurfaceInput(map="4"))
    np.testing.assert_array_equal(read_person(path, SurfaceInput(map="2")).row, data[1])
    np.testing.assert_allclose(read_person(path, SurfaceInput(map="mean")).row, data.mean(axis=0), atol=1e-6)
    if ending != "ptseries.nii":
        np.testing.assert_array_equal(read_person(path, SurfaceInput(map="map 2")).row, data[2])


def test_parcels_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sub-1_thickness.pscalar.nii"
    same = [("a", cifti2.BrainModelAxis.from_surface(np.array([k]), 2, "CortexLeft")) for k in range(2)]
    write_cifti(path, np.zeros((1, 2), np.float32), cifti2.ParcelsAxis.from_brain_models(same))
    with pytest.raises(CohortError, match="several parcels are named a"):
        read_person(path, SurfaceInput())


def test_check_says_what_is_constant_missing_and_meant(gifti: Path) -> None:
    for k, who in enumerate(("sub-0001", "sub-0002", "sub-0003", "sub-0004")):
        row = np.arange(20, dtype=np.float32) + k
        row[:3], row[3] = 0, np.nan
        write_gifti(gifti_path(gifti, who), row, row)
    told: list[str] = []
    looked: dict[str, np.ndarray] = {}

    class Notes(type(SILENT)):  # type: ignore[misc]
        def notes(self, notes: list[str]) -> None:
            told.extend(notes)

    wanted = kind(missing="keep", map="mean")
    checked = wanted.check(read_cohort(gifti, wanted).source, Notes(), looked.__setitem__)
    assert checked.problems == ()
    assert checked.said == "4 surfaces of 40 values"
    assert told == [
        "constant and left as they are: 3 of 40 values of a person",
        "4 missing values are left out of the fit and stay missing",
        "the mean of 2 maps or time points of a file is taken (input.map)",
        "left: no mesh is known (input.mesh); batch effects borrow strength from all columns alike",
    ]
    assert [len(row) for row in looked.values()] == [40] * 4


def test_a_datalist_names_a_file_of_each_person(gifti: Path) -> None:
    people = pd.read_csv(gifti / "participants.tsv", sep="\t")["participant_id"]
    entries = [{"image": str(gifti_path(Path(), who)), "participant_id": who} for who in people]
    (gifti / "list.json").write_text(pd.Series(entries).to_json(orient="values"))
    values, _ = matrix(gifti / "list.json", kind())
    np.testing.assert_array_equal(values, matrix(gifti, kind())[0])
