"""What a report costs: of a table of 10,000 people at 20 sites, and of generated scans and organs, in seconds and bytes.

Seconds are those of the report alone: measuring what it shows, with the data at hand or read again, and writing the page.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.cli import main
from medrep.cohort.cohort import read_cohort
from medrep.commands.moved_report import report_moved
from medrep.commands.newcomers import load_trained
from medrep.commands.report import report
from medrep.console import Console
from medrep.exhibits.store import write_exhibits
from medrep.exhibits.trained import training_exhibits

PEOPLE, SITES = 10_000, 20
MOST_SECONDS, MOST_BYTES = 60.0, 15_000_000
QUIET = Console(quiet=True)


def run(options: Options) -> Report:
    """Train, export, and write the reports again; judge seconds and bytes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, people, sites, extra in (
            ("features", PEOPLE, SITES, ()),
            ("volume", 60, 4, ("--set", "input.kind=volume")),
            ("shape", 24, 1, ("--config", "additive_shape.yaml")),
        ):
            say(f"report_size: {kind}, {people} people")
            rows += _measured(Path(folder) / kind, kind, people, sites, extra)
            if options.quick:
                break
    frame = pd.DataFrame(rows)
    lines = [
        Line(
            "report_size",
            f"{row['kind']}, {row['people']} people, {row['page']}: < 60 s, < 15 MB",
            f"{row['seconds']:.1f} s, {row['bytes'] / 1e6:.2f} MB",
            row["seconds"] < MOST_SECONDS and row["bytes"] < MOST_BYTES,
        )
        for row in rows
    ]
    return Report({"report_size": Table(frame, tuple(frame), "What a report costs")}, tuple(lines))


def _measured(folder: Path, kind: str, people: int, sites: int, extra: tuple[str, ...]) -> list[dict[str, object]]:
    cohort, trained, moved = (str(folder / name) for name in ("cohort", "trained", "moved"))
    _called("simulate", cohort, "--kind", kind, "--n", str(people), "--sites", str(sites))
    _called("train", cohort, trained, *extra, "--tracking", "none")
    removed = "age" if kind == "shape" else "site"
    _called("export", cohort, moved, "--model", f"{trained}/model", "--remove", removed)
    delivered = pd.read_csv(Path(moved) / "participants.tsv", sep="\t", dtype=str)["participant_id"]
    keys = pd.Index(delivered.to_list())
    found = [
        ("export", _seconds(lambda: report_moved(Path(moved), keys, QUIET, "")), moved),
        ("rebuilt", _seconds(lambda: report([Path(trained)], QUIET)), trained),
    ]
    if kind == "features":
        found.append(("train", _seconds(lambda: _trained(Path(cohort), Path(trained))), trained))
    return [
        {
            "kind": kind,
            "people": people,
            "sites": sites,
            "page": page,
            "seconds": seconds,
            "bytes": (Path(out) / "report.html").stat().st_size,
        }
        for page, seconds, out in found
    ]


def _trained(cohort: Path, trained: Path) -> None:
    """Do what a training does for its report once the model is fitted."""
    _, model, wanted = load_trained(trained / "model")
    people = read_cohort(cohort, wanted)
    frame = people.table[list(model.schema.names)].copy()
    frame["age"] = frame["age"].astype(float)
    data = people.features.values if people.features is not None else None
    write_exhibits(trained, training_exhibits(model, data, frame, "cohort", (), str(frame.index[0])))
    report([trained], QUIET)


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _called(*arguments: str) -> None:
    if main([*arguments, "--quiet"]) != 0:
        raise RuntimeError(f"medrep {' '.join(arguments[:2])} failed")
