"""Frozen dataclasses from what is written of them: sections of configurations, JSON, states with named arrays.

A dataclass says by its annotations what may be read; all that is wrong is told, not the first. A section of a configuration
(`build_section`) is read as people write YAML: a number may stand for a text, ``yes`` for a word. What medrep wrote itself
(`from_json`, `from_state`) is read exactly; `medrep._persisted` says where it stands.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from difflib import get_close_matches
from functools import partial
from inspect import isclass
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import numpy as np

from medrep._files import release_pages
from medrep._persisted import (
    Arrays,
    Entry,
    Read,
    dataclass_in,
    entries,
    form_of,
    has_arrays,
    is_array,
    keys_of,
)
from medrep.errors import ModelError, few, listed

T = TypeVar("T")
_CURE = "train again or fetch it again"
_MOST = 5


class _Refused:
    """Marks a value that does not fit its field."""


REFUSED = _Refused()


def build_section(kind: type[Any], content: object, where: str, problems: list[str]) -> Any:
    """Build a dataclass, and the dataclasses in it, from a section of a configuration, as YAML or JSON give it.

    Every unknown key, absent or wrong value is added to `problems`, a line each, with the dotted path of the section
    (`where`). None where something it needs is absent or wrong.
    """
    reader = _Reader({}, exact=False)
    found = reader.dataclass(kind, content, _Around(where))
    problems += reader.problems
    return None if found is REFUSED else found


def unknown_key(key: str, known: Sequence[str], where: str) -> str:
    """Return a line about a key that nobody knows, with the nearest that is known."""
    near = get_close_matches(key, known, 1)
    path = f"{where}.{key}" if where else key
    return f"{path}: unknown; did you mean {near[0]}?" if near else f"{path}: unknown; known: {', '.join(known)}"


def from_json(kind: type[T], content: object, known: Read = MappingProxyType({})) -> T:
    """Rebuild a dataclass from the content of `to_json`.

    Keys that were not written when the content was have the dataclass's defaults; `given` fields may need more than the
    content, which is `known`. Raises ValueError for keys that are absent or unknown, and wrong values, by name, in one line.
    """
    reader = _Reader({})
    found = reader.dataclass(kind, content, _Around(read=known))
    reader.refuse()
    return found


def from_state(kind: type[T], content: object, arrays: Mapping[str, np.ndarray]) -> T:
    """Rebuild a dataclass from what `to_state` gave.

    Raises ValueError as `from_json` does, and ModelError for arrays that are absent, not finite, or of another shape or type
    than the rest says; all of them.
    """
    reader = _Reader(arrays)
    found = reader.dataclass(kind, content, _Around(place=""))
    reader.refuse()
    return found


def check_arrays(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that are absent, not finite or of another shape than the model's description says; all of them."""
    offenders = [f"{name} is absent" for name in wanted if name not in arrays]
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            offenders.append(f"{name} has the shape {arrays[name].shape}, not {shape}")
        elif name in arrays and not np.isfinite(arrays[name]).all():
            offenders.append(_not_finite(name))
    _refuse_weights(offenders)


def _all_finite(array: np.ndarray) -> bool:
    """Look through an array a row at a time, so that little of a memory-mapped one is in memory."""
    for part in array if array.ndim > 1 else [array]:
        if not np.isfinite(part).all():
            return False
        release_pages(array)
    return True


def _not_finite(name: str) -> str:
    return f"{name} holds values that are not finite"


def _refuse_weights(offenders: Sequence[str]) -> None:
    if offenders:
        raise ModelError(listed("weights that do not belong to this model", offenders, _CURE))


_Lengths: TypeAlias = Mapping[str, Callable[[], "int | None"]]


class _Sizes:
    """Lengths of the axes of one object's arrays."""

    def __init__(self, makers: _Lengths) -> None:
        self._makers, self._bound = makers, dict[str, int]()

    def of(self, name: str) -> int | None:
        """Return the length of an axis; None where nothing says it yet."""
        if name not in self._bound and name in self._makers:
            length = self._makers[name]()
            if length is not None:
                self._bound[name] = length
        return self._bound.get(name)

    def wanted(self, hint: Any, shape: tuple[int, ...]) -> tuple[int | str, ...]:
        """Return what the shape of an array has to be; axes without a length take the array's, if it has as many axes."""
        names = hint.dim_str.split()
        found: list[int | str] = []
        for axis, name in enumerate(names):
            length = int(name) if name.isdigit() else self.of(name)
            if length is None and len(shape) == len(names):
                length = shape[axis]
                if name != "_":
                    self._bound[name] = length
            found.append(name if length is None else length)
        return tuple(found)


@dataclass(frozen=True)
class _Around:
    """Surroundings of an object that is read.

    `path` leads to its content, for what is said; `place` is how the names of its arrays begin (None where arrays stand in
    the content); `read` is what has been read of the objects it is part of; `beside`: its holder has further keys in the same
    content.
    """

    path: str = ""
    place: str | None = None
    read: Read = field(default_factory=dict)
    lengths: _Lengths = field(default_factory=dict)
    beside: bool = False


class _Reader:
    """Reads dataclasses and gathers all that is wrong."""

    def __init__(self, arrays: Mapping[str, np.ndarray], *, exact: bool = True) -> None:
        self.problems: list[str] = []
        self._arrays, self._exact = arrays, exact
        self._absent: list[str] = []
        self._wrong: list[str] = []

    def refuse(self) -> None:
        """Raise about all that was wrong; values before arrays, whose shapes follow from them."""
        if self.problems:
            raise ValueError(few(self.problems, _MOST, between="; ", last="; and"))
        _refuse_weights([*self._absent, *self._wrong])

    def dataclass(self, kind: type[Any], content: Any, around: _Around) -> Any:
        """Read a dataclass; `REFUSED` where something in it is wrong."""
        form = form_of(kind)
        if form.read is not None:
            found = self.dataclass(form.other, content, around)
            return found if found is REFUSED else self._made(partial(form.read, found, around.read), around.path)
        keys = keys_of(kind, around.place is not None)
        if keys and keys != ("",) and not isinstance(content, dict):
            return self._refused(f"{around.path or 'content'}: {self._shown(content)} is not a set of keys and values")
        if keys != ("",) and not around.beside and keys:
            known = keys if self._exact else [key for key in keys if key != "name"]
            self.problems += [unknown_key(str(key), known, around.path) for key in content if key not in keys]
        for key, value in form.constants.items():
            if content.get(key) != value:
                self._refused(f"{_dotted(around.path, key)}: {self._shown(content.get(key))} is not {value!r}")
        own: dict[str, Any] = {}
        read: Read = ChainMap(own, dict(around.read))
        sizes = _Sizes({**around.lengths, **{n: partial(self._length, make, read) for n, make in form.sizes.items()}})
        # Lengths of axes follow from what has no arrays: it is read first.
        for entry in sorted(entries(kind), key=lambda one: (one.how.given is not None, has_arrays(one.hint))):
            if entry.how.given is None:
                own[entry.name] = self._field(entry, content, replace(around, read=read), sizes, keys == ("",))
            elif not any(value is REFUSED for value in own.values()) and entry.default is not None:
                own[entry.name] = self._made(partial(entry.default, read), around.path)
        if any(value is REFUSED for value in own.values()):
            return REFUSED
        return self._made(partial(_instance, kind, own, form.check), around.path)

    def _field(self, entry: Entry, content: Any, around: _Around, sizes: _Sizes, whole: bool) -> Any:
        """Read a field of a dataclass whose content and surroundings are given."""
        place, how = entry.place(around.place), entry.how
        key = "" if whole else entry.key
        path = _dotted(around.path, key)
        if entry.default is not None and not whole and not self._present(entry, content, place):
            return self._made(partial(entry.default, around.read), path)
        if place is not None and entry.hint == Arrays:
            prefix = f"{place}."
            found: Any = {n.removeprefix(prefix): a for n, a in self._arrays.items() if n.startswith(prefix)}
        elif place is not None and is_array(entry.hint):
            found = self._array(entry.hint, place, sizes, how.finite)
        else:
            kind, value = dataclass_in(entry.hint), content
            if key and entry.keys(place is not None):
                if key not in content:
                    return self._refused(f"{path}: missing; allowed: {_allowed(entry.hint)}")
                value = content[key]
            if kind is None:
                found = self._value(entry.hint, value, replace(around, path=path), sizes)
            elif value is None and type(None) in get_args(entry.hint):
                found = None
            else:
                lengths = {
                    axis: partial(_number, length) if isinstance(length, int) else partial(sizes.of, length)
                    for axis, length in how.sizes.items()
                }
                beside = not key and not whole
                found = self.dataclass(kind, value, _Around(path, place, around.read, lengths, beside))
        if how.read is None or found is REFUSED:
            return found
        if self.problems or self._absent or self._wrong:
            return REFUSED  # what it is made with may be wrong
        return self._made(partial(how.read, found, around.read), path)

    def _present(self, entry: Entry, content: Any, place: str | None) -> bool:
        if entry.how.flag:
            return bool(content.get(entry.how.flag, False))
        if any(key in content for key in entry.keys(place is not None)):
            return True
        return place is not None and any(name == place or name.startswith(f"{place}.") for name in self._arrays)

    def _value(self, hint: Any, value: Any, around: _Around, sizes: _Sizes) -> Any:
        """Read what is no dataclass of its own: an array in JSON, a list, a mapping, or a plain value."""
        if _is_plain(hint):
            found = _convert(value, hint, self._exact)
            said = f"{around.path}: {self._shown(value)} is not allowed; allowed: {_allowed(hint)}"
            return self._refused(said) if found is REFUSED else found
        if is_array(hint):
            return self._listed_array(hint, value, around.path, sizes)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in {Union, UnionType} or not arguments:
            kinds = [one for one in arguments or (hint,) if isclass(one) and is_dataclass(one)]
            fitting = [kind for kind in kinds if len(kinds) == 1 or _has_tags(kind, value)]
            if len(fitting) != 1:
                names = ", ".join(kind.__name__ for kind in kinds)
                return self._refused(f"{around.path}: {self._shown(value)} is none of {names}")
            return self.dataclass(fitting[0], value, replace(around, place=None, lengths={}, beside=False))
        if origin is tuple and isinstance(value, list | tuple):
            places = [replace(around, path=f"{around.path}[{number}]") for number in range(len(value))]
            items = [self._value(arguments[0], one, own, sizes) for one, own in zip(value, places, strict=True)]
            return REFUSED if any(one is REFUSED for one in items) else tuple(items)
        if origin is not tuple and isinstance(value, dict):
            numbered = arguments[0] is int
            if numbered and not all(key.isdigit() for key in value):
                return self._refused(f"{around.path}: {', '.join(value)} are no whole numbers")
            entries = {
                int(key) if numbered else key: self._value(
                    arguments[1], one, replace(around, path=f"{around.path}.{key}"), sizes
                )
                for key, one in value.items()
            }
            return REFUSED if any(one is REFUSED for one in entries.values()) else entries
        return self._refused(
            f"{around.path}: {self._shown(value)} is not a {'list' if origin is tuple else 'set of keys'}"
        )

    def _array(self, hint: Any, name: str, sizes: _Sizes, finite: bool) -> Any:
        if name not in self._arrays:
            self._absent.append(f"{name} is absent")
            return REFUSED
        found = self._arrays[name]
        wanted = sizes.wanted(hint, found.shape)
        if found.shape != wanted:
            self._wrong.append(f"{name} {_other_shape(found.shape, wanted)}")
        elif found.dtype.name not in hint.dtypes:
            self._wrong.append(f"{name} holds {found.dtype.name}, not {hint.dtype.__name__.lower()}")
        elif finite and not _all_finite(found):
            self._wrong.append(_not_finite(name))
        else:
            return found
        return REFUSED

    def _listed_array(self, hint: Any, value: Any, path: str, sizes: _Sizes) -> Any:
        try:
            found = np.asarray(value, dtype=np.int64 if "float64" not in hint.dtypes else np.float64)
        except (TypeError, ValueError, OverflowError):
            return self._refused(f"{path}: {self._shown(value)} is no array of numbers")
        wanted = sizes.wanted(hint, found.shape)
        if found.shape != wanted:
            return self._refused(f"{path} {_other_shape(found.shape, wanted)}")
        return found

    def _length(self, make: Callable[[Read], int], read: Read) -> int | None:
        """Return the length of an axis; None where what it follows from is wrong itself."""
        if self.problems or self._absent or self._wrong:
            try:
                length = make(read)
            except (AttributeError, KeyError, TypeError):
                return None
            return length if isinstance(length, int) else None
        return make(read)

    def _made(self, make: Callable[[], Any], path: str) -> Any:
        """Make a value; `REFUSED`, with its word, where that raises a ValueError."""
        try:
            return make()
        except ValueError as error:
            return self._refused(f"{path}: {error}" if path else str(error))

    def _shown(self, value: Any) -> str:
        return f"{value!r:.60}" if self._exact else repr(value)

    def _refused(self, problem: str) -> Any:
        self.problems.append(problem)
        return REFUSED


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _other_shape(shape: tuple[int, ...], wanted: Sequence[int | str]) -> str:
    axes = ", ".join(map(str, wanted))
    return f"has the shape {shape}, not ({axes}{',' * (len(wanted) == 1)})"


def _instance(kind: type[Any], values: Mapping[str, Any], check: Callable[[Any], None] | None) -> Any:
    found = kind(**values)
    if check is not None:
        check(found)
    return found


def _number(length: int) -> int:
    return length


def _has_tags(kind: type[Any], content: Any) -> bool:
    """Say whether content has the constants of a dataclass."""
    return isinstance(content, dict) and all(content.get(key) == tag for key, tag in form_of(kind).constants.items())


def _convert(value: Any, hint: Any, exact: bool) -> Any:
    """Return a plain value of an annotation; `REFUSED` where it is none. Not ``exact``: as people write it."""
    if type(value) is hint:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        # YAML reads the bare words yes and no as booleans.
        word = ("yes" if value else "no") if isinstance(value, bool) and not exact else value
        return word if isinstance(word, str) and word in arguments else REFUSED
    if origin in {Union, UnionType}:
        if exact and type(value) in arguments:
            return value
        fits = (found for option in arguments if (found := _convert(value, option, exact)) is not REFUSED)
        return next(fits, REFUSED)
    if origin in {tuple, frozenset}:
        if not isinstance(value, list | tuple):
            return REFUSED
        if Ellipsis in arguments and all(type(item) is arguments[0] for item in value):
            return origin(value)  # long lists, for the most part
        kinds = arguments if Ellipsis not in arguments and origin is tuple else arguments[:1] * len(value)
        if len(kinds) != len(value):
            return REFUSED
        items = [_convert(item, kind, exact) for item, kind in zip(value, kinds, strict=True)]
        return REFUSED if REFUSED in items else origin(items)
    if origin is not None:
        return _convert_mapping(value, arguments, exact)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and not exact and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if hint is type(None):
        return None if value is None else REFUSED
    if hint is Any:
        return value
    return value if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)) else REFUSED


def _convert_mapping(value: Any, arguments: tuple[Any, ...], exact: bool) -> Any:
    if not isinstance(value, dict):
        return REFUSED
    if not exact and arguments[1] is str:
        return {str(key): str(one) for key, one in value.items()}
    found = {key if exact else str(key): _convert(one, arguments[1], exact) for key, one in value.items()}
    return REFUSED if REFUSED in found.values() else found


def _allowed(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(str(value) for value in arguments)
    if origin in {Union, UnionType}:
        return " or ".join(_allowed(option) for option in arguments)
    if origin in {tuple, frozenset}:
        return f"a list of {_allowed(arguments[0])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, "keys and values")


def _is_plain(hint: Any) -> bool:
    """Say whether an annotation names neither arrays nor dataclasses."""
    return not is_array(hint) and not (isclass(hint) and is_dataclass(hint)) and all(map(_is_plain, get_args(hint)))
