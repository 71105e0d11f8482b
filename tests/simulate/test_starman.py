import numpy as np
import pytest

from benchmarks.starmen import ARM_DEGREES, LEG_DEGREES, draw_starmen, starman_family, starman_template
from medrep.errors import CohortError
from medrep.simulate.displaced import displacement, level
from medrep.simulate.geometry import outward_normal


def rays(degrees, lengths=None):
    angles = np.radians(np.atleast_1d(degrees))
    lengths = np.arange(8.0, 30.0, 0.01) if lengths is None else np.atleast_1d(lengths)
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None] * lengths[:, None]).reshape(-1, 2)


def length(function, degrees):
    """Return how far the surface is along one ray, mm."""
    return 8.0 + 0.01 * np.flatnonzero(function(rays(degrees)) > 0)[0]


def test_the_template_has_five_limbs_and_is_about_40_mm_across():
    for limb in (18, 90, 162, 234, 306):
        assert length(starman_template, limb) == pytest.approx(19.0, abs=1.0)
        assert length(starman_template, limb + 36) == pytest.approx(13.0, abs=1.0)


def test_limbs_grow_by_their_amplitudes_at_the_tips():
    family = starman_family(seed=0)
    for name, limbs, amplitude in (
        ("arms", ARM_DEGREES, lambda value: -2 * value),
        ("legs", LEG_DEGREES, lambda value: -1.6 * value - 0.6 * value**2),
    ):
        tips = rays(limbs, 16.0 * 1.18)
        normal = outward_normal(starman_template, tips)
        for value in (-1.0, 0.3, 1.0):
            along = (displacement(family, name, value, tips) * normal).sum(axis=1)
            np.testing.assert_allclose(along, amplitude(value))


def test_a_covariate_lengthens_its_own_limbs_alone():
    person = draw_starmen(1, seed=0).people[0]
    at = {
        values: [length(lambda p, c=values: level(person, dict(c), p), limb) for limb in (*ARM_DEGREES, *LEG_DEGREES)]
        for values in (
            (("arms", 0.0), ("legs", 0.0)),
            (("arms", 1.0), ("legs", 0.0)),
            (("arms", 0.0), ("legs", 1.0)),
        )
    }
    still, arms, legs = (np.array(lengths) for lengths in at.values())
    assert (arms - still)[:2].min() > 1.2
    assert (legs - still)[2:].min() > 1.2
    assert np.abs((arms - still)[2:]).max() < 0.1
    assert np.abs((legs - still)[:2]).max() < 0.1


def test_the_table_holds_both_covariates_within_1():
    cohort = draw_starmen(50, seed=0)
    assert list(cohort.participants.columns) == ["participant_id", "arms", "legs"]
    assert [shape.participant_id for shape in cohort.people] == list(cohort.participants["participant_id"])
    covariates = cohort.participants[["arms", "legs"]]
    assert covariates.abs().max(axis=None) <= 1
    assert covariates.std().min() > 0.4
    assert abs(covariates.corr().iloc[0, 1]) < 0.4


def test_nobody_is_refused():
    with pytest.raises(CohortError, match="n is 0"):
        draw_starmen(0, seed=0)
