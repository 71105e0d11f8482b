"""Covariates of several trainings as those of one.

Each training fitted a schema on its own people. Together they have all levels of all of them, counts that are added, and the
mean and deviation that all their people would have. A covariate that a training left out, since all of its people have the
same (an institute of one site), is given by its value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medrep.cohort.covariates import Categorical, Continuous, Covariate, CovariateSchema
from medrep.cohort.parsing import look_alikes, parse_number
from medrep.errors import CovariateError, listed

_ALIKE = ("kind", "role", "unit", "reference")


@dataclass(frozen=True)
class FittedCovariates:
    """Covariates of one training.

    Attributes:
        name: Of the training, for messages.
        schema: As it was fitted.
        people: How many there were.
        given: Covariate that the schema lacks -> the value that all of them have.
    """

    name: str
    schema: CovariateSchema
    people: int
    given: Mapping[str, str]


def joined_schema(parts: Sequence[FittedCovariates]) -> CovariateSchema:
    """Return the schema of all people.

    A given covariate that no training has is a batch.

    Raises:
        CovariateError: Covariates that a training lacks, or declares otherwise, levels that look alike, effects that no two
            trainings share a level of; all of them.
    """
    names = list(dict.fromkeys(name for part in parts for name in (*part.schema.names, *part.given)))
    problems = [problem for name in names for problem in _problems(parts, name)]
    if problems:
        raise CovariateError(
            listed("covariates that are not the same in all models", problems, "train them with the same configuration")
        )
    return CovariateSchema(tuple(_joined([(part, _own(part, name)) for part in parts], name) for name in names))


def _own(part: FittedCovariates, name: str) -> Continuous | Categorical | None:
    """Return a covariate of a training; None where it is given."""
    return part.schema[name] if name in part.schema.names else None


def _problems(parts: Sequence[FittedCovariates], name: str) -> Iterable[str]:
    first = next(((part.name, own) for part in parts if (own := _own(part, name)) is not None), None)
    levels: dict[str, set[str]] = {}
    for part in parts:
        own = _own(part, name)
        if own is None and name not in part.given:
            yield f"{part.name} lacks {name}; if all of its people have the same, say so: {part.name}:{name}=VALUE"
        elif own is not None and name in part.given:
            yield f"{part.name}:{name}={part.given[name]} is given, but the model knows {name} of its people"
        elif own is not None and first is not None and isinstance(own, type(first[1])):
            yield from _otherwise(part.name, own.declared, *first)
        elif own is not None and first is not None:
            yield f"{name} is {own.declared.kind} in {part.name}, and {first[1].declared.kind} in {first[0]}"
        elif first is not None and isinstance(first[1], Continuous) and not _number(part.given[name]):
            yield f"{part.name}:{name}={part.given[name]} is no number"
        if not isinstance(own, Continuous):
            levels[part.name] = set(own.levels) if own is not None else {*filter(None, [part.given.get(name)])}
    if first is None or isinstance(first[1], Categorical):
        yield from _of_levels(name, levels, None if first is None else first[1].declared.role)


def _of_levels(name: str, levels: Mapping[str, set[str]], role: str | None) -> Iterable[str]:
    """Yield what is wrong with the levels of a covariate in each training; its role is None where no training has it."""
    together = set[str]().union(*levels.values())
    for group in look_alikes(together):
        if not any(set(group) <= own for own in levels.values()):
            yield f"{name}: {' and '.join(map(repr, group))} look like one level; write it the same way everywhere"
    if role is None and len(together) == 1:
        yield f"{name} is {min(together)!r} in all models; leave it out"
    for who, own in levels.items() if role == "effect" else ():
        others = set[str]().union(*(other for one, other in levels.items() if one != who))
        if others and own and not own & others:
            yield f"{name} is {', '.join(sorted(own))} in {who}, and {', '.join(sorted(others))} in the others"


def _otherwise(name: str, own: Covariate, other: str, first: Continuous | Categorical) -> Iterable[str]:
    for key in _ALIKE:
        one, two = getattr(own, key), getattr(first.declared, key)
        if one != two:
            yield f"{own.name}.{key} is {one!r} in {name}, and {two!r} in {other}"
    for level, meaning in own.meanings.items():
        if first.declared.meanings.get(level, meaning) != meaning:
            yield f"{own.name} {level} means {meaning!r} in {name}, and {first.declared.meanings[level]!r} in {other}"


def _number(text: str) -> bool:
    number = parse_number(text)
    return number.reading in {"exact", "tidied"} and bool(np.isfinite(number.value))


def _joined(
    found: list[tuple[FittedCovariates, Continuous | Categorical | None]], name: str
) -> Continuous | Categorical:
    declared = next((own.declared for _, own in found if own is not None), Covariate(name, "categorical", "batch"))
    verbatim = [level for _, own in found if own is not None for level in own.declared.verbatim]
    meanings = {level: text for _, own in found if own is not None for level, text in own.declared.meanings.items()}
    declared = replace(declared, verbatim=tuple(dict.fromkeys(verbatim)), meanings=meanings)
    if declared.kind == "continuous":
        rows = np.array([_statistics(part, own, name) for part, own in found])
        people = rows[:, 0] / rows[:, 0].sum()
        mean = float(people @ rows[:, 1])
        sd = float(np.sqrt(people @ (rows[:, 2] ** 2 + (rows[:, 1] - mean) ** 2)))
        return Continuous.of(declared, mean, sd, float(rows[:, 3].min()), float(rows[:, 4].max()))
    counts: dict[str, int] = {}
    for part, own in found:
        told = (
            zip(own.levels, own.counts, strict=True)
            if isinstance(own, Categorical)
            else [(part.given[name], part.people)]
        )
        for level, count in told:
            counts[level] = counts.get(level, 0) + count
    return Categorical.of(declared, tuple(sorted(counts)), tuple(counts[level] for level in sorted(counts)))


def _statistics(part: FittedCovariates, own: Continuous | Categorical | None, name: str) -> tuple[float, ...]:
    """Return people, mean, deviation, lowest and highest value."""
    if isinstance(own, Continuous):
        return float(part.people), own.mean, own.sd, own.low, own.high
    value = parse_number(part.given[name]).value
    return float(part.people), value, 0.0, value, value
