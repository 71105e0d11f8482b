"""Tables that people gave, with their features cleaned: in the format, the order, the ids and the columns that they came in."""

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import atomic_file, write_json
from medrep.cohort.compositions import composition_form
from medrep.cohort.covariates import Covariate
from medrep.cohort.features import FeatureTable, read_features
from medrep.cohort.files import CohortFiles
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.parsing import plain_number
from medrep.cohort.participants import labels
from medrep.cohort.table_files import column_numbers, open_bytes, open_table, open_workbook
from medrep.cohort.tables import Part, read_parts
from medrep.derivatives.bids import DIGITS

FOLDER = "tables"
"""Where in OUT they are written."""


def write_tables(
    out: Path, files: CohortFiles, section: FeaturesInput, declared: Sequence[Covariate], sidecar: Mapping[str, Any]
) -> list[str]:
    """Write OUT/tables: each table that was given, with the features of OUT/features.tsv in their places.

    Cells that are no features, and features that nothing has changed, stay as they were written. Rows of people who are not in
    OUT/features.tsv are left out, since nothing was removed from them.

    Args:
        out: Where features.tsv lies.
        files: The tables that were read.
        section: Which columns are features, where it says so.
        declared: The covariates.
        sidecar: What was done, for OUT/tables/features.json.

    Returns:
        What is to be said, a line each.

    Raises:
        CohortError: A table that cannot be read any more.
    """
    cleaned = read_features(out / "features.tsv")
    form = composition_form(section, cleaned.names)
    exact = frozenset[str]() if form is None else frozenset(cleaned.names[k] for k in form.parts)
    by_file: dict[Path, list[Part]] = {}
    for part in read_parts(files, section, declared, []):
        by_file.setdefault(part.rows.file.path, []).append(part)
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    said = []
    for path, parts in by_file.items():
        if path.is_dir():
            continue  # a SUBJECTS_DIR: features.tsv is its table
        cells = _Cells(parts, cleaned, exact)
        _WRITERS[parts[0].rows.file.form.kind](path, folder / path.name, cells)
        gone = int((~cells.kept).sum())
        if gone:
            said.append(f"{path.name}: {gone} rows are left out, of people or visits that were not cleaned")
    write_json(folder / "features.json", sidecar)
    return said


class _Cells:
    """Cleaned features in the places of one file.

    Attributes:
        kept: Rows of the file that are written.
        exact: Columns that are written with all digits: parts of a whole, which sum to what they summed to.
    """

    def __init__(self, parts: Sequence[Part], cleaned: FeatureTable, exact: Collection[str]) -> None:
        place = {key: row for row, key in enumerate(labels(cleaned.ids.index.tolist(), "sub"))}
        names = pd.Index(cleaned.names)
        self._blocks = []
        self.exact: set[int] = set()
        self.kept = np.zeros(len(parts[0].ids), bool)
        for part in parts:
            rows = np.array([place.get(key, -1) for key in labels(part.ids.index.tolist(), "sub")])
            self._blocks.append((rows, part.block.columns, names.get_indexer(list(part.block.names))))
            own = zip(part.block.columns, part.block.names, strict=True)
            self.exact |= {column for column, name in own if name in exact}
            self.kept |= rows >= 0
        self._values = cleaned.values

    def columns(self) -> list[int]:
        """Return the positions of all features."""
        return [k for _, columns, _ in self._blocks for k in columns]

    def column(self, k: int, before: Float[np.ndarray, " rows"], start: int = 0) -> Float[np.ndarray, " rows"]:
        """Return a column with cleaned values, from row ``start`` on; NaN where a row has none."""
        rows, columns, places = next(block for block in self._blocks if k in block[1])
        own = rows[start : start + len(before)]
        values = self._values[np.maximum(own, 0), places[columns.index(k)]]
        return np.where((own >= 0) & np.isfinite(before), values, np.nan)


def _write_text(path: Path, to: Path, cells: _Cells) -> None:
    form, header, blocks = open_table(path)
    quoted: Callable[[str], str] = _quoter(form.separator, form.quotes == csv.QUOTE_ALL)
    named: Callable[[str], str] = _quoter(form.separator, form.quotes != csv.QUOTE_MINIMAL)
    numbers = set(cells.columns())
    with (
        atomic_file(to) as partial,
        open_bytes(partial, "wb") as raw,
        io.TextIOWrapper(raw, form.encoding, newline="") as file,
    ):
        names = header[1:] if form.row_names else header
        file.write(form.separator.join(named(name) for name in names) + form.newline)
        start = 0
        for block in blocks:
            texts = {k: block[k].tolist() for k in range(len(header))}
            for k in numbers:
                before, _ = column_numbers(block[k], form.decimal)
                number = repr if k in cells.exact else _PLAIN
                texts[k] = _texts(texts[k], before, cells.column(k, before, start), form.decimal, number)
            rows = zip(*texts.values(), strict=True)
            for row, kept in zip(rows, cells.kept[start : start + len(block)], strict=True):
                if kept:
                    own = (
                        (quoted if k in numbers or plain_number(cell) is not None else named)(cell)
                        for k, cell in enumerate(row)
                    )
                    file.write(form.separator.join(own) + form.newline)
            start += len(block)


def _quoter(separator: str, always: bool) -> Callable[[str], str]:
    def quote(cell: str) -> str:
        if always or separator in cell or '"' in cell or "\n" in cell or "\r" in cell:
            return '"' + cell.replace('"', '""') + '"'
        return cell

    return quote


_PLAIN = f"{{:.{DIGITS}g}}".format


def _texts(
    written: Sequence[str],
    before: Float[np.ndarray, " rows"],
    after: Float[np.ndarray, " rows"],
    decimal: str,
    number: Callable[[float], str],
) -> list[str]:
    """Return a column as text: as it was written where nothing has changed."""
    return [
        cell if new != new or new == old else number(new).replace(".", decimal)
        for cell, old, new in zip(written, before.tolist(), after.tolist(), strict=True)
    ]


def _write_workbook(path: Path, to: Path, cells: _Cells) -> None:
    book = open_workbook(path)
    sheet = book.worksheets[0]
    for other in book.worksheets[1:]:
        del book[other.title]  # nothing was removed from what stands there
    own = [
        n
        for n, row in enumerate(sheet.iter_rows(min_row=2, values_only=True), 2)
        if any(c not in (None, "") for c in row)
    ]
    for k in cells.columns():
        written = pd.Series([sheet.cell(n, k + 1).value for n in own], dtype=object)
        before, _ = column_numbers(written, ".")
        for n, old, new in zip(own, before.tolist(), cells.column(k, before).tolist(), strict=True):
            if new == new and new != old:
                sheet.cell(n, k + 1).value = new
    for n, kept in reversed(list(zip(own, cells.kept.tolist(), strict=True))):
        if not kept:
            sheet.delete_rows(n)
    with atomic_file(to) as partial, partial.open("wb") as file:
        book.save(file)


def _write_parquet(path: Path, to: Path, cells: _Cells) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(path)
    for k in cells.columns():
        column, field = table.column(k), table.schema.field(k)
        before = column.to_pandas().to_numpy(np.float64, na_value=np.nan)
        after = cells.column(k, before)
        kind = field.type if pa.types.is_floating(field.type) else pa.float64()
        values = np.where(np.isfinite(after), after, before)
        changed = pa.array(values, mask=~np.isfinite(values)).cast(kind)
        table = table.set_column(k, pa.field(field.name, kind), changed)
    with atomic_file(to) as partial:
        parquet.write_table(table.filter(pa.array(cells.kept)), partial)


_WRITERS: Mapping[str, Callable[[Path, Path, _Cells], None]] = {
    "text": _write_text,
    "xlsx": _write_workbook,
    "parquet": _write_parquet,
}
