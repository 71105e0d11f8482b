"""Feature tables: features.tsv -> a matrix keyed like participants.tsv."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._structuring import from_json
from medrep._texts import read_json
from medrep.cohort.dictionary import certain_pairs, examples, folded
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.parsing import MISSING_WORDS, plain_number
from medrep.cohort.participants import (
    KEY_COLUMNS,
    keys,
    labels,
    read_plain,
    refuse_doubles,
    refuse_nuls,
    row_blocks,
    taken_rows,
)
from medrep.errors import CohortError, ModelError, few, listed

_COUNTERS = re.compile(r"|unnamed: ?\d+|index|level_\d+|row[ _.]?(?:names?|numbers?|nr|no|id|index)?", re.IGNORECASE)
"""Names that software gives to the column of row numbers."""


@dataclass(frozen=True)
class FeatureTable:
    """Features of some people.

    Attributes:
        ids: The key columns as they stand in the file, index: key, in the spelling of participants.tsv once matched with it.
        values: One row a person, NaN where a cell is missing.
        names: Names of the features in the file's order.
        grid: Where the columns lie in space, if features.json says so with a ``Grid`` (shape, spacing in mm).
        header: Names of all columns in the file's order, ids among them; empty where the features are of no file.
        notes: What was tidied while reading.
        given: The values as they were given, where some columns are in another form: parts of compositions; None: as they are.
    """

    ids: pd.DataFrame
    values: Float[np.ndarray, "people features"]
    names: tuple[str, ...]
    grid: Grid | None
    header: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    given: Float[np.ndarray, "people features"] | None = None

    @property
    def as_given(self) -> "FeatureTable":
        """The table with the values as they were given."""
        return self if self.given is None else replace(self, values=self.given, given=None)

    @property
    def columns(self) -> Columns:
        """Names, count and grid of the columns."""
        return Columns(self.names, len(self.names), self.grid)

    def rows(self, wanted: pd.Index) -> "FeatureTable":
        """Return the rows of ``wanted`` keys, in that order."""
        if self.ids.index.equals(wanted):
            return self
        positions = self.ids.index.get_indexer(wanted)
        given = None if self.given is None else taken_rows(self.given, positions)
        return replace(self, ids=self.ids.iloc[positions], values=taken_rows(self.values, positions), given=given)


def read_features(path: Path) -> FeatureTable:
    """Read features.tsv: ``participant_id``, optionally ``session_id``, then one numeric column a feature.

    Raises:
        CohortError: Missing file, no id column, repeated people, or cells that are neither a number nor ``n/a``.
    """
    names, ids, values, header = _read_rows(path)
    names, values, header, notes = _without_counters(path, names, values, header)
    nameless = [f"row {n}" for n, who in enumerate(ids["participant_id"].tolist(), 1) if who.lower() in MISSING_WORDS]
    if nameless:
        raise CohortError(
            listed(f"{path}: rows without a participant_id", nameless, "name the person, or remove the row")
        )
    refuse_doubles(path, ids)
    ids.index = pd.Index(keys(ids), name="key")
    return FeatureTable(ids, values, names, _grid(path.with_suffix(".json"), len(names)), header, tuple(notes))


def claimed(features: FeatureTable, people: Sequence[str]) -> tuple[FeatureTable, pd.DataFrame]:
    """Find whose the rows are: ids match with or without ``sub-``, and in other spellings (``1``, ``01``) where that is certain.

    Args:
        features: As read.
        people: All ids of participants.tsv.

    Returns:
        The table with keys in the spelling of participants.tsv and notes about it, and its key columns in that spelling.
    """
    own, wanted = labels(features.ids["participant_id"].tolist(), "sub"), labels(people, "sub")
    spelled = {there: who for who, there in certain_pairs(wanted, own).items()}
    whose = [spelled.get(who, who) for who in own]
    ids = features.ids.assign(participant_id=whose)
    notes = [f"features.tsv: {examples(spelled)} of participants.tsv"] if spelled else []
    known = set(wanted)
    nobody = [who for who in dict.fromkeys(whose) if who not in known]
    if nobody:
        notes.append(f"features.tsv: rows of nobody in participants.tsv are not used: {few(nobody)}")
    index = pd.Index(keys(ids), name="key")
    return replace(features, ids=features.ids.set_axis(index), notes=(*features.notes, *notes)), ids.set_axis(index)


def match_keys(features: FeatureTable, wanted: pd.Index) -> FeatureTable:
    """Return the features of the wanted people; ids match with or without ``sub-``, and sessions in other spellings.

    Raises:
        CohortError: People without features; all are listed, with ids that may be meant.
    """
    own, asked = labels(features.ids.index.tolist(), "sub"), labels(wanted.tolist(), "sub")
    if own == asked:
        return replace(features, ids=features.ids.set_axis(wanted))
    bare = {key: position for position, key in enumerate(own)}
    spelled = certain_pairs(asked, list(bare))
    bare |= {key: bare[there] for key, there in spelled.items() if key not in bare}
    absent = [(str(key), one) for key, one in zip(wanted.tolist(), asked, strict=True) if one not in bare]
    if absent:
        close: dict[str, list[str]] = {}
        for one in bare:
            close.setdefault(folded(one), []).append(one)
        raise CohortError(
            listed(
                "people of participants.tsv without a row in features.tsv",
                [f"{key}{_perhaps(close.get(folded(one), ()))}" for key, one in absent],
                "add the rows, or leave the people out with --exclude",
            )
        )
    positions = [bare[one] for one in asked]
    ids = features.ids.iloc[positions].set_axis(wanted)
    other = {there: key for key, there in spelled.items()}
    notes = (*features.notes, f"features.tsv: {examples(other)} of participants.tsv") if other else features.notes
    in_order = positions == list(range(len(features.values)))
    values = features.values if in_order else taken_rows(features.values, np.array(positions))
    return replace(features, ids=ids, values=values, notes=notes)


def _perhaps(close: Sequence[str]) -> str:
    """Return in brackets which rows may be meant, where several may."""
    return f" (is it {' or '.join(map(repr, close))} of features.tsv?)" if close else ""


def in_columns(features: FeatureTable, wanted: Sequence[str]) -> FeatureTable:
    """Return features in the order of a model's columns.

    Raises:
        ModelError: Columns that the model knows and the table lacks, or the other way round.
    """
    order = column_order(wanted, features.names)
    if order == list(range(len(order))):
        return features
    given = None if features.given is None else features.given[:, order]
    return replace(features, values=features.values[:, order], names=tuple(wanted), given=given)


def only_columns(features: FeatureTable, wanted: Sequence[str]) -> FeatureTable:
    """Return some of the features, in the table's order; the others are no part of it any more."""
    kept = [k for k, name in enumerate(features.names) if name in set(wanted)]
    gone = set(features.names) - set(wanted)
    names = tuple(features.names[k] for k in kept)
    header = tuple(name for name in features.header if name not in gone)
    return replace(features, values=features.values[:, kept], names=names, grid=None, header=header)


def column_order(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return where in a table the columns of a model stand.

    Args:
        wanted: Of the model's columns.
        names: Of the table's features, in its order.

    Raises:
        ModelError: Columns that the model knows and the table lacks; all are listed. Further columns are an error too,
            since nothing could be removed from them.
    """
    if not wanted:
        raise ModelError(
            "the model was trained on volumes, the cohort is a feature table; set input.kind as in training"
        )
    place = {name: position for position, name in enumerate(names)}
    known = set(wanted)
    absent, extra = [name for name in wanted if name not in place], [name for name in names if name not in known]
    problems = [f"{name} is absent" for name in absent] + [f"{name} was not in training" for name in extra]
    if problems:
        raise ModelError(
            listed("feature columns that do not match the model", problems, "give the columns of training")
        )
    return [place[name] for name in wanted]


def missing_cells(features: FeatureTable) -> list[str]:
    """Return one line for each cell that is NaN or infinite: the person and the column; a column with many has one line."""
    cells = [
        (features.names[j], str(features.ids.index[start + i]), f"is {block[i, j]:g}")
        for start, block in row_blocks(features.as_given.values)
        for i, j in np.argwhere(~np.isfinite(block))
    ]
    return by_column(cells, len(features.values))


def by_column(cells: Sequence[tuple[str, str, str]], people: int) -> list[str]:
    """Return one line a cell, or one line a column where a column has more than three of them.

    Args:
        cells: Column, person, and what is wrong.
        people: How many rows there are.
    """
    counts = Counter(column for column, _, _ in cells)
    lines: dict[str, str] = {}
    for column, person, wrong in cells:
        if counts[column] <= 3:
            lines[f"{person} {column}"] = f"{person}: {column} {wrong}"
        elif column not in lines:
            lines[column] = (
                f"column {column}: {counts[column]} of {people} cells, for instance {person}: {column} {wrong}"
            )
    return list(lines.values())


def _without_counters(
    path: Path, names: tuple[str, ...], values: Float[np.ndarray, "people features"], header: tuple[str, ...]
) -> tuple[tuple[str, ...], Float[np.ndarray, "people other"], tuple[str, ...], list[str]]:
    """Leave out columns that number the rows, by the names that software gives them; names, values, header, notes."""
    counting = counting_columns(names, values)
    if not counting:
        nameless = [f"column {position + 1}: ''" for position, name in enumerate(header) if not name]
        if nameless:
            raise CohortError(listed(f"{path}: columns without a name of their own", nameless, "name each column once"))
        return names, values, header, []
    gone = {names[k] for k in counting}
    kept = [k for k in range(len(names)) if k not in counting]
    notes = [
        f"{path.name}: column {name or 'without a name'} numbers the rows, is no feature, and is left out"
        for name in gone
    ]
    rest = tuple(name for name in header if name not in gone)
    return tuple(names[k] for k in kept), values[:, kept], rest, notes


def counting_columns(names: Sequence[str], values: Float[np.ndarray, "people features"]) -> list[int]:
    """Return the columns that number the rows, by the names that software gives them."""
    return [k for k, name in enumerate(names) if _COUNTERS.fullmatch(name) and _numbers_rows(values[:, k], len(names))]


def _numbers_rows(column: Float[np.ndarray, " people"], columns: int) -> bool:
    """Return whether a column holds different whole numbers from 0, and is not the only one."""
    whole = bool(np.isfinite(column).all() and (column >= 0).all() and (column == np.floor(column)).all())
    return whole and columns > 1 and len(np.unique(column)) == len(column)


def _read_rows(
    path: Path,
) -> tuple[tuple[str, ...], pd.DataFrame, Float[np.ndarray, "people features"], tuple[str, ...]]:
    """Read the file a line at a time: a table of 100,000 columns costs its numbers and one line of text.

    Returns:
        The names of the features, the key columns, the values, and the names of all columns as written.
    """
    people: list[list[str]] = []
    rows: list[np.ndarray] = []
    ragged: list[str] = []
    nuls: dict[int, str] = {}
    texts: list[tuple[str, str, str]] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = ((number, line.rstrip("\n").split("\t")) for number, line in enumerate(file, 1) if line.strip())
            written = [name.strip() for name in next(lines, (0, [""]))[1]]
            nuls = {1: written[0]} if "\0" in "\t".join(written) else {}
            header = [name.casefold() if name.casefold() in KEY_COLUMNS else name for name in written]
            key_columns, features = _columns(path, header)
            plain = read_plain(path, header, key_columns)
            if plain is not None:
                ids = pd.DataFrame(dict(zip([header[k] for k in key_columns], plain[0], strict=True)), dtype=str)
                return tuple(header[k] for k in features), ids, plain[1], tuple(written)
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
        if any(not column for column, _, _ in texts):
            nameless = [f"column {position + 1}: ''" for position, name in enumerate(header) if not name]
            raise CohortError(listed(f"{path}: columns without a name of their own", nameless, "name each column once"))
        lines_told = by_column(texts, len(rows))
        raise CohortError(listed(f"{path}: cells that are no numbers", lines_told, "write a number or n/a"))
    if not rows:
        raise CohortError(f"{path}: a header and no people; add one line a person")
    ids = pd.DataFrame(people, columns=[header[k] for k in key_columns], dtype=str)
    return tuple(header[k] for k in features), ids, np.stack(rows), tuple(written)


def _columns(path: Path, header: list[str]) -> tuple[list[int], list[int]]:
    """Return the positions of the key columns and of the features."""
    if not any(header):
        raise CohortError(f"{path}: the file is empty; it needs a header line and one line a person")
    if "participant_id" not in header:
        raise CohortError(f"{path}: no column participant_id; the first columns are {', '.join(header[:4])}")
    counts = Counter(header)
    # One column without a name may be the row numbers that some software writes; that is seen once the values are read.
    unclear = [f"column {n}: {name!r}" for n, name in enumerate(header, 1) if counts[name] > 1]
    if unclear:
        raise CohortError(listed(f"{path}: columns without a name of their own", unclear, "name each column once"))
    key_columns = [header.index(name) for name in KEY_COLUMNS if name in header]
    features = [position for position, name in enumerate(header) if name not in KEY_COLUMNS]
    if not features:
        raise CohortError(f"{path}: no feature columns beside the ids")
    return key_columns, features


def _numbers(
    who: list[str], names: list[str], cells: list[str], texts: list[tuple[str, str, str]]
) -> Float[np.ndarray, " features"]:
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
            texts.append((names[position], " ".join(who), f"{cell!r} is no number"))
    return row


def _grid(path: Path, width: int) -> Grid | None:
    if not path.is_file():
        return None
    try:
        content = read_json(path.read_text(encoding="utf-8-sig"))
        grid = from_json(Grid, content["Grid"]) if isinstance(content, dict) and "Grid" in content else None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise CohortError(f"{path}: unusable ({error}); Grid needs shape (3 counts) and spacing (3 mm)") from None
    if grid is not None and grid.size != width:
        raise CohortError(
            f"{path}: Grid {grid.shape} has {grid.size} voxels, features.tsv {width} columns; make them agree"
        )
    return grid
