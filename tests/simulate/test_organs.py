from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.grid import Grid
from medrep.errors import CohortError, CovariateError
from medrep.simulate import simulate_participants
from medrep.simulate.displaced import (
    displacement,
    draw_organs,
    level,
    organ_family,
    organ_grid,
    organ_template,
    render_organ,
)
from medrep.simulate.geometry import outward_normal


def organ(person="sub-0001", seed=0):
    table = pd.DataFrame({"participant_id": [person], "age": [60.0], "sex": ["M"]})
    return draw_organs(table, seed=seed).people[0]


def volume(shape, age, sex="F", spacing=1.0):
    return int(render_organ(shape, {"age": age, "sex": sex}, *organ_grid(spacing)).data.sum()) * spacing**3


def test_the_template_is_about_20_by_40_by_20_mm():
    grid, affine = organ_grid(0.5)
    points = np.indices(grid.shape).reshape(3, -1).T * 0.5 + affine[:3, 3]
    inside = points[organ_template(points) < 0]
    np.testing.assert_allclose(np.ptp(inside, axis=0), [20, 40, 20], atol=3.0)
    assert np.abs(inside.mean(axis=0)).max() < 2.0


def test_age_moves_the_front_by_its_curve_and_inwards():
    family = organ_family(seed=0)
    points = np.array([[8.0, 12.0, 0.0], [8.0, -14.0, 0.0]])
    normal = outward_normal(organ_template, points)
    for age, amplitude in ((20.0, -1.5), (60.0, 0.5), (80.0, 2.1)):
        front, back = (displacement(family, "age", age, points) * normal).sum(axis=1)
        assert front == pytest.approx(amplitude / (1 + np.exp(-4.0)))
        assert abs(back) < 0.01 * abs(amplitude)


def test_the_amplitude_is_taken_off_at_another_reference():
    family, references = organ_family(seed=0), {"age": 70.0, "sex": "M"}
    other = replace(
        family, fields={name: replace(own, reference=references[name]) for name, own in family.fields.items()}
    )
    points = np.random.default_rng(0).uniform(-12, 12, (50, 3))
    assert (displacement(other, "age", 70.0, points) == 0).all()
    assert (displacement(other, "sex", "M", points) == 0).all()
    gap = displacement(family, "age", 80.0, points) - displacement(family, "age", 70.0, points)
    np.testing.assert_allclose(displacement(other, "age", 80.0, points), gap, atol=1e-12)
    np.testing.assert_allclose(
        displacement(other, "sex", "F", points), -displacement(family, "sex", "M", points), atol=1e-12
    )


def test_the_older_the_smaller_and_men_have_the_larger_organ():
    shape = organ()
    volumes = [volume(shape, age) for age in (20, 35, 50, 65, 80)]
    assert volumes == sorted(volumes, reverse=True)
    assert 0.5 < volumes[-1] / volumes[0] < 0.7
    assert 1.05 < volume(shape, 50, "M") / volumes[2] < 1.2


def test_rendering_agrees_between_spacings_and_in_a_turned_grid():
    shape = organ()
    assert volume(shape, 50, spacing=2.0) == pytest.approx(volume(shape, 50), rel=0.02)
    grid, affine = organ_grid()
    turned = affine @ np.array([[0.0, 0, -1, grid.shape[2] - 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    seen = render_organ(shape, {"age": 50, "sex": "F"}, grid, turned)
    straight = render_organ(shape, {"age": 50, "sex": "F"}, grid, affine)
    np.testing.assert_array_equal(seen.data.transpose(2, 1, 0)[::-1], straight.data)


def test_voxels_are_filled_where_the_level_is_negative():
    shape, (grid, affine) = organ(), organ_grid()
    filled = render_organ(shape, {"age": 70.0, "sex": "M", "site": "S1"}, grid, affine).data
    voxels = np.random.default_rng(0).integers(0, grid.shape, (500, 3))
    levels = level(shape, {"age": 70.0, "sex": "M"}, voxels + affine[:3, 3])
    np.testing.assert_array_equal(filled[tuple(voxels.T)], levels < 0)


def test_the_grid_holds_everybody_with_four_voxels_to_spare():
    table = simulate_participants(12, seed=3)
    for spacing in (1.0, 2.5):
        for shape in draw_organs(table, seed=3).people:
            render_organ(shape, {"age": 20.0, "sex": "M"}, *organ_grid(spacing))


def test_a_person_drawn_at_another_age_is_the_same_person():
    table = simulate_participants(4)
    young, old = draw_organs(table, seed=1), draw_organs(table.assign(age=80.0), seed=1)
    for one, two in zip(young.people, old.people, strict=True):
        np.testing.assert_array_equal(one.weights, two.weights)


def test_permuting_people_permutes_the_organs():
    table = simulate_participants(4)
    for one, two in zip(
        draw_organs(table, seed=1).people, draw_organs(table.iloc[::-1], seed=1).people[::-1], strict=True
    ):
        np.testing.assert_array_equal(one.weights, two.weights)


def test_what_cannot_be_drawn_or_rendered_is_refused():
    with pytest.raises(CovariateError, match="column 'sex'"):
        draw_organs(simulate_participants(4).drop(columns="sex"), seed=0)
    with pytest.raises(CovariateError, match="sex: level 'm' is not one of F, M"):
        render_organ(organ(), {"age": 50.0, "sex": "m"}, *organ_grid())
    with pytest.raises(CohortError, match="a spacing of 0"):
        organ_grid(0.0)
    with pytest.raises(CohortError, match="does not hold the organ"):
        render_organ(organ(), {"age": 50.0, "sex": "F"}, Grid((20, 20, 20), (1.0, 1.0, 1.0)), np.eye(4))
