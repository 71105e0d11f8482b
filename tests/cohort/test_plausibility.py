import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import Covariate
from medrep.cohort.plausibility import doubtful_values, refuse_codes
from medrep.errors import CovariateError

AGES = [20 + 0.7 * k for k in range(80)]
SCORES = [float(k % 31) for k in range(62)]


def doubts(values, covariate):
    index = pd.Index([f"sub-{n:03d}" for n in range(1, len(values) + 1)])
    return doubtful_values(pd.DataFrame({covariate.name: values}, index=index), [covariate])


def age(unit="year", **more):
    return Covariate("age", "continuous", unit=unit, **more)


@pytest.mark.parametrize("unit", ["year", "yrs", ""])
@pytest.mark.parametrize(
    "codes", [[999.0], [-9.0], [-1.0], [888.0, -99.0], [99.0, 99.0], [0.0], [9999.0] * 30, [998.0, 999.0]]
)
def test_codes_among_ages_are_refused_by_person(unit, codes):
    found = doubts([*AGES, *codes], age(unit))
    assert [line.split(":")[0] for line in sorted(found.refused)] == [f"sub-{81 + k:03d}" for k in range(len(codes))]
    assert not found.named


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (SCORES, [999.0]),
        ([8.0, 9, 10, 12, 12, 13, 16, 18, 20], [-9.0]),
        (list(np.linspace(36, 38, 40)), [99.9]),
        (list(np.linspace(1.3e6, 1.7e6, 40)), [-999.0]),
    ],
)
def test_codes_among_other_numbers_are_refused(values, codes):
    assert len(doubts([*values, *codes], Covariate("score", "continuous")).refused) == len(codes)


@pytest.mark.parametrize(
    "values",
    [
        AGES,
        [*SCORES, 9.0, 99.0 - 70],
        [*np.arange(1.0, 1100.0, 7), 999.0, 888.0, 99.0],
        [*np.linspace(-20, 20, 60), -9.0, -1.0, 9.0],
        [9.0, 99.0, 999.0] * 10,
        [0.0] * 30 + [10.0, 20.0, 30.0, 40.0] * 5,
        [*np.exp(np.linspace(-2, 5, 100)), 99.0, 77.0],
        [5.0] * 40,
        [20.0, 30.0, 40.0, 999.0],
    ],
)
def test_numbers_that_are_written_like_codes_and_lie_among_others_are_none(values):
    assert doubts(values, Covariate("dose", "continuous")).refused == ()


@pytest.mark.parametrize(
    ("unit", "value"), [("year", -0.5), ("yr", 131.0), ("months", 1600.0), ("d", -3.0), ("year", 1985.0)]
)
def test_ages_that_nobody_has_are_refused(unit, value):
    (line,) = doubts([*AGES, value], age(unit)).refused
    assert line.startswith("sub-081: age ")
    assert f"is no age in {unit} (0 to " in line


@pytest.mark.parametrize("name", ["age_gap", "delta_age", "z_age", "stage", "language"])
def test_what_is_no_age_may_be_negative(name):
    values = list(np.linspace(-6, 6, 50))
    assert doubts(values, Covariate(name, "continuous", unit="year")).refused == ()
    assert doubts(values, Covariate("age_at_scan", "continuous", unit="year")).refused


def test_declared_limits_are_the_last_word():
    assert doubts([*AGES, 999.0, -9.0], age(limits=(-10, 1000))) == doubts(AGES, age())


@pytest.mark.parametrize("value", [99.0, 300.0])
def test_what_may_be_true_is_named_and_not_refused(value):
    found = doubts([*AGES, value], Covariate("age", "continuous"))
    assert (found.refused, len(found.named)) == ((), 1)
    assert "sub-081" in found.named[0]


def test_long_tails_are_no_outliers():
    assert doubts(list(np.exp(np.linspace(-2, 3, 200))), Covariate("crp", "continuous")).named == ()


@pytest.mark.parametrize(("levels", "refused", "named"), [
    ([*["M", "F"] * 20, "-9"], 1, 0),
    ([*["1", "2"] * 20, "-99", "-99"], 1, 0),
    ([*["1", "2"] * 20, "999"], 0, 1),
    ([*["-1", "1"] * 20], 0, 0),
    ([str(k) for k in range(1, 101)], 0, 0),
    ([*["A", "B"] * 20, "T99"], 0, 0),
])  # fmt: skip
def test_codes_among_levels(levels, refused, named):
    found = doubts(levels, Covariate("sex", "categorical"))
    assert (len(found.refused), len(found.named)) == (refused, named)
    assert doubts(levels, Covariate("sex", "categorical", verbatim=("-9", "-99", "999"))).refused == ()


def test_the_refusal_names_everybody_and_the_cures():
    frame = pd.DataFrame({"age": [*AGES, 999.0, -9.0]})
    with pytest.raises(CovariateError) as refusal:
        refuse_codes(frame, [age()])
    text = str(refusal.value)
    for part in (
        "values that cannot be true (2)",
        "80: age 999",
        "81: age -9",
        "missing_codes",
        "missing=drop",
        "limits",
    ):
        assert part in text
    assert refuse_codes(frame.iloc[:80], [age()]) == ()
