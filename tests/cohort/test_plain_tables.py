import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import Parallel, delayed

from medrep.cohort import participants
from medrep.cohort.features import match_keys, missing_cells, read_features
from medrep.errors import CohortError


@pytest.fixture(autouse=True)
def every_table_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "_LARGE", 0)


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, object]:
    """Return what the fast and the careful reader make of a table: values and ids, or the error."""
    found: list[object] = []
    for large in (0, 2**40):
        monkeypatch.setattr(participants, "_LARGE", large)
        try:
            table = read_features(path)
            found.append((table.values.tobytes(), table.ids.to_csv(), table.names, table.header))
        except CohortError as error:
            found.append(str(error))
    return found[0], found[1]


CELLS = [
    "1", "-0.0", "1e5", "1E-300", ".5", "5.", "0.1", "123456789.123456789", "9007199254740993", "4.9e-324",
    "2.2250738585072011e-308", "n/a", "NA", "nan", "NaN", "", "-", "None", "<NA>", "#N/A", "+1", " 1", "1 ", "+nan",
    "-nan", "1_000", "inf", "-Infinity", "1e400", "0x1p3", "nan(1)", "\u0661", "1,5", "word", '"1"',
]  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_read_as_by_the_careful_reader(cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "features.tsv"
    path.write_text(f"participant_id\ta\tb\nsub-1\t1.25\t{cell}\nsub-2\t{cell}\t3\n")
    fast, careful = both(path, monkeypatch)
    assert fast == careful


@pytest.mark.parametrize(
    "text",
    [
        "participant_id\ta\r\nsub-1\t1\r\nsub-2\t2\r\n",
        "\ufeffparticipant_id\ta\nsub-1\t1\n",
        "\nparticipant_id\ta\nsub-1\t1\n",
        "participant_id\ta\n\nsub-1\t1\n   \nsub-2\t2",
        "participant_id\ta\nsub-1\t1\t2\n",
        "participant_id\ta\nsub-1\n",
        "participant_id\ta\nsub-1\t1\x00\n",
        "participant_id\ta\n sub-1 \t1\n\t2\n",
        "a\tparticipant_id\tsession_id\n1\tsub-1\t01\n2\tsub-1\t02\n",
        'participant_id\ta\n"sub-1"\t1\n',
        "participant_id\ta\nsub-1\t1\nsub-1\t2\n",
        "participant_id\ta\n",
    ],
)
def test_a_table_is_read_as_by_the_careful_reader(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "features.tsv"
    path.write_bytes(text.encode())
    fast, careful = both(path, monkeypatch)
    assert fast == careful


def test_all_numbers_are_read_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**63, (2000, 3), dtype=np.int64).view(np.float64)
    values = np.where(np.isfinite(bits), bits, 0.0)
    lines = [f"sub-{k}\t" + "\t".join(map(repr, row)) for k, row in enumerate(values.tolist())]
    path = tmp_path / "features.tsv"
    path.write_text("participant_id\ta\tb\tc\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(participants, "_AT_ONCE", 4096)  # several batches
    found = participants.read_plain(path, ["participant_id", "a", "b", "c"], [0])
    assert found is not None
    assert found[1].tobytes() == values.tobytes()
    assert found[0] == [[f"sub-{k}" for k in range(2000)]]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "_SCRATCH", 0)


def written_table(path: Path, people: int, missing: int = -1) -> np.ndarray:
    values = np.random.default_rng(people).normal(size=(people, 3))
    lines = [
        "\t".join([f"sub-{k}", *("n/a" if k == missing else repr(x) for x in row)])
        for k, row in enumerate(values.tolist())
    ]
    path.write_text("\n".join(["participant_id\ta\tb\tc", *lines]) + "\n")
    return values


@pytest.mark.usefixtures("on_disk")
def test_a_large_table_lies_in_a_file_and_is_the_same_in_every_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participants, "_AT_ONCE", 512)
    values = written_table(tmp_path / "features.tsv", 100)
    found = read_features(tmp_path / "features.tsv")
    assert participants.shared_mapping(found.values) is not None
    np.testing.assert_array_equal(found.values, values)
    order = np.random.default_rng(0).permutation(100)[:60]
    wanted = pd.Index([f"sub-{k}" for k in order], name="key")
    for some in (match_keys(found, wanted), found.rows(wanted)):
        assert participants.shared_mapping(some.values) is not None
        np.testing.assert_array_equal(some.values, values[order])
    np.testing.assert_array_equal(found.values, values)  # pages were given back, not what they held


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_a_hole_is_found_in_whatever_block_it_is(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "_ROWS_AT_ONCE", at_once)
    written_table(tmp_path / "features.tsv", 20, missing=13)
    told = missing_cells(read_features(tmp_path / "features.tsv"))
    assert told == [f"sub-13: {name} is nan" for name in "abc"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 29), max_size=40), st.sampled_from(["<f4", "<f8"]))
def test_rows_are_taken_as_numpy_takes_them(positions: list[int], dtype: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(participants, "_SCRATCH", 1)
        mapped = participants.scratch_matrix(30, 4, np.dtype(dtype))
        assert participants.shared_mapping(mapped) is not None
        mapped[:] = np.arange(120).reshape(30, 4)
        taken = participants.taken_rows(mapped, np.array(positions, int))
    np.testing.assert_array_equal(taken, np.array(mapped)[np.array(positions, int)])
    assert taken.dtype == mapped.dtype


@pytest.mark.usefixtures("on_disk")
def test_memory_is_taken_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    values = written_table(tmp_path / "features.tsv", 5)
    found = read_features(tmp_path / "features.tsv").values
    assert participants.shared_mapping(found) is None
    np.testing.assert_array_equal(found, values)


@pytest.mark.usefixtures("on_disk")
def test_workers_are_handed_what_a_table_on_disk_holds(tmp_path: Path) -> None:
    values = written_table(tmp_path / "features.tsv", 50)
    found = read_features(tmp_path / "features.tsv").values
    parts = (found, found[:20], found[:, 1:])
    told = Parallel(n_jobs=2, max_nbytes=1)(delayed(np.ndarray.tolist)(part) for part in parts)
    assert told == [values.tolist(), values[:20].tolist(), values[:, 1:].tolist()]
