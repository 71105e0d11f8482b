import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medrep.derivatives.bids import DIGITS, exact_line, line, parsed

FINITE = st.floats(allow_nan=False, allow_infinity=False)


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
