"""Fit one contender on a large matrix and apply it to the same: ``python scale_worker.py JOBDIR``.

JOBDIR holds data.npy (float32, people x columns), people.tsv (age, sex, site) and contender.json: module, settings, whether
it streams, and how many of the columns it gets, null for all. A contender that streams gets the matrix memory-mapped and an
open file to write its output to; the others get the matrix in memory and return theirs. Written: result.json with seconds (of
the clock, and of the processor), memory, and the sites' share of variance before and after.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
from worker import age_bounds, peak_rss_mb, read_table

CHECKED = slice(0, 2000)  # columns in which the sites' share of variance is looked at


def main(job: Path) -> None:
    """Run the job's contender; imports and reading the matrix into memory are not timed."""
    contender = json.loads((job / "contender.json").read_text(encoding="utf-8"))
    module, people, streams = import_module(contender["module"]), read_table(job / "people.tsv"), contender["streams"]
    settings = contender["settings"] if streams else contender["settings"] | {"age_bounds": age_bounds(people)}
    peer = module.Peer(**settings)
    before = peak_rss_mb()
    data = np.load(job / "data.npy", mmap_mode="r" if streams else None, allow_pickle=False)[:, : contender["columns"]]
    start, cpu = time.perf_counter(), time.process_time()
    peer.fit(data, people)
    fitted, cpu_fit, fit_peak = time.perf_counter(), time.process_time() - cpu, peak_rss_mb()
    if streams:
        with (job / "output.f32").open("wb") as file:
            peer.apply(data, people, file)
    else:
        output = peer.apply(data, people)
    result = {
        "seconds_fit": fitted - start,
        "seconds_apply": time.perf_counter() - fitted,
        "cpu": time.process_time() - cpu,
        "cpu_fit": cpu_fit,
        "imports_mb": before,
        "fit_peak_mb": fit_peak,
        "peak_mb": peak_rss_mb(),
        "version": module.VERSION,
    }
    if streams:
        output = np.memmap(job / "output.f32", dtype=np.float32, mode="r", shape=data.shape)
    site = people["site"].to_numpy()
    result |= {"site_before": _site_share(data[:, CHECKED], site), "site_after": _site_share(output[:, CHECKED], site)}
    (job / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _site_share(block: np.ndarray, site: np.ndarray) -> float:
    """Return the mean share of a column's variance that lies between sites."""
    block = block.astype(np.float64)
    between = sum((site == s).mean() * (block[site == s].mean(axis=0) - block.mean(axis=0)) ** 2 for s in set(site))
    return float((between / block.var(axis=0)).mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
