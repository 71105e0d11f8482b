"""What breaks other tools, each by name."""

import numpy as np
import pytest

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.errors import CovariateError
from medrep.models import LinearModel, LinearSettings
from tests.models.planted import AGE, DECLARED, SETTINGS, SEX, SITE, draw_data, draw_people, fit, moved_by

pytestmark = pytest.mark.rounding

REMOVED = {"age": 50.0, "sex": "F", "site": "S0"}


@pytest.fixture
def frame():
    return draw_people(90, 3, 0)


@pytest.fixture
def data(frame):
    return draw_data(frame, 8, 0)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_one_nan(frame, data, settings):
    holed = data.copy()
    holed[5, 2] = np.nan
    transformed = moved_by(fit(frame, holed, settings), holed, frame, REMOVED)
    whole = moved_by(fit(frame, data, settings), data, frame, REMOVED)
    assert np.argwhere(~np.isfinite(transformed)).tolist() == [[5, 2]]
    without = np.arange(90) != 5
    differences = np.abs(transformed - whole)[without]
    assert np.median(differences[:, 2]) < 0.1
    assert np.delete(differences, 2, axis=1).max() < 0.1
    alone = moved_by(fit(frame[without], data[without], settings), data, frame, REMOVED)
    assert np.abs(transformed[without, 2] - alone[without, 2]).max() < 0.25


def test_nan_cells_survive_the_null_intervention(frame, data):
    data[3, 1] = data[8, 4] = np.nan
    model = fit(frame, data)
    own = (frame["site"] == "S1").to_numpy()
    np.testing.assert_array_equal(model.remove(model.dataset(data, frame), {"site": "S1"})[own], data[own])


def test_missing_cells_and_zeros_of_one_site(frame, data):
    """Nobody declares a site; columns with holes are fitted to those who have values."""
    data[:20, 2], data[:30, 5] = np.nan, 0
    declared, settings = tuple(one for one in DECLARED if one.name != "site"), LinearSettings(spline_degrees=1)
    frame = frame.drop(columns="site")
    model = fit(frame, data, settings, declared=declared)
    moved = model.remove(model.dataset(data, frame), {"age": 50.0, "sex": "F"})
    for column, gone in ((2, 20), (5, 30)):
        np.testing.assert_array_equal(moved[:gone, column], data[:gone, column])
        seen = np.arange(90) >= gone
        alone = fit(frame[seen], data[seen], settings, declared=declared)
        there = alone.remove(alone.dataset(data[seen], frame[seen]), {"age": 50.0, "sex": "F"})
        np.testing.assert_allclose(moved[seen, column], there[:, column], atol=1e-6)


def test_a_person_without_any_value(frame, data):
    data[4] = np.nan
    model = fit(frame, data, SETTINGS["covariance"])
    transformed = model.remove(model.dataset(data, frame), REMOVED)
    assert np.isnan(transformed[4]).all()
    assert np.isfinite(np.delete(transformed, 4, axis=0)).all()
    np.testing.assert_array_equal(model.encode(model.dataset(data, frame))[4], 0)


def test_a_column_without_any_value(frame, data):
    rest = np.delete(data, 3, axis=1)
    data[:, 3] = np.nan
    transformed = moved_by(fit(frame, data), data, frame, REMOVED)
    assert np.isnan(transformed[:, 3]).all()
    np.testing.assert_allclose(
        np.delete(transformed, 3, axis=1), moved_by(fit(frame, rest), rest, frame, REMOVED), atol=1e-8
    )


def test_a_column_that_one_site_lacks(frame, data):
    away = (frame["site"] == "S2").to_numpy()
    data[away, 3] = np.nan
    transformed = moved_by(fit(frame, data), data, frame, {"site": "S0"})
    assert np.isnan(transformed[away, 3]).all()
    raw, done = (
        np.subtract(*(x[(frame["site"] == s).to_numpy(), 3].mean() for s in ("S0", "S1"))) for x in (data, transformed)
    )
    assert abs(done) < 0.35 * abs(raw)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_site_with_one_person(frame, data, settings):
    frame.iloc[0, frame.columns.get_loc("site")] = "Lone"
    data[0] += 5
    model = fit(frame, data, settings)
    transformed = model.remove(model.dataset(data, frame), REMOVED)
    assert np.isfinite(transformed).all()
    lone = model.schema["site"].levels.index("Lone")
    np.testing.assert_array_equal(model.batches.log_scale[lone], 0)
    assert np.abs(transformed[0] - transformed.mean(axis=0)).mean() < 3


def test_a_site_with_one_person_who_lacks_a_value(frame, data):
    frame.iloc[0, frame.columns.get_loc("site")] = "Lone"
    data[0, 3] = np.nan
    transformed = moved_by(fit(frame, data), data, frame, REMOVED)
    assert np.argwhere(~np.isfinite(transformed)).tolist() == [[0, 3]]
    assert not np.allclose(transformed[1:, 3], data[1:, 3])


def test_an_unseen_site(frame, data):
    schema = CovariateSchema.fit(frame, DECLARED)
    unknown = frame.iloc[:2].assign(site=["X", "S1"])
    with pytest.raises(CovariateError) as error:
        schema.transfer(unknown)
    message = str(error.value)
    for part in (str(frame.index[0]), "site 'X'", "S0, S1, S2", "--unseen-site adapt"):
        assert part in message
    assert str(frame.index[1]) not in message
    assert schema.transfer(unknown, unseen="adapt")["site"].tolist() == ["X", "S1"]


def test_an_unseen_level_of_an_effect_is_refused_even_when_adapting(frame):
    schema = CovariateSchema.fit(frame, DECLARED)
    with pytest.raises(CovariateError, match=r"sex 'X' was not in training \(F, M\)"):
        schema.transfer(frame.iloc[:1].assign(sex="X"), unseen="adapt")


def test_two_batch_covariates_unseen_at_once(frame, data):
    coil = Covariate("coil", "categorical", "batch")
    frame["coil"] = [f"C{k // 3 % 2}" for k in range(90)]
    model = fit(frame.drop(columns="sex"), data, declared=(AGE, SITE, coil))
    unknown = frame.iloc[:1].assign(site="X", coil="Y")
    with pytest.raises(CovariateError, match=r"sub-\d+: site 'X' and coil 'Y'.*cannot be told apart"):
        model.adapt([model.dataset(data[:1], unknown)])


def test_two_batch_covariates(frame, data):
    coil = Covariate("coil", "categorical", "batch")
    frame["coil"] = np.random.default_rng(1).choice(["C0", "C1"], 90).tolist()
    shifted = data + 2 * (frame["coil"] == "C1").to_numpy()[:, None]
    model = fit(frame, shifted, declared=(*DECLARED, coil))
    transformed = model.remove(model.dataset(shifted, frame), {"coil": "C0"})
    own = (frame["coil"] == "C0").to_numpy()
    np.testing.assert_array_equal(transformed[own], shifted[own])
    assert (transformed[~own] - shifted[~own]).mean() == pytest.approx(-2, abs=0.3)
    stepwise = model.remove(model.dataset(transformed, frame.assign(coil="C0")), {"site": "S1"})
    np.testing.assert_allclose(
        stepwise, model.remove(model.dataset(shifted, frame), {"coil": "C0", "site": "S1"}), atol=1e-10
    )


def test_exported_people_from_a_subset_of_the_sites(frame, data):
    model = fit(frame, data)
    some = (frame["site"] == "S2").to_numpy()
    apart = model.remove(model.dataset(data[some], model.schema.transfer(frame[some])), REMOVED)
    np.testing.assert_allclose(apart, model.remove(model.dataset(data, frame), REMOVED)[some], atol=1e-10)


def test_exported_people_of_one_sex(frame, data):
    model = fit(frame, data)
    some = (frame["sex"] == "M").to_numpy()
    apart = model.remove(model.dataset(data[some], model.schema.transfer(frame[some])), REMOVED)
    np.testing.assert_allclose(apart, model.remove(model.dataset(data, frame), REMOVED)[some], atol=1e-10)


def test_covariate_columns_in_another_order(frame, data):
    model = fit(frame, data)
    turned = frame.assign(extra=1)[["site", "extra", "sex", "age"]]
    np.testing.assert_array_equal(
        model.remove(model.dataset(data, model.schema.transfer(turned)), REMOVED),
        model.remove(model.dataset(data, frame), REMOVED),
    )
    np.testing.assert_array_equal(
        model.remove(model.dataset(data, turned), REMOVED), model.remove(model.dataset(data, frame), REMOVED)
    )


def test_covariates_declared_in_another_order(frame, data):
    turned = fit(frame, data, declared=(SITE, SEX, AGE))
    np.testing.assert_allclose(
        turned.remove(turned.dataset(data, frame), REMOVED), moved_by(fit(frame, data), data, frame, REMOVED), atol=1e-8
    )


def test_an_absent_covariate(frame, data):
    with pytest.raises(CovariateError, match="trained with are absent: sex"):
        fit(frame, data).schema.transfer(frame.drop(columns="sex"))


def test_a_covariate_aliased_with_site(frame, data):
    frame["sex"] = np.where(frame["site"] == "S0", "F", "M").tolist()
    with pytest.raises(CovariateError, match="sex and site cannot be told apart"):
        fit(frame, data)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_feature(frame, data, value, dtype):
    data[:, 3] = value
    transformed = moved_by(fit(frame, data.astype(dtype)), data.astype(dtype), frame, REMOVED)
    np.testing.assert_array_equal(transformed[:, 3], dtype(value))
    assert np.isfinite(transformed).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_nothing_but_constant_features(frame, settings):
    ones = np.ones((90, 3))
    model = fit(frame, ones, settings)
    np.testing.assert_array_equal(model.remove(model.dataset(ones, frame), REMOVED), 1)
    assert model.encode(model.dataset(ones, frame)).shape == (90, 0)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_zero_inflated_feature(frame, data, settings):
    none = np.random.default_rng(0).permutation(90) < 60
    data[none, 3] = 0
    model = fit(frame, data, settings)
    transformed = model.remove(model.dataset(data, frame), REMOVED)
    np.testing.assert_array_equal(transformed[none, 3], 0)
    assert (transformed[~none, 3] != data[~none, 3]).mean() > 0.9
    chunks = [chunk for _, chunk in model.residuals(model.dataset(data, frame)).map(lambda _, chunk: chunk)]
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1)[none, 3], 0)
    data[np.random.default_rng(0).permutation(90) < 80, 3] = 0
    np.testing.assert_array_equal(moved_by(fit(frame, data, settings), data, frame, REMOVED)[:, 3], data[:, 3])


def test_a_column_constant_within_each_site_is_moved_exactly(frame, data):
    data[:, 3] = frame["site"].map({"S0": 4.0, "S1": 7.5, "S2": -1.0})
    model = fit(frame, data)
    for level, value in (("S0", 4.0), ("S2", -1.0)):
        np.testing.assert_allclose(model.remove(model.dataset(data, frame), {"site": level})[:, 3], value, atol=1e-10)


def test_more_coefficients_than_people(data):
    few = draw_people(7, 2, 0)
    with pytest.raises(CovariateError, match=r"aliased covariates.*\n?.*(age|sex|site)") as error:
        fit(few, data[:7])
    assert "add people" in str(error.value)


def test_the_reference_is_the_users(frame, data):
    model = fit(frame, data)
    for level in ("S0", "S1", "S2"):
        target = model.schema.references(["site"], {"site": level})
        assert target == {"site": level}
        own = (frame["site"] == level).to_numpy()
        np.testing.assert_array_equal(model.remove(model.dataset(data, frame), target)[own], data[own])
    chosen = fit(frame, data, declared=(AGE, SEX, Covariate("site", "categorical", "batch", reference="S2")))
    assert chosen.schema.references(["site"]) == {"site": "S2"}


def test_the_reference_of_a_batch_is_the_pool_by_default(frame, data):
    model = fit(frame, data)
    target = model.schema.references(["site"])
    assert target == model.schema.references(["site"], {"site": "pooled"}) == {"site": "(pooled)"}
    transformed = model.remove(model.dataset(data, frame), target)
    np.testing.assert_allclose(transformed.mean(axis=0), data.mean(axis=0), atol=0.25)
    for site, k in (("S0", 0), ("S1", 1)):
        own = (frame["site"] == site).to_numpy()
        mean = model.design.effects(frame)[own] @ model.coefficients
        wanted = mean + (data[own] - mean - model.batches.location[k]) / np.exp(model.batches.log_scale[k])
        np.testing.assert_allclose(transformed[own], wanted, atol=1e-10)


def test_a_reference_that_is_unknown(frame, data):
    schema = fit(frame, data).schema
    with pytest.raises(CovariateError, match=r"reference site='S9' was not in training; allowed: S0, S1, S2, pooled"):
        schema.references(["site"], {"site": "S9"})
    with pytest.raises(CovariateError, match=r"reference age='old' is no number; give one in year"):
        schema.references(["age"], {"age": "old"})


def test_huge_and_tiny_columns(frame, data):
    scaled = data * np.array([1e-12, 1e-6, 1, 1, 1e3, 1e6, 1e9, 1e12])
    transformed = moved_by(fit(frame, scaled), scaled, frame, REMOVED)
    np.testing.assert_allclose(
        transformed / scaled.std(axis=0), moved_by(fit(frame, data), data, frame, REMOVED) / data.std(axis=0), atol=1e-7
    )


def test_one_column_only(frame, data):
    model = fit(frame, data[:, :1], SETTINGS["covariance"])
    assert isinstance(model, LinearModel)
    assert np.isfinite(model.remove(model.dataset(data[:, :1], frame), REMOVED)).all()


def test_more_columns_than_people(frame):
    wide = draw_data(frame, 500, 0)
    for settings in SETTINGS.values():
        assert np.isfinite(moved_by(fit(frame, wide, settings), wide, frame, REMOVED)).all()
