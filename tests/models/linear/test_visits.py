"""People with several visits: levels and slopes of their own, and batches told from people who change them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.errors import CovariateError
from medrep.models import LinearModel, LinearSettings
from medrep.models.linear.design import Design
from medrep.models.linear.mixed import Visits
from medrep.models.linear.visit_design import Ratios

DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)
INDEPENDENT = LinearSettings(visits="independent", components=0)
AUTO = LinearSettings(components=0)


class Planted:
    """Visits with known effects: what a person is, what sites do, and noise."""

    def __init__(
        self,
        seed: int,
        people: int = 80,
        columns: int = 12,
        *,
        level: float = 5.0,
        slope: float = 0.15,
        spread: float = 0.3,
        visits: tuple[int, int] = (1, 3),
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = []
        for person in range(people):
            first, age, changes = int(rng.integers(4)), rng.uniform(20, 70), rng.random() < 0.5
            for visit in range(int(rng.integers(visits[0], visits[1] + 1))):
                site = (first + 1) % 4 if changes and visit else first
                rows.append((f"p{person:03d}", age + 2 * visit + rng.normal(0, 0.3), "MF"[person % 2], f"S{site}"))
        self.frame = pd.DataFrame(rows, columns=["who", "age", "sex", "site"])
        self.frame.index = pd.Index([f"v{k:03d}" for k in range(len(rows))], name="key")
        who, site = pd.factorize(self.frame["who"])[0], self.frame["site"].str[1:].astype(int).to_numpy()
        age = self.frame["age"].to_numpy()[:, None]
        away = age - self.frame.groupby("who")["age"].transform("mean").to_numpy()[:, None]
        self.location = rng.normal(0, 1, (4, columns))
        self.location -= self.location.mean(axis=0)
        self.scale = np.exp(rng.normal(0, spread, (4, columns)))
        self.noise = rng.normal(0, 1, (len(rows), columns))
        own = rng.normal(0, level**0.5, (people, columns))[who] + away * rng.normal(0, slope, (people, columns))[who]
        self.person = -0.05 * age - 0.05 * away + own
        self.values = self.person + self.location[site] + self.scale[site] * self.noise

    def dataset(self, values: np.ndarray | None = None) -> Dataset:
        schema = CovariateSchema.fit(self.frame[["age", "sex", "site"]], DECLARED)
        data = self.values if values is None else values
        columns = Columns(tuple(f"c{k}" for k in range(data.shape[1])), data.shape[1], None)
        frame = schema.transfer(self.frame[["age", "sex", "site"]])
        return Dataset(data, frame, schema, columns, tuple(self.frame["who"]))

    def within(self, values: np.ndarray) -> float:
        table = pd.DataFrame(values)
        apart = (table - table.groupby(self.frame["who"].to_numpy()).transform("mean")).to_numpy()
        return float((apart**2).sum() / (len(table) - self.frame["who"].nunique()) / values.shape[1])


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(3)


@pytest.fixture(scope="module")
def model(planted: Planted) -> LinearModel:
    return LinearModel.fit(planted.dataset(), AUTO)[0]


def test_a_person_each_is_fitted_as_ever(planted: Planted) -> None:
    first = ~planted.frame["who"].duplicated().to_numpy()
    people = planted.dataset().take(np.flatnonzero(first))
    one, _ = LinearModel.fit(people, AUTO)
    other, _ = LinearModel.fit(people, INDEPENDENT)
    assert not one.people
    assert not one.by_person
    np.testing.assert_array_equal(one.coefficients, other.coefficients)
    np.testing.assert_array_equal(one.batches.location, other.batches.location)
    content, arrays = one.state()
    assert "people" not in content
    assert "visits" not in content["settings"]
    assert not [name for name in arrays if name.startswith("people")]


def test_sites_are_told_better_from_people_who_change_them() -> None:
    errors = {AUTO: [], INDEPENDENT: []}
    for seed in range(4):
        planted = Planted(seed, people=120)
        for chosen, found in errors.items():
            fitted, _ = LinearModel.fit(planted.dataset(), chosen)
            location = fitted.batches.location - fitted.batches.location.mean(axis=0)
            found.append(float(np.abs(location - planted.location).mean()))
    assert np.mean(errors[AUTO]) < 0.75 * np.mean(errors[INDEPENDENT])


def test_estimates_are_those_of_generalised_least_squares(planted: Planted) -> None:
    """At fixed ratios, against V written out."""
    dataset = planted.dataset()
    design = Design.fit(dataset.schema, dataset.covariates, 4, ())
    visits = Visits.of(dataset, design)
    assert visits is not None
    ratios = Ratios(3.0, 0.4)
    cell = visits.cell(ratios)
    member, time = visits.plan.member.toarray(), visits.plan.time
    whole = np.eye(len(time)) + 3.0 * member.T @ member + 0.4 * (member.T @ member) * np.outer(time, time)
    inverse, x = np.linalg.inv(whole), visits.plan.design
    np.testing.assert_allclose(visits.plan.within(x, *ratios), inverse @ x, atol=1e-10)
    gram = np.linalg.inv(x.T @ inverse @ x)
    maker = inverse - inverse @ x @ gram @ x.T @ inverse
    np.testing.assert_allclose(cell.left, np.diag(maker), atol=1e-10)
    levels = visits.plan.solver.levels
    np.testing.assert_allclose(cell._parts[1], levels.T @ maker**2 @ levels, atol=1e-8)
    rest = dataset.values - visits.plan.solver.full @ (visits.plan.solver.solve @ dataset.values)
    half, variance = visits._solved(cell, visits._sums(rest))
    ordinary = visits.plan.solver.solve @ dataset.values
    wanted = gram @ x.T @ inverse @ dataset.values
    found = ordinary + visits.plan.solver.contrasts @ (cell.root.T @ half)
    np.testing.assert_allclose(visits.plan.solver.full @ found, x @ wanted, atol=1e-9)
    squares = np.einsum("ik,ij,jk->k", dataset.values, maker, dataset.values)
    np.testing.assert_allclose(variance, squares / cell.freedom, rtol=1e-9)
    sign, determinant = np.linalg.slogdet(whole)
    assert sign == 1
    assert cell.determinant == pytest.approx(determinant - np.linalg.slogdet(gram)[1])


def test_nothing_changes_where_nothing_is_asked_for(planted: Planted, model: LinearModel) -> None:
    dataset = planted.dataset()
    same = dataset.covariates[["site", "age"]]
    np.testing.assert_array_equal(model.transform(dataset, same), dataset.values)


def test_removal_twice_is_removal_once(planted: Planted, model: LinearModel) -> None:
    dataset = planted.dataset()
    once = model.remove(dataset, {"site": "S1"})
    again = model.remove(planted.dataset(once).with_covariates(dataset.covariates.assign(site="S1")), {"site": "S1"})
    np.testing.assert_array_equal(once, again)


def test_people_stay_where_they_were_in_scale(planted: Planted, model: LinearModel) -> None:
    """Noise of scanners is scaled, and no person's own level, which is much larger."""
    dataset = planted.dataset()
    moved = model.remove(dataset, {"site": "S0"})
    names = planted.frame["who"].to_numpy()
    means = [pd.DataFrame(values).groupby(names).mean().to_numpy() for values in (moved, planted.person)]
    slope = [np.polyfit(true, own, 1)[0] for own, true in zip(*(one.T for one in means), strict=True)]
    assert np.mean(slope) == pytest.approx(1, abs=0.05)
    wanted = planted.person + planted.scale[0] * planted.noise
    assert planted.within(moved) == pytest.approx(planted.within(wanted), rel=0.15)


def test_a_visit_alone_is_a_visit_of_a_stranger(planted: Planted, model: LinearModel) -> None:
    dataset = planted.dataset()
    alone = model.remove(dataset.take(np.array([4])), {"site": "S2"})
    strangers = Dataset(dataset.values, dataset.covariates, dataset.schema, dataset.columns)
    np.testing.assert_allclose(model.remove(strangers, {"site": "S2"})[[4]], alone, rtol=1e-12)


def test_order_of_rows_and_names_of_people_do_not_matter(planted: Planted) -> None:
    rng = np.random.default_rng(0)
    dataset = planted.dataset()
    order = rng.permutation(len(dataset))
    turned = dataset.take(order)
    one, _ = LinearModel.fit(dataset, AUTO)
    other, _ = LinearModel.fit(turned, AUTO)
    back = np.empty_like(dataset.values)
    back[order] = other.remove(turned, {"site": "S0"})
    np.testing.assert_allclose(back, one.remove(dataset, {"site": "S0"}), rtol=1e-6, atol=1e-8)


@settings(max_examples=5, deadline=None)
@given(unit=st.sampled_from([1e-6, 0.1, 1e5]), offset=st.sampled_from([0.0, 300.0]))
def test_units_of_the_data_do_not_matter(unit: float, offset: float) -> None:
    planted = Planted(7, people=40, columns=4)
    dataset = planted.dataset()
    other = planted.dataset(unit * (planted.values + offset))
    one = LinearModel.fit(dataset, AUTO)[0].remove(dataset, {"site": "S0"})
    two = LinearModel.fit(other, AUTO)[0].remove(other, {"site": "S0"})
    np.testing.assert_allclose(two / unit - offset, one, atol=1e-4)


def test_effects_between_and_within_people_are_told_apart() -> None:
    found = []
    for seed in range(4):
        planted = Planted(seed, people=150, columns=20)
        table = LinearModel.fit(planted.dataset(), AUTO)[0].within_effects()
        assert table is not None
        assert table["covariate"].unique().tolist() == ["age"]
        found.append(table)
    told = pd.concat(found)
    assert told["between"].mean() == pytest.approx(-0.05, abs=0.01)
    assert told["within"].mean() == pytest.approx(-0.10, abs=0.03)
    covered = ((told["within_low"] < -0.1) & (told["within_high"] > -0.1)).mean()
    assert covered > 0.85


def test_missing_values_are_filled_in_with_what_is_expected_of_the_person() -> None:
    planted = Planted(11, people=120, columns=6)
    holes = planted.values.copy()
    holes[np.random.default_rng(1).random(holes.shape) < 0.1] = np.nan
    dataset = planted.dataset(holes)
    model, _ = LinearModel.fit(dataset, AUTO)
    whole, _ = LinearModel.fit(planted.dataset(), AUTO)
    assert (model.people.level > 1).all()
    np.testing.assert_allclose(model.people.level, whole.people.level, rtol=0.5)
    np.testing.assert_allclose(model.sd, whole.sd, rtol=0.15)
    moved = model.remove(dataset, {"site": "S0"})
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(holes))
    there = np.isfinite(holes)
    assert np.abs(moved - whole.remove(planted.dataset(), {"site": "S0"}))[there].mean() < 0.15


def test_columns_that_are_constant_or_mostly_one_value_are_left(planted: Planted) -> None:
    values = planted.values.copy()
    values[:, 0] = 4.0
    values[: len(values) * 3 // 4, 1] = 0.0
    dataset = planted.dataset(values)
    model, _ = LinearModel.fit(dataset, AUTO)
    assert model.sd[0] == 0
    moved = model.remove(dataset, {"site": "S0"})
    np.testing.assert_array_equal(moved[:, 0], values[:, 0])
    np.testing.assert_array_equal(moved[values[:, 1] == 0, 1], 0)
    assert np.isfinite(moved).all()


def test_two_visits_give_levels_only() -> None:
    model, history = LinearModel.fit(Planted(2, visits=(1, 2)).dataset(), AUTO)
    assert model.people.time == ""
    assert (model.people.slope == 0).all()
    assert history.loc[history["metric"] == "person_share", "name"].tolist() == ["level"]


def test_everybody_who_changes_site_with_time_is_refused_by_name() -> None:
    planted = Planted(5, visits=(2, 2))
    visit = planted.frame.groupby("who").cumcount()
    planted.frame["site"] = [f"S{own}" for own in visit]
    with pytest.raises(CovariateError, match=r"site and age: 80 of 80 people .* changed site, and 9\d % of how age"):
        LinearModel.fit(planted.dataset(), AUTO)
    LinearModel.fit(planted.dataset(), INDEPENDENT)


def test_few_people_who_came_again_do_not_tell_change() -> None:
    planted = Planted(8, people=40, visits=(1, 1))
    again = planted.frame.iloc[:3].assign(age=planted.frame["age"].iloc[:3] + 2, site="S3")
    again.index = pd.Index(["w0", "w1", "w2"], name="key")
    planted.frame = pd.concat([planted.frame, again])
    rows = np.concatenate([planted.values, planted.values[:3] + 0.1])
    model, _ = LinearModel.fit(planted.dataset(rows), AUTO)
    assert model.people
    assert model.people.changing == ()
    assert np.isfinite(model.remove(planted.dataset(rows), {"site": "S0"})).all()


def test_pooled_visits_are_those_of_people_with_the_same_locations(planted: Planted, model: LinearModel) -> None:
    pooled = model.pooled()
    assert not pooled.people
    np.testing.assert_array_equal(pooled.batches.location, model.batches.location)
    dataset = planted.dataset()
    alone = Dataset(dataset.values, dataset.covariates, dataset.schema, dataset.columns)
    np.testing.assert_allclose(pooled.scores(alone).deviation, model.scores(alone).deviation, rtol=1e-9)
    assert pooled.pooled() is pooled


def test_visits_on_one_day_have_no_time() -> None:
    planted = Planted(5)
    planted.frame["age"] = planted.frame.groupby("who")["age"].transform("first")
    model, _ = LinearModel.fit(planted.dataset(), AUTO)
    assert model.people.changing == ()
    assert model.within_effects() is None
    assert np.isfinite(model.remove(planted.dataset(), {"site": "S0"})).all()


def test_a_model_comes_back_as_it_was_saved(planted: Planted, model: LinearModel) -> None:
    content, arrays = model.state()
    back = LinearModel.restore(content, arrays)
    np.testing.assert_array_equal(
        back.remove(planted.dataset(), {"site": "S3"}), model.remove(planted.dataset(), {"site": "S3"})
    )


def test_latents_of_a_visit_need_no_other_visit(planted: Planted) -> None:
    model, _ = LinearModel.fit(planted.dataset(), LinearSettings(components=3))
    dataset = planted.dataset()
    np.testing.assert_allclose(model.encode(dataset)[[5]], model.encode(dataset.take(np.array([5]))), atol=1e-12)
    deviation = model.scores(dataset).deviation
    assert np.sqrt(np.mean(deviation**2)) == pytest.approx(1, abs=0.15)


def test_a_new_site_is_estimated_from_its_visits(planted: Planted) -> None:
    known = planted.dataset().select(planted.frame.index[planted.frame["site"] != "S3"])
    schema = CovariateSchema.fit(planted.frame.loc[known.keys, ["age", "sex", "site"]], DECLARED)
    frame = schema.transfer(planted.frame.loc[known.keys, ["age", "sex", "site"]])
    model, _ = LinearModel.fit(Dataset(known.values, frame, schema, known.columns, known.participants), AUTO)
    strange = planted.frame[planted.frame["site"] == "S3"]
    rows = planted.frame.index.get_indexer(strange.index)
    people = Dataset(planted.values[rows], schema.transfer(strange, unseen="adapt"), schema, known.columns)
    adapted, notes = model.adapt([people])
    assert notes[0].people == len(rows)
    moved = adapted.remove(Dataset(people.values, people.covariates, adapted.schema, known.columns), {"site": "S0"})
    assert np.isfinite(moved).all()
    far = np.abs(
        adapted.batches.location[-1] - adapted.batches.location[0] - (planted.location[3] - planted.location[0])
    )
    assert far.mean() < 0.7
