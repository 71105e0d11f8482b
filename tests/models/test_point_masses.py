"""Values that stand for nothing: which are found, which are none, and that they stay."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.image_quality import background, looked_at
from medrep.models import LinearModel, LinearSettings, restore_model
from medrep.models.exceptions import find
from medrep.models.left_alone import left_alone, notes_on
from medrep.models.vae.residuals import standardise, unstandardise
from tests.models.planted import Case, draw_data, draw_people, fit, moved_by, named

PEOPLE = 300
RNG = np.random.default_rng(0)
VALUES = RNG.lognormal(1, 0.5, PEOPLE)
SITES = np.eye(3)[np.arange(PEOPLE) % 3]


def found(column: np.ndarray, levels: np.ndarray = SITES) -> list[float]:
    chunk = column[:, None].astype(float)
    masses = find(chunk, np.sort(chunk, axis=0), levels)[:, 0]
    return sorted(masses[~np.isnan(masses)].tolist())


def with_share(share: float, value: float, column: np.ndarray = VALUES) -> np.ndarray:
    changed = column.copy()
    changed[: round(share * PEOPLE)] = value
    return changed


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2, 0.45, 0.6, 0.9])
@pytest.mark.parametrize("value", [0.0, -9.0, 0.05, 2.5])
def test_a_value_that_many_share_is_found_from_a_low_share_on(share, value):
    assert found(with_share(share, value)) == [value]


@pytest.mark.parametrize(
    "column",
    [
        VALUES,
        VALUES.astype(np.float32),
        np.round(VALUES, 2),
        np.round(VALUES, 1),
        np.round(VALUES),
        RNG.poisson(0.6, PEOPLE),
        RNG.poisson(5, PEOPLE),
        RNG.poisson(60, PEOPLE),
        RNG.integers(0, 5, PEOPLE),
        np.minimum(RNG.poisson(3, PEOPLE), 5),
        30 - RNG.poisson(1.5, PEOPLE),
        RNG.integers(0, 2, PEOPLE),
        np.full(PEOPLE, 3.0),
        np.full(PEOPLE, np.nan),
        with_share(4 / PEOPLE, 0.0),
    ],
)
def test_counts_scores_and_rounded_values_have_none(column):
    assert found(column) == []


def test_zeros_among_whole_numbers_and_floor_and_ceiling():
    assert found(with_share(0.3, 0, np.round(VALUES * 20))) == [0]
    assert found(np.clip(VALUES, 1.5, 5)) == [1.5, 5]


def test_a_site_with_many_zeros_where_others_have_few():
    column = np.round(VALUES * 50)
    counts = np.unique(column, return_counts=True)[1].max()
    own = np.flatnonzero(SITES[:, 1])[:12]
    column[own] = 0
    assert 4 * counts > 12
    few = np.zeros((PEOPLE, 1))
    few[own] = few[own[-1] + 1 : own[-1] + 9] = 1
    assert found(column, few) == [0]


@given(seed=st.integers(0, 999), share=st.floats(0.03, 0.8))
@settings(max_examples=10)
def test_neither_the_order_of_people_nor_the_unit_matters(seed, share):
    rng = np.random.default_rng(seed)
    column, order = with_share(share, 0.0), rng.permutation(PEOPLE)
    assert found(column[order], SITES[order]) == found(column) == found(1e-3 * column) == [0]


def zero_inflated(seed: int = 0, people: int = 150) -> Case:
    frame = draw_people(people, 3, seed)
    data = draw_data(frame, 6, seed)
    rng = np.random.default_rng(seed)
    data[rng.random(people) < 0.3, 1] = 0
    data[rng.random(people) < 0.4, 4] = 2.5
    return Case(frame, data)


@given(seed=st.integers(0, 99))
@settings(max_examples=5)
def test_they_stay_and_the_others_are_fitted_without_them(seed):
    case = zero_inflated(seed)
    model, target = case.fit(), {"age": 50.0, "sex": "F", "site": "S0"}
    transformed = model.remove(model.dataset(case.data, case.frame), target)
    zero, usual = case.data[:, 1] == 0, case.data[:, 4] == 2.5
    np.testing.assert_array_equal(transformed[zero, 1], 0)
    np.testing.assert_array_equal(transformed[usual, 4], 2.5)
    holed = case.data.copy()
    holed[zero, 1] = holed[usual, 4] = np.nan
    without = moved_by(fit(case.frame, holed), holed, case.frame, target)
    np.testing.assert_allclose(transformed[~zero, 1], without[~zero, 1], atol=1e-9)
    np.testing.assert_allclose(np.delete(transformed, [1, 4], axis=1), np.delete(without, [1, 4], axis=1), atol=1e-9)
    again = model.remove(model.dataset(transformed, model.schema.transformed(case.frame, target)), target)
    np.testing.assert_array_equal(again, transformed)


def test_new_people_and_a_saved_model():
    case = zero_inflated()
    model = case.fit()
    again = restore_model(model.kind, *model.state())
    assert isinstance(again, LinearModel)
    newcomers = draw_people(20, 3, 5)
    data = draw_data(newcomers, 6, 5)
    data[:7, 1] = 0
    data[:7, 2] = 0  # a value like others in a column without point masses
    data = data.astype(np.float32)
    data[:5, 4] = np.float32(2.5)
    for own in (model, again):
        transformed = own.remove(own.dataset(data, newcomers), {"site": "S0"})
        np.testing.assert_array_equal(transformed[:7, 1], 0)
        np.testing.assert_array_equal(transformed[:5, 4], np.float32(2.5))
    away = (newcomers["site"] != "S0").to_numpy()[:7]
    assert (transformed[:7, 2][away] != 0).all()
    assert not standardise(model, data, newcomers, ("site", "age"))[:7, 1].any()
    h = standardise(model, data, newcomers, ("site",))
    drawn = unstandardise(model, h, newcomers, ("site",), np.zeros_like(data), np.empty_like(data), drawn=True)
    assert (drawn[:, 1] != 0).all()


def test_an_old_model_has_none():
    case = Case(draw_people(60, 3, 0), draw_data(draw_people(60, 3, 0), 4, 0))
    content, arrays = case.fit().state()
    assert not any(name.startswith(("masses", "support")) for name in arrays)
    assert "support" not in content
    assert left_alone(restore_model("linear", content, arrays)) == {}


def test_scores_do_not_count_them():
    case = zero_inflated()
    model = case.fit()
    holed = case.data.copy()
    holed[holed[:, 1] == 0, 1] = holed[holed[:, 4] == 2.5, 4] = np.nan
    kept, left = model.scores(model.dataset(case.data, case.frame)), model.scores(model.dataset(holed, case.frame))
    np.testing.assert_allclose(kept.deviation, left.deviation)
    np.testing.assert_allclose(
        model.encode(model.dataset(case.data, case.frame)), model.encode(model.dataset(holed, case.frame))
    )


def masked(people: int = 60, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, Columns]:
    """Draw images whose masks differ at the edge, so that some voxels are empty in a few people only."""
    grid = Grid((8, 8, 6), (2.0, 2.0, 2.0))
    frame, rng = draw_people(people, 3, seed), np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in grid.shape], indexing="ij")
    radius = sum(axis**2 for axis in axes).ravel()
    data = 100 + 5 * draw_data(frame, grid.size, seed)
    data[radius[None] > rng.permutation(np.linspace(0.2, 1.6, people))[:, None]] = 0
    return frame, data.astype(np.float32), Columns((), grid.size, grid)


def test_background_stays_background_even_in_one_person():
    frame, data, columns = masked()
    shares = (data == 0).mean(axis=0)
    assert ((shares > 0) & (shares < 0.05)).any()
    case = Case(frame, data)
    model, history = LinearModel.fit(
        Dataset(data, case.schema.transfer(frame), case.schema, columns), LinearSettings(components=2)
    )
    transformed = model.remove(model.dataset(data, frame), {"site": "S0"})
    np.testing.assert_array_equal(transformed[data == 0], 0)
    away = (frame["site"] != "S0").to_numpy()
    fitted = (data != 0) & away[:, None] & (model.sd > 0)
    assert (transformed[fitted] != data[fitted]).mean() > 0.9
    assert np.isfinite(transformed).all()
    assert history.set_index("name").loc["point masses", "value"] > 100
    said = " ".join(notes_on(left_alone(model)))
    assert "stay as they are: exactly 0 (background" in said
    drawn = model.masses.drawn(np.ones((200, columns.count)), np.random.default_rng(0))
    np.testing.assert_allclose((drawn == 0).mean(axis=0), model.masses.shares[0], atol=0.15)


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (lambda rng: rng.normal(0, 1, 4000), None),
        (lambda rng: np.round(rng.normal(0, 20, 4000)), None),
        (lambda rng: np.where(np.arange(4000) < 900, 0, rng.normal(9, 1, 4000)), 0),
        (lambda rng: np.where(np.arange(4000) < 900, -1024, np.round(rng.normal(0, 40, 4000))), -1024),
        (lambda rng: np.where(np.arange(4000) < 30, 0, rng.normal(9, 1, 4000)), None),
    ],
)
def test_background_of_images(image, value):
    rng = np.random.default_rng(0)
    images = np.stack([image(rng) for _ in range(20)])
    assert background([images[row] for row in looked_at(pd.Index(range(20)))]) == value


def test_what_is_told_names_column_value_and_share():
    case = zero_inflated()
    content = left_alone(case.fit())
    assert [(one["column"], one["value"]) for one in content["PointMasses"]] == [("region_1", 0.0), ("region_4", 2.5)]
    assert "region_1 where it is exactly 0 (27% of people)" in notes_on(content)[0]
    assert named(6).names[1] == "region_1"
