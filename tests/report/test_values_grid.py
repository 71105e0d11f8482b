"""The values that a slider can be set to: the person's own among them, never too many."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.covariates import POOLED, Covariate, CovariateSchema
from medrep.report.data_store import known_mean, known_spread
from medrep.report.data_training import axes_around, combinations

PEOPLE = 40


def fitted(
    seed: int, means: list[float], levels: list[tuple[int, str]], person: int
) -> tuple[CovariateSchema, dict[str, str | float]]:
    rng = np.random.default_rng(seed)
    columns = {f"x{k}": rng.normal(mean, 3.0, PEOPLE) for k, mean in enumerate(means)}
    columns |= {f"c{k}": rng.permutation([f"l{i % n}" for i in range(PEOPLE)]) for k, (n, _) in enumerate(levels)}
    declared = [Covariate(f"x{k}", "continuous") for k in range(len(means))]
    declared += [Covariate(f"c{k}", "categorical", role) for k, (_, role) in enumerate(levels)]
    frame = pd.DataFrame(columns, index=range(PEOPLE))
    return CovariateSchema.fit(frame, declared), frame.iloc[person].to_dict()


@given(
    st.integers(0, 1000),
    st.lists(st.sampled_from([-5.0, 0.0, 50.0]), max_size=3),
    st.lists(st.tuples(st.integers(2, 30), st.sampled_from(["effect", "batch"])), max_size=3),
    st.integers(0, PEOPLE - 1),
    st.integers(1, 200),
)
def test_the_own_values_are_among_them_and_there_are_never_too_many(
    seed: int, means: list[float], levels: list[tuple[int, str]], person: int, most: int
) -> None:
    schema, own = fitted(seed, means, levels, person)
    axes = axes_around(schema, own, most)
    assert len(combinations(axes)) <= max(most, 1)
    for axis in axes:
        assert axis.values[axis.own] == own[axis.name]
        assert len(set(axis.values)) == len(axis.values) > 1
        if axis.low is not None and axis.high is not None:
            assert list(axis.values) == sorted(axis.values)
            assert axis.values[0] <= axis.low < axis.high <= axis.values[-1]
            assert axis.low < 0 or axis.values[0] >= 0, "what is never negative is not shown below zero"
    places = [axis.own for axis in axes]
    flat = int(np.ravel_multi_index(places, [len(a.values) for a in axes])) if axes else 0
    assert combinations(axes)[flat] == {axis.name: own[axis.name] for axis in axes}, "the last axis runs fastest"


def test_rare_levels_are_left_out_first_and_the_pooled_cohort_is_a_choice() -> None:
    sites = ["a"] * 12 + ["b"] * 2 + ["c"] * 9 + ["d"] * 8
    frame = pd.DataFrame({"site": sites})
    schema = CovariateSchema.fit(frame, [Covariate("site", "categorical", "batch")])
    (axis,) = axes_around(schema, {"site": "b"}, 4)
    assert axis.values == (POOLED, "a", "b", "c")


def test_missing_cells_count_as_nothing() -> None:
    data = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan]])
    assert known_mean(data).tolist() == [2.0, 4.0, 0.0]
    assert known_spread(data) == pytest.approx([1.0, 0.0, 0.0])
