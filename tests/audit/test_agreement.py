"""Agreement of two representations, on latents whose relation was planted."""

import numpy as np
import pytest

from medrep.audit.agreement import FIGURES, Agreement, compare_latents
from medrep.audit.latent_maps import cross_fitted, fit_affine, fit_orthogonal, folds_of
from medrep.audit.similarity import (
    active_latents,
    anchor_similarity,
    debiased_cka,
    held_out_matching,
    matched_latents,
    mutual_neighbours,
)

PEOPLE, LATENTS = 120, 5
RNG = np.random.default_rng(0)
Z = RNG.standard_normal((PEOPLE, LATENTS)) * np.linspace(2, 1, LATENTS) + 1
ROTATION = np.linalg.qr(RNG.standard_normal((LATENTS, LATENTS)))[0]
OTHERS = RNG.standard_normal((PEOPLE, LATENTS))
UNITS = np.arange(PEOPLE).astype(str)


def figures(found: Agreement) -> dict[tuple[str, str], float]:
    return {(one.metric, one.group): one.estimate for one in found.findings}


def test_what_no_axes_matter_to_is_one_under_rotation_and_scale() -> None:
    turned = 1.7 * Z @ ROTATION - 3
    assert debiased_cka(Z, turned) == pytest.approx(1)
    assert anchor_similarity(Z, turned, np.arange(30)) == pytest.approx(1)
    assert mutual_neighbours(Z, turned) == pytest.approx(1)


def test_unrelated_latents_are_at_the_floor_however_many_there_are() -> None:
    rng = np.random.default_rng(1)
    found = [[], [], []]
    for _ in range(20):
        one, other = rng.standard_normal((2, 60, 40))
        for values, figure in zip(
            found, (debiased_cka, lambda a, b: anchor_similarity(a, b, np.arange(15)), mutual_neighbours), strict=True
        ):
            values.append(figure(one, other))
    for values in found:
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert np.mean(found[0]) < 0.05  # the plain one is about 0.4 here


def test_an_orthogonal_map_finds_a_rotation_with_its_scale() -> None:
    matrix, offset = fit_orthogonal(Z, 1.7 * Z @ ROTATION - 3)
    np.testing.assert_allclose(matrix, 1.7 * ROTATION, atol=1e-10)
    np.testing.assert_allclose(offset, -3, atol=1e-10)


def test_an_affine_map_finds_any_linear_one() -> None:
    planted = RNG.standard_normal((LATENTS, 3))
    matrix, offset = fit_affine(Z, Z @ planted + 2)
    np.testing.assert_allclose(matrix, planted, atol=1e-6)
    np.testing.assert_allclose(offset, 2, atol=1e-6)


def test_maps_are_judged_on_people_who_did_not_fit_them() -> None:
    """With half as many latents as people a fitted map tells half of noise, and none of unseen noise."""
    rng = np.random.default_rng(2)
    one, other = rng.standard_normal((2, 60, 30))
    errors, totals = cross_fitted(one, other, "affine", folds_of(UNITS[:60], rng))
    assert errors.sum() / totals.sum() > 0.95


def test_a_family_is_in_one_fold() -> None:
    families = np.repeat(np.arange(20), 3).astype(str)
    folds = folds_of(families, np.random.default_rng(0))
    assert all(len(set(folds[families == one])) == 1 for one in families)
    assert len(set(folds)) == 5


def test_latents_are_matched_whatever_their_order_and_sign() -> None:
    order = np.array([3, 0, 4, 1, 2])
    other = Z[:, order] * np.array([1, -1, 1, -1, 1])
    rows, columns = matched_latents(Z, other)
    assert order[columns[np.argsort(rows)]].tolist() == list(range(LATENTS))
    half = np.arange(PEOPLE) % 2 == 0
    assert held_out_matching(Z, other, half, ~half) == pytest.approx(1)
    assert abs(held_out_matching(Z, OTHERS, half, ~half)) < 0.2


def test_latents_that_hardly_vary_are_passive() -> None:
    latents = np.column_stack([Z, 0.01 * OTHERS[:, 0], np.full(PEOPLE, 7.0)])
    assert active_latents(latents).tolist() == [True] * LATENTS + [False, False]
    assert not active_latents(np.full((5, 2), 0.1)).any()


@pytest.mark.parametrize(
    ("second", "verdict", "form"),
    [
        (Z, "interchangeable", None),
        (Z + 0.02 * OTHERS, "interchangeable", None),
        (1.7 * Z @ ROTATION - 3, "map", "orthogonal"),
        (Z + 1, "map", "orthogonal"),
        (Z @ ROTATION * np.array([1, 2, 3, 4, 5]), "map", "affine"),
        (Z[np.random.default_rng(3).permutation(PEOPLE)], "not", None),
        (OTHERS, "not", None),
        (np.zeros_like(Z), "not", None),
        (np.where((np.arange(PEOPLE) % 6 == 0)[:, None], 2 - Z, Z), "not", None),
    ],
    ids=["same", "noise", "rotated", "moved", "affine", "exchanged", "unrelated", "constant", "some people otherwise"],
)
def test_the_verdict_is_that_of_the_planted_relation(second: np.ndarray, verdict: str, form: str | None) -> None:
    found = compare_latents(Z, second, UNITS)
    assert found.verdict == verdict, found.reason
    assert found.forms == ({} if form is None else {"a_to_b": form, "b_to_a": form})
    assert found.reason
    assert {(one.metric, one.group) for one in found.findings} == {("agreement_verdict", "all"), *FIGURES}


def test_passive_latents_do_not_decide() -> None:
    rng = np.random.default_rng(4)
    with_passive = [np.column_stack([Z, 1e-3 * rng.standard_normal((PEOPLE, 3))]) for _ in range(2)]
    assert compare_latents(*with_passive, UNITS).verdict == "interchangeable"


def test_a_part_of_the_latents_can_be_had_in_one_direction_only() -> None:
    found = compare_latents(Z, Z[:, :3], UNITS)
    assert (found.verdict, set(found.forms)) == ("map", {"a_to_b"})
    assert figures(found)["agreement_identity", "all"] == 0


def test_intervals_hold_estimates_and_floors_are_low() -> None:
    found = compare_latents(Z, Z @ ROTATION + 0.5 * OTHERS, UNITS)
    for one in found.findings[1:]:
        assert one.ci_low <= one.estimate <= one.ci_high, one
    tested = [one for one in found.findings if one.p == one.p and one.metric != "agreement_identity"]
    assert {one.p for one in tested if one.metric != "agreement_matching"} == {1 / 50}


def test_too_few_people_are_insufficient() -> None:
    found = compare_latents(Z[:49], Z[:49], UNITS[:49])
    assert found.verdict is None
    assert {one.status for one in found.findings} == {"insufficient"}
    assert {(one.metric, one.group) for one in found.findings} == {("agreement_verdict", "all"), *FIGURES}
    wide = np.random.default_rng(0).standard_normal((60, 31))
    assert compare_latents(wide, wide, UNITS[:60]).verdict is None
