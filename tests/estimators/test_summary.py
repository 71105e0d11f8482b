"""What a notebook shows of a fitted estimator."""

import pytest
import sklearn
from sklearn.pipeline import make_pipeline

from medrep.estimators import CovariateRemover
from tests.estimators.people import DECLARED, SMALL_VAE, draw


def test_the_diagram_comes_with_what_was_fitted() -> None:
    people = draw(90, n_features=5)
    remover = CovariateRemover(["site", "sex"], covariates=DECLARED)
    assert "after removal" not in remover._repr_html_()
    shown = remover.fit(people.both)._repr_html_()
    assert "sk-estimator" in shown
    for part in (
        "90 people, 5 features",
        "kept",
        "-&gt; (pooled)",
        f"-&gt; {remover.schema_['sex'].reference}",
        " %</td>",
    ):
        assert part in shown
    assert remover._repr_mimebundle_()["text/html"].count("<table") >= 2
    assert "CovariateRemover" in make_pipeline(remover)._repr_html_()


def test_a_certificate_is_shown() -> None:
    people = draw(90, n_features=5)
    remover = CovariateRemover(covariates=DECLARED, model="conditional_vae", settings=SMALL_VAE, output="latents")
    shown = remover.fit(people.both)._repr_html_()
    assert shown.count("Certificate:") == 3
    assert "forecast: AUC" in shown
    assert "kept" not in shown.split("after removal")[1]


def test_names_are_escaped() -> None:
    people = draw(90, n_features=5)
    tagged = people.both.rename(columns={"site": "<b>site"}).replace({"<b>site": {"S0": "<script>alert(1)</script>"}})
    declared = {"<b>site": "batch", "age": "continuous", "sex": "categorical"}
    shown = CovariateRemover(covariates=declared).fit(tagged)._repr_html_()
    assert "&lt;script&gt;alert(1)" in shown
    assert "<script>alert" not in shown
    assert "<b>site" not in shown


def test_text_where_no_diagram_is_wanted() -> None:
    with sklearn.config_context(display="text"), pytest.raises(AttributeError):
        CovariateRemover()._repr_html_()
