import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.covariates import CovariateSchema
from medrep.models import LinearModel
from medrep.models.linear.design import Design, effect_covariance, effect_variance
from tests.models.planted import AGE, SEX, SITE, draw_people, fit

DECLARED = (AGE, SEX, SITE)
PEOPLE = 120


def people(low: float, high: float, site: str | None = None, count: int = PEOPLE, seed: int = 0) -> pd.DataFrame:
    frame = draw_people(count, 3, seed)
    age = np.random.default_rng(seed).uniform(low, high, count)
    return frame.assign(age=age) if site is None else frame.assign(age=age, site=site)


def design_of(frame: pd.DataFrame, degrees: int = 4, interactions: tuple = ()) -> Design:
    return Design.fit(CovariateSchema.fit(frame, DECLARED), frame, degrees, interactions)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), interact=st.booleans())
def test_the_variance_of_the_mean_effect_is_that_of_least_squares(seed, interact):
    frame = people(20, 60, seed=seed)
    design = design_of(frame, 2, (("age", "sex"),) if interact else ())
    covariance = effect_covariance(design, frame, np.zeros((3, 5)))
    new = people(25, 55, count=9, seed=seed + 1)
    # What the coefficients do with noise: their map from the data, applied to every unit vector.
    X = design.full(frame) @ design.contrasts()
    knots = design.knots["age"]
    inside = new[new["age"].between(knots[0], knots[-1])]
    row = design.effects(inside).mean(axis=0)
    solve = np.linalg.pinv(X)[: len(row)]
    found = effect_variance(design, covariance, np.ones((len(row), 3)), inside)
    assert found == pytest.approx(float(((row @ solve) ** 2).sum()))


def test_a_straight_line_goes_on_as_a_straight_line():
    frame = people(20, 60)
    design = design_of(frame, 4)
    exact = np.zeros((design.effects(frame).shape[1], 2))
    exact[1] = 3.0  # the spline's first column is the age itself
    covariance = np.zeros((len(exact), len(exact)))
    assert effect_variance(design, covariance, exact, people(70, 80)) == pytest.approx(0, abs=1e-12)


def test_a_parabola_is_taken_to_bend_on():
    frame = people(20, 60, count=400)
    design = design_of(frame, 8)
    curve = ((frame["age"].to_numpy() - 40) / 10) ** 2
    coefficients = np.linalg.lstsq(design.effects(frame), curve)[0][:, None]
    new = people(75, 75.001)
    last = design.knots["age"][-1]
    beyond = (design.effects(new) @ coefficients).mean() - ((75 - 40) / 10) ** 2
    found = np.sqrt(effect_variance(design, np.zeros((len(coefficients),) * 2), coefficients, new))
    assert found == pytest.approx((75 - last) ** 2 / 100, rel=0.2)
    assert found == pytest.approx(abs(beyond), rel=0.35)


def test_only_noise_bends_nothing():
    rng = np.random.default_rng(0)
    frame = people(20, 60)
    design = design_of(frame, 4)
    data = rng.normal(size=(PEOPLE, 400))
    coefficients = np.linalg.lstsq(design.effects(frame), data)[0]
    covariance = np.linalg.inv(design.effects(frame).T @ design.effects(frame))
    straight = design.effects(people(75, 80)).mean(axis=0)
    known = float(straight @ covariance @ straight)
    assert effect_variance(design, covariance, coefficients, people(75, 80)) < 2 * known


def adapted(low: float, high: float, count: int = 30) -> tuple[LinearModel, object, np.ndarray]:
    """Return a model that knows the new site, the note, and the error of its locations in residual deviations."""
    rng = np.random.default_rng(5)
    frame = pd.concat([people(20, 60), people(low, high, "new", count, seed=3).rename("new{}".format)])
    slope, bend = rng.normal(0, 0.5, (2, 40))
    t = (frame["age"].to_numpy()[:, None] - 40) / 12
    sites = sorted(set(frame["site"]))
    location = rng.normal(0, 0.6, (len(sites), 40))
    own = np.array([sites.index(site) for site in frame["site"]])
    data = slope * t + bend * t**2 + location[own] + rng.normal(size=(len(frame), 40))
    known = (frame["site"] != "new").to_numpy()
    model = fit(frame[known], data[known], declared=DECLARED)
    model, (note,) = model.adapt([model.dataset(data[~known], frame[~known])])
    shares = np.bincount(own[known], minlength=len(sites)) / known.sum()
    error = model.batches.location[-1] - (location[sites.index("new")] - shares @ location)
    return model, note, error / model.sd


@pytest.mark.parametrize(("low", "high"), [(20, 60), (65, 80), (0, 12), (55, 70)])
def test_what_is_said_of_a_new_site_covers_what_is_found(low, high):
    _, note, error = adapted(low, high)
    assert note.effect_se < note.location_se
    assert (np.abs(error) < 1.96 * note.location_se).mean() >= 0.85
    assert note.location_se < 2.5 * np.sqrt((error**2).mean())


def test_models_saved_before_leave_the_effects_out():
    frame = people(20, 60)
    data = np.random.default_rng(0).normal(size=(PEOPLE, 6))
    content, arrays = fit(frame, data, declared=DECLARED).state()
    del arrays["effect_covariance"], content["effects_known"]
    model = LinearModel.restore(content, arrays)
    new = people(65, 80, "new", 16, seed=2)
    _, (note,) = model.adapt([model.dataset(data[:16], new)])
    assert note.effect_se is None
    assert note.location_se == pytest.approx(0.25, rel=0.3)
    assert "effect_covariance" not in model.state()[1]
