"""Small runs of every kind, made once, whose pages are looked at."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from medrep.cli import main

FEW = ("--participant-label", "0001", "0002")
SHAPE = ("--set", "settings={rounds: 1, modes: 30, points: 400, careful_points: 600, threads: 1, bootstrap: 4}")
Runs = Callable[[str], Path]


def run(*arguments: object) -> int:
    return main([*(str(argument) for argument in arguments), "--quiet"])


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function from the name of a run to its folder; what nobody asks for is not made, and nothing is made twice."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "report-runs"
    folder.mkdir(exist_ok=True)

    def commands(name: str) -> tuple[object, ...]:
        cohorts = {"table": "features", "scans": "volume", "organs": "shape"}
        if name in cohorts:
            sites = ("--sites", 1) if name == "organs" else ()
            return (
                "simulate",
                folder / name,
                "--kind",
                cohorts[name],
                "--n",
                {"table": 140, "scans": 16, "organs": 8}[name],
                *sites,
            )
        if name == "table_model":
            return ("train", made("table"), folder / name, "--hold-out", 0.5, "--set", "settings.components=6")
        if name == "straight_model":
            return ("train", made("table"), folder / name, "--hold-out", 0.5, "--set", "settings.spline_degrees=1")
        if name in {"table_audit", "straight_audit"}:
            model = made(name.replace("audit", "model")) / "model"
            return ("audit", made("table"), folder / name, "--model", model, "--by", "sex", "--min-n", 12)
        if name == "scans_model":
            return ("train", made("scans"), folder / name, "--set", "input.kind=volume")
        if name == "organs_model":
            return ("train", made("organs"), folder / name, "--config", "additive_shape.yaml", *SHAPE)
        cohort, _, what = name.partition("_")
        model = made(f"{cohort}_model") / "model"
        if what == "moved":
            return ("counterfactual", made(cohort), folder / name, "--model", model, "--set", "age=55", *FEW)
        removed = "age" if cohort == "organs" else "site"
        return ("export", made(cohort), folder / name, "--model", model, "--remove", removed, "--workers", 1)

    def made(name: str) -> Path:
        with FileLock(folder / f"{name}.lock"):
            if not (folder / f"{name}.made").exists():
                assert run(*commands(name)) == 0
                (folder / f"{name}.made").touch()
        return folder / name

    return made
