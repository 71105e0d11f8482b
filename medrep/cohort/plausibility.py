"""Implausible values and data: missing-value codes, duplicated rows, features that are covariates.

A value counts as a code only if it is written like one (``-9``, ``99``, ``999``, ``-1``; 0 as an age) *and* stands apart from the
values that are not. What is certain is refused: codes far from everybody, and ages that nobody has. What is not is named.

Nothing of it makes a cohort unreadable, and all of it makes results wrong; so `check` and `train` name it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import Categorical, Covariate, CovariateSchema
from medrep.cohort.dictionary import meaning
from medrep.cohort.features import FeatureTable
from medrep.cohort.parsing import age_limits, plain_number, shown
from medrep.cohort.sidecars import Earlier
from medrep.cohort.splits import row_fingerprint
from medrep.errors import CovariateError, few, listed

_ODD_CODES = frozenset({-1.0, 997.0, 998.0, 9997.0, 9998.0})
_REPEATED = "789"
_NO_AGES = frozenset(
    ["gap", "diff", "difference", "delta", "change", "log", "z", "zscore", "centred", "centered", "residual", "squared"]
)
_LEAST = 8
"""Fewest other values to judge by."""
_APART, _FAR_IQR, _SKEWED, _NAMED, _LONG = 3.0, 3.0, 0.15, 8, 100


@dataclass(frozen=True)
class Doubts:
    """Doubtful covariates of some participants.

    Attributes:
        refused: One line a value that cannot be one.
        named: One line a value, or a level, that a person should look at.
    """

    refused: tuple[str, ...]
    named: tuple[str, ...]


def doubtful_values(frame: pd.DataFrame, declared: Sequence[Covariate]) -> Doubts:
    """Look through checked covariates (`columns.read_covariates`), each against its own values."""
    refused: list[str] = []
    named: list[str] = []
    for covariate in declared:
        values = frame[covariate.name].dropna()
        if covariate.kind == "categorical":
            _levels(values, covariate, refused, named)
        elif not covariate.limits:
            _numbers(values.astype(float), covariate, refused, named)
    return Doubts(tuple(refused), tuple(named))


def refuse_codes(frame: pd.DataFrame, declared: Sequence[Covariate]) -> tuple[str, ...]:
    """Refuse values that cannot be ones.

    Returns:
        What a person should look at, a line each.

    Raises:
        CovariateError: All of them, by person and covariate.
    """
    doubts = doubtful_values(frame, declared)
    if doubts.refused:
        raise CovariateError(refusal(doubts.refused))
    return doubts.named


def refusal(refused: Sequence[str]) -> str:
    """Return one message of all that is refused."""
    cure = (
        "mend them; or say which values stand for a missing one: --set 'covariates.NAME.missing_codes=[-9, 999]' with --set"
        " covariates.NAME.missing=drop (or impute); or, where they are true, --set 'covariates.NAME.limits=[LOWEST, HIGHEST]'"
        " (levels: verbatim), or another covariates.NAME.unit"
    )
    return listed("values that cannot be true", refused, cure)


def _numbers(values: pd.Series, covariate: Covariate, refused: list[str], named: list[str]) -> None:
    name, age = covariate.name, _is_age(covariate)
    ends = age_limits(covariate.unit) if age else None
    impossible = pd.Series(False, index=values.index) if ends is None else (values < ends[0]) | (values > ends[1])
    if ends is not None:
        refused += [
            f"{key}: {name} {shown(value)} is no age in {covariate.unit} ({ends[0]:g} to {ends[1]:g})"
            for key, value in values[impossible].items()
        ]
    left = values[~impossible]
    codes = left.map(lambda value: _is_code(value) or (age and value == 0))
    others = np.sort(left[~codes].to_numpy())
    told = set(values.index[impossible])
    if len(others) >= max(_LEAST, len(values) / 2):
        span = f"the others have {shown(float(others[0]))} to {shown(float(others[-1]))}"
        repeats = Counter(left[codes])
        for key, value in left[codes].items():
            if others[0] <= value <= others[-1]:
                continue
            line = f"{key}: {name} {value:g} is like a code for a missing value, {span}"
            apart = _apart(value, others, repeats[value])
            refused += [line] if apart == "certain" else []
            named += [line] if apart == "likely" else []
            told |= {key} if apart else set()
    _outliers(values.drop(index=list(told)), name, named)


def _is_age(covariate: Covariate) -> bool:
    """Return whether a covariate is an age by its name or column, and not the change or the score of one."""
    words = {word for name in (covariate.name, covariate.column) for word in re.split("[^a-z]+", name.casefold())}
    return "age" in words and not words & _NO_AGES


def _apart(value: float, others: np.ndarray, people: int) -> Literal["certain", "likely", ""]:
    """Return how surely a code outside the range of the others is one.

    Certain is what is farther from the others than they are from each other (three times as far, if it has two digits); and
    what comes several times, or is below zero where nobody else is, and three times as far away as the widest gap among them.
    """
    near = float(np.min(np.abs(others - value)))
    widest = max(float(np.diff(others).max(initial=0.0)), 1e-9 * abs(float(others[-1])))
    below = value < 0 <= others[0]
    if near > np.ptp(others) * (1 if abs(value) >= _LONG else _APART):
        return "certain"
    if (people > 1 or value == 0 or below) and near > _APART * widest:
        return "certain"
    return "likely" if below or near > widest else ""


def _is_code(value: float) -> bool:
    if value in _ODD_CODES:
        return True
    digits = f"{abs(value):.10g}".replace(".", "")
    same = len(set(digits)) == 1 and digits[0] in _REPEATED
    return same and (len(digits) > 1 or value < 0)


def _outliers(values: pd.Series, name: str, named: list[str]) -> None:
    """Name values beyond three interquartile ranges from the quartiles.

    Where the middle half is skewed and nothing is negative, their roots and logarithms must say so, too: a long tail is none.
    """
    numbers = values.to_numpy()
    if len(numbers) < _LEAST:
        return
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    skewed = high + low - 2 * middle > _SKEWED * (high - low)
    scales = [numbers, *([np.sqrt(numbers)] if skewed and (numbers >= 0).all() else [])]
    scales += [np.log(numbers)] if skewed and (numbers > 0).all() else []
    out = np.all([_beyond(scale) for scale in scales], axis=0)
    if not out.any():
        return
    rest = numbers[~out]
    people = [f"{key} {shown(float(value))}" for key, value in values[out].items()]
    named.append(
        f"{name} is far from what others have ({shown(float(rest.min()))} to {shown(float(rest.max()))}):"
        f" {few(people, _NAMED, last=' and')}"
    )


def _beyond(numbers: np.ndarray) -> np.ndarray:
    low, high = np.quantile(numbers, [0.25, 0.75])
    reach = _FAR_IQR * (high - low) + 1e-9 * max(abs(low), abs(high))
    if not high > low or not math.isfinite(reach):
        return np.zeros(len(numbers), dtype=bool)
    return (numbers < low - reach) | (numbers > high + reach)


def _levels(values: pd.Series, covariate: Covariate, refused: list[str], named: list[str]) -> None:
    name = covariate.name
    numbers = {str(level): plain_number(str(level)) for level in values.unique()}
    codes = {
        level: n for level, n in numbers.items() if n is not None and _is_code(n) and level not in covariate.verbatim
    }
    known = [n for level, n in numbers.items() if n is not None and level not in codes]
    for level, number in codes.items():
        people = [str(key) for key, own in values.items() if own == level]
        line = f"{few(people, _NAMED, last=' and')}: {name} {level!r} is like a code for a missing value"
        if number < -1 and all(n >= 0 for n in known):
            refused.append(line)
        elif not (number == -1 and 1 in known) and abs(number) > 3 * max(map(abs, known), default=0):
            named.append(f"{line}; if it is one, --set 'covariates.{name}.missing_codes=[{level}]'")


_FEW_COLUMNS, _FEW_ROWS = 3, 10
_SAME = 1e-6
_CELLS = 2**22
_LISTED = 10


def feature_slips(features: FeatureTable, frame: pd.DataFrame, schema: CovariateSchema) -> list[str]:
    """Return what looks like a slip in a table of features.

    Args:
        features: The table.
        frame: Covariates of some of its people in the form of the schema, index: key.
        schema: The covariates.
    """
    rows = features.rows(frame.index)
    return [
        *_named_like(features.names, [covariate.declared for covariate in schema.fitted]),
        *_telling(rows, frame, schema),
        *_counting(features),
        *same_data({str(key): row_fingerprint(row) for key, row in _distinct(features)}),
    ]


def same_data(marks: Mapping[str, str]) -> list[str]:
    """Return a line about people (or scans) whose data are the same to the last digit.

    Args:
        marks: Key -> fingerprint of the data, see `fingerprints.row_fingerprint`.
    """
    groups: dict[str, list[str]] = {}
    for key, mark in marks.items():
        groups.setdefault(mark, []).append(key)
    twins = [" = ".join(own) for own in groups.values() if len(own) > 1]
    return (
        [f"the same data under several ids: {few(twins, _LISTED)}; leave all but one of each out with --exclude"]
        if twins
        else []
    )


def transformed_before(earlier: Sequence[Earlier], declared: Sequence[Covariate]) -> list[str]:
    """Return a line for each thing that medrep has done to the data already."""
    names = {covariate.name for covariate in declared}
    lines = []
    for one in earlier:
        again = [name for name in one.covariates if name in names]
        own = f"; what a model learns of {', '.join(again)} here is what was left" if again else ""
        lines.append(f"{one.done}{own}")
    return lines


def repeated_scans(table: pd.DataFrame) -> list[str]:
    """Return a line about people with several scans, whom the models do not know as such."""
    people = table["participant_id"].nunique()
    if people == len(table):
        return []
    return [
        f"{len(table)} scans of {people} people are treated as independent, as if each were of another person; what is"
        " said of certainty holds for scans, not for people"
    ]


def _distinct(features: FeatureTable) -> Iterator[tuple[object, Float[np.ndarray, " columns"]]]:
    """Yield rows that only one person should have: of several columns that differ between people, not all missing."""
    values = features.values
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    varying = ((values > low) & (values < high)).any(axis=0)  # more than two values, NaN aside
    if varying.sum() >= _FEW_COLUMNS:
        for key, row in zip(features.ids.index, values, strict=True):
            if np.isfinite(row[varying]).any():
                yield key, row


def _named_like(names: Sequence[str], declared: Sequence[Covariate]) -> list[str]:
    meant = {
        meaning(name): covariate.name for covariate in declared for name in (covariate.name, covariate.column) if name
    }
    return [
        f"feature {name!r} has the name of covariate {meant[meaning(name)]}: if it is that, take it out of features.tsv"
        for name in names
        if meaning(name) in meant
    ]


def _telling(features: FeatureTable, frame: pd.DataFrame, schema: CovariateSchema) -> list[str]:
    """Return a line for each covariate that features are, up to a straight line or a code for each level."""
    lines = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        if isinstance(covariate, Categorical):
            design = pd.get_dummies(frame[name].astype(str)).to_numpy(float)
        else:
            design = np.column_stack([np.ones(len(frame)), frame[name].to_numpy(float)])
        if len(frame) <= 3 * design.shape[1]:
            continue  # so few people that a measurement may look like it
        basis, _ = np.linalg.qr(design)
        found = [features.names[k] for k in _explained(features.values, basis)]
        if found:
            lines.append(
                f"features that are covariate {name}, not a measurement: {few(found, _LISTED)}; take them out of features.tsv"
            )
    return lines


def _explained(values: Float[np.ndarray, "people columns"], basis: Float[np.ndarray, "people width"]) -> Iterator[int]:
    """Yield the columns without holes that vary and of which nothing is left once a basis is taken out."""
    step = max(1, _CELLS // max(1, len(values)))
    for start in range(0, values.shape[1], step):
        block = values[:, start : start + step]
        whole = np.isfinite(block).all(axis=0)
        block = np.where(whole, block, 0.0)
        centred = block - block.mean(axis=0)
        total = (centred**2).sum(axis=0)
        left = total - ((basis.T @ centred) ** 2).sum(axis=0)
        scale = 1e-18 * len(block) * (block**2).max(axis=0, initial=0.0)
        yield from (start + int(k) for k in np.flatnonzero(whole & (total > scale) & (left <= _SAME * total)))


def _counting(features: FeatureTable) -> list[str]:
    """Return a line about features that count the rows, under whatever name."""
    count = len(features.values)
    if count < _FEW_ROWS:
        return []
    first, last = features.values[0], features.values[-1]
    likely = np.flatnonzero(((first == 0) | (first == 1)) & (last - first == count - 1))
    found = [features.names[k] for k in likely if (np.diff(features.values[:, k]) == 1).all()]
    return (
        [f"features that count the rows, not a measurement: {few(found, _LISTED)}; take them out of features.tsv"]
        if found
        else []
    )
