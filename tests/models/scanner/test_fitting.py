"""Cohorts that are small, odd or simulated."""

import numpy as np
import pandas as pd
import pytest

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.cohort.covariates import POOLED, Categorical, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.errors import CovariateError, ModelError
from medrep.models.scanner import ScannerHarmonizer
from medrep.simulate import simulate_participants
from medrep.simulate.brains import draw_brains, render_brain
from medrep.simulate.planted_effects import SiteEffect, apply_site_effect
from tests.models.scanner.conftest import GRID, person

SITE = Covariate("site", "categorical", "batch")


def schema_of(levels):
    return CovariateSchema((Categorical(SITE, tuple(levels), tuple(1 for _ in levels), POOLED),))


def fit(rows, levels, grid, known="AB", **options):
    frame = pd.DataFrame({"site": list(levels)}, index=[f"sub-{k:02d}" for k in range(len(rows))])
    effects = np.zeros((len(rows), 0))
    dataset = Dataset(rows, frame, schema_of(known), Columns((), grid.size, grid))
    return ScannerHarmonizer.fit(dataset, effects, covariate="site", **options)


def people(shape, count, seed=0):
    """Draw people, every other of whom is at a darker, noisier scanner."""
    rng = np.random.default_rng(seed)
    clean = np.stack([person(rng, shape).ravel() for _ in range(count)])
    seen = clean.copy()
    seen[1::2] = 0.8 * clean[1::2] + 0.02 * rng.standard_normal(clean[1::2].shape).astype(np.float32)
    return clean, seen, ["AB"[k % 2] for k in range(count)]


@pytest.mark.parametrize(
    "grid",
    [Grid((16, 16, 16), (1.0, 1.0, 1.0)), Grid((6, 24, 20), (5.0, 1.0, 1.0)), Grid((24, 20, 1), (1.0, 1.0, 4.0))],
    ids=["small", "anisotropic", "slice"],
)
def test_small_and_anisotropic_grids(grid):
    clean, seen, levels = people(grid.shape, 40)
    transformed = fit(seen[:30], levels[:30], grid).transform(seen[30:], levels[30:], "A")
    before, after = (np.mean((rows[1::2] - clean[31::2]) ** 2) for rows in (seen[30:], transformed))
    assert after < before / 8


def test_a_simulated_head_comes_back():
    table = simulate_participants(44, n_sites=2, seed=1)
    spacing, shape = 8.0, (20, 24, 20)
    effect = SiteEffect(
        gain=0.8, gamma=1.2, bias=(0.1, -0.05, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0), blur_mm=4.0, noise=0.01
    )
    clean = [render_brain(brain, shape, spacing) for brain in draw_brains(table, seed=1)]
    site = table["site"].tolist()
    seen = [
        apply_site_effect(volume, (spacing,) * 3, effect, seed=k) if site[k] == "S1" else volume
        for k, volume in enumerate(clean)
    ]
    rows = np.stack(seen).reshape(44, -1)
    model = fit(rows, site, Grid(shape, (spacing,) * 3), ("S0", "S1"))
    assert model.reference == "S0"
    own = [k for k, level in enumerate(site) if level == "S1"]
    transformed = model.transform(rows[own], ["S1"] * len(own), "S0")
    truth = np.stack(clean).reshape(44, -1)[own]
    assert np.mean((transformed - truth) ** 2) < 0.25 * np.mean((rows[own] - truth) ** 2)


def test_a_memory_mapped_matrix(tmp_path, cohort, model, train):
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(len(train), GRID.size))
    mapped[:] = cohort.seen[train]
    frame, effects = cohort.frame.iloc[train], cohort.effects[train]
    dataset = Dataset(mapped, frame, schema_of("AB"), Columns((), GRID.size, GRID))
    found = ScannerHarmonizer.fit(dataset, effects, covariate="site")
    np.testing.assert_array_equal(found.known.scanners["B"].shading, model.known.scanners["B"].shading)


def test_a_level_of_few_people_is_shrunk_and_noted():
    grid = Grid((12, 12, 12), (1.0, 1.0, 1.0))
    _, seen, levels = people(grid.shape, 24)
    levels[1], levels[3] = "C", "C"
    model = fit(seen, levels, grid, "ABCD")
    assert model.notes == (
        "C: gain and shading alone are estimated, shrunk: fewer than 5 usable images (2)",
        "D: nobody with a usable image; its images stay as they are",
    )
    few = model.known.scanners["C"]
    assert model.reference == "A"
    assert not few.spreads
    assert not few.curve.any()
    assert -0.3 < few.shading[0] < -0.05
    assert model.known.scanners["D"].does_nothing
    transformed = model.transform(seen[:4], ["A", "C", "D", "C"], POOLED)
    assert np.isfinite(transformed).all()
    np.testing.assert_array_equal(model.transform(seen[:1], ["D"], "A"), seen[:1])


def test_the_unit_of_the_images_does_not_matter():
    grid = Grid((12, 12, 12), (1.0, 1.0, 1.0))
    _, seen, levels = people(grid.shape, 24)
    transformed, large = (fit(unit * seen, levels, grid).transform(unit * seen, levels, "A") for unit in (1, 1024))
    np.testing.assert_allclose(large / 1024, transformed, atol=1e-4)


def test_one_level():
    grid = Grid((12, 12, 12), (1.0, 1.0, 1.0))
    _, seen, _ = people(grid.shape, 12)
    model = fit(seen, "A" * 12, grid, "A")
    assert model.reference == "A"
    for target in ("A", POOLED):
        np.testing.assert_array_equal(model.transform(seen, ["A"] * 12, target), seen)


def test_images_of_one_value_are_left_out():
    grid = Grid((12, 12, 12), (1.0, 1.0, 1.0))
    _, seen, levels = people(grid.shape, 24)
    without = fit(seen[2:], levels[2:], grid)
    seen[:2] = 5.0
    model = fit(seen, levels, grid)
    assert model.notes == tuple(f"{level}: images of one value, left out and left as they are: 1" for level in "AB")
    np.testing.assert_allclose(model.known.scanners["B"].shading, without.known.scanners["B"].shading, atol=0.01)


def test_nothing_but_images_of_one_value():
    grid = Grid((5, 5, 5), (1.0, 1.0, 1.0))
    flat = np.ones((20, 125), np.float32)
    flat[3] = np.nan
    model = fit(flat, "AB" * 10, grid)
    np.testing.assert_array_equal(model.transform(flat, ["A", "B"] * 10, POOLED), flat)
    again = from_state(ScannerHarmonizer, *to_state(model))
    assert again.notes == model.notes


def test_refusals():
    grid = Grid((6, 6, 6), (1.0, 1.0, 1.0))
    _, seen, levels = people(grid.shape, 12)
    with pytest.raises(CovariateError, match=r"anchor 'Z' has no people with a usable image; choose one of A, B"):
        fit(seen, levels, grid, reference="Z")
    with pytest.raises(CovariateError, match=r"levels other than A: sub-01: 'B'|levels other than A \(6\)"):
        fit(seen, levels, grid, "A")
    with pytest.raises(ModelError, match="216 voxels, the grid 8"):
        fit(seen, levels, Grid((2, 2, 2), (1.0, 1.0, 1.0)))
