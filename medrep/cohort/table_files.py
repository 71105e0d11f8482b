"""Table files of many programs, read a block of rows at a time: separated text, Excel and Parquet, plain or gzipped."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.columns import cell_text
from medrep.cohort.parsing import MISSING_WORDS, plain_number
from medrep.errors import CohortError, lacking, listed

TABLES = (".csv", ".tsv", ".txt", ".dat", ".xlsx", ".parquet")
"""How names of table files end; those of text also with ``.gz`` behind it."""

_CELLS = 200_000  # of a block: their texts take fifty times the bytes of the file
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Form:
    """How a table file is written, so that another can be written alike.

    Attributes:
        kind: Separated text, an Excel workbook (its first sheet), or Parquet.
        separator: Between two cells of text.
        decimal: ``.`` or ``,``, of text.
        encoding: Of text.
        newline: How lines of text end.
        quotes: Which cells of text are in quotes: as few as can be, words, or all.
        row_names: Whether the first column, of row names, has no cell in the header, as R writes it.
    """

    kind: Literal["text", "xlsx", "parquet"]
    separator: str = "\t"
    decimal: str = "."
    encoding: str = "utf-8"
    newline: str = "\n"
    quotes: int = csv.QUOTE_MINIMAL
    row_names: bool = False

    @property
    def said(self) -> str:
        """How it is written, in words; empty for tabs and points."""
        if self.kind != "text":
            return {"xlsx": "an Excel workbook, of which the first sheet is read", "parquet": "Parquet"}[self.kind]
        names = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "spaces"}
        told = [] if self.separator == "\t" else [f"separated by {names[self.separator]}"]
        told += ["with decimal commas"] if self.decimal == "," else []
        told += [f"in {self.encoding}"] if not self.encoding.startswith("utf-8") else []
        return ", ".join(told)


@dataclass(frozen=True)
class TableFile:
    """A table as it stands in a file.

    Attributes:
        path: The file.
        form: How it is written.
        header: Names of all columns, in order.
        texts: Columns that are read as text, by position.
        numbers: Positions of the columns that are read as numbers.
        values: These numbers, NaN where a cell is missing.
    """

    path: Path
    form: Form
    header: tuple[str, ...]
    texts: pd.DataFrame
    numbers: tuple[int, ...]
    values: Float[np.ndarray, "rows numbers"]


def is_table(path: Path) -> bool:
    """Return whether a file's name is that of a table."""
    return _plain_name(path).suffix.lower() in TABLES


def read_table(path: Path, as_text: Callable[[Sequence[str]], Sequence[int] | None]) -> TableFile:
    """Read a table file; columns of numbers as numbers, a block of rows at a time.

    A column is one of numbers if half of what the first rows have in it is.

    Args:
        path: The file.
        as_text: Positions of columns that stay text, of the header; None: all do.

    Raises:
        CohortError: A file that cannot be read, rows that do not fit the header, or cells that are no numbers in a column of
            numbers; all of them.
    """
    form, header, blocks = open_table(path)
    chosen = as_text(header)
    stay = set(range(len(header)) if chosen is None else chosen)
    texts: list[pd.DataFrame] = []
    values: list[np.ndarray] = []
    wrong: list[str] = []
    numbers: tuple[int, ...] = ()
    rows = 0
    for block in blocks:
        if not texts:
            numbers = tuple(k for k in range(len(header)) if k not in stay and _of_numbers(block[k], form.decimal))
        own = np.empty((len(block), len(numbers)))
        for place, k in enumerate(numbers):
            own[:, place], bad = column_numbers(block[k], form.decimal)
            wrong += [f"row {rows + row + 1}: {header[k]} {text!r} is no number" for row, text in bad]
        values.append(own)
        words = block[[k for k in range(len(header)) if k not in set(numbers)]].map(cell_text)
        if form.decimal == ",":
            words = words.map(lambda cell: cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell)
        texts.append(words)
        rows += len(block)
    if not rows:
        raise CohortError(f"{path}: a header and no people; add one line a person")
    if wrong:
        cure = "write a number or n/a, or leave a column out with --drop"
        raise CohortError(listed(f"{path}: cells that are no numbers", wrong, cure))
    whole = values[0] if len(values) == 1 else np.concatenate(values)
    return TableFile(path, form, tuple(header), pd.concat(texts, ignore_index=True), numbers, whole)


def open_table(path: Path) -> tuple[Form, list[str], Iterator[pd.DataFrame]]:
    """Return how a table file is written, its header, and blocks of its rows, columns by position.

    Raises:
        CohortError: No such file, or not a table; blocks raise it, too.
    """
    ending = _plain_name(path).suffix.lower()
    try:
        if ending == ".xlsx":
            return _open_workbook(path)
        if ending == ".parquet":
            return _open_parquet(path)
        return _open_text(path)
    except (OSError, EOFError, zlib.error) as error:
        raise CohortError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def column_numbers(cells: pd.Series, decimal: str) -> tuple[Float[np.ndarray, " rows"], list[tuple[int, str]]]:
    """Return a column as numbers, NaN where a cell is missing; position and text of cells that are neither."""
    if cells.dtype.kind in "fiub":
        found = cells.to_numpy(np.float64, na_value=np.nan)
        return found, [(int(row), f"{found[row]}") for row in np.flatnonzero(np.isinf(found))]
    texts = cells.tolist()
    if decimal == ",":
        texts = [text.replace(",", ".") if isinstance(text, str) else text for text in texts]
    try:
        together = "".join(texts)
        if together.isascii() and "_" not in together:  # else Python reads 1_000 and digits of other scripts, too
            found = np.array(texts, dtype=np.float64)
            if not np.isinf(found).any():
                return found, []
    except (ValueError, TypeError):
        pass
    found, wrong = np.full(len(texts), np.nan), []
    for row, cell in enumerate(texts):
        text = cell if isinstance(cell, str) else cell_text(cell)
        number = plain_number(text)
        if number is not None:
            found[row] = number
        elif text.strip().lower().lstrip("+-") not in MISSING_WORDS:
            wrong.append((row, text))
    return found, wrong


def _of_numbers(cells: pd.Series, decimal: str) -> bool:
    found, wrong = column_numbers(cells, decimal)
    return bool(len(wrong) < np.isfinite(found).sum() or not wrong)


def _plain_name(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def open_bytes(path: Path, mode: Literal["rb", "wb"] = "rb") -> Any:
    """Open a file, through gzip where its name ends so; what is written holds no time and no name."""
    if path.suffix.lower() != ".gz":
        return path.open(mode)
    return gzip.GzipFile(path, "rb") if mode == "rb" else _Gzip(path)


class _Gzip(gzip.GzipFile):
    """A gzip file without time and name, which closes the file that it is written to."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        super().__init__("", "wb", 6, self._file, mtime=0)

    def close(self) -> None:
        """Close both."""
        super().close()
        self._file.close()


def _open_text(path: Path) -> tuple[Form, list[str], Iterator[pd.DataFrame]]:
    with open_bytes(path) as file:
        start = file.read(2**20)
    encoding = _encoding(path, start)
    text = start.decode(encoding, errors="ignore")
    first, _, rest = text.partition("\n")
    if not first.strip():
        raise CohortError(f"{path}: the file is empty or begins with an empty line; it needs a header line first")
    separator = _separator(first)
    header = [name.strip() for name in next(csv.reader([first.rstrip("\r")], delimiter=separator))]
    sample = list(csv.reader(io.StringIO(rest[:200_000].rpartition("\n")[0] or rest), delimiter=separator))[:200]
    sample = [row for row in sample if row]
    row_names = bool(sample) and all(len(row) == len(header) + 1 for row in sample)
    header = ["", *header] if row_names else header
    while separator == " " and header and not header[-1]:
        header.pop()
    cells = [cell.strip() for row in sample for cell in row]
    comma = separator != "," and any(map(_DECIMAL_COMMA.fullmatch, cells))
    decimal = "," if comma and not any(map(_DECIMAL_POINT.fullmatch, cells)) else "."
    quoted = first.lstrip().startswith('"')
    words = csv.QUOTE_NONNUMERIC if re.search(rf"(?:^|{re.escape(separator)})[\d.-]", rest[:4000]) else csv.QUOTE_ALL
    form = Form(
        "text",
        separator,
        decimal,
        encoding,
        "\r\n" if first.endswith("\r") else "\n",
        words if quoted else csv.QUOTE_MINIMAL,
        row_names,
    )
    return form, header, _text_blocks(path, form, len(header))


def _encoding(path: Path, start: bytes) -> str:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in start:
        raise CohortError(f"{path}: holds NUL bytes; save the table as UTF-8 text, .xlsx or .parquet")
    try:
        start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:
            return "cp1252"
    return "utf-8-sig" if start.startswith(b"\xef\xbb\xbf") else "utf-8"


def _separator(first: str) -> str:
    bare = re.sub(r'"[^"]*"', "name", first)
    counts = {separator: bare.count(separator) for separator in ("\t", ";", ",")}
    best = max(counts, key=lambda one: counts[one])
    return best if counts[best] else " " if " " in bare.strip() else "\t"


def _text_blocks(path: Path, form: Form, columns: int) -> Iterator[pd.DataFrame]:
    row, size = 0, max(1, _CELLS // columns)
    with open_bytes(path) as raw, io.TextIOWrapper(raw, form.encoding, newline="") as file:
        try:
            file.readline()
            reader = csv.reader(file, delimiter=form.separator, skipinitialspace=form.separator == " ")
            held: list[list[str]] = []
            ragged: list[str] = []
            for cells in reader:
                if not any(cells):
                    continue
                row += 1
                if form.separator == " " and not cells[-1]:
                    cells.pop()
                if len(cells) != columns:
                    ragged.append(f"line {reader.line_num + 1}: {len(cells)} cells ({cells[0][:40]!r} ...)")
                held.append(cells)
                if len(held) == size and not ragged:
                    yield pd.DataFrame(held, dtype=object)
                    held = []
        except (csv.Error, UnicodeError, EOFError, zlib.error, OSError) as error:
            raise CohortError(f"{path}: row {row + 1} cannot be read ({error}); save the table again") from None
        if ragged:
            cure = "write as many cells as the header has names, n/a in an empty one"
            raise CohortError(listed(f"{path}: rows that do not have the header's {columns} cells", ragged, cure))
        if held:
            yield pd.DataFrame(held, dtype=object)


def _open_workbook(path: Path) -> tuple[Form, list[str], Iterator[pd.DataFrame]]:
    book = open_workbook(path, read_only=True)
    try:
        rows = list(book.worksheets[0].iter_rows(values_only=True))
    finally:
        book.close()
    header = [cell_text(cell).strip() for cell in rows[0]] if rows else []
    while header and not header[-1]:
        header.pop()
    if not header:
        raise CohortError(f"{path}: the first sheet is empty; it needs a header line and one line a person")

    def blocks() -> Iterator[pd.DataFrame]:
        held: list[Sequence[Any]] = []
        for row in rows[1:]:
            if any(cell not in (None, "") for cell in row):
                held.append([*row[: len(header)], *[None] * (len(header) - len(row))])
            if len(held) * len(header) >= _CELLS:
                yield pd.DataFrame(held, dtype=object)
                held = []
        if held:
            yield pd.DataFrame(held, dtype=object)

    return Form("xlsx"), header, blocks()


def open_workbook(path: Path, *, read_only: bool = False) -> Any:
    """Open an Excel workbook with openpyxl; formulas are the numbers that Excel last found.

    Raises:
        CohortError: Not a workbook.
        ExtraError: openpyxl is not installed.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise lacking("tables", error) from None
    try:
        return openpyxl.load_workbook(path, read_only=read_only, data_only=True)
    except OSError:
        raise
    except Exception as error:  # openpyxl raises what zipfile and XML readers do
        raise CohortError(f"{path}: not an Excel workbook ({error}); save it again as .xlsx") from None


def _open_parquet(path: Path) -> tuple[Form, list[str], Iterator[pd.DataFrame]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowException as error:
        raise CohortError(f"{path}: not Parquet ({error}); write it again") from None
    header = [str(name) for name in file.schema_arrow.names]

    def blocks() -> Iterator[pd.DataFrame]:
        try:
            for batch in file.iter_batches(max(1, _CELLS // max(1, len(header)))):
                columns = {k: batch.column(k).to_pandas() for k in range(len(header))}
                yield pd.DataFrame(columns)
        except pa.ArrowException as error:
            raise CohortError(f"{path}: not Parquet ({error}); write it again") from None

    return Form("parquet"), header, blocks()
