"""Five small cohorts, one of each kind of input, and the commands that take each from a table of people to what is handed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import commands
from tests.bold_cohorts import save_atlas, write_bold_cohort

Command = tuple[str, ...]

CONNECTIVITY = "input={kind: connectivity, suffix: bold, desc: preproc, entities: {task: rest}, atlas: %s}"
FEW_ROUNDS = "settings={rounds: 1, modes: 30, points: 400, careful_points: 600, threads: 1, bootstrap: 4}"
SHORT_FEATURES = "settings={latents: 8, hidden: [16], training: {epochs: 6, batch: 32, threads: 1}}"
SHORT_VOLUME = "settings={body: conv, strength: 1, latents: 4, hidden: [4, 8, 8], training: {epochs: 1, threads: 1}}"
COARSE = "input={kind: volume, suffix: T1w, spacing: [8, 8, 8], shape: [20, 24, 20]}"
ZEROS = (0.6, 0.45, 0.2, 0.05)
"""Shares of exact zeros of the first columns of the zero-inflated table."""


@dataclass(frozen=True)
class SmallCohort:
    """A generated cohort and what is run on it.

    Attributes:
        write: Writes it into a folder.
        commands: Called with its path, return command lines that write into the current folder.
    """

    write: Callable[[Path], object]
    commands: Callable[[str], tuple[Command, ...]]


def _simulate(kind: str, people: int, *more: str) -> Callable[[Path], object]:
    return lambda folder: commands.medrep("simulate", folder, "--kind", kind, "--n", str(people), "--seed", "5", *more)


def _write_zero_inflated(folder: Path) -> None:
    """A table of features whose lowest values in the first columns are all 0, as a lesion load's are."""
    _simulate("features", 120)(folder)
    table = pd.read_csv(folder / "features.tsv", sep="\t")
    for name, share in zip(table.columns[1:], ZEROS, strict=False):
        values = table[name].to_numpy(dtype=float)
        table[name] = np.maximum(values - np.quantile(values, share), 0.0)
    commands.write_table(folder / "features.tsv", table)


def _write_bold(folder: Path) -> None:
    write_bold_cohort(folder, people=24, seed=5)
    save_atlas(folder.with_name("atlas.nii.gz"))


def _exports(cohort: str, model: str, name: str, *removed: str) -> tuple[Command, ...]:
    into = {each: f"{name}_without_{each.replace(',', '_')}" for each in removed}
    return tuple(
        ("export", cohort, into[each], "--model", f"{model}/model", "--remove", each, "--workers", "1")
        for each in removed
    )


def _score(cohort: str, model: str, name: str) -> Command:
    return ("score", cohort, f"{name}_scores", "--model", f"{model}/model", "--workers", "1")


def _audit(cohort: str, model: str, name: str, fewest: int) -> Command:
    return ("audit", cohort, f"{name}_audit", "--model", f"{model}/model", "--by", "sex", "--min-n", str(fewest))


def _of_features(cohort: str) -> tuple[Command, ...]:
    return (
        ("train", cohort, "linear", "--hold-out", "0.4"),
        *_exports(cohort, "linear", "linear", "site", "site,age,sex"),
        _score(cohort, "linear", "linear"),
        _audit(cohort, "linear", "linear", 10),
        ("train", cohort, "latents", "--config", "linear_latents.yaml"),
        *_exports(cohort, "latents", "latents", "site", "sex"),
        ("train", cohort, "vae", "--config", "vae_features.yaml", "--set", SHORT_FEATURES),
        *_exports(cohort, "vae", "vae", "site"),
        _score(cohort, "vae", "vae"),
    )


def _of_zero_inflated(cohort: str) -> tuple[Command, ...]:
    return (
        ("train", cohort, "linear"),
        *_exports(cohort, "linear", "linear", "site", "age"),
        _score(cohort, "linear", "linear"),
        ("train", cohort, "latents", "--config", "linear_latents.yaml"),
        *_exports(cohort, "latents", "latents", "site"),
    )


def _of_volumes(cohort: str) -> tuple[Command, ...]:
    return (
        ("train", cohort, "linear", "--set", "input.kind=volume", "--hold-out", "0.4"),
        *_exports(cohort, "linear", "linear", "site"),
        _score(cohort, "linear", "linear"),
        _audit(cohort, "linear", "linear", 4),
        ("train", cohort, "vae", "--config", "vae_volume.yaml", "--set", SHORT_VOLUME, "--set", COARSE),
        *_exports(cohort, "vae", "vae", "site"),
    )


def _of_shapes(cohort: str) -> tuple[Command, ...]:
    return (
        ("train", cohort, "shapes", "--config", "additive_shape.yaml", "--set", FEW_ROUNDS),
        *_exports(cohort, "shapes", "shapes", "age"),
        _score(cohort, "shapes", "shapes"),
    )


def _of_connectivity(cohort: str) -> tuple[Command, ...]:
    chosen = CONNECTIVITY % Path(cohort).with_name("atlas.nii.gz")
    return (
        ("train", cohort, "linear", "--set", chosen),
        *_exports(cohort, "linear", "linear", "site"),
        _score(cohort, "linear", "linear"),
    )


SMALL_COHORTS = {
    "features": SmallCohort(_simulate("features", 120), _of_features),
    "zero_inflated": SmallCohort(_write_zero_inflated, _of_zero_inflated),
    "volumes": SmallCohort(_simulate("volume", 20), _of_volumes),
    "shapes": SmallCohort(_simulate("shape", 8, "--sites", "1"), _of_shapes),
    "connectivity": SmallCohort(_write_bold, _of_connectivity),
}
