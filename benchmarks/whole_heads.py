"""Whole heads at 1 mm, resampled from real ones and jittered, with planted sites: what `train` and `export` cost and reach.

Ten real heads (2 mm) are turned, shifted and scaled a little, anew for everybody, onto a grid of 182 x 218 x 182 voxels of 1 mm.
Age changes them smoothly, and four sites have a smooth gain and offset of their own, of which S0 has none. Memory is the
high-water mark of the process, processor time that of all its descendants.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import affine_transform, binary_dilation, gaussian_filter, zoom

from benchmarks.commands import write_table
from benchmarks.data import data_folder
from benchmarks.peers.envs import peer_python
from benchmarks.process_tree import Cost, medrep
from benchmarks.report import Line, Options, Report, Table

SHAPE, EDGE = (182, 218, 182), 1.0
SITES = 4
REFERENCE = "S0"
_AFFINE = np.array([[1.0, 0, 0, -90], [0, 1.0, 0, -126], [0, 0, 1.0, -72], [0, 0, 0, 1]])
_COARSE = 8  # voxels of 1 mm along an edge of what smooth fields are drawn on


@cache
def _originals() -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    """Return data in units of its 99th percentile, the brain, and the inverse affine of each real head."""
    found = []
    for path in sorted((data_folder() / "ixi" / "t1w").glob("*.nii.gz")):
        image = nib.as_closest_canonical(nib.load(path))
        labels = nib.as_closest_canonical(
            nib.load(path.parents[1] / "dlmuse" / path.name.replace(".nii", "_DLMUSE.nii"))
        )
        data = np.asarray(image.dataobj, np.float32)
        brain = binary_dilation(np.asarray(labels.dataobj) > 0, iterations=1)
        affine = image.affine.copy()
        middle = np.argwhere(brain).mean(axis=0)
        affine[:3, 3] -= affine[:3, :3] @ middle + affine[:3, 3] - np.array([0.0, -18.0, 18.0])
        found.append((data / np.float32(np.percentile(data[data > 0], 99)), brain, np.linalg.inv(affine)))
    return tuple(found)


def smooth_field(rng: np.random.Generator, factor: int) -> np.ndarray:
    """Return a smooth field of about unit size on the grid, or on every ``factor``-th voxel of it."""
    shape = [-(-length // _COARSE) for length in SHAPE]
    coarse = gaussian_filter(rng.standard_normal(shape), 3, mode="nearest")
    fine = tuple(length // factor for length in SHAPE)
    coarse = (coarse - coarse.mean()) / coarse.std()
    field = zoom(coarse.astype(np.float32), [a / b for a, b in zip(fine, shape, strict=True)], order=1)
    return np.ascontiguousarray(field)


def head(person: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a head of nobody else, and its brain, on the grid or on every ``factor``-th voxel of it."""
    rng = np.random.default_rng(person)
    data, brain, inverse = _originals()[person % len(_originals())]
    angles, scales, shift = rng.normal(0, 0.04, 3), np.exp(rng.normal(0, 0.03, 3)), rng.normal(0, 2.0, 3)
    turn = np.diag([*scales, 1.0])
    for axis, angle in enumerate(angles):
        a, b = [k for k in range(3) if k != axis]
        step = np.eye(4)
        step[[a, b], [a, b]], step[a, b], step[b, a] = np.cos(angle), -np.sin(angle), np.sin(angle)
        turn = step @ turn
    turn[:3, 3] = shift
    way = inverse @ turn @ _AFFINE @ np.diag([factor, factor, factor, 1.0])
    shape = tuple(length // factor for length in SHAPE)
    image = affine_transform(data, way[:3, :3], way[:3, 3], shape, order=1, output=np.float32)
    inside = affine_transform(brain.astype(np.uint8), way[:3, :3], way[:3, 3], shape, order=0)
    return image, inside > 0


def make_cohort(folder: Path, people: int, *, factor: int = 1, seed: int = 0) -> None:
    """Write raw heads with planted effects, everybody's brain mask, a mask of all, and the untouched heads of S0's scanner.

    Args:
        folder: Where to; ``truth`` in it holds everybody as S0 would have measured them.
        people: How many.
        factor: Every ``factor``-th voxel is written.
        seed: Of covariates and fields.
    """
    rng = np.random.default_rng(seed)
    gains, offsets = ([smooth_field(rng, factor) for _ in range(SITES)] for _ in range(2))
    ageing = smooth_field(rng, factor)
    table = pd.DataFrame({"participant_id": [f"sub-{k:03d}" for k in range(people)]})
    table["age"] = rng.uniform(20, 80, people).round(1)
    table["sex"] = rng.permutation(["F", "M"] * people)[:people]
    table["site"] = rng.permutation([f"S{k % SITES}" for k in range(people)])  # no site has heads of its own
    count = np.zeros(tuple(length // factor for length in SHAPE), np.int32)
    affine = _AFFINE @ np.diag([factor, factor, factor, 1.0])
    for person, row in enumerate(table.itertuples()):
        image, brain = head(person, factor)
        image *= 1 + 0.05 * ageing * np.float32((row.age - 50) / 17)
        count += brain
        site = int(row.site[1:])
        seen = image.copy()
        if site:
            seen *= 1 + 0.2 * gains[site]
            seen += np.where(image != 0, 0.06 * offsets[site], 0)
        anat, truth = folder / row.participant_id / "anat", folder / "truth"
        _write(truth / f"{row.participant_id}.nii.gz", image, affine)
        _write(anat / f"{row.participant_id}_T1w.nii.gz", seen, affine)
        _write(anat / f"{row.participant_id}_desc-brain_mask.nii.gz", brain.astype(np.uint8), affine)
    _write(folder / "mask.nii.gz", (2 * count > people).astype(np.uint8), affine)
    write_table(folder / "participants.tsv", table)


def _write(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(nib.Nifti1Image(data, affine).to_bytes())


PEOPLE, FACTOR = (24, 200), 1
_VOLUME = "input={kind: volume, suffix: T1w}"
_READ = """
import json, resource, sys
from pathlib import Path
import numpy as np, pandas as pd
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.loaders import load_volumes
files = sorted(Path(sys.argv[1]).glob("sub-*/anat/*_T1w.nii.gz"))
total = square = np.float32(0)
for loaded in load_volumes(pd.Series({str(path): path for path in files}, dtype=object), VolumeInput()):
    total = total + loaded.placed.values
    square = square + loaded.placed.values ** 2
"""
_PEER = """
import json, resource, sys
from pathlib import Path
import pandas as pd
resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
from neuroHarmonize import harmonizationLearn
from neuroHarmonize.harmonizationNIFTI import flattenNIFTIs
root = Path(sys.argv[1])
table = pd.read_csv(root / "participants.tsv", sep="\\t")
paths = [str(root / who / "anat" / f"{who}_T1w.nii.gz") for who in table["participant_id"]]
data = flattenNIFTIs(pd.DataFrame({"PATH": paths}), str(root / "mask.nii.gz"), str(root / "flat.npy"))
covariates = pd.DataFrame({"SITE": table["site"], "AGE": table["age"], "SEX": (table["sex"] == "M").astype(float)})
harmonizationLearn(data, covariates)
"""
_USAGE = """
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which begins with what the process held that started this one.
most = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "mb": int(most) / 1024}))
"""


def run(options: Options) -> Report:
    """Measure the costs of training and export, and how near removal brings everybody to what S0 would have measured."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="bench-heads-") as name:
        root = Path(name) / "heads"
        for people in PEOPLE[:1] if options.quick else PEOPLE:
            make_cohort(root, people, factor=FACTOR)
            rows += measured(root, people, Path(name) / "out", whole=people == PEOPLE[0])
    table = pd.DataFrame(rows)
    title = "Whole heads at 1 mm, linear model: processor seconds, high-water mark of the largest process in MB, folder in MB"
    return Report({"whole_heads": Table(table, tuple(table), title)}, lines(table))


def measured(root: Path, people: int, out: Path, *, whole: bool) -> list[dict[str, object]]:
    """Return a row for each contender on one cohort.

    Args:
        root: The cohort.
        people: How many it has.
        out: Where to write.
        whole: Whether the fit without a mask, which does not hang on people, and export are measured, too.
    """
    found = [{"what": "reading and one pass", **_child(Path(sys.executable), _READ, root)}]
    masks = {"mask": ("--mask", root / "mask.nii.gz"), **({"no mask": ()} if whole else {})}
    for name, asked in masks.items():
        model = out / f"{people} {name}"
        cost = medrep("train", root, model, "--set", _VOLUME, *asked, "--show", "nobody", "--overwrite", watched=True)
        _refuse(cost)
        size = sum(path.stat().st_size for path in (model / "model").iterdir()) / 1e6
        found.append({"what": f"train, {name}", "cpu": cost.cpu, "mb": cost.parent_mb, "model_mb": size})
        if whole:
            cleaned = out / f"{people} {name} cleaned"
            cost = medrep(
                *(
                    "export",
                    root,
                    cleaned,
                    "--model",
                    model / "model",
                    "--remove",
                    "site",
                    "--reference",
                    f"site={REFERENCE}",
                ),
                *("--workers", 1, "--show", "nobody"),
                watched=True,
            )
            _refuse(cost)
            most = max(cost.parent_mb, cost.worker_mb) if cost.worker_mb == cost.worker_mb else cost.parent_mb
            gain = {"gain_db": _gain(root, cleaned)}
            found.append({"what": f"export, {name}", "cpu": cost.cpu, "mb": most, **gain})
            shutil.rmtree(cleaned)
    try:
        found.append({"what": "neuroHarmonize, mask", **_child(peer_python("neuroharmonize"), _PEER, root)})
    except (RuntimeError, OSError) as error:
        found.append({"what": "neuroHarmonize, mask", "ended": str(error)[-200:]})
    return [{"people": people, **row} for row in found]


def lines(table: pd.DataFrame) -> tuple[Line, ...]:
    """Return what was asked and what was measured."""
    by = table.set_index(["people", "what"])
    found: list[Line] = []

    def ask(asked: str, value: float, most: float, unit: str) -> None:
        found.append(
            Line("whole_heads", f"{asked}: at most {most:g} {unit}", f"{value:.3g} {unit}", bool(value <= most))
        )

    for people in dict.fromkeys(table["people"]):
        own = by.loc[people]
        ask(f"{people} people, train with a mask", float(own.loc["train, mask", "mb"]) / 1000, 2.0, "GB")
        ratio = float(own.loc["train, mask", "cpu"]) / float(own.loc["reading and one pass", "cpu"])
        ask(f"{people} people, processor time of train with a mask over reading", ratio, 1.2, "times")
        ask(f"{people} people, model with a mask", float(own.loc["train, mask", "model_mb"]) / 1000, 0.5, "GB")
    first = by.loc[PEOPLE[0]]
    ask("train without a mask", float(first.loc["train, no mask", "mb"]) / 1000, 4.0, "GB")
    for name in ("mask", "no mask"):
        ask(f"export, {name}, a process", float(first.loc[f"export, {name}", "mb"]) / 1000, 1.5, "GB")
    if len(by.index.unique(level=0)) > 1:
        memory = [float(by.loc[(people, "train, mask"), "mb"]) for people in PEOPLE]
        ask("memory of 200 people over that of 24, with a mask", memory[1] / memory[0], 1.1, "times")
    return tuple(found)


def _gain(root: Path, cleaned: Path) -> float:
    """Return by how many dB people of other sites come nearer to what S0 would have measured, the median."""
    table = pd.read_csv(root / "participants.tsv", sep="\t")
    mask = np.asarray(nib.load(root / "mask.nii.gz").dataobj) > 0
    gains = []
    for who in table.loc[table["site"] != REFERENCE, "participant_id"]:
        truth = np.asarray(nib.load(root / "truth" / f"{who}.nii.gz").dataobj)[mask]
        before, after = (
            np.asarray(nib.load(path).dataobj)[mask]
            for path in (
                root / who / "anat" / f"{who}_T1w.nii.gz",
                cleaned / who / "anat" / f"{who}_desc-residualized_T1w.nii.gz",
            )
        )
        gains.append(10 * np.log10(np.mean((before - truth) ** 2) / np.mean((after - truth) ** 2)))
    return float(np.median(gains))


def _child(python: Path, code: str, root: Path) -> dict[str, float]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [python, "-c", code + _USAGE, root], env=os.environ | threads, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ended with {done.returncode}: {done.stderr[-400:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _refuse(cost: Cost) -> None:
    if cost.code:
        raise RuntimeError(cost.said[-2000:])
