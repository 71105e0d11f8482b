import json

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from medrep._persisted import to_json
from medrep.cohort.nifti import LabelMap, read_labels
from medrep.errors import CohortError, CovariateError
from medrep.simulate.displaced import draw_organs, organ_grid, render_organ
from medrep.simulate.shape_effects import (
    SHAPE_EFFECT,
    ShapeEffect,
    age_factor,
    apply_shape_effect,
    draw_shape_effect,
    organ_axis,
    pad_for_shape_effect,
)

AGES = [20.0, 35.0, 50.0, 65.0, 80.0]


def hippocampus(seed=0):
    """A rendered organ in two parts, 1 in front and 2 behind, on a grid that fits tightly."""
    table = pd.DataFrame({"participant_id": ["sub-0001"], "age": [50.0], "sex": ["F"]})
    shape = draw_organs(table, seed=seed).people[0]
    whole = render_organ(shape, {"age": 50.0, "sex": "F"}, *organ_grid())
    low, high = (edge(np.argwhere(whole.data), axis=0) for edge in (np.min, np.max))
    parts = np.where((np.arange(whole.data.shape[1]) < 36)[:, None], 2, 1) * whole.data
    affine = whole.affine.copy()
    affine[:3, 3] += low - 4
    cut = parts[tuple(slice(a - 4, b + 5) for a, b in zip(low, high, strict=True))]
    return LabelMap(np.ascontiguousarray(cut, dtype=np.int32), affine)


def planted(labels, age, sex="F"):
    return apply_shape_effect(labels, SHAPE_EFFECT, age=age, sex=sex)


def volume(labels):
    return np.count_nonzero(labels.data)


def mean_y(labels):
    return (np.argwhere(labels.data > 0) @ labels.affine[:3, :3].T + labels.affine[:3, 3])[:, 1].mean()


def dice(one, other):
    both = np.count_nonzero((one.data > 0) & (other.data > 0))
    return 2 * both / (volume(one) + volume(other))


def test_the_reference_is_the_same_map_bit_for_bit():
    before = hippocampus()
    after = planted(before, 50.0)
    assert after.data.tobytes() == before.data.tobytes()
    assert after.affine.tobytes() == before.affine.tobytes()
    assert after.data is not before.data


def test_the_factor_is_its_formula():
    effect = ShapeEffect(linear=0.12, quadratic=0.06, male=1.0)
    factors = [age_factor(effect, age) for age in (20.0, 50.0, 75.0)]
    np.testing.assert_allclose(factors, [1.12, 1.0, 1 - 0.1 - 0.06])


def test_the_older_the_smaller_and_men_are_larger_by_the_cube():
    before = hippocampus()
    volumes = [volume(planted(before, age)) for age in AGES]
    assert volumes == sorted(volumes, reverse=True)
    assert 0.2 < 1 - volume(planted(before, 75.0)) / volume(planted(before, 30.0)) < 0.4
    assert volume(planted(before, 50.0, "M")) / volume(before) == pytest.approx(1.04**3, rel=0.03)


def test_age_leaves_everything_behind_the_middle_as_it_is():
    before = pad_for_shape_effect(hippocampus(), SHAPE_EFFECT, AGES)
    for age in (20.0, 80.0):
        after = planted(before, age)
        y = np.argwhere(after.data != before.data)[:, 1] + before.affine[1, 3]
        assert y.min() > organ_axis(before).middle
        assert volume(after) != volume(before)


def test_parts_keep_their_order_and_meet():
    before = pad_for_shape_effect(hippocampus(), SHAPE_EFFECT, AGES)
    after = planted(before, 80.0)
    assert set(np.unique(after.data)) == {0, 1, 2}
    front, back = (np.argwhere(after.data == part)[:, 1] for part in (1, 2))
    assert front.min() >= back.max() - 1
    assert np.count_nonzero(after.data == 2) >= np.count_nonzero(before.data == 2)


def test_planting_from_the_original_does_not_depend_on_what_was_planted_before():
    before = hippocampus()
    kept = before.data.copy()
    first = planted(before, 75.0, "M")
    planted(before, 30.0)
    again = planted(before, 75.0, "M")
    np.testing.assert_array_equal(before.data, kept)
    np.testing.assert_array_equal(first.data, again.data)


def test_a_small_change_of_age_is_a_small_change_of_shape():
    before = pad_for_shape_effect(hippocampus(), SHAPE_EFFECT, AGES)
    assert dice(planted(before, 50.001), before) > 0.995
    assert volume(planted(before, 51.0)) / volume(before) == pytest.approx(1.0, abs=0.01)


def test_room_is_made_so_that_the_organ_keeps_four_voxels_off_every_border():
    before = hippocampus()
    after = planted(before, 20.0, "M")
    inside = np.argwhere(after.data > 0)
    assert inside.min() >= 4
    assert (np.array(after.data.shape) - 1 - inside.max(axis=0)).min() >= 4
    assert after.data.shape != before.data.shape
    roomy = pad_for_shape_effect(before, SHAPE_EFFECT, AGES)
    for age in AGES:
        for sex in ("F", "M"):
            made = planted(roomy, age, sex)
            assert made.data.shape == roomy.data.shape
            np.testing.assert_array_equal(made.affine, roomy.affine)
    assert pad_for_shape_effect(roomy, SHAPE_EFFECT, AGES).data.shape == roomy.data.shape
    np.testing.assert_array_equal(planted(roomy, 50.0).data, roomy.data)


def test_padding_moves_nothing_in_the_world():
    before = hippocampus()
    roomy = pad_for_shape_effect(before, SHAPE_EFFECT, AGES)
    shift = np.rint(before.affine[:3, 3] - roomy.affine[:3, 3]).astype(int)
    inside = np.argwhere(before.data > 0)
    np.testing.assert_array_equal(roomy.data[tuple((inside + shift).T)], before.data[tuple(inside.T)])
    assert volume(roomy) == volume(before)


def test_how_the_axes_are_stored_plays_no_part():
    before = pad_for_shape_effect(hippocampus(), SHAPE_EFFECT, AGES)
    expected = planted(before, 75.0, "M").data
    x = before.data.shape[0] - 1
    flip = np.array([[-1.0, 0, 0, x], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    flipped = LabelMap(np.ascontiguousarray(before.data[::-1]), before.affine @ flip)
    swapped = LabelMap(np.ascontiguousarray(before.data.transpose(1, 0, 2)), before.affine[:, [1, 0, 2, 3]])
    for stored, back in ((flipped, lambda d: d[::-1]), (swapped, lambda d: d.transpose(1, 0, 2))):
        got = planted(stored, 75.0, "M")
        assert np.count_nonzero(back(got.data) != expected) <= 3


def test_the_front_of_a_turned_organ_is_along_the_worlds_y():
    before = hippocampus()
    for degrees in (-35, 35, 180):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xz", [degrees, degrees / 2], degrees=True).as_matrix()
        turned = pad_for_shape_effect(LabelMap(before.data, turn @ before.affine), SHAPE_EFFECT, AGES)
        after = planted(turned, 80.0)
        changed = np.argwhere(after.data != turned.data) @ turned.affine[:3, :3].T + turned.affine[:3, 3]
        assert changed[:, 1].min() > organ_axis(turned).middle
        assert mean_y(after) < mean_y(turned)
        assert 0.6 < volume(after) / volume(turned) < 0.9


def test_drawn_effects_are_near_the_standard_one_and_survive_json():
    effect = draw_shape_effect(seed=1)
    assert effect == draw_shape_effect(seed=1) != draw_shape_effect(seed=2)
    assert effect.linear == pytest.approx(SHAPE_EFFECT.linear, rel=0.1)
    assert effect.quadratic == pytest.approx(SHAPE_EFFECT.quadratic, rel=0.1)
    assert json.loads(json.dumps(to_json(effect))) == to_json(effect)


def test_what_cannot_be_planted_is_refused():
    labels = hippocampus()
    with pytest.raises(CovariateError, match="age: nan is not a number"):
        planted(labels, float("nan"))
    with pytest.raises(CovariateError, match="age: at 120"):
        planted(labels, 120.0)
    with pytest.raises(CovariateError, match="sex: level 'm' is not one of F, M"):
        planted(labels, 60.0, "m")
    with pytest.raises(CohortError, match="holds no region"):
        planted(LabelMap(np.zeros((5, 5, 5), np.int32), np.eye(4)), 60.0)
    slice_of_it = np.zeros((9, 9, 9), np.int32)
    slice_of_it[3:6, 4, 3:6] = 1
    with pytest.raises(CohortError, match="0 mm long"):
        planted(LabelMap(slice_of_it, np.eye(4)), 60.0)


@pytest.mark.real_data
def test_people_moved_over_more_than_20_years_differ_as_much_as_asked(shared_data):
    files = sorted((shared_data / "hippocampus" / "labels").glob("*.nii.gz"))[:2]
    overlaps, errors = [], []
    for path in files:
        labels = pad_for_shape_effect(read_labels(path), SHAPE_EFFECT, AGES)
        for old, new in ((30.0, 55.0), (60.0, 25.0), (75.0, 45.0), (30.0, 75.0)):
            before, after = planted(labels, old), planted(labels, new)
            overlaps.append(dice(before, after))
            errors.append(abs(volume(before) / volume(after) - 1))
    assert 0.8 < np.mean(overlaps) < 0.9
    assert 0.2 < np.mean(errors) < 0.4
