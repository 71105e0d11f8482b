"""Large tables without anything odd in them, read fast; whatever is odd is left to the reader that can say what it is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medrep.cohort.values import MISSING_WORDS

_LARGE = 2**22  # bytes: smaller files are read as fast without
_MOST_COLUMNS = 5000
_AT_ONCE = 2**21  # bytes; Arrow reads some of these ahead, and holds each as text and as numbers
_MISSING = sorted(
    {form for word in MISSING_WORDS for form in (word, word.upper(), word.capitalize())} | {"NaN", "<NA>"}
)


def read_plain(
    path: Path, header: Sequence[str], keys: Sequence[int]
) -> tuple[list[list[str]], Float[np.ndarray, "people features"]] | None:
    """Read ids and numbers of a table of tabs; None of a small table, and of one that holds anything but plain numbers.

    The numbers are those that Python reads, to the last bit.

    Args:
        path: UTF-8 text with a line of names.
        header: The names, a cell each.
        keys: Positions of the columns of ids; all others are numbers.
    """
    if path.stat().st_size < _LARGE or len(header) > _MOST_COLUMNS:
        return None
    import pyarrow as pa  # MLflow brings it
    from pyarrow import csv

    rows = _lines(path)
    if rows is None:
        return None
    names = [str(position) for position in range(len(header))]
    numbers = [position for position in range(len(header)) if position not in keys]
    types = {names[position]: pa.float64() for position in numbers} | {names[k]: pa.string() for k in keys}
    people: list[list[str]] = []
    values = np.empty((rows, len(numbers)))
    try:
        with csv.open_csv(
            path,
            csv.ReadOptions(use_threads=False, block_size=_AT_ONCE, skip_rows=1, column_names=names),
            csv.ParseOptions(delimiter="\t", quote_char=False),
            csv.ConvertOptions(column_types=types, null_values=_MISSING, strings_can_be_null=False),
        ) as reader:
            for batch in reader:
                block = values[len(people) : len(people) + batch.num_rows]
                empty = 0
                for place, position in enumerate(numbers):
                    column = batch.column(position)
                    empty += column.null_count
                    block[:, place] = column.to_numpy(zero_copy_only=False)
                if np.isinf(block).any() or int(np.isnan(block).sum()) != empty:
                    return None
                ids = [batch.column(k).to_pylist() for k in keys]
                people += [[cell.strip() or "n/a" for cell in row] for row in zip(*ids, strict=True)]
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    pa.default_memory_pool().release_unused()
    return (people, values[: len(people)]) if people else None


def _lines(path: Path) -> int | None:
    """Return how many lines there are below the names at most; None where lines are not ended as usual, or bytes are no text."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_AT_ONCE):
            if b"\0" in block or b"\r" in block:
                return None
            found += block.count(b"\n")
    return found
