"""Feature tables: features.tsv -> a matrix keyed like participants.tsv."""

import json
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.grid import Grid
from medrep.cohort.participants import KEY_COLUMNS, keys, label, refuse_doubles
from medrep.cohort.values import MISSING_WORDS
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
    try:
        _check_cells(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # a column of numbers and text is refused below
            table = pd.read_csv(
                path,
                sep="\t",
                dtype={"participant_id": str, "session_id": str},
                encoding="utf-8-sig",
                keep_default_na=False,
                na_values=sorted({*MISSING_WORDS, "N/A", "NA", "NaN", "nan"}),
                index_col=False,
            )
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise CohortError(f"{path}: not a tab-separated table ({error})") from None
    if "participant_id" not in table:
        raise CohortError(
            f"{path}: no column participant_id; the first columns are {', '.join(map(str, table.columns[:4]))}"
        )
    key_columns = [column for column in KEY_COLUMNS if column in table]
    nameless = [f"row {n}" for n, missing in enumerate(table["participant_id"].isna(), 1) if missing]
    if nameless:
        raise CohortError(
            listed(f"{path}: rows without a participant_id", nameless, "name the person, or remove the row")
        )
    table[key_columns] = table[key_columns].fillna("n/a").apply(lambda column: column.str.strip())
    refuse_doubles(path, table[key_columns])
    table.index = pd.Index(keys(table), name="key")
    measured = table.drop(columns=key_columns)
    _refuse_text(path, measured)
    if measured.shape[1] == 0:
        raise CohortError(f"{path}: no feature columns beside the ids")
    names = tuple(str(name) for name in measured.columns)
    return FeatureTable(
        table[key_columns], measured.to_numpy(float), names, _grid(path.with_suffix(".json"), len(names))
    )


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


def _check_cells(path: Path) -> None:
    """Refuse what pandas would shift, fill in or rename in silence: ragged lines, and columns without a name of their own.

    Raises:
        CohortError: All such lines or columns.
    """
    with path.open(encoding="utf-8-sig") as file:
        lines = ((number, line.rstrip("\n")) for number, line in enumerate(file, 1) if line.strip())
        names = next(lines, (0, ""))[1].split("\t")
        ragged = [
            f"line {number}: {cells} cells ({line[:40].split(chr(9))[0]!r} ...)"
            for number, line in lines
            if (cells := line.count("\t") + 1) != len(names)
        ]
    if ragged:
        cure = "one tab between two cells, n/a in an empty one"
        raise CohortError(listed(f"{path}: rows that do not have the header's {len(names)} cells", ragged, cure))
    counts = Counter(names)
    twice = [f"column {n}: {name!r}" for n, name in enumerate(names, 1) if counts[name] > 1 or not name.strip()]
    if twice and len(names) > 1:
        raise CohortError(listed(f"{path}: columns without a name of their own", twice, "name each column once"))


def _refuse_text(path: Path, measured: pd.DataFrame) -> None:
    offenders = []
    for name in measured.columns[[not pd.api.types.is_any_real_numeric_dtype(dtype) for dtype in measured.dtypes]]:
        column = measured[name]
        numbers = pd.to_numeric(column.astype(str), errors="coerce")
        bad = column[numbers.isna() & column.notna()]
        offenders += [f"{key}: {name} {value!r} is no number" for key, value in bad.items()]
    if offenders:
        raise CohortError(listed(f"{path}: cells that are no numbers", offenders, "write a number or n/a"))


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
