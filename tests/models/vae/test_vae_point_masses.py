"""Point masses and levels without a column, through the conditional VAE: all of it leaves alone what its linear layer does."""

import numpy as np
import pytest

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models import ConditionalVae, VaeSettings, restore_model
from medrep.models.left_alone import left_alone, unmeasured
from tests.models.planted import DECLARED, draw_data, draw_people, named

PEOPLE = 120


@pytest.fixture(scope="module")
def fitted():
    frame = draw_people(PEOPLE, 3, 0)
    data = draw_data(frame, 10, 0)
    data[np.random.default_rng(0).random(PEOPLE) < 0.35, 4] = 0
    away = (frame["site"] == "S2").to_numpy()
    held = data.copy()
    held[away, 7] = np.nan
    schema = CovariateSchema.fit(frame, DECLARED)
    settings = VaeSettings(latents=3, body="linear")
    model, _ = ConditionalVae.fit(Dataset(held, schema.transfer(frame), schema, named(10)), settings)
    return model, frame, data, held


@pytest.mark.parametrize("removed", [["site"], ["age"], ["age", "sex", "site"]])
@pytest.mark.parametrize("reference", [{}, {"site": "S0"}])
def test_they_stay_and_nothing_is_put_where_nobody_was_measured(fitted, removed, reference):
    model, frame, data, _ = fitted
    target = model.schema.references(removed, {k: v for k, v in reference.items() if k in removed})
    transformed = model.remove(model.dataset(data, frame), target)
    zero, away = data[:, 4] == 0, (frame["site"] == "S2").to_numpy()
    np.testing.assert_array_equal(transformed[zero, 4], 0)
    assert (transformed[~zero, 4] != data[~zero, 4]).mean() > 0.6
    assert np.isnan(transformed[away, 7]).all()
    assert np.isfinite(transformed[~away]).all()
    assert np.isfinite(np.delete(transformed, 7, axis=1)).all()
    again = model.remove(model.dataset(transformed, model.schema.transformed(frame, target)), target)
    np.testing.assert_array_equal(again, transformed)
    assert {cell.column for cell in unmeasured(model, model.dataset(data, frame), target)} == {"region_7"}


def test_the_rest_of_the_model_takes_them_as_their_mean(fitted):
    model, frame, data, held = fitted
    missing = held.copy()
    missing[missing[:, 4] == 0, 4] = np.nan
    np.testing.assert_allclose(model.encode(model.dataset(data, frame)), model.encode(model.dataset(missing, frame)))
    np.testing.assert_allclose(
        model.scores(model.dataset(data, frame)).reconstruction_error,
        model.scores(model.dataset(missing, frame)).reconstruction_error,
    )
    assert (model.reconstruct(model.dataset(data, frame))[data[:, 4] == 0, 4] == 0).all()


def test_samples_have_them_as_often_as_training(fitted):
    model, frame, data, _ = fitted
    drawn = model.sample(frame, seed=0)
    assert (drawn[:, 4] == 0).mean() == pytest.approx((data[:, 4] == 0).mean(), abs=0.12)


def test_saved_models_know_them(fitted):
    model, frame, data, _ = fitted
    again = restore_model(model.kind, *model.state())
    assert left_alone(again) == left_alone(model)
    np.testing.assert_array_equal(
        again.remove(again.dataset(data, frame), {"site": "S0"}),
        model.remove(model.dataset(data, frame), {"site": "S0"}),
    )
