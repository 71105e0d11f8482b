"""The columns of a participants table -> the values of declared covariates, or one message with all that is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medrep.cohort.covariates import POOLED, Covariate
from medrep.cohort.dictionary import SYNONYMS, DataDictionary, contradictions, is_missing, meaning, same_cell
from medrep.cohort.parsing import (
    MISSING_WORDS,
    Number,
    conversion,
    is_code,
    look_alikes,
    merge_levels,
    parse_level,
    parse_number,
    same_unit,
    sex_word,
    shown_spelling,
    tidied,
)
from medrep.errors import CovariateError, few, listed

_NEVER_LEVELS = frozenset({"", "n/a", "nan", "#n/a", "<na>", "nat"})
_NAMED = 4
"""How many people are named beside a level that many have."""


@dataclass(frozen=True)
class CovariateTable:
    """Checked covariates of some people.

    Attributes:
        frame: Index: key; one column a covariate, float (NaN where missing) or str (None where missing).
        notes: What had to be interpreted.
        declared: The covariates, with the units and meanings of levels that participants.json states.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...]
    declared: tuple[Covariate, ...] = ()


def read_covariates(
    table: pd.DataFrame,
    declared: Sequence[Covariate],
    units: Mapping[str, str] | None = None,
    levels: Mapping[str, Mapping[str, str]] | None = None,
) -> CovariateTable:
    """Read declared covariates out of a table of text.

    Args:
        table: Text cells, index: key (see `participants.read_participants`).
        declared: The covariates wanted; of a model: `CovariateSchema.declared`.
        units: Column -> unit that participants.json states; a contradiction with the declared unit is an error.
        levels: Column -> level -> what participants.json says it means; a contradiction with training is an error.

    Returns:
        Values, with people dropped whom the policy ``drop`` leaves out; missing cells only under the policy ``impute``.

    Raises:
        CovariateError: No such column, unreadable or missing cells: participant, column, value and cure, all of them.
    """
    notes: list[str] = []
    offenders: list[str] = []
    columns = {covariate.name: _find_column(table, covariate, notes, offenders) for covariate in declared}
    if offenders:
        raise CovariateError(listed("covariates without a column", offenders))
    stated = DataDictionary(dict(units or {}), dict(levels or {}))
    completed = [_completed(covariate, columns[covariate.name], stated, notes, offenders) for covariate in declared]
    frame = pd.DataFrame(index=table.index)
    dropped: set[str] = set()
    starts: dict[str, int] = {}
    for covariate in completed:
        column = columns[covariate.name]
        cells = table[column].fillna("").map(str)
        codes = (*covariate.missing_codes, *stated.no_value(column))
        starts[column] = len(offenders)
        offenders += _rivals(table, covariate, column, notes)
        reader = _read_numbers if covariate.kind == "continuous" else _read_levels
        frame[covariate.name] = reader(cells, covariate, column, codes, notes, offenders)
        empty = frame.index[frame[covariate.name].isna()]
        if covariate.missing == "drop" and len(empty):
            dropped.update(empty)
            notes.append(f"{column}: missing; left out {', '.join(str(key) for key in empty)}")
        elif covariate.missing == "impute" and len(empty):
            notes.append(f"{column}: missing; training value used for {', '.join(str(key) for key in empty)}")
    if offenders:
        told = _shortened(offenders, starts)
        raise CovariateError(listed("covariates that cannot be used as they stand", told, most=max(20, len(told))))
    frame = frame.drop(index=list(dropped))
    if frame.empty:
        lacking = ", ".join(sorted({columns[c.name] for c in declared if c.missing == "drop"}))
        raise CovariateError(
            f"nobody is left: every person lacks one of {lacking}; leave a covariate out, or set its missing to impute"
        )
    return CovariateTable(frame, tuple(notes), tuple(completed))


def _find_column(table: pd.DataFrame, covariate: Covariate, notes: list[str], offenders: list[str]) -> str:
    names = [str(column) for column in table.columns]
    wanted = covariate.column or covariate.name
    if wanted in names:
        return wanted
    if not covariate.column:
        words = {wanted.casefold(), *SYNONYMS.get(wanted, ())}
        close = [name for name in names if name.casefold() in words]
        if len(close) == 1:
            notes.append(f"column {close[0]!r} is read as {covariate.name}")
            return close[0]
    others = [name for name in names if name not in {"participant_id", "session_id"}]
    word = covariate.name.casefold()
    similar = sorted(
        (name for name in others if word in name.casefold()), key=lambda n: not n.casefold().startswith(word)
    )
    hint = next(iter(similar), "COLUMN")
    offenders.append(
        f"{wanted!r} (columns: {', '.join(others) or 'none'}); name it with --set covariates.{covariate.name}.column={hint}"
        f" or leave it out with --set covariates.{covariate.name}=null"
    )
    return ""


def _rivals(table: pd.DataFrame, covariate: Covariate, column: str, notes: list[str]) -> list[str]:
    """Return a line for each person of whom another column of this meaning says something else than the one that is read."""
    meant = {meaning(covariate.name), meaning(column)}
    offenders = []
    for rival in [str(name) for name in table.columns if name != column and meaning(str(name)) in meant]:
        pairs = zip(table.index, table[column].fillna("").astype(str), table[rival].fillna("").astype(str), strict=True)
        unlike = [
            (key, own, other)
            for key, own, other in pairs
            if not (is_missing(own) or is_missing(other) or same_cell(sex_word(own), sex_word(other)))
        ]
        if not unlike:
            continue
        chosen = covariate.column or rival.casefold() != column.casefold()
        if chosen and not _of_visits(table, column, rival):
            key, own, other = unlike[0]
            notes.append(
                f"{covariate.name} is read from column {column!r}; {rival!r} says otherwise of {len(unlike)} people"
                f" ({key}: {other!r} where {own!r} is used)"
            )
            continue
        cure = f"remove one of the columns, or name the right one with --set covariates.{covariate.name}.column"
        offenders += [f"{key}: {column} is {own!r}, {rival} is {other!r}; {cure}" for key, own, other in unlike]
    return offenders


def _of_visits(table: pd.DataFrame, column: str, rival: str) -> bool:
    """Return whether a column has one value a person where its rival has one a visit."""
    if "session_id" not in table:
        return False
    people = table.groupby("participant_id")
    return bool(people[column].nunique().max() == 1 and people[rival].nunique().max() > 1)


def _shortened(offenders: Sequence[str], starts: Mapping[str, int]) -> list[str]:
    """Return all lines, or where there are many the first three of each column, so that no column hides another.

    Args:
        offenders: A line a cell, column by column.
        starts: Column -> where its lines start.
    """
    if len(offenders) <= 20:
        return list(offenders)
    told: list[str] = []
    for (column, start), end in zip(starts.items(), [*list(starts.values())[1:], len(offenders)], strict=True):
        own = offenders[start:end]
        short = len(own) > 4
        told += [*own[:3], f"{column}: ... and {len(own) - 3} more cells of this column"] if short else own
    return told


def _completed(
    covariate: Covariate, column: str, stated: DataDictionary, notes: list[str], offenders: list[str]
) -> Covariate:
    """Return the covariate with what participants.json says of its column; what contradicts it is added to ``offenders``."""
    codes = stated.no_value(column)
    if codes:
        notes.append(f"{column}: {', '.join(map(repr, codes))} is missing, as participants.json says")
    if covariate.kind == "continuous":
        unit = stated.unit(column)
        if unit and covariate.unit and not same_unit(unit, covariate.unit):
            how = conversion(unit, covariate.unit)
            offenders.append(
                f"column {column}: participants.json says {unit!r}, the configuration or the model {covariate.unit!r};"
                f" convert the column{f' ({how})' if how else ''}, or set covariates.{covariate.name}.unit before training"
            )
        return replace(covariate, unit=covariate.unit or unit)
    meanings = stated.meanings(column)
    against = contradictions(covariate.meanings, meanings)
    if against:
        offenders.append(
            f"column {column}: participants.json says that {', '.join(against)}; write the levels as in training, or, where both"
            " say the same, say it in the same words"
        )
    return replace(covariate, meanings=covariate.meanings or meanings)


def _read_numbers(
    cells: pd.Series,
    covariate: Covariate,
    column: str,
    codes: Sequence[str],
    notes: list[str],
    offenders: list[str],
) -> list[float]:
    values = []
    cures = {
        "unreadable": "write a number",
        "missing": f"fill it in, or set covariates.{covariate.name}.missing to drop or impute",
        "range": f"write a number, or set covariates.{covariate.name}.inexact to midpoint",
        "bound": f"write a number, or set covariates.{covariate.name}.inexact to midpoint",
    }
    accepted = {"exact", "tidied"} | ({"range", "bound"} if covariate.inexact == "midpoint" else set())
    accepted |= {"missing"} if covariate.missing != "error" else set()
    low, high = covariate.limits or (float("-inf"), float("inf"))
    missing, texts = Number(float("nan"), "missing"), cells.tolist()
    read = {text: missing if is_code(text, codes) else parse_number(text) for text in set(texts)}
    for key, text in zip(cells.index.tolist(), texts, strict=True):
        number = read[text]
        if number.reading not in accepted:
            what = "is a censored value" if number.reading == "bound" else f"is {_article(number.reading)}"
            offenders.append(f"{key}: {column} {text!r} {what}; {cures[number.reading]}")
        elif not (number.reading == "missing" or low <= number.value <= high):
            offenders.append(
                f"{key}: {column} {text!r} lies outside covariates.{covariate.name}.limits, {low:g} to {high:g}; mend it"
            )
        elif number.reading in {"tidied", "range", "bound"}:
            notes.append(f"{key}: {column} {text!r} is read as {number.value:g}")
        values.append(number.value)
    return values


def _read_levels(
    cells: pd.Series,
    covariate: Covariate,
    column: str,
    codes: Sequence[str],
    notes: list[str],
    offenders: list[str],
) -> list[str | None]:
    written = covariate.verbatim
    texts = cells.tolist()
    known = {
        text: None if text not in written and is_code(text, codes) else parse_level(text, written)
        for text in set(texts)
    }
    if covariate.name == "sex":
        known = {text: own if own is None or own in written else sex_word(own) for text, own in known.items()}
    parsed = [known[text] for text in texts]
    spelling = merge_levels([level for level in parsed if level is not None], written)
    levels = [None if level is None else spelling[level] for level in parsed]
    pairs = list(zip(zip(cells.index.tolist(), texts, strict=True), levels, strict=True))
    if covariate.missing == "error":
        offenders += [
            f"{key}: {column} {text!r} is missing; fill it in, or set covariates.{covariate.name}.missing to drop or impute"
            + _as_level(covariate.name, text)
            for (key, text), level in pairs
            if level is None
        ]
    offenders += [
        f"{key}: {column} {level!r} stands for the pooled cohort in a model; rename the level"
        for (key, _), level in pairs
        if level == POOLED
    ]
    offenders += [
        f"{key}: {column} {text!r} holds a NUL byte; write the level without it"
        for (key, text), _ in pairs
        if "\0" in text
    ]
    offenders += _alike(levels, cells, covariate, column)
    read = sorted({(text, level) for (_, text), level in pairs if level is not None and text != level})
    notes += [f"{column}: {shown_spelling(text, level)} is read as {level!r}" for text, level in read]
    return levels


def _alike(levels: Sequence[str | None], cells: pd.Series, covariate: Covariate, column: str) -> list[str]:
    """Return one line for each group of levels that look like one and are not known to be two."""
    found = []
    for group in look_alikes([level for level in levels if level is not None], covariate.verbatim):
        people = {
            level: [str(k) for k, own in zip(cells.index, levels, strict=True) if own == level] for level in group
        }
        told = " and ".join(f"{level!r} ({_some(own)})" for level, own in people.items())
        found.append(
            f"{column}: {told} look like one level; write them alike where they are one, or say that they are not with"
            f" --set 'covariates.{covariate.name}.verbatim=[{', '.join(map(_quoted, group))}]' before training"
        )
    return found


def _some(people: Sequence[str]) -> str:
    if not people:
        return "known before"
    return few(people, _NAMED, last=" and")


def _quoted(level: str) -> str:
    return '"' + level.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _as_level(name: str, text: str) -> str:
    """Return how a missing word is kept as a level; nothing for an empty cell."""
    word = tidied(text)
    known = word.lower() in MISSING_WORDS - _NEVER_LEVELS
    return f"; if it is a level, --set 'covariates.{name}.verbatim=[{_quoted(word)}]'" if known else ""


def _article(reading: str) -> str:
    return {"range": "a range", "unreadable": "no number", "missing": "missing"}.get(reading, reading)


def cell_text(cell: object) -> str:
    """Return a cell as participants.tsv would have it; whole numbers alike, whether they are held as int or float."""
    if cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float | np.floating) and np.isnan(cell)):
        return ""
    if isinstance(cell, float | np.floating):
        return str(int(cell)) if float(cell).is_integer() else repr(float(cell))
    return str(cell)
