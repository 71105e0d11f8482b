"""The real cohorts of the benchmarks, read from MEDREP_DATA, and how they are split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
NOT_FEATURES = ("sub_id", "age", "sex", "site")
# Defects FreeSurfer closed while it built the surfaces, and avg_en, the mean Euler number of both hemispheres, which is
# exactly 2 - SurfaceHoles. They measure image quality and tell the site; they stay features, as any column a user
# hands over would, so that a remover is judged on the table as it is distributed.
QC_FEATURES = ("lhSurfaceHoles", "rhSurfaceHoles", "SurfaceHoles", "avg_en")


def data_folder() -> Path:
    """Return the folder of the shared data: MEDREP_DATA, by default ../shared/data from the repository root."""
    return Path(os.environ.get("MEDREP_DATA", ROOT.parent / "shared" / "data"))


def fcon1000(min_site: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read FreeSurfer thickness and volumes of the 1000 Functional Connectomes.

    Every numeric column that is not a covariate is a feature: quality columns (QC_FEATURES) and the columns that
    are the same for everybody (constant_features) are kept.

    Args:
        min_site: Sites with fewer people are left out.

    Returns:
        features: One row a participant (index participant_id), 218 columns in mm, mm3, counts and ratios.
        table: Same index; age in years, sex as F or M, site.
    """
    path = data_folder() / "fcon1000" / "fcon1000.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; set MEDREP_DATA to the folder that holds fcon1000/fcon1000.csv")
    raw = pd.read_csv(path).set_index("sub_id", drop=False).rename_axis("participant_id")
    raw = raw[raw.groupby("site")["site"].transform("size") >= min_site]
    table = raw[["age", "sex", "site"]].assign(sex=raw["sex"].map({0: "F", 1: "M"}))
    return raw.drop(columns=list(NOT_FEATURES)), table


def constant_features(features: pd.DataFrame) -> list[str]:
    """Name the columns that have one value for everybody."""
    return [str(name) for name in features.columns[features.nunique() == 1]]


def split_half_by_site(table: pd.DataFrame, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Halve every site at random; which side gets the odd person is drawn too.

    Args:
        table: Needs a column site.
        seed: Of the draw.

    Returns:
        Boolean masks over the rows, (train, test): disjoint, together everybody, every site on both sides.
    """
    sites = table["site"].to_numpy()
    names, counts = np.unique(sites, return_counts=True)
    if (counts < 2).any():
        raise ValueError(f"a site needs 2 people to be on both sides; 1 in {', '.join(names[counts < 2])}")
    rng = np.random.default_rng(seed)
    train = np.zeros(len(sites), dtype=bool)
    for name, count in zip(names, counts, strict=True):
        people = rng.permutation(np.flatnonzero(sites == name))
        train[people[: (count + rng.integers(2)) // 2]] = True
    return train, ~train
