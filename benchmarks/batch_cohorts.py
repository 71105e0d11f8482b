"""Cohorts of scans for the batch benchmarks: brains in voxels of 2 mm as a scanner would store them, and a model of 4 mm.

Some hundred scans are rendered; thousands of people share their files by hard links, which cost no disk and are read like others.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks import commands
from medrep.simulate import simulate_participants
from medrep.simulate.brains import draw_brains, render_brain
from medrep.simulate.planted_effects import apply_site_effect, draw_site_effects

SHAPE, SPACING = (80, 96, 80), 2.0
INPUT = ("--set", "input={kind: volume, spacing: [4, 4, 4], shape: [40, 48, 40]}")
DISTINCT = 100
SITES = 3


def write_scans(folder: Path, people: int, *, distinct: int = DISTINCT, seed: int = 0) -> pd.DataFrame:
    """Write a BIDS cohort; return its table.

    Args:
        folder: Where to.
        people: How many; the first ``distinct`` have a scan of their own, the others a link to one of these.
        distinct: How many scans are rendered.
        seed: Seed of every draw.
    """
    distinct = min(distinct, people)
    first = simulate_participants(distinct, n_sites=SITES, seed=seed)
    effects = draw_site_effects(sorted(set(first["site"])), seed=seed)
    affine = np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = -SPACING * (np.array(SHAPE) - 1) / 2
    table = first.iloc[np.arange(people) % distinct].reset_index(drop=True)
    table["participant_id"] = [f"sub-{k:05d}" for k in range(people)]
    for k, (brain, site) in enumerate(zip(draw_brains(first, seed=seed), first["site"], strict=True)):
        data = render_brain(brain, SHAPE, SPACING)
        scanned = apply_site_effect(data, (SPACING,) * 3, effects[site], seed=seed * 100_000 + k)
        path = scan(folder, table["participant_id"][k])
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.round(scanned * 10).clip(0, 32_000).astype(np.int16), affine), path)
    for k in range(distinct, people):
        path = scan(folder, table["participant_id"][k])
        path.parent.mkdir(parents=True)
        path.hardlink_to(scan(folder, table["participant_id"][k % distinct]))
    commands.write_table(folder / "participants.tsv", table)
    return table


def scan(folder: Path, participant: str) -> Path:
    """Return where somebody's scan is."""
    return folder / participant / "anat" / f"{participant}_T1w.nii.gz"


def train(cohort: Path, out: Path, config: str, *more: str) -> Path:
    """Train on a cohort; return the model folder."""
    commands.medrep("train", cohort, out, "--config", config, *INPUT, *more)
    return out / "model"


def contents(out: Path) -> dict[str, bytes]:
    """Return the files of OUT, without the batch's own."""
    files = (path for path in out.rglob("*") if path.is_file() and ".medrep" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
