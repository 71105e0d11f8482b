"""Small cohorts of points in correspondence: landmarks, PLY and GIFTI meshes, with known effects and poses."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from medrep.derivatives.bids import write_tsv
from medrep.simulate import simulate_participants

PEOPLE, POINTS = 60, 14
FACES = np.array([[0, 1, 2], [2, 3, 4], [5, 6, 7]], np.int32)


def landmarks_path(root: Path, who: str, desc: str = "") -> Path:
    """Return where a person's landmarks lie."""
    return root / who / "anat" / f"{who}{desc}_landmarks.tsv"


def write_landmarks(path: Path, points: np.ndarray, names: bool = True) -> None:
    """Write points as a table, with a comment column of its own."""
    axes = "xyz"[: points.shape[1]]
    lines = ["\t".join([*(["name"] if names else []), *axes, "note"])]
    for number, point in enumerate(points):
        lines.append("\t".join([*([f"mark{number}"] if names else []), *(f"{value:.6f}" for value in point), "seen"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_ply(path: Path, points: np.ndarray, form: str = "binary_little_endian") -> None:
    """Write points with a colour each and three faces."""
    header = ["ply", f"format {form} 1.0", "comment by hand", f"element vertex {len(points)}"]
    header += [f"property float {axis}" for axis in "xyz"] + ["property uchar red", f"element face {len(FACES)}"]
    header += ["property list uchar int vertex_indices", "end_header"]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = ("\n".join(header) + "\n").encode()
    if form == "ascii":
        rows = [f"{x:.6g} {y:.6g} {z:.6g} 7" for x, y, z in points] + [
            "3 " + " ".join(map(str, face)) for face in FACES
        ]
        path.write_bytes(content + ("\n".join(rows) + "\n").encode())
        return
    sign = ">" if form == "binary_big_endian" else "<"
    rows = np.zeros(len(points), [("x", sign + "f4"), ("y", sign + "f4"), ("z", sign + "f4"), ("red", "u1")])
    rows["x"], rows["y"], rows["z"], rows["red"] = *points.T, 7
    faces = np.zeros(len(FACES), [("n", "u1"), ("f", sign + "i4", 3)])
    faces["n"], faces["f"] = 3, FACES
    path.write_bytes(content + rows.tobytes() + faces.tobytes())


def write_gifti_mesh(path: Path, points: np.ndarray, encoding: str = "GIFTI_ENCODING_B64GZ") -> None:
    """Write a mesh of three faces."""
    arrays = [
        nib.gifti.GiftiDataArray(data, intent=f"NIFTI_INTENT_{intent}", datatype=kind, encoding=encoding)
        for data, intent, kind in (
            (points.astype(np.float32), "POINTSET", "NIFTI_TYPE_FLOAT32"),
            (FACES, "TRIANGLE", "NIFTI_TYPE_INT32"),
        )
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nib.gifti.GiftiImage(darrays=arrays).to_bytes())


def turned(points: np.ndarray, rng: np.random.Generator, most: float = 0.6) -> np.ndarray:
    """Return points moved and turned at random."""
    return points @ rotation(rng, points.shape[1], most) + rng.normal(size=points.shape[1]) * 20


def rotation(rng: np.random.Generator, dims: int, most: float) -> np.ndarray:
    """Return a proper rotation by up to an angle in each plane."""
    found = np.eye(dims)
    for first in range(dims):
        for second in range(first + 1, dims):
            angle = rng.uniform(-most, most)
            plane = np.eye(dims)
            plane[first, first] = plane[second, second] = np.cos(angle)
            plane[first, second], plane[second, first] = np.sin(angle), -np.sin(angle)
            found = found @ plane
    return found


def simulate_points(people: int = PEOPLE, dims: int = 3, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return participants, points that lie alike, and what site S2 adds to each point: it stretches the first axis."""
    rng = np.random.default_rng(seed)
    table = simulate_participants(people, n_sites=2, seed=seed)
    base = rng.normal(size=(POINTS, dims)) * 20
    base -= base.mean(axis=0)
    away = (table["site"] == sorted(table["site"].unique())[1]).to_numpy(float)
    stretch = np.zeros((POINTS, dims))
    stretch[:, 0] = 0.1 * base[:, 0]
    points = base + away[:, None, None] * stretch + rng.normal(size=(people, POINTS, dims)) * 0.5
    return table, points, stretch


def write_points_cohort(root: Path, people: int = PEOPLE, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Write a cohort of landmarks, everybody lying as they please; return participants, aligned points, what a site adds."""
    table, points, stretch = simulate_points(people, seed=seed)
    rng = np.random.default_rng([seed, 1])
    for who, own in zip(table["participant_id"], points, strict=True):
        write_landmarks(landmarks_path(root, str(who)), turned(own, rng))
    write_tsv(root / "participants.tsv", table)
    return table, points, stretch
