"""Sites of surfaces: how far their locations lie from what was planted, with and without borrowing over the mesh."""

from __future__ import annotations

from collections.abc import Sequence
from time import process_time

import numpy as np
import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Mesh
from medrep.cohort.neighbours import icosphere
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings

LEVEL, PEOPLE, SITES = 5, 100, 4  # fsaverage5: 10,242 vertices a hemisphere
SEEDS = (100, 101, 102, 103)  # steps of the walk were chosen on 0 to 3
CASES = {
    "smooth over 8 mm": (8.0, 0.2),
    "smooth over 15 mm": (15.0, 0.2),
    "weak, over 15 mm": (15.0, 0.05),
    "smooth over 30 mm": (30.0, 0.1),
    "no site effect": (15.0, 0.0),
}
NOISES = {"white": 0, "smooth": 4, "smoother": 16}
_RADIUS = 100.0  # mm
_WHITE = 0.5  # share of white noise in smooth noise, as a deviation
_DECLARED = (Covariate("age", "continuous"), Covariate("site", "categorical", role="batch"))
_NAMES = ("case", "noise", "columns", "mesh", "ratio", "seconds columns", "seconds mesh")


def sphere(level: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points of FreeSurfer's icosphere on the unit sphere, and the edges."""
    points = np.zeros((0, 3))
    for step in range(level + 1):
        faces = icosphere(step)
        edges = np.unique(np.sort(np.concatenate([faces[:, :2], faces[:, 1:], faces[:, ::2]]), axis=1), axis=0)
        if not step:
            points = _icosahedron(edges)
            continue
        both = edges[(edges[:, 0] < len(points)) & (edges[:, 1] >= len(points))]
        middle = np.zeros((edges.max() + 1 - len(points), 3))
        np.add.at(middle, both[:, 1] - len(points), points[both[:, 0]])
        points = np.concatenate([points, middle / np.linalg.norm(middle, axis=1, keepdims=True)])
    return points, edges


def _icosahedron(edges: np.ndarray) -> np.ndarray:
    """Return the corners of an icosahedron: three eigenvectors of its edges lie in space as they do."""
    near = np.zeros((12, 12))
    near[edges[:, 0], edges[:, 1]] = near[edges[:, 1], edges[:, 0]] = 1
    return np.linalg.eigh(near)[1][:, -4:-1] * 2


def _smooth(points: np.ndarray, width: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return random fields of both hemispheres, Gaussian of a width in mm, deviation 1."""
    fields = []
    for _ in range(2):
        middles = rng.normal(size=(400 if width > 8 else 4000, 3))
        middles /= np.linalg.norm(middles, axis=1, keepdims=True)
        reach = np.exp(-(1 - np.clip(points @ middles.T, -1, 1)) * (_RADIUS / width) ** 2)
        fields.append(rng.normal(size=(count, len(middles))) @ reach.T)
    whole = np.concatenate(fields, axis=1)
    return np.asarray(whole / whole.std(axis=1, keepdims=True))


def _noise(edges: np.ndarray, shape: tuple[int, int], steps: int, rng: np.random.Generator) -> np.ndarray:
    values = rng.normal(size=shape)
    degree = np.maximum(np.bincount(edges.ravel(), minlength=shape[1]), 1)
    for _ in range(steps):
        near = np.zeros(shape)
        for column, other in (edges.T, edges.T[::-1]):
            for row, own in zip(near, values, strict=True):
                row += np.bincount(column, own[other], shape[1])
        values = 0.5 * values + 0.5 * near / degree
    values /= values.std()
    return values if not steps else (1 - _WHITE**2) ** 0.5 * values + _WHITE * rng.normal(size=shape)


def measure(case: str, noise: str, seeds: Sequence[int]) -> dict[str, object]:
    """Return the root mean square error of the sites' locations, in deviations, with each way of borrowing."""
    points, edges = sphere(LEVEL)
    both = np.concatenate([edges, edges + len(points)]).astype(np.int32)
    width, amplitude = CASES[case]
    errors: dict[str, list[float]] = {"columns": [], "mesh": []}
    seconds: dict[str, float] = {"columns": 0.0, "mesh": 0.0}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        site = rng.permutation(np.arange(PEOPLE) % SITES)
        truth = amplitude * (_smooth(points, width, SITES, rng) + 0.5 * rng.normal(size=(SITES, 1)))
        truth -= truth.mean(axis=0)
        age = rng.uniform(20, 80, PEOPLE)
        values = truth[site] + _noise(both, (PEOPLE, 2 * len(points)), NOISES[noise], rng) + 0.01 * age[:, None]
        keys = pd.Index([f"sub-{k:03d}" for k in range(PEOPLE)], name="participant_id")
        frame = pd.DataFrame({"age": age, "site": [f"S{k}" for k in site]}, index=keys)
        schema = CovariateSchema.fit(frame, _DECLARED)
        names = tuple(f"{side}_{k}" for side in ("left", "right") for k in range(len(points)))
        for way in errors:
            columns = Columns(names, len(names), None, mesh=Mesh(both) if way == "mesh" else None)
            begun = process_time()
            model, _ = LinearModel.fit(
                Dataset(values, schema.transfer(frame), schema, columns), LinearSettings(components=0)
            )
            seconds[way] += process_time() - begun
            errors[way].append(float(np.sqrt(np.mean((model.batches.location / model.sd - truth) ** 2))))
    means = {way: float(np.mean(found)) for way, found in errors.items()}
    ratio = means["mesh"] / means["columns"]
    times = {f"seconds {way}": each / len(seeds) for way, each in seconds.items()}
    return {"case": case, "noise": noise, **means, "ratio": ratio, **times}


def run(options: Options) -> Report:
    """Measure every case under every noise."""
    rows = []
    for case in CASES:
        for noise in NOISES:
            rows.append(measure(case, noise, SEEDS[:1] if options.quick else SEEDS))
            say("  ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in rows[-1].values()))
    table = pd.DataFrame(rows)
    none = table["case"] == "no site effect"
    planted, null = table[~none]["ratio"], table[none]["ratio"]
    cost = table["seconds mesh"].sum() / table["seconds columns"].sum()
    lines = (
        Line(
            "surface_borrowing",
            "smaller errors where sites are smooth",
            f"{planted.max():.2f} of before",
            planted.max() < 1,
        ),
        Line(
            "surface_borrowing", "no larger errors where there is none", f"{null.max():.2f} of before", null.max() <= 1
        ),
        Line("surface_borrowing", "at most twice the time of a fit", f"{cost:.2f} times", cost <= 2),
    )
    title = (
        f"Error of sites' locations, {2 * (10 * 4**LEVEL + 2)} vertices, {PEOPLE} people, {SITES} sites, in deviations"
    )
    return Report({"surface_borrowing": Table(table, _NAMES, title)}, lines)
