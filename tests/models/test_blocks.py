import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._files import release_pages
from medrep.errors import ModelError
from medrep.models.chunks import (
    ChunkSource,
    column_chunks,
    map_chunks,
    principal_components,
)


def source(matrix: np.ndarray) -> ChunkSource:
    return ChunkSource(matrix.shape, lambda part: matrix[:, part])


@given(people=st.integers(0, 100_000), columns=st.integers(0, 5000))
def test_blocks_cover_every_column_once(people, columns):
    chunks = list(column_chunks(people, columns))
    assert [k for part in chunks for k in range(part.start, part.stop)] == list(range(columns))


def test_blocks_stay_small():
    widths = [part.stop - part.start for part in column_chunks(1000, 100_000)]
    assert max(widths) * 1000 * 8 <= 6 * 2**20


@pytest.mark.parametrize("shape", [(60, 300), (200, 30), (40, 2500)])
def test_components_are_those_of_the_singular_value_decomposition(shape):
    rng = np.random.default_rng(0)
    strong = rng.normal(size=(shape[0], 4)) * [20, 12, 7, 4] @ rng.normal(size=(4, shape[1]))
    matrix = strong + 0.1 * rng.normal(size=shape)
    components, scores = principal_components(source(matrix), 4, seed=0)
    right = np.linalg.svd(matrix, full_matrices=False)[2][:4]
    np.testing.assert_allclose(np.abs((components * right).sum(axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(scores, matrix @ components.T, atol=1e-5 * np.abs(scores).max())


def test_blocks_are_computed_three_times_for_components():
    matrix, asked = np.random.default_rng(4).normal(size=(40, 60)), []
    principal_components(ChunkSource(matrix.shape, lambda part: asked.append(part) or matrix[:, part]), 3, seed=0)
    assert len(asked) == 3


@given(rank=st.integers(0, 6), wanted=st.integers(1, 12), columns=st.integers(1, 40), seed=st.integers(0, 999))
def test_components_are_orthonormal_and_no_more_than_the_rank(rank, wanted, columns, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(30, rank)) @ rng.normal(size=(rank, columns))
    components, scores = principal_components(source(matrix), wanted, seed)
    assert len(components) <= min(rank, wanted, columns)
    np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-8)
    if wanted >= rank:
        np.testing.assert_allclose(scores @ components, matrix, atol=1e-8)


def test_the_largest_entry_of_each_component_is_positive():
    matrix = np.random.default_rng(1).normal(size=(50, 20))
    components, _ = principal_components(source(matrix), 5, seed=0)
    assert (components[np.arange(5), np.abs(components).argmax(axis=1)] > 0).all()


def test_the_order_of_people_does_not_matter():
    rng = np.random.default_rng(2)
    matrix, order = rng.normal(size=(50, 20)) * np.linspace(3, 0.1, 20), rng.permutation(50)
    components, scores = principal_components(source(matrix), 5, seed=0)
    shuffled, shuffled_scores = principal_components(source(matrix[order]), 5, seed=0)
    np.testing.assert_allclose(shuffled, components, atol=1e-8)
    np.testing.assert_allclose(shuffled_scores, scores[order], atol=1e-8)


@pytest.mark.parametrize("view", [lambda mapped: mapped, np.asarray, lambda mapped: mapped[2:]])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_pages_that_are_given_back_keep_their_content(tmp_path, mode, view):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(40_000.0).reshape(8, -1))
    mapped = np.load(path, mmap_mode=mode)
    if mode != "r":
        mapped[:, 0] = -1.0
    expected = mapped.copy()
    release_pages(view(mapped))
    np.testing.assert_array_equal(mapped, expected)


def test_blocks_come_back_in_order_and_errors_reach_the_caller():
    seen = list(map_chunks(4000, 5000, lambda part: part.start))
    assert [part.start for part, _ in seen] == [start for _, start in seen] == sorted(start for _, start in seen)
    assert len(seen) > 10

    def fail(part):
        raise ModelError(f"block {part.start}")

    with pytest.raises(ModelError, match="block 0"):
        list(map_chunks(4000, 5000, fail))


def test_components_of_images_of_many_voxels_are_those_of_the_whole_matrix(monkeypatch):
    matrix = np.random.default_rng(2).normal(size=(12, 700)) @ np.diag(np.linspace(1, 4, 700))
    monkeypatch.setattr("medrep.models.chunks._WIDE", 0)
    components, scores = principal_components(source(matrix), 5, seed=0)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    assert components.dtype == np.float32
    np.testing.assert_allclose(np.abs(components @ right[:5].T), np.eye(5), atol=1e-5)
    np.testing.assert_allclose(np.abs(scores), np.abs(left[:, :5] * values[:5]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(matrix @ components.T, scores, atol=1e-4)
