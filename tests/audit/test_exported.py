import numpy as np
import pandas as pd
import pytest

from medrep.audit import data
from medrep.audit.data import probe_export
from medrep.audit.probe_figures import Probed
from medrep.cohort.covariates import CovariateSchema
from tests.models.planted import AGE, DECLARED, SITE, draw_data, draw_people


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, np.ndarray, int]]:
    """Put probes that cost nothing in the place of the real ones, and note what each is asked."""
    calls: list[tuple[str, np.ndarray, int]] = []

    def stand_in(name: str, figure: float) -> None:
        def probe(X: np.ndarray, labels: np.ndarray, seed: int, **_: int) -> Probed:
            calls.append((name, X, seed))
            return Probed({"linear": figure, "rbf": 0.1}, figure, len(labels))

        monkeypatch.setattr(data, name, probe)

    for name, figure in (("age_r2", 0.4), ("sex_auc", 0.7), ("site_auc", 0.9)):
        stand_in(name, figure)
    return calls


def measured(frame: pd.DataFrame, tables: dict[str, np.ndarray], declared=DECLARED, removed=("site",)) -> pd.DataFrame:
    return probe_export(CovariateSchema.fit(frame, declared), frame, tables, removed)


def test_a_row_a_table_and_covariate_with_the_right_measure(asked):
    frame = draw_people(60, 3, 0)
    tables = {"features": draw_data(frame, 5, 0), "latents": np.zeros((60, 2))}
    found = measured(frame, tables)
    assert list(found.columns) == ["table", "covariate", "role", "measure", "n", "estimate", "floor"]
    assert found["table"].tolist() == ["features"] * 3 + ["latents"] * 3
    assert found["covariate"].tolist() == ["age", "sex", "site"] * 2
    assert found["role"].tolist() == ["kept", "kept", "removed"] * 2
    assert found["measure"].tolist() == ["R2", "AUC", "AUC"] * 2
    assert found["estimate"].tolist() == [0.4, 0.7, 0.9] * 2
    assert found["floor"].tolist() == [0.0, 0.5, 0.5] * 2
    assert found["n"].tolist() == [60] * 6
    assert [name for name, _, _ in asked] == ["age_r2", "sex_auc", "site_auc"] * 2


def test_columns_with_missing_cells_are_left_out(asked):
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 5, 0)
    data[7, 2] = np.nan
    measured(frame, {"features": data})
    for _, seen, _ in asked:
        np.testing.assert_array_equal(seen, np.delete(data, 2, axis=1))


def test_too_few_people_are_listed_without_a_figure(asked):
    frame = draw_people(29, 2, 0)
    found = measured(frame, {"features": draw_data(frame, 5, 0)})
    assert found["estimate"].isna().all()
    assert found["n"].tolist() == [29] * 3
    assert not asked


def test_covariates_that_hardly_vary_here_are_listed_without_a_figure(asked):
    frame = draw_people(60, 3, 0)
    schema = CovariateSchema.fit(frame, (AGE, SITE))
    lone = frame.assign(site=["S0"] * 58 + ["S1", "S2"])
    found = probe_export(schema, lone, {"features": draw_data(frame, 5, 0)}, ["site"])
    assert found["estimate"].isna().tolist() == [False, True]
    found = probe_export(schema, frame.assign(site="S0", age=50.0), {"features": np.zeros((60, 1))}, ["site"])
    assert found["estimate"].isna().all()


def test_a_site_that_is_told_is_found():
    frame = draw_people(60, 2, 0)
    shifted = np.random.default_rng(0).normal(size=(60, 3)) + 3 * (frame["site"] == "S1").to_numpy()[:, None]
    assert measured(frame, {"raw": shifted}, (SITE,))["estimate"].item() > 0.95
