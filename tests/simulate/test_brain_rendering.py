from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.errors import CohortError
from medrep.simulate import simulate_participants
from medrep.simulate.brains import draw_brains, render_brain

SHAPE, SPACING = (40, 48, 40), 4.0


def person(**covariates):
    row = {"participant_id": "sub-0001", "age": 50.0, "sex": "F", "diagnosis": "control", **covariates}
    return draw_brains(pd.DataFrame([row]), seed=2)[0]


def test_the_same_brain_gives_the_same_bytes_and_another_person_others():
    first, second = draw_brains(simulate_participants(2, n_sites=1), seed=1)
    volume = render_brain(first, SHAPE, SPACING)
    assert volume.tobytes() == render_brain(first, SHAPE, SPACING).tobytes()
    difference = np.abs(volume - render_brain(second, SHAPE, SPACING))
    assert (difference > 100).mean() > 0.05


@pytest.mark.parametrize("shape", [(40, 48, 40), (12, 9, 10), (1, 1, 1)])
def test_shape_type_and_range(shape):
    volume = render_brain(person(), shape, SPACING)
    assert volume.shape == shape
    assert volume.dtype == np.float32
    assert volume.min() >= 0
    assert volume.max() < 1000


def test_the_head_lies_inside_the_field_of_view():
    volume = render_brain(person(sex="M"), SHAPE, SPACING)
    for face in (volume[0], volume[-1], volume[:, 0], volume[:, :, -1]):
        assert np.median(face) < 60
    assert volume[20, 24, 22] > 60


def tissue_volume(volume, low, high):
    return ((volume > low) & (volume < high)).sum() * (2.0 / 10) ** 3


def test_a_fine_grid_holds_a_plausible_amount_of_white_matter():
    volume = render_brain(replace(person(), noise_sd=0.0), (80, 96, 80), 2.0)
    assert 300 < tissue_volume(volume, 740, 1000) < 900  # cm^3


def test_ageing_more_than_doubles_the_fluid_around_the_ventricles():
    young, old = (render_brain(replace(person(age=age), noise_sd=0.0), SHAPE, SPACING) for age in (25.0, 80.0))
    middle = (slice(15, 25), slice(12, 32), slice(21, 27))
    fluid = [(volume[middle] < 350).sum() for volume in (young, old)]
    assert fluid[1] > 2 * fluid[0]


def test_diagnosis_acts_on_the_hippocampi_alone():
    control, patient = (
        render_brain(person(diagnosis=diagnosis), SHAPE, SPACING) for diagnosis in ("control", "patient")
    )
    changed = np.argwhere(np.abs(patient - control) > 5)
    x, y, z = ((changed - (np.array(SHAPE) - 1) / 2) * SPACING).T
    assert 20 < len(changed) < 0.006 * control.size
    assert (np.abs(np.abs(x) - 25) < 18).all()
    assert (x > 0).mean() == pytest.approx(0.5, abs=0.2)
    assert ((y > -55) & (y < 15) & (z > -40) & (z < 5)).all()


def test_the_image_does_not_depend_on_the_voxel_size():
    brain = replace(person(), noise_sd=0.0)
    coarse = render_brain(brain, (20, 24, 20), 8.0)
    fine = render_brain(brain, (40, 48, 40), 4.0).reshape(20, 2, 24, 2, 20, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.93


@pytest.mark.parametrize(("shape", "spacing"), [((0, 4, 4), 1.0), ((4, 4, 4), 0.0), ((4, 4, 4), float("nan"))])
def test_an_impossible_grid_is_refused(shape, spacing):
    with pytest.raises(CohortError, match="both must be positive"):
        render_brain(person(), shape, spacing)
