"""The NIfTI path against the table path: the same voxels as images and as features.tsv with a Grid, the same commands."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks.commands import medrep, write_table
from benchmarks.report import Line, Options, Report, Table, say

PEOPLE = 60
REMOVALS = ("site", "age,site")
LARGEST = 1e-5


def run(options: Options) -> Report:
    """Compare both paths for each removal; the difference is relative to the largest magnitude in the data."""
    del options  # one cohort in any case
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-equality-") as name:
        work = Path(name)
        images, table = work / "images", work / "table"
        medrep("simulate", images, "--kind", "volume", "--n", str(PEOPLE), "--seed", "0")
        volumes, ids = _write_as_table(images, table)
        medrep("train", images, work / "image-model", "--set", "input={kind: volume, suffix: T1w}")
        medrep("train", table, work / "table-model")
        for removal in REMOVALS:
            say(f"equality: --remove {removal}")
            outputs = []
            for kind, cohort in (("image", images), ("table", table)):
                out = work / f"{kind}-{removal}"
                model = work / f"{kind}-model" / "model"
                medrep("export", cohort, out, "--model", model, "--remove", removal)
                outputs.append(out)
            transformed = _read_images(outputs[0], ids, "desc-residualized_T1w")
            features = pd.read_csv(outputs[1] / "features.tsv", sep="\t").set_index("participant_id").loc[ids]
            difference = np.abs(transformed - features.to_numpy()).max() / np.abs(volumes).max()
            change = np.abs(transformed - volumes).max() / np.abs(volumes).max()
            rows.append({"removed": removal, "n": PEOPLE, "voxels": volumes.shape[1]})
            rows[-1] |= {"largest_change": change, "largest_difference": difference}
    worst = max(float(row["largest_difference"]) for row in rows)
    line = Line(
        "equality",
        f"NIfTI path equals table path, largest difference over the data's scale <= {LARGEST:g}",
        f"{worst:.2g}",
        worst <= LARGEST,
    )
    frame = pd.DataFrame(rows)
    text = frame.assign(largest_difference=frame["largest_difference"].map("{:.2g}".format))
    title = (
        "The same voxels as images and as features.tsv: largest change and largest difference, over the data's scale"
    )
    return Report({"equality": Table(text, tuple(text), title)}, (line,))


def _write_as_table(images: Path, table: Path) -> tuple[np.ndarray, list[str]]:
    """Write the voxels of a generated cohort, whose axes are RAS already, as features.tsv with its Grid."""
    participants = pd.read_csv(images / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    ids = participants["participant_id"].to_list()
    first = nib.load(images / ids[0] / "anat" / f"{ids[0]}_T1w.nii.gz")
    if nib.aff2axcodes(first.affine) != ("R", "A", "S"):
        raise ValueError("the generated images are not RAS; bring the voxels to RAS before they become columns")
    voxels = _read_images(images, ids, "T1w")
    features = pd.DataFrame(voxels, columns=[f"v{k}" for k in range(voxels.shape[1])])
    features.insert(0, "participant_id", ids)
    write_table(table / "participants.tsv", participants)
    write_table(table / "features.tsv", features)
    grid = {"shape": list(first.shape), "spacing": [float(edge) for edge in first.header.get_zooms()]}
    (table / "features.json").write_text(json.dumps({"Grid": grid}), encoding="utf-8")
    return voxels, ids


def _read_images(folder: Path, ids: list[str], ending: str) -> np.ndarray:
    files = [folder / person / "anat" / f"{person}_{ending}.nii.gz" for person in ids]
    return np.stack([nib.load(file).get_fdata().ravel() for file in files])
