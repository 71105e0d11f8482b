"""The layer of the latents: moving, guarding, ordering and leaving out directions; covariates of three kinds."""

import json
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.models import LinearModel
from medrep.models.vae.latents import LatentLayer
from tests.models.planted import Case, draw_data, draw_people

pytestmark = pytest.mark.rounding

NAMES = ("age", "sex", "site")
LATENTS = 5
seeds = st.integers(0, 9)
subsets = st.sets(st.sampled_from(NAMES)).map(sorted)


@dataclass(frozen=True)
class Cohort:
    frame: pd.DataFrame
    linear: LinearModel
    z: np.ndarray
    layer: LatentLayer


@cache
def cohort(seed: int, people: int = 200, effect: float = 1.0, latents: int = LATENTS) -> Cohort:
    """Plant latents that tell age, sex and site, and a decoder whose directions differ in worth."""
    rng = np.random.default_rng([seed, 7])
    frame = draw_people(people, 2, seed)
    linear = Case(frame, draw_data(frame, 6, seed)).fit()
    covariates = np.stack(
        [(frame["age"] - 50) / 17, (frame["sex"] == "M").astype(float), (frame["site"] == "S1").astype(float)], axis=1
    )
    z = covariates @ rng.normal(0, effect, (3, latents)) + rng.normal(size=(people, latents))
    weight = rng.normal(size=(20, latents)) * np.linspace(0.3, 3, latents)
    return Cohort(frame, linear, z, LatentLayer.fit(z, z, frame, linear, weight.T @ weight))


@pytest.fixture(scope="module")
def made() -> Cohort:
    return cohort(0)


@given(seed=seeds)
def test_all_directions_and_no_guard_are_the_identity(seed):
    own = cohort(seed)
    np.testing.assert_allclose(own.layer.clean(own.z, None, LATENTS), own.z, atol=1e-6)
    guard = own.layer.guard((), NAMES)
    np.testing.assert_allclose(own.layer.clean(own.z, guard, LATENTS), own.z, atol=1e-6)


@given(seed=seeds, removed=st.sampled_from([("sex",), ("site",), ("sex", "site")]))
def test_the_guard_erases_what_tells_the_removed_covariates(seed, removed):
    own = cohort(seed, effect=1.5)
    guard = own.layer.guard(removed, ())
    assert guard.rank == len(removed)
    for latents in (
        own.layer.clean(own.z, guard, LATENTS),
        own.layer.clean(own.z, guard, 2),
        own.layer.scores(own.z, guard, LATENTS),
    ):
        for name in removed:
            label = (own.frame[name] == own.frame[name].iloc[0]).to_numpy(float)
            told = (label - label.mean()) @ (latents - latents.mean(axis=0)) / len(label)
            assert np.abs(told).max() < 1e-7 * np.abs(latents).max()
    for certificate in own.layer.certificates(removed, ()):
        assert certificate.largest_correlation < 1e-5
        assert certificate.n == 200


def test_the_guard_leaves_what_the_kept_covariates_tell(made):
    guard = made.layer.guard(("site",), ("age", "sex"))
    cleaned, careless = guard.apply(made.z), made.layer.guard(("site",), ()).apply(made.z)
    assert guard.rank == 1
    for values in (made.frame["age"].to_numpy(float), (made.frame["sex"] == "M").to_numpy(float)):
        before, after, alone = (np.cov(values, z, rowvar=False)[0, 1:] for z in (made.z, cleaned, careless))
        # The kept directions that stand out from noise stay exactly; the rest of the smooth basis may move a little.
        assert np.abs(after - before).max() < 0.01 * np.abs(before).max()
        assert np.abs(alone - before).max() > 0.05 * np.abs(before).max()


def test_with_too_few_people_nothing_is_erased():
    own = cohort(0, people=30, latents=25)
    guard = own.layer.guard(NAMES, ())
    assert guard.rank == 0
    np.testing.assert_allclose(guard.apply(own.z), own.z)


@given(seed=seeds, count=st.integers(1, LATENTS), guarded=st.booleans())
def test_scores_are_uncorrelated_and_the_worthiest_come_first(seed, count, guarded):
    own = cohort(seed)
    guard = own.layer.guard(("site",), ()) if guarded else None
    scores = own.layer.scores(own.z, guard, count)
    assert scores.shape == (200, min(count, LATENTS - (guarded and guard.rank)))
    covariance = np.atleast_2d(np.cov(scores, rowvar=False))
    variances = np.diag(covariance)
    assert (np.diff(variances) <= 1e-9).all()
    np.testing.assert_allclose(covariance - np.diag(variances), 0, atol=1e-8 * variances[0])
    more = own.layer.scores(own.z, guard, LATENTS)
    np.testing.assert_allclose(more[:, : scores.shape[1]], scores)


@given(seed=seeds, count=st.integers(1, LATENTS))
def test_no_other_directions_are_worth_more_in_the_data(seed, count):
    own = cohort(seed)
    gram, layer = own.layer.gram, own.layer

    def lost(z: np.ndarray) -> float:
        left = own.z - z
        return float(np.einsum("ij,jk,ik->", left, gram, left))

    ours = lost(layer.clean(own.z, None, count))
    others = np.random.default_rng(seed).normal(size=(LATENTS, count))
    basis = others @ np.linalg.solve(others.T @ gram @ others, others.T @ gram)
    assert ours <= lost(layer.centre + (own.z - layer.centre) @ basis.T) * (1 + 1e-6) + 1e-6


@given(seed=seeds, count=st.integers(1, LATENTS), guarded=st.booleans())
def test_cleaning_without_a_guard_twice_is_cleaning_once(seed, count, guarded):
    own = cohort(seed)
    guard = own.layer.guard(("site",), ()) if guarded else None
    once = own.layer.clean(own.z, guard, LATENTS if guarded else count)
    twice = own.layer.clean(once, guard, LATENTS if guarded else count)
    np.testing.assert_allclose(twice, once, atol=1e-6)


def test_a_latent_that_is_worth_nothing_is_left_out(made):
    gram = made.layer.gram.copy()
    gram[0], gram[:, 0] = 0, 0
    layer = replace(made.layer, gram=gram)
    scores = layer.scores(made.z, None, LATENTS)
    assert scores.shape == (200, LATENTS - 1)
    transformed = made.z + np.eye(LATENTS)[0] * 9
    np.testing.assert_allclose(layer.scores(transformed, None, LATENTS), scores, atol=1e-8)
    assert np.isfinite(layer.clean(made.z, None, LATENTS)).all()


@given(seed=seeds, known=subsets, person=st.integers(0, 39))
def test_moving_to_where_somebody_is_changes_nothing(seed, known, person):
    own = cohort(seed)
    np.testing.assert_allclose(own.layer.transform(own.z, own.frame, own.frame, known), own.z, atol=1e-9)
    there = own.frame.assign(**{name: [own.frame[name].iloc[person]] * 200 for name in known})
    transformed = own.layer.transform(own.z, own.frame, there, known)
    np.testing.assert_allclose(transformed[person], own.z[person], atol=1e-9)
    back = own.layer.transform(transformed, there, own.frame, known)
    np.testing.assert_allclose(back, own.z, atol=1e-9)
    others = own.frame.iloc[::-1].set_axis(own.frame.index)
    swapped = [frame.assign(**{n: others[n] for n in NAMES if n not in known}) for frame in (own.frame, there)]
    np.testing.assert_array_equal(own.layer.transform(own.z, *swapped, known), transformed)


def test_moving_takes_planted_differences_out():
    own = cohort(0, people=600, effect=1.0)
    there = own.frame.assign(site=["S0"] * 600, age=[50.0] * 600)
    transformed = own.layer.transform(own.z, own.frame, there, ("site", "age"))
    away = (own.frame["site"] == "S1").to_numpy(float)
    design = np.stack([np.ones(600), own.frame["age"], own.frame["sex"] == "M", away], axis=1).astype(float)
    before, after = (np.linalg.lstsq(design, z)[0] for z in (own.z, transformed))
    assert np.linalg.norm(after[3]) < 0.1 * np.linalg.norm(before[3])
    assert np.linalg.norm(after[1]) < 0.1 * np.linalg.norm(before[1])
    np.testing.assert_allclose(after[2], before[2], atol=0.1)


@pytest.mark.parametrize("kept", [("age",), ("sex",), ("age", "sex")])
@given(seed=seeds, people=st.sampled_from([40, 90]))
def test_what_kept_covariates_tell_of_a_batch_is_an_auc(kept, seed, people):
    assert 0.5 <= cohort(seed, people).layer.told_by(kept, "site") <= 1


def test_covariates_tell_of_a_batch_what_they_share_with_it():
    frame = draw_people(20_000, 2, 0)
    rng = np.random.default_rng(0)
    site = frame["site"] == "S1"
    free = frame.assign(age=rng.uniform(20, 80, 20_000))
    linear = Case(frame.iloc[:200], draw_data(frame.iloc[:200], 3, 0)).fit()
    z = rng.normal(size=(20_000, 2))

    def told(people: pd.DataFrame, kept: tuple[str, ...]) -> float:
        return LatentLayer.fit(z, z, people, linear, np.eye(2)).told_by(kept, "site")

    assert told(free, ()) == 0.5
    assert told(free, ("age", "sex")) == pytest.approx(0.5, abs=0.01)
    # Two normal groups whose means are one deviation apart: Phi(1 / sqrt(2)).
    apart = frame.assign(age=50 + 10 * rng.normal(size=20_000) + 10 * site)
    assert told(apart, ("age",)) == pytest.approx(0.76, abs=0.01)
    assert told(apart, ("age", "sex")) == pytest.approx(0.76, abs=0.01)
    # One in ten differs: the shares are 0.6 and 0.4, and the AUC of two levels is 0.5 + (0.6 - 0.4) / 2.
    mixed = free.assign(sex=np.where(rng.uniform(size=20_000) < np.where(site, 0.6, 0.4), "M", "F"))
    assert told(mixed, ("sex",)) == pytest.approx(0.6, abs=0.03)


def test_fewer_directions_are_handed_out_where_a_batch_is_removed(made):
    layer, schema = made.layer, made.linear.schema

    def count(removed, kept, target, guard=None):
        return layer.directions(removed, kept, guard, schema, target)

    assert count(("age", "sex"), ("site",), 0.51) == LATENTS
    assert count(("site",), ("age", "sex"), 1.0) == LATENTS
    targets = (0.501, 0.53, 0.55, 0.6, 1.0)
    counts = [count(NAMES, (), target) for target in targets]
    assert counts == sorted(counts)
    assert counts[0] == 1
    # What kept covariates tell of the batch anyway is allowed on top.
    assert all(count(("site",), ("age", "sex"), t) >= own for t, own in zip(targets, counts, strict=True))
    assert count(NAMES, (), 1.0, layer.guard(NAMES, ())) < LATENTS


def test_levels_that_were_adapted_to_are_left_out_of_the_trained_schema(made):
    people = draw_people(12, 2, 3).assign(site=["S7"] * 12)
    adapted, _ = made.linear.adapt([made.linear.dataset(draw_data(people, 6, 3), people)])
    assert adapted.schema.levels("site") == ("S0", "S1", "S7")
    assert made.layer.trained_schema(adapted.schema) == made.linear.schema


@given(seed=seeds, removed=subsets)
def test_storage_is_faithful(seed, removed):
    own = cohort(seed)
    content, arrays = to_state(own.layer)
    again = from_state(LatentLayer, json.loads(json.dumps(content)), arrays)
    kept = [name for name in NAMES if name not in removed]
    there = own.frame.assign(age=[40.0] * 200, sex=["F"] * 200, site=["S0"] * 200)
    results = [
        (
            layer.transform(own.z, own.frame, there, NAMES),
            layer.clean(own.z, layer.guard(removed, kept), 3),
            layer.scores(own.z, layer.guard(removed, kept), 3),
            layer.certificates(removed, kept),
        )
        for layer in (own.layer, again)
    ]
    for ours, theirs in zip(results[0][:3], results[1][:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert results[0][3] == results[1][3]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float64)}
