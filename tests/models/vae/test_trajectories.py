"""People over time in a conditional VAE: forecasts, visits moved along trajectories, and gains, on planted tables and volumes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.errors import ModelError
from medrep.models import ConditionalVae, LinearModel, LinearSettings, VaeSettings, restore_model

DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)
GRID = Grid((4, 5, 4), (8.0, 8.0, 8.0))
CLOSED = VaeSettings(body="linear", latents=4, scanner="no")


def draw(
    seed: int, grid: Grid | None = None, people: int = 90, visits: tuple[int, int] = (1, 3)
) -> tuple[Dataset, np.ndarray]:
    """Draw visits of people whose columns change together, and mark the last of each person."""
    rng, rows = np.random.default_rng(seed), []
    for who in range(people):
        age = rng.uniform(30, 60)
        count = int(rng.integers(visits[0], visits[1] + 1))
        rows += [(f"p{who:02d}", age + 2 * k, "FM"[who % 2], f"S{(who + k) % 3}") for k in range(count)]
    frame = pd.DataFrame(rows, columns=["who", "age", "sex", "site"])
    frame.index = pd.Index([f"v{k:03d}" for k in range(len(frame))], name="key")
    width = 16 if grid is None else grid.size
    shared = np.random.default_rng(99).normal(0, 1, (2, width))
    site = np.random.default_rng(98).normal(0, 1, (3, width))
    numbers, age = pd.factorize(frame["who"])[0], frame["age"].to_numpy()[:, None]
    away = age - frame.groupby("who")["age"].transform("mean").to_numpy()[:, None]
    own = rng.normal(0, 1, (people, 2))[numbers] + away * rng.normal(0, 0.5, (people, 2))[numbers]
    values = 40 - 0.05 * age + own @ shared + site[frame["site"].str[1:].astype(int)]
    values = values + rng.normal(0, 1, (people, width))[numbers] + rng.normal(0, 1, values.shape)
    schema = CovariateSchema.fit(frame, DECLARED)
    names = () if grid is not None else tuple(f"c{k}" for k in range(width))
    columns = Columns(names, width, grid)
    dataset = Dataset(values, schema.transfer(frame), schema, columns, tuple(frame["who"]))
    return dataset, ~frame["who"].duplicated(keep="last").to_numpy()


@pytest.fixture(scope="module", params=["table", "volume"])
def trained(request: pytest.FixtureRequest) -> tuple[Dataset, ConditionalVae]:
    dataset, _ = draw(1, GRID if request.param == "volume" else None)
    return dataset, ConditionalVae.fit(dataset, CLOSED)[0]


def ahead(dataset: Dataset, last: np.ndarray, years: float = 0.0) -> tuple[pd.DataFrame, list[str]]:
    to = dataset.covariates[last]
    return to.assign(age=to["age"] + years), dataset.whose[last].tolist()


def test_no_years_change_nothing(trained: tuple[Dataset, ConditionalVae]) -> None:
    dataset, model = trained
    np.testing.assert_array_equal(model.follow(dataset, 0.0), dataset.values)
    assert model.followed == "age"
    assert "forecast" in model.capabilities
    assert model.refusal("forecast") == ""


def test_a_visit_is_what_is_drawn_of_it_and_what_is_left(trained: tuple[Dataset, ConditionalVae]) -> None:
    """So its forecast at a mixed model without noise would be itself: the latents' and the remainders' expectations add up."""
    dataset, model = trained
    own = model.parts.trajectories
    assert own is not None
    z = model.posterior(dataset)[0]
    drawn = model.parts.decoded(model.schema, z, dataset.covariates, dataset.values)
    rest = model.parts.left(model.schema, dataset, z)
    np.testing.assert_allclose(drawn + rest, dataset.values, atol=1e-4)
    to, names = ahead(dataset, np.arange(len(dataset)) == 0, 1.5)
    latents = own.latents.forecast(own.of_latents(z, dataset), to, names)
    left = own.rest.forecast(own.of_rest(rest, dataset), to, names)
    found = model.forecast(dataset, to, names)
    centre = model.parts.decoded(model.schema, latents.estimate, to, dataset.values[:1])
    np.testing.assert_allclose(found.estimate, centre + left.estimate, atol=1e-4)
    # A decoder without a body is linear: the variance of what it draws is L' diag(sd^2) L.
    loadings = model.parts.network.decoder.linear.weight.detach().numpy().T * model.parts.linear.sd
    levels = model.parts.linear.design.batches(to)
    scale = model.parts.linear.scale(levels, model.parts.linear.batches.log_scale)
    drawn_variance = (latents.sd**2 @ loadings**2) * scale**2
    np.testing.assert_allclose(found.sd**2, drawn_variance + left.sd**2, rtol=1e-3)


def test_new_people_are_forecast_with_intervals_that_hold(trained: tuple[Dataset, ConditionalVae]) -> None:
    dataset, model = trained
    new, last = draw(2, dataset.columns.grid, people=60, visits=(3, 3))
    to, names = ahead(new, last)
    found, truth = model.forecast(new.take(~last), to, names), new.values[last]
    before = np.flatnonzero(last) - 1
    errors = [np.sqrt(np.mean((one - truth) ** 2)) for one in (found.estimate, new.values[before])]
    assert errors[0] < 0.85 * errors[1]
    low, high = found.interval(0.95)
    assert 0.91 < ((low < truth) & (truth < high)).mean() < 0.98
    middle = found.interval(0.5)
    assert 0.44 < ((middle[0] < truth) & (truth < middle[1])).mean() < 0.58


def test_people_move_along_their_own_slopes(trained: tuple[Dataset, ConditionalVae]) -> None:
    dataset, model = trained
    new, last = draw(3, dataset.columns.grid, people=60, visits=(3, 3))
    first = ~pd.Series(new.whose).duplicated().to_numpy()
    own, known = new.values[last] - new.values[first], new.take(~last)
    moved = (model.follow(known, 4.0) - known.values)[~pd.Series(known.whose).duplicated().to_numpy()]
    aged = LinearModel.fit(dataset, LinearSettings(components=0, gain="no"))[0]
    population = aged.transform(known, known.covariates[["age"]] + 4.0) - known.values
    assert np.corrcoef(moved.ravel(), own.ravel())[0, 1] > 0.4
    assert np.abs(population).max() < np.abs(moved).max()
    twice = model.follow(known.with_values(model.follow(known, 0.0)), 4.0)
    np.testing.assert_array_equal(twice, model.follow(known, 4.0))


def test_gains_are_about_one(trained: tuple[Dataset, ConditionalVae]) -> None:
    dataset, model = trained
    gain = model.scores(dataset).gain
    assert gain is not None
    np.testing.assert_array_equal(np.isnan(gain), ~pd.Series(dataset.whose).duplicated().to_numpy())
    assert np.sqrt(np.nanmean(gain**2)) == pytest.approx(1, abs=0.15)
    assert model.scores(dataset.take(np.flatnonzero(np.isnan(gain)))).gain is None


def test_what_is_known_of_people_comes_back(trained: tuple[Dataset, ConditionalVae]) -> None:
    dataset, model = trained
    again = restore_model("conditional_vae", *model.state())
    to, names = ahead(dataset, np.arange(len(dataset)) < 5, 2.0)
    one, two = (own.forecast(dataset, to, names) for own in (model, again))
    np.testing.assert_array_equal(one.estimate, two.estimate)
    np.testing.assert_array_equal(one.sd, two.sd)


def test_a_visit_a_person_keeps_nothing_of_trajectories(trained: tuple[Dataset, ConditionalVae]) -> None:
    dataset, _ = trained
    single = dataset.take(~pd.Series(dataset.whose).duplicated().to_numpy())
    alone = replace(CLOSED, linear=LinearSettings(visits="independent"))
    for model in (ConditionalVae.fit(single, CLOSED)[0], ConditionalVae.fit(dataset, alone)[0]):
        content, arrays = model.state()
        assert "trajectories" not in content
        assert not [name for name in arrays if name.startswith("trajectories")]
        assert "forecast" not in model.capabilities
        assert model.followed == ""
        assert "train on a cohort in which people come again" in model.refusal("forecast")
        to, names = ahead(dataset, np.arange(len(dataset)) == 0, 1.0)
        with pytest.raises(ModelError, match="people over time"):
            model.forecast(dataset, to, names)
        with pytest.raises(ModelError, match="people over time"):
            model.follow(dataset, 1.0)


def test_missing_values_and_new_sites_are_forecast_too() -> None:
    dataset, _ = draw(1)
    values = dataset.values.copy()
    values[np.random.default_rng(0).random(values.shape) < 0.03] = np.nan
    model, _ = ConditionalVae.fit(dataset.with_values(values), CLOSED)
    new, last = draw(4, people=20, visits=(2, 2))
    strange = new.with_covariates(new.covariates.assign(site=new.covariates["site"].replace("S2", "S9")))
    known, _ = model.adapt([strange])
    holed = strange.values.copy()
    holed[0, 0] = np.nan
    to, names = ahead(strange, last, 1.0)
    found = known.forecast(strange.with_values(holed), to, names)
    assert np.isfinite(found.estimate).all()
    assert (found.sd > 0).all()
    moved = known.follow(strange.with_values(holed), 2.0)
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(holed))
