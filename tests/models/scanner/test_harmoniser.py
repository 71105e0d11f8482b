"""What moving between scanners promises: exactness at the ends, what was planted comes off, what is to be kept stays."""

import numpy as np
import pytest

from medrep.cohort.covariates import POOLED
from medrep.errors import CovariateError, ModelError
from medrep.models.scanner.forward import foreground_box
from tests.models.scanner.conftest import GRID, content, error


@pytest.fixture(scope="module")
def unseen(cohort):
    return np.arange(70, 90)[cohort.frame["site"].iloc[70:] == "B"]


def test_the_sharp_and_quiet_level_is_the_anchor(model):
    assert model.reference == "A"
    assert model.levels == ("A", "B")
    assert model.notes == ()


def test_unseen_people_come_near_to_what_the_anchor_would_have_seen(model, cohort, unseen):
    before = error(cohort.seen[unseen], cohort.clean[unseen])
    after = error(model.transform(cohort.seen[unseen], ["B"] * len(unseen), "A"), cohort.clean[unseen])
    assert after < 0.025  # the noise's deviation is 0.02, undone along with the blur
    assert after < before / 5


def test_rendering_makes_what_the_scanner_makes(model, cohort, unseen):
    rendered = model.render(cohort.clean[unseen], ["B"] * len(unseen))
    assert error(rendered, cohort.seen[unseen]) == pytest.approx(0.02, rel=0.1)  # all that is left is noise


@pytest.mark.parametrize("level", ["A", "B", POOLED])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_null_move_is_exact(model, cohort, level, dtype):
    rows = cohort.seen[:3].astype(dtype)
    transformed = model.transform(rows, [level] * 3, level)
    assert np.array_equal(transformed, rows)
    assert transformed.dtype == dtype
    assert transformed is not rows


@pytest.mark.parametrize("target", ["A", "B", POOLED])
def test_moving_twice_is_moving_once(model, cohort, target):
    once = model.transform(cohort.seen[:2], ["A", "B"], target)
    assert np.array_equal(model.transform(once, [target] * 2, target), once)


def test_the_memory_layout_does_not_matter(model, cohort):
    turned = np.asfortranarray(cohort.seen[:2])
    np.testing.assert_array_equal(
        model.transform(turned, ["A", "B"], "A"), model.transform(cohort.seen[:2], ["A", "B"], "A")
    )


def test_restoring_is_moving_to_the_anchor(model, cohort):
    u = model.restore_to_reference(cohort.seen[:4], ["A", "B", "A", "B"])
    assert np.array_equal(u, model.transform(cohort.seen[:4], ["A", "B", "A", "B"], "A"))
    assert np.array_equal(u[[0, 2]], cohort.seen[[0, 2]])
    assert np.array_equal(model.render(u[[0, 2]], ["A", "A"]), u[[0, 2]])


def test_the_formula_with_the_residual(model, cohort):
    """x' = F_pooled(z) + s_pooled / s_B (x - F_B(z)), and the pooled scanner has the mean parameters."""
    x = cohort.seen[1:2]
    z = model.restore_to_reference(x, ["B"])
    ratio = 0.5  # half of the people are at the anchor, whose residual is zero
    expected = model.render(z, [POOLED], like=x) + ratio * (x - model.render(z, ["B"], like=x))
    np.testing.assert_allclose(content(model.transform(x, ["B"], POOLED)), content(expected), atol=1e-5)
    scanners = model.known.scanners
    np.testing.assert_allclose(scanners[POOLED].shading, scanners["B"].shading / 2)


def test_the_pooled_reference_can_be_left_again(model, cohort):
    x = cohort.seen[1:2]
    back = model.transform(model.transform(x, ["B"], POOLED), [POOLED], "B")
    assert error(back, x) < 0.3 * error(model.transform(x, ["B"], POOLED), x)


def test_padding_and_unknown_voxels_stay(model, cohort):
    volume = cohort.seen[1].reshape(GRID.shape).copy()
    volume[10, 10, 10] = np.nan
    transformed = model.transform(volume.reshape(1, -1), ["B"], "A").reshape(GRID.shape)
    assert np.argwhere(np.isnan(transformed)).tolist() == [[10, 10, 10]]
    outside = np.ones(GRID.shape, dtype=bool)
    outside[foreground_box(volume)] = False
    assert outside.any()
    assert np.array_equal(transformed[outside], volume[outside])


def test_what_a_mask_left_empty_stays_empty(model, cohort):
    volume = cohort.seen[1].reshape(GRID.shape).copy()
    volume[:, :8] = 0
    transformed = model.transform(volume.reshape(1, -1), ["B"], POOLED).reshape(GRID.shape)
    assert not transformed[:, :8].any()
    assert (transformed[:, 8:] != volume[:, 8:]).mean() > 0.5


def test_an_image_of_one_value_stays(model):
    flat = np.full((1, GRID.size), 0.7, np.float32)
    assert np.array_equal(model.transform(flat, ["B"], "A"), flat)
    assert np.array_equal(model.render(flat, ["B"]), flat)


def test_age_is_kept_though_scanners_differ_in_age(model, cohort):
    own = cohort.of("B")
    brightness = content(model.transform(cohort.seen[own], ["B"] * len(own), "A")).mean(axis=(1, 2, 3))
    wanted = content(cohort.clean[own]).mean(axis=(1, 2, 3))
    slope, true = (np.polyfit(cohort.effects[own, 0], values, 1)[0] for values in (brightness, wanted))
    assert slope == pytest.approx(true, rel=0.1)
    assert np.mean(brightness) == pytest.approx(np.mean(wanted), abs=0.01)


def test_the_order_of_people_does_not_matter(model, cohort, train):
    shuffled = cohort.fit(np.random.default_rng(5).permutation(train))
    np.testing.assert_array_equal(
        shuffled.transform(cohort.seen, list(cohort.frame["site"]), "A"),
        model.transform(cohort.seen, list(cohort.frame["site"]), "A"),
    )


def test_unknown_levels_are_refused_by_name(model, cohort):
    with pytest.raises(
        CovariateError, match=r"site 'X' has no scanner in this model \(A, B\); refit.*--unseen-site adapt"
    ):
        model.transform(cohort.seen[:2], ["A", "X"], "A")
    with pytest.raises(CovariateError, match="'X' has no scanner"):
        model.render(cohort.seen[:1], ["X"])
    with pytest.raises(CovariateError, match="'X' has no scanner"):
        model.transform(cohort.seen[:1], ["A"], "X")


def test_images_of_another_grid_or_type_are_refused(model, cohort):
    with pytest.raises(ModelError, match=f"7 voxels, the grid {GRID.size}"):
        model.transform(np.ones((1, 7), np.float32), ["A"], "B")
