"""What is written of a dataclass stays what it was, and what is read is what was written, or refused by name."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from jaxtyping import Float, Float16, Int

from medrep._persisted import (
    Arrays,
    Read,
    converted,
    given,
    persisted,
    persisted_as,
    stored,
    to_json,
    to_state,
)
from medrep._structuring import build_section, from_json, from_state
from medrep.errors import ModelError


@persisted(constants={"kind": "line"})
@dataclass(frozen=True)
class Line:
    slope: float


@persisted(constants={"kind": "steps", "version": 2}, keys=("kind", "heights", "version"))
@dataclass(frozen=True)
class Steps:
    heights: dict[str, float]


def _rising(part: "Part") -> None:
    if list(part.knots) != sorted(part.knots):
        raise ValueError(f"knots {list(part.knots)} do not rise")


@persisted(check=_rising)
@dataclass(frozen=True)
class Part:
    knots: tuple[float, ...]
    how: Literal["auto", "yes", "no"] = "auto"
    note: str | None = field(default=None, metadata=stored(omitted=lambda part: part.note is None))


@dataclass(frozen=True)
class Plain:
    name: str
    number: float
    count: int
    mixed: tuple[float | int | str | None, ...]
    pair: tuple[int, str]
    marks: frozenset[str]
    parts: tuple[Part, ...]
    curve: Line | Steps
    table: dict[str, tuple[int, ...]]


TEXTS = st.text(max_size=4)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PARTS = st.builds(
    Part, st.lists(FLOATS, max_size=3).map(lambda own: tuple(sorted(own))), st.sampled_from(["yes", "no"])
)
PLAIN = st.builds(
    Plain,
    TEXTS,
    FLOATS,
    st.integers(),
    st.lists(FLOATS | st.integers() | TEXTS | st.none(), max_size=4).map(tuple),
    st.tuples(st.integers(), TEXTS),
    st.frozensets(TEXTS, max_size=3),
    st.lists(PARTS, max_size=2).map(tuple),
    st.builds(Line, FLOATS) | st.builds(Steps, st.dictionaries(TEXTS, FLOATS, max_size=2)),
    st.dictionaries(TEXTS, st.lists(st.integers(), max_size=2).map(tuple), max_size=2),
)


@drawn(PLAIN)
def test_what_is_written_comes_back_and_is_written_alike(plain: Plain) -> None:
    text = json.dumps(to_json(plain), allow_nan=False)
    again = from_json(Plain, json.loads(text))
    assert again == plain
    assert json.dumps(to_json(again)) == text
    assert [type(one) for one in again.mixed] == [type(one) for one in plain.mixed]


def test_keys_stand_in_the_order_that_is_declared_constants_first() -> None:
    assert json.dumps(to_json(Steps({"a": 1.0}))) == '{"kind": "steps", "heights": {"a": 1.0}, "version": 2}'
    assert list(to_json(Line(2.0))) == ["kind", "slope"]
    assert to_json(Part((1.0,))) == {"knots": [1.0], "how": "auto"}


def test_what_older_folders_lack_has_its_default() -> None:
    assert from_json(Part, {"knots": [0, 1.5]}) == Part((0.0, 1.5))


GOOD: dict[str, Any] = to_json(
    Plain("a", 1.0, 2, (3,), (4, "b"), frozenset("cd"), (Part((1.0,)),), Line(5.0), {"e": (6,)})
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nmae": "a"}, r"nmae: unknown; did you mean name\?"),
        ({"far off": 1}, "far off: unknown; known: name, number"),
        ({"count": 1.5}, "count: 1.5 is not allowed; allowed: a whole number"),
        ({"count": True}, "count: True is not allowed"),
        ({"name": 3}, "name: 3 is not allowed; allowed: text"),
        ({"number": "1"}, "number: '1' is not allowed; allowed: a number"),
        ({"pair": [1]}, r"pair: \[1\] is not allowed"),
        ({"marks": "cd"}, "marks: 'cd' is not allowed; allowed: a list of text"),
        ({"parts": [{"knots": [1], "how": True}]}, r"parts\[0\]\.how: True is not allowed; allowed: auto, yes, no"),
        ({"parts": [{}]}, r"parts\[0\]\.knots: missing; allowed: a list of a number"),
        ({"parts": [{"knots": [2, 1]}]}, r"parts\[0\]: knots \[2.0, 1.0\] do not rise"),
        ({"parts": [3]}, r"parts\[0\]: 3 is not a set of keys and values"),
        ({"curve": {"kind": "circle"}}, "curve: .* is none of Line, Steps"),
        ({"curve": {"kind": "line", "slope": None}}, "curve.slope: None is not allowed"),
        ({"curve": {"kind": "steps", "heights": {}, "version": 3}}, "curve: .* is none of Line, Steps"),
        ({"table": {"e": 6}}, "table: .* is not allowed"),
        ({"table": []}, r"table: \[\] is not allowed"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_json(Plain, {**GOOD, **change})


@pytest.mark.parametrize("key", list(GOOD))
def test_what_is_absent_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: missing; allowed: "):
        from_json(Plain, {name: value for name, value in GOOD.items() if name != key})


def test_a_constant_is_what_it_has_to_be() -> None:
    for version in (3, None, "2"):
        with pytest.raises(ValueError, match=rf"^version: {version!r} is not 2$"):
            from_json(Steps, {"kind": "steps", "heights": {}, "version": version})


def test_all_is_told_in_one_line_and_no_more_than_can_be_read() -> None:
    with pytest.raises(ValueError, match=r"far: unknown.*; name: 1 is .*; count: '2' is ") as error:
        from_json(Plain, {**GOOD, "name": 1, "count": "2", "far": 3})
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"; and 4 more$"):
        from_json(Plain, {})
    for content in (None, [], "text", 3):
        with pytest.raises(ValueError, match=r"content: .* is not a set of keys and values"):
            from_json(Plain, content)


def test_a_configuration_is_read_as_people_write_it_and_a_folder_as_it_was_written() -> None:
    problems: list[str] = []
    people = {**GOOD, "name": 3, "parts": [], "curve": {"kind": "line", "slope": 1}, "mixed": [3]}
    built = build_section(Part, {"knots": [1], "how": True}, "settings", problems)
    assert (built, problems) == (Part((1.0,), "yes"), [])
    assert build_section(Part, {"hwo": 1}, "settings", problems) is None
    assert problems == [
        "settings.hwo: unknown; did you mean how?",
        "settings.knots: missing; allowed: a list of a number",
    ]
    with pytest.raises(ValueError, match="name: 3 is not allowed"):
        from_json(Plain, people)


@dataclass(frozen=True, eq=False)
class Effects:
    location: Float[np.ndarray, "levels columns"]
    noise: Float[np.ndarray, " bands"]


@dataclass(frozen=True, eq=False)
class Shape:
    nodes: tuple[int, ...] = field(metadata=stored(""))
    values: Float[np.ndarray, "nodes 3"]


@dataclass(frozen=True)
class Sparse:
    places: Int[np.ndarray, " some"]

    @classmethod
    def of(cls, dense: "Dense") -> "Sparse":
        return cls(np.flatnonzero(dense.flags))

    def dense(self, read: Read) -> "Dense":
        flags = np.zeros(read["count"])
        flags[self.places] = 1
        return Dense(flags)


@persisted_as(Sparse, Sparse.dense)
@dataclass(frozen=True, eq=False)
class Dense:
    flags: Float[np.ndarray, " columns"]


@persisted(
    keys=("levels", "count", "known", "about"),
    sizes={"columns": lambda read: read["count"], "levels": lambda read: len(read["levels"])},
)
@dataclass(frozen=True, eq=False)
class Fitted:
    effects: Effects = field(metadata=stored("batches", sizes={"levels": "levels", "columns": "columns", "bands": 2}))
    weights: Float[np.ndarray, "latents columns"]
    square: Float16[np.ndarray, "latents latents"]
    shape: Shape | None
    part: Part = field(metadata=stored("about"))
    levels: tuple[str, ...]
    count: int
    twice: int = field(metadata=given(lambda read: 2 * read["count"]))
    layers: Arrays = field(metadata=converted("network", Arrays, dict, lambda arrays, read: arrays))
    turns: tuple[Float[np.ndarray, "_ _"], ...] = ()
    masses: Dense = field(
        default_factory=lambda: Dense(np.zeros(0)), metadata=stored(omitted=lambda own: not own.masses.flags.any())
    )
    covariance: Float[np.ndarray, "columns columns"] = field(
        default_factory=lambda: np.zeros((0, 0)),
        metadata=stored(flag="known", omitted=lambda own: not own.covariance.size),
    )
    shares: Float[np.ndarray, " _"] = field(default_factory=lambda: np.zeros(1), metadata=stored(finite=False))


def fitted(count: int = 4, levels: int = 2, latents: int = 3, **further: Any) -> Fitted:
    rng = np.random.default_rng(count)
    return Fitted(
        Effects(rng.normal(size=(levels, count)), rng.normal(size=2)),
        rng.normal(size=(latents, count)),
        rng.normal(size=(latents, latents)).astype(np.float16),
        Shape((1, 2), rng.normal(size=(2, 3))),
        Part((1.0, 2.0), "no"),
        tuple(f"S{k}" for k in range(levels)),
        count,
        2 * count,
        {"first.bias": np.ones(2), "last": np.ones((1, 1))},
        **further,
    )


def test_arrays_stand_apart_by_dotted_names_and_the_rest_in_json() -> None:
    content, arrays = to_state(fitted())
    assert list(content) == ["levels", "count", "known", "about", "shape", "turns"]
    assert content["shape"] == [1, 2]
    assert content["known"] is False
    names = {"batches.location", "batches.noise", "weights", "square", "shape.values", "network.first.bias"}
    assert set(arrays) == names | {"network.last", "shares"}


@drawn(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_a_state_comes_back_and_is_written_alike(count: int, levels: int, latents: int, more: bool) -> None:
    further = (
        {"masses": Dense(np.arange(count) % 2.0), "covariance": np.eye(count), "turns": (np.eye(2),)} if more else {}
    )
    one = fitted(count, levels, latents, **further)
    content, arrays = to_state(one)
    again = from_state(Fitted, json.loads(json.dumps(content)), arrays)
    same, others = to_state(again)
    assert (json.dumps(same), set(others)) == (json.dumps(content), set(arrays))
    for name, array in arrays.items():
        assert others[name].dtype == array.dtype
        np.testing.assert_array_equal(others[name], array)
    assert again.twice == 2 * count
    assert again.square.dtype == np.float16


def test_a_state_without_what_came_later_is_read() -> None:
    content, arrays = to_state(fitted())
    del content["turns"], content["known"], arrays["shares"]
    found = from_state(Fitted, {**content, "shape": None}, {k: v for k, v in arrays.items() if k != "shape.values"})
    assert found.shape is None
    assert (found.turns, found.covariance.shape, found.shares.tolist()) == ((), (0, 0), [0.0])


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("weights", None, "weights is absent"),
        ("batches.noise", None, "batches.noise is absent"),
        ("shape.values", None, "shape.values is absent"),
        ("masses.places", None, "masses.places is absent"),
        ("covariance", None, "covariance is absent"),
        ("weights", np.ones((3, 5)), r"weights has the shape \(3, 5\), not \(3, 4\)"),
        ("batches.location", np.ones((1, 4)), r"batches.location has the shape \(1, 4\), not \(2, 4\)"),
        ("batches.noise", np.ones(3), r"batches.noise has the shape \(3,\), not \(2,\)"),
        ("square", np.ones((2, 2), np.float16), r"square has the shape \(2, 2\), not \(3, 3\)"),
        ("square", np.ones((3, 3)), "square holds float64, not float16"),
        ("masses.places", np.ones(1), "masses.places holds float64, not int"),
        ("shape.values", np.ones((2, 3, 1)), r"shape.values has the shape \(2, 3, 1\), not \(nodes, 3\)"),
        ("weights", np.full((3, 4), np.inf), "weights holds values that are not finite"),
        ("covariance", np.eye(3), r"covariance has the shape \(3, 3\), not \(4, 4\)"),
    ],
)
def test_wrong_arrays_are_named(name: str, array: "np.ndarray | None", said: str) -> None:
    content, arrays = to_state(fitted(masses=Dense(np.ones(4)), covariance=np.eye(4)))
    damaged = {k: v for k, v in {**arrays, name: array}.items() if v is not None}
    if name == "masses.places" and array is None:
        damaged["masses.other"] = np.ones(1)
    with pytest.raises(ModelError, match=f"weights that do not belong to this model: {said}; train again or fetch it"):
        from_state(Fitted, content, damaged)


def test_all_wrong_arrays_are_told_and_wrong_values_before_them() -> None:
    content, arrays = to_state(fitted())
    damaged = {**arrays, "square": np.ones((3, 3)), "shares": np.array([np.nan])}
    del damaged["weights"]
    with pytest.raises(ModelError, match=r"\(2\):\n  weights is absent\n  square holds float64"):
        from_state(Fitted, content, damaged)
    with pytest.raises(ValueError, match="count: 'x' is not allowed"):
        from_state(Fitted, {**content, "count": "x"}, damaged)


def test_arrays_in_json_have_shapes_too() -> None:
    one = Effects(np.ones((2, 3)), np.ones(1))
    content = to_json(one)
    np.testing.assert_array_equal(from_json(Effects, content).location, one.location)
    for wrong, said in (
        ([1.0], "has the shape"),
        ("x", "is no array of numbers"),
        ([[1], [2, 3]], "is no array of numbers"),
    ):
        with pytest.raises(ValueError, match=f"location.* {said}"):
            from_json(Effects, {**content, "location": wrong})
