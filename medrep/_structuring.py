"""Frozen dataclasses of arrays, numbers, texts and each other <-> what is written of them: configurations, JSON, named arrays.

A dataclass says by its annotations what may be read; all that is wrong is told, not the first. A section of a configuration
(`build_section`) is read as people write YAML: a number may stand for a text, ``yes`` for a word. What medrep wrote itself is
read exactly. JSON alone (`to_json`, `from_json`) holds arrays as
nested lists; a state (`to_state`, `from_state`) holds them apart, by dotted name. Where the persisted form differs from the
attributes, the field says so (`stored`, `given`, `converted`), or the class (`persisted`, `persisted_as`), so that
keys that stand in folders stay what they are while attributes are renamed.
"""

import sys
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache, partial
from inspect import isclass
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray

from medrep.errors import ModelError, listed

Arrays: TypeAlias = dict[str, np.ndarray]
"""As an annotation of a persisted form: all arrays whose names begin with the field's, whatever they are."""

Read: TypeAlias = Mapping[str, Any]
"""What has been read so far: the fields of an object, before those of the objects it is part of."""

T = TypeVar("T")


class _Refused:
    """Marks a value that does not fit its field."""


REFUSED = _Refused()
_CURE = "train again or fetch it again"
_MOST = 5


@dataclass(frozen=True)
class _How:
    """How a field is persisted; see `stored`, `given` and `converted`."""

    key: str | None = None
    arrays: str | None = None
    omitted: Callable[[Any], bool] | None = None
    absent: Callable[[Read], Any] | None = None
    flag: str = ""
    sizes: Mapping[str, str | int] = field(default_factory=dict)
    finite: bool = True
    persisted: bool = True
    form: Any = None
    write: Callable[[Any], Any] | None = None
    read: Callable[[Any, Read], Any] | None = None


@dataclass(frozen=True)
class _Form:
    """How a class is persisted; see `persisted` and `persisted_as`."""

    keys: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Callable[[Read], int]] = field(default_factory=dict)
    check: Callable[[Any], None] | None = None
    other: Any = None
    write: Callable[[Any], Any] | None = None
    read: Callable[[Any, Read], Any] | None = None


_FORMS: dict[type, _Form] = {}


def stored(
    key: str | None = None,
    *,
    arrays: str | None = None,
    omitted: Callable[[Any], bool] | None = None,
    absent: Callable[[Read], Any] | None = None,
    flag: str = "",
    sizes: Mapping[str, str | int] = MappingProxyType({}),
    finite: bool = True,
) -> dict[str, _How]:
    """Return a field's metadata: where it stands in the persisted form.

    Args:
        key: Its key, and the beginning of its arrays' names; by default the attribute's. Empty: beside what its holder has, or
            in place of the holder where that has nothing else.
        arrays: The beginning of its arrays' names, where it is another one than the key.
        omitted: Says of the holder whether the field is left out of what is written.
        absent: Makes the value where what is read lacks it; by default the dataclass's default.
        flag: A key of its own, which says whether it is there.
        sizes: Axis of the field's arrays -> axis of the holder's, or a number.
        finite: Whether its numbers have to be.
    """
    return {"stored": _How(key, arrays, omitted, absent, flag, sizes, finite)}


def given(value: Callable[[Read], Any]) -> dict[str, _How]:
    """Return the metadata of a field that is not persisted: it follows from what is read beside it."""
    return {"stored": _How(persisted=False, absent=value)}


def converted(
    key: str,
    form: Any,
    write: Callable[[Any], Any],
    read: Callable[[Any, Read], Any],
    omitted: Callable[[Any], bool] | None = None,
) -> dict[str, _How]:
    """Return the metadata of a field that is persisted as something else, of the annotation ``form``."""
    return {"stored": _How(key, omitted=omitted, form=form, write=write, read=read)}


def persisted(
    *,
    keys: Sequence[str] = (),
    constants: Mapping[str, Any] = MappingProxyType({}),
    sizes: Mapping[str, Callable[[Read], int]] = MappingProxyType({}),
    check: Callable[[Any], None] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Say of a dataclass how it is persisted.

    Args:
        keys: In the order in which they are written; others follow, constants before fields.
        constants: Keys that are the same in all instances: a tag, or what readers want to be told.
        sizes: Axis of its arrays -> its length, from what is read; lengths of other axes have to agree.
        check: Raises a ValueError or a ModelError about an instance that has been read and cannot be.
    """

    def mark(kind: type[T]) -> type[T]:
        _FORMS[kind] = _Form(tuple(keys), constants, sizes, check)
        return kind

    return mark


def persisted_as(form: type[Any], read: Callable[[Any, Read], Any]) -> Callable[[type[T]], type[T]]:
    """Say of a dataclass that another one, ``form``, is persisted in its place: ``form.of`` writes, ``read`` reads."""

    def mark(kind: type[T]) -> type[T]:
        _FORMS[kind] = _Form(other=form, write=form.of, read=read)
        return kind

    return mark


def build_section(kind: type[Any], content: object, where: str, problems: list[str]) -> Any:
    """Build a dataclass, and the dataclasses in it, from a section of a configuration.

    Args:
        kind: The dataclass.
        content: Keys and values, as YAML or JSON give them.
        where: Dotted path of the section, for what is said.
        problems: Every unknown key, absent or wrong value is added here, a line each.

    Returns:
        An instance; None where something it needs is absent or wrong.
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


def to_json(value: Any) -> Any:
    """Return a dataclass as JSON content; arrays are nested lists, sets are sorted."""
    return _written(value, None, "")


def to_state(value: Any) -> tuple[dict[str, Any], Arrays]:
    """Return a dataclass as JSON content and its arrays by name."""
    arrays: Arrays = {}
    return _written(value, arrays, ""), arrays


def from_json(kind: type[T], content: object, known: Read = MappingProxyType({})) -> T:
    """Rebuild a dataclass from the content of `to_json`.

    Args:
        kind: The dataclass.
        content: As JSON gives it; keys that were not written when the content was have the dataclass's defaults.
        known: What `given` fields need beside the content.

    Raises:
        ValueError: Keys that are absent or unknown, and wrong values, by name, in one line.
    """
    reader = _Reader({})
    found = reader.dataclass(kind, content, _Around(read=known))
    reader.refuse()
    return found


def from_state(kind: type[T], content: object, arrays: Mapping[str, np.ndarray]) -> T:
    """Rebuild a dataclass from what `to_state` gave.

    Raises:
        ValueError: As of `from_json`.
        ModelError: Arrays that are absent, not finite, or of another shape or type than the rest says; all of them.
    """
    reader = _Reader(arrays)
    found = reader.dataclass(kind, content, _Around(place=""))
    reader.refuse()
    return found


def check_arrays(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that are absent, not finite or of another shape than the model's description says.

    Raises:
        ModelError: All of them.
    """
    offenders = [f"{name} is absent" for name in wanted if name not in arrays]
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            offenders.append(f"{name} has the shape {arrays[name].shape}, not {shape}")
        elif name in arrays and not np.isfinite(arrays[name]).all():
            offenders.append(_not_finite(name))
    _refuse_weights(offenders)


def _not_finite(name: str) -> str:
    return f"{name} holds values that are not finite"


def _refuse_weights(offenders: Sequence[str]) -> None:
    if offenders:
        raise ModelError(listed("weights that do not belong to this model", offenders, _CURE))


@dataclass(frozen=True)
class _Entry:
    """A field of a dataclass, ready to be written or read."""

    name: str
    how: _How
    hint: Any
    default: Callable[[Read], Any] | None

    @property
    def key(self) -> str:
        return self.name if self.how.key is None else self.how.key

    def place(self, holder: str | None) -> str | None:
        """Return how the names of its arrays begin; None where arrays stand in the JSON content."""
        if holder is None:
            return None
        own = self.key if self.how.arrays is None else self.how.arrays
        return ".".join(part for part in (holder, own) if part)

    def keys(self, apart: bool) -> tuple[str, ...]:
        """Return the keys it has in its holder's JSON content; ``apart``: arrays are elsewhere."""
        flag = (self.how.flag,) if self.how.flag else ()
        if apart and (_is_array(self.hint) or self.hint == Arrays):
            return flag
        kind = _dataclass_in(self.hint)
        if kind is not None and not self.key:
            return (*flag, *_keys(kind, apart))
        return flag if apart and kind is not None and not _keys(kind, apart) else (*flag, self.key)


def _found_entries(kind: type[Any]) -> tuple[_Entry, ...]:
    """Return the persisted fields in the order in which they are written and read, then those that follow from them."""
    hints = _hints(kind)
    found = [_entry(one, hints[one.name]) for one in fields(kind)]
    order = {key: place for place, key in enumerate(_form(kind).keys)}

    def rank(entry: _Entry) -> int:
        return min((order.get(key, len(order)) for key in entry.keys(True)), default=len(order))

    return (*sorted((e for e in found if e.how.persisted), key=rank), *(e for e in found if not e.how.persisted))


def _hints(kind: type[Any]) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields; those of classes above it may name what only type checkers know."""

    def holder() -> None: ...

    holder.__annotations__ = {one.name: one.type for one in fields(kind)}
    return get_type_hints(holder, vars(sys.modules[kind.__module__]))


def _entry(one: "Field[Any]", hint: Any) -> _Entry:
    how = one.metadata.get("stored", _How())
    default = how.absent
    if default is None and one.default is not MISSING:
        default = partial(_same, one.default)
    elif default is None and one.default_factory is not MISSING:
        default = partial(_made, one.default_factory)
    return _Entry(one.name, how, hint if how.form is None else how.form, default)


def _same(value: Any, _read: Read) -> Any:
    return value


def _made(make: Callable[[], Any], _read: Read) -> Any:
    return make()


def _form(kind: type[Any]) -> _Form:
    return _FORMS.get(kind, _Form())


def _found_keys(kind: type[Any], apart: bool) -> tuple[str, ...]:
    """Return the keys of a dataclass's JSON content; one empty key where a single field takes the place of them all."""
    kind = _form(kind).other or kind
    persistent = [entry for entry in _entries(kind) if entry.how.persisted]
    own = [entry for entry in persistent if entry.keys(apart)]
    if [entry.key for entry in own] == [""] and not _form(kind).constants:
        return ("",)
    return (*_form(kind).constants, *(key for entry in own for key in entry.keys(apart)))


# mypy takes no class for hashable.
_entries: Callable[[type[Any]], tuple[_Entry, ...]] = cache(_found_entries)  # type: ignore[assignment]
_keys: Callable[[type[Any], bool], tuple[str, ...]] = cache(_found_keys)  # type: ignore[assignment]


def _is_array(hint: Any) -> bool:
    return isclass(hint) and issubclass(hint, AbstractArray)


def _has_arrays(hint: Any) -> bool:
    """Say whether a state has arrays of an annotation apart from its JSON content."""
    kind = _dataclass_in(hint)
    if kind is None:
        return _is_array(hint) or hint == Arrays
    return any(_has_arrays(entry.hint) for entry in _entries(_form(kind).other or kind) if entry.how.persisted)


def _dataclass_in(hint: Any) -> type[Any] | None:
    """Return the dataclass that an annotation names, alone or with None."""
    options = (
        [one for one in get_args(hint) if one is not type(None)] if get_origin(hint) in {Union, UnionType} else [hint]
    )
    return options[0] if len(options) == 1 and isclass(options[0]) and is_dataclass(options[0]) else None


def _is_plain(hint: Any) -> bool:
    """Say whether an annotation names neither arrays nor dataclasses."""
    return not _is_array(hint) and not (isclass(hint) and is_dataclass(hint)) and all(map(_is_plain, get_args(hint)))


def _written(value: Any, arrays: Arrays | None, place: str | None) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _written_fields(value, arrays, place)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _written(one, None, None) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [_written(one, None, None) for one in value] if isinstance(value, list | tuple) else value


def _written_fields(value: Any, arrays: Arrays | None, place: str | None) -> Any:
    form = _form(type(value))
    if form.write is not None:
        return _written(form.write(value), arrays, place)
    content: dict[str, Any] = dict(form.constants)
    apart, whole = arrays is not None, _keys(type(value), arrays is not None) == ("",)
    for entry in _entries(type(value)):
        how, omitted = entry.how, entry.how.omitted is not None and entry.how.omitted(value)
        if how.flag:
            content[how.flag] = not omitted
        if omitted or not how.persisted:
            continue
        own, there = getattr(value, entry.name), entry.place(place)
        own = own if how.write is None else how.write(own)
        if arrays is not None and entry.hint == Arrays:
            arrays |= {f"{there}.{name}": array for name, array in own.items()}
        elif arrays is not None and _is_array(entry.hint):
            arrays[str(there)] = own
        else:
            written = _written(own, arrays, there)
            if whole:
                content = {"": written}
            elif not entry.key:
                content |= written
            elif entry.keys(apart):
                content[entry.key] = written
    if whole:
        return content[""]
    order = [key for key in form.keys if key in content]
    return {key: content[key] for key in (*order, *(key for key in content if key not in order))}


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
    """What an object is read within.

    Attributes:
        path: Dotted path of its content, for what is said.
        place: How the names of its arrays begin; None where arrays stand in the content.
        read: What has been read of the objects it is part of.
        lengths: Of axes, as its holder knows them.
        beside: Whether its holder has further keys in the same content.
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
            more = f"; and {len(self.problems) - _MOST} more" if len(self.problems) > _MOST else ""
            raise ValueError("; ".join(self.problems[:_MOST]) + more)
        _refuse_weights([*self._absent, *self._wrong])

    def dataclass(self, kind: type[Any], content: Any, around: _Around) -> Any:
        """Read a dataclass; `REFUSED` where something in it is wrong."""
        form = _form(kind)
        if form.read is not None:
            found = self.dataclass(form.other, content, around)
            return found if found is REFUSED else self._made(partial(form.read, found, around.read), around.path)
        keys = _keys(kind, around.place is not None)
        if keys and keys != ("",) and not isinstance(content, dict):
            return self._refused(f"{around.path or 'content'}: {self._shown(content)} is not a set of keys and values")
        if keys != ("",) and not around.beside and keys:
            known = keys if self._exact else [key for key in keys if key != "name"]
            self.problems += [unknown_key(str(key), known, around.path) for key in content if key not in keys]
        own: dict[str, Any] = {}
        read: Read = ChainMap(own, dict(around.read))
        sizes = _Sizes({**around.lengths, **{n: partial(self._length, make, read) for n, make in form.sizes.items()}})
        # Lengths of axes follow from what has no arrays: it is read first.
        for entry in sorted(_entries(kind), key=lambda one: (not one.how.persisted, _has_arrays(one.hint))):
            if entry.how.persisted:
                own[entry.name] = self._entry(entry, content, replace(around, read=read), sizes, keys == ("",))
            elif not any(value is REFUSED for value in own.values()) and entry.default is not None:
                own[entry.name] = self._made(partial(entry.default, read), around.path)
        if any(value is REFUSED for value in own.values()):
            return REFUSED
        return self._made(partial(_instance, kind, own, form.check), around.path)

    def _entry(self, entry: _Entry, content: Any, around: _Around, sizes: _Sizes, whole: bool) -> Any:
        """Read a field of a dataclass whose content and surroundings are given."""
        place, how = entry.place(around.place), entry.how
        key = "" if whole else entry.key
        path = ".".join(part for part in (around.path, key) if part)
        if entry.default is not None and not whole and not self._present(entry, content, place):
            return self._made(partial(entry.default, around.read), path)
        if place is not None and entry.hint == Arrays:
            prefix = f"{place}."
            found: Any = {n.removeprefix(prefix): a for n, a in self._arrays.items() if n.startswith(prefix)}
        elif place is not None and _is_array(entry.hint):
            found = self._array(entry.hint, place, sizes, how.finite)
        else:
            kind, value = _dataclass_in(entry.hint), content
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

    def _present(self, entry: _Entry, content: Any, place: str | None) -> bool:
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
        if _is_array(hint):
            return self._listed_array(hint, value, around.path, sizes)
        kinds = [one for one in (get_args(hint) or (hint,)) if isclass(one) and is_dataclass(one)]
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in {Union, UnionType} or is_dataclass(hint):
            tagged = [kind for kind in kinds if _has_tags(kind, value)]
            if len(tagged) != 1:
                return self._refused(
                    f"{around.path}: {self._shown(value)} is none of {', '.join(k.__name__ for k in kinds)}"
                )
            return self.dataclass(tagged[0], value, replace(around, place=None, lengths={}, beside=False))
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
            self._wrong.append(
                f"{name} has the shape {found.shape}, not ({', '.join(map(str, wanted))}{',' * (len(wanted) == 1)})"
            )
        elif found.dtype.name not in hint.dtypes:
            self._wrong.append(f"{name} holds {found.dtype.name}, not {' or '.join(hint.dtypes[-2:])}")
        elif finite and not np.isfinite(found).all():
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
                return make(read)
            except (AttributeError, KeyError, TypeError):
                return None
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
    return isinstance(content, dict) and all(content.get(key) == tag for key, tag in _form(kind).constants.items())


def _convert(value: Any, hint: Any, exact: bool) -> Any:
    """Return a plain value of an annotation; `REFUSED` where it is none. Not ``exact``: as people write it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        # YAML reads the bare words yes and no as booleans.
        word = ("yes" if value else "no") if isinstance(value, bool) and not exact else value
        return word if isinstance(word, str) and word in arguments else REFUSED
    if origin in {Union, UnionType}:
        options = sorted(arguments, key=lambda one: exact and one is not type(value))
        fits = (found for option in options if (found := _convert(value, option, exact)) is not REFUSED)
        return next(fits, REFUSED)
    if origin in {tuple, frozenset}:
        if not isinstance(value, list | tuple):
            return REFUSED
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
    if not exact:
        return {str(key): str(one) for key, one in value.items()}
    found = {key: _convert(one, arguments[1], exact) for key, one in value.items()}
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
