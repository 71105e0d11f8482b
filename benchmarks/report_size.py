"""What a report costs: of a table of 10,000 people at 20 sites, of fcon1000, generated scans and hippocampi; seconds and bytes.

Seconds are those of the report alone: measuring what it shows, with the data at hand or read again, and writing the page.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data import data_folder, fcon1000
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.cohort import read_cohort
from medrep.cohort.kinds import SILENT
from medrep.cohort.participants import keys
from medrep.config import Config, read_config
from medrep.report.data_store import write_report_data
from medrep.report.data_training import training_report_data
from medrep.simulate.visits import FollowUp
from medrep.workflows.cohorts import load_trained
from medrep.workflows.report import report
from medrep.workflows.simulate import Design, Planting, plant_effects, simulate_cohort
from medrep.workflows.train import train
from medrep.workflows.transform import ExportRequest, export, report_transformed

PEOPLE, AGAIN, SITES = 10_000, 3_000, 20
ORGANS = 60
MOST_SECONDS, MOST_BYTES = 60.0, 15_000_000


def run(options: Options) -> Report:
    """Train, export, and write the reports again; judge seconds and bytes."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make, config, removed in (
            ("10,000 people", _generated("features", PEOPLE, SITES), read_config("linear.yaml"), "site"),
            ("people who come again", _again, read_config("linear.yaml"), "site"),
            ("fcon1000", _fcon1000, read_config("linear.yaml"), "site"),
            ("generated scans", _generated("volume", 60, 4), read_config("linear.yaml", ["input.kind=volume"]), "site"),
            ("hippocampi", _hippocampi, read_config("additive_shape.yaml"), "age"),
        ):
            say(f"report_size: {name}")
            rows += _measured(Path(folder) / name.replace(" ", "_"), name, make, config, removed)
            if options.quick:
                break
    frame = pd.DataFrame(rows)
    lines = [
        Line(
            "report_size",
            f"{row['cohort']}, {row['people']} people, {row['page']}: < 60 s, < 15 MB",
            f"{row['seconds']:.1f} s, {row['bytes'] / 1e6:.2f} MB",
            row["seconds"] < MOST_SECONDS and row["bytes"] < MOST_BYTES,
        )
        for row in rows
    ]
    return Report({"report_size": Table(frame, tuple(frame), "What a report costs")}, tuple(lines))


def _generated(kind: str, people: int, sites: int) -> Callable[[Path], object]:
    return lambda folder: simulate_cohort(folder, Design(kind, people, sites)).cohort


def _again(folder: Path) -> None:
    simulate_cohort(folder, Design("features", AGAIN, SITES, follow_up=FollowUp(3)))


def _fcon1000(folder: Path) -> None:
    features, table = fcon1000(min_site=10)
    folder.mkdir(parents=True)
    table.to_csv(folder / "participants.tsv", sep="\t")  # both have the index participant_id
    features.to_csv(folder / "features.tsv", sep="\t")


def _hippocampi(folder: Path) -> None:
    """Lay real label maps out as BIDS, and plant age and sex into them."""
    own = folder.with_name("labels")
    people = []
    for number, path in enumerate(sorted((data_folder() / "hippocampus" / "labels").glob("*.nii.gz"))[:ORGANS]):
        who = f"sub-{number:03d}"
        place = own / who / "anat" / f"{who}_desc-organ_mask.nii.gz"
        place.parent.mkdir(parents=True)
        shutil.copyfile(path, place)
        people.append(who)
    (own / "participants.tsv").write_text("\n".join(["participant_id", *people]) + "\n", encoding="utf-8")
    organ = ("input.suffix=mask", "input.desc=organ")
    plant_effects(own, folder, Planting(effects=("age", "sex"), kind="shape", overrides=organ))


def _measured(
    folder: Path, name: str, make: Callable[[Path], object], config: Config, removed: str
) -> list[dict[str, Any]]:
    cohort, trained, transformed = (folder / part for part in ("cohort", "trained", "moved"))
    make(cohort)
    train(cohort, trained, config)
    export(cohort, transformed, trained / "model", ExportRequest((removed,)))
    people = pd.read_csv(transformed / "participants.tsv", sep="\t", dtype=str)
    whom = keys(people)
    found = [
        ("export", _seconds(lambda: report_transformed(transformed, pd.Index(whom), SILENT, "")), transformed),
        ("rebuilt", _seconds(lambda: report([trained])), trained),
    ]
    if config.input.tabular:
        found.append(("train", _seconds(lambda: _trained(cohort, trained)), trained))
    return [
        {
            "cohort": name,
            "people": people["participant_id"].nunique(),
            "page": page,
            "seconds": seconds,
            "bytes": (out / "report.html").stat().st_size,
        }
        for page, seconds, out in found
    ]


def _trained(cohort: Path, trained: Path) -> None:
    """Do what a training does for its report once the model is fitted."""
    saved = load_trained(trained / "model")
    model = saved.model
    people = read_cohort(cohort, saved.input)
    frame = people.table[list(model.schema.names)].copy()
    frame["age"] = frame["age"].astype(float)
    data, whose = people.source.features.values, people.table["participant_id"].tolist()
    write_report_data(
        trained, training_report_data(model, model.dataset(data, frame, whose), "cohort", (), str(frame.index[0]))
    )
    report([trained])


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
