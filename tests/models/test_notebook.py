"""What a notebook shows of a model."""

import numpy as np

from medrep.cohort.covariates import html_table
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.models import LinearModel
from tests.models.planted import Case, draw_people


def test_a_model_shows_what_it_is() -> None:
    frame = draw_people(60, 2, 0)
    model = Case(frame, np.random.default_rng(0).normal(size=(60, 5))).fit()
    assert repr(model) == "LinearModel(age, sex, site; 5 columns)"
    shown = model._repr_html_()
    for part in ("medrep linear", "5 columns (region_0, region_1, region_2, ...)", "age", "training people", "year"):
        assert part in shown
    assert "limitations: <code>help(medrep.models.linear.model)</code>" in shown


def test_voxels_are_shown_as_a_grid() -> None:
    frame = draw_people(60, 2, 0)
    case = Case(frame, np.random.default_rng(0).normal(size=(60, 8)))
    columns = Columns((), 8, Grid((2, 2, 2), (1.0, 1.0, 1.0)))
    model, _ = LinearModel.fit(Dataset(case.data, case.schema.transfer(frame), case.schema, columns))
    assert "8 columns (voxels of a grid 2 x 2 x 2)" in model._repr_html_()


def test_tables_are_escaped_and_take_the_colours_of_the_page() -> None:
    shown = html_table(["<i>"], [("<script>",), (0.123456,)])
    assert "&lt;i&gt;" in shown
    assert "&lt;script&gt;" in shown
    assert "0.1235" in shown
    assert "color:inherit" in shown
    assert "<script>" not in shown
