"""Covariates as they are declared."""

import pytest

from medrep.cohort.covariates import Covariate, declared_covariates
from medrep.config import parse_config


def test_a_word_is_short_for_properties():
    problems: list[str] = []
    declared = declared_covariates({"age": "continuous", "sex": "categorical", "site": "batch", "gone": None}, problems)
    assert declared == (
        Covariate("age", "continuous"),
        Covariate("sex", "categorical"),
        Covariate("site", "categorical", "batch"),
    )
    assert not problems


def test_yaml_and_python_declare_alike():
    content = {"age": {"kind": "continuous", "unit": "year"}, "site": "batch"}
    assert parse_config({"covariates": content}).covariates == declared_covariates(content, [])


def test_all_that_is_wrong_is_told():
    problems: list[str] = []
    content = {
        "age": {"kind": "continuous", "role": "batch"},
        "sex": "category",
        "site": {"name": "x", "kind": "categorical"},
    }
    assert [covariate.name for covariate in declared_covariates(content, problems)] == ["age", "site"]
    assert problems == [
        "covariates.site.name: the name is the key; for another column give column",
        "covariates.sex.kind: 'category' is not allowed; allowed: continuous, categorical",
        "covariates.age: role batch needs kind categorical",
    ]


def test_codes_limits_and_levels_are_declared():
    problems = []
    age, site = declared_covariates(
        {
            "age": {"kind": "continuous", "missing_codes": [-9, "999"], "limits": [0, 120], "reference": "40"},
            "site": {"kind": "categorical", "verbatim": ["NA", "01"], "reference": 2, "meanings": {"1": "Bern"}},
        },
        problems,
    )
    assert problems == []
    assert (age.missing_codes, age.limits, age.reference) == (("-9", "999"), (0, 120), 40.0)
    assert (site.verbatim, site.reference, site.meanings) == (("NA", "01"), "2", {"1": "Bern"})


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"kind": "continuous", "limits": [120, 0]}, "covariates.x.limits: [120.0, 0.0] is not allowed"),
        ({"kind": "continuous", "limits": [1]}, "covariates.x.limits: [1.0] is not allowed"),
        ({"kind": "categorical", "limits": [0, 1]}, "covariates.x.limits: [0.0, 1.0] is not allowed"),
        ({"kind": "continuous", "verbatim": ["NA"]}, "covariates.x.verbatim: levels are of a categorical covariate"),
        ({"kind": "continuous", "missing_codes": ["old"]}, "covariates.x.missing_codes: old is no number"),
    ],
)
def test_what_does_not_go_together_is_a_problem(entry, problem):
    problems = []
    declared_covariates({"x": entry}, problems)
    assert len(problems) == 1
    assert problems[0].startswith(problem)
