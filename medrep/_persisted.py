"""Persisted forms of frozen dataclasses: JSON content, and arrays by dotted name.

A dataclass says by its annotations what is written. JSON alone (`to_json`) holds arrays as nested lists; a state (`to_state`)
holds them apart. Where the persisted form differs from the attributes, the field says so (`stored`, `given`, `converted`), or
the class (`persisted`, `persisted_as`), so that keys that stand in folders stay what they are while attributes are renamed.
`medrep._structuring` reads what is written here.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache, partial
from inspect import isclass
from types import MappingProxyType, UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray

Arrays: TypeAlias = dict[str, np.ndarray]
"""As an annotation of a persisted form: all arrays whose names begin with the field's, whatever they are."""

Read: TypeAlias = Mapping[str, Any]
"""What has been read so far: the fields of an object, before those of the objects it is part of."""

T = TypeVar("T")


@dataclass(frozen=True)
class How:
    """How a field is persisted; see `stored`, `given` and `converted`."""

    key: str | None = None
    arrays: str | None = None
    omitted: Callable[[Any], bool] | None = None
    flag: str = ""
    sizes: Mapping[str, str | int] = field(default_factory=dict)
    finite: bool = True
    given: Callable[[Read], Any] | None = None
    form: Any = None
    write: Callable[[Any], Any] | None = None
    read: Callable[[Any, Read], Any] | None = None


@dataclass(frozen=True)
class Form:
    """How a class is persisted; see `persisted` and `persisted_as`."""

    keys: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Callable[[Read], int]] = field(default_factory=dict)
    check: Callable[[Any], None] | None = None
    other: Any = None
    write: Callable[[Any], Any] | None = None
    read: Callable[[Any, Read], Any] | None = None


_FORMS: dict[type, Form] = {}
_PLAIN = {str, int, float, bool, type(None)}


def stored(
    key: str | None = None,
    *,
    arrays: str | None = None,
    omitted: Callable[[Any], bool] | None = None,
    flag: str = "",
    sizes: Mapping[str, str | int] = MappingProxyType({}),
    finite: bool = True,
) -> dict[str, How]:
    """Return a field's metadata: where it stands in the persisted form.

    Args:
        key: Its key, and the beginning of its arrays' names; by default the attribute's. Empty: beside what its holder has, or
            in place of the holder where that has nothing else.
        arrays: The beginning of its arrays' names, where it is another one than the key.
        omitted: Says of the holder whether the field is left out of what is written; it is read as the dataclass's default.
        flag: A key of its own, which says whether it is there.
        sizes: Axis of the field's arrays -> axis of the holder's, or a number.
        finite: Whether its numbers have to be.
    """
    return {"stored": How(key, arrays, omitted, flag, sizes, finite)}


def given(value: Callable[[Read], Any]) -> dict[str, How]:
    """Return the metadata of a field that is not persisted: it follows from what is read beside it."""
    return {"stored": How(given=value)}


def converted(
    key: str,
    form: Any,
    write: Callable[[Any], Any],
    read: Callable[[Any, Read], Any],
    omitted: Callable[[Any], bool] | None = None,
) -> dict[str, How]:
    """Return the metadata of a field that is persisted as something else, of the annotation ``form``."""
    return {"stored": How(key, omitted=omitted, form=form, write=write, read=read)}


def persisted(
    *,
    keys: Sequence[str] = (),
    constants: Mapping[str, Any] = MappingProxyType({}),
    sizes: Mapping[str, Callable[[Read], int]] = MappingProxyType({}),
    check: Callable[[Any], None] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Say of a dataclass how it is persisted.

    `keys` stand in the order in which they are written; others follow, constants before fields. `constants` are the same in
    all instances: a tag, or what readers want to be told. `sizes` has the length of an axis of its arrays, from what is read;
    lengths of other axes have to agree. `check` raises a ValueError or a ModelError about an instance that has been read and
    cannot be.
    """

    def mark(kind: type[T]) -> type[T]:
        _FORMS[kind] = Form(tuple(keys), to_json(constants), sizes, check)
        return kind

    return mark


def persisted_as(form: type[Any], read: Callable[[Any, Read], Any]) -> Callable[[type[T]], type[T]]:
    """Say of a dataclass that another one, ``form``, is persisted in its place: ``form.of`` writes, ``read`` reads."""

    def mark(kind: type[T]) -> type[T]:
        _FORMS[kind] = Form(other=form, write=form.of, read=read)
        return kind

    return mark


def to_json(value: Any) -> Any:
    """Return a dataclass as JSON content; arrays are nested lists, sets are sorted."""
    return _written(value, None, "")


def to_state(value: Any) -> tuple[dict[str, Any], Arrays]:
    """Return a dataclass as JSON content and its arrays by name."""
    arrays: Arrays = {}
    return _written(value, arrays, ""), arrays


@dataclass(frozen=True)
class Entry:
    """A field of a dataclass, ready to be written or read."""

    name: str
    how: How
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
        if apart and (is_array(self.hint) or self.hint == Arrays):
            return flag
        kind = dataclass_in(self.hint)
        if kind is not None and not self.key:
            return (*flag, *keys_of(kind, apart))
        return flag if apart and kind is not None and not keys_of(kind, apart) else (*flag, self.key)


def _found_entries(kind: type[Any]) -> tuple[Entry, ...]:
    """Return the persisted fields in the order in which they are written and read, then those that follow from them."""
    hints = _hints(kind)
    found = [_entry(one, hints[one.name]) for one in fields(kind)]
    order = {key: place for place, key in enumerate(form_of(kind).keys)}

    def rank(entry: Entry) -> int:
        return min((order.get(key, len(order)) for key in entry.keys(True)), default=len(order))

    return (
        *sorted((e for e in found if e.how.given is None), key=rank),
        *(e for e in found if e.how.given is not None),
    )


def _hints(kind: type[Any]) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields; those of classes above it may name what only type checkers know."""

    def holder() -> None: ...

    holder.__annotations__ = {one.name: one.type for one in fields(kind)}
    return get_type_hints(holder, vars(sys.modules[kind.__module__]))


def _entry(one: "Field[Any]", hint: Any) -> Entry:
    how = one.metadata.get("stored", How())
    default = how.given
    if default is None and one.default is not MISSING:
        default = partial(_same, one.default)
    elif default is None and one.default_factory is not MISSING:
        default = partial(_made, one.default_factory)
    return Entry(one.name, how, hint if how.form is None else how.form, default)


def _same(value: Any, _read: Read) -> Any:
    return value


def _made(make: Callable[[], Any], _read: Read) -> Any:
    return make()


def form_of(kind: type[Any]) -> Form:
    return _FORMS.get(kind, Form())


def _found_keys(kind: type[Any], apart: bool) -> tuple[str, ...]:
    """Return the keys of a dataclass's JSON content; one empty key where a single field takes the place of them all."""
    kind = form_of(kind).other or kind
    persistent = [entry for entry in entries(kind) if entry.how.given is None]
    own = [entry for entry in persistent if entry.keys(apart)]
    if [entry.key for entry in own] == [""] and not form_of(kind).constants:
        return ("",)
    return (*form_of(kind).constants, *(key for entry in own for key in entry.keys(apart)))


# mypy takes no class for hashable.
entries: Callable[[type[Any]], tuple[Entry, ...]] = cache(_found_entries)  # type: ignore[assignment]
keys_of: Callable[[type[Any], bool], tuple[str, ...]] = cache(_found_keys)  # type: ignore[assignment]


def is_array(hint: Any) -> bool:
    return isclass(hint) and issubclass(hint, AbstractArray)


def has_arrays(hint: Any) -> bool:
    """Say whether a state has arrays of an annotation apart from its JSON content."""
    kind = dataclass_in(hint)
    if kind is None:
        return is_array(hint) or hint == Arrays
    return any(has_arrays(entry.hint) for entry in entries(form_of(kind).other or kind) if entry.how.given is None)


def dataclass_in(hint: Any) -> type[Any] | None:
    """Return the dataclass that an annotation names, alone or with None."""
    options = (
        [one for one in get_args(hint) if one is not type(None)] if get_origin(hint) in {Union, UnionType} else [hint]
    )
    return options[0] if len(options) == 1 and isclass(options[0]) and is_dataclass(options[0]) else None


def _written(value: Any, arrays: Arrays | None, place: str | None) -> Any:
    if type(value) in _PLAIN:
        return value
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
    form = form_of(type(value))
    if form.write is not None:
        return _written(form.write(value), arrays, place)
    content: dict[str, Any] = dict(form.constants)
    apart, whole = arrays is not None, keys_of(type(value), arrays is not None) == ("",)
    for entry in entries(type(value)):
        how, omitted = entry.how, entry.how.omitted is not None and entry.how.omitted(value)
        if how.flag:
            content[how.flag] = not omitted
        if omitted or how.given is not None:
            continue
        own, there = getattr(value, entry.name), entry.place(place)
        own = own if how.write is None else how.write(own)
        if arrays is not None and entry.hint == Arrays:
            arrays |= {f"{there}.{name}": array for name, array in own.items()}
        elif arrays is not None and is_array(entry.hint):
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
