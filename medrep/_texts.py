"""JSON and YAML that others wrote: read as they are meant, and refused beyond what medrep nests."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import yaml

_TEXTS = ("reference", "column", "unit")
_LISTS = ("verbatim", "missing_codes", "meanings")
"""Properties of a covariate that are, or hold, text."""


_MOST_CHARACTERS = 2**19
_MOST_NODES = 100_000  # aliases counted as often as they are used
MOST_LEVELS = 64
_MOST_DIGITS = 400
_LARGEST = 2**63


class _Bounded(yaml.SafeLoader):
    """Reads numbers that a setting can be."""


def _number(construct: Callable[[yaml.SafeLoader, yaml.ScalarNode], Any]) -> Callable[[yaml.SafeLoader, Any], Any]:
    def bounded(loader: yaml.SafeLoader, node: Any) -> Any:
        digits = len(str(node.value))
        value = construct(loader, node) if digits <= _MOST_DIGITS else None
        if value is None or (isinstance(value, int) and abs(value) >= _LARGEST):
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {digits} digits is too large", node.start_mark
            )
        return value

    return bounded


_Bounded.add_constructor("tag:yaml.org,2002:int", _number(yaml.SafeLoader.construct_yaml_int))
_Bounded.add_constructor("tag:yaml.org,2002:float", _number(yaml.SafeLoader.construct_yaml_float))


class _Written(_Bounded):
    """Reads every scalar but null as text."""


_Written.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """Read YAML; None where there is nothing.

    Raises yaml.YAMLError, one line, for no YAML, or more than a configuration holds: too long, nested too deeply, aliases
    that multiply, numbers that are too large.
    """
    return _read(text, _Bounded)


def as_written(text: str) -> Any:
    """Read YAML with every scalar but null as text; {} where there is nothing. See `read_yaml` for errors."""
    content = _read(text, _Written)
    return {} if content is None else content


def with_texts(content: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, read by `read_yaml`, whose covariates have their texts and names as `as_written` reads them."""
    covariates, texts = content.get("covariates"), written.get("covariates")
    if not isinstance(covariates, dict) or not isinstance(texts, dict) or len(covariates) != len(texts):
        return dict(content)
    pairs = zip(texts.items(), covariates.values(), strict=True)
    return {**content, "covariates": {name: _one(entry, own) for (name, own), entry in pairs}}


def _read(text: str, kind: type[_Bounded]) -> Any:
    if len(text) > _MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters; a configuration has at most {_MOST_CHARACTERS}")
    loader = kind(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, {}, 1)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError(f"nested deeper than {MOST_LEVELS} levels") from None
    except (ValueError, OverflowError, TypeError, AttributeError) as error:  # as PyYAML does with tags that do not fit
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None
    finally:
        loader.dispose()


def _weigh(node: yaml.Node, known: dict[int, tuple[int, int] | None], depth: int) -> tuple[int, int]:
    """Return how many nodes there are once every alias is written out, and on how many levels.

    Of nodes that were weighed before both are known; None of those that are being weighed.
    """
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise yaml.YAMLError(f"an alias that holds itself (line {node.start_mark.line + 1})")
        return found
    known[id(node)] = None
    pairs = node.value if isinstance(node, yaml.CollectionNode) else []
    inner = [part for pair in pairs for part in pair] if isinstance(node, yaml.MappingNode) else pairs
    below = [_weigh(part, known, depth + 1) for part in inner]
    count = 1 + sum(nodes for nodes, _ in below)
    levels = 1 + max((own for _, own in below), default=0)
    if count > _MOST_NODES:
        raise yaml.YAMLError(f"more than {_MOST_NODES} values once its aliases are written out")
    if levels > MOST_LEVELS or depth > MOST_LEVELS:
        raise yaml.YAMLError(f"nested deeper than {MOST_LEVELS} levels")
    known[id(node)] = (count, levels)
    return count, levels


def _one(entry: Any, own: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(own, dict):
        return entry
    texts = {key: own[key] for key in _TEXTS if isinstance(own.get(key), str)}
    lists = {key: own[key] for key in _LISTS if isinstance(own.get(key), list | dict)}
    return {**entry, **texts, **lists}


_MOST_JSON_DIGITS = 40


def read_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises ValueError, one line, for no JSON, nested deeper than `MOST_LEVELS`, or whole numbers of more digits than any that
    is meant.
    """
    try:
        content = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError(_deep()) from None
    refuse_deep(content)
    return content


def refuse_deep(content: Any) -> None:
    """Refuse lists and objects that are nested deeper than `MOST_LEVELS`, by a ValueError of one line."""
    level, count = [content], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        count += 1
        if count > MOST_LEVELS:
            raise ValueError(_deep())
        level = [entry for one in level for entry in (one.values() if isinstance(one, dict) else one)]


def _whole(digits: str) -> int:
    if len(digits) > _MOST_JSON_DIGITS:
        raise ValueError(
            f"a whole number of {len(digits)} digits, {digits[:12]}...; at most {_MOST_JSON_DIGITS} are read"
        )
    return int(digits)


def _deep() -> str:
    return f"nested deeper than {MOST_LEVELS} levels"
