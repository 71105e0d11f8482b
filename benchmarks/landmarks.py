"""Landmarks of real people and apes: effects of covariates on shape, beside Procrustes analysis done plainly.

Brains: 24 landmarks in three dimensions of 58 people; age and sex. Apes: 8 landmarks in two dimensions of 167 skulls; species by
sex. medrep reads them as files of landmarks, aligns them (`input.align: similarity`) and fits its linear model. The peer is
ordinary Procrustes regression: generalised Procrustes analysis written here on its own, and least squares on its coordinates.

Error: share of the variance of shapes of people left out (ten folds, over seeds of the folds) that covariates do not tell, 1
where they tell nothing. p: share of permutations whose sum of squares of an effect, given the others, is as large (Freedman and
Lane 1983: residuals without the effect are permuted), with the same permutations for both.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

import medrep as mr
from benchmarks.data import data_folder
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.dataset import Dataset
from medrep.models import LinearModel, LinearSettings

FOLDS, SEEDS, PERMUTATIONS = 10, 5, 999
SETTINGS = LinearSettings(components=0, spline_degrees=1)


@dataclass(frozen=True)
class Shapes:
    """A data set.

    Attributes:
        name: Its name.
        points: Landmarks as measured.
        table: Covariates.
        covariates: As a configuration declares them.
        interactions: Pairs that act together.
    """

    name: str
    points: np.ndarray
    table: pd.DataFrame
    covariates: dict[str, str]
    interactions: tuple[tuple[str, ...], ...] = ()


def data_sets() -> list[Shapes]:
    """Read the brains and the apes."""
    folder = data_folder() / "landmarks"
    people = pd.read_csv(folder / "brains_participants.csv")
    brains = Shapes(
        "brains",
        np.load(folder / "brains.npz")["x"],
        people[["age", "sex"]],
        {"age": "continuous", "sex": "categorical"},
    )
    apes = np.load(folder / "apes.npz")
    kinds = pd.DataFrame({"species": [g[:-1] for g in apes["group"]], "sex": [g[-1] for g in apes["group"]]})
    both = {"species": "categorical", "sex": "categorical"}
    return [brains, Shapes("apes", apes["x"], kinds, both, (("species", "sex"),))]


def read(shapes: Shapes, folder: Path) -> Dataset:
    """Write the landmarks as a user has them, and read them with medrep."""
    ids = [f"sub-{number:03d}" for number in range(len(shapes.points))]
    axes = "xyz"[: shapes.points.shape[2]]
    for who, points in zip(ids, shapes.points, strict=True):
        path = folder / who / f"{who}_landmarks.tsv"
        path.parent.mkdir(parents=True)
        pd.DataFrame(points, columns=list(axes)).to_csv(path, sep="\t", index=False, float_format="%.12g")
    shapes.table.assign(participant_id=ids).to_csv(folder / "participants.tsv", sep="\t", index=False)
    declared = ", ".join(f"{name}: {{kind: {kind}}}" for name, kind in shapes.covariates.items())
    found = mr.read_cohort(folder, overrides=["input={kind: points, align: similarity}", f"covariates={{{declared}}}"])
    return replace(found, values=np.asarray(found.values, float))


def plainly_aligned(points: np.ndarray) -> np.ndarray:
    """Return coordinates after generalised Procrustes analysis, people x coordinates."""
    own = points - points.mean(axis=1, keepdims=True)
    own /= np.sqrt((own**2).sum(axis=(1, 2), keepdims=True))
    mean = own[0]
    for _ in range(100):
        turned = []
        for one in own:
            left, _, right = np.linalg.svd(one.T @ mean)
            left[:, -1] *= np.sign(np.linalg.det(left @ right))
            turned.append(one @ left @ right)
        own = np.stack(turned)
        new = own.mean(axis=0)
        new /= np.sqrt((new**2).sum())
        if np.abs(new - mean).max() < 1e-10:
            break
        mean = new
    return own.reshape(len(own), -1)


def plain_design(shapes: Shapes, without: str = "") -> np.ndarray:
    """Return the columns of ordinary regression; of an interaction the products."""
    parts: dict[str, np.ndarray] = {}
    for name, kind in shapes.covariates.items():
        own = shapes.table[name]
        parts[name] = (
            own.to_numpy(float)[:, None]
            if kind == "continuous"
            else pd.get_dummies(own, drop_first=True).to_numpy(float)
        )
    for first, second in shapes.interactions:
        parts[f"{first}:{second}"] = np.concatenate(
            [parts[first] * column[:, None] for column in parts[second].T], axis=1
        )
    kept = [part for name, part in parts.items() if name != without and without not in name.split(":")]
    return np.concatenate([np.ones((len(shapes.table), 1)), *kept], axis=1)


def expected(model: LinearModel, dataset: Dataset) -> np.ndarray:
    """Return the shape that the model expects of each, aligned coordinates."""
    levels = model.design.batches(dataset.covariates)
    every = slice(0, model.columns.count)
    return model.mean(
        model.design.effects(dataset.covariates), levels, model.scale(levels, model.batches.log_scale), every
    )


def fitted(dataset: Dataset, shapes: Shapes) -> LinearModel:
    """Fit medrep's linear model."""
    return LinearModel.fit(dataset, replace(SETTINGS, interactions=shapes.interactions))[0]


def folds(people: int, seed: int) -> np.ndarray:
    """Return the fold of each person."""
    return np.random.default_rng([seed, 3]).permutation(np.arange(people) % FOLDS)


def errors(shapes: Shapes, dataset: Dataset, plain: np.ndarray, seed: int) -> dict[str, float]:
    """Return the share of variance that is not told of people left out."""
    design, fold = plain_design(shapes), folds(len(plain), seed)
    missed = {"medrep": 0.0, "procrustes": 0.0}
    for number in range(FOLDS):
        there = fold == number
        model = fitted(dataset.take(~there), shapes)
        own = dataset.take(there)
        missed["medrep"] += float(((np.asarray(own.values) - expected(model, own)) ** 2).sum())
        beta = np.linalg.lstsq(design[~there], plain[~there], rcond=None)[0]
        missed["procrustes"] += float(((plain[there] - design[there] @ beta) ** 2).sum())
    values = np.asarray(dataset.values)
    whole = {
        "medrep": ((values - values.mean(axis=0)) ** 2).sum(),
        "procrustes": ((plain - plain.mean(axis=0)) ** 2).sum(),
    }
    return {name: missed[name] / float(whole[name]) for name in missed}


def p_values(shapes: Shapes, dataset: Dataset, plain: np.ndarray, name: str, permutations: int) -> dict[str, float]:
    """Return the p of a covariate given the others; with an interaction, of the covariate and what it acts with."""
    whole, others = plain_design(shapes), plain_design(shapes, without=name)
    left = [np.linalg.qr(design)[0] for design in (whole, others)]
    values = np.asarray(dataset.values)
    bases = {"medrep": values, "procrustes": plain}
    reduced = {key: left[1] @ (left[1].T @ own) for key, own in bases.items()}
    single = LinearModel.fit(dataset.with_values(values), replace(SETTINGS, interactions=shapes.interactions))[0]
    hat = model_hat(single, dataset)
    counts = dict.fromkeys(bases, 1)
    first: dict[str, float] = {}
    rng = np.random.default_rng([11, len(name)])
    for number in range(permutations + 1):
        order = np.arange(len(plain)) if number == 0 else rng.permutation(len(plain))
        for key, own in bases.items():
            data = reduced[key] + (own - reduced[key])[order]
            fit = hat @ data if key == "medrep" else left[0] @ (left[0].T @ data)
            squares = float(((fit - left[1] @ (left[1].T @ data)) ** 2).sum())
            if number == 0:
                first[key] = squares
            else:
                counts[key] += squares >= first[key] * (1 - 1e-9)
    return {key: counts[key] / (permutations + 1) for key in bases}


def model_hat(model: LinearModel, dataset: Dataset) -> np.ndarray:
    """Return what medrep's fit multiplies data with: found by fitting it to one column of each person, 0 elsewhere.

    Without batches the fit is linear in the data, column by column.
    """
    people = len(dataset)
    names = tuple(f"e{k}" for k in range(people))
    noise = np.random.default_rng(5).normal(size=(people, people))
    columns = replace(dataset.columns, names=names, count=people)
    found = LinearModel.fit(Dataset(noise, dataset.covariates, dataset.schema, columns), model.settings)[0]
    mean = expected(found, Dataset(noise, dataset.covariates, dataset.schema, columns))
    return np.asarray(np.linalg.solve(noise.T, mean.T).T)


def run(options: Options) -> Report:
    """Measure and judge."""
    rows: list[dict[str, object]] = []
    lines: list[Line] = []
    for shapes in data_sets():
        say(f"landmarks: {shapes.name}")
        with tempfile.TemporaryDirectory() as scratch:
            dataset = read(shapes, Path(scratch))
        plain = plainly_aligned(shapes.points)
        told = [errors(shapes, dataset, plain, seed) for seed in options.seeds(SEEDS)]
        mean = {name: float(np.mean([one[name] for one in told])) for name in ("medrep", "procrustes")}
        rows.append({"data": shapes.name, "figure": "error of people left out", **mean})
        lines.append(
            Line(
                "landmarks",
                f"{shapes.name}: cross-validated error at most Procrustes regression's + .005",
                f"{mean['medrep']:.4f}, {mean['procrustes']:.4f}",
                mean["medrep"] <= mean["procrustes"] + 0.005,
            )
        )
        for name in shapes.covariates:
            p = p_values(shapes, dataset, plain, name, 199 if options.quick else PERMUTATIONS)
            rows.append({"data": shapes.name, "figure": f"p of {name}", **p})
            lines.append(
                Line(
                    "landmarks",
                    f"{shapes.name}: permutation p of {name} at most Procrustes ANOVA's + .01",
                    f"{p['medrep']:.3f}, {p['procrustes']:.3f}",
                    p["medrep"] <= p["procrustes"] + 0.01,
                )
            )
    table = Table(
        pd.DataFrame(rows), ("data", "figure", "medrep", "procrustes"), "Landmarks, beside Procrustes analysis"
    )
    return Report({"landmarks": table}, tuple(lines))
