"""Effects regressed on where surfaces lie, on balls whose effects are planted."""

from dataclasses import replace

import numpy as np
import pytest

from medrep.models.linear.design import Contrast
from medrep.models.shape.displacement import SurfaceDisplacement
from medrep.models.shape.effects import Group
from medrep.models.shape.mean_shape import SmoothBasis, SurfacePoints
from medrep.models.shape.placement import rigid_motions
from medrep.models.shape.surface_effects import Seen, SurfaceEffects, resampled_changes, surface_effects
from medrep.models.shape.surface_fields import FieldsThrough, pulled_back
from medrep.models.shape.surface_volumes import SmoothSurface

RADIUS = 10.0
PEOPLE = 60
AGE, SEX = Group(slice(0, 2), smooth=True), Group(slice(2, 3))


@pytest.fixture(scope="module")
def basis() -> SmoothBasis:
    corner = np.full(3, 1.6 * RADIUS)
    return SmoothBasis.around(-corner, corner, lambda p: np.linalg.norm(p, axis=1) - RADIUS, RADIUS, 40)


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    """Points on a sphere, spread evenly (a Fibonacci lattice)."""
    turn = np.arange(300) + 0.5
    height, angle = 1 - 2 * turn / 300, np.pi * (1 + 5**0.5) * turn
    round_ = np.sqrt(1 - height**2)
    return RADIUS * np.stack([round_ * np.cos(angle), round_ * np.sin(angle), height], axis=1)


def designed(rng: np.random.Generator) -> np.ndarray:
    age, sex = rng.uniform(-1.7, 1.7, PEOPLE), rng.choice([-1.0, 1.0], PEOPLE)
    return np.column_stack([age, age**2 - 0.96, sex])


def top(points: np.ndarray) -> np.ndarray:
    """Motion of a fifth of the surface inwards, mm."""
    return -np.clip(points[:, 2] / RADIUS - 0.6, 0, None)[:, None] * points / RADIUS * 4


def cohort(ball: np.ndarray, columns: np.ndarray, motion: np.ndarray, seed: int = 0, poses: float = 2.0) -> Seen:
    """People of random sizes, positions and turns, with a motion by the first column."""
    rng = np.random.default_rng(seed)
    places = []
    for own in columns:
        shape = ball * (1 + 0.03 * rng.standard_normal(3)) + own[0] * motion
        turned = np.einsum("r,rpd->pd", poses * rng.standard_normal(6), rigid_motions(ball))
        places.append(shape + turned)
    volumes = np.array([np.linalg.norm(one - one.mean(axis=0), axis=1).mean() ** 3 for one in places])
    surface = SurfacePoints(ball, ball / RADIUS, np.full(len(ball), 1 / len(ball)), np.zeros(len(ball), np.int64))
    return Seen(surface, np.stack(places), np.log(volumes)[:, None])


def learned(seen: Seen, columns: np.ndarray, basis: SmoothBasis, placement: str = "still") -> SurfaceEffects:
    return surface_effects(seen, columns, [AGE, SEX], basis, placement, np.arange(len(columns)))  # type: ignore[arg-type]


def test_a_local_effect_is_found_and_the_rest_stays_however_people_lie(ball: np.ndarray, basis: SmoothBasis) -> None:
    columns = designed(np.random.default_rng(1))
    found = learned(cohort(ball, columns, top(ball)), columns, basis)
    moved = (found.motions[0] * ball / RADIUS).sum(axis=1)
    still = ball[:, 2] < 0.3 * RADIUS
    # A field is no sharper than its modes.
    truth = (FieldsThrough.of(ball, basis).through(top(ball)) * ball / RADIUS).sum(axis=1)
    assert np.abs(moved[still]).mean() < 0.1
    assert np.corrcoef(moved, truth)[0, 1] > 0.95
    assert np.sum(moved * truth) / np.sum(truth**2) == pytest.approx(1, abs=0.15)
    # The mean position instead: the rest moves the other way.
    mean = learned(cohort(ball, columns, top(ball)), columns, basis, "mean")
    assert np.abs((mean.motions[0] * ball / RADIUS).sum(axis=1)[still]).mean() > np.abs(moved[still]).mean() + 0.02


def test_where_covariates_do_nothing_less_is_believed_than_regression_finds(
    ball: np.ndarray, basis: SmoothBasis
) -> None:
    columns = designed(np.random.default_rng(2))
    seen = cohort(ball, columns, np.zeros_like(ball))
    full = np.linalg.lstsq(np.column_stack([np.ones(PEOPLE), columns]), seen.aligned().places.reshape(PEOPLE, -1))[0]
    found = learned(seen, columns, basis)
    assert np.square(found.motions).sum() < 0.75 * np.square(full[1:]).sum()
    assert all((weights >= 0).all() and weights.sum() <= 1 + 1e-9 for weights in found.weights)


def test_position_is_an_effect_only_if_asked(ball: np.ndarray, basis: SmoothBasis) -> None:
    columns = designed(np.random.default_rng(3))
    shift = np.broadcast_to(np.array([3.0, 0.0, 0.0]), ball.shape)
    seen = cohort(ball, columns, shift, poses=0.1)
    assert np.abs(learned(seen, columns, basis).motions[0]).mean() < 0.3
    assert learned(seen, columns, basis, "kept").motions[0][:, 0].mean() == pytest.approx(3, abs=0.3)


def test_the_order_of_people_does_not_matter(ball: np.ndarray, basis: SmoothBasis) -> None:
    columns = designed(np.random.default_rng(4))
    seen = cohort(ball, columns, top(ball))
    order = np.random.default_rng(5).permutation(PEOPLE)
    turned = replace(seen, places=seen.places[order], log_volumes=seen.log_volumes[order])
    again = surface_effects(turned, columns[order], [AGE, SEX], basis, "still", order)
    np.testing.assert_allclose(again.motions, learned(seen, columns, basis).motions, atol=1e-6)


def test_levels_of_a_batch_are_shrunk_by_chance(ball: np.ndarray, basis: SmoothBasis) -> None:
    """Two scanners that do the same, and two of which one sees everybody larger."""
    site = np.repeat(np.eye(2), PEOPLE // 2, axis=0)
    group = [Group(slice(0, 2), exchangeable=True)]
    sizes = {}
    for larger in (0.0, 1.0):
        seen = cohort(ball, np.zeros((PEOPLE, 1)), np.zeros_like(ball))
        seen = replace(seen, places=seen.places + larger * site[:, 1, None, None] * ball / RADIUS)
        found = surface_effects(seen, site, group, basis, "mean", np.arange(PEOPLE))
        sizes[larger] = ((found.motions[1] - found.motions[0]) * ball / RADIUS).sum(axis=1).mean()
    assert abs(sizes[0.0]) < 0.1
    assert sizes[1.0] == pytest.approx(1, abs=0.25)


def test_fields_bring_moved_points_back(ball: np.ndarray, basis: SmoothBasis) -> None:
    columns = designed(np.random.default_rng(6))
    smooth = FieldsThrough.of(ball, basis).coefficients(0.3 * top(ball))
    motions = np.zeros((3, *ball.shape))
    motions[0] = basis.field(ball, smooth.reshape(basis.count, 3))
    mean, rows = pulled_back(motions, np.zeros_like(ball), ball, basis, columns, [AGE, SEX])
    assert not mean.any()
    for amount in (-1.0, 1.5):
        moved = ball + amount * motions[0]
        back = moved + basis.field(moved, amount * rows[0].reshape(basis.count, 3))
        assert np.abs(back - ball).max() < 0.25 * np.abs(moved - ball).max()


def test_an_organ_that_moves_nowhere_clearly_grows_as_a_whole(ball: np.ndarray, basis: SmoothBasis) -> None:
    columns = designed(np.random.default_rng(12))
    surface = SmoothSurface.of(ball, ball / RADIUS, np.full(len(ball), 1 / len(ball)), basis)
    nothing = np.zeros((3, *ball.shape)), np.zeros_like(ball)
    motions = surface.following(slice(None), 0.06 * columns[:, 2], columns, nothing, [AGE, SEX])
    grown = (motions * ball / RADIUS).sum(axis=2)
    np.testing.assert_allclose(grown[:2], 0, atol=0.01)
    assert grown[2].mean() == pytest.approx(0.02 * RADIUS, rel=0.05)
    assert grown[2].std() < 0.05 * grown[2].mean()


def test_effects_of_resampled_people_spread_about_as_much_as_those_of_new_people(
    ball: np.ndarray, basis: SmoothBasis
) -> None:
    columns = designed(np.random.default_rng(7))
    rng = np.random.default_rng(8)
    draws = [rng.integers(0, PEOPLE, PEOPLE) for _ in range(12)]
    seen = cohort(ball, columns, top(ball))
    changes = resampled_changes(seen, columns, [AGE, SEX], basis, "still", np.arange(PEOPLE), draws)
    new = np.stack(
        [learned(cohort(ball, columns, top(ball), seed=seed), columns, basis).motions[0] for seed in range(20, 32)]
    )
    resampled = np.stack([basis.field(ball, one[0].reshape(basis.count, 3)) for one in changes])
    assert 0.5 < resampled.std(axis=0).mean() / new.std(axis=0).mean() < 2


def test_intervals_hold_planted_motion_and_are_not_much_wider_than_errors(ball: np.ndarray, basis: SmoothBasis) -> None:
    people, cohorts, resamplings = 40, 6, 16
    ball = ball[::2]
    normals = ball / RADIUS
    truth = (FieldsThrough.of(ball, basis).through(top(ball)) * normals).sum(axis=1)
    covered, widths, errors = [], [], []
    for seed in range(cohorts):
        rng = np.random.default_rng([seed, 9])
        columns = designed(rng)[:people]
        seen = cohort(ball, columns, top(ball), seed=seed + 40)
        draws = [rng.integers(0, people, people) for _ in range(resamplings)]
        changes = resampled_changes(seen, columns, [AGE, SEX], basis, "still", np.arange(people), draws)
        moved = (learned(seen, columns, basis).motions[0] * normals).sum(axis=1)
        other = np.stack([(basis.field(ball, own[0].reshape(basis.count, 3)) * normals).sum(axis=1) for own in changes])
        low, high = SurfaceDisplacement(Contrast("age", 0.0, 1.0), moved, moved + other).interval()
        covered.append(((low <= truth) & (truth <= high)).mean())
        widths.append((high - low).mean())
        errors.append(moved - truth)
    assert 0.85 < np.mean(covered) <= 1
    assert np.mean(widths) < 3 * 3.92 * np.sqrt(np.square(errors).mean())


def test_where_an_organ_comes_to_lie_is_unsure_where_a_rule_says_so(ball: np.ndarray, basis: SmoothBasis) -> None:
    """With everybody drawn once nothing else is."""
    columns = designed(np.random.default_rng(10))
    seen, everybody = cohort(ball, columns, top(ball)).fewer(3), np.arange(PEOPLE)

    def changes(placement: str) -> np.ndarray:
        rows = [everybody] * 6
        return resampled_changes(seen, columns, [AGE, SEX], basis, placement, everybody, rows)  # type: ignore[arg-type]

    np.testing.assert_allclose(changes("mean"), 0, atol=1e-9)
    first, second = np.linalg.svd(changes("still").reshape(6, -1), compute_uv=False)[:2]
    assert first > 1e-3
    assert second < 1e-6 * first


def test_one_more_draw_lies_within_the_bounds_as_often_as_they_say() -> None:
    draws = np.random.default_rng(11).permutation(np.arange(1.0, 40.0))[:, None]
    low, high = SurfaceDisplacement(Contrast("age", 0.0, 1.0), np.array([20.0]), draws).interval()
    np.testing.assert_allclose([*low, *high], [1, 39])
