from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.derivatives.bids import DIGITS, exact_line, line, parsed, rows_text, write_tsv

FINITE = st.floats(-1e300, 1e300)


@given(st.lists(FINITE, min_size=1, max_size=5))
def test_ten_digits_are_written_and_the_same_ten_again(values: list[float]) -> None:
    row = np.array(values)
    once = parsed(line(row))
    scale = np.maximum(np.abs(row), 1e-300)
    assert (np.abs(once - row) <= 5.1 * 10.0**-DIGITS * scale).all()
    assert line(once) == line(row)


@given(st.lists(st.tuples(FINITE, st.booleans()), min_size=1, max_size=5))
def test_cells_that_stay_come_back_to_the_last_bit(cells: list[tuple[float, bool]]) -> None:
    before = np.array([value for value, _ in cells])
    transformed = np.where([stays for _, stays in cells], before, before + 1.0)
    found = parsed(line(transformed, before))
    same = transformed == before
    assert (found[same] == before[same]).all()


def test_missing_cells_are_na() -> None:
    row = np.array([1.5, np.nan, -2.0])
    assert line(row) == "1.5\tn/a\t-2"
    assert exact_line(row) == "1.5\tn/a\t-2.0"
    assert np.array_equal(parsed(line(row)), row, equal_nan=True)


CELLS = st.one_of(
    st.none(), st.text(max_size=4), st.sampled_from(['"', "a b", "\t", "\n", "\r", "n/a", "", " x ", "=1"])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=5), st.sampled_from(["b", "two words", '"', "a\tb"]))
def test_tables_of_text_are_written_as_pandas_writes_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, str | None]], name: str
) -> None:
    path: Path = tmp_path_factory.mktemp("tables") / "t.tsv"
    table = pd.DataFrame(rows, columns=["a", name], dtype=str)
    write_tsv(path, table)
    assert path.read_bytes() == table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n").encode()


@settings(deadline=None)
@given(st.lists(st.tuples(st.one_of(st.just(float("nan")), FINITE), st.booleans()), min_size=2, max_size=8))
def test_rows_together_are_written_as_each_alone(cells: list[tuple[float, bool]]) -> None:
    cells = cells[: len(cells) // 2 * 2]
    before = np.array([value for value, _ in cells]).reshape(-1, 2)
    after = np.where(np.reshape([stays for _, stays in cells], (-1, 2)), before, before / 3 + 1.0)
    each = [line(row, own) for row, own in zip(after, before, strict=True)]
    assert rows_text(after, before).decode().split("\n") == [*each, ""]
    assert rows_text(after).decode().split("\n") == [*map(line, after), ""]
