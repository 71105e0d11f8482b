"""Made-up people at two scanners, of which the tests know what they do."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.models.scanner import ScannerHarmonizer
from medrep.models.scanner.forward import DEGREES, Frame, Rendering, Scanner

GRID = Grid((20, 24, 22), (1.0, 1.0, 1.0))
BOX = (slice(2, 18), slice(2, 22), slice(3, 19))
PEOPLE = 90


@dataclass(frozen=True)
class Cohort:
    """Everybody as the anchor sees them and as they were seen."""

    clean: np.ndarray
    seen: np.ndarray
    frame: pd.DataFrame
    effects: np.ndarray

    def of(self, level: str) -> np.ndarray:
        return np.flatnonzero(self.frame["site"] == level)

    def fit(self, rows: np.ndarray, **options: object) -> ScannerHarmonizer:
        schema = CovariateSchema.fit(self.frame, [Covariate("site", "categorical", "batch")])
        grid = options.pop("grid", GRID)
        dataset = Dataset(self.seen[rows], self.frame.iloc[rows], schema, Columns((), grid.size, grid))
        return ScannerHarmonizer.fit(dataset, self.effects[rows], covariate="site", **options)


def person(rng: np.random.Generator, shape=(16, 20, 16), brightness: float = 0.0, sharpness: float = 1.1) -> np.ndarray:
    """Draw a person: the same tissue layout as everybody, individual detail."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    layout = 0.5 + 0.25 * np.sin(3 * x + 1) * np.cos(2 * y) + 0.15 * np.cos(4 * z)
    detail = gaussian_filter(rng.standard_normal(shape), sharpness)
    return np.maximum(layout + 0.12 * detail / detail.std() + brightness, 0.02).astype(np.float32)


def padded(values: np.ndarray) -> np.ndarray:
    return np.pad(values, ((2, 2), (2, 2), (3, 3)), mode="edge")


def true_scanner(frame: Frame) -> Scanner:
    shading = 0.06 * np.random.default_rng(3).standard_normal(len(DEGREES))
    shading[0] = -0.2
    curve = np.zeros(frame.curves)
    curve[0] = 0.15
    taps = np.zeros((3, 2))
    taps[:, 0] = 0.12
    return Scanner(shading, curve, taps, 0.02)


@pytest.fixture(scope="session")
def axes() -> Frame:
    return Frame(
        GRID.shape, GRID.spacing, ((2, 17), (2, 21), (3, 18)), 0.05, float(np.arcsinh(10.0)), (1.5, 2.5, 3.0, 3.6)
    )


@pytest.fixture(scope="session")
def cohort(axes) -> Cohort:
    """Sites A, the sharp one, and B; ages differ between them, and older people are brighter."""
    rng = np.random.default_rng(0)
    rendering = Rendering(axes, true_scanner(axes))
    clean, seen, ages = [], [], []
    levels = ["AB"[number % 2] for number in range(PEOPLE)]
    for level in levels:
        years = float(rng.normal(0.5 if level == "B" else -0.5, 1))
        values = person(rng, brightness=0.03 * years)
        clean.append(padded(values).ravel())
        seen.append(padded(rendering.simulate(values, BOX, rng) if level == "B" else values).ravel())
        ages.append(years)
    keys = [f"sub-{number:03d}" for number in range(PEOPLE)]
    effects = np.array(ages)[:, None]
    frame = pd.DataFrame({"site": levels}, index=keys)
    return Cohort(np.stack(clean), np.stack(seen), frame, effects - effects.mean())


@pytest.fixture(scope="session")
def train() -> np.ndarray:
    return np.arange(70)


@pytest.fixture(scope="session")
def model(cohort, train) -> ScannerHarmonizer:
    return cohort.fit(train)


def content(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, *GRID.shape)[:, *BOX]


def error(rows: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((content(rows) - content(wanted)) ** 2)))
