"""The words of a YAML configuration as they are written: a level ``007`` is not 7, ``NO`` is not false, ``1.0`` is not 1."""

from collections.abc import Mapping
from typing import Any

import yaml

_TEXTS = ("reference", "column", "unit")
_LISTS = ("verbatim", "missing_codes", "meanings")
"""Properties of a covariate that are, or hold, text."""


class _Written(yaml.SafeLoader):
    """Reads every scalar but null as text."""


_Written.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def as_written(text: str) -> Any:
    """Read YAML with every scalar but null as text; {} where there is nothing.

    Raises:
        yaml.YAMLError: As `yaml.safe_load` does.
    """
    content = yaml.load(text, Loader=_Written)  # noqa: S506 -- a SafeLoader
    return {} if content is None else content


def with_texts(content: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose covariates have their texts, and their names, as they are written.

    Args:
        content: As `yaml.safe_load` reads it.
        written: The same, as `as_written` reads it.
    """
    covariates, texts = content.get("covariates"), written.get("covariates")
    if not isinstance(covariates, dict) or not isinstance(texts, dict) or len(covariates) != len(texts):
        return dict(content)
    pairs = zip(texts.items(), covariates.values(), strict=True)
    return {**content, "covariates": {name: _one(entry, own) for (name, own), entry in pairs}}


def _one(entry: Any, own: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(own, dict):
        return entry
    texts = {key: own[key] for key in _TEXTS if isinstance(own.get(key), str)}
    lists = {key: own[key] for key in _LISTS if isinstance(own.get(key), list | dict)}
    return {**entry, **texts, **lists}
