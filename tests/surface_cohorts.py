"""Small cohorts of surfaces: GIFTI of both hemispheres, CIFTI-2, and the table of the same vertices."""

from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import cifti2
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData

from medrep.derivatives.bids import write_tsv
from medrep.simulate import simulate_features, simulate_participants

PEOPLE, VERTICES = 40, 20  # of each hemisphere
STRUCTURES = {"L": "CortexLeft", "R": "CortexRight"}
Form = Literal["gifti", "cifti", "parcels"]


def write_surface_cohort(root: Path, form: Form = "gifti", people: int = PEOPLE) -> Path:
    """Write a cohort whose vertices are the features of `simulate_features`, in float32."""
    table = simulate_participants(people, n_sites=2, seed=3)
    values = simulate_features(table, n_features=2 * VERTICES, seed=3).features.astype(np.float32)
    for who, row in values.iterrows():
        write_person(root, str(who), row.to_numpy(), form)
    write_tsv(root / "participants.tsv", table)
    return root


def write_person(root: Path, who: str, row: np.ndarray, form: Form = "gifti") -> None:
    """Write one person's files."""
    if form == "gifti":
        for side, values in zip("LR", np.split(row, 2), strict=True):
            write_gifti(gifti_path(root, who, side), values)
    else:
        write_cifti(cifti_path(root, who, form), row[None])


def gifti_path(root: Path, who: str, side: str = "L", desc: str = "") -> Path:
    """Return where a person's hemisphere lies."""
    return root / who / "anat" / f"{who}_hemi-{side}{desc}_thickness.shape.gii"


def cifti_path(root: Path, who: str, form: Form = "cifti", desc: str = "") -> Path:
    """Return where a person's CIFTI file lies."""
    ending = "pscalar" if form == "parcels" else "dscalar"
    return root / who / "anat" / f"{who}_space-fsLR{desc}_thickness.{ending}.nii"


def write_gifti(path: Path, *maps: np.ndarray, encoding: str = "GIFTI_ENCODING_B64GZ", intent: str = "SHAPE") -> None:
    """Write maps of values, with metadata of their own."""
    arrays = [
        GiftiDataArray(
            np.asarray(values),
            intent=f"NIFTI_INTENT_{intent}",
            datatype=np.asarray(values).dtype,
            encoding=encoding,
            meta=GiftiMetaData({"Name": f"map {number}", "AnatomicalStructurePrimary": "CortexLeft"}),
        )
        for number, values in enumerate(maps)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = GiftiImage(darrays=arrays, meta=GiftiMetaData({"UserName": "someone"}))
    path.write_bytes(image.to_bytes(mode="force"))  # float64, which others write, is beyond the standard


def write_cifti(path: Path, data: np.ndarray, columns: "cifti2.cifti2_axes.Axis | None" = None) -> None:
    """Write maps of values (time points for ``.ptseries.nii``) of vertices and voxels, or of parcels."""
    maps, count = data.shape
    if columns is None:
        columns = parcels(count) if path.name.endswith((".pscalar.nii", ".ptseries.nii")) else grayordinates(count)
    first = (
        cifti2.SeriesAxis(0, 2, maps, "SECOND")
        if "series" in path.name
        else cifti2.ScalarAxis([f"map {number}" for number in range(maps)])
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Cifti2Image(data, (first, columns)), path)


def grayordinates(count: int) -> cifti2.BrainModelAxis:
    """Return vertices of two hemispheres without some of a medial wall, and four voxels of a thalamus."""
    left, right = (count - 4) // 2, count - 4 - (count - 4) // 2
    cortex = [
        cifti2.BrainModelAxis.from_surface(np.arange(many) * 2, 2 * many, structure)
        for many, structure in ((left, "CortexLeft"), (right, "CortexRight"))
    ]
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1:3, 1:3] = True
    return cortex[0] + cortex[1] + cifti2.BrainModelAxis.from_mask(mask, "thalamus_left", np.diag([2.0, 2.0, 2.0, 1.0]))


def parcels(count: int) -> cifti2.ParcelsAxis:
    """Return parcels of two vertices each."""
    named = [
        (f"parcel {k}", cifti2.BrainModelAxis.from_surface(np.array([2 * k, 2 * k + 1]), 2 * count, "CortexLeft"))
        for k in range(count)
    ]
    return cifti2.ParcelsAxis.from_brain_models(named)


def as_table(root: Path, out: Path, names: "tuple[str, ...]", values: np.ndarray) -> Path:
    """Write the cohort of the same people and values as a table."""
    table = pd.read_csv(root / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    write_tsv(out / "participants.tsv", table)
    ids = table[["participant_id"]]
    write_tsv(out / "features.tsv", ids.join(pd.DataFrame(values, columns=list(names), index=ids.index)))
    return out
