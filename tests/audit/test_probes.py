import numpy as np
import pytest

from medrep.audit.probe_figures import age_r2, sex_auc, site_auc

N = 240
RNG = np.random.default_rng(0)
SEX = np.where(RNG.random(N) < 0.5, "F", "M")
SITE = RNG.choice(["A", "B", "C"], N)
AGE = RNG.uniform(20, 80, N)
NOISE = RNG.normal(size=(N, 6))


def planted(column: np.ndarray) -> np.ndarray:
    return np.concatenate([NOISE[:, :3], column[:, None]], axis=1)


def test_noise_is_at_the_floor():
    for probed in (sex_auc(NOISE, SEX, seed=0, jobs=1), site_auc(NOISE, SITE, seed=0, jobs=1)):
        assert min(probed.figures.values()) > 0.35
        assert probed.strongest < 0.65
    assert age_r2(NOISE, AGE, seed=0, jobs=1).strongest < 0.05


def test_a_planted_shift_is_found_by_all():
    probed = sex_auc(planted(2.0 * (SEX == "M") + NOISE[:, 3]), SEX, seed=0, jobs=1)
    assert set(probed.figures) == {"linear", "rbf", "boosting"}
    assert min(probed.figures.values()) > 0.8
    assert probed.strongest == max(probed.figures.values())
    assert probed.n == N


def test_a_difference_of_spread_is_seen_by_nonlinear_probes_only():
    probed = sex_auc(planted(np.where(SEX == "M", 4.0, 0.5) * NOISE[:, 3]), SEX, seed=0, jobs=1)
    assert probed.figures["linear"] < 0.6
    assert probed.figures["rbf"] > 0.75
    assert probed.figures["boosting"] > 0.75


def test_sites_are_found():
    shift = np.select([SITE == "A", SITE == "B"], [-2.5, 0.0], 2.5)
    assert site_auc(planted(shift + NOISE[:, 3]), SITE, seed=0, jobs=1).strongest > 0.85


def test_a_bent_age_effect_is_seen_by_nonlinear_probes_only():
    # The column tells the distance from 35 years with a random sign, so that its line in age is flat.
    probed = age_r2(planted((AGE - 35) / 10 * np.sign(NOISE[:, 5]) * (AGE > 35)), AGE, seed=0, jobs=1)
    assert probed.figures["linear"] < 0.1
    assert min(probed.figures["rbf"], probed.figures["boosting"]) > 0.5


def test_a_straight_age_effect_is_found_by_all():
    probed = age_r2(planted(AGE / 10 + NOISE[:, 3]), AGE, seed=0, jobs=1)
    assert min(probed.figures.values()) > 0.4


def test_sites_with_few_people_are_left_out_by_name():
    site = SITE.astype(object)
    site[:6], site[6:10] = "Tiny", "Lone"
    probed = site_auc(NOISE, site.astype(str), seed=0, jobs=1)
    assert probed.left_out == ("Lone (4)", "Tiny (6)")
    assert probed.n == N - 10


def test_the_seed_decides():
    one, again = (sex_auc(NOISE, SEX, seed=3, jobs=1) for _ in range(2))
    assert one == again


def test_one_value_a_person_and_constant_columns():
    probed = sex_auc((SEX == "M") + 0.5 * NOISE[:, 0], SEX, seed=0, jobs=1)
    assert probed.strongest > 0.8
    assert sex_auc(np.ones((N, 2)), SEX, seed=0, jobs=1).strongest == pytest.approx(0.5, abs=0.05)


def test_too_few_people_for_the_folds():
    with pytest.raises(ValueError, match="min_people 3 is too few for 5 folds"):
        site_auc(NOISE, SITE, seed=0, min_people=3, jobs=1)


def test_one_group_has_no_auc():
    with pytest.raises(ValueError, match="needs two groups, here there is only: F"):
        sex_auc(NOISE, np.full(N, "F"), seed=0, jobs=1)
