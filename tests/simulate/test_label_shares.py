import numpy as np
import pytest

from medrep.simulate.shape_effects import label_at


def ball(shape=(24, 26, 22), centre=(11, 12, 10), radius=7.0):
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array(centre), axis=-1)
    return np.where(distance < radius, np.where(np.arange(shape[1]) < 13, 2, 5)[:, None], 0).astype(np.int32)


def centres(shape):
    return np.indices(shape).reshape(3, -1).T.astype(np.float64)


def test_at_the_voxel_centres_it_is_the_map():
    data = ball()
    np.testing.assert_array_equal(label_at(data, centres(data.shape)).reshape(data.shape), data)


def test_a_lone_voxel_is_kept():
    data = np.zeros((7, 7, 7), np.int32)
    data[3, 3, 3] = 4
    assert label_at(data, np.array([[3.0, 3.0, 3.0], [5.0, 3.0, 3.0]])).tolist() == [4, 0]


def test_off_the_grid_and_on_an_empty_map_there_is_nothing():
    assert label_at(ball(), np.array([[-50.0, 0.0, 0.0], [11.0, 12.0, 99.0]])).tolist() == [0, 0]
    assert label_at(np.zeros((3, 3, 3), np.int32), np.ones((2, 3))).tolist() == [0, 0]


@pytest.mark.parametrize("factor", [0.9, 0.97, 1.0, 1.03, 1.1])
def test_small_moves_give_the_volume_they_should(factor):
    data = ball((26, 26, 24), (11.3, 12.2, 10.6))
    centre, places = np.argwhere(data > 0).mean(axis=0), centres(data.shape)
    moves = np.random.default_rng(0).uniform(-0.5, 0.5, (12, 3))
    volumes = [np.count_nonzero(label_at(data, centre + transform + (places - centre) / factor)) for transform in moves]
    assert np.mean(volumes) / np.count_nonzero(data) == pytest.approx(factor**3, rel=0.015)
