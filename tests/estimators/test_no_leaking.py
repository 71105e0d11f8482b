"""Nothing of y or of test people reaches what is fitted, and what is removed cannot be read by what comes after."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import medrep as mr
from medrep.cohort.covariates import declared_covariates
from medrep.estimators import CovariateRemover
from medrep.models import MODELS, Model
from medrep.simulate import simulate_features, simulate_participants
from tests.estimators.people import DECLARED, SMALL_VAE, People, draw

FOLDS = KFold(2, shuffle=True, random_state=0)
MODEL_SETTINGS = [("linear", {}), ("conditional_vae", SMALL_VAE)]


@pytest.fixture(scope="module")
def people() -> People:
    return draw(120, n_features=8)


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def steps(model: str = "linear", settings: dict[str, object] | None = None, *, routed: bool = False) -> Pipeline:
    remover = CovariateRemover("site", covariates=DECLARED, model=model, settings=settings)
    if routed:
        remover.set_fit_request(covariates=True).set_transform_request(covariates=True)
    return make_pipeline(remover, StandardScaler(), LogisticRegression())


def by_hand(people: People, model: str, settings: dict[str, object], train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The loop that a careful person would write without the estimator: fit on one fold, transform the other."""
    declared = declared_covariates(DECLARED, [])
    X, known = people.features.to_numpy(), mr.read_covariates(people.covariates.astype(str), declared).frame
    schema = mr.CovariateSchema.fit(known.iloc[train], declared)
    kind = MODELS[model]
    columns = mr.Columns(tuple(people.features.columns), X.shape[1], None)
    training = mr.Dataset(X[train], schema.transfer(known.iloc[train]), schema, columns)
    fitted, _ = kind.fit(training, kind.settings_type(**settings), seed=0)
    target = schema.references(["site"])
    inside, outside = (
        fitted.remove(fitted.dataset(X[part], schema.transfer(known.iloc[part])), target) for part in (train, test)
    )
    after = make_pipeline(StandardScaler(), LogisticRegression()).fit(inside, people.sex.iloc[train])
    return after.decision_function(outside)


def same(first: Model, second: Model) -> bool:
    (content, arrays), (other_content, other_arrays) = first.state(), second.state()
    return content == other_content and all(
        np.array_equal(arrays[name], other_arrays[name], equal_nan=True) for name in arrays
    )


@pytest.mark.parametrize(
    ("model", "settings", "enabled"),
    [("linear", {}, False), ("linear", {}, True), ("conditional_vae", SMALL_VAE, True)],
)
def test_cross_val_predict_is_the_loop_by_hand(
    people: People, model: str, settings: dict[str, object], enabled: bool
) -> None:
    with sklearn.config_context(enable_metadata_routing=enabled):
        found = cross_val_predict(steps(model, settings), people.both, people.sex, cv=FOLDS, method="decision_function")
    wanted = np.empty(len(found))
    for train, test in FOLDS.split(people.features):
        wanted[test] = by_hand(people, model, settings, train, test)
    assert np.array_equal(found, wanted)


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize(("model", "settings"), MODEL_SETTINGS)
def test_routed_covariates_give_the_loop_by_hand(people: People, model: str, settings: dict[str, object]) -> None:
    X, covariates, sex = people.features, people.covariates, people.sex
    found = cross_validate(
        steps(model, settings, routed=True),
        X,
        sex,
        cv=FOLDS,
        params={"covariates": covariates},
        return_estimator=True,
        return_indices=True,
    )
    for k, pipeline in enumerate(found["estimator"]):
        train, test = found["indices"]["train"][k], found["indices"]["test"][k]
        wanted = by_hand(people, model, settings, train, test)
        own = pipeline.decision_function(X.iloc[test], covariates=covariates.iloc[test])
        assert np.array_equal(own, wanted)
        assert found["test_score"][k] == np.mean((wanted > 0) == (sex.iloc[test] == "M"))


@pytest.mark.usefixtures("routing")
def test_a_search_routes_covariates(people: People) -> None:
    search = GridSearchCV(
        steps(routed=True), {"covariateremover__settings": [{"spline_degrees": 1}, {"spline_degrees": 3}]}, cv=2
    )
    search.fit(people.features, people.sex, covariates=people.covariates)
    predicted = search.best_estimator_.predict(people.features, covariates=people.covariates)
    assert np.mean(predicted == people.sex) > 0.6


@pytest.mark.usefixtures("routing")
def test_who_predicts_without_covariates_is_told_where_to_put_them(people: People) -> None:
    with pytest.raises(mr.EstimatorError, match="cross_val_predict and scorers hand metadata to fit only"):
        cross_val_predict(
            steps(routed=True), people.features, people.sex, cv=2, params={"covariates": people.covariates}
        )


@pytest.mark.parametrize(("model", "settings"), MODEL_SETTINGS)
def test_neither_y_nor_test_people_change_what_is_fitted(
    people: People, model: str, settings: dict[str, object]
) -> None:
    train, test = next(FOLDS.split(people.features))

    def fitted(X: pd.DataFrame, y: pd.Series) -> Model:
        split = [(train, test)]
        done = cross_validate(steps(model, settings), X, y, cv=split, return_estimator=True)
        return done["estimator"][0].named_steps["covariateremover"].model_

    shuffled = people.sex.sample(frac=1, random_state=0).set_axis(people.sex.index)
    # Whoever is tested has other data, another site and another age.
    strange = people.both
    places = [strange.columns.get_loc(name) for name in people.features]
    strange.iloc[test, places] += 100.0
    strange.iloc[test, strange.columns.get_loc("age")] = 50.0
    strange.iloc[test, strange.columns.get_loc("site")] = "S0"
    as_it_is = fitted(people.both, people.sex)
    assert same(as_it_is, fitted(people.both, shuffled))
    assert same(as_it_is, fitted(strange, people.sex))
    strange.iloc[train[0], places[0]] += 100.0
    assert not same(as_it_is, fitted(strange, people.sex))


def test_y_is_not_touched(people: People) -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(f"y.{name} was looked at")

    blind = CovariateRemover(covariates=DECLARED).fit(people.both)
    assert same(blind.model_, CovariateRemover(covariates=DECLARED).fit(people.both, Untouchable()).model_)


def test_a_classifier_reads_site_at_chance_and_age_as_before() -> None:
    table = simulate_participants(240, n_sites=3, seed=3)
    # Without the entanglement, kept age tells nothing about site.
    table["site"] = np.random.default_rng(0).permutation(table["site"].to_numpy())
    features = simulate_features(table, n_features=12, seed=3).features
    people = People(features, table.set_index("participant_id")[list(DECLARED)])
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    reader, site = make_pipeline(StandardScaler(), LogisticRegression()), people.covariates["site"].to_numpy()
    assert cross_val_score(reader, features, site, cv=folds).mean() > 0.8
    cleaned = [
        (remover.transform(people.both.iloc[train]), remover.transform(people.both.iloc[test]), train, test)
        for train, test in folds.split(features, site)
        for remover in [CovariateRemover("site", covariates=DECLARED).fit(people.both.iloc[train])]
    ]

    def read(labels: np.ndarray) -> float:
        fits = (
            (clone(reader).fit(inside, labels[train]), outside, labels[test])
            for inside, outside, train, test in cleaned
        )
        return float(np.mean([fitted.score(outside, own) for fitted, outside, own in fits]))

    # Removal does not look at the labels that are read, so that it is the same for all permutations of them.
    assert read(site) == cross_val_score(steps(), people.both, site, cv=folds).mean()
    rng = np.random.default_rng(0)
    chance = np.array([read(rng.permutation(site)) for _ in range(40)])
    assert read(site) < chance.mean() + 3 * chance.std()
    ages = people.covariates["age"]
    before = cross_val_score(make_pipeline(StandardScaler(), RidgeCV()), features, ages, cv=KFold(3)).mean()
    after_removal = make_pipeline(CovariateRemover("site", covariates=DECLARED), StandardScaler(), RidgeCV())
    after = cross_val_score(after_removal, people.both, ages, cv=KFold(3)).mean()
    assert after > 0.5
    assert after > before - 0.02
