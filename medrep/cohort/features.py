"""Feature tables: features.tsv -> a matrix keyed like participants.tsv."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.grid import Grid
from medrep.cohort.participants import KEY_COLUMNS, keys, label, refuse_doubles, refuse_nuls
from medrep.cohort.values import MISSING_WORDS, plain_number
from medrep.errors import CohortError, listed


@dataclass(frozen=True)
class FeatureTable:
    """Features of some people.

    Attributes:
        ids: The key columns as they stand in the file, index: key.
        values: One row a person, NaN where a cell is missing.
        names: Column names in the file's order.
        grid: Where the columns lie in space, if features.json says so with a ``Grid`` (shape, spacing in mm).
    """

    ids: pd.DataFrame
    values: Float[np.ndarray, "people features"]
    names: tuple[str, ...]
    grid: Grid | None

    def rows(self, wanted: pd.Index) -> "FeatureTable":
        """Return the rows of ``wanted`` keys, in that order."""
        positions = self.ids.index.get_indexer(wanted)
        return FeatureTable(self.ids.iloc[positions], self.values[positions], self.names, self.grid)


def read_features(path: Path) -> FeatureTable:
    """Read features.tsv: ``participant_id``, optionally ``session_id``, then one numeric column a feature.

    Raises:
        CohortError: Missing file, no id column, repeated people, or cells that are neither a number nor ``n/a``.
    """
    names, ids, values = _read_rows(path)
    nameless = [f"row {n}" for n, who in enumerate(ids["participant_id"], 1) if who.lower() in MISSING_WORDS]
    if nameless:
        raise CohortError(
            listed(f"{path}: rows without a participant_id", nameless, "name the person, or remove the row")
        )
    refuse_doubles(path, ids)
    ids.index = pd.Index(keys(ids), name="key")
    return FeatureTable(ids, values, names, _grid(path.with_suffix(".json"), len(names)))


def match_keys(features: FeatureTable, wanted: pd.Index) -> FeatureTable:
    """Return the features of the wanted people; ids match with or without ``sub-``.

    Raises:
        CohortError: People without features; all are listed.
    """
    bare = {label(str(key), "sub"): position for position, key in enumerate(features.ids.index)}
    absent = [str(key) for key in wanted if label(str(key), "sub") not in bare]
    if absent:
        raise CohortError(
            listed(
                "people of participants.tsv without a row in features.tsv",
                absent,
                "add the rows, or leave the people out with --exclude",
            )
        )
    positions = [bare[label(str(key), "sub")] for key in wanted]
    ids = features.ids.iloc[positions].set_axis(wanted)
    return FeatureTable(ids, features.values[positions], features.names, features.grid)


def missing_cells(features: FeatureTable) -> list[str]:
    """Return one line for each cell that is NaN or infinite: the person and the column."""
    rows, columns = np.nonzero(~np.isfinite(features.values))
    return [
        f"{features.ids.index[i]}: {features.names[j]} is {features.values[i, j]:g}"
        for i, j in zip(rows, columns, strict=True)
    ]


def _read_rows(path: Path) -> tuple[tuple[str, ...], pd.DataFrame, Float[np.ndarray, "people features"]]:
    """Read the file a line at a time: a table of 100,000 columns costs its numbers and one line of text.

    Returns:
        The names of the features, the key columns, and the values.
    """
    people: list[list[str]] = []
    rows: list[np.ndarray] = []
    ragged: list[str] = []
    nuls: dict[int, str] = {}
    texts: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = ((number, line.rstrip("\n").split("\t")) for number, line in enumerate(file, 1) if line.strip())
            header = [name.strip() for name in next(lines, (0, [""]))[1]]
            nuls = {1: header[0]} if "\0" in "\t".join(header) else {}
            key_columns, features = _columns(path, header)
            for number, cells in lines:
                if "\0" in "\t".join(cells):
                    nuls[number] = cells[0]
                    continue
                if len(cells) != len(header):
                    ragged.append(f"line {number}: {len(cells)} cells ({cells[0][:40]!r} ...)")
                    continue
                people.append([cells[position].strip() or "n/a" for position in key_columns])
                rows.append(_numbers(people[-1], [header[k] for k in features], [cells[k] for k in features], texts))
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise CohortError(f"{path}: not UTF-8 text; save the table as UTF-8, separated by tabs") from None
    refuse_nuls(path, nuls)
    if ragged:
        cure = "one tab between two cells, n/a in an empty one"
        raise CohortError(listed(f"{path}: rows that do not have the header's {len(header)} cells", ragged, cure))
    if texts:
        raise CohortError(listed(f"{path}: cells that are no numbers", texts, "write a number or n/a"))
    if not rows:
        raise CohortError(f"{path}: a header and no people; add one line a person")
    ids = pd.DataFrame(people, columns=[header[k] for k in key_columns], dtype=str)
    return tuple(header[k] for k in features), ids, np.stack(rows)


def _columns(path: Path, header: list[str]) -> tuple[list[int], list[int]]:
    """Return the positions of the key columns and of the features."""
    if not any(header):
        raise CohortError(f"{path}: the file is empty; it needs a header line and one line a person")
    if "participant_id" not in header:
        raise CohortError(f"{path}: no column participant_id; the first columns are {', '.join(header[:4])}")
    counts = Counter(header)
    unclear = [f"column {n}: {name!r}" for n, name in enumerate(header, 1) if counts[name] > 1 or not name]
    if unclear:
        raise CohortError(listed(f"{path}: columns without a name of their own", unclear, "name each column once"))
    key_columns = [header.index(name) for name in KEY_COLUMNS if name in header]
    features = [position for position, name in enumerate(header) if name not in KEY_COLUMNS]
    if not features:
        raise CohortError(f"{path}: no feature columns beside the ids")
    return key_columns, features


def _numbers(who: list[str], names: list[str], cells: list[str], texts: list[str]) -> Float[np.ndarray, " features"]:
    """Return a row's numbers, NaN for a missing word; cells that are neither are added to ``texts``."""
    together = "".join(cells)
    if together.isascii() and "_" not in together:  # else Python reads 1_000 and digits of other scripts, too
        try:
            row = np.array(cells, dtype=np.float64)
        except ValueError:
            row = None
        if row is not None and not np.isinf(row).any():
            return row
    row = np.full(len(cells), np.nan)
    for position, cell in enumerate(cells):
        number = plain_number(cell)
        if number is not None:
            row[position] = number
        elif cell.strip().lower().lstrip("+-") not in MISSING_WORDS:  # C writes -nan, too
            texts.append(f"{' '.join(who)}: {names[position]} {cell!r} is no number")
    return row


def _grid(path: Path, width: int) -> Grid | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        grid = Grid.from_json(content["Grid"]) if isinstance(content, dict) and "Grid" in content else None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise CohortError(f"{path}: unusable ({error}); Grid needs shape (3 counts) and spacing (3 mm)") from None
    if grid is not None and grid.size != width:
        raise CohortError(
            f"{path}: Grid {grid.shape} has {grid.size} voxels, features.tsv {width} columns; make them agree"
        )
    return grid
