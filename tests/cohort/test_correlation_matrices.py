"""Correlation matrices moved on their logarithms stay correlation matrices, whatever a model makes of them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, logm
from sklearn.covariance import ledoit_wolf

from medrep.cohort.cohort import read_cohort
from medrep.cohort.inputs import ConnectivityInput
from medrep.cohort.kinds.connectivity import (
    ConnectivityKind,
    EdgeForm,
    correlation_matrix,
    edge_form,
    logarithm,
    read_matrix,
    regions_of,
)
from medrep.errors import CohortError
from tests.bold_cohorts import NAMES, atlas_labels, bold_path, draw_bold, save, save_atlas, write_bold_cohort

TANGENT = ConnectivityInput(measure="tangent", edges="r")
seeds = st.integers(0, 10**6)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"{a}~{b}" for a in range(count) for b in range(a + 1, count))


def correlations(seed: int, count: int, volumes: int = 0) -> np.ndarray:
    """A correlation matrix of noise that regions share; of full rank where no count of volumes is given."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(volumes or 3 * count, count)) @ (np.eye(count) + rng.normal(size=(count, count)) / 2)
    matrix = np.corrcoef(signals.T)
    return matrix if volumes else 0.9 * matrix + 0.1 * np.eye(count)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 9), st.floats(0.1, 3))
def test_any_numbers_are_those_of_one_correlation_matrix(seed: int, count: int, size: float) -> None:
    drawn = np.random.default_rng(seed).normal(scale=size, size=(count, count))
    hollow = np.triu(drawn, 1) + np.triu(drawn, 1).T
    found = correlation_matrix(hollow)
    assert (np.diag(found) == 1).all()
    np.testing.assert_array_equal(found, found.T)
    smallest = np.linalg.eigvalsh(found)[0]
    assert smallest > 0
    if smallest > 1e-5:
        back = logarithm(found)
        np.fill_diagonal(back, 0)
        np.testing.assert_allclose(back, hollow, atol=1e-7)
        np.fill_diagonal(back, np.diag(logm(found)))
        np.testing.assert_allclose(expm(back), found, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 9))
def test_a_matrix_comes_back_from_its_logarithm(seed: int, count: int) -> None:
    form = EdgeForm(TANGENT, names(count))
    matrix = correlations(seed, count)
    edges = matrix[np.triu_indices(count, 1)][None]
    columns = form.received(edges, ["sub-1"])
    np.testing.assert_allclose(columns[0], logm(matrix)[np.triu_indices(count, 1)], atol=1e-8)
    np.testing.assert_allclose(form.released(columns), edges, atol=1e-11)
    np.testing.assert_allclose(form.received(form.released(columns + 0.1), ["sub-1"]), columns + 0.1, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(3, 8))
def test_regions_in_another_order_give_the_same_edges(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(names(count)))
    other = tuple("~".join(names(count)[k].split("~")[:: rng.choice([-1, 1])]) for k in order)
    edges = correlations(seed, count)[np.triu_indices(count, 1)][None]
    one, two = EdgeForm(TANGENT, names(count)), EdgeForm(TANGENT, other)
    columns = one.received(edges, ["a"])
    np.testing.assert_allclose(two.received(edges[:, order], ["a"]), columns[:, order], atol=1e-10)
    np.testing.assert_allclose(two.released(2 * columns[:, order]), one.released(2 * columns)[:, order], atol=1e-10)


def test_fisher_z_and_correlations_are_two_forms_of_the_same_columns() -> None:
    edges = correlations(3, 5)[np.triu_indices(5, 1)][None]
    z = EdgeForm(ConnectivityInput(measure="tangent"), names(5))
    r = EdgeForm(TANGENT, names(5))
    columns = r.received(edges, ["a"])
    np.testing.assert_allclose(z.received(np.arctanh(edges), ["a"]), columns, atol=1e-12)
    np.testing.assert_allclose(np.tanh(z.released(columns)), r.released(columns), atol=1e-12)
    plain = edge_form(ConnectivityInput(edges="r"), names(5))
    assert plain is not None
    np.testing.assert_allclose(plain.received(edges, ["a"]), np.arctanh(edges))
    np.testing.assert_allclose(plain.released(plain.received(edges, ["a"])), edges)
    assert edge_form(ConnectivityInput(), names(5)) is None
    assert edge_form(ConnectivityInput(measure="covariance", edges="r"), names(5)) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_matrix_without_full_rank_needs_the_identity_mixed_in_and_is_told_how_much(seed: int) -> None:
    edges = np.stack([correlations(seed, 8, volumes=200), correlations(seed, 8, volumes=5)])[:, *np.triu_indices(8, 1)]
    with pytest.raises(CohortError, match=r"sub-2: smallest eigenvalue .*input\.shrinkage=0\.01") as refusal:
        EdgeForm(TANGENT, names(8)).received(edges, ["sub-1", "sub-2"])
    assert "sub-1" not in str(refusal.value)
    shrunk = EdgeForm(ConnectivityInput(measure="tangent", edges="r", shrinkage=0.01), names(8))
    columns = shrunk.received(edges, ["sub-1", "sub-2"])
    np.testing.assert_allclose(shrunk.released(columns), 0.99 * edges, atol=1e-10)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([0.5, 1.2, -1.0], r"sub-1: 2 of 3 edges are not between -1 and 1; Fisher z is told by input\.edges=z"),
        ([0.5, np.nan, 0.1], "sub-1: 1 edges are missing; leave these people out"),
        ([0.9, 0.9, -0.9], r"sub-1: smallest eigenvalue -0\.8; check input\.edges .*shrinkage=0\.45"),
    ],
)
def test_edges_that_are_no_correlation_matrix_are_refused(edges: list[float], message: str) -> None:
    with pytest.raises(CohortError, match=message):
        EdgeForm(TANGENT, names(3)).received(np.array([edges]), ["sub-1"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("A~B", "A~C"), "B~C: no column"),
        (("A~B", "B~A", "A~C", "B~C"), "A~B: 2 columns"),
        (("A~B", "age"), "'age' is no edge"),
        (("A~A", "A~B", "B~B"), r"no edges \(2\):\n  'A~A' is no edge\n  'B~B'"),
        (("e1", "e2"), "2 columns are not the pairs of any number of regions"),
    ],
)
def test_columns_that_are_not_all_pairs_are_listed(columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(CohortError, match=message):
        regions_of(columns)


def test_columns_without_regions_are_an_upper_triangle() -> None:
    regions = regions_of(("e1", "e2", "e3"))
    assert (regions.names, regions.named) == (("1", "2", "3"), False)
    np.testing.assert_array_equal(
        regions.matrix(np.array([0.1, 0.2, 0.3]), 1.0), [[1, 0.1, 0.2], [0.1, 1, 0.3], [0.2, 0.3, 1]]
    )


def test_tangent_of_images_is_of_correlations_shrunk_alike(tmp_path: Path) -> None:
    cohort = write_bold_cohort(tmp_path / "cohort", people=3)
    atlas = save_atlas(tmp_path / "atlas.nii.gz")
    kind = ConnectivityKind(
        ConnectivityInput(suffix="bold", desc="preproc", atlas=str(atlas), measure="tangent", entities={"task": "rest"})
    )
    shares = []
    for who in ("sub-0001", "sub-0002", "sub-0003"):
        data = nib.load(bold_path(cohort, who)).get_fdata()
        signals = np.stack([data[atlas_labels() == number].mean(axis=0) for number in sorted(NAMES)], axis=1)
        shares.append(ledoit_wolf((signals - signals.mean(0)) / signals.std(0, ddof=1))[1])
    read = read_cohort(cohort, kind)
    share = read.input.section.shrinkage
    assert share == pytest.approx(np.mean(shares), rel=1e-3)
    features = read.source.features
    assert features.names[0] == "Caudate~Cuneus"
    form = EdgeForm(read.input.section, features.names)
    plain = read_cohort(cohort, kind.changed(measure="correlation")).source.features.values
    np.testing.assert_allclose(np.tanh(form.released(features.values)), (1 - share) * np.tanh(plain), atol=1e-9)
    same = read_cohort(cohort, kind.changed(edges="r", shrinkage=0.5))
    assert same.input.section.shrinkage == 0.5
    r = EdgeForm(same.input.section, features.names).released(same.source.features.values)
    np.testing.assert_allclose(r, 0.5 * np.tanh(plain), atol=1e-9)


def test_tangent_takes_people_with_fewer_volumes_than_regions(tmp_path: Path) -> None:
    cohort = write_bold_cohort(tmp_path / "cohort", people=2)
    for seed, who in enumerate(("sub-0001", "sub-0002")):
        save(bold_path(cohort, who), draw_bold(np.random.default_rng(seed), volumes=5))
    atlas = save_atlas(tmp_path / "atlas.nii.gz")
    section = ConnectivityInput(suffix="bold", desc="preproc", atlas=str(atlas), measure="tangent")
    assert np.isfinite(read_cohort(cohort, ConnectivityKind(section)).source.features.values).all()


LAYOUTS = {
    "bare": lambda m: "\n".join("\t".join(f"{v:.12g}" for v in row) for row in m),
    "named above": lambda m: "A\tB\tC\n" + "\n".join("\t".join(f"{v:.12g}" for v in row) for row in m),
    "named above and beside": lambda m: (
        "Node\tA\tB\tC\n"
        + "\n".join("\t".join([who, *(f"{v:.12g}" for v in row)]) for who, row in zip("ABC", m, strict=True))
    ),
    "numbers beside": lambda m: (
        "\t0\t1\t2\n" + "\n".join("\t".join([str(k), *(f"{v:.12g}" for v in row)]) for k, row in enumerate(m))
    ),
    "empty diagonal": lambda m: "\n".join(
        "\t".join("n/a" if i == j else f"{v:.12g}" for j, v in enumerate(row)) for i, row in enumerate(m)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_matrices_are_read_as_programs_write_them(tmp_path: Path, layout: str) -> None:
    matrix = correlations(1, 3)
    (tmp_path / "m.tsv").write_text(LAYOUTS[layout](matrix) + "\n")
    found, names = read_matrix(tmp_path / "m.tsv")
    np.testing.assert_allclose(found[np.triu_indices(3, 1)], matrix[np.triu_indices(3, 1)])
    assert names == {"b": (), "e": (), "numbers beside": ("0", "1", "2")}.get(layout, names)
    assert "named" not in layout or names == ("A", "B", "C")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t0.5\n0.4\t1\n", "is not symmetric"),
        ("1\t0.5\t0.1\n0.5\t1\t0.1\n", "2 x 3 numbers; a square matrix is needed"),
        ("1\t0.5\n0.5\tone\n", "not a table of numbers"),
        ("", r"a square matrix is needed"),
    ],
)
def test_files_that_are_no_matrix_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.tsv").write_text(text)
    with pytest.raises(CohortError, match=message):
        read_matrix(tmp_path / "m.tsv")


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([[1, {}], [{}, 1]], dtype=object), allow_pickle=True)
    with pytest.raises(CohortError, match="not a matrix of numbers"):
        read_matrix(tmp_path / "m.npy")


def write_matrices(root: Path, form: str = "tsv") -> list[np.ndarray]:
    root.mkdir()
    (root / "participants.tsv").write_text("participant_id\n" + "".join(f"sub-{k}\n" for k in range(3)))
    made = [correlations(k, 4) for k in range(3)]
    for k, matrix in enumerate(made):
        path = root / f"sub-{k}" / "func" / f"sub-{k}_task-rest_meas-PearsonCorrelation_relmat.{form}"
        path.parent.mkdir(parents=True)
        np.save(path, matrix) if form == "npy" else np.savetxt(path, matrix, delimiter="\t")
    return made


@pytest.mark.parametrize("form", ["npy", "tsv", "dense.tsv"])
def test_matrices_of_a_folder_are_a_cohort(tmp_path: Path, form: str) -> None:
    made = write_matrices(tmp_path / "c", form)
    cohort = read_cohort(tmp_path / "c", ConnectivityKind(ConnectivityInput(suffix="relmat", measure="tangent")))
    features = cohort.source.features
    assert features.names == ("1~2", "1~3", "1~4", "2~3", "2~4", "3~4")
    assert cohort.input.section.edges == "r"
    upper = np.triu_indices(4, 1)
    np.testing.assert_allclose(features.values, [logm(matrix)[upper] for matrix in made], atol=1e-8)
    plain = read_cohort(tmp_path / "c", ConnectivityKind(ConnectivityInput(suffix="relmat")))
    np.testing.assert_allclose(plain.source.features.values, [np.arctanh(matrix[upper]) for matrix in made])


def test_all_matrices_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    write_matrices(tmp_path / "c", "npy")
    paths = [tmp_path / "c" / f"sub-{k}/func/sub-{k}_task-rest_meas-PearsonCorrelation_relmat.npy" for k in range(3)]
    np.save(paths[1], correlations(0, 5))
    np.save(paths[2], 2 * np.eye(4))
    kind = ConnectivityKind(ConnectivityInput(suffix="relmat", measure="tangent"))
    with pytest.raises(CohortError, match=r"cannot be used \(2\)") as refusal:
        read_cohort(tmp_path / "c", kind)
    assert f"sub-1: {paths[1]}: other regions than sub-0, who has 4" in str(refusal.value)
    assert f"sub-2: {paths[2]}: the diagonal is neither 1 nor empty; give correlations" in str(refusal.value)
    for measure in ("partial", "covariance"):
        with pytest.raises(CohortError, match=rf"{measure} is measured of images; of matrices .* choose correlation"):
            read_cohort(tmp_path / "c", kind.changed(measure=measure))


def test_edges_of_a_table_are_a_cohort(tmp_path: Path) -> None:
    made = write_matrices(tmp_path / "c")
    upper = np.triu_indices(4, 1)
    table = pd.DataFrame([np.arctanh(m[upper]) for m in made], columns=[f"e{k}" for k in range(6)])
    table.insert(0, "participant_id", ["sub-0", "sub-1", "sub-2"])
    table.to_csv(tmp_path / "c" / "features.tsv", sep="\t", index=False)
    cohort = read_cohort(tmp_path / "c", ConnectivityKind(ConnectivityInput(measure="tangent")))
    np.testing.assert_allclose(cohort.source.features.values, [logm(matrix)[upper] for matrix in made], atol=1e-8)
    assert "features.tsv: edges are taken as Fisher z; correlations are told by input.edges=r" in cohort.notes
    assert "features.tsv: columns are taken as the upper triangle, row by row, of 4 regions" in cohort.notes
    told = read_cohort(tmp_path / "c", ConnectivityKind(ConnectivityInput(measure="correlation", edges="z")))
    np.testing.assert_array_equal(told.source.features.values, table.iloc[:, 1:].to_numpy())
    with pytest.raises(CohortError, match=r"input\.shrinkage 1: give a number from 0 to below 1"):
        read_cohort(tmp_path / "c", ConnectivityKind(ConnectivityInput(measure="tangent", shrinkage=1.0)))
