"""Connectivity: edges between regions, measured of a 4-D image a person, or read of matrices or of features.tsv.

For ``measure: tangent`` the columns of a model are the off-diagonal elements of the logarithm of a person's correlation matrix.
Any numbers there are those of exactly one correlation matrix (Archakov and Hansen 2021), so whatever a model makes of them
is positive definite with a diagonal of 1 once it is written as edges again, and no reference has to be fitted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep.cohort.bids import run_notes, runs
from medrep.cohort.covariates import Covariate
from medrep.cohort.features import FeatureTable, claimed, match_keys, read_features
from medrep.cohort.files import CohortFiles
from medrep.cohort.inputs import BETWEEN, ConnectivityInput, FeaturesInput
from medrep.cohort.kinds.base import Found, find_files
from medrep.cohort.kinds.features import TableKind
from medrep.cohort.parsing import MISSING_WORDS, plain_number
from medrep.cohort.participants import KEY_COLUMNS
from medrep.cohort.samples import Source, no_table
from medrep.cohort.tables import Tables, read_tables
from medrep.errors import CohortError, listed

MATRIX = "relmat"
"""BIDS suffix of a matrix of relations (BEP017)."""

LEAST_EIGENVALUE = 1e-4
"""Matrices with a smaller one are refused: its logarithm would be that of rounding."""

_SYMMETRIC = 1e-6
_STEPS, _NEAR, _ENOUGH = 2000, 1e-9, 1e-14


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions that columns of edges lie between.

    Attributes:
        names: In the order in which the columns name them first.
        first: Of each column, the place of one region.
        second: And of the other one.
        named: Whether the columns name regions; else they are an upper triangle, row by row, of regions 1, 2, ...
    """

    names: tuple[str, ...]
    first: Int[np.ndarray, " edges"]
    second: Int[np.ndarray, " edges"]
    named: bool = True

    def matrix(self, edges: Float[np.ndarray, " edges"], diagonal: float) -> Float[np.ndarray, "regions regions"]:
        """Return edges as a symmetric matrix."""
        whole = np.diag(np.full(len(self.names), diagonal))
        whole[self.first, self.second] = whole[self.second, self.first] = edges
        return whole


@lru_cache(maxsize=4)
def regions_of(columns: tuple[str, ...]) -> Regions:
    """Return the regions that columns lie between: ``A~B`` each, or the upper triangle of a matrix, row by row.

    Raises:
        CohortError: Columns that are no edges, pairs that are there twice or not at all; all are listed.
    """
    cure = f"name each column REGION{BETWEEN}REGION, one for each pair, or give an upper triangle, row by row"
    count = round((1 + np.sqrt(1 + 8 * len(columns))) / 2)
    if not any(BETWEEN in column for column in columns):
        if len(columns) != count * (count - 1) // 2:
            raise CohortError(f"{len(columns)} columns are not the pairs of any number of regions; {cure}")
        first, second = np.triu_indices(count, 1)
        return Regions(tuple(str(number + 1) for number in range(count)), first, second, named=False)
    pairs = [tuple(column.split(BETWEEN)) for column in columns]
    wrong = [
        f"{column!r} is no edge"
        for column, pair in zip(columns, pairs, strict=True)
        if len(pair) != 2 or not all(pair) or len(set(pair)) < 2
    ]
    if wrong:
        raise CohortError(listed("columns that are no edges", wrong, cure))
    names = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    counts = Counter(frozenset(pair) for pair in pairs)
    wrong = [f"{BETWEEN.join(sorted(pair))}: {number} columns" for pair, number in counts.items() if number > 1]
    wrong += [f"{a}{BETWEEN}{b}: no column" for a, b in combinations(names, 2) if frozenset((a, b)) not in counts]
    if wrong:
        raise CohortError(listed("pairs of regions without exactly one column", wrong, cure))
    place = {name: number for number, name in enumerate(names)}
    return Regions(names, np.array([place[a] for a, _ in pairs]), np.array([place[b] for _, b in pairs]))


def logarithm(matrix: Float[np.ndarray, "regions regions"]) -> Float[np.ndarray, "regions regions"]:
    """Return the symmetric logarithm of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.log(values)) @ vectors.T


def correlation_matrix(hollow: Float[np.ndarray, "regions regions"]) -> Float[np.ndarray, "regions regions"]:
    """Return the correlation matrix whose logarithm has given elements off the diagonal; there is exactly one for any.

    The diagonal of the logarithm is found by ``x - log diag exp(hollow + diag x)``, a contraction (Archakov and Hansen 2021).

    Args:
        hollow: Symmetric; its diagonal is not looked at.
    """
    whole, x, before = hollow.copy(), np.zeros(len(hollow)), np.inf
    for _ in range(_STEPS):
        np.fill_diagonal(whole, x)
        values, vectors = np.linalg.eigh(whole)
        found = (vectors * np.exp(values - values[-1])) @ vectors.T
        excess = np.log(np.diag(found)) + values[-1]
        x -= excess
        largest = float(np.abs(excess).max())
        if largest <= _ENOUGH or (largest < _NEAR and largest >= before):  # what is left is rounding
            break
        before = largest
    scale = np.sqrt(np.diag(found))
    found = found / np.outer(scale, scale)
    np.fill_diagonal(found, 1.0)
    return np.asarray((found + found.T) / 2)


@dataclass(frozen=True)
class EdgeForm:
    """The form in which edges are given and written: correlations or Fisher z; a model has them in another.

    Attributes:
        section: Says what the edges are, and the measure.
        columns: Their names.
    """

    section: ConnectivityInput
    columns: tuple[str, ...]

    needs_given: ClassVar[bool] = False

    def received(
        self, given: Float[np.ndarray, "people edges"], people: Sequence[str]
    ) -> Float[np.ndarray, "people edges"]:
        """Return the columns of a model: Fisher z, or the logarithm of the correlation matrix for ``tangent``.

        Args:
            given: Edges as they were given.
            people: Who they belong to, for what is said.

        Raises:
            CohortError: Everybody whose edges are no correlations, or no positive definite matrix of them.
        """
        if self.section.edges == "r":
            counts = (np.abs(given) >= 1).sum(axis=1)
            of = f"of {len(self.columns)} edges are not between -1 and 1"
            wrong = [f"{who}: {count} {of}" for who, count in zip(people, counts, strict=True) if count]
            if wrong:
                raise CohortError(listed("edges that are no correlations", wrong, "Fisher z is told by input.edges=z"))
        if self.section.measure == "tangent":
            return self._logarithms(given if self.section.edges == "r" else np.tanh(given), people)
        return np.arctanh(given)

    def released(
        self,
        rows: Float[np.ndarray, "people edges"],
        before: Float[np.ndarray, "people edges"] | None = None,
        given: Float[np.ndarray, "people edges"] | None = None,
    ) -> Float[np.ndarray, "people edges"]:
        """Return a model's columns as edges in the form in which they were given: the inverse of `received`.

        Args:
            rows: The model's.
            before: Not looked at; see `RowForm`.
            given: Likewise.
        """
        del before, given
        if self.section.measure != "tangent":
            return np.tanh(rows)
        regions = regions_of(self.columns)
        matrices = (correlation_matrix(regions.matrix(row, 0.0)) for row in rows)
        correlations = np.stack([matrix[regions.first, regions.second] for matrix in matrices])
        return correlations if self.section.edges == "r" else np.arctanh(correlations)

    def _logarithms(
        self, correlations: Float[np.ndarray, "people edges"], people: Sequence[str]
    ) -> Float[np.ndarray, "people edges"]:
        regions, share = regions_of(self.columns), self.section.shrinkage
        rows, wrong, least = np.empty(correlations.shape), list[str](), 0.0
        for place, (who, own) in enumerate(zip(people, correlations, strict=True)):
            if not np.isfinite(own).all():
                wrong.append(f"{who}: {int((~np.isfinite(own)).sum())} edges are missing")
                continue
            smallest = float(np.linalg.eigvalsh(regions.matrix(own, 1.0))[0])
            if smallest < LEAST_EIGENVALUE:
                least = max(least, (LEAST_EIGENVALUE - smallest) / (1 - smallest))
            if (1 - share) * smallest + share < LEAST_EIGENVALUE:
                wrong.append(f"{who}: smallest eigenvalue {smallest:.2g}")
            else:
                rows[place] = logarithm(regions.matrix((1 - share) * own, 1.0))[regions.first, regions.second]
        if wrong:
            enough = np.ceil(100 * least) / 100
            cure = "leave these people out with --exclude, or measure edges again"
            if least:
                cure = (
                    "check input.edges (r or z) and the order of the columns, or mix the identity in with"
                    f" input.shrinkage={enough:g}, which multiplies correlations by {1 - enough:g}"
                )
            raise CohortError(listed("edges that are no positive definite correlation matrix", wrong, cure))
        return rows


def edge_form(section: ConnectivityInput, columns: tuple[str, ...]) -> EdgeForm | None:
    """Return the form of edges; None where it is that of a model's columns."""
    converts = section.measure == "tangent" or (section.measure == "correlation" and section.edges == "r")
    return EdgeForm(section, columns) if converts else None


def read_matrix(path: Path) -> tuple[Float[np.ndarray, "regions regions"], tuple[str, ...]]:
    """Read a symmetric matrix: ``.npy``, or a table with or without the names of regions above and beside it.

    Returns:
        The matrix, NaN where a cell is missing, and the names; no names where there are none.

    Raises:
        CohortError: No such file, or no symmetric matrix of numbers; one line.
    """
    names: tuple[str, ...] = ()
    try:
        if path.suffix == ".npy":
            matrix = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        else:
            rows = [line.split("\t") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            header = rows.pop(0) if _is_header(rows) else []
            beside = bool(header) and len(rows[0]) == len(rows) + 1
            if rows and (beside or any(_number(row[0]) is None for row in rows)):
                names, rows = tuple(row[0].strip() for row in rows), [row[1:] for row in rows]
            names = names or tuple(cell.strip() for cell in header)
            cells = [[_number(cell) for cell in row] for row in rows]
            if any(cell is None for row in cells for cell in row) or len({len(row) for row in cells}) > 1:
                raise CohortError(f"{path}: not a table of numbers with as many cells in each row")
            matrix = np.array(cells, dtype=np.float64)
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:
        raise CohortError(f"{path}: not a matrix of numbers ({str(error)[:80]})") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise CohortError(f"{path}: {' x '.join(map(str, matrix.shape))} numbers; a square matrix is needed")
    if not np.allclose(matrix, matrix.T, rtol=0, atol=_SYMMETRIC, equal_nan=True):
        raise CohortError(f"{path}: is not symmetric")
    return matrix, names


def _is_header(rows: list[list[str]]) -> bool:
    """Say whether the first row names regions: by a word, or by an empty cell above the names beside the matrix."""
    if len(rows) < 2:
        return False
    return any(_number(cell) is None for cell in rows[0]) or (not rows[0][0].strip() and any(rows[1][1:2]))


def _number(cell: str) -> float | None:
    return float("nan") if cell.strip().lower() in {*MISSING_WORDS, "inf", "-inf"} else plain_number(cell)


@dataclass(frozen=True)
class ConnectivityKind(TableKind[ConnectivityInput]):
    """Edges between regions: of a 4-D image or a matrix a person, or of features.tsv."""

    section: ConnectivityInput = field(default_factory=ConnectivityInput)

    kind: ClassVar[str] = "connectivity"
    section_type: ClassVar[type[ConnectivityInput]] = ConnectivityInput
    transform: ClassVar[str] = "medrep.derivatives.transform:TransformEdges"
    form: ClassVar[str] = "medrep.cohort.kinds.connectivity:edge_form"
    has_matrix: ClassVar[bool] = True

    def tables(
        self, files: CohortFiles, declared: Sequence[Covariate], *, only: Sequence[str], exclude: Sequence[str]
    ) -> Tables:
        """Read edges and covariates of table files; see `InputKind.tables`."""
        found = read_tables(files, FeaturesInput(group=self.section.group), declared, only=only, exclude=exclude)
        features, notes = self._of_table(found.features, files.root.name)
        return replace(found, features=features, notes=(*found.notes, *notes))

    def table(self, root: Path, people: Sequence[str]) -> tuple[FeatureTable, pd.DataFrame | None]:
        """Read features.tsv where there is no atlas and no matrix; see `InputKind.table`."""
        path = root / "features.tsv"
        if self.section.atlas or self.section.suffix == MATRIX or not path.is_file():
            return no_table(pd.Index([])), None  # everybody has a file
        return claimed(read_features(path), people)

    def find(self, root: Path, table: pd.DataFrame, rows: FeatureTable, *, tolerant: bool) -> Found:
        """Find everybody's edges; nobody is spared, since a table has a row for each; see `InputKind.find`."""
        del tolerant
        if not rows.names:
            return self.take(root, find_files(root, table, self.section, tolerant=False)[0], table)
        matched = match_keys(rows, table.index)
        features, notes = self._of_table(matched, "features.tsv")
        return Found(Source.of_table(features), notes=(*matched.notes, *notes))

    def take(self, root: Path, files: pd.Series, table: pd.DataFrame) -> Found:
        """Read everybody's matrix, or measure the edges of everybody; see `read_connectivity`."""
        ids = table[[column for column in KEY_COLUMNS if column in table]]
        images = tuple(run for file in files for run in runs(Path(str(file))))
        if self.section.suffix != MATRIX:
            from medrep.cohort.connectivity import read_connectivity  # nilearn takes seconds to import

            features, section, notes = read_connectivity(root, files, ids, self.section)
            measured = replace(self, section=section)
            if section.edges == "r" and edge_form(section, features.names) is not None:
                features = replace(features, values=np.tanh(features.values))
            said = (*notes, *run_notes(files, self.section))
            return Found(Source.of_table(measured._converted(features)), images, said, measured)
        self._refuse_images_only(f"matrices (suffix {MATRIX})")
        known = replace(self, section=replace(self.section, edges=self.section.edges or "r"))
        features = known._converted(_read_matrices(files, ids))
        return Found(Source.of_table(features), images, tuple(run_notes(files, self.section)), known)

    def _of_table(self, features: FeatureTable, name: str) -> tuple[FeatureTable, list[str]]:
        """Return a table of edges in the form of a model, and how it was understood."""
        self._refuse_images_only(name)
        notes, regions = [], regions_of(features.names)
        if self.section.edges == "":
            notes.append(f"{name}: edges are taken as Fisher z; correlations are told by input.edges=r")
        if not regions.named:
            size = len(regions.names)
            notes.append(f"{name}: columns are taken as the upper triangle, row by row, of {size} regions")
        return self._converted(features), notes

    def _converted(self, features: FeatureTable) -> FeatureTable:
        form = edge_form(self.section, features.names)
        if form is None:
            return features
        return replace(features, values=form.received(features.values, [str(key) for key in features.ids.index]))

    def _refuse_images_only(self, what: str) -> None:
        if self.section.measure in {"partial", "covariance"}:
            raise CohortError(
                f"input.measure {self.section.measure} is measured of images; of {what} choose correlation or tangent"
            )
        if not 0 <= self.section.shrinkage < 1:
            raise CohortError(f"input.shrinkage {self.section.shrinkage:g}: give a number from 0 to below 1")


def _read_matrices(files: pd.Series, ids: pd.DataFrame) -> FeatureTable:
    rows: list[np.ndarray] = []
    problems: list[str] = []
    regions: dict[tuple[int, tuple[str, ...]], str] = {}
    for key, path in files.items():
        try:
            edges: list[np.ndarray] = []
            for run in runs(Path(str(path))):
                matrix, names = read_matrix(run)
                diagonal = np.diag(matrix)
                if (np.isfinite(diagonal) & (np.abs(diagonal - 1) > _SYMMETRIC) & (diagonal != 0)).any():
                    raise CohortError(f"{run}: the diagonal is neither 1 nor empty; give correlations")
                regions.setdefault((len(matrix), names), str(key))
                if len(regions) > 1:
                    first = next(iter(regions))
                    raise CohortError(f"{run}: other regions than {regions[first]}, who has {first[0]}")
                edges.append(matrix[np.triu_indices(len(matrix), 1)])
            rows.append(np.mean(edges, axis=0))
        except CohortError as error:
            problems.append(f"{key}: {error}")
            regions = dict(list(regions.items())[:1])
    if problems:
        cure = "mend them, choose others with input.entities, or leave the people out with --exclude"
        raise CohortError(listed("matrices that cannot be used", problems, cure))
    size, names = next(iter(regions))
    if len(set(names)) != size:
        names = tuple(str(number + 1) for number in range(size))
    columns = tuple(f"{first}{BETWEEN}{second}" for first, second in combinations(names, 2))
    return FeatureTable(ids, np.stack(rows), columns, None)
