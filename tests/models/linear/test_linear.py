"""What holds for every cohort: exactness at the ends, indifference to order and units, faithful storage."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.covariates import POOLED
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.errors import ModelError
from medrep.models import LinearModel, LinearSettings, restore_model
from tests.models.planted import DECLARED, SETTINGS, Case, cases, draw_data, draw_people, fit, moved_by, named

pytestmark = pytest.mark.rounding

NAMES = ("age", "sex", "site")
subsets = st.sets(st.sampled_from(NAMES), min_size=1).map(sorted)
TARGETS = {"age": 35.0, "sex": "M", "site": "S1"}


def target_of(removed: list[str]) -> dict[str, str | float]:
    return {name: TARGETS[name] for name in removed}


@given(case=cases(), removed=subsets, person=st.integers(0, 39))
def test_the_null_intervention_returns_the_person_exactly(case, removed, person):
    own = {name: case.frame[name].iloc[person] for name in removed}
    transformed = moved_by(case.fit(), case.data, case.frame, own)
    np.testing.assert_array_equal(transformed[person], case.data[person])


@given(case=cases(), removed=subsets, seed=st.integers(0, 99))
def test_the_null_intervention_holds_for_people_never_seen(case, removed, seed):
    stranger = draw_people(5, 2, seed).iloc[:1].assign(age=[110.0])
    data = np.random.default_rng(seed).normal(size=(1, case.data.shape[1])) * 100
    own = {name: stranger[name].iloc[0] for name in removed}
    np.testing.assert_array_equal(moved_by(case.fit(), data, stranger, own), data)


@given(case=cases(), removed=subsets)
def test_removing_twice_is_removing_once(case, removed):
    model = case.fit()
    target = model.schema.references(removed)
    once = model.remove(model.dataset(case.data, case.frame), target)
    twice = model.remove(model.dataset(once, model.schema.transformed(case.frame, target)), target)
    np.testing.assert_array_equal(twice, once)


@given(case=cases(), removed=subsets, seed=st.integers(0, 99))
def test_everybody_is_moved_to_values_of_their_own(case, removed, seed):
    model, rows = case.fit(), np.random.default_rng(seed).permutation(len(case.frame))
    to = case.frame[removed].iloc[rows].set_axis(case.frame.index)
    transformed = model.transform(model.dataset(case.data, case.frame), to)
    for row in range(3):
        own = {name: to[name].iloc[row] for name in removed}
        alone = model.remove(model.dataset(case.data[[row]], case.frame.iloc[[row]]), own)
        np.testing.assert_allclose(transformed[[row]], alone, rtol=1e-9, atol=1e-9 * np.abs(case.data).max())


@given(case=cases(), first=subsets, second=subsets)
def test_removing_one_after_the_other_is_removing_both(case, first, second):
    model = case.fit()
    one, other = target_of(first), target_of(second)
    halfway = model.remove(model.dataset(case.data, case.frame), one)
    stepwise = model.remove(model.dataset(halfway, model.schema.transformed(case.frame, one)), other)
    np.testing.assert_allclose(
        stepwise, model.remove(model.dataset(case.data, case.frame), {**one, **other}), atol=1e-8
    )


@given(case=cases(), removed=subsets)
def test_what_is_moved_away_can_be_moved_back(case, removed):
    model = case.fit()
    own = {"age": 44.0, "sex": "F", "site": "S0"}
    frame = model.schema.transformed(case.frame, own)
    away = model.remove(model.dataset(case.data, frame), target_of(removed))
    back = model.remove(
        model.dataset(away, model.schema.transformed(frame, target_of(removed))), {name: own[name] for name in removed}
    )
    np.testing.assert_allclose(back, case.data, atol=1e-8)


@given(case=cases(), removed=subsets, seed=st.integers(0, 99))
def test_the_order_of_people_does_not_matter(case, removed, seed):
    order = np.random.default_rng(seed).permutation(len(case.data))
    shuffled = Case(case.frame.iloc[order], case.data[order], case.settings)
    results = [moved_by(each.fit(), each.data, each.frame, target_of(removed)) for each in (case, shuffled)]
    np.testing.assert_allclose(results[1], results[0][order], atol=1e-8)


@given(case=cases(), removed=subsets, people=st.sets(st.integers(0, 39), min_size=1))
def test_a_person_does_not_depend_on_who_else_is_exported(case, removed, people):
    rows = sorted(people)
    model = case.fit()
    together = model.remove(model.dataset(case.data, case.frame), target_of(removed))
    apart = model.remove(model.dataset(case.data[rows], case.frame.iloc[rows]), target_of(removed))
    np.testing.assert_allclose(apart, together[rows], atol=1e-10)


@given(
    case=cases(("default", "covariance", "line", "gain")), removed=subsets, factor=st.sampled_from([1e-3, 25.4, 1e4])
)
def test_the_unit_of_the_data_does_not_matter(case, removed, factor):
    transformed = moved_by(case.fit(), case.data, case.frame, target_of(removed))
    rescaled = Case(case.frame, factor * case.data, case.settings).fit()
    np.testing.assert_allclose(
        rescaled.remove(rescaled.dataset(factor * case.data, case.frame), target_of(removed)) / factor,
        transformed,
        atol=1e-7,
    )


@given(case=cases(), unit=st.sampled_from([12.0, 365.25]))
def test_the_unit_of_a_covariate_does_not_matter(case, unit):
    finer = Case(case.frame.assign(age=unit * case.frame["age"]), case.data, case.settings)
    transformed = moved_by(case.fit(), case.data, case.frame, {"age": 50.0, "sex": "F"})
    np.testing.assert_allclose(
        moved_by(finer.fit(), case.data, finer.frame, {"age": unit * 50.0, "sex": "F"}), transformed, atol=1e-7
    )


@given(case=cases(), removed=subsets)
def test_a_constant_column_beside_changes_nothing(case, removed):
    padded = Case(case.frame, np.insert(case.data, [0, 1], 3.0, axis=1), case.settings)
    plain = moved_by(case.fit(), case.data, case.frame, target_of(removed))
    transformed = moved_by(padded.fit(), padded.data, padded.frame, target_of(removed))
    np.testing.assert_allclose(np.delete(transformed, [0, 2], axis=1), plain, atol=1e-8)
    np.testing.assert_array_equal(transformed[:, [0, 2]], 3.0)


@given(case=cases(), removed=subsets)
def test_storage_is_faithful(case, removed):
    model = case.fit()
    again = restore_model(model.kind, *model.state())
    assert isinstance(again, LinearModel)
    np.testing.assert_array_equal(
        again.remove(again.dataset(case.data, case.frame), target_of(removed)),
        model.remove(model.dataset(case.data, case.frame), target_of(removed)),
    )
    np.testing.assert_array_equal(
        again.encode(again.dataset(case.data, case.frame)), model.encode(model.dataset(case.data, case.frame))
    )
    assert again.settings == model.settings
    assert again.schema == model.schema


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_of_the_data_is_kept(dtype):
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 6, 0)
    transformed = moved_by(fit(frame, data.astype(dtype)), data.astype(dtype), frame, TARGETS)
    assert transformed.dtype == dtype
    np.testing.assert_allclose(transformed, moved_by(fit(frame, data), data, frame, TARGETS), atol=1e-5)


def test_whole_numbers_are_refused_rather_than_rounded():
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 6, 0)
    # Under the tests' type checks the annotation refuses first.
    with pytest.raises((ModelError, TypeError)):
        moved_by(fit(frame, data), data.astype(np.int16), frame, TARGETS)


def test_a_memory_map_gives_what_an_array_gives(tmp_path):
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 6, 0).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    mapped = np.load(tmp_path / "data.npy", mmap_mode="r")
    transformed = moved_by(fit(frame, mapped), mapped, frame, TARGETS)
    np.testing.assert_array_equal(transformed, moved_by(fit(frame, data), data, frame, TARGETS))


def test_many_blocks_give_what_one_block_gives():
    frame = draw_people(60, 3, 0)
    data = np.tile(draw_data(frame, 8, 0), (1, 4000))
    settings = LinearSettings(components=0)
    transformed = moved_by(fit(frame, data, settings), data, frame, TARGETS)
    np.testing.assert_allclose(transformed[:, -8:], transformed[:, :8], atol=1e-8)


@given(case=cases(("default", "covariance")))
def test_latents_are_what_the_covariates_do_not_tell(case):
    model = case.fit()
    latents = model.encode(model.dataset(case.data, case.frame))
    assert latents.shape == (len(case.data), len(model.components))
    assert np.isfinite(latents).all()
    np.testing.assert_allclose(model.components @ model.components.T, np.eye(len(latents.T)), atol=1e-7)


@given(case=cases(("default", "line", "location", "gain")))
def test_latents_do_not_change_when_covariates_are_moved(case):
    model = case.fit()
    transformed = model.remove(model.dataset(case.data, case.frame), TARGETS)
    there = model.schema.transformed(case.frame, TARGETS)
    np.testing.assert_allclose(
        model.encode(model.dataset(transformed, there)), model.encode(model.dataset(case.data, case.frame)), atol=1e-8
    )


def test_every_setting_is_drawn():
    assert set(SETTINGS) == {"default", "covariance", "line", "location", "gain"}


@pytest.mark.parametrize("missing", [{"age"}, {"sex"}, {"site"}, {"age", "sex"}, {"sex", "site"}])
@pytest.mark.parametrize("grid", [None, Grid((3, 2, 2), (1.0, 1.0, 2.0))])
def test_any_selection_of_covariates(missing, grid):
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 12, 0)
    declared = tuple(covariate for covariate in DECLARED if covariate.name not in missing)
    case = Case(frame, data, declared=declared)
    columns = named(12) if grid is None else Columns((), 12, grid)
    target = {name: value for name, value in TARGETS.items() if name not in missing}
    model, history = LinearModel.fit(Dataset(data, case.schema.transfer(frame), case.schema, columns))
    assert np.isfinite(model.remove(model.dataset(data, frame), target)).all()
    assert history["value"].notna().all()
    again = restore_model(model.kind, *model.state())
    np.testing.assert_array_equal(
        again.remove(again.dataset(data, frame), target), model.remove(model.dataset(data, frame), target)
    )


def test_history_tells_shares_and_sizes():
    frame = draw_people(200, 2, 0)
    data = np.random.default_rng(0).normal(size=(200, 7)) + 3 * (frame["sex"] == "M").to_numpy()[:, None]
    data[:, 1] = 4
    data[:190, 2] = 0
    data[:, 5] = np.round(np.exp(data[:, 5] / 4 - 1))
    data[:60, 6] = 0
    case = Case(frame, data)
    _, history = LinearModel.fit(Dataset(data, frame, case.schema, named(7)))
    values = history.set_index(["metric", "name"])["value"]
    assert values["variance_share", "sex"] > 0.4
    assert values["variance_share", "age"] < 0.1
    assert values["columns", "constant"] == 1
    assert values["columns", "mostly one value"] == 2
    assert values["columns", "point masses"] == 1
    assert values["mean_scale", "site=S0"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LinearSettings(borrow="space"), "borrow is space, but the columns have no grid"),
        (LinearSettings(spline_degrees=0), "spline_degrees is 0; give 1"),
        (LinearSettings(components=-1), "components is -1; give 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    frame = draw_people(60, 3, 0)
    with pytest.raises(ModelError, match=message):
        fit(frame, draw_data(frame, 4, 0), settings)


def test_data_of_another_width_are_refused():
    frame = draw_people(60, 3, 0)
    model = fit(frame, draw_data(frame, 4, 0))
    for refused in (
        lambda x: model.remove(model.dataset(x, frame), TARGETS),
        lambda x: model.encode(model.dataset(x, frame)),
    ):
        with pytest.raises(ModelError, match="the data have 3 columns, the model was fitted on 4"):
            refused(np.zeros((60, 3)))


def test_nobody_to_export():
    frame = draw_people(60, 3, 0)
    model = fit(frame, draw_data(frame, 4, 0))
    empty = pd.DataFrame({"age": [], "sex": [], "site": []})
    assert model.remove(model.dataset(np.zeros((0, 4)), empty), TARGETS | {"site": POOLED}).shape == (0, 4)


@given(case=cases(), seed=st.integers(0, 2**16))
def test_under_gain_kept_labels_cannot_be_written_into_the_data(case, seed):
    settings = replace(case.settings, gain="yes", covariance=False)
    model = fit(case.frame, case.data, settings, case.declared)
    shuffled = case.frame.copy()
    order = np.random.default_rng(seed).permutation(len(shuffled))
    for name in set(case.schema.names) - set(case.schema.batches):
        shuffled[name] = shuffled[name].to_numpy()[order]
    target = case.schema.references(case.schema.batches)
    told, mixed = (model.remove(model.dataset(case.data, frame), target) for frame in (case.frame, shuffled))
    np.testing.assert_allclose(mixed, told, rtol=1e-9, atol=1e-9 * np.abs(told).max())
