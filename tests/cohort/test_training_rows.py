"""Rows of training are recognised by keyed digests, through rounding, and nothing else is."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medrep._persisted import to_json
from medrep.cohort.splits import TrainingRows, known_rows, row_fingerprint, row_trace, saved_rows
from medrep.errors import ModelError


def digests(rows: np.ndarray, fingerprint: str = "f" * 64, seed: int = 0) -> TrainingRows:
    return TrainingRows.of(map(row_trace, rows), fingerprint, seed)


def rounded(rows: np.ndarray, figures: int) -> np.ndarray:
    return np.array([[float(f"{value:.{figures}g}") for value in row] for row in rows])


def draw(kind: str, people: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return {
        "thickness": lambda: 2.5 + 0.1 * rng.normal(size=(people, 60)),
        "alike": lambda: 300 * (1 + 0.002 * rng.normal(size=(people, 20))),
        "scores": lambda: rng.normal(size=(people, 300)),
        "units": lambda: np.c_[1.5e6 * np.exp(0.1 * rng.normal(size=people)), 1e-4 * rng.gamma(9, size=(people, 5))],
        "holes": lambda: np.where(rng.random((people, 30)) < 0.3, np.nan, rng.normal(size=(people, 30))),
        "few": lambda: 2 + 0.1 * rng.normal(size=(people, 3)),
        "image": lambda: np.where(np.arange(9000) % 9000 < 6000, 0, rng.gamma(5, size=(people, 9000))),
    }[kind]()


@pytest.mark.parametrize("kind", ["thickness", "alike", "scores", "units", "holes", "few", "image"])
def test_rows_are_recognised_as_they_were_and_as_tables_are_exported_again(kind: str) -> None:
    people = 20 if kind == "image" else 100
    rows, others = draw(kind, people, 0), draw(kind, people, 1)
    known = digests(rows)
    for again in (rows, rows[::-1], rounded(rows, 15), rounded(rows, 8), rounded(rows, 6), rows.astype(np.float32)):
        assert all(known.holds(row) for row in again)
    assert not any(known.holds(row) for row in others)
    assert not any(known.holds(row) for row in rows * 1.01)


@settings(max_examples=50)
@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e9, 1e9, width=32)))
def test_zeros_and_missing_values_have_one_form(row: np.ndarray) -> None:
    row[::5], row[1::7] = np.nan, 0.0
    known = digests(row[None])
    again = np.where(row == 0, -0.0, row)
    again[np.isnan(row)] = np.frombuffer(np.uint64(0xFFF8000000000001).tobytes())[0]
    assert known.holds(again)
    assert known.holds(row.astype(np.float32))
    assert not known.holds(np.append(row, 1.0))


def test_rows_that_tell_little_count_only_when_they_are_the_same() -> None:
    lesions = np.zeros((1, 50))
    known = digests(lesions)
    assert known.holds(lesions[0])
    assert not known.holds(lesions[0] + 1e-9)
    assert not to_json(known)["outline"]
    one = digests(np.array([[1520.123456789]]))
    assert one.holds(np.array([1520.123456789]))
    assert not one.holds(np.array([1520.1234568])), "many people have such a volume, to six digits"


def test_the_same_training_gives_the_same_digests_in_no_order_and_another_one_none_in_common() -> None:
    rows = draw("thickness", 30, 2)
    told = to_json(digests(rows))
    assert told == to_json(digests(rows[::-1]))
    assert told["exact"] == sorted(told["exact"])
    assert [len(mark) for mark in told["exact"]] == [16] * 30
    for other in (digests(rows, "e" * 64), digests(rows, seed=1)):
        assert not (set(told["exact"]) | set(told["outline"])) & (other.exact | other.outline)
    assert not {row_fingerprint(row) for row in rows} & set(told["exact"])


def test_digests_come_back_from_json_and_marks_stay_behind() -> None:
    rows = draw("thickness", 10, 3)
    content = json.loads(json.dumps(to_json(digests(rows[:5]))))
    known = known_rows(saved_rows(content), [row_fingerprint(row) for row in rows[5:8]])
    assert [known.holds(row) for row in rows] == [True] * 8 + [False] * 2
    assert to_json(known) == content
    assert known_rows(None, None) is None
    old = known_rows(None, [row_fingerprint(rows[0])])
    assert [old.holds(row) for row in rows] == [True] + [False] * 9


@pytest.mark.parametrize("content", [[], {}, {"key": "ab"}, {"key": "ab", "exact": 3, "outline": []}, {"key": ""}, "x"])
def test_damaged_digests_are_refused(content: object) -> None:
    with pytest.raises(ModelError, match="digests of its training rows are damaged; train again or fetch it again"):
        saved_rows(content)
