"""What an audit and a promotion cost: 500 people x 2000 features, and a registry with 200 versions."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient

from benchmarks import commands
from benchmarks.report import Line, Options, Report, Table, say

PEOPLE, FEATURES, SITES, VERSIONS = 500, 2000, 6, 200
AUDIT_S, PROMOTE_S = 300.0, 5.0


def run(_options: Options) -> Report:
    """Train, audit, register, fill the registry and promote, each as a user would."""
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as name:
        work = Path(name)
        _write_cohort(work / "cohort")
        commands.medrep("train", work / "cohort", work / "trained", "--hold-out", "0.5")
        say("audit_cost: audit")
        model, store = work / "trained" / "model", f"sqlite:///{work / 'mlflow.db'}"
        audit = commands.medrep(
            "audit",
            work / "cohort",
            work / "audit",
            "--model",
            model,
            "--outcome",
            "diagnosis",
            "--intersect",
            "sex,site",
        )
        findings = pd.read_csv(work / "audit" / "audit.tsv", sep="\t")
        say("audit_cost: registry")
        register = commands.medrep(
            "register", model, "--name", "bench", "--audit", work / "audit", "--tracking-uri", store
        )
        client = MlflowClient(store, store)
        first = client.get_model_version("bench", "1")
        for _ in range(VERSIONS - 1):
            client.create_model_version("bench", first.source, first.run_id, tags=dict(first.tags))
        # Site stays readable in 2000 columns from 83 people a site, and the shipped gates say so; here the clock is asked.
        (work / "gates.yaml").write_text("- {name: composition, metric: cf_composition, estimate: {max: 1}}\n")
        promote = commands.medrep("promote", "bench", "--gates", work / "gates.yaml", "--tracking-uri", store)
        begun = time.perf_counter()
        champion = client.get_model_version_by_alias("bench", "champion").version
        rows = [("audit", audit), ("register", register), (f"promote, {VERSIONS} versions", promote)]
        rows.append(("alias looked up", time.perf_counter() - begun))
    table = pd.DataFrame(rows, columns=["what", "seconds"]).assign(findings=len(findings))
    lines = (
        Line("audit_cost", f"audit of {PEOPLE} x {FEATURES} in < 5 min", f"{audit:.0f} s", audit < AUDIT_S),
        Line(
            "audit_cost",
            f"promote among {VERSIONS} versions in < 5 s, start-up included",
            f"{promote:.1f} s (version {champion})",
            promote < PROMOTE_S,
        ),
    )
    return Report({"audit_cost": Table(table, tuple(table), "Seconds of whole commands")}, lines)


def _write_cohort(folder: Path) -> None:
    """Write 1000 people, of whom half are held out, with age, sex, site and diagnosis in 2000 features."""
    rng = np.random.default_rng(7)
    people = 2 * PEOPLE
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:04d}" for k in range(people)],
            "age": rng.uniform(20, 80, people).round(1),
            "sex": rng.choice(["F", "M"], people),
            "site": rng.choice([f"S{k}" for k in range(SITES)], people),
            "diagnosis": rng.choice(["control", "patient"], people),
        }
    )
    data = rng.normal(size=(people, 20)) @ rng.normal(size=(20, FEATURES)) + rng.normal(size=(people, FEATURES))
    data += 0.5 * rng.normal(size=(SITES, FEATURES))[table["site"].str[1].astype(int)]
    data += np.outer((table["age"] - 50) / 17, rng.normal(size=FEATURES)) * 0.3
    data += np.outer(table["sex"] == "M", rng.normal(size=FEATURES)) * 0.3
    data += np.outer(table["diagnosis"] == "patient", rng.normal(size=FEATURES)) * 0.2
    features = pd.DataFrame(data, columns=[f"x{k}" for k in range(FEATURES)])
    commands.write_table(folder / "participants.tsv", table)
    commands.write_table(folder / "features.tsv", pd.concat([table[["participant_id"]], features], axis=1))
