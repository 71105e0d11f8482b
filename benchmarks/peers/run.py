"""Run a peer on a split: write the job, call the worker in the peer's environment, read what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.peers.envs import peer_python
from benchmarks.peers.worker import COLUMNS, LATENTS, PEERS

WORKER = Path(__file__).resolve().parent / "worker.py"
THREADS = "2"


class PeerError(RuntimeError):
    """A peer stopped, or gave something that is not a number for people it was asked about."""


@dataclass(frozen=True)
class PeerResult:
    """What a peer made of the test people, and what it cost.

    Attributes:
        output: Harmonised features of the test people, people x features, all finite.
        seconds_fit: Wall time of fitting, imports and reading excluded.
        seconds_apply: Wall time of applying to the test people.
        peak_rss_mb: Largest resident memory of the process, MiB, its imports included.
        version: Package and version.
        passed_through: Number of features, constant in training, that were handed on as they came.
        extras: What else the fit gave, by name, where it gives more than one output: people x features, or x latents.
    """

    output: np.ndarray
    seconds_fit: float
    seconds_apply: float
    peak_rss_mb: float
    version: str
    passed_through: int = 0
    extras: dict[str, np.ndarray] = field(default_factory=dict)


def run_peer(
    name: str,
    train: np.ndarray,
    train_table: pd.DataFrame,
    test: np.ndarray,
    test_table: pd.DataFrame,
    reference: str | None = None,
    seed: int = 0,
    **settings: object,
) -> PeerResult:
    """Fit a peer on the training people and apply it to the test people, in the peer's own environment.

    Args:
        name: A key of PEERS.
        train: People x features to fit on; the peer gets them in the precision given.
        train_table: Their site, and what is kept, of age (years) and sex (F or M); in the same order.
        test: People x features that the peer has not seen.
        test_table: The same columns; the index names them in errors.
        reference: The site everybody is moved to; by default the pooled sites, or with demovae the most frequent one.
        seed: Of what the peer draws.
        settings: Of the peer's adapter, over those of PEERS: ``nepochs=100`` makes a quick demovae.

    Returns:
        The harmonised test people, with time and memory.

    Raises:
        PeerError: The worker failed, all latents are NaN, or the output is not finite for some people, who are counted
            by site. Extras may have NaN otherwise.
    """
    if name not in PEERS:
        raise KeyError(f"no peer '{name}'; there are {', '.join(PEERS)}")
    python = peer_python(name)
    with tempfile.TemporaryDirectory(prefix=f"peer-{name}-") as folder:
        job = Path(folder)
        for part, features, table in (("train", train, train_table), ("test", test, test_table)):
            np.save(job / f"{part}.npy", features, allow_pickle=False)
            table[[column for column in COLUMNS if column in table]].to_csv(job / f"{part}.tsv", sep="\t", index=False)
        content = settings | {"reference": reference, "seed": seed}
        (job / "job.json").write_text(json.dumps(content), encoding="utf-8")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), THREADS)
        threads["OMP_WAIT_POLICY"] = "PASSIVE"  # two spinning threads made torch ten times slower on a busy machine
        done = subprocess.run(
            [python, WORKER, name, job], env=os.environ | threads, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeerError(f"{name}: stopped with code {done.returncode}:\n{done.stderr[-2000:]}")
        output = np.load(job / "test_out.npy", allow_pickle=False)
        extras = {path.stem: np.load(path, allow_pickle=False) for path in sorted((job / "extras").glob("*.npy"))}
        result = json.loads((job / "result.json").read_text(encoding="utf-8"))
    if LATENTS in extras and np.isnan(extras[LATENTS]).all():
        raise PeerError(f"{name}: all latents are NaN, as they get where a batch in training lacks a category")
    _require_finite(name, output, test_table)
    return PeerResult(output=output, extras=extras, **result)


def _require_finite(name: str, output: np.ndarray, table: pd.DataFrame) -> None:
    bad = ~np.isfinite(output)
    if bad.any():
        rows, columns = bad.any(axis=1), bad.any(axis=0)
        sites = table["site"][rows].value_counts().to_dict()
        raise PeerError(
            f"{name}: not finite for {rows.sum()} of {len(rows)} people (by site {sites}) "
            f"in {columns.sum()} of {len(columns)} features"
        )
