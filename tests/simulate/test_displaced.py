"""What holds of both families of displaced shapes; each test runs in space and in the plane."""

import numpy as np
import pytest

from benchmarks.starmen import draw_starmen
from medrep.errors import CovariateError
from medrep.simulate import simulate_participants
from medrep.simulate.displaced import displacement, draw_organs, draw_shape, identity_displacement, level
from medrep.simulate.geometry import bump_field, draw_bumps, gradient, outward_normal, surface_points
from medrep.simulate.participants import stream

COHORTS = {
    "organs": lambda n, seed: draw_organs(simulate_participants(n, n_sites=2), seed=seed),
    "starmen": lambda n, seed: draw_starmen(n, seed=seed),
}
REFERENCES = {"organs": {"age": 50.0, "sex": "F"}, "starmen": {"arms": 0.0, "legs": 0.0}}
OTHERS = {"organs": {"age": 75.0, "sex": "M"}, "starmen": {"arms": 0.7, "legs": -0.8}}


@pytest.fixture(params=list(COHORTS))
def kind(request):
    return request.param


@pytest.fixture
def cohort(kind):
    return COHORTS[kind](4, 1)


def surface(family, count=600):
    return surface_points(family.template, family.half_extent, count, np.random.default_rng(0))


def near(family, reach, count=3000):
    corner = np.array(family.half_extent) + reach
    points = np.random.default_rng(0).uniform(-corner, corner, (count, len(corner)))
    return points[np.abs(family.template(points)) < reach]


def test_the_template_is_about_a_distance_within_3_mm(cohort):
    points = near(cohort.family, 3.0, 30_000)
    slope = np.linalg.norm(gradient(cohort.family.template, points), axis=1)
    assert len(points) > 3000
    assert slope.min() > 0.7
    assert slope.max() < 1.4


def test_every_field_is_exactly_zero_at_the_reference(kind, cohort):
    points = near(cohort.family, 10.0)
    for name, value in REFERENCES[kind].items():
        assert (displacement(cohort.family, name, value, points) == 0).all()


def test_weights_lie_between_0_and_1_and_differ_in_place(cohort):
    points = surface(cohort.family)
    weights = np.stack([field.weight(points) for field in cohort.family.fields.values()])
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.max(axis=1).min() > 0.9
    assert np.corrcoef(weights)[0, 1] < 0.3


def test_fields_are_along_the_unit_normal_by_the_amplitude_times_the_weight(kind, cohort):
    points = near(cohort.family, 3.0)
    normal = outward_normal(cohort.family.template, points)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1.0)
    for name, value in OTHERS[kind].items():
        field = cohort.family.fields[name]
        at = field.amplitude[value] if name == "sex" else field.amplitude(value)
        amount = (displacement(cohort.family, name, value, points) * normal).sum(axis=1)
        np.testing.assert_allclose(amount, at * field.weight(points), atol=1e-12)


def test_the_level_is_the_template_at_the_sum_of_all_displacements(kind, cohort):
    points = near(cohort.family, 10.0)
    transformed = sum(displacement(cohort.family, name, value, points) for name, value in OTHERS[kind].items())
    for shape in cohort.people:
        expected = cohort.family.template(points + transformed + identity_displacement(shape, points))
        np.testing.assert_allclose(level(shape, OTHERS[kind], points), expected, atol=1e-9)


def test_at_the_reference_only_the_persons_own_displacement_is_left(kind, cohort):
    points = near(cohort.family, 10.0)
    shape = cohort.people[0]
    own = cohort.family.template(points + identity_displacement(shape, points))
    np.testing.assert_array_equal(level(shape, REFERENCES[kind], points), own)


def test_other_covariates_change_the_level_where_their_fields_are_and_nowhere_else(kind, cohort):
    points = near(cohort.family, 10.0)
    for name, value in OTHERS[kind].items():
        field = np.linalg.norm(displacement(cohort.family, name, value, points), axis=1)
        for shape in cohort.people:
            change = level(shape, {**REFERENCES[kind], name: value}, points) - level(shape, REFERENCES[kind], points)
            assert (np.abs(change) <= 3 * field + 1e-12).all()
            assert np.abs(change).max() > 0.5


def test_the_same_seed_gives_the_same_people_and_another_seed_others(kind):
    first, again, other = (COHORTS[kind](4, seed) for seed in (1, 1, 2))
    assert first.participants.equals(again.participants)
    for one, two, three in zip(first.people, again.people, other.people, strict=True):
        np.testing.assert_array_equal(one.weights, two.weights)
        np.testing.assert_array_equal(one.translation, two.translation)
        assert not np.allclose(one.weights, three.weights)
    np.testing.assert_array_equal(first.family.bumps.centres, again.family.bumps.centres)


def test_one_more_person_changes_nobody(kind):
    few, more = COHORTS[kind](4, 1), COHORTS[kind](5, 1)
    for one, two in zip(few.people, more.people, strict=False):
        np.testing.assert_array_equal(one.weights, two.weights)


def test_the_identity_moves_the_surface_by_about_a_third_of_a_mm(kind):
    cohort = COHORTS[kind](2, 0)
    points = surface(cohort.family, 300)
    people = [draw_shape(cohort.family, str(number), stream(0, str(number))) for number in range(1500)]
    own = np.stack([identity_displacement(person, points) for person in people])
    translation = np.stack([person.translation for person in people])
    assert translation.std() == pytest.approx(0.15, rel=0.05)
    assert own.std(axis=0).mean() == pytest.approx(0.3, rel=0.2)
    alone = own - translation[:, None]
    assert np.sqrt((alone**2).mean()) == pytest.approx(0.3, rel=0.1)
    np.testing.assert_allclose(alone.std(axis=0), 0.3, atol=0.09)


def test_bumps_are_spread_out_and_as_wide_as_said(cohort):
    bumps = cohort.family.bumps
    apart = np.linalg.norm(bumps.centres[:, None] - bumps.centres, axis=2) + 100 * np.eye(len(bumps.centres))
    assert apart.min() > 3.0
    assert bumps.widths.min() >= 9
    assert bumps.widths.max() <= 14


def test_a_bump_is_its_formula():
    bumps = draw_bumps(np.zeros((1, 2)), 1, 1.0, np.random.default_rng(0))
    field = bump_field(bumps, np.array([[2.0, -1.0]]), np.array([[0.0, 0.0], [0.0, bumps.widths[0]]]))
    np.testing.assert_allclose(field, [[2.0, -1.0], [2.0 * np.exp(-0.5), -np.exp(-0.5)]])
    assert bumps.weight_sd == pytest.approx(1.0)


def test_unusable_covariates_are_refused(kind, cohort):
    shape, points = cohort.people[0], np.zeros((1, len(cohort.family.half_extent)))
    first = next(iter(REFERENCES[kind]))
    with pytest.raises(CovariateError, match=f"{shape.participant_id}: no {first}"):
        level(shape, {name: 0.0 for name in REFERENCES[kind] if name != first}, points)
    with pytest.raises(CovariateError, match=f"{first}: nan is not a number"):
        displacement(cohort.family, first, float("nan"), points)
    with pytest.raises(CovariateError, match="covariate 'height' moves nothing here"):
        displacement(cohort.family, "height", 1.0, points)
