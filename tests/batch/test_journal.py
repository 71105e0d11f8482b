import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.batch.journal import Journal, read_event, read_events

EVENTS = [{"event": "end", "keys": [f"sub-{k}"], "text": "\n\u00e4 " * k, "number": 0.1 * k} for k in range(5)]


def written(path: Path, events: list[dict[str, object]]) -> list[int]:
    journal = Journal(path)
    starts = [journal.append(event) for event in events]
    journal.close()
    return starts


def test_events_come_back(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    starts = written(path, EVENTS)
    assert list(read_events(path)) == list(zip(starts, EVENTS, strict=True))
    assert [read_event(path, start) for start in starts] == EVENTS


@given(st.integers(0, 400))
def test_whatever_is_cut_off_only_whole_events_are_read_and_the_next_one_fits(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "j.jsonl"
    starts = written(path, EVENTS)
    content = path.read_bytes()
    end = max(0, len(content) - cut)
    path.write_bytes(content[:end])
    whole = [event for event, after in zip(EVENTS, [*starts[1:], len(content)], strict=True) if after <= end]
    assert [event for _, event in read_events(path)] == whole
    written(path, [EVENTS[0]])
    assert [event for _, event in read_events(path)] == [*whole, EVENTS[0]]


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_event_is_passed_over(tmp_path_factory: pytest.TempPathFactory, place: int, flip: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "j.jsonl"
    written(path, EVENTS)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= flip
    path.write_bytes(bytes(content))
    found = [event for _, event in read_events(path)]
    assert len(found) < len(EVENTS)
    assert all(event in EVENTS for event in found)


def test_a_full_disk_leaves_nothing_of_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.append(EVENTS[1])
    before = path.read_bytes()
    write, calls = os.write, []

    def full(handle: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append(EVENTS[2])
    monkeypatch.setattr(os, "write", write)
    assert path.read_bytes() == before
    journal.append(EVENTS[3])
    assert [event for _, event in read_events(path)] == [EVENTS[1], EVENTS[3]]
    journal.close()


def test_an_event_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    starts = written(path, EVENTS)
    with pytest.raises(OSError, match="changed while it was read"):
        read_event(path, starts[1] + 1)
