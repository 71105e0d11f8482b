"""How busy scoring keeps the processor, and whether its memory grows with the cohort.

Scoring is the slope between two cohort sizes of whole `medrep score` commands, start-up taken out. Beside it, over the same
files and the same number of one-thread processes: (a) nibabel reading and decompressing each scan into float32, and (b) the
model's forward pass (`Model.scores`) on rows in memory, at the batch size that is best. Scoring does both on the same
processors, so that the best it can do is the rate at which (a) and (b) go one after the other; that bound stands beside the
ratio. Memory is the high-water mark of the command and of its largest worker, and what all hold together.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import batch_cohorts, process_tree
from benchmarks.report import Line, Options, Report, Table, say

MODELS = (("linear", "linear.yaml", ()), ("vae", "vae_volume.yaml", ("--set", "settings.training.epochs=3")))
FEW, MANY = 400, 2000
SMALL, LARGE, QUICK_LARGE = 500, 10_000, 2000
BATCHES = (1, 2, 4, 8, 16, 32, 64)
RATE, CPU, GROWTH = 0.8, 1.3, 1.1

_READ = """
import time, pathlib
import nibabel, numpy
folder, k, n = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
files = sorted(folder.glob("sub-*/anat/*.nii.gz"))[:800][k::n]
for path in files[:5]:
    numpy.asarray(nibabel.load(path).dataobj, dtype=numpy.float32)
ready()
wall, cpu = time.perf_counter(), time.process_time()
for path in files:
    numpy.asarray(nibabel.load(path).dataobj, dtype=numpy.float32)
print(len(files), time.perf_counter() - wall, time.process_time() - cpu)
"""
_FORWARD = """
import time, pathlib
import numpy, torch
from threadpoolctl import threadpool_limits
from medrep.cohort.loaders import load_alike
from medrep.workflows.cohorts import Selection, load_trained, read_unseen
torch.set_num_threads(1)
model_folder, cohort, batch = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
saved = load_trained(model_folder)
model, wanted = saved.model, saved.input
people, frame = read_unseen(cohort, saved, Selection())
rows = numpy.stack([one.placed.values.ravel() for one in load_alike(people.source.files.iloc[:64], wanted.section)])
with threadpool_limits(1):
    people = model.dataset(rows, frame.iloc[:64])
    model.scores(people.take(slice(0, batch)))
    ready()
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < 4:
        for some in people.blocks(batch):
            model.scores(some)
        done += 64
    print(done, time.perf_counter() - wall, time.process_time() - cpu)
"""


def run(options: Options) -> Report:
    """Measure each model with one and two workers, then memory."""
    rows: list[dict[str, object]] = []
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="bench-batch-") as name:
        work = Path(name)
        large = QUICK_LARGE if options.quick else LARGE
        cohorts = {people: work / f"c{people}" for people in {FEW, MANY, SMALL, large}}
        for people, folder in cohorts.items():
            batch_cohorts.write_scans(folder, people)
        for label, config, more in MODELS[: 1 if options.quick else None]:
            model = batch_cohorts.train(cohorts[FEW], work / label, config, *more)
            for repeat in options.seeds(3):
                for workers in (1, 2):
                    say(f"batch_speed: {label}, {workers} workers, repeat {repeat}")
                    row = _rates(model, cohorts, work, workers)
                    rows.append({"model": label, "workers": workers, "repeat": repeat, **row})
                    say("  " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
        table = pd.DataFrame(rows)
        for (label, workers), group in table.groupby(["model", "workers"], sort=False):
            found = group.median(numeric_only=True)
            lines += _judged(str(label), int(workers), found)
        lines += _memory(work, cohorts, large)
    title = (
        "Scans a second, and processor milliseconds a scan: scoring, and its two halves alone over the same processes"
    )
    return Report({"batch_speed": Table(table, tuple(table), title)}, tuple(lines))


def _rates(model: Path, cohorts: dict[int, Path], work: Path, workers: int) -> dict[str, float]:
    costs = {}
    for people in (FEW, MANY):
        out = work / f"out-{people}"
        costs[people] = process_tree.medrep(
            "score", cohorts[people], out, "--model", model, "--workers", str(workers), "--overwrite"
        )
        if costs[people].code:
            raise RuntimeError(costs[people].said)
    wall = (costs[MANY].wall - costs[FEW].wall) / (MANY - FEW)
    cpu = (costs[MANY].cpu - costs[FEW].cpu) / (MANY - FEW)
    read = _sum(process_tree.together(_READ, [str(cohorts[MANY])], workers))
    forward = max(
        (
            _sum(process_tree.together(_FORWARD, [str(model), str(cohorts[FEW]), str(batch)], workers))
            for batch in BATCHES
        ),
        key=lambda found: found[0],
    )
    return {
        "score_rate": 1 / wall,
        "read_rate": read[0],
        "forward_rate": forward[0],
        "bound": 1 / (1 / read[0] + 1 / forward[0]),
        "score_ms": 1e3 * cpu,
        "read_ms": read[1],
        "forward_ms": forward[1],
        "start_s": costs[FEW].wall - FEW * wall,
    }


def _sum(printed: list[list[str]]) -> tuple[float, float]:
    """Return scans a second of all processes, and processor milliseconds a scan."""
    figures = np.array(printed, dtype=float)
    return float((figures[:, 0] / figures[:, 1]).sum()), float(1e3 * figures[:, 2].sum() / figures[:, 0].sum())


def _judged(label: str, workers: int, found: pd.Series) -> list[Line]:
    slower = min(found["read_rate"], found["forward_rate"])
    ratio, cpu = found["score_rate"] / slower, found["score_ms"] / (found["read_ms"] + found["forward_ms"])
    what = f"{label}, {workers} worker{'s' * (workers > 1)}"
    return [
        Line(
            "batch_speed",
            f"{what}: >= {RATE} of the slower of reading and forward pass alone",
            f"{ratio:.2f} (one after the other would be {found['bound'] / slower:.2f})",
            bool(ratio >= RATE),
        ),
        Line(
            "batch_speed",
            f"{what}: CPU seconds a scan <= {CPU} x the sum of the two",
            f"{cpu:.2f} x ({found['score_ms']:.1f} against {found['read_ms']:.1f} + {found['forward_ms']:.1f} ms)",
            bool(cpu <= CPU),
        ),
    ]


def _memory(work: Path, cohorts: dict[int, Path], large: int) -> list[Line]:
    peaks = {}
    for people in (SMALL, large):
        say(f"batch_speed: memory, {people} people")
        out, model = work / f"memory-{people}", work / "linear" / "model"
        peaks[people] = process_tree.medrep(
            "score", cohorts[people], out, "--model", model, "--workers", 2, watched=True
        )
        if peaks[people].code:
            raise RuntimeError(peaks[people].said)
    lines = []
    for name, what in (("parent_mb", "the parent"), ("worker_mb", "the largest worker"), ("total_mb", "all together")):
        small, most = (float(getattr(peaks[people], name)) for people in (SMALL, large))
        asked = f"peak memory of {what}: {large} people <= {GROWTH} x {SMALL} people"
        lines.append(
            Line(
                "batch_speed",
                asked,
                f"{most / small:.3f} x ({most:.0f} against {small:.0f} MiB)",
                most <= GROWTH * small,
            )
        )
    return lines
