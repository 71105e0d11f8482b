"""Small generated cohorts of 4-D images with planted correlations, and the atlas of their regions."""

from pathlib import Path

import nibabel as nib
import numpy as np

from medrep.simulate import simulate_participants

SHAPE = (8, 8, 8)
AFFINE = np.array([[4.0, 0, 0, -14], [0, 4, 0, -14], [0, 0, 4, -14], [0, 0, 0, 1]])
NUMBERS = (7, 2, 30, 4, 11, 5)
"""The regions' numbers, not in the order in which the regions lie."""
NAMES = {2: "Caudate", 4: "Cuneus", 5: "Insula", 7: "Pallidum", 11: "Putamen", 30: "Uncus"}


def atlas_labels() -> np.ndarray:
    """Six blocks of 3 x 2 x 6 voxels with a gap between them."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    for position, number in enumerate(NUMBERS):
        x, y = divmod(position, 3)
        labels[1 + 3 * x : 4 + 3 * x, 3 * y : 3 * y + 2, 1:7] = number
    return labels


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, seconds: float = 2.0, unit: str = "sec") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", unit)
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], seconds))
    nib.save(image, path)
    return path


def save_atlas(
    path: Path, labels: np.ndarray | None = None, affine: np.ndarray = AFFINE, *, named: bool = True
) -> Path:
    save(path, atlas_labels() if labels is None else labels, affine)
    if named:
        rows = [f"{number}\t{name}" for number, name in NAMES.items()]
        path.with_name("atlas.tsv").write_text("\n".join(["index\tname", *rows]) + "\n")
    return path


def draw_bold(rng: np.random.Generator, volumes: int = 40, shared: float = 0.7) -> np.ndarray:
    """Voxel noise, and in each region a signal of which a part is shared with the region of the other half."""
    labels = atlas_labels()
    networks = rng.normal(size=(3, volumes))
    data = 1000 + rng.normal(size=(*SHAPE, volumes))
    for position, number in enumerate(NUMBERS):
        own = rng.normal(size=volumes)
        data[labels == number] += 5 * (np.sqrt(shared) * networks[position % 3] + np.sqrt(1 - shared) * own)
    return data.astype(np.float32)


def bold_path(folder: Path, participant: str) -> Path:
    return folder / participant / "func" / f"{participant}_task-rest_space-MNI_desc-preproc_bold.nii.gz"


def write_bold_cohort(folder: Path, people: int = 40, seed: int = 0) -> Path:
    """A cohort whose site S1 scans everybody with one more signal in all regions, which is a confound with a table."""
    participants = simulate_participants(people, n_sites=2, seed=seed)
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    participants.to_csv(folder / "participants.tsv", sep="\t", index=False)
    for row in participants.itertuples():
        data = draw_bold(rng)
        breath: np.ndarray = rng.normal(size=data.shape[3:])
        data[atlas_labels() > 0] += (4 if row.site == "S1" else 1) * breath.astype(np.float32)
        path = save(bold_path(folder, str(row.participant_id)), data)
        table = path.with_name(f"{row.participant_id}_task-rest_desc-confounds_timeseries.tsv")
        steps = ["n/a", *map(repr, np.diff(breath).tolist())]
        lines = [f"{value!r}\t{step}" for value, step in zip(breath.tolist(), steps, strict=True)]
        table.write_text("\n".join(["breath\tbreath_derivative1", *lines]) + "\n")
    return folder
