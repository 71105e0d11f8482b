"""Values that are none: codes for a missing value that are used as numbers, ages that nobody has, and values far from all others.

A value counts as a code only if it is written like one (``-9``, ``99``, ``999``, ``-1``; 0 as an age) *and* stands apart from the
values that are not. What is certain is refused: codes far from everybody, and ages that nobody has. What is not is named.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from medrep.cohort.covariates import Covariate
from medrep.cohort.units import age_limits
from medrep.cohort.values import plain_number, shown
from medrep.errors import CovariateError, listed

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
    """What is doubtful about the covariates of some people.

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
    more = f" and {len(people) - _NAMED} more" if len(people) > _NAMED else ""
    named.append(
        f"{name} is far from what others have ({shown(float(rest.min()))} to {shown(float(rest.max()))}):"
        f" {', '.join(people[:_NAMED])}{more}"
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
        more = f" and {len(people) - _NAMED} more" if len(people) > _NAMED else ""
        line = f"{', '.join(people[:_NAMED])}{more}: {name} {level!r} is like a code for a missing value"
        if number < -1 and all(n >= 0 for n in known):
            refused.append(line)
        elif not (number == -1 and 1 in known) and abs(number) > 3 * max(map(abs, known), default=0):
            named.append(f"{line}; if it is one, --set 'covariates.{name}.missing_codes=[{level}]'")
