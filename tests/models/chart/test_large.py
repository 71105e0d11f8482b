"""Charts of images with many voxels."""

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.models import ChartSettings, GrowthChart
from medrep.models.chunks import read_columns

PEOPLE, SHAPE = 90, (6, 5, 4)


def fitted() -> tuple[GrowthChart, Dataset]:
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, PEOPLE)
    table = pd.DataFrame(
        {"age": age, "site": [f"S{k % 3}" for k in range(PEOPLE)]}, index=[f"p{k}" for k in range(PEOPLE)]
    )
    schema = CovariateSchema.fit(
        table, (Covariate("age", "continuous"), Covariate("site", "categorical", role="batch"))
    )
    values = 10 + 0.02 * age[:, None] + np.exp(0.01 * (age - 50))[:, None] * rng.standard_normal((PEOPLE, 120))
    columns = Columns((), 120, Grid(SHAPE, (2.0, 2.0, 2.0)))
    dataset = Dataset(values.astype(np.float32), schema.transfer(table), schema, columns)
    return GrowthChart.fit(dataset, ChartSettings(components=3))[0], dataset


def test_what_is_kept_of_large_images_is_single_and_the_same(monkeypatch):
    double, dataset = fitted()
    monkeypatch.setattr("medrep.models.linear.fit.LARGE", 0)
    single, _ = fitted()
    sized = {name: array.dtype.name for name, array in single.state()[1].items() if array.shape[-1:] == (120,)}
    assert set(sized.values()) == {"float32"}, sized
    z = [model.deviations(dataset).compute(slice(0, 120)) for model in (double, single)]
    np.testing.assert_allclose(z[1], z[0], atol=1e-3)


@pytest.mark.parametrize("mapped", [False, True])
def test_some_columns_are_those_of_the_matrix(tmp_path, mapped):
    data = np.random.default_rng(1).normal(size=(50, 20_000)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    some = np.array([0, 7, 19_999])
    found = read_columns(np.load(tmp_path / "data.npy", mmap_mode="r") if mapped else data, some)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, data[:, some])
