"""Whether a Ray node may die: a head and a node on the loopback score 200 scans; the node is killed in mid-run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks import batch_cohorts
from benchmarks.batch_cohorts import contents, scan
from benchmarks.report import Line, Options, Report, Table, say
from medrep.batch.journal import read_events
from tests.batch.ray_cluster import cluster

PEOPLE, BROKEN = 200, 5


def run(_options: Options) -> Report:
    """Score on one machine, then on the cluster, and compare."""
    with tempfile.TemporaryDirectory(prefix="bench-ray-") as name:
        work = Path(name)
        cohort = work / "cohort"
        table = batch_cohorts.write_scans(cohort, PEOPLE)
        model = batch_cohorts.train(cohort, work / "trained", "linear.yaml")
        broken = list(table["participant_id"][7 : 7 * (BROKEN + 1) : 7])
        for who in broken:
            path = scan(cohort, who)
            path.unlink()
            path.write_bytes(b"no image")
        say("batch_ray: on this machine")
        local = _started(cohort, work / "local", model, ())
        local.wait()
        with cluster((1, 1)) as (address, nodes):
            time.sleep(5)
            say("batch_ray: on two nodes")
            out = work / "ray"
            process = _started(cohort, out, model, ("--engine", "ray", "--ray-address", address))
            while process.poll() is None and _ended(out) < PEOPLE // 3:
                time.sleep(0.02)
            done = _ended(out)
            nodes[1].kill()
            say(f"  a node is killed, {done} people are done")
            code = process.wait()
        scores = pd.read_csv(out / "scores.tsv", sep="\t", index_col="participant_id") if code == 3 else pd.DataFrame()
        good = [who for who in table["participant_id"] if who not in broken]
        delivered = int(scores.loc[good, "deviation"].notna().sum()) if len(scores) else 0
        same = code == 3 and contents(out) == contents(work / "local")
    rows = pd.DataFrame(
        [{"people": PEOPLE, "done_at_the_kill": done, "delivered": delivered, "same": same, "code": code}]
    )
    lines = (
        Line(
            "batch_ray",
            "two nodes, one killed in mid-run: all good scans delivered, the broken ones named (exit 3)",
            f"{delivered} of {len(good)}, exit {code}, node killed when {done} were done",
            delivered == len(good) and code == 3 and done < PEOPLE,
        ),
        Line("batch_ray", "the same bytes as on one machine", "the same" if same else "other", same),
    )
    return Report({"batch_ray": Table(rows, tuple(rows), "A node that dies")}, lines)


def _started(cohort: Path, out: Path, model: Path, more: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "medrep", "score", str(cohort), str(out), "--model", str(model), *more, "--quiet"]
    return subprocess.Popen(command, env=os.environ | {"MEDREP_TRACKING": "none"})


def _ended(out: Path) -> int:
    journals = (out / ".medrep").glob("part-*.jsonl") if (out / ".medrep").is_dir() else ()
    return sum(event["event"] in ("end", "rows") for path in journals for _, event in read_events(path))
