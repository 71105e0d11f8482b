"""A small flat cohort with known fields, and a model of it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree
from skimage.measure import find_contours

from benchmarks.starmen import draw_starmen
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid, grid_lattice
from medrep.models import AdditiveShape, ShapeSettings
from medrep.simulate.displaced import DisplacedCohort, level

HALF = 29
SETTINGS = ShapeSettings(modes=80, rounds=3, points=600, careful_points=1200, threads=1, bootstrap=20, latents=20)


@dataclass(frozen=True)
class Starmen:
    """Flat figures, their signed distances (mm) on a grid, and a model of them."""

    cohort: DisplacedCohort
    frame: pd.DataFrame
    schema: CovariateSchema
    columns: Columns
    data: np.ndarray
    model: AdditiveShape
    history: pd.DataFrame


def flat_distances(cohort: DisplacedCohort, values: pd.DataFrame, grid: Grid) -> np.ndarray:
    fine = np.arange(-HALF, HALF + 0.1, 0.25)
    places = np.stack(np.meshgrid(fine, fine, indexing="ij"), axis=-1).reshape(-1, 2)
    points = grid_lattice(grid).nodes()
    rows = []
    for subject, row in zip(cohort.people, values.to_dict("records"), strict=True):
        levels = level(subject, row, places).reshape(len(fine), -1)
        lines = [
            line + share * np.diff(line, axis=0, append=line[-1:])
            for line in find_contours(levels, 0.0)
            for share in (0, 0.5)
        ]
        distance = cKDTree(np.concatenate(lines) * 0.25 - HALF).query(points)[0]
        rows.append(np.copysign(distance, level(subject, row, points)))
    return np.stack(rows).astype(np.float32)


@pytest.fixture(scope="session")
def starmen() -> Starmen:
    cohort = draw_starmen(60, seed=1)
    grid = Grid((2 * HALF + 1, 2 * HALF + 1, 1), (1.0, 1.0, 1.0))
    declared = [Covariate(name, "continuous", reference=0.0) for name in ("arms", "legs")]
    schema = CovariateSchema.fit(cohort.participants, declared)
    frame = schema.transfer(cohort.participants)
    data = flat_distances(cohort, frame, grid)
    columns = Columns((), grid.size, grid)
    model, history = AdditiveShape.fit(Dataset(data, frame, schema, columns), SETTINGS, seed=0)
    return Starmen(cohort, frame, schema, columns, data, model, history)
