"""Regions: groups of a model's columns that somebody named, in a table of features or as a label image on the grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from medrep.cohort.grid import Columns, Grid, grid_problem, world_rows
from medrep.cohort.nifti import read_labels
from medrep.cohort.participants import read_tsv
from medrep.cohort.transforms import Turn
from medrep.errors import CohortError, listed

ELSEWHERE = "elsewhere"
"""The region of columns that nobody put into one."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of columns.

    Attributes:
        names: Of the regions that have columns.
        codes: Place among the names of each column's region.
    """

    names: tuple[str, ...]
    codes: Int[np.ndarray, " columns"]

    @classmethod
    def of(cls, labels: Sequence[str]) -> "Regions":
        """Return regions from the name of each column's region."""
        names, codes = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
        return cls(tuple(names.tolist()), codes)

    def among(self, places: Int[np.ndarray, " some"]) -> "Regions":
        """Return the regions of some of the columns."""
        present, codes = np.unique(self.codes[places], return_inverse=True)
        return Regions(tuple(self.names[code] for code in present), codes)


def read_regions(path: Path, columns: Columns) -> Regions:
    """Read which column is of which region.

    Args:
        path: Of features, a table with the columns ``feature`` and ``region``; features that it does not name are `ELSEWHERE`.
            Of voxels, a 3-D image of whole numbers on the model's grid, 0 of which is `ELSEWHERE`; ``atlas_dseg.nii.gz`` takes
            its names from ``atlas_dseg.tsv`` (columns ``index`` and ``name``), without which regions are named by their numbers.
        columns: The model's.

    Raises:
        CohortError: A file of another kind than the columns, another grid, columns that the table lacks, and all features and
            regions that cannot be used; fewer than two regions.
    """
    if not path.is_file():
        raise CohortError(f"--regions {path}: no such file")
    table = path.name.endswith(".tsv")
    if table and not columns.names:
        raise CohortError(f"--regions {path}: the model's columns are voxels; give a label image on their grid")
    if not table and columns.grid is None:
        raise CohortError(f"--regions {path}: not a .tsv; give a table with the columns feature and region")
    regions = Regions.of(_of_features(path, columns.names)) if table else _of_voxels(path, columns)
    if len(regions.names) < 2:
        raise CohortError(f"--regions {path}: all columns are of {regions.names[0]}; two regions or more are needed")
    return regions


def _of_features(path: Path, features: tuple[str, ...]) -> list[str]:
    header, rows, _ = read_tsv(path)
    if absent := [name for name in ("feature", "region") if name not in header]:
        raise CohortError(
            f"{path}: no column {' and '.join(absent)}; a table of regions has the columns feature and region"
        )
    cells = [(row[header.index("feature")].strip(), row[header.index("region")].strip()) for row in rows]
    known, found, problems = set(features), dict[str, str](), []
    for feature, region in cells:
        if feature not in known:
            problems.append(f"{feature}: no feature of the model")
        elif not region:
            problems.append(f"{feature}: no region")
        elif found.setdefault(feature, region) != region:
            problems.append(f"{feature}: in {found[feature]} and in {region}")
    if problems:
        cure = f"give each feature one region; those that are left out are of {ELSEWHERE}"
        raise CohortError(listed(f"{path}: features that cannot be put into a region", problems, cure))
    return [found.get(feature, ELSEWHERE) for feature in features]


def _of_voxels(path: Path, columns: Columns) -> Regions:
    image = read_labels(path)
    turn, affine = Turn.of(image.affine, image.data.shape)
    labels = turn.apply(image.data)
    x, y, z = labels.shape
    a, b, c = (float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0))
    own, grid = Grid((x, y, z), (a, b, c), world_rows(affine)), columns.grid
    if grid is not None and grid_problem(own, grid):
        sizes = " and ".join(
            f"{one.shape} voxels of {' x '.join(f'{edge:.3g}' for edge in one.spacing)} mm" for one in (own, grid)
        )
        apart = "" if own.shape != grid.shape else ", or lie apart in the world"
        raise CohortError(
            f"{path}: not on the model's grid ({sizes}{apart}); resample the label image to it by nearest neighbours"
        )
    inside = np.tile(columns.inside(labels), max(1, len(columns.structures)))
    numbers, codes = np.unique(inside, return_inverse=True)
    named = tuple(int(number) for number in numbers if number)
    sidecar = table_beside(path)
    names = region_names(sidecar, named) if sidecar.is_file() else tuple(str(number) for number in named)
    # Somebody may have named a region as those are that nobody named.
    of_numbers = Regions.of([*([ELSEWHERE] if 0 in numbers else []), *names])
    return Regions(of_numbers.names, of_numbers.codes[codes])


def table_beside(path: Path) -> Path:
    """Return where the names of a label image's regions are: atlas.tsv of atlas.nii.gz."""
    stem = path.name.removesuffix(".gz")
    return path.with_name(stem[: stem.rfind(".")] + ".tsv")


def region_names(path: Path, numbers: tuple[int, ...], between: str = "") -> tuple[str, ...]:
    """Read the names of regions from a BIDS look-up table, with the columns ``index`` and ``name``.

    Args:
        path: The table.
        numbers: Of the regions, in whose order names are returned.
        between: Text that no name may hold, since it stands between two; empty: any may.

    Raises:
        CohortError: A table without these columns, and all regions without a name of their own.
    """
    header, rows, _ = read_tsv(path)
    absent = [column for column in ("index", "name") if column not in header]
    if absent:
        raise CohortError(
            f"{path}: no column {' and '.join(absent)}; a table of regions has the columns index and name"
        )
    entries = [(row[header.index("index")].strip(), row[header.index("name")].strip()) for row in rows]
    named: dict[str, list[str]] = {}
    for index, name in entries:
        named.setdefault(index, []).append(name)
    owner: dict[str, int] = {}
    problems: list[str] = []
    for number in numbers:
        found = named.get(str(number), [])
        if len(found) != 1 or not found[0]:
            problems.append(f"region {number}: {len(found)} rows" if len(found) != 1 else f"region {number}: no name")
        elif between and between in found[0]:
            problems.append(f"region {number}: {found[0]!r} holds {between!r}, which stands between two regions")
        elif found[0] in owner:
            problems.append(f"region {number}: named {found[0]!r} as is region {owner[found[0]]}")
        else:
            owner[found[0]] = number
    if problems:
        cure = "give each region of the image one row with a name of its own"
        raise CohortError(listed(f"{path}: regions without a name of their own", problems, cure))
    return tuple(owner)
