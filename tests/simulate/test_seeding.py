from hypothesis import given
from hypothesis import strategies as st

from medrep.simulate.participants import stream


@given(seed=st.integers(0, 2**40), name=st.text(max_size=12))
def test_a_name_has_one_stream(seed, name):
    assert stream(seed, "brains", name).random() == stream(seed, "brains", name).random()


def test_names_purposes_and_seeds_have_streams_of_their_own():
    draws = [stream(*key).random() for key in [(0, "a"), (1, "a"), (0, "b"), (0, "a", "b"), (0, "b", "a"), (0, "ab")]]
    assert len(set(draws)) == len(draws)
