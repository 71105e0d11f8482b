"""Groups of people in the linear model: levels that relatives share, beside those of people who come again or alone."""

import numpy as np
import pandas as pd
import pytest

from medrep.audit.data import AuditData
from medrep.audit.holdout_split import HoldoutSplit
from medrep.audit.predictors import split
from medrep.cohort.dataset import Dataset
from medrep.errors import EstimatorError
from medrep.estimators import CovariateRemover
from medrep.models import LinearModel, LinearSettings
from medrep.models.linear.design import Design
from medrep.models.linear.mixed import Visits
from medrep.models.linear.visit_design import Ratios
from medrep.models.vae.fit import _folds
from tests.models.linear.test_visits import Planted

PLAIN = LinearSettings(components=0, spline_degrees=1)


def families(
    seed: int, people: int = 90, *, level: float = 3.0, shared: float = 2.0, visits: tuple[int, int] = (1, 3)
) -> tuple[Planted, Dataset]:
    """Visits of people, two or three of whom share a family and its level."""
    planted = Planted(seed, people, level=level, slope=0.0, spread=0.0, visits=visits)
    family = np.repeat(np.arange(people), 3)[:people] if people % 2 else np.arange(people) * 2 // 5
    own = np.random.default_rng(seed + 1000).normal(0, shared**0.5, (family.max() + 1, planted.values.shape[1]))
    of_visit = family[pd.factorize(planted.frame["who"])[0]]
    planted.values = planted.values + own[of_visit]
    dataset = planted.dataset()
    return planted, Dataset(
        dataset.values,
        dataset.covariates,
        dataset.schema,
        dataset.columns,
        dataset.participants,
        groups=tuple(f"F{one}" for one in of_visit),
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return families(3)[1]


def test_estimates_are_those_of_generalised_least_squares(dataset: Dataset) -> None:
    """At fixed ratios, against V written out."""
    design = Design.fit(dataset.schema, dataset.covariates, 4, ())
    visits = Visits.of(dataset, design)
    assert visits is not None
    assert visits.plan.groups is not None
    ratios = Ratios(3.0, 0.4, 1.7)
    cell, time = visits.cell(ratios), visits.plan.time
    person, group = (one[:, None] == one for one in (dataset.whose, dataset.units))
    whole = np.eye(len(time)) + 3.0 * person + 0.4 * person * np.outer(time, time) + 1.7 * group
    inverse, x = np.linalg.inv(whole), visits.plan.design
    np.testing.assert_allclose(visits.plan.within(x, *ratios), inverse @ x, atol=1e-10)
    gram = np.linalg.inv(x.T @ inverse @ x)
    maker = inverse - inverse @ x @ gram @ x.T @ inverse
    np.testing.assert_allclose(cell.left, np.diag(maker), atol=1e-10)
    levels = visits.plan.solver.levels
    np.testing.assert_allclose(cell._parts[1], levels.T @ maker**2 @ levels, atol=1e-8)
    rest = dataset.values - visits.plan.solver.full @ (visits.plan.solver.solve @ dataset.values)
    half, variance = visits._solved(cell, visits._sums(rest))
    found = visits.plan.solver.solve @ dataset.values + visits.plan.solver.contrasts @ (cell.root.T @ half)
    np.testing.assert_allclose(visits.plan.solver.full @ found, x @ (gram @ x.T @ inverse @ dataset.values), atol=1e-9)
    squares = np.einsum("ik,ij,jk->k", dataset.values, maker, dataset.values)
    np.testing.assert_allclose(variance, squares / cell.freedom, rtol=1e-9)
    determinant = np.linalg.slogdet(whole)[1] + np.linalg.slogdet(x.T @ inverse @ x)[1]
    np.testing.assert_allclose(cell.determinant, determinant, rtol=1e-10)


def test_people_and_families_are_told_apart() -> None:
    found = []
    for seed in range(4):
        _, dataset = families(seed, 150)
        visits = Visits.of(dataset, Design.fit(dataset.schema, dataset.covariates, 1, ()))
        assert visits is not None
        fit = visits.fit(dataset.values)
        found.append(((fit.level - fit.group).mean(), fit.group.mean()))
    level, group = np.mean(found, axis=0)
    assert level == pytest.approx(3.0, rel=0.2)
    assert group == pytest.approx(2.0, rel=0.3)


def test_of_people_who_come_once_the_level_is_the_familys() -> None:
    _, dataset = families(5, 150, level=0.0, shared=1.5, visits=(1, 1))
    model, history = LinearModel.fit(dataset, PLAIN)
    assert not model.people
    assert not model.by_person
    share = history[(history["metric"] == "person_share") & (history["name"] == "group")]["value"]
    assert float(share.iloc[0]) == pytest.approx(0.6, abs=0.12)
    content, arrays = model.state()
    assert "people" not in content
    assert not [name for name in arrays if name.startswith("people")]
    np.testing.assert_allclose(model.sd.mean(), 2.5**0.5, rtol=0.1)


def test_a_model_of_families_is_saved_and_read(dataset: Dataset) -> None:
    model, history = LinearModel.fit(dataset, PLAIN)
    assert set(history[history["metric"] == "person_share"]["name"]) >= {"level", "group"}
    again = LinearModel.restore(*model.state())
    np.testing.assert_array_equal(again.people.group, model.people.group)
    target = {"site": "S0"}
    np.testing.assert_array_equal(again.remove(dataset, target), model.remove(dataset, target))
    alone = Dataset(dataset.values, dataset.covariates, dataset.schema, dataset.columns, dataset.participants)
    np.testing.assert_array_equal(model.remove(alone, target), model.remove(dataset, target))


def test_few_groups_change_nothing(dataset: Dataset) -> None:
    """Variance of nine levels is not told; nor is that of people who are all alone."""
    alone = Dataset(dataset.values, dataset.covariates, dataset.schema, dataset.columns, dataset.participants)
    wanted = LinearModel.fit(alone, PLAIN)[0]
    for groups in (dataset.whose, [f"G{int(who[1:]) // 11}" for who in dataset.whose]):
        tied = Dataset(
            dataset.values,
            dataset.covariates,
            dataset.schema,
            dataset.columns,
            dataset.participants,
            groups=tuple(groups),
        )
        np.testing.assert_array_equal(LinearModel.fit(tied, PLAIN)[0].coefficients, wanted.coefficients)


def test_sites_are_told_better_where_families_are_known() -> None:
    errors: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(6):
        planted, dataset = families(seed, 120, level=0.0, shared=4.0, visits=(1, 1))
        for known, found in errors.items():
            whom = dataset if known else planted.dataset()
            fitted, _ = LinearModel.fit(whom, PLAIN)
            location = fitted.batches.location - fitted.batches.location.mean(axis=0)
            found.append(float(np.abs(location - planted.location).mean()))
    assert np.mean(errors[True]) < 0.9 * np.mean(errors[False])


def test_an_audit_never_parts_relatives(dataset: Dataset) -> None:
    model, _ = LinearModel.fit(dataset, PLAIN)
    data = AuditData(model, dataset, dataset.covariates, {"site": "S0"})
    assert data.question("site").participants.tolist() == dataset.units.tolist()
    train, test = split(dataset, 0)
    assert not set(dataset.units[train]) & set(dataset.units[test])
    probed = HoldoutSplit.of(dataset.covariates["sex"], dataset.units, 0, continuous=False)
    assert not set(dataset.units[probed.train]) & set(dataset.units[probed.test])
    fold = _folds(dataset.units.tolist(), 3, 0)
    assert all(not set(dataset.units[one]) & set(dataset.units[~one]) for one in fold)


def test_the_estimator_knows_whom_people_belong_with(dataset: Dataset) -> None:
    covariates = dataset.covariates.assign(site=dataset.covariates["site"].astype(str))
    features = pd.DataFrame(dataset.values, covariates.index, dataset.columns.names)
    declared = {"age": "continuous", "sex": "categorical", "site": "batch"}
    remover = CovariateRemover(covariates=declared, settings={"components": 0, "spline_degrees": 1})
    groups = [unit if k % 9 else None for k, unit in enumerate(dataset.units)]
    remover.fit(features, covariates=covariates, participants=dataset.whose, groups=dataset.units)
    wanted = LinearModel.fit(dataset, PLAIN)[0]
    np.testing.assert_allclose(remover.model_.people.group, wanted.people.group)
    strangers = CovariateRemover(covariates=declared, settings={"components": 0, "spline_degrees": 1})
    strangers.fit(features, covariates=covariates, participants=dataset.whose)
    assert not len(strangers.model_.people.group)
    assert len(remover.fit(features, covariates=covariates, groups=groups).transform(features, covariates)) == len(
        features
    )
    with pytest.raises(EstimatorError, match="groups names 2 rows"):
        remover.fit(features, covariates=covariates, groups=["F1", "F2"])


def test_scans_of_a_session_are_told_from_people() -> None:
    """Two scans a visit: noise is of a day and of a scan, and people stay together."""
    planted = Planted(8, people=100, level=4.0, slope=0.0, spread=0.0)
    rng, visits = np.random.default_rng(1), planted.dataset()
    rows = np.repeat(np.arange(len(visits)), 2)
    values = visits.values[rows] + rng.normal(0, 0.7, (len(rows), visits.values.shape[1]))
    frame = visits.covariates.iloc[rows].set_axis(pd.Index([f"s{k:04d}" for k in range(len(rows))], name="key"))
    scans = Dataset(
        values,
        frame,
        visits.schema,
        visits.columns,
        tuple(visits.whose[rows]),
        groups=tuple(visits.keys[rows].astype(str)),
    )
    assert scans.units.tolist() == scans.whose.tolist()
    model, history = LinearModel.fit(scans, PLAIN)
    np.testing.assert_allclose((model.sd**2).mean(), 1 + 0.49, rtol=0.1)
    np.testing.assert_allclose(model.people.level.mean(), 4 / 1.49, rtol=0.25)
    assert set(history[history["metric"] == "person_share"]["name"]) == {"level", "session"}
    assert "forecast" in model.capabilities
    later = frame.iloc[[0]].assign(age=frame["age"].iloc[0] + 2)
    told = model.forecast(scans, later, [str(scans.whose[0])])
    assert np.isfinite(told.freedom).all()
    back = LinearModel.restore(*model.state())
    np.testing.assert_array_equal(back.remove(scans, {"site": "S0"}), model.remove(scans, {"site": "S0"}))
