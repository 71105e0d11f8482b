"""Interactions in the conditional VAE: any subset of interacting covariates moves as in the linear model."""

from itertools import chain, combinations

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import POOLED, CovariateSchema
from medrep.models import (
    ConditionalVae,
    LinearModel,
    LinearSettings,
    Model,
    VaeSettings,
    restore_model,
)
from medrep.training.schedule import Schedule
from tests.models.planted import AGE, DIAGNOSIS, SEX, SITE, draw_people, moved_by, people_of

DECLARED = (AGE, SEX, DIAGNOSIS, SITE)
EFFECTS = ("age", "sex", "diagnosis")
SUBSETS = list(chain.from_iterable(combinations(EFFECTS, size) for size in (1, 2, 3)))
LINEAR = LinearSettings(spline_degrees=2, interactions=(("age", "sex"), ("age", "diagnosis")))
BODIES = {
    "linear": VaeSettings(body="linear", latents=5, linear=LINEAR),
    "mlp": VaeSettings(
        body="mlp",
        latents=5,
        hidden=(12,),
        strength=1.0,
        validation=0.25,
        linear=LINEAR,
        training=Schedule(epochs=5, batch=64, learning_rate=1e-3, warmup=0, threads=1),
    ),
}
COLUMNS = 12


class Planted:
    """People in whom age does something else to men than to women, and to each diagnosis."""

    def __init__(self, n: int = 240, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 8])
        self.frame = draw_people(n, 3, seed).assign(diagnosis=[f"D{k // 6 % 3}" for k in range(n)])
        self._age, self._sex, self._both = rng.normal(0, 0.5, (3, COLUMNS))
        self._ill, self._worse = rng.normal(0, 0.5, (2, 3, COLUMNS))
        noise = rng.normal(size=(n, 3)) @ rng.normal(0, 0.6, (3, COLUMNS)) + 0.5 * rng.normal(size=(n, COLUMNS))
        site = rng.normal(0, 1, (3, COLUMNS))[[int(level[1:]) for level in self.frame["site"]]]
        self.rest = 10 + site + noise
        self.data = self.rest + self.effect(self.frame)

    def effect(self, frame: pd.DataFrame) -> np.ndarray:
        age = (frame["age"].to_numpy(float)[:, None] - 53) / 17
        male, ill = (frame["sex"] == "M").to_numpy()[:, None], [int(level[1:]) for level in frame["diagnosis"]]
        return age * (self._age + 2 * male * self._both + self._worse[ill]) + male * self._sex + self._ill[ill]

    def fit(self, kind: type[Model], settings: VaeSettings | LinearSettings) -> Model:
        schema = CovariateSchema.fit(self.frame, DECLARED)
        return kind.fit(people_of(self.data, schema.transfer(self.frame), schema), settings)[0]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def linear(planted: Planted) -> LinearModel:
    model = planted.fit(LinearModel, LINEAR)
    assert isinstance(model, LinearModel)
    return model


@pytest.fixture(scope="module", params=list(BODIES))
def vae(planted: Planted, request: pytest.FixtureRequest) -> ConditionalVae:
    model = planted.fit(ConditionalVae, BODIES[request.param])
    assert isinstance(model, ConditionalVae)
    return model


@pytest.mark.parametrize("removed", SUBSETS, ids="+".join)
def test_any_subset_of_interacting_covariates_moves_as_well_as_in_the_linear_model(planted, linear, vae, removed):
    target = linear.schema.references(removed)
    truth = planted.rest + planted.effect(linear.schema.transformed(planted.frame, target))
    error, theirs = (
        np.sqrt(((model.remove(model.dataset(planted.data, planted.frame), target) - truth) ** 2).mean())
        for model in (vae, linear)
    )
    assert error <= 1.1 * theirs
    assert error < 0.7 * np.sqrt(((planted.data - truth) ** 2).mean())


@pytest.mark.parametrize("target", [{"sex": "M"}, {"age": 70.0}, {"sex": "F", "diagnosis": "D2"}], ids=str)
def test_a_counterfactual_is_exact_at_the_ends_and_done_once(planted, vae, target):
    there = vae.schema.transformed(planted.frame, target)
    once = vae.remove(vae.dataset(planted.data, planted.frame), target)
    home = (planted.frame[list(target)] == there[list(target)]).all(axis=1).to_numpy()
    np.testing.assert_array_equal(once[home], planted.data[home])
    np.testing.assert_array_equal(vae.remove(vae.dataset(once, there), target), once)


def test_there_and_back_is_where_one_was(planted, vae):
    men = (planted.frame["sex"] == "M").to_numpy()
    frame, data = planted.frame[men], planted.data[men]
    there = vae.remove(vae.dataset(data, frame), {"sex": "F"})
    back = vae.remove(vae.dataset(there, vae.schema.transformed(frame, {"sex": "F"})), {"sex": "M"})
    np.testing.assert_allclose(back, data, atol=0.05)


def test_only_labels_that_interact_with_what_moves_are_looked_at(planted, vae):
    other = planted.frame.assign(diagnosis=planted.frame["diagnosis"].to_numpy()[::-1])
    np.testing.assert_array_equal(
        vae.remove(vae.dataset(planted.data, other), {"sex": "F"}),
        vae.remove(vae.dataset(planted.data, planted.frame), {"sex": "F"}),
    )
    pooled = {"site": POOLED}
    elsewhere = other.assign(age=50.0, sex="F")
    np.testing.assert_array_equal(
        vae.remove(vae.dataset(planted.data, elsewhere), pooled),
        vae.remove(vae.dataset(planted.data, planted.frame), pooled),
    )


def test_latents_tell_no_interaction(planted, vae):
    z = vae.encode(vae.dataset(planted.data, planted.frame))
    age = planted.frame["age"].to_numpy(float)
    men = np.where((planted.frame["sex"] == "M").to_numpy(), 1.0, -1.0)
    product = (age - age.mean()) * men
    correlations = [abs(np.corrcoef(column, product)[0, 1]) for column in z.T]
    assert max(correlations) < 0.2


def test_saved_models_move_alike_and_those_without_parts_of_interactions_load(planted):
    three = VaeSettings(body="linear", latents=5, linear=LinearSettings(spline_degrees=1, interactions=(EFFECTS,)))
    model = planted.fit(ConditionalVae, three)
    content, arrays = model.state()
    again = restore_model(model.kind, content, arrays)
    target = {"site": POOLED}
    transformed = model.remove(model.dataset(planted.data, planted.frame), target)
    np.testing.assert_array_equal(again.remove(again.dataset(planted.data, planted.frame), target), transformed)
    known = sum(len(term.centre) for term in model.parts.linear.design.terms)
    assert known < len(arrays["effects.covariance"])
    older = {**arrays, "effects.covariance": arrays["effects.covariance"][:known, :known]}
    found = moved_by(restore_model(model.kind, content, older), planted.data, planted.frame, {"age": 50.0})
    np.testing.assert_array_equal(found, model.remove(model.dataset(planted.data, planted.frame), {"age": 50.0}))
