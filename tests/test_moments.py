import json

import numpy as np
import pytest

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.errors import CovariateError, ModelError
from medrep.moments import Canonical, GuardMoments, intraclass

pytestmark = pytest.mark.rounding


def people(seed=0, n=60):
    rng = np.random.default_rng(seed)
    site, sex = rng.integers(3, size=n), rng.integers(2, size=n).astype(float)
    age = rng.uniform(20, 80, n)
    blocks = {"site": np.eye(3)[site], "age": np.stack([age, age**2], axis=1), "sex": sex[:, None]}
    return rng.normal(size=(n, 4)) + np.outer(sex, np.ones(4)), blocks


def test_moments_are_those_of_latents_and_columns():
    z, blocks = people()
    moments = GuardMoments.of(z, blocks)
    joint = np.concatenate([z, *blocks.values()], axis=1)
    np.testing.assert_allclose(moments.mean, joint.mean(axis=0))
    np.testing.assert_allclose(moments.covariance, np.cov(joint.T))
    assert (moments.n, moments.latents, moments.widths) == (60, 4, (3, 2, 1))
    np.testing.assert_array_equal(moments.columns(["sex", "age"]), [9, 7, 8])
    assert np.isnan(moments.shares[3:5]).all()
    np.testing.assert_allclose(moments.shares[[0, 1, 2, 5]], joint[:, [4, 5, 6, 9]].mean(axis=0))


def saved_and_read(moments: GuardMoments) -> GuardMoments:
    content, arrays = to_state(moments)
    return from_state(GuardMoments, json.loads(json.dumps(content)), arrays)


def test_moments_survive_being_saved():
    moments = GuardMoments.of(*people())
    again = saved_and_read(moments)
    (content, arrays), (same, others) = to_state(moments), to_state(again)
    assert same == content
    for name, array in arrays.items():
        np.testing.assert_array_equal(others[name], array)


def test_single_precision_and_whole_numbers_are_taken_in_double():
    z, blocks = people()
    moments = GuardMoments.of(z.astype(np.float32), {"site": blocks["site"].astype(int), "sex": blocks["sex"] == 1})
    assert moments.covariance.dtype == np.float64
    np.testing.assert_allclose(moments.covariance[:4, 4:7], np.cov(z.T, blocks["site"].T)[:4, 4:], rtol=1e-5)


def test_what_cannot_be_used_is_listed():
    z, blocks = people()
    with pytest.raises(
        ModelError, match=r"(?s)age: shape \(59, 2\).*sex: shape \(60,\).*one row for each of the 60 people"
    ):
        GuardMoments.of(z, blocks | {"age": blocks["age"][1:], "sex": blocks["sex"][:, 0]})
    with pytest.raises(ModelError, match="1 people"):
        GuardMoments.of(z[:1], {"sex": blocks["sex"][:1]})
    z[3, 1], blocks["age"][4, 0] = np.nan, np.inf
    with pytest.raises(ModelError, match=r"(?s)not finite \(2\).*latents.*age.*impute"):
        GuardMoments.of(z, blocks)
    with pytest.raises(CovariateError, match="unknown covariates: scanner; allowed are site, age, sex"):
        GuardMoments.of(*people()).columns(["sex", "scanner"])


def test_canonical_correlations_agree_with_multiple_correlation():
    z, blocks = people()
    pairs = Canonical.of(GuardMoments.of(z, blocks), ["sex"], ["site", "age"])
    given = np.c_[np.ones(60), blocks["site"][:, 1:], blocks["age"]]

    def rest(x):
        return x - given @ np.linalg.lstsq(given, x, rcond=None)[0]

    latents, sex = rest(z), rest(blocks["sex"])
    fitted = latents @ np.linalg.lstsq(latents, sex, rcond=None)[0]
    assert pairs.correlations[0] ** 2 == pytest.approx((fitted**2).sum() / (sex**2).sum())
    assert (pairs.people, pairs.dimensions, pairs.degrees) == (56, 4, 1)


def test_the_test_for_one_column_is_the_f_test():
    from scipy.stats import f

    for seed in range(40):
        rng = np.random.default_rng(seed)
        z, age, sex = rng.normal(size=(30, 5)), rng.normal(size=(30, 1)), rng.integers(2, size=(30, 1)).astype(float)
        z += 0.3 * age
        pairs = Canonical.of(GuardMoments.of(z, {"age": age, "sex": sex}), ["age"], ["sex"])
        squared, rest = pairs.correlations[0] ** 2, 30 - 1 - 1 - 5
        significant = f.sf(squared / (1 - squared) * rest / 5, 5, rest) < 0.05
        assert pairs.count("significant") == int(significant)


@pytest.mark.parametrize(("icc", "scans"), [(0.2, 4), (0.7, 2), (0.9, 5)])
def test_the_intraclass_correlation_is_that_planted(icc, scans):
    rng = np.random.default_rng(scans)
    who = np.repeat(np.arange(300), scans)
    values = icc**0.5 * rng.normal(size=(300, 6))[who] + (1 - icc) ** 0.5 * rng.normal(size=(len(who), 6))
    assert intraclass(values * [1, 10, 1, 1, 0.1, 1] + 5, [f"p{k}" for k in who]) == pytest.approx(icc, abs=0.05)
    assert intraclass(values, [f"p{k}" for k in range(len(who))]) == 0


def repeated(seed=0, scans=4, people_count=400):
    """Draw people with several rows: one column is the person's own, one changes within people, one is balanced there."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people_count), scans)
    own, change = rng.normal(size=people_count)[who], rng.normal(size=len(who))
    turn = np.tile(np.arange(scans) % 2, people_count).astype(float)
    return who, {"own": own[:, None], "change": change[:, None], "turn": turn[:, None]}


@pytest.mark.parametrize(("name", "expected"), [("own", 1 + 0.6 * 3), ("change", 1.0), ("turn", 0.4)])
def test_the_design_effect_is_that_of_the_variance_of_an_estimate(name, expected):
    who, blocks = repeated()
    rng = np.random.default_rng(3)
    whose = [f"p{k}" for k in who]
    moments = GuardMoments.of(rng.normal(size=(len(who), 2)), blocks, participants=whose, icc=0.6)
    assert moments.persons == 400
    assert moments.design_effect([name]) == pytest.approx(expected, rel=0.1)
    column = blocks[name][:, 0] - blocks[name].mean()
    estimates = []
    for _ in range(400):
        noise = 0.6**0.5 * rng.normal(size=400)[who] + 0.4**0.5 * rng.normal(size=len(who))
        estimates.append(column @ noise / (column @ column))
    assert np.var(estimates) * (column @ column) == pytest.approx(expected, rel=0.25)


def test_repeats_survive_being_saved_and_rows_that_are_people_are_saved_as_before():
    who, blocks = repeated()
    z = np.random.default_rng(0).normal(size=(len(who), 2))
    moments = GuardMoments.of(z, blocks, participants=[str(k) for k in who], icc=0.3)
    again = saved_and_read(moments)
    assert again.design_effect(["own"], ["turn"]) == moments.design_effect(["own"], ["turn"])
    assert again.persons == 400
    plain = GuardMoments.of(z, blocks, participants=[str(k) for k in range(len(who))], icc=0.3)
    content, arrays = to_state(plain)
    assert set(arrays) == {"mean", "covariance", "shares"}
    assert set(content) == {"n", "names", "widths"}
    assert (plain.design_effect(["own"]), plain.persons) == (1.0, len(who))
