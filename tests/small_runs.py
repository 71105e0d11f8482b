"""Small runs of every kind, made once, that tests of reports and of audits look at."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from filelock import FileLock

from medrep.cli import main

FEW = ("--participant-label", "0001", "0002")
SHAPE = ("--set", "settings={rounds: 1, modes: 30, points: 400, careful_points: 600, threads: 1, bootstrap: 4}")
BY = ("--by", "sex,age:40/60,site", "--intersect", "sex,site")
ASKED = (*BY, "--outcome", "diagnosis", "--prediction", "risk", "--positive", "control")
TRAINED = {
    "scans_model": ("--set", "input.kind=volume"),
    "visits_model": ("--set", "input.kind=features"),
    "visits_charts": ("--config", "growth_chart.yaml"),
    "organs_model": ("--config", "additive_shape.yaml", *SHAPE),
}
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
        generated = {
            "table": ("features", 200, 3, 5),
            "scans": ("volume", 16, 4, 0),
            "organs": ("shape", 8, 1, 0),
            "visits": ("features", 60, 3, 2),
        }
        if name in generated:
            kind, people, sites, seed = generated[name]
            size = ("--n", people, "--sites", sites, "--seed", seed)
            again = ("--visits", 3) if name == "visits" else ()
            return ("simulate", folder / name, "--kind", kind, *size, *again)
        if name == "table_model":
            return ("train", made("table"), folder / name, "--hold-out", 0.5, "--set", "settings.components=6")
        if name == "straight_model":
            fewer = ("--set", "covariates.sex=null", "--set", "settings.spline_degrees=1")
            return ("train", made("table"), folder / name, "--hold-out", 0.5, *fewer)
        if name == "table_audit":
            model, signed = made("table_model") / "model", ("--sign", made("key") / "key.pem")
            return ("audit", made("table"), folder / name, "--model", model, *ASKED, *signed)
        if name == "straight_audit":
            model = made("straight_model") / "model"
            return ("audit", made("table"), folder / name, "--model", model, "--by", "sex")
        if name in TRAINED:
            return ("train", made(name.partition("_")[0]), folder / name, *TRAINED[name])
        cohort, _, what = name.partition("_")
        model = made(f"{cohort}_{'charts' if what == 'chart' else 'model'}") / "model"
        if what == "chart":
            return (
                "chart",
                made(cohort),
                folder / name,
                "--model",
                model,
                "--draw",
                "region_001,region_002,region_003",
            )
        if what == "moved":
            return ("counterfactual", made(cohort), folder / name, "--model", model, "--set", "age=55", *FEW)
        removed = "age" if cohort == "organs" else "site"
        return ("export", made(cohort), folder / name, "--model", model, "--remove", removed, "--workers", 1)

    def made(name: str) -> Path:
        with FileLock(folder / f"{name}.lock"):
            if not (folder / f"{name}.made").exists():
                if name == "key":
                    _write_key(folder / name)
                else:
                    assert run(*commands(name)) == 0
                if name == "table":
                    _add_predictions(folder / name / "participants.tsv")
                (folder / f"{name}.made").touch()
        return folder / name

    return made


def _write_key(folder: Path) -> None:
    """Write a private key, and the public one beside it."""
    folder.mkdir()
    made, path = Ed25519PrivateKey.generate(), folder / "key.pem"
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    path.with_name("pub.pem").write_bytes(
        made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def _add_predictions(path: Path) -> None:
    """Give everybody a predicted risk that is right for four of five."""
    people = pd.read_csv(path, sep="\t")
    rng = np.random.default_rng(0)
    outcome = people["diagnosis"] == "control"
    people["risk"] = np.where(rng.random(len(people)) < 0.8, outcome, ~outcome) * 0.6 + 0.2
    people.to_csv(path, sep="\t", index=False)
