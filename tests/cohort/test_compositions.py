"""Compositions: there and back, sums, zeros, and what is no composition."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medrep.cohort.compositions import (
    CompositionForm,
    as_received,
    closed,
    composition_form,
    constant_sums,
    group_places,
    log_ratios,
    partial_correlations,
    perturbed,
    replaced,
)
from medrep.cohort.features import FeatureTable
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.kinds import Silent
from medrep.cohort.kinds.features import FeaturesKind
from medrep.cohort.samples import Source
from medrep.errors import CohortError

NAMES = ("gm", "wm", "csf", "thickness")
TISSUE = FeaturesInput(compositions={"tissue": ("gm", "wm", "csf")})
FORM = CompositionForm(TISSUE, NAMES)

positive = arrays(float, st.tuples(st.integers(1, 6), st.just(4)), elements=st.floats(1e-3, 1e3))
changes = arrays(float, (6, 4), elements=st.floats(-5, 5))


def people(values: np.ndarray) -> list[str]:
    return [f"sub-{k}" for k in range(len(values))]


def usable(values: np.ndarray) -> np.ndarray:
    """Return rows whose tissues sum to 1, as fractions do."""
    found = values.copy()
    found[:, :3] /= found[:, :3].sum(axis=1, keepdims=True)
    return found


@given(positive)
def test_there_and_back(values: np.ndarray) -> None:
    own = usable(values)
    form = FORM.measured(own)
    rows = form.received(own, people(own))
    np.testing.assert_allclose(rows[:, :3].sum(axis=1), 0, atol=1e-9)
    np.testing.assert_array_equal(rows[:, 3], own[:, 3])
    np.testing.assert_allclose(form.released(rows), own, rtol=1e-9)
    np.testing.assert_array_equal(form.released(rows, rows, own), own)  # nobody is moved: to the last bit


@given(positive, changes, st.sampled_from([1.0, 100.0, 1234.5]))
def test_sums_are_kept_and_parts_stay_positive_in_any_unit(values: np.ndarray, change: np.ndarray, unit: float) -> None:
    own = usable(values)
    moved = perturbed(unit * own[:, :3], change[: len(own), :3])
    assert (moved > 0).all()
    np.testing.assert_allclose(moved.sum(axis=1), unit * own[:, :3].sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(moved / unit, perturbed(own[:, :3], change[: len(own), :3]), rtol=1e-9)


@given(positive, changes, st.permutations(range(3)))
def test_the_order_of_parts_does_not_matter(values: np.ndarray, change: np.ndarray, order: list[int]) -> None:
    own, moved = usable(values)[:, :3], change[: len(values), :3]
    np.testing.assert_allclose(log_ratios(own)[:, order], log_ratios(own[:, order]), atol=1e-12)
    np.testing.assert_allclose(perturbed(own, moved)[:, order], perturbed(own[:, order], moved[:, order]), rtol=1e-12)


@given(positive, changes, st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_zeros_stay_and_the_others_are_closed_around_them(
    values: np.ndarray, change: np.ndarray, zero: list[int]
) -> None:
    own = values[:, :3].copy()
    own[np.arange(len(own)), zero[: len(own)]] = 0
    moved = perturbed(own, change[: len(own), :3])
    np.testing.assert_array_equal(moved == 0, own == 0)
    np.testing.assert_allclose(moved.sum(axis=1), own.sum(axis=1), rtol=1e-12)
    shares = replaced(own, np.full(3, 0.01))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    kept = np.where(own == 0, 1.0, shares / np.where(own == 0, 1.0, own))
    for row, zeros in zip(kept, own == 0, strict=True):
        assert np.ptp(row[~zeros]) <= 1e-9 * row[~zeros].max()  # ratios of measured parts are what they were


def test_what_stands_for_zeros_is_told_by_training() -> None:
    own = np.array([[0.2, 0.8, 0.0, 1], [0.5, 0.4, 0.1, 2], [0.3, 0.5, 0.2, 3]])
    form = FORM.measured(own)
    limits = form.section.composition_limits
    assert limits == pytest.approx({"gm": 0.65 * 0.2, "wm": 0.65 / 3, "csf": 0.065})
    assert form.section.composition_sums == {"tissue": 1.0}
    assert FORM.measured(100 * own).section.composition_sums == {"tissue": 100.0}
    newcomers = np.array([[0.9, 0.1, 0.0, 1]])
    shares = closed(form.received(newcomers, ["new"])[:, :3])[0]
    assert shares[2] == pytest.approx(0.065)
    assert form.measured(newcomers) == form  # what is known is not told again


def test_a_person_without_one_part_has_no_composition_and_comes_back() -> None:
    own = np.array([[0.2, np.nan, 0.5, 1], [0.5, 0.4, 0.1, 2], [0.3, 0.5, 0.2, 3]])
    form = FORM.measured(own)
    rows = form.received(own, people(own))
    assert np.isnan(rows[0, :3]).all()
    assert rows[0, 3] == 1
    moved = rows + np.array([0.1, -0.2, 0.1, 1.0])
    written = form.released(moved, rows, own)
    np.testing.assert_array_equal(written[0, :3], own[0, :3])
    np.testing.assert_array_equal(written[:, 3], own[:, 3] + 1)


def test_a_change_that_is_unknown_leaves_the_whole_missing() -> None:
    moved = perturbed(np.array([[0.2, 0.3, 0.5], [0.0, 0.4, 0.6]]), np.array([[0.1, np.nan, 0.0], [np.nan, 0.2, 0.1]]))
    assert np.isnan(moved[0]).all()
    assert moved[1, 0] == 0
    np.testing.assert_allclose(moved[1].sum(), 1)


def test_all_that_is_no_composition_is_refused_by_name() -> None:
    own = np.array([[0.2, 0.3, 0.5, 1], [0.5, -0.4, 0.9, 2], [0, 0, 0, 3], [20, 30, 50, 4], [0.3, 0.3, 0.4, 5]])
    with pytest.raises(CohortError) as caught:
        FORM.received(own, people(own))
    told = str(caught.value)
    assert "sub-1: wm is -0.4" in told
    assert "sub-2: all parts of tissue are 0" in told
    assert "sub-3: tissue sums to 100, others to about 1" in told
    assert "sub-0" not in told
    assert "sub-4" not in told


def test_parts_that_are_not_there_or_in_two_groups_are_refused_by_name() -> None:
    with pytest.raises(CohortError) as caught:
        group_places(NAMES, {"tissue": ("gm", "wm", "bone"), "other": ("wm", "csf"), "alone": ("thick*",)})
    told = str(caught.value)
    assert "tissue: no column is called bone" in told
    assert "wm: part of tissue and of other" in told
    assert "alone: 1 column(s)" in told
    places = group_places(("lobe_a", "x", "lobe_b"), {"lobes": ("lobe_*",)})
    assert places["lobes"].tolist() == [0, 2]


def test_sums_that_differ_are_said() -> None:
    own = np.array([[0.2, 0.3, 0.5, 1], [0.5, 0.4, 1.1, 2]])
    assert "sums of tissue differ between people (1 to 2)" in FORM.unequal_sums(own)[0]
    assert FORM.unequal_sums(usable(own)) == []


def test_a_part_moved_alone_is_drawn_against_the_rest() -> None:
    form = CompositionForm(
        FeaturesInput(compositions={"t": ("a", "b", "c")}, composition_sums={"t": 1.0}), ("a", "b", "c")
    )
    shares = np.array([[0.2, 0.3, 0.5]])
    middle = log_ratios(shares)
    np.testing.assert_allclose(form.against_rest(middle, middle), shares)
    higher = form.against_rest(middle + 0.3, middle)
    assert ((higher > shares) & (higher < 1)).all()
    two = CompositionForm(FeaturesInput(compositions={"t": ("a", "b")}, composition_sums={"t": 1.0}), ("a", "b"))
    share = np.array([[0.2, 0.8]])
    np.testing.assert_allclose(two.against_rest(log_ratios(share), np.zeros((1, 2))), share)  # of two parts it is exact


def test_partial_correlations_are_those_that_were_planted() -> None:
    rng = np.random.default_rng(0)
    chain = np.array([[1, 0.6, 0.36, 0], [0.6, 1, 0.6, 0], [0.36, 0.6, 1, 0], [0, 0, 0, 1]])
    logs = rng.multivariate_normal(np.zeros(4), chain, 20000)
    expected = partial_correlations(np.exp(logs - logs.mean(axis=1, keepdims=True)))
    np.testing.assert_allclose(partial_correlations(closed(logs)), expected, atol=1e-9)
    np.testing.assert_allclose(partial_correlations(700 * closed(logs)), expected, atol=1e-9)
    assert expected[0, 1] > expected[0, 2] + 0.2


def table(values: np.ndarray, names: tuple[str, ...] = NAMES) -> FeatureTable:
    index = pd.Index(people(values), name="key")
    return FeatureTable(pd.DataFrame({"participant_id": index}, index=index), values, names, None)


def test_tables_carry_what_was_given_through_choices_of_people() -> None:
    own = usable(np.random.default_rng(1).uniform(0.1, 1, (5, 4)))
    received = as_received(table(own), TISSUE)
    some = received.rows(pd.Index(["sub-3", "sub-0"]))
    np.testing.assert_array_equal(some.as_given.values, own[[3, 0]])
    np.testing.assert_array_equal(some.values, received.values[[3, 0]])
    assert as_received(received, TISSUE).given is received.given
    plain = table(own)
    assert as_received(plain, FeaturesInput()) is plain
    assert composition_form(FeaturesInput(), NAMES) is None


@settings(max_examples=20)
@given(st.permutations(range(6)))
def test_columns_that_sum_to_a_constant_are_found(order: list[int]) -> None:
    rng = np.random.default_rng(5)
    tissue, lobes = closed(rng.normal(size=(60, 3))), 100 * closed(rng.normal(size=(60, 2)))
    values = np.column_stack([tissue, lobes, rng.uniform(1, 2, 60)])[:, order]
    names = [("gm", "wm", "csf", "lobe_front", "lobe_back", "thickness")[k] for k in order]
    found = {frozenset(own): total for own, total in constant_sums(names, values)}
    assert found == {
        frozenset({"gm", "wm", "csf"}): pytest.approx(1),
        frozenset({"lobe_front", "lobe_back"}): pytest.approx(100),
    }
    assert constant_sums(names[:1], values[:, :1]) == []


class Told(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notes(self, notes: Sequence[str]) -> None:
        """Keep them."""
        self.lines += notes


def test_check_suggests_compositions_and_stops_where_they_are_named() -> None:
    own = usable(np.random.default_rng(1).uniform(0.1, 1, (20, 4)))
    for section, said in ((FeaturesInput(), True), (TISSUE, False)):
        listener = Told()
        FeaturesKind(section).check(Source.of_table(as_received(table(own), section)), listener, lambda key, row: None)
        assert any("gm, wm, csf sum to 1 in everybody" in line for line in listener.lines) is said
