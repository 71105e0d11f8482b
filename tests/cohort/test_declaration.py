"""Covariates as they are declared."""

from medrep.cohort.covariates import Covariate
from medrep.cohort.declaration import declared_covariates
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
