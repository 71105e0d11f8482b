"""An atlas: the regions of a label map, and the names of the edges between them."""

import hashlib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from medrep.cohort.nifti import LabelMap, read_labels
from medrep.cohort.participants import read_tsv
from medrep.errors import CohortError, listed

BETWEEN = "~"
"""Stands between the two regions of an edge's name."""


@dataclass(frozen=True)
class Atlas:
    """The regions of a label map.

    Attributes:
        regions: The label map.
        numbers: The numbers that occur in it, ascending, without 0.
        names: One name a region, in the order of ``numbers``.
    """

    regions: LabelMap
    numbers: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of the pairs of regions: the upper triangle, row by row, without the diagonal."""
        return tuple(f"{first}{BETWEEN}{second}" for first, second in combinations(self.names, 2))

    @property
    def sha256(self) -> str:
        """Fingerprint of what is measured: label map, its place in space (to 0.1 micrometre) and the regions' names.

        The file's name, compression and number type do not matter.
        """
        digest = hashlib.sha256(repr((self.regions.data.shape, self.names)).encode("utf-8", "surrogatepass"))
        digest.update((np.round(self.regions.affine, 4) + 0.0).astype("<f8").tobytes())  # + 0.0: -0 is 0
        digest.update(self.regions.data.astype("<i4").tobytes())
        return digest.hexdigest()


def read_atlas(path: Path) -> Atlas:
    """Read a label map, and the names of its regions from the table beside it where there is one.

    Args:
        path: A 3-D image of whole numbers. ``atlas.nii.gz`` takes its names from ``atlas.tsv``, a BIDS look-up table with
            the columns ``index`` and ``name``; without one, regions are named by their numbers.

    Raises:
        CohortError: An unusable file, fewer than two regions, or regions without a name of their own; all are listed.
    """
    regions = read_labels(path)
    numbers = tuple(int(number) for number in np.unique(regions.data) if number)
    if len(numbers) < 2:
        raise CohortError(f"{path}: {len(numbers)} region(s); edges need an atlas of two or more")
    stem = path.name.removesuffix(".gz")
    table = path.with_name(stem[: stem.rfind(".")] + ".tsv")
    names = _names(table, numbers) if table.is_file() else tuple(str(number) for number in numbers)
    return Atlas(regions, numbers, names)


def _names(path: Path, numbers: tuple[int, ...]) -> tuple[str, ...]:
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
        elif BETWEEN in found[0]:
            problems.append(f"region {number}: {found[0]!r} holds {BETWEEN!r}, which stands between two regions")
        elif found[0] in owner:
            problems.append(f"region {number}: named {found[0]!r} as is region {owner[found[0]]}")
        else:
            owner[found[0]] = number
    if problems:
        cure = "give each region of the image one row with a name of its own"
        raise CohortError(listed(f"{path}: regions without a name of their own", problems, cure))
    return tuple(owner)
