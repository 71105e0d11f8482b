"""``demo``: the whole job on a generated cohort - simulate, train, export to unseen people, look and measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from medrep._files import mark_output
from medrep.audit.probe_figures import Probed, age_r2, sex_auc, site_auc
from medrep.batch.run import BatchResult
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.kinds.volume import VolumeKind
from medrep.cohort.loaders import fill_matrix
from medrep.cohort.splits import split_participants
from medrep.config import read_config
from medrep.derivatives.bids import write_tsv
from medrep.derivatives.cohorts import TRUTH
from medrep.derivatives.figures import Row, before_and_after
from medrep.workflows.cohorts import check_output
from medrep.workflows.simulate import BRAIN_SHAPE, Design, simulate_cohort
from medrep.workflows.train import TrainOptions, train
from medrep.workflows.transform import ExportRequest, export

PEOPLE, SITES, COMPONENTS = 240, 4, 30
_LABELLED = VolumeKind(VolumeInput(desc="residualized"))


@dataclass(frozen=True)
class Demonstration:
    """Result of a demonstration: how cleaning of so many people went, and where results lie."""

    exported: BatchResult
    people: int
    results: Mapping[str, Path]


def demo(out: Path, listener: Listener = SILENT, *, seed: int = 0, overwrite: bool = False) -> Demonstration:
    """Run the job on generated brains and leave everything in OUT: cohort, model, clean, report.html, leakage.tsv.

    The model is fitted on one half of the people; what is shown and measured is the other half, with site removed and age and
    sex kept.
    """
    from medrep.report.build import write_report

    check_output(out, overwrite=overwrite)
    mark_output(out)
    raw = VolumeKind()
    listener.say(f"1/4 generate {PEOPLE} brains at {SITES} sites")
    simulate_cohort(out / "cohort", Design("volume", PEOPLE, SITES, seed), listener, overwrite=overwrite)
    cohort = read_cohort(out / "cohort", raw)
    part = split_participants(cohort.table, (0.5, 0.5), stratify="site", seed=seed)
    halves = [[str(who) for who in cohort.table["participant_id"][part == side]] for side in (0, 1)]
    listener.say("2/4 train the linear model on one half")
    config = read_config("linear.yaml", ["input.kind=volume"])
    options = TrainOptions(only=halves[0], overwrite=overwrite)
    train(out / "cohort", out / "trained", config, listener, options)
    listener.say("3/4 remove site from the other half, keep age and sex")
    request = ExportRequest(
        remove=("site",), keep=("age", "sex"), references={"site": "S0"}, only=halves[1], overwrite=overwrite
    )
    exported = export(out / "cohort", out / "clean", out / "trained" / "model", request, listener)
    listener.say("4/4 look and measure: what can probes read from people the model never saw?")
    states = {
        "before": read_cohort(out / "cohort", raw, only=halves[1]),
        "after": read_cohort(out / "clean", _LABELLED),
        "truth": read_cohort(out / "cohort" / TRUTH, raw, only=halves[1]),
    }
    images = {name: _images(state) for name, state in states.items()}
    _picture(out / "before_after.png", states["before"].table, images)
    _leakage(out / "leakage.tsv", states["before"].table, images, seed, listener)
    results = {
        "report": write_report(out),
        "cleaned": out / "clean",
        "picture": out / "before_after.png",
        "table": out / "leakage.tsv",
    }
    return Demonstration(cast(BatchResult, exported), len(halves[1]), results)


def _images(cohort: Cohort) -> np.ndarray:
    return fill_matrix(
        cohort.source.files, VolumeInput(), lambda n, v: np.empty((n, v), np.float32), lambda people: None
    ).rows


def _picture(path: Path, table: pd.DataFrame, images: dict[str, np.ndarray]) -> None:
    sites = table["site"].to_numpy(str)
    rows = []
    for site in sorted(set(sites)):
        person = int(np.flatnonzero(sites == site)[0])
        slices = tuple(image[person].reshape(BRAIN_SHAPE)[:, :, BRAIN_SHAPE[2] // 2] for image in images.values())
        rows.append(Row(f"{site}  {table['participant_id'].iloc[person]}", slices))
    headings = ("as scanned", "site removed", "truth (site S0)")
    before_and_after(path, "One unseen person a site, same slice and scale", headings, rows)


def _leakage(path: Path, table: pd.DataFrame, images: dict[str, np.ndarray], seed: int, listener: Listener) -> None:
    site, sex, age = table["site"].to_numpy(str), table["sex"].to_numpy(str), table["age"].to_numpy(float)
    kept = np.column_stack([age, sex == "M"])
    probes: dict[str, tuple[str, Callable[[np.ndarray], Probed]]] = {
        "site (AUC)": ("removed", lambda x: site_auc(x, site, seed)),
        "sex (AUC)": ("kept", lambda x: sex_auc(x, sex, seed)),
        "age (R2)": ("kept", lambda x: age_r2(x, age, seed)),
    }
    rows = []
    for name, (role, probe) in probes.items():
        found: dict[str, Probed] = {state: probe(_components(image)) for state, image in images.items()}
        floor = f"{probe(kept).strongest:.2f}" if role == "removed" else ""
        rows.append((name, role, *(f"{found[state].strongest:.2f}" for state in images), floor))
    header = ("covariate", "", *images, "from age and sex")
    listener.table(f"Strongest of three probes on {len(table)} unseen people", header, rows)
    write_tsv(path, pd.DataFrame(rows, columns=["covariate", "role", *images, "from_kept_covariates"]))


def _components(image: np.ndarray) -> np.ndarray:
    """Return the people's scores on their leading components; probes on every voxel would take minutes."""
    centred = image - image.mean(axis=0)
    left, values, _ = np.linalg.svd(centred @ centred.T)
    return (left * np.sqrt(values))[:, :COMPONENTS]
