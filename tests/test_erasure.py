from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import rankdata

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.erasure import Guard, GuardMoments, certify, fit_guard
from medrep.errors import CovariateError, ModelError

pytestmark = pytest.mark.rounding

NAMES = ("site", "sex", "age")
CHOICES = [
    (("site",), ()),
    (("site", "age"), ()),
    (("site",), ("sex", "age")),
    (("age", "sex"), ("site",)),
    (("sex", "site", "age"), ()),
]


@dataclass(frozen=True)
class World:
    """Latents with planted effects of site (levels), sex (two levels) and age (curved); sex and age depend on the site."""

    site: np.ndarray
    sex: np.ndarray
    age: np.ndarray
    mix: np.ndarray

    @classmethod
    def plant(cls, rng, latents, *, levels=3, effect=1.0):
        def effects(rows):
            return rng.normal(size=(rows, latents)) * effect / latents**0.5

        mix = np.eye(latents) + 0.5 * rng.normal(size=(latents, latents)) / latents**0.5
        return cls(effects(levels), effects(1), effects(2), mix)

    def draw(self, rng, people, depend=0.5):
        site = rng.integers(len(self.site), size=people)
        sex = (rng.random(people) < np.where(site == 0, 0.5 + depend / 2, 0.5)).astype(float)
        age = rng.uniform(-1.7, 1.7, people) + depend * site
        blocks = {"site": np.eye(len(self.site))[site], "sex": sex[:, None], "age": np.stack([age, age**2], axis=1)}
        effect = blocks["site"] @ self.site + blocks["sex"] @ self.sex + blocks["age"] @ self.age
        return (effect + rng.normal(size=(people, len(self.mix)))) @ self.mix + 3, blocks


def sample(seed, people=150, latents=8, **planted):
    rng = np.random.default_rng(seed)
    z, blocks = World.plant(rng, latents, **planted).draw(rng, people)
    return z, blocks, GuardMoments.of(z, blocks)


def centred(x):
    return x - x.mean(axis=0)


def beyond(x, blocks, kept):
    """What a linear regression on the kept covariates leaves of x."""
    given_ = np.concatenate([np.ones((len(x), 1)), *(blocks[name] for name in kept)], axis=1)
    return x - given_ @ np.linalg.lstsq(given_, x, rcond=None)[0]


def auc(score, member):
    ranks, ones = rankdata(score), member.sum()
    return (ranks[member].sum() - ones * (ones + 1) / 2) / (ones * (len(member) - ones))


def probe(train, target, test):
    """Least squares, which for levels is linear discriminant analysis."""
    one = np.ones((len(train), 1))
    return np.c_[one[: len(test)], test] @ np.linalg.lstsq(np.c_[one, train], target, rcond=1e-8)[0]


@pytest.mark.parametrize(("removed", "kept"), CHOICES)
@given(seed=st.integers(0, 10_000), people=st.integers(40, 300), latents=st.integers(7, 12))
def test_a_full_guard_erases_exactly_and_leaves_the_kept_alone(removed, kept, seed, people, latents):
    z, blocks, moments = sample(seed, people, latents)
    guard = fit_guard(moments, removed, kept, rank="full", min_share=1e-6)
    clean = guard.apply(z)
    np.testing.assert_allclose(guard.apply(clean), clean, atol=1e-8)
    np.testing.assert_allclose(clean.mean(axis=0), z.mean(axis=0), atol=1e-9)
    for name in removed:
        target = beyond(blocks[name], blocks, kept)
        np.testing.assert_allclose(centred(clean).T @ target / people, 0, atol=1e-9)
        assert certify(moments, guard, name).largest_correlation < 1e-6
    for name in kept:
        covariance = centred(z).T @ blocks[name] / people
        np.testing.assert_allclose(centred(clean).T @ blocks[name] / people, covariance, atol=1e-9)


@pytest.mark.parametrize(("removed", "kept"), CHOICES)
@pytest.mark.parametrize("rank", ["significant", "full", 1])
@given(seed=st.integers(0, 10_000))
def test_invertible_maps_of_the_latents_commute_with_the_guard(removed, kept, rank, seed):
    z, blocks, moments = sample(seed)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0] * np.logspace(-3, 3, 8)
    transformed = z @ turn + rng.normal(size=8)
    guard = fit_guard(moments, removed, kept, rank=rank)
    other = fit_guard(GuardMoments.of(transformed, blocks), removed, kept, rank=rank)
    assert (guard.rank, guard.entangled) == (other.rank, other.entangled)
    expected = guard.apply(z) @ turn + (transformed - z @ turn)
    np.testing.assert_allclose(
        centred(other.apply(transformed)) / transformed.std(axis=0),
        centred(expected) / transformed.std(axis=0),
        atol=1e-6,
    )


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-6, 1e-3, 1e3, 1e6]), offset=st.floats(-100, 100))
def test_units_and_coding_of_covariates_do_not_matter(seed, scale, offset):
    z, blocks, moments = sample(seed)
    age = (blocks["age"] @ np.array([[1.0, 2.0], [0.5, -1.0]]) + offset) * scale
    coded = {"age": age, "sex": offset + scale * blocks["sex"], "site": scale * blocks["site"][:, 1:]}
    recoded = GuardMoments.of(z, coded)
    for removed, kept in CHOICES:
        one, two = fit_guard(moments, removed, kept), fit_guard(recoded, removed, kept)
        np.testing.assert_allclose(one.apply(z), two.apply(z), atol=1e-6)
        for name in removed:
            first, second = certify(moments, one, name), certify(recoded, two, name)
            assert first.largest_correlation == pytest.approx(second.largest_correlation, abs=1e-6)
            if name == "sex":
                assert first.predicted_auc == pytest.approx(second.predicted_auc, abs=1e-6)
            if name == "age":
                assert first.predicted_r2 == pytest.approx(second.predicted_r2, abs=1e-6)


def test_with_nothing_kept_it_is_leace():
    z, blocks, moments = sample(0)
    phi = np.concatenate([blocks["sex"], blocks["age"]], axis=1)
    values, vectors = np.linalg.eigh(np.cov(z.T))
    whiten, back = vectors / values**0.5 @ vectors.T, vectors * values**0.5 @ vectors.T
    u = np.linalg.svd(whiten @ centred(z).T @ phi, full_matrices=False)[0]
    expected = centred(z) @ (np.eye(8) - back @ u @ u.T @ whiten).T + z.mean(axis=0)
    np.testing.assert_allclose(fit_guard(moments, ["sex", "age"], [], rank="full").apply(z), expected, atol=1e-9)


@given(seed=st.integers(0, 10_000))
def test_no_other_map_that_does_the_same_changes_the_latents_less(seed):
    z, blocks, moments = sample(seed)
    guard = fit_guard(moments, ["site"], ["sex", "age"], rank="full", min_share=1e-6)
    fixed = centred(z).T @ np.concatenate([blocks[name] for name in NAMES], axis=1)
    rng = np.random.default_rng(seed)
    free = np.linalg.svd(fixed)[0][:, 5:]  # site has two, sex one and age two dimensions
    other = 0.1 * rng.normal(size=(8, free.shape[1])) @ free.T
    change, changed = z - guard.apply(z), z - guard.apply(z) + centred(z) @ other.T
    np.testing.assert_allclose(
        centred(z - changed).T @ blocks["site"], centred(guard.apply(z)).T @ blocks["site"], atol=1e-6
    )
    metric = np.diag(rng.uniform(0.1, 10, 8))
    assert np.sum((change @ metric) ** 2) < np.sum((changed @ metric) ** 2)


@given(seed=st.integers(0, 10_000))
def test_removing_nothing_is_the_identity(seed):
    z, _, moments = sample(seed)
    for rank in ("significant", "full", 3):
        guard = fit_guard(moments, [], NAMES, rank=rank)
        assert guard.rank == 0
        np.testing.assert_array_equal(guard.apply(z), z)


@given(seed=st.integers(0, 10_000))
def test_order_of_people_and_names_does_not_matter(seed):
    z, blocks, moments = sample(seed)
    order = np.random.default_rng(seed).permutation(len(z))
    shuffled = GuardMoments.of(z[order], {name: blocks[name][order] for name in reversed(NAMES)})
    one, two = fit_guard(moments, ["sex", "site"], ["age"]), fit_guard(shuffled, ["site", "sex"], ["age"])
    np.testing.assert_allclose(one.apply(z), two.apply(z), atol=1e-9)
    for name in one.removed:
        a, b = certify(moments, one, name), certify(shuffled, two, name)
        assert a.predicted_auc == pytest.approx(b.predicted_auc, abs=1e-9)


def test_a_number_limits_the_rank():
    _, _, moments = sample(0)
    assert [fit_guard(moments, NAMES, [], rank=k).rank for k in (0, 1, 4, 50)] == [0, 1, 4, 5]
    with pytest.raises(ModelError, match="rank -1"):
        fit_guard(moments, NAMES, [], rank=-1)


def test_constant_and_repeated_latents_are_carried_along():
    z, blocks, _ = sample(1)
    wide = np.c_[z, np.full(len(z), 7.0), 2 * z[:, :1] - 1, np.zeros(len(z))]
    clean = fit_guard(GuardMoments.of(wide, blocks), ["site", "age"], ["sex"], rank="full").apply(wide)
    narrow = fit_guard(GuardMoments.of(z, blocks), ["site", "age"], ["sex"], rank="full").apply(z)
    np.testing.assert_allclose(clean[:, :8], narrow, atol=1e-8)
    np.testing.assert_allclose(clean[:, 8:], np.c_[wide[:, 8], 2 * narrow[:, 0] - 1, wide[:, 10]], atol=1e-8)


def test_what_lies_within_the_kept_directions_is_left_in_and_reported():
    rng = np.random.default_rng(0)
    blocks = {"sex": rng.integers(2, size=(4000, 1)).astype(float), "age": rng.normal(size=(4000, 1))}
    noise = beyond(rng.normal(size=(4000, 5)), blocks, ["sex", "age"])
    z = noise + (blocks["sex"] + blocks["age"]) * np.eye(5)[0]  # both move the same latent, and only that
    moments = GuardMoments.of(z, blocks)
    guard = fit_guard(moments, ["sex"], ["age"], rank="full")
    assert (guard.rank, guard.entangled) == (0, 1)
    certificate = certify(moments, guard, "sex")
    assert certificate.largest_correlation == pytest.approx(0.2**0.5, abs=0.01)  # variances 1/4 of sex, 1 of noise
    assert certificate.predicted_auc == pytest.approx(ndtr(2**-0.5), abs=0.01)  # among people of one age
    assert fit_guard(moments, ["sex"], [], rank="full").rank == 1


def test_few_latents_leave_no_room_beside_many_kept_levels_unless_only_their_signal_is_kept():
    rng = np.random.default_rng(0)
    site, sex = rng.integers(20, size=600), rng.integers(2, size=600).astype(float)
    z = rng.normal(size=(600, 8)) + np.outer(sex, np.eye(8)[0])
    moments = GuardMoments.of(z, {"site": np.eye(20)[site], "sex": sex[:, None]})
    assert fit_guard(moments, ["sex"], ["site"]).entangled == 1
    roomy = fit_guard(moments, ["sex"], ["site"], kept_rank="significant")
    assert (roomy.rank, roomy.entangled) == (1, 0)


def test_a_level_that_nobody_has_changes_nothing():
    z, blocks, moments = sample(0)
    wider = GuardMoments.of(z, blocks | {"site": np.c_[blocks["site"], np.zeros(len(z))]})
    one, two = fit_guard(moments, ["site", "sex"], ["age"]), fit_guard(wider, ["site", "sex"], ["age"])
    np.testing.assert_allclose(one.apply(z), two.apply(z), atol=1e-9)
    first, second = certify(moments, one, "site"), certify(wider, two, "site")
    assert first.predicted_auc == pytest.approx(second.predicted_auc)


def test_what_kept_covariates_determine_cannot_be_removed():
    z, blocks, _ = sample(0)
    blocks = {"site": blocks["site"], "country": blocks["site"][:, :1]}
    guard = fit_guard(GuardMoments.of(z, blocks), ["country"], ["site"], rank="full")
    assert (guard.rank, guard.entangled) == (0, 0)
    assert certify(GuardMoments.of(z, blocks), guard, "country").predicted_auc is None


def test_noise_alone_has_no_rank():
    rng = np.random.default_rng(0)
    ranks = []
    for _ in range(150):
        blocks = {"site": np.eye(6)[rng.integers(6, size=200)], "sex": rng.integers(2, size=(200, 1)).astype(float)}
        age = rng.uniform(20, 80, 200)
        moments = GuardMoments.of(rng.normal(size=(200, 24)), blocks | {"age": np.stack([age, age**2, age**3], axis=1)})
        ranks.append([fit_guard(moments, r, k).rank for r, k in ((["site", "age"], ["sex"]), (["sex"], ["site"]))])
    assert np.mean(ranks) < 0.1


def test_planted_directions_are_found():
    ranks = [fit_guard(sample(s, 600, 16, levels=4, effect=2.0)[2], ["site", "age"], ["sex"]).rank for s in range(30)]
    assert np.mean(np.array(ranks) == 5) > 0.9  # three of the levels, two of the ages


def readable(guard, name, train, test):
    """How well new people's first column of a covariate is read by a linear probe: AUC, or for age R2."""
    score = probe(guard.apply(train[0]), train[1][name][:, 0], guard.apply(test[0]))
    truth = test[1][name][:, 0]
    return np.corrcoef(score, truth)[0, 1] ** 2 if name == "age" else auc(score, truth == 1)


def test_one_set_of_moments_serves_every_choice_on_new_people():
    rng = np.random.default_rng(0)
    world = World.plant(rng, 32, effect=2.0)
    moments = GuardMoments.of(*world.draw(rng, 4000, depend=0))
    train, test = world.draw(rng, 6000, depend=0), world.draw(rng, 6000, depend=0)
    nothing = fit_guard(moments, [], [])
    for removed, kept in ((("site",), ("sex", "age")), (("sex", "age"), ("site",)), (("age",), ("site", "sex"))):
        guard = fit_guard(moments, removed, kept)
        for name in removed:
            assert readable(nothing, name, train, test) > (0.5 if name == "age" else 0.75)
            assert readable(guard, name, train, test) < (0.03 if name == "age" else 0.57)
        for name in kept:
            before, after = readable(nothing, name, train, test), readable(guard, name, train, test)
            assert after == pytest.approx(before, abs=0.05)
            effect = centred(test[0]).T @ test[1][name] / 6000
            np.testing.assert_allclose(centred(guard.apply(test[0])).T @ test[1][name] / 6000, effect, atol=0.05)


def test_naming_what_is_kept_saves_it_where_covariates_go_together():
    rng = np.random.default_rng(0)
    world = World.plant(rng, 32, effect=2.0)
    moments = GuardMoments.of(*world.draw(rng, 4000, depend=1))
    train, test = world.draw(rng, 6000, depend=0), world.draw(rng, 6000, depend=0)
    careful, blunt = fit_guard(moments, ["site"], ["age", "sex"]), fit_guard(moments, ["site"], [])
    assert readable(careful, "age", train, test) > readable(blunt, "age", train, test) + 0.1
    assert readable(careful, "site", train, test) < 0.57


SETTINGS = [
    # people, latents, levels, effect, removed
    (200, 16, 2, 2.0, ("site",)),
    (200, 32, 2, 1.0, ("site", "age")),
    (500, 32, 5, 1.0, ("site", "sex", "age")),
    (1000, 32, 2, 0.5, ("site",)),
    (1000, 64, 8, 2.0, ("site", "age")),
]


@pytest.mark.parametrize("rank", ["significant", "full"])
@pytest.mark.parametrize(("people", "latents", "levels", "effect", "removed"), SETTINGS)
def test_the_certificate_forecasts_probes_on_new_people(people, latents, levels, effect, removed, rank):
    rng = np.random.default_rng(people + latents)
    forecasts, measured, curves, read = [], [], [], []
    for _ in range(25):
        world = World.plant(rng, latents, levels=levels, effect=effect)
        moments = GuardMoments.of(*world.draw(rng, people, depend=0))
        guard = fit_guard(moments, removed, [], rank=rank)
        forecasts.append(certify(moments, guard, "site").predicted_auc)
        (z, blocks), (new, truth) = world.draw(rng, 20_000, depend=0), world.draw(rng, 5000, depend=0)
        score = probe(guard.apply(z), blocks["site"], guard.apply(new))
        measured.append(np.mean([auc(score[:, k], truth["site"][:, k] == 1) for k in range(levels)]))
        if "age" in removed:
            curves.append(certify(moments, guard, "age").predicted_r2)
            score = probe(guard.apply(z), blocks["age"][:, 0], guard.apply(new))
            read.append(np.corrcoef(score, truth["age"][:, 0])[0, 1] ** 2)
    assert np.mean(forecasts) == pytest.approx(np.mean(measured), abs=0.015)
    if curves:
        assert np.mean(curves) == pytest.approx(np.mean(read), abs=0.02)


def test_the_certificate_with_kept_covariates_is_about_people_who_are_alike_in_them():
    rng = np.random.default_rng(0)
    forecasts, measured = [], []
    for _ in range(20):
        world = World.plant(rng, 16, effect=2.0)
        moments = GuardMoments.of(*world.draw(rng, 300))
        guard = fit_guard(moments, ["sex"], ["site", "age"])
        forecasts.append(certify(moments, guard, "sex").predicted_auc)
        (z, blocks), (new, truth) = world.draw(rng, 8000), world.draw(rng, 8000)
        z, new = beyond(guard.apply(z), blocks, ["site", "age"]), beyond(guard.apply(new), truth, ["site", "age"])
        score, sex = probe(z, beyond(blocks["sex"], blocks, ["site", "age"])[:, 0], new), truth["sex"][:, 0] == 1
        here = [truth["site"][:, k] == 1 for k in range(3)]
        measured.append(np.mean([auc(score[h], sex[h]) for h in here]))
    assert np.mean(forecasts) == pytest.approx(np.mean(measured), abs=0.02)


@given(seed=st.integers(0, 10_000), share=st.floats(0.2, 0.8))
def test_for_two_levels_the_certificate_is_the_formula(seed, share):
    rng = np.random.default_rng(seed)
    n, d = 300, 10
    sex = (np.arange(n) < share * n).astype(float)
    z = rng.normal(size=(n, d)) + np.outer(sex, np.eye(d)[0] * 2)
    moments = GuardMoments.of(z, {"sex": sex[:, None], "age": rng.normal(size=(n, 1))})
    one, zero = z[sex == 1], z[sex == 0]
    within = (centred(one).T @ centred(one) + centred(zero).T @ centred(zero)) / (n - 2)
    gap, noise = one.mean(axis=0) - zero.mean(axis=0), 1 / len(one) + 1 / len(zero)
    d2 = gap @ np.linalg.solve(within, gap) * (n - d - 3) / (n - 2) - d * noise
    v = (d - 1) * noise
    certificate = certify(moments, fit_guard(moments, ["sex"], [], rank="full"), "sex")
    assert certificate.predicted_auc == pytest.approx(ndtr(np.sqrt(d2 * v / (2 * (d2 + v)))), abs=1e-3)
    assert (certificate.n, certificate.latents, certificate.rank) == (n, d, 1)
    assert certificate.predicted_r2 is None


def test_more_latents_than_people_are_certified_by_the_bound():
    rng = np.random.default_rng(0)
    z, sex, age = rng.normal(size=(30, 40)), rng.integers(2, size=(30, 1)).astype(float), rng.normal(size=(30, 1))
    moments = GuardMoments.of(z, {"sex": sex, "age": age})
    with pytest.raises(ModelError, match=r"too few people.*fewer latents"):
        fit_guard(moments, ["sex"], ["age"])
    certificate = certify(moments, fit_guard(moments, ["sex"], [], rank="full"), "sex")
    assert certificate.largest_correlation < 1e-6
    assert 0.7 < certificate.predicted_auc < 0.95


def test_a_guard_that_takes_nothing_certifies_what_the_latents_tell():
    _, _, moments = sample(0, 5000, 8, effect=2.0)
    certificate = certify(moments, fit_guard(moments, ["site", "age"], [], rank=0), "age")
    assert certificate.rank == 0
    assert certificate.predicted_r2 == pytest.approx(certificate.largest_correlation**2, abs=0.05)


def test_a_guard_survives_being_saved():
    z, _, moments = sample(0)
    guard = fit_guard(moments, ["site"], ["sex", "age"])
    again = from_state(Guard, *to_state(guard))
    np.testing.assert_array_equal(again.apply(z), guard.apply(z))


def test_wrong_names_and_shares_are_refused():
    _, _, moments = sample(0)
    with pytest.raises(
        CovariateError, match=r"(?s)unknown covariates \(2\).*gender.*scanner.*allowed are site, sex, age"
    ):
        fit_guard(moments, ["gender", "scanner"], ["age"])
    with pytest.raises(CovariateError, match="both removed and kept: age"):
        fit_guard(moments, ["site", "age"], ["age"])
    with pytest.raises(ModelError, match=r"min_share 0\.0"):
        fit_guard(moments, ["site"], ["age"], min_share=0.0)
    with pytest.raises(CovariateError, match="age: this guard does not remove it; it removes site, sex"):
        certify(moments, fit_guard(moments, ["site", "sex"], []), "age")


@pytest.mark.parametrize(("learners", "count"), [(60, 4), (240, 4), (0, 8)])
def test_what_is_handed_out_is_certified_for_a_probe_that_has_to_learn(learners, count):
    rng = np.random.default_rng(learners + count)
    people, latents = 150, 12
    pick = np.zeros((latents, count))
    pick[:count] = np.eye(count)
    forecasts, measured = [], []
    for _ in range(60):
        sex = (np.arange(people) % 2).astype(float)
        gap = rng.normal(0, 0.5, latents)

        def draw(n, transformed, gap=gap):
            own = (np.arange(n) % 2).astype(float)
            return rng.normal(size=(n, latents)) + np.outer(own - 0.5, gap - transformed), own

        z, _ = draw(people, 0.0)
        estimate = z[sex == 1].mean(axis=0) - z[sex == 0].mean(axis=0)
        moments = GuardMoments.of(z, {"sex": sex[:, None]})
        guard = fit_guard(moments, ["sex"], [], rank=0)
        found = certify(moments, guard, "sex", released=pick, subtracted=True, learners=learners)
        assert (found.latents, found.learners, found.n) == (count, learners, people)
        forecasts.append(found.predicted_auc)
        (seen, own), (new, truth) = draw(learners or 20_000, estimate), draw(2000, estimate)
        direction = (seen[own == 1].mean(axis=0) - seen[own == 0].mean(axis=0))[:count]
        measured.append(auc(new[:, :count] @ direction, truth == 1))
    assert np.mean(forecasts) == pytest.approx(np.mean(measured), abs=0.02)


@pytest.mark.parametrize("scans", [2, 5])
def test_scans_count_as_the_people_they_are_worth(scans):
    rng = np.random.default_rng(scans)
    who = np.repeat(np.arange(60), scans)
    sex = (np.arange(60) % 2).astype(float)[who][:, None]
    z = rng.normal(size=(60, 6))[who] + 1e-3 * rng.normal(size=(len(who), 6)) + sex
    names = [str(k) for k in who]
    several = GuardMoments.of(z, {"sex": sex}, participants=names, icc=1.0)
    single = GuardMoments.of(z[::scans], {"sex": sex[::scans]})
    found, one = (certify(own, fit_guard(own, ["sex"], [], rank=1), "sex", learners=60) for own in (several, single))
    assert found.n == one.n == 60
    assert found.predicted_auc == pytest.approx(one.predicted_auc, abs=0.01)
