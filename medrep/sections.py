"""Sections of a configuration, as plain keys and values -> frozen dataclasses; all that is wrong is told, not the first."""

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def build_section(kind: type[Any], content: object, where: str, problems: list[str]) -> Any:
    """Build a dataclass, and the dataclasses in it.

    Args:
        kind: The dataclass.
        content: Keys and values, as YAML or JSON give them.
        where: Dotted path of the section, for what is said.
        problems: Every unknown key, absent or wrong value is added here, a line each.

    Returns:
        An instance; None where something it needs is absent or wrong.
    """
    if not isinstance(content, dict):
        problems.append(f"{where}: {content!r} is not a set of keys and values")
        return None
    hints = get_type_hints(kind)
    known = [entry.name for entry in fields(kind)]
    problems += [unknown_key(str(key), [k for k in known if k != "name"], where) for key in content if key not in known]
    required = [e.name for e in fields(kind) if e.default is MISSING and e.default_factory is MISSING]
    absent = [name for name in required if name not in content]
    problems += [f"{where}.{name}: missing; allowed: {_allowed(hints[name])}" for name in absent]
    values = {}
    for key, value in content.items():
        if key in known and is_dataclass(hints[key]):
            built = build_section(hints[key], value, f"{where}.{key}", problems)
            values[key] = _REFUSED if built is None else built
        elif key in known:
            values[key] = converted = _convert(value, hints[key])
            if converted is _REFUSED:
                problems.append(f"{where}.{key}: {value!r} is not allowed; allowed: {_allowed(hints[key])}")
    return None if absent or _REFUSED in values.values() else kind(**values)


class _Refused:
    """Marks a value that does not fit its field."""


_REFUSED = _Refused()


def _convert(value: Any, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        # YAML reads the bare words yes and no as booleans.
        word = ("yes" if value else "no") if isinstance(value, bool) else value
        return word if isinstance(word, str) and word in arguments else _REFUSED
    if origin in {Union, UnionType}:
        fits = (converted for option in arguments if (converted := _convert(value, option)) is not _REFUSED)
        return next(fits, _REFUSED)
    if origin is tuple:
        items = [_convert(item, arguments[0]) for item in value] if isinstance(value, list | tuple) else [_REFUSED]
        return _REFUSED if _REFUSED in items else tuple(items)
    if origin is dict:
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else _REFUSED
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if hint is type(None):
        return None if value is None else _REFUSED
    return value if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)) else _REFUSED


def _allowed(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(str(value) for value in arguments)
    if origin in {Union, UnionType}:
        return " or ".join(_allowed(option) for option in arguments)
    if origin is tuple:
        return f"a list of {_allowed(arguments[0])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, "keys and values")


def unknown_key(key: str, known: Sequence[str], where: str) -> str:
    """Return a line about a key that nobody knows, with the nearest that is known."""
    near = get_close_matches(key, known, 1)
    path = f"{where}.{key}" if where else key
    return f"{path}: unknown; did you mean {near[0]}?" if near else f"{path}: unknown; known: {', '.join(known)}"
