"""Parameters of an estimator, checked against its data, and the summary a notebook shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from medrep._structuring import build_section
from medrep.cohort.covariates import Covariate, declared_covariates, describe_covariates, html_table
from medrep.cohort.parsing import shown
from medrep.erasure import Certificate
from medrep.errors import EstimatorError, listed
from medrep.models import MODELS, Model

_CHOICES = {
    "unseen_site": ("error", "adapt"),
    "missing": ("error", "keep"),
    "output": ("data", "latents", "deviations"),
}


@dataclass(frozen=True)
class Plan:
    """A plan: parameters resolved for data with given columns.

    `places` has the position of its column in X, for those covariates that X has.
    """

    covariates: tuple[Covariate, ...]
    places: dict[str, int]
    removed: tuple[str, ...]
    settings: Any
    seed: int


def read_plan(parameters: Mapping[str, Any], columns: Sequence[str], *, named: bool) -> Plan:
    """Check parameters of a `CovariateRemover` for an X with these columns (``x0``, ``x1`` and so on where X has none).

    Raises EstimatorError for all that is wrong: parameter, value and what is allowed.
    """
    model = parameters["model"]
    usable = isinstance(model, str) and model in MODELS and MODELS[model].tables
    kinds = {} if usable else {"model": tuple(kind for kind in MODELS if MODELS[kind].tables)}
    problems = [
        f"{name} is {parameters[name]!r}; allowed: {', '.join(allowed)}"
        for name, allowed in {**kinds, **_CHOICES}.items()
        if parameters[name] not in allowed
    ]
    seed = _whole(parameters["random_state"])
    if seed is None:
        problems.append(f"random_state is {parameters['random_state']!r}; give a whole number from 0")
    covariates, places = _covariates(parameters["covariates"], columns, named, problems)
    names = [covariate.name for covariate in covariates]
    removed = _removed(parameters["remove"], covariates, columns, problems)
    if names and not removed and parameters["output"] == "data":
        problems.append(f"remove: nothing; name one or more of {', '.join(names)}")
    if not names and parameters["output"] == "latents":
        problems.append("output is 'latents', but no covariates are declared; declare them")
    references = parameters["references"]
    if references is not None and not isinstance(references, Mapping):
        problems.append(f"references is {references!r}; give a covariate's name and the value to move it to")
    settings = _settings(parameters, problems) if usable else None
    if problems or seed is None:
        raise EstimatorError(listed("parameters of CovariateRemover that cannot be used", problems))
    return Plan(covariates, places, removed, settings, seed)


def _column_name(key: Any, columns: Sequence[str]) -> Any:
    """Return the name of the column at a position, and anything that is no position as it is."""
    position = _whole(key)
    return columns[position] if position is not None and position < len(columns) else key


def _whole(value: Any) -> int | None:
    """Return a whole number from 0; None for anything else."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0
    return int(value) if whole else None


def _covariates(
    content: Any, columns: Sequence[str], named: bool, problems: list[str]
) -> tuple[tuple[Covariate, ...], dict[str, int]]:
    if content is None:
        return (), {}
    if not isinstance(content, Mapping):
        problems.append(f"covariates is {content!r}; give names and kinds, for instance {{'site': 'batch'}}")
        return (), {}
    keys = {key: _column_name(key, columns) for key in content}
    problems += [
        f"covariates: {key!r} is neither a name nor a position from 0 in X, which has {len(columns)} feature(s)"
        for key, name in keys.items()
        if not isinstance(name, str)
    ]
    names = [name for name in keys.values() if isinstance(name, str)]
    problems += [f"covariates: {name} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})]
    entries = {keys[key]: entry for key, entry in content.items() if isinstance(keys[key], str)}
    declared = declared_covariates(entries, problems)
    problems += [
        f"covariates.{c.name}.missing is drop, but a transformer returns every row; use impute, or leave the people out"
        for c in declared
        if c.missing == "drop"
    ]
    places = {str(keys[key]): int(key) for key in content if not isinstance(key, str) and keys[key] in columns}
    if named:
        wanted = {c.name: c.column or c.name for c in declared if c.name not in places}
        places |= {name: columns.index(column) for name, column in wanted.items() if column in columns}
    return declared, places


def _removed(
    content: Any, covariates: Sequence[Covariate], columns: Sequence[str], problems: list[str]
) -> tuple[str, ...]:
    if content is None:
        return tuple(covariate.name for covariate in covariates if covariate.role == "batch")
    if not isinstance(content, str | int | np.integer | list | tuple | set | frozenset):
        problems.append(f"remove is {content!r}; give names of covariates, for instance ('site',)")
        return ()
    wanted = [content] if isinstance(content, str | int | np.integer) else list(content)
    names = [_column_name(entry, columns) for entry in wanted]
    known = [covariate.name for covariate in covariates]
    problems += [
        f"remove: {name!r} is not declared; covariates has {', '.join(known) or 'nothing'}"
        for name in names
        if name not in known
    ]
    return tuple(name for name in known if name in names)


def _settings(parameters: Mapping[str, Any], problems: list[str]) -> Any:
    kind, content = MODELS[parameters["model"]].settings_type, parameters["settings"]
    if isinstance(content, kind):
        return content
    return build_section(kind, {} if content is None else content, "settings", problems)


def summary_html(
    model: Model,
    people: int,
    target: Mapping[str, str | float],
    history: pd.DataFrame,
    certificates: Sequence[Certificate],
    *,
    latents: bool,
) -> str:
    """Return a table of covariates with the history's ``variance_share``, and a line for each certificate.

    Where latents are handed out, every covariate is removed.
    """
    shares = history[history["metric"] == "variance_share"].set_index("name")["value"]
    rows = [
        (
            row["covariate"],
            f"{row['kind']}, {row['role']}",
            row["training people"],
            "removed" if latents else _becomes(target.get(row["covariate"])),
            f"{100 * shares[row['covariate']]:.1f} %" if row["covariate"] in shares else "",
        )
        for row in describe_covariates(model.schema).to_dict("records")
    ]
    headings = ("covariate", "kind", "training people", "after removal", "variance")
    known = f"{people} people, " if people else ""
    lines = "".join(f"<div>{escape(_forecast(certificate))}</div>" for certificate in certificates)
    return (
        f"<div><strong>medrep {escape(model.kind)}</strong>: {known}{model.columns.count} features"
        f"{html_table(headings, rows)}{lines}</div>"
    )


def _becomes(reference: str | float | None) -> str:
    return "kept" if reference is None else f"-> {shown(reference)}"


def _forecast(certificate: Certificate) -> str:
    return (
        f"Certificate: {certificate.rank} directions erased; a linear probe of {certificate.covariate} on the latents of new"
        f" people, forecast: {certificate.forecast}"
    )
