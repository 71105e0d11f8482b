"""Repeated visits: one row a session, from the features, from ``sub-*/ses-*`` folders and from sessions.tsv.

Where sessions.tsv and participants.tsv both have a fact, under one name or another spelling of it, the visit's own value is
used; participants.tsv has that of one visit, and nobody says which.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from medrep.cohort.bids import ALL, RUNS_APART, find_runs
from medrep.cohort.dictionary import certain_pairs, examples, is_missing, meaning, same_cell
from medrep.cohort.inputs import ImageInput
from medrep.cohort.participants import KEY_COLUMNS, keys, label, labels, read_tsv
from medrep.errors import CohortError, few, listed

_NOTHING = "n/a"


@dataclass(frozen=True)
class _Visits:
    """A person's sessions.tsv: the file's name, and visit -> column -> cell."""

    name: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, str]]


@dataclass
class _Told:
    """Messages for the end, by column and by participant."""

    renamed: dict[str, str] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    other: dict[str, list[str]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    spelled: dict[str, str] = field(default_factory=dict)
    clashes: list[str] = field(default_factory=list)
    standing: dict[str, int] = field(default_factory=dict)
    similar: dict[str, str] = field(default_factory=dict)


def with_sessions(
    root: Path, table: pd.DataFrame, feature_ids: "pd.DataFrame | None"
) -> tuple[pd.DataFrame, list[str]]:
    """Give a table of people one row a session where the data have sessions and the table has not.

    A covariate that changes between visits (age) is taken from ``sub-X/sub-X_sessions.tsv`` where that file has it, whatever
    the case of its name; a visit that the file lacks has ``n/a`` there, and not what participants.tsv says of another visit.

    Args:
        root: The cohort's folder.
        table: One row a person, or a session where it has a ``session_id``.
        feature_ids: Key columns of features.tsv, or None for images.

    Returns:
        The table, index: key, and notes.

    Raises:
        CohortError: A damaged sessions.tsv, or rows of one visit that contradict each other; all of them.
    """
    listed_already = "session_id" in table
    visits = _listed(table) if listed_already else _visits(root, table, feature_ids)
    if not any(visits.values()):
        return table, []
    files = {who: _sessions_table(root, who) for who, own in visits.items() if own}
    if listed_already and not any(files.values()):
        return table, []
    told = _Told()
    rows: list[dict[str, str]] = []
    for _, row in table.iterrows():
        person = str(row["participant_id"])
        record = {str(name): str(cell) for name, cell in row.items()}
        own = [record["session_id"]] if listed_already else visits[person] or [_NOTHING]
        file = files.get(person)
        if not listed_already and len(own) > 1:
            _stand(record, file, told)
        rows += [_visit_row(record, visit, file, told, certain=listed_already) for visit in own]
    if told.clashes:
        cure = "make the two files agree; nobody can say which one is right"
        raise CohortError(
            listed("visits of which participants.tsv and sessions.tsv say different things", told.clashes, cure)
        )
    expanded = pd.DataFrame(rows).fillna(_NOTHING).astype(str)
    expanded.index = pd.Index(keys(expanded), name="key")
    count = [] if listed_already else [f"{len(expanded)} sessions of {len(table)} people"]
    return expanded, [*count, *_notes(told)]


def with_runs(root: Path, table: pd.DataFrame, wanted: ImageInput) -> tuple[pd.DataFrame, list[str]]:
    """Give people one row a run of their images where ``run: all`` asks for it; the run is part of the session's name.

    Args:
        root: The cohort's folder.
        table: One row a person or session; rows of one run are left as they are.
        wanted: The ``input`` section.

    Returns:
        The table, index: key, and notes.
    """
    if wanted.entities.get("run") != ALL:
        return table, []
    rows: list[dict[str, str]] = []
    for _, row in table.iterrows():
        record = {str(name): str(cell) for name, cell in row.items()}
        visit = label(record.get("session_id", ""), "ses")
        apart = RUNS_APART.fullmatch(visit) is not None
        found = [] if apart else find_runs(root, (record["participant_id"], visit), wanted)
        names = [f"ses-{visit}_run-{run}" if visit else f"run-{run}" for run in found]
        rows += [{**record, "session_id": name} for name in names or [record.get("session_id", _NOTHING)]]
    expanded = pd.DataFrame(rows, columns=list(dict.fromkeys(["participant_id", "session_id", *table.columns])))
    if not (expanded["session_id"] != _NOTHING).any():
        return table, []
    expanded.index = pd.Index(keys(expanded), name="key")
    more = len(expanded) > len(table)
    said = f"{len(expanded)} runs of {len(table)} {'visits' if 'session_id' in table else 'people'}, a row each (--run all)"
    return expanded, [said] if more else []


def _visit_row(
    record: Mapping[str, str], visit: str, file: _Visits | None, told: _Told, *, certain: bool
) -> dict[str, str]:
    """Return the row of one visit.

    Args:
        record: The row of participants.tsv.
        visit: Which visit.
        file: The person's sessions.tsv, if there is one.
        told: What is added to.
        certain: Whether the row of participants.tsv is of this very visit.
    """
    row = {**record, "session_id": visit}
    bare = label(visit, "ses")
    if file is None or not bare:
        return row
    own = file.rows.get(bare)
    if own is None and (found := certain_pairs([bare], list(file.rows)).get(bare)):
        told.spelled[found] = visit
        own = file.rows[found]
    where = f"{record['participant_id']} {visit}"
    if own is None and not certain:
        told.absent.append(f"{where} ({file.name})")
    for column in file.columns:
        place = _place(record, column)
        cell = _NOTHING if own is None else own[column]
        before = record.get(place, _NOTHING)
        if not certain:
            told.used[place] = told.used.get(place, 0) + (own is not None and place in record)
            if place in record and not is_missing(before) and not same_cell(cell, before):
                told.other.setdefault(place, []).append(f"{where}: {cell!r} where participants.tsv has {before!r}")
        elif own is None or is_missing(cell) or same_cell(cell, before):
            cell = before
        elif not is_missing(before):
            told.clashes.append(f"{where}: {place} {before!r} in participants.tsv, {column} {cell!r} in {file.name}")
        if place != column:
            told.renamed[column] = place
        row[place] = cell
    return row


def _place(record: Mapping[str, str], column: str) -> str:
    """Return the column of participants.tsv that a column of sessions.tsv is about; itself where there is none."""
    if column in record:
        return column
    same = [name for name in record if name not in KEY_COLUMNS and meaning(name) == meaning(column)]
    return same[0] if same else column


def _notes(told: _Told) -> list[str]:
    notes = [f"sessions.tsv: column {column!r} is read as {place}" for column, place in told.renamed.items()]
    if told.spelled:
        notes.append(f"sessions.tsv: visit {examples(told.spelled)} of the data")
    for place, lines in told.other.items():
        notes.append(f"{place}: each visit has its own value, from sessions.tsv ({few(lines, 2, between='; ')})")
    if told.absent:
        notes.append(f"visits that sessions.tsv lacks, so that what it has of others is missing: {few(told.absent)}")
    if told.standing:
        hints = "".join(
            f"; sessions.tsv has {other!r}: if that is the {name} of a visit, --set covariates.{name}.column={other}"
            for name, other in told.similar.items()
        )
        notes.append(
            f"one value a person, for all visits of {max(told.standing.values())} people:"
            f" {few(list(told.standing), 8, last=' and')} of participants.tsv{hints}"
        )
    return notes


def _stand(record: Mapping[str, str], file: _Visits | None, told: _Told) -> None:
    """Add which columns of participants.tsv stand for every visit, and what in sessions.tsv may be meant instead."""
    columns = () if file is None else file.columns
    own = {_place(record, column) for column in columns}
    for name in record:
        if name in KEY_COLUMNS or name in own:
            continue
        told.standing[name] = told.standing.get(name, 0) + 1
        close = [column for column in columns if meaning(name) in re.split(r"[^a-z0-9]+", column.casefold())]
        if close:
            told.similar[name] = close[0]


def _listed(table: pd.DataFrame) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for who, visit in zip(table["participant_id"], table["session_id"], strict=True):
        found.setdefault(str(who), []).extend([str(visit)] if label(str(visit), "ses") else [])
    return found


def _visits(root: Path, table: pd.DataFrame, feature_ids: "pd.DataFrame | None") -> dict[str, list[str]]:
    people = [str(who) for who in table["participant_id"].tolist()]
    if feature_ids is None:
        return {
            who: sorted(p.name for p in (root / f"sub-{label(who, 'sub')}").glob("ses-*") if p.is_dir())
            for who in people
        }
    if "session_id" not in feature_ids:
        return {who: [] for who in people}
    bare = feature_ids["participant_id"].map(lambda who: label(str(who), "sub"))
    return {who: [str(v) for v in feature_ids.loc[bare == label(who, "sub"), "session_id"]] for who in people}


def _sessions_table(root: Path, participant: str) -> _Visits | None:
    folder = root / f"sub-{label(participant, 'sub')}"
    path = folder / f"{folder.name}_sessions.tsv"
    if not path.is_file():
        return None
    header, rows, _ = read_tsv(path)
    header = [name.casefold() if name.casefold() in KEY_COLUMNS else name for name in header]
    if "session_id" not in header:
        raise CohortError(f"{path}: no column session_id; name the column of visits session_id")
    facts = [name for name in header if name and name not in KEY_COLUMNS]
    twice = sorted({name for name in facts if [meaning(other) for other in facts].count(meaning(name)) > 1})
    if twice:
        raise CohortError(listed(f"{path}: columns of one meaning", twice, "keep one of them"))
    entries = [dict(zip(header, row, strict=True)) for row in rows]
    visits = [label(entry["session_id"], "ses") for entry in entries]
    doubled = sorted({visit for visit in visits if visits.count(visit) > 1})
    if doubled:
        raise CohortError(listed(f"{path}: sessions that occur twice", doubled, "keep one row a session"))
    cells: Iterator[dict[str, str]] = ({name: entry[name] for name in facts} for entry in entries)
    return _Visits(path.name, tuple(facts), dict(zip(visits, cells, strict=True)))


def chosen_visits(table: pd.DataFrame, visits: Sequence[str]) -> Bool[np.ndarray, " rows"]:
    """Return which rows are of the wanted visits; all of them where none is named.

    Raises:
        CohortError: Visits that nobody has; the message says which there are.
    """
    if not visits:
        return np.ones(len(table), bool)
    there = labels(table["session_id"].tolist(), "ses") if "session_id" in table else [""] * len(table)
    wanted = [label(one, "ses") for one in visits]
    unknown = [one for one in wanted if one not in there]
    if unknown:
        known = ", ".join(sorted({one for one in there if one})) or "none"
        raise CohortError(f"--session-label {' '.join(unknown)}: no such visit; there are: {known}")
    return np.isin(there, wanted)
