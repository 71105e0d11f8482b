from pathlib import Path

import numpy as np
import pytest

from medrep.cohort import participants
from medrep.cohort.features import read_features
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
