"""Covariates as somebody declares them, in YAML or in Python -> `Covariate`."""

from collections.abc import Mapping
from typing import Any

from medrep.cohort.covariates import Covariate
from medrep.sections import build_section


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
    problems += [
        f"covariates.{c.name}: role batch needs kind categorical"
        for c in declared
        if c.role == "batch" and c.kind != "categorical"
    ]
    return declared


def _properties(entry: object) -> dict[str, Any]:
    if isinstance(entry, Mapping):
        return dict(entry)
    return {"kind": "categorical", "role": "batch"} if entry == "batch" else {"kind": entry}
