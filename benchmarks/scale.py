"""1000 people x 100 000 generated voxels, with smooth age: seconds and memory of fit + apply, each in a fresh process.

medrep reads the matrix memory-mapped and writes its output to a file, a few people at a time, as its command line does;
the peers take and return arrays. Everybody is fitted on all people and applied to the same. Peak memory is VmHWM of the
process, imports included; the pages of the memory-mapped input count, although the kernel can take them back at any
time. Repeats are interleaved, so that a busy machine is busy for everybody; cpu is the processor time of fit + apply.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from benchmarks.peers.envs import peer_python
from benchmarks.peers.run import THREADS
from benchmarks.peers.worker import PEERS
from benchmarks.report import Line, Options, Report, Table, say

WORKER = Path(__file__).resolve().parent / "peers" / "scale_worker.py"
REPEATS = 3
PEOPLE, GRID = 1000, (50, 50, 40)
ARRAY_MB = PEOPLE * int(np.prod(GRID)) * 4 / 2**20
RIVALS = ("combatlearn-gam", "neuroharmonize")
MOST_MEMORY = 2.0


class Contender(NamedTuple):
    """Whose Python, which adapter, its settings, whether it reads and writes memory-mapped matrices, and how many columns."""

    python: Path
    module: str
    settings: dict[str, object]
    streams: bool
    columns: int | None = None


def contenders() -> dict[str, Contender]:
    """Return medrep as it is set by default for volumes and for features, and the peers."""
    own = Path(sys.executable)
    found = {
        "medrep": Contender(own, "with_medrep", {"grid": GRID, "settings": {}}, streams=True),
        "medrep borrow=columns": Contender(own, "with_medrep", {"grid": None, "settings": {}}, streams=True),
    }
    for name in RIVALS:
        found[name] = Contender(peer_python(name), PEERS[name].module, PEERS[name].settings, streams=False)
    return found


def generate(folder: Path, seed: int = 0) -> None:
    """Write data.npy (float32) and people.tsv: voxels with smooth age, sex and four sites in location and scale."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, PEOPLE)
    people = pd.DataFrame({"age": age.round(2), "sex": rng.choice(["F", "M"], PEOPLE)})
    people["site"] = rng.permutation([f"S{k % 4}" for k in range(PEOPLE)])
    people.to_csv(folder / "people.tsv", sep="\t", index=False)
    t = (age - 50) / 17
    design = np.column_stack([np.ones(PEOPLE), t, t**2, np.sin(t), people["sex"] == "M"])
    design = np.column_stack([design, *(people["site"] == f"S{k}" for k in range(1, 4))]).astype(np.float32)
    fields = np.stack([_smooth_field(rng) for _ in range(design.shape[1])])
    fields[0] += 10
    scales = np.exp(0.1 * np.stack([_smooth_field(rng) for _ in range(4)]))
    data = np.lib.format.open_memmap(
        folder / "data.npy", mode="w+", dtype=np.float32, shape=(PEOPLE, int(np.prod(GRID)))
    )
    for row in range(PEOPLE):
        noise = rng.standard_normal(data.shape[1], dtype=np.float32)
        data[row] = design[row] @ fields + scales[int(people["site"][row][1])] * noise
    data.flush()


def run(options: Options) -> Report:
    """Run every contender in turn, as often as asked."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as name:
        job = Path(name)
        generate(job)
        everybody = contenders()
        for repeat in options.seeds(REPEATS):
            for contender, spec in everybody.items():
                rows.append({"repeat": repeat, "method": contender} | run_contender(job, spec))
                say(f"scale: repeat {repeat}, {contender}: {rows[-1]['seconds']:.1f} s")
    frame = pd.DataFrame(rows)
    medians = frame.groupby("method", sort=False).median(numeric_only=True).drop(columns="repeat")
    medians["time_ratio"] = medians["seconds"] / medians.loc["medrep", "seconds"]
    medians = medians.reset_index()
    size = f"{PEOPLE} people x {int(np.prod(GRID))} voxels, float32 ({ARRAY_MB:.0f} MiB)"
    title = f"Scale, {size}: fit + apply to all; memory in MiB and in multiples of the input"
    tables = {
        "scale": Table(frame, tuple(frame), title),
        "scale_median": Table(medians, tuple(medians), f"{title}; medians of {frame['repeat'].nunique()}"),
    }
    by_method = medians.set_index("method")
    ours = by_method.loc["medrep"]
    lines = [
        Line(
            "scale",
            f"fit + apply no slower than {rival}, median",
            f"{ours['seconds']:.1f} s against {by_method.loc[rival, 'seconds']:.1f} s",
            bool(ours["seconds"] <= by_method.loc[rival, "seconds"]),
        )
        for rival in RIVALS
    ]
    multiple = float(ours["peak_multiple"])
    asked = f"peak memory < {MOST_MEMORY:g} x the input array, mapped pages and imports counted"
    lines.append(Line("scale", asked, f"{multiple:.2f} x", multiple < MOST_MEMORY))
    return Report(tables, tuple(lines))


def _smooth_field(rng: np.random.Generator) -> np.ndarray:
    field = gaussian_filter(rng.standard_normal(GRID), 5)
    return (field / field.std()).ravel().astype(np.float32)


def run_contender(job: Path, contender: Contender) -> dict[str, object]:
    """Fit a contender on the job's matrix and apply it, in a process of its own; return seconds and memory."""
    content = {name: getattr(contender, name) for name in ("module", "settings", "streams", "columns")}
    (job / "contender.json").write_text(json.dumps(content), encoding="utf-8")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), THREADS)
    done = subprocess.run(
        [contender.python, WORKER, job], env=os.environ | threads, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{contender.module} stopped with {done.returncode}:\n{done.stderr[-2000:]}")
    (job / "output.f32").unlink(missing_ok=True)
    result = json.loads((job / "result.json").read_text(encoding="utf-8"))
    seconds = {"seconds": result["seconds_fit"] + result["seconds_apply"]}
    return seconds | result | {"peak_multiple": result["peak_mb"] / ARRAY_MB}
