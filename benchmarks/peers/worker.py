"""Run one peer on one job: ``python worker.py PEER JOBDIR``, in the environment that holds the peer.

JOBDIR holds train.npy and test.npy (people x features), train.tsv and test.tsv (site, what is kept: age, sex as F
or M, whose each row is where people come again, and a diagnosis where there is one) and job.json (reference, the site everybody
is moved to, or null; seed; settings that differ from those of PEERS).
The worker writes test_out.npy (float64), result.json and, where the fit gives more than one output, extras/NAME.npy: as
wide as test.npy, but for the latents. A chart's test_out.npy holds z; its extras are log_density, of what was observed, and
quantiles (levels x people x features) at the job's levels, both in units of the data. Only numpy, pandas and the peer
are needed here.
"""

from __future__ import annotations

import json
import re
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

COLUMNS = ("age", "sex", "site", "participant", "diagnosis")
LATENTS = "latents"


class PeerSpec(NamedTuple):
    """Where a peer lives and how it is set: environment, adapter module, arguments of the adapter's Peer."""

    environment: str
    module: str
    settings: dict[str, object]


PEERS: dict[str, PeerSpec] = {
    "combatlearn": PeerSpec("combatlearn", "with_combatlearn", {"method": "fortin"}),
    "combatlearn-gam": PeerSpec("combatlearn", "with_combatlearn", {"method": "gam"}),
    "combatlearn-covbat-gam": PeerSpec("combatlearn", "with_combatlearn", {"method": "covbat_gam"}),
    "neuroharmonize": PeerSpec("neuroharmonize", "with_neuroharmonize", {"smooth_terms": []}),
    "neuroharmonize-smooth": PeerSpec("neuroharmonize", "with_neuroharmonize", {"smooth_terms": ["AGE"]}),
    "longcombat": PeerSpec("longcombat", "with_longcombat", {"method": "longcombat"}),
    "mixedlm": PeerSpec("longcombat", "with_longcombat", {"method": "mixedlm"}),
    "demovae": PeerSpec("demovae", "with_demovae", {"scaled": False}),
    "demovae-scaled": PeerSpec("demovae", "with_demovae", {"scaled": True}),
    "contrastive": PeerSpec("contrastive", "with_contrastive", {}),
    "pcntoolkit-blr": PeerSpec("pcntoolkit", "with_pcntoolkit", {"method": "blr"}),
    "pcntoolkit-hbr": PeerSpec("pcntoolkit", "with_pcntoolkit", {"method": "hbr"}),
}


def run_job(name: str, job: Path) -> None:
    """Fit the peer on the job's training people, apply it to its test people, write both results.

    Features that are constant in training are passed through as they came: a pooled variance of zero turns
    every feature of some peers to NaN. Their number is in result.json. Extras are made after the clock has stopped.

    Args:
        name: A key of PEERS.
        job: The folder of the job.
    """
    spec = PEERS[name]
    module = import_module(spec.module)
    train, test = np.load(job / "train.npy", allow_pickle=False), np.load(job / "test.npy", allow_pickle=False)
    train_table, test_table = read_table(job / "train.tsv"), read_table(job / "test.tsv")
    settings = spec.settings | json.loads((job / "job.json").read_text(encoding="utf-8"))
    varies = train.min(axis=0) < train.max(axis=0)
    train, used = train[:, varies], test[:, varies]

    peer = module.Peer(age_bounds=age_bounds(train_table, test_table), **settings)
    start = time.perf_counter()
    peer.fit(train, train_table)
    fitted = time.perf_counter()
    harmonised = peer.apply(used, test_table)
    applied = time.perf_counter()
    memory = peak_rss_mb()
    extras = peer.extras(used, test_table) if hasattr(peer, "extras") else {}

    np.save(job / "test_out.npy", _full_width(harmonised, test, varies), allow_pickle=False)
    (job / "extras").mkdir(exist_ok=True)
    for extra, values in extras.items():
        full = values if extra == LATENTS else _full_width(values, test, varies)
        np.save(job / "extras" / f"{extra}.npy", full, allow_pickle=False)
    result = {
        "seconds_fit": fitted - start,
        "seconds_apply": applied - fitted,
        "peak_rss_mb": memory,
        "version": module.VERSION,
        "passed_through": int((~varies).sum()),
    }
    (job / "result.json").write_text(json.dumps(result), encoding="utf-8")


def read_table(path: Path) -> pd.DataFrame:
    """Read the covariates that a job keeps, and site."""
    return pd.read_csv(path, sep="\t", dtype={"age": float} | dict.fromkeys(COLUMNS[1:], str), keep_default_na=False)


def _full_width(values: np.ndarray, test: np.ndarray, varies: np.ndarray) -> np.ndarray:
    output = np.empty((*values.shape[:-1], test.shape[1]))
    output[...] = test
    output[..., varies] = values
    return output


def age_bounds(*tables: pd.DataFrame) -> tuple[float, float] | None:
    """Return the youngest and the oldest age; None where age is not kept."""
    ages = [float(age) for table in tables if "age" in table for age in table["age"]]
    return (min(ages), max(ages)) if ages else None


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, MiB, memory-mapped pages included."""
    # not getrusage: ru_maxrss of a child starts at the peak of the process that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    run_job(sys.argv[1], Path(sys.argv[2]))
