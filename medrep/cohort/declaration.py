"""Covariates as somebody declares them, in YAML or in Python -> `Covariate`."""

from collections.abc import Mapping
from typing import Any

from medrep._structuring import build_section
from medrep.cohort.covariates import Covariate
from medrep.cohort.values import parse_number, plain_number


def declared_covariates(content: Mapping[str, Any], problems: list[str]) -> tuple[Covariate, ...]:
    """Read declarations.

    Args:
        content: Name -> properties, or only ``continuous``, ``categorical`` or ``batch`` (categorical, in the role of a batch).
            A name with None is left out.
        problems: Every unknown key and wrong value is added here, a line each.

    Returns:
        The covariates without a problem, in order.
    """
    problems += [
        f"covariates.{name}.name: the name is the key; for another column give column"
        for name, entry in content.items()
        if isinstance(entry, Mapping) and "name" in entry
    ]
    built = [
        build_section(Covariate, {**_properties(entry), "name": str(name)}, f"covariates.{name}", problems)
        for name, entry in content.items()
        if entry is not None
    ]
    declared = tuple(covariate for covariate in built if isinstance(covariate, Covariate))
    for covariate in declared:
        problems += [f"covariates.{covariate.name}{problem}" for problem in _problems(covariate)]
    return declared


def _properties(entry: object) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        return {"kind": "categorical", "role": "batch"} if entry == "batch" else {"kind": entry}
    content = dict(entry)
    reference = content.get("reference")
    if content.get("kind") == "categorical" and isinstance(reference, bool | int | float):
        content["reference"] = str(reference)
    elif content.get("kind") == "continuous" and isinstance(reference, str) and plain_number(reference) is not None:
        content["reference"] = plain_number(reference)
    return content


def _problems(covariate: Covariate) -> list[str]:
    """Return what does not go together in one declaration, each without the covariate's path."""
    found = []
    continuous = covariate.kind == "continuous"
    if covariate.role == "batch" and continuous:
        found.append(": role batch needs kind categorical")
    limits = covariate.limits
    if limits and not (continuous and len(limits) == 2 and limits[0] < limits[1]):
        found.append(
            f".limits: {list(limits)} is not allowed; allowed: the lowest and the highest value of a continuous one"
        )
    if covariate.verbatim and continuous:
        found.append(".verbatim: levels are of a categorical covariate; for numbers there are missing_codes and limits")
    strange = [code for code in covariate.missing_codes if parse_number(code).reading == "unreadable"]
    if continuous and strange:
        found.append(f".missing_codes: {', '.join(strange)} is no number")
    return found
