"""Kinds of input: a new one is a file with a class, and one line here.

A kind is imported when it is asked for; what it reads with (MONAI, libigl, scikit-image, nilearn), when it reads.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from medrep._structuring import build_section, unknown_key
from medrep.cohort.inputs import persisted_section
from medrep.cohort.kinds.base import SILENT, Checked, Found, InputKind, Listener, Silent, imported
from medrep.errors import ConfigError, listed

KINDS = {
    "features": "medrep.cohort.kinds.features:FeaturesKind",
    "volume": "medrep.cohort.kinds.volume:VolumeKind",
    "shape": "medrep.cohort.kinds.label_map:LabelMapKind",
    "connectivity": "medrep.cohort.kinds.connectivity:ConnectivityKind",
    "points": "medrep.cohort.kinds.points:PointsKind",
    "surface": "medrep.cohort.kinds.surface:SurfaceKind",
}


class _Inputs(Mapping[str, type[InputKind[Any]]]):
    """Kinds of input by what ``input.kind`` says; reading one imports it."""

    def __getitem__(self, kind: str) -> type[InputKind[Any]]:
        found: type[InputKind[Any]] = imported(KINDS[kind])
        return found

    def __contains__(self, kind: object) -> bool:
        return kind in KINDS

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


INPUTS: Mapping[str, type[InputKind[Any]]] = _Inputs()

__all__ = [
    "INPUTS",
    "KINDS",
    "SILENT",
    "Checked",
    "Found",
    "InputKind",
    "Listener",
    "Silent",
    "build_input",
    "imported",
    "saved_input",
]


def build_input(content: object, where: str, problems: list[str]) -> InputKind[Any] | None:
    """Build a kind of input from a section of a configuration.

    Keys of other kinds are allowed, as long as their values are; they are kept and do nothing.

    Args:
        content: Keys and values, as YAML or JSON give them.
        where: Dotted path of the section, for what is said.
        problems: Every unknown key and wrong value is added here, a line each.

    Returns:
        The kind; None where a value is wrong.
    """
    if not isinstance(content, dict):
        problems.append(f"{where}: {content!r} is not a set of keys and values")
        return None
    kind = content.get("kind", "features")
    chosen = INPUTS[kind] if isinstance(kind, str) and kind in INPUTS else None
    owners = {key: other.section_type for other in INPUTS.values() for key in other.section_type.__dataclass_fields__}
    own = {} if chosen is None else dict.fromkeys(chosen.section_type.__dataclass_fields__, chosen.section_type)
    owners |= own
    known = list(persisted_section("", dict.fromkeys(owners)))
    problems += [unknown_key(str(key), known, where) for key in content if key not in known]
    values: dict[str, Any] = {}
    wrong = chosen is None
    for key, value in content.items():
        if key == "kind" and chosen is None:
            problems.append(f"{where}.kind: {value!r} is not allowed; allowed: {', '.join(INPUTS)}")
        elif key in owners:
            built = build_section(owners[key], {key: value}, where, problems)
            wrong |= built is None
            values[key] = getattr(built, key, None)
    if chosen is None or wrong:
        return None
    section = chosen.section_type(**{key: value for key, value in values.items() if key in own})
    usual = persisted_section(chosen.kind, {})
    others = {key: value for key, value in values.items() if key not in own and key != "kind"}
    return chosen(section, {key: value for key, value in others.items() if key not in usual or usual[key] != value})


def saved_input(content: Mapping[str, Any], source: str) -> InputKind[Any]:
    """Turn a saved ``input`` section back into a kind of input.

    Raises:
        ConfigError: All unknown keys and wrong values.
    """
    problems: list[str] = []
    found = build_input(dict(content), "input", problems)
    if problems or found is None:
        raise ConfigError(listed(f"{source}: not a valid input section", problems))
    return found
