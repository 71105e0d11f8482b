import gzip
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.image_files import GzipContent
from medrep.errors import CohortError

RAW = bytes(range(256)) * 8 + bytes(100) + b"end"


def whole(packed, first=50):
    content = GzipContent(packed)
    data = content.take(first) + content.take(len(RAW) - first)
    return data, content.finish()


@given(
    st.lists(st.integers(0, len(RAW)), max_size=4),
    st.integers(0, len(RAW)),
    st.integers(0, 9),
    st.sampled_from([0, 1, 512]),
)
def test_members_one_behind_the_other_and_zeros_behind_them_are_one_content(cuts, first, level, padding):
    ends = [0, *sorted(cuts), len(RAW)]
    packed = b"".join(gzip.compress(RAW[a:b], level) for a, b in pairwise(ends))
    assert whole(packed + bytes(padding), first) == (RAW, 0)


@given(st.integers(0, 10**9), st.integers(0, 7), st.sampled_from([0, 1, 9]), st.booleans())
def test_no_flipped_bit_changes_the_content_without_a_word(place, bit, level, several):
    halves = (RAW[:700], RAW[700:]) if several else (RAW,)
    packed = bytearray(b"".join(gzip.compress(half, level) for half in halves))
    packed[place % len(packed)] ^= 1 << bit
    try:
        found = whole(bytes(packed))
    except CohortError:
        return
    assert found == (RAW, 0)  # a bit of the time stamp, for instance


@given(st.integers(2, 10**9), st.booleans())
def test_no_missing_end_goes_unseen(place, several):
    halves = (RAW[:700], RAW[700:]) if several else (RAW,)
    packed = b"".join(gzip.compress(half) for half in halves)
    cut = packed[: 2 + place % (len(packed) - 2)]
    if several and cut == gzip.compress(RAW[:700]):
        return
    with pytest.raises(CohortError, match=r"^its end is missing$"):
        whole(cut)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda packed: packed + b"\1", "1 bytes behind its end are no part of it"),
        (lambda packed: packed + bytes(8) + b"more", "4 bytes behind its end are no part of it"),
        (lambda packed: packed[:-8] + bytes(4) + packed[-4:], "its checksum does not fit"),
        (lambda packed: packed[:-4] + bytes(4), "its checksum does not fit"),
        (lambda packed: packed[:12] + b"\xff" + packed[13:], "it cannot be unpacked|its checksum does not fit"),
        (lambda packed: packed + packed[:-1], "its end is missing"),
    ],
)
def test_damage_is_told(change, told):
    with pytest.raises(CohortError, match=told):
        whole(change(gzip.compress(RAW)))


def test_what_is_left_is_counted_to_its_last_byte_that_is_not_zero():
    for more, left in ((b"", 0), (bytes(9), 0), (b"\0\1\0\0", 2), (os.urandom(2**21) + b"\1", 2**21 + 1)):
        assert whole(gzip.compress(RAW + more)) == (RAW, left)


def test_no_more_is_taken_than_asked_for():
    content = GzipContent(gzip.compress(bytes(2**24)))
    assert content.take(3) == bytes(3)
    assert content.take(0) == b""
    assert content.finish() == 0
