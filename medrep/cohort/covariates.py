"""Covariates: declared, checked and coded as a vector, with one frozen schema fitted on training participants.

The schema is the covariates' state. It is fitted once, saved with the weights, and re-applied to new people by name, so
that neither the order of columns nor a missing level can change a result in silence.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import persisted, stored
from medrep._structuring import build_section
from medrep.cohort.parsing import find_level, look_alikes, merge_levels, parse_number, plain_number, sex_word, shown
from medrep.errors import CovariateError, listed

POOLED = "(pooled)"
"""The reference level of a batch covariate that stands for the pooled cohort rather than for one of its levels."""


def _later(name: str) -> dict[str, Any]:
    """Return the metadata of what came later: at its default it is left out, so that earlier versions read the rest, too."""
    return stored(omitted=lambda covariate: not getattr(covariate, name))


@dataclass(frozen=True)
class Covariate:
    """Declaration of one covariate.

    Attributes:
        name: The name used everywhere; also the column, unless ``column`` says otherwise.
        kind: ``continuous`` or ``categorical``.
        role: ``effect`` moves the mean; ``batch`` (categorical only) moves location and scale, as a scanner does.
        unit: Unit of a continuous covariate, for people to read.
        column: Column of participants.tsv.
        reference: Where removal moves to; default: training mean, most frequent level, or the pooled cohort for a batch.
        missing: ``error``; ``drop`` leaves the person out; ``impute`` uses the training mean or most frequent level.
        inexact: ``error``; ``midpoint`` reads ``20-25`` as 22.5 and ``89+`` as its bound, 89.
        missing_codes: Values that stand for no value, ``-9`` or ``999`` for instance.
        limits: Lowest and highest value there can be, of a continuous covariate; what lies between is never taken for a code.
        verbatim: Levels that are read as they are written: one called ``NA``, or ``1`` beside ``01`` where they are two.
        meanings: Level -> what it means; training takes it from participants.json, and refuses people of whom another says else.
    """

    name: str
    kind: Literal["continuous", "categorical"]
    role: Literal["effect", "batch"] = "effect"
    unit: str = ""
    column: str = ""
    reference: float | int | str | None = None
    missing: Literal["error", "drop", "impute"] = "error"
    inexact: Literal["error", "midpoint"] = "error"
    missing_codes: tuple[str, ...] = field(default=(), metadata=_later("missing_codes"))
    limits: tuple[float | int, ...] = field(default=(), metadata=_later("limits"))
    verbatim: tuple[str, ...] = field(default=(), metadata=_later("verbatim"))
    meanings: dict[str, str] = field(default_factory=dict, hash=False, metadata=_later("meanings"))


@persisted(constants={"fitted": "continuous"})
@dataclass(frozen=True)
class Continuous:
    """A continuous covariate as fitted: statistics in the covariate's own unit."""

    declared: Covariate
    mean: float
    sd: float
    low: float
    high: float
    reference: float

    @classmethod
    def of(cls, declared: Covariate, mean: float, sd: float, low: float, high: float) -> "Continuous":
        """Return statistics with the reference that is declared, or else the mean."""
        fitted = cls(declared, mean, sd, low, high, mean)
        return replace(fitted, reference=float(_reference(fitted, declared.reference)))


@persisted(constants={"fitted": "categorical"})
@dataclass(frozen=True)
class Categorical:
    """A categorical covariate as fitted: its levels in order, how many people had each, and the reference level."""

    declared: Covariate
    levels: tuple[str, ...]
    counts: tuple[int, ...]
    reference: str

    @classmethod
    def of(cls, declared: Covariate, levels: tuple[str, ...], counts: tuple[int, ...]) -> "Categorical":
        """Return levels with the reference that is declared, or else the pooled cohort, or the most frequent level."""
        default = POOLED if declared.role == "batch" else levels[int(np.argmax(counts))]
        fitted = cls(declared, levels, counts, default)
        return replace(fitted, reference=str(_reference(fitted, declared.reference)))


@dataclass(frozen=True)
class CovariateSchema:
    """All covariates as fitted on training people; index by name with ``schema[name]``."""

    fitted: tuple[Continuous | Categorical, ...] = field(metadata=stored("covariates"))

    @property
    def names(self) -> tuple[str, ...]:
        """Covariate names in the order of the configuration."""
        return tuple(covariate.declared.name for covariate in self.fitted)

    @property
    def declared(self) -> tuple[Covariate, ...]:
        """Declarations to read other participants' covariates by, with the levels of training as they are written."""
        return tuple(
            replace(c.declared, verbatim=tuple(dict.fromkeys((*c.declared.verbatim, *c.levels))))
            if isinstance(c, Categorical)
            else c.declared
            for c in self.fitted
        )

    @property
    def batches(self) -> tuple[str, ...]:
        """Names of the covariates with role ``batch``."""
        return tuple(c.declared.name for c in self.fitted if c.declared.role == "batch")

    def levels(self, name: str) -> tuple[str, ...]:
        """Return the levels of a categorical covariate; none of a continuous one."""
        covariate = self[name]
        return covariate.levels if isinstance(covariate, Categorical) else ()

    def __getitem__(self, name: str) -> Continuous | Categorical:
        for covariate in self.fitted:
            if covariate.declared.name == name:
                return covariate
        raise CovariateError(f"no covariate {name!r} in the model; it knows {', '.join(self.names)}")

    @classmethod
    def fit(cls, frame: pd.DataFrame, declared: Sequence[Covariate]) -> "CovariateSchema":
        """Learn means, deviations and levels from training people.

        Args:
            frame: Checked covariates without missing values to be refused; see `columns.read_covariates`.
            declared: What the user said.

        Raises:
            CovariateError: A covariate without values or variation, or a reference that the cohort does not have.
        """
        absent = [covariate.name for covariate in declared if covariate.name not in frame]
        if absent:
            raise CovariateError(f"covariates the table does not have: {', '.join(absent)}; read them with the others")
        return cls(tuple(_fit_one(frame[covariate.name], covariate) for covariate in declared))

    def transfer(self, frame: pd.DataFrame, *, unseen: Literal["error", "adapt"] = "error") -> pd.DataFrame:
        """Bring new people's covariates into the form of training.

        Args:
            frame: Checked covariates (`columns.read_covariates`); further columns are ignored, order does not matter.
            unseen: ``adapt`` lets unseen levels of batch covariates pass, for a model that can estimate them.

        Returns:
            A frame with exactly the schema's columns, in its order, without missing values.

        Raises:
            CovariateError: A covariate is absent, values are missing without the policy ``impute``, or levels were not
                in training; all people are listed.
        """
        absent = [name for name in self.names if name not in frame]
        if absent:
            raise CovariateError(f"covariates the model was trained with are absent: {', '.join(absent)}")
        transformed = frame.loc[:, list(self.names)].copy()
        empty = [
            f"{key}: {c.declared.name} is missing"
            for c in self.fitted
            if c.declared.missing != "impute"
            for key in transformed.index[transformed[c.declared.name].isna()]
        ]
        if empty:
            raise CovariateError(listed("people without a covariate", empty, "fill it in, or leave them out"))
        offenders: list[str] = []
        doubtful: list[str] = []
        for covariate in self.fitted:
            name = covariate.declared.name
            if isinstance(covariate, Continuous):
                transformed[name] = transformed[name].astype(float).fillna(covariate.mean)
                continue
            column = transformed[name].astype(object).where(transformed[name].notna(), _mode(covariate))
            spelling = merge_levels([str(level) for level in column.tolist()], covariate.levels)
            column = column.map(lambda level, spelling=spelling: spelling[str(level)])
            likely = {own: group for group in look_alikes(column.tolist(), covariate.levels) for own in group}
            doubtful += [
                f"{key}: {name} {level!r} looks like {_others(likely[level], covariate.levels, level)} of training"
                for key, level in zip(column.index.tolist(), column.tolist(), strict=True)
                if level in likely and level not in covariate.levels and set(likely[level]) & set(covariate.levels)
            ]
            known = {*covariate.levels, POOLED}
            if not (covariate.declared.role == "batch" and unseen == "adapt"):
                offenders += [
                    f"{key}: {name} {level!r} was not in training ({', '.join(covariate.levels)})"
                    for key, level in zip(column.index.tolist(), column.tolist(), strict=True)
                    if level not in known and level not in likely
                ]
            transformed[name] = column
        if doubtful:
            cure = "write it as in training where it is the same, and give it a name of its own where it is not"
            raise CovariateError(listed("levels that look like those of training", doubtful, cure))
        if offenders:
            batch = any(f": {name} " in text for text in offenders for name in self.batches)
            cure = "refit with such people" + (
                ", or pass --unseen-site adapt (Python: unseen_site='adapt')" if batch else ", or leave them out"
            )
            raise CovariateError(listed("levels the model has not seen", offenders, cure))
        return transformed

    def references(
        self, removed: Sequence[str], chosen: Mapping[str, str | float | int] | None = None
    ) -> dict[str, str | float]:
        """Return the value each removed covariate is moved to.

        Args:
            removed: Covariates to remove.
            chosen: References that the user names, by covariate; they win over the schema's.

        Raises:
            CovariateError: An unknown covariate, a level that training did not have, or a number that is none.
        """
        chosen = dict(chosen or {})
        unknown = sorted({*removed, *chosen} - set(self.names))
        if unknown:
            raise CovariateError(f"unknown covariate {', '.join(unknown)}; the model knows {', '.join(self.names)}")
        kept = sorted(set(chosen) - set(removed))
        if kept:
            raise CovariateError(
                f"a reference is given for {', '.join(kept)}, which is not removed; add it to --remove"
            )
        return {name: _reference(self[name], chosen.get(name)) for name in removed}

    def transformed(self, frame: pd.DataFrame, target: Mapping[str, str | float]) -> pd.DataFrame:
        """Return ``frame`` with the covariates in ``target`` set to one value for everybody."""
        return frame.assign(**{name: [value] * len(frame) for name, value in target.items()})

    def unseen(self, frame: pd.DataFrame) -> list[tuple[int, tuple[str, str]]]:
        """Return the row, covariate and level of everybody with a batch level that is not known.

        Raises:
            CovariateError: People with two such levels, whose effects cannot be told apart.
        """
        found: dict[int, list[tuple[str, str]]] = {}
        for name in self.batches:
            known = {*self.levels(name), POOLED}
            for row, level in enumerate(str(level) for level in frame[name]):
                if level not in known:
                    found.setdefault(row, []).append((name, level))
        twice = [
            f"{frame.index[row]}: {' and '.join(f'{name} {level!r}' for name, level in own)}"
            for row, own in found.items()
            if len(own) > 1
        ]
        if twice:
            cure = "their effects cannot be told apart from these people; refit with them"
            raise CovariateError(listed("several batch covariates are unseen at once", twice, cure))
        return [(row, own[0]) for row, own in found.items()]

    def with_level(self, name: str, level: str) -> "CovariateSchema":
        """Return the schema with one more level, which nobody of training had, of a batch covariate."""
        covariate = self[name]
        if not isinstance(covariate, Categorical):
            raise CovariateError(f"{name}: only levels of a batch covariate can be adapted")
        wider = replace(covariate, levels=(*covariate.levels, level), counts=(*covariate.counts, 0))
        return CovariateSchema(tuple(wider if c is covariate else c for c in self.fitted))

    def vector(self, frame: pd.DataFrame) -> Float[np.ndarray, "people width"]:
        """Return scaled covariates as a matrix: (value - mean)/sd, then one column a level; a pooled level is its shares."""
        columns: list[np.ndarray] = []
        for covariate in self.fitted:
            values = frame[covariate.declared.name]
            if isinstance(covariate, Continuous):
                columns.append(((values.to_numpy(float) - covariate.mean) / covariate.sd)[:, None])
            else:
                columns.append(membership(values, covariate))
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(frame), 0))


def membership(values: pd.Series, covariate: Categorical) -> Float[np.ndarray, "people levels"]:
    """Return one column a level: 1 for the person's own; the shares of training for the pooled level; 0 if unseen."""
    width, shares = len(covariate.levels), np.asarray(covariate.counts, float) / sum(covariate.counts)
    rows = np.concatenate([np.eye(width), shares[None], np.zeros((1, width))])
    place = {level: k for k, level in enumerate((*covariate.levels, POOLED))}
    return rows[[place.get(str(level), width + 1) for level in values.tolist()]]


def _fit_one(values: pd.Series, covariate: Covariate) -> Continuous | Categorical:
    present = values.dropna()
    cure = f"drop it with --set covariates.{covariate.name}=null"
    if present.empty:
        raise CovariateError(f"{covariate.name} is missing for all {len(values)} people; {cure}")
    if covariate.kind == "continuous":
        numbers = present.to_numpy(float)
        mean, sd = float(numbers.mean()), float(numbers.std())
        if not sd > 1e-12 * max(1.0, abs(mean)):
            raise CovariateError(f"{covariate.name} is {mean:g} for all {len(numbers)} people; {cure}")
        return Continuous.of(covariate, mean, sd, float(numbers.min()), float(numbers.max()))
    counts = present.astype(str).value_counts()
    levels = tuple(sorted(str(level) for level in counts.index))
    if len(levels) < 2:
        raise CovariateError(f"{covariate.name} is {levels[0]!r} for all {len(present)} people; {cure}")
    return Categorical.of(covariate, levels, tuple(int(counts[level]) for level in levels))


def _others(group: Sequence[str], known: Sequence[str], level: str) -> str:
    return " and ".join(repr(other) for other in group if other in known and other != level)


def _mode(covariate: Categorical) -> str:
    return covariate.levels[int(np.argmax(covariate.counts))]


def _reference(covariate: Continuous | Categorical, chosen: str | float | int | None) -> str | float:
    if chosen is None:
        return covariate.reference
    name = covariate.declared.name
    if isinstance(covariate, Continuous):
        number = parse_number(str(chosen))
        if number.reading not in {"exact", "tidied"} or math.isnan(number.value):
            raise CovariateError(
                f"reference {name}={chosen!r} is no number; give one in {covariate.declared.unit or 'its unit'}"
            )
        return number.value
    level = str(chosen)
    pooled = covariate.declared.role == "batch" and level in {POOLED, "pooled"}
    if pooled:
        return POOLED
    named = find_level(level, covariate.levels)
    if named is None and name == "sex":
        named = find_level(sex_word(level), covariate.levels)
    if named is None:
        also = ", pooled" if covariate.declared.role == "batch" else ""
        raise CovariateError(
            f"reference {name}={level!r} was not in training; allowed: {', '.join(covariate.levels)}{also}"
        )
    return named


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


_TABLE = "border-collapse:collapse;color:inherit;background:transparent;margin:0.25em 0"
_CELL = "text-align:left;padding:0.1em 0.8em 0.1em 0;border:0;border-bottom:1px solid #8886;background:transparent"


def describe_covariates(schema: CovariateSchema) -> pd.DataFrame:
    """Return one row a covariate: name, kind, role, what training people had, and the reference."""
    rows = []
    for covariate in schema.fitted:
        declared = covariate.declared
        if isinstance(covariate, Continuous):
            had = f"{covariate.mean:.4g} +- {covariate.sd:.3g} {declared.unit}, {covariate.low:g} to {covariate.high:g}"
        else:
            had = ", ".join(f"{level} ({n})" for level, n in zip(covariate.levels, covariate.counts, strict=True))
        rows.append((declared.name, declared.kind, declared.role, had, covariate.reference))
    return pd.DataFrame(rows, columns=["covariate", "kind", "role", "training people", "reference"])


def html_table(headings: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; everything is escaped, numbers have four digits."""
    head = "".join(f'<th scope="col" style="{_CELL}">{escape(str(name))}</th>' for name in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(shown(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
