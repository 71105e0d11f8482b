"""People's own trajectories: forecasts, visits moved along them, and gains, against normal distributions written out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid, Mask
from medrep.errors import ModelError
from medrep.models import LinearModel, LinearSettings
from medrep.models.linear.random_effects import EffectErrors
from tests.models.linear.test_visits import AUTO, DECLARED, INDEPENDENT, Planted


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(3, slope=0.5)


@pytest.fixture(scope="module")
def model(planted: Planted) -> LinearModel:
    return LinearModel.fit(planted.dataset(), AUTO)[0]


def of(planted: Planted, who: str) -> Dataset:
    return planted.dataset().take(np.flatnonzero(planted.frame["who"] == who))


def with_visits(planted: Planted, count: int) -> str:
    visits = planted.frame["who"].value_counts()
    return str(sorted(visits.index[visits == count])[0])


def later(person: Dataset, years: float, **others: str) -> pd.DataFrame:
    last = person.covariates.iloc[[int(np.argmax(person.covariates["age"]))]]
    return last.assign(age=last["age"] + years, **others)


def rows_of(model: LinearModel, frame: pd.DataFrame, away: np.ndarray) -> np.ndarray:
    return np.concatenate([model.design.effects(frame), away[:, None], model.design.batches(frame)], axis=1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("site", ["", "S2"])
def test_a_forecast_is_the_conditional_normal_distribution(
    planted: Planted, model: LinearModel, count: int, site: str
) -> None:
    who = with_visits(planted, count)
    person, people = of(planted, who), model.people
    to = later(person, 1.5, **({"site": site} if site else {}))
    found = model.forecast(person, to, [who])
    age = np.concatenate([person.covariates["age"], to["age"]]).astype(float)
    away = age - age.mean()
    both = pd.concat([person.covariates, to])
    rows = rows_of(model, both, away)
    for v in range(model.columns.count):
        coefficients = np.concatenate([model.coefficients[:, v], people.change[:, v], model.batches.location[:, v]])
        time, scale = away / people.unit, np.exp(model.design.batches(both) @ model.batches.log_scale[:, v])
        whole = people.level[v] + people.slope[v] * np.outer(time, time) + np.diag(scale**2)
        weights = np.linalg.solve(whole[:-1, :-1], whole[:-1, -1])
        mean = rows @ coefficients
        assert found.estimate[0, v] == pytest.approx(mean[-1] + weights @ (person.values[:, v] - mean[:-1]))
        left = whole[-1, -1] - weights @ whole[:-1, -1]
        unknown = rows[-1] - weights @ rows[:-1]
        errors = people.known.covariance[people.known.which[v]] * people.known.sd[v] ** 2
        assert found.sd[0, v] ** 2 == pytest.approx(left * model.sd[v] ** 2 + unknown @ errors @ unknown)


def test_no_years_on_is_the_shrunken_visit(planted: Planted, model: LinearModel) -> None:
    who = with_visits(planted, 1)
    person, people = of(planted, who), model.people
    found = model.forecast(person, person.covariates, [who]).estimate
    mean = rows_of(model, person.covariates, np.zeros(1)) @ np.concatenate(
        [model.coefficients, people.change, model.batches.location]
    )
    scale = np.exp(model.design.batches(person.covariates) @ model.batches.log_scale)
    kept = people.level / (people.level + scale**2)
    np.testing.assert_allclose(found, mean + kept * (person.values - mean))


def test_people_are_forecast_each_by_themselves(planted: Planted, model: LinearModel) -> None:
    everybody = planted.dataset()
    names = sorted(set(planted.frame["who"]))[:9]
    to = pd.concat([later(of(planted, who), 2) for who in names])
    whole = model.forecast(everybody, to, names)
    for k, who in enumerate(names):
        alone = model.forecast(of(planted, who), to.iloc[[k]], [who])
        np.testing.assert_allclose(whole.estimate[k], alone.estimate[0])
        np.testing.assert_allclose(whole.sd[k], alone.sd[0])
    assert model.forecast(everybody, to.iloc[:0], []).estimate.shape == (0, 12)


def test_what_is_farther_off_is_known_less_well(planted: Planted, model: LinearModel) -> None:
    for count in (1, 2, 3):
        who = with_visits(planted, count)
        sds = [model.forecast(of(planted, who), later(of(planted, who), years), [who]).sd for years in (0.5, 2, 4)]
        assert (sds[0] < sds[1]).all()
        assert (sds[1] < sds[2]).all()
    lonely = [
        model.forecast(
            of(planted, with_visits(planted, n)),
            later(of(planted, with_visits(planted, n)), 0),
            [with_visits(planted, n)],
        ).sd.mean()
        for n in (1, 3)
    ]
    assert lonely[1] < lonely[0]


def test_missing_values_tell_nothing(planted: Planted, model: LinearModel) -> None:
    who = with_visits(planted, 3)
    person = of(planted, who)
    values = person.values.copy()
    values[1, 2] = np.nan
    values[:, 5] = np.nan
    to = later(person, 1)
    found = model.forecast(person.with_values(values), to, [who])
    whole = model.forecast(person, to, [who])
    assert np.isfinite(found.estimate).all()
    same = [k for k in range(12) if k not in (2, 5)]
    np.testing.assert_array_equal(found.estimate[:, same], whole.estimate[:, same])
    assert (found.sd[0, [2, 5]] > whole.sd[0, [2, 5]]).all()
    two = person.take(np.array([0, 2]))
    assert found.estimate[0, 2] != pytest.approx(
        model.forecast(two, to, [who]).estimate[0, 2], rel=1e-12
    )  # t is of all visits


def test_columns_without_a_fit_are_not_forecast(planted: Planted) -> None:
    values = planted.values.copy()
    values[:, 0] = 4.0
    values[::4, 1] = 0.0
    dataset = planted.dataset(values)
    model, _ = LinearModel.fit(dataset, AUTO)
    assert len(model.masses.values)
    names = sorted(set(planted.frame["who"]))
    to = pd.concat([later(of(planted, who), 1) for who in names])
    found = model.forecast(dataset, to, names)
    assert np.isnan(found.estimate[:, 0]).all()
    last = planted.frame.assign(mass=values[:, 1] == 0).sort_values("age", kind="stable").groupby("who")["mass"].last()
    np.testing.assert_array_equal(np.isnan(found.estimate[:, 1]), last.loc[names].to_numpy())
    assert np.isfinite(found.estimate[:, 2:]).all()
    np.testing.assert_array_equal(np.isnan(found.sd), np.isnan(found.estimate))


def test_following_nobody_anywhere_changes_nothing(planted: Planted, model: LinearModel) -> None:
    np.testing.assert_array_equal(model.follow(planted.dataset(), 0.0), planted.values)


@settings(max_examples=5, deadline=None)
@given(years=st.floats(-3, 3))
def test_visits_move_along_the_persons_own_trajectory(years: float) -> None:
    planted, model = _followed()
    people = model.people
    moved = model.follow(planted.dataset(), years)
    for count in (1, 2, 3):
        rows = np.flatnonzero(planted.frame["who"] == with_visits(planted, count))
        frame, values = planted.dataset().covariates.iloc[rows], planted.values[rows]
        effects = model.design.effects(frame.assign(age=frame["age"] + years)) - model.design.effects(frame)
        own = moved[rows] - values - effects @ model.coefficients - years * people.change[0]
        away = frame["age"].to_numpy() - frame["age"].mean()
        coefficients = np.concatenate([model.coefficients, people.change, model.batches.location])
        rest, time = values - rows_of(model, frame, away) @ coefficients, away / people.unit
        for v in range(3):
            scale = np.exp(model.design.batches(frame) @ model.batches.log_scale[:, v])
            whole = people.level[v] + people.slope[v] * np.outer(time, time) + np.diag(scale**2)
            slope = people.slope[v] * time @ np.linalg.solve(whole, rest[:, v])
            np.testing.assert_allclose(own[:, v], years * slope / people.unit, atol=1e-9)
            assert count > 1 or slope == 0


_MADE: list[tuple[Planted, LinearModel]] = []


def _followed() -> tuple[Planted, LinearModel]:
    if not _MADE:
        made = Planted(8, people=60, columns=3, slope=0.5)
        _MADE.append((made, LinearModel.fit(made.dataset(), AUTO)[0]))
    return _MADE[0]


def test_slopes_of_people_are_found() -> None:
    planted = Planted(9, people=120, columns=10, slope=1.0, visits=(3, 3), spread=0.0)
    model, _ = LinearModel.fit(planted.dataset(), AUTO)
    moved = model.follow(planted.dataset(), 1.0) - planted.values
    age = planted.frame["age"].to_numpy()
    who = pd.factorize(planted.frame["who"])[0]
    away = age - pd.Series(age).groupby(who).transform("mean").to_numpy()
    truth = np.stack([(away[who == k] @ planted.person[who == k]) / (away[who == k] ** 2).sum() for k in range(120)])
    assert np.corrcoef(moved[~pd.Series(who).duplicated()].ravel(), truth.ravel())[0, 1] > 0.85


def test_a_gain_is_what_the_visit_before_leaves_unexplained(planted: Planted, model: LinearModel) -> None:
    """Against the two visits' distribution written out."""
    who = with_visits(planted, 3)
    person, people = of(planted, who), model.people
    found = model.scores(person).gain
    assert found is not None
    assert np.isnan(found[0])
    for place in (1, 2):
        two = person.take(np.array([place - 1, place]))
        age = two.covariates["age"].to_numpy(float)
        away = age - age.mean()
        rows, gains = rows_of(model, two.covariates, away), []
        for v in range(12):
            mean = rows @ np.concatenate([model.coefficients[:, v], people.change[:, v], model.batches.location[:, v]])
            scale = np.exp(model.design.batches(two.covariates) @ model.batches.log_scale[:, v])
            time = away / people.unit
            whole = people.level[v] + people.slope[v] * np.outer(time, time) + np.diag(scale**2)
            z = (two.values[:, v] - mean) / model.sd[v] / np.sqrt(np.diag(whole))
            r = whole[0, 1] / np.sqrt(whole[0, 0] * whole[1, 1])
            gains.append((z[1] - r * z[0]) / np.sqrt(1 - r**2))
        assert found[place] == pytest.approx(np.sqrt(np.mean(np.square(gains))))


def test_gains_are_about_one_and_stand_out_where_somebody_changed(planted: Planted, model: LinearModel) -> None:
    gain = model.scores(planted.dataset()).gain
    assert gain is not None
    assert np.isnan(gain).sum() == planted.frame["who"].nunique()
    assert np.sqrt(np.nanmean(gain**2)) == pytest.approx(1, abs=0.1)
    values = planted.values.copy()
    changed = np.flatnonzero(planted.frame["who"].duplicated())[0]
    values[changed] += 6
    other = model.scores(planted.dataset(values)).gain
    assert other is not None
    assert other[changed] > 3
    first = planted.dataset().take(np.flatnonzero(~planted.frame["who"].duplicated().to_numpy()))
    assert model.scores(first).gain is None


def test_order_of_visits_is_that_of_their_ages(planted: Planted, model: LinearModel) -> None:
    dataset = planted.dataset()
    order = np.random.default_rng(0).permutation(len(dataset))
    gain, turned = model.scores(dataset).gain, model.scores(dataset.take(order)).gain
    assert gain is not None
    np.testing.assert_allclose(turned, gain[order])


def test_what_a_model_keeps_comes_back(planted: Planted, model: LinearModel) -> None:
    who = with_visits(planted, 2)
    person, to = of(planted, who), later(of(planted, who), 1)
    content, arrays = model.state()
    back = LinearModel.restore(content, arrays)
    np.testing.assert_array_equal(back.forecast(person, to, [who]).sd, model.forecast(person, to, [who]).sd)
    older = {name: array for name, array in arrays.items() if not name.startswith("people.known")}
    assert len(older) < len(arrays)
    without = LinearModel.restore(content, older)
    assert not without.people.known
    assert (without.forecast(person, to, [who]).sd < model.forecast(person, to, [who]).sd).all()


def test_everybody_at_the_same_ages() -> None:
    """How people change is then how people of other ages differ; they have slopes all the same, and no site is needed."""
    planted = Planted(12, people=40, columns=4, slope=1.0, visits=(3, 3))
    visit = planted.frame.groupby("who").cumcount().to_numpy()
    planted.frame["age"] = 30.0 + 2 * visit
    values = planted.values - planted.location[planted.frame["site"].str[1:].astype(int)]
    schema = CovariateSchema.fit(planted.frame[["age"]], DECLARED[:1])
    people = Dataset(
        values, schema.transfer(planted.frame[["age"]]), schema, planted.dataset().columns, tuple(planted.frame["who"])
    )
    model, _ = LinearModel.fit(people, AUTO)
    assert (model.people.changing, model.people.time, model.followed) == ((), "age", "age")
    assert LinearModel.restore(*model.state()).followed == "age"
    moved = model.follow(people, 1.0) - values
    slopes = (values[visit == 2] - values[visit == 0]) / 4
    assert np.corrcoef(moved[visit == 0].ravel(), slopes.ravel())[0, 1] > 0.9
    before, last = people.take(visit < 2), people.take(visit == 2)
    told = model.forecast(before, last.covariates, last.whose.tolist())
    low, high = told.interval(0.95)
    assert ((low < last.values) & (last.values < high)).mean() > 0.85
    assert np.abs(told.estimate - last.values).mean() < np.abs(values[visit == 1] - last.values).mean()


def test_a_new_site_is_forecast_too(planted: Planted, model: LinearModel) -> None:
    wider = model.with_level("site", "S9", np.zeros(12), np.zeros(12))
    assert wider.people.known.covariance.shape[1] == model.people.known.covariance.shape[1] + 1
    who = with_visits(planted, 2)
    person = of(planted, who)
    one, two = (m.forecast(person, later(person, 1), [who]) for m in (model, wider))
    np.testing.assert_allclose(one.estimate, two.estimate)
    np.testing.assert_allclose(one.sd, two.sd)
    assert not EffectErrors().with_row(0)


def test_who_cannot_forecast_says_why(planted: Planted) -> None:
    dataset = planted.dataset()
    first = np.flatnonzero(~planted.frame["who"].duplicated().to_numpy())
    for fitted, said in (
        (
            LinearModel.fit(dataset.take(first), AUTO)[0],
            "nobody had several visits; train on a cohort in which people come",
        ),
        (LinearModel.fit(dataset, INDEPENDENT)[0], "nobody had several visits"),
    ):
        assert "forecast" not in fitted.capabilities
        assert fitted.followed == ""
        for ask in (
            lambda m: m.follow(dataset, 1.0),
            lambda m: m.forecast(dataset, dataset.covariates, dataset.whose.tolist()),
        ):
            with pytest.raises(ModelError, match=said):
                ask(fitted)
    same_day = replace(
        dataset, covariates=dataset.covariates.assign(age=planted.frame.groupby("who")["age"].transform("first"))
    )
    still, _ = LinearModel.fit(same_day, AUTO)
    assert "no number changes within them" in still.refusal("forecast")


@pytest.fixture(scope="module")
def gained(planted: Planted) -> tuple[Dataset, LinearModel]:
    """Return visits whose scanners multiply all of a person, and the model of them."""
    site = planted.frame["site"].str[1:].astype(int).to_numpy()
    scale = np.exp(np.linspace(-0.4, 0.4, 4))[site, None]
    dataset = planted.dataset(scale * (planted.person + planted.noise) + planted.location[site])
    return dataset, LinearModel.fit(dataset, LinearSettings(gain="yes", components=0))[0]


@pytest.mark.parametrize("site", ["", "S2"])
def test_a_gain_multiplies_people_and_their_future(
    planted: Planted, gained: tuple[Dataset, LinearModel], site: str
) -> None:
    """Against the conditional normal distribution in units of each batch."""
    dataset, model = gained
    who, people = with_visits(planted, 3), model.people
    person = dataset.take(np.flatnonzero(planted.frame["who"] == who))
    to = later(person, 1.5, **({"site": site} if site else {}))
    found = model.forecast(person, to, [who])
    both = pd.concat([person.covariates, to])
    age = both["age"].to_numpy(float)
    away = age - age.mean()
    effects, levels = model.design.effects(both), model.design.batches(both)
    for v in range(model.columns.count):
        scale, location = np.exp(levels @ model.batches.log_scale[:, v]), levels @ model.batches.location[:, v]
        own = effects[:, 1:] @ model.coefficients[1:, v] + away * people.change[0, v]
        told = (person.values[:, v] - model.coefficients[0, v] - location[:-1]) / scale[:-1] - own[:-1]
        time = away / people.unit
        whole = people.level[v] + people.slope[v] * np.outer(time, time) + np.eye(len(age))
        weights = np.linalg.solve(whole[:-1, :-1], whole[:-1, -1])
        expected = model.coefficients[0, v] + location[-1] + scale[-1] * (own[-1] + weights @ told)
        assert found.estimate[0, v] == pytest.approx(expected)
        left = (whole[-1, -1] - weights @ whole[:-1, -1]) * (scale[-1] * model.sd[v]) ** 2
        assert found.sd[0, v] ** 2 > left
        assert found.sd[0, v] ** 2 == pytest.approx(left, rel=0.5)


def test_people_move_in_units_of_their_scanner(planted: Planted, gained: tuple[Dataset, LinearModel]) -> None:
    dataset, model = gained
    np.testing.assert_array_equal(model.follow(dataset, 0.0), dataset.values)
    moved = model.follow(dataset, 2.0) - dataset.values
    scale = np.exp(model.design.batches(dataset.covariates) @ model.batches.log_scale)
    own = pd.DataFrame(moved / scale).groupby(planted.frame["who"].to_numpy())
    effects = model.design.effects(dataset.covariates.assign(age=dataset.covariates["age"] + 2))
    aged = (effects - model.design.effects(dataset.covariates)) @ model.coefficients
    beside = pd.DataFrame(moved / scale - aged).groupby(planted.frame["who"].to_numpy())
    assert own.ngroups == planted.frame["who"].nunique()
    np.testing.assert_allclose(beside.transform("mean"), moved / scale - aged, atol=1e-8)
    gain = model.scores(dataset).gain
    assert gain is not None
    assert np.sqrt(np.nanmean(gain**2)) == pytest.approx(1, abs=0.1)


def test_voxels_are_forecast_with_and_without_a_mask(planted: Planted) -> None:
    """Twelve voxels inside a mask, and the same among background."""
    grid = Grid((4, 4, 4), (8.0, 8.0, 8.0))
    places = np.arange(20, 32)
    whole = np.zeros((len(planted.values), grid.size), np.float32)
    whole[:, places] = planted.values
    base = planted.dataset()
    inside = replace(
        base,
        values=whole[:, places],
        columns=Columns.of_grid(grid, Mask.of(np.isin(np.arange(grid.size), places), 0.0)),
    )
    around = replace(base, values=whole, columns=Columns.of_grid(grid))
    asked = LinearSettings(components=0, borrow="columns")
    masked, unmasked = (LinearModel.fit(one, asked)[0] for one in (inside, around))
    last = base.covariates.groupby(planted.frame["who"].to_numpy()).tail(1)
    to, names = last.assign(age=last["age"] + 1), planted.frame["who"].loc[last.index].tolist()
    one, two = masked.forecast(inside, to, names), unmasked.forecast(around, to, names)
    np.testing.assert_allclose(one.estimate, two.estimate[:, places], rtol=1e-5)
    np.testing.assert_allclose(one.sd, two.sd[:, places], rtol=1e-5)
    assert np.isnan(np.delete(two.estimate, places, axis=1)).all()
    np.testing.assert_array_equal(unmasked.follow(around, 0.0), whole)
    np.testing.assert_array_equal(np.delete(unmasked.follow(around, 3.0), places, axis=1), 0)
