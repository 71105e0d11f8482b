"""Cohorts of two structures a person: mirrored organs of which age changes one, and real ones that touch."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from medrep.cohort.nifti import LabelMap, write_label_map
from medrep.simulate.displaced import draw_organs, level

LEFT, RIGHT = 17, 53
MIDDLE_MM = 17.0
"""How far the middle of each organ lies from the plane between them."""


def pair_at(left: object, right: object, age: float, spacing: float) -> LabelMap:
    """Return the left organ at an age, and the right one, which is mirrored and has no age."""
    half = np.ceil(np.array([MIDDLE_MM + 18, 30, 19]) / spacing).astype(int)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * half
    points = np.indices(2 * half + 1).reshape(3, -1).T @ affine[:3, :3] + affine[:3, 3]
    here = level(left, {"age": age, "sex": "F"}, points + np.array([MIDDLE_MM, 0, 0]))
    there = level(right, {"age": 50.0, "sex": "F"}, (points - np.array([MIDDLE_MM, 0, 0])) * [-1, 1, 1])
    data = np.where(here < 0, LEFT, np.where(there < 0, RIGHT, 0)).astype(np.int32)
    return LabelMap(data.reshape(2 * half + 1), affine)


def write_pairs(folder: Path, people: int, spacing: float = 1.6) -> pd.DataFrame:
    """Write participants.tsv and a label map a person; return the table."""
    rng = np.random.default_rng(11)
    names = [f"sub-{number:02d}" for number in range(1, 2 * people + 1)]
    ages = np.round(np.linspace(30, 75, people)[rng.permutation(people)], 1)
    table = pd.DataFrame({"participant_id": names, "age": np.tile(ages, 2), "sex": "F"})
    organs = draw_organs(table, seed=4).people
    for number, who in enumerate(names[:people]):
        path = folder / who / "anat" / f"{who}_desc-organ_mask.nii.gz"
        write_label_map(path, pair_at(organs[number], organs[people + number], float(ages[number]), spacing))
    table = table.head(people).drop(columns="sex")
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    return table


def write_hippocampi(folder: Path, data: Path, people: int) -> pd.DataFrame:
    """Write real hippocampi, whose anterior (1) and posterior (2) part touch, with an age that goes with their size."""
    rows = []
    for number, path in enumerate(sorted((data / "hippocampus" / "labels").glob("*.nii*"))[:people], 1):
        image, who = nib.load(path), f"sub-{number:02d}"
        labels = np.pad(np.asarray(image.dataobj).astype(np.int32), 3)
        affine = image.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ [3, 3, 3]
        write_label_map(folder / who / "anat" / f"{who}_desc-organ_mask.nii.gz", LabelMap(labels, affine))
        rows.append({"participant_id": who, "volume": np.count_nonzero(labels)})
    table = pd.DataFrame(rows)
    size = (table["volume"] - table["volume"].mean()) / table["volume"].std()
    table = table.assign(age=(50 - 12 * size).round(1)).drop(columns="volume")
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    return table
