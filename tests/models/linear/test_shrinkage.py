import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medrep.cohort.grid import Columns, Grid, Mask
from medrep.models.linear.bands import Bands, column_bands, scanner_bands, shrink

GRID = Grid((12, 10, 8), (2.0, 2.0, 3.0))


def spatial(grid: Grid = GRID, seed: int = 0) -> Bands:
    rng = np.random.default_rng(seed)
    return scanner_bands(Columns.of_grid(grid), rng.uniform(50, 100, grid.size), rng.uniform(1, 2, grid.size))


def all_bands() -> list[Bands]:
    some = np.arange(GRID.size) % 3 > 0
    mean = np.linspace(50, 100, GRID.size)
    return [
        column_bands(np.ones(GRID.size, dtype=bool)),
        column_bands(some),
        spatial(),
        scanner_bands(Columns.of_grid(GRID), mean, 1.0 * some),
    ]


def white_energy(bands: Bands, columns: int) -> np.ndarray:
    return bands.energy(np.random.default_rng(9).normal(size=(60, columns))).mean(axis=0)


def smooth_field(grid: Grid) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij")
    return (np.exp(-3 * ((x - 0.4) ** 2 + (y + 0.3) ** 2 + z**2)) + 0.5 * x * y).ravel()


@pytest.mark.parametrize("bands", all_bands())
@given(seed=st.integers(0, 999))
def test_energies_add_up(bands, seed):
    fields = np.random.default_rng(seed).normal(size=(3, GRID.size)) * 10
    energy = bands.energy(fields)
    assert energy.shape == (3, bands.count)
    assert (energy >= 0).all()
    np.testing.assert_allclose(energy.sum(axis=1), (fields**2).sum(axis=1))


@pytest.mark.parametrize("bands", all_bands())
def test_weights_of_one_return_the_field_and_weights_of_zero_nothing(bands):
    fields = np.random.default_rng(0).normal(size=(2, GRID.size))
    np.testing.assert_allclose(bands.weigh(fields, np.ones((2, bands.count))), fields, atol=1e-10)
    np.testing.assert_allclose(bands.weigh(fields, np.zeros((2, bands.count))), 0, atol=1e-10)


@pytest.mark.parametrize("bands", all_bands())
def test_bands_are_orthogonal_to_the_span(bands):
    fields = np.random.default_rng(0).normal(size=(2, GRID.size))
    only_span, only_rest = np.zeros((2, bands.count)), np.ones((2, bands.count))
    only_span[:, 0], only_rest[:, 0] = 1, 0
    inside, outside = bands.weigh(fields, only_span), bands.weigh(fields, only_rest)
    np.testing.assert_allclose((inside * outside).sum(axis=1), 0, atol=1e-8)
    np.testing.assert_allclose(inside + outside, fields, atol=1e-10)


@pytest.mark.parametrize("bands", all_bands())
def test_no_fields_are_no_rows(bands):
    nothing = np.zeros((0, GRID.size))
    assert bands.energy(nothing).shape == (0, bands.count)
    assert bands.weigh(nothing, np.zeros((0, bands.count))).shape == nothing.shape


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (1, 5, 1), (3, 3, 2)])
def test_small_grids(shape):
    grid = Grid(shape, (1.0, 1.0, 1.0))
    bands = spatial(grid)
    fields = np.random.default_rng(0).normal(size=(2, grid.size))
    np.testing.assert_allclose(bands.energy(fields).sum(axis=1), (fields**2).sum(axis=1))
    np.testing.assert_allclose(bands.weigh(fields, np.ones((2, bands.count))), fields, atol=1e-10)


def test_a_slow_offset_and_gain_lie_in_the_span():
    rng = np.random.default_rng(0)
    mean, sd = rng.uniform(50, 100, GRID.size), rng.uniform(1, 2, GRID.size)
    x = np.meshgrid(*(np.cos(np.pi * (np.arange(n) + 0.5) / n) for n in GRID.shape), indexing="ij")[0].ravel()
    effect = (3 + 2 * x + 0.1 * mean - 0.05 * x * mean) / sd
    energy = scanner_bands(Columns.of_grid(GRID), mean, sd).energy(effect[None])[0]
    assert energy[1:].sum() < 1e-10 * energy[0]


def test_a_mean_shift_of_all_columns_lies_in_the_span():
    energy = column_bands(np.ones(7, dtype=bool)).energy(np.full((1, 7), 2.0))
    np.testing.assert_allclose(energy, [[28, 0]], atol=1e-12)


def test_columns_that_do_not_vary_do_not_dilute_the_mean():
    varies = np.array([True, True, False, False])
    energy = column_bands(varies).energy(np.array([[2.0, 2.0, 0.0, 0.0]]))
    np.testing.assert_allclose(energy, [[8, 0]], atol=1e-12)


def test_the_weight_is_one_less_the_share_of_noise():
    bands = column_bands(np.ones(4, dtype=bool))
    field = np.array([[3.0, 1.0, 3.0, 1.0]])
    shrunk, weights = shrink(field, np.array([[4.0, 3.0]]), bands)
    np.testing.assert_allclose(weights, [[1 - 4 / 16, 1 - 3 / 4]])
    np.testing.assert_allclose(shrunk, [[1.5 + 0.25, 1.5 - 0.25] * 2])


def test_pure_noise_is_shrunk_to_nothing_and_no_noise_keeps_everything():
    bands = spatial()
    field = np.random.default_rng(3).normal(size=(1, GRID.size))
    assert shrink(field, np.full((1, bands.count), np.inf), bands)[1].max() == 0
    np.testing.assert_allclose(shrink(field, np.zeros((1, bands.count)), bands)[0], field, atol=1e-10)
    noise = 1.5 * white_energy(bands, GRID.size)
    assert (shrink(field, noise[None], bands)[0] ** 2).sum() < 0.1 * (field**2).sum()


@given(seed=st.integers(0, 99))
def test_shrinking_more_than_halves_known_noise(seed):
    rng = np.random.default_rng(seed)
    bands, truth = spatial(), smooth_field(GRID)
    raw = truth + 0.5 * rng.normal(size=GRID.size)
    shrunk, weights = shrink(raw[None], 0.25 * white_energy(bands, GRID.size)[None], bands)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert ((shrunk[0] - truth) ** 2).mean() < 0.5 * ((raw - truth) ** 2).mean()


@given(seed=st.integers(0, 99))
def test_a_smooth_field_is_recovered_better_over_space_than_over_columns(seed):
    rng = np.random.default_rng(seed)
    truth = smooth_field(GRID)
    raw = truth + 0.5 * rng.normal(size=GRID.size)
    errors = {}
    for name, bands in (("space", spatial()), ("columns", column_bands(np.ones(GRID.size, dtype=bool)))):
        shrunk, _ = shrink(raw[None], 0.25 * white_energy(bands, GRID.size)[None], bands)
        errors[name] = ((shrunk[0] - truth) ** 2).mean()
    assert errors["space"] < 0.6 * errors["columns"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999))
def test_many_columns_are_shrunk_as_few_are(monkeypatch, masked, flat, seed):
    rng = np.random.default_rng(seed)
    inside = (rng.uniform(size=GRID.shape) < 0.7) & (np.indices(GRID.shape)[0] > 3) & (np.indices(GRID.shape)[2] < 6)
    columns = Columns.of_grid(GRID, Mask.of(inside) if masked else None)
    # Of a flat image a gain is an offset: fields of the span that cannot be told apart take triangles, whatever the size.
    mean = np.full(columns.count, 70.0) if flat else rng.uniform(50, 100, columns.count)
    unit = rng.uniform(1, 2, columns.count)
    fields = rng.normal(size=(3, columns.count)).cumsum(axis=1) / 9
    noise = rng.uniform(0, 2, (3, scanner_bands(columns, mean, unit).count))
    noise[0, 1:] = np.inf

    def shrunk():
        bands = scanner_bands(columns, mean, unit)
        return bands.energy(fields), *shrink(fields, noise, bands), bands.weigh(fields, noise.clip(0, 1))

    few = shrunk()
    monkeypatch.setattr("medrep.models.linear.bands.LARGE", 10)
    monkeypatch.setattr("medrep.models.linear.bands._BLOCK", 100)
    try:
        many = shrunk()
    finally:
        monkeypatch.undo()
    for one, other in zip(few, many, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-7, atol=1e-9)
