"""Cohorts of table files: the features of each file and visit joined by person, and their covariates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import Covariate
from medrep.cohort.dictionary import certain_pairs, examples
from medrep.cohort.features import FeatureTable
from medrep.cohort.files import CohortFiles
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.participants import KEY_COLUMNS, check_ids, chosen_rows, keys, labels, refuse_doubles
from medrep.cohort.sessions import chosen_visits
from medrep.cohort.table_files import open_table
from medrep.cohort.table_layout import Block, Rows, field_of, read_people, read_rows, read_subjects
from medrep.errors import CohortError, few, listed


@dataclass(frozen=True)
class Tables:
    """A cohort that was read from tables.

    Attributes:
        table: Text cells of covariates, index: key, a row a person or visit.
        features: Of the same rows.
        notes: What was guessed.
    """

    table: pd.DataFrame
    features: FeatureTable
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Features of one visit in one file.

    Attributes:
        rows: The file.
        block: Which of its columns.
        ids: Key columns of its rows, in the spelling of the first file; index: key.
        values: The features.
    """

    rows: Rows
    block: Block
    ids: pd.DataFrame
    values: Float[np.ndarray, "rows features"]


def read_parts(
    files: CohortFiles, section: FeaturesInput, declared: Sequence[Covariate], notes: list[str]
) -> list[Part]:
    """Read the features of each file and visit.

    Args:
        files: The files.
        section: Which columns are features, where it says so.
        declared: The covariates wanted: columns of these names are no features.
        notes: What is guessed is added.

    Raises:
        CohortError: Files that cannot be read, and ids that cannot be.
    """
    if files.missing:
        raise CohortError(listed("no such table", files.missing))
    named = Counter(path.name for path in files.tables)
    alike = [str(path) for path in files.tables if named[path.name] > 1]
    if alike:
        raise CohortError(
            listed("tables of one name, which would be written over each other", alike, "rename one of them")
        )
    folder = files.root.is_dir()
    everything = [read_rows(path, files, section, declared) for path in (files.more if folder else files.tables)]
    if folder:
        everything = [read_subjects(files.root, section), *everything]
    parts: list[Part] = []
    canonical: list[str] = []
    for rows in everything:
        notes += rows.notes
        for block in rows.layout.blocks:
            ids = rows.ids.assign(session_id=block.session) if block.session else rows.ids
            if canonical:
                ids = _spelled(ids, canonical, rows.file.path.name, notes)
            check_ids(rows.file.path, ids, [f"row {row + 1}" for row in range(len(ids))])
            places = [rows.file.numbers.index(k) for k in block.columns]
            whole = places == list(range(len(rows.file.numbers)))
            values = rows.file.values if whole else rows.file.values[:, places]
            parts.append(Part(rows, block, ids.set_axis(pd.Index(keys(ids), name="key")), values))
        canonical = canonical or [str(who) for who in dict.fromkeys(rows.ids["participant_id"])]
    return parts


def read_tables(
    files: CohortFiles,
    section: FeaturesInput,
    declared: Sequence[Covariate],
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Tables:
    """Read features and covariates of people from table files.

    Args:
        files: The files.
        section: Which columns are features, where it says so.
        declared: The covariates wanted: columns of these names are no features.
        only: Participants to read; all if empty.
        exclude: Participants to leave out.

    Raises:
        CohortError: What is missing or contradictory; everybody it concerns is listed.
    """
    notes: list[str] = []
    parts = read_parts(files, section, declared, notes)
    everybody = [str(who) for part in parts for who in part.ids["participant_id"]]
    wanted = set(np.array(everybody, object)[chosen_rows(everybody, only, exclude)].tolist())
    parts = [_chosen(part, wanted) for part in parts]
    ids, values, names = _joined(parts, section, notes)
    kept = chosen_visits(ids, files.visits)
    if not kept.all():
        ids, values = ids[kept], values[kept]
    table = _covariates(files, ids, [part.rows for part in parts], notes)
    return Tables(table, FeatureTable(ids, values, names, None, (*ids.columns, *names)), tuple(notes))


def _chosen(part: Part, wanted: set[str]) -> Part:
    """Return the rows of the wanted people, and of a visit in the names of columns those who were there."""
    kept = part.ids["participant_id"].isin(wanted).to_numpy()
    if part.block.session:
        kept = kept & np.isfinite(part.values).any(axis=1)
    return part if kept.all() else replace(part, ids=part.ids[kept], values=part.values[kept])


def _spelled(ids: pd.DataFrame, canonical: Sequence[str], name: str, notes: list[str]) -> pd.DataFrame:
    """Return ids of a further file in the spelling of the first, where it is certain who is meant."""
    own = labels(ids["participant_id"].tolist(), "sub")
    wanted = dict(zip(labels(canonical, "sub"), canonical, strict=True))
    pairs = {there: who for who, there in certain_pairs(list(wanted), own).items()}
    if pairs:
        notes.append(f"{name}: {examples(pairs)}")
    return ids.assign(participant_id=[wanted.get(pairs.get(who, who), who) for who in own])


def _joined(
    parts: Sequence[Part], section: FeaturesInput, notes: list[str]
) -> tuple[pd.DataFrame, Float[np.ndarray, "people features"], tuple[str, ...]]:
    """Join the features of all files and visits by person and visit."""
    for part in parts:
        refuse_doubles(part.rows.file.path, part.ids)
    if len(parts) == 1:
        return parts[0].ids, parts[0].values, parts[0].block.names
    if len({"session_id" in part.ids for part in parts}) > 1:
        raise CohortError("some of the tables name visits and some do not; name the column of visits with --session")
    ids = pd.concat([part.ids for part in parts])
    ids = ids[~ids.index.duplicated()]
    names = tuple(dict.fromkeys(name for part in parts for name in part.block.names))
    values = np.full((len(ids), len(names)), np.nan)
    unlike: dict[str, str] = {}
    again: dict[str, list[str]] = {}
    for part in parts:
        rows, columns = ids.index.get_indexer(part.ids.index), pd.Index(names).get_indexer(list(part.block.names))
        before, own, file = values[np.ix_(rows, columns)], part.values, part.rows.file.path.name
        both = np.isfinite(before) & np.isfinite(own)
        for row, k in np.argwhere(both & ~np.isclose(before, own, rtol=1e-6, atol=0)):
            said = f"{part.ids.index[row]} has {before[row, k]:g}, and {own[row, k]:g} in {file}"
            unlike.setdefault(part.block.names[k], f"{part.block.names[k]}: {said}")
        again.setdefault(file, []).extend(part.block.names[k] for k in np.flatnonzero(both.any(axis=0)))
        values[np.ix_(rows, columns)] = np.where(np.isfinite(own), own, before)
    if unlike:
        cure = "rename one of the columns, or leave it out with --drop"
        told = list(unlike.values())
        raise CohortError(listed("columns of one name in several tables that say different things", told, cure))
    notes += [f"{file}: {few(own)} stand in another table, too, and say the same" for file, own in again.items() if own]
    there: dict[str, set[str]] = {}
    for part in parts:
        there.setdefault(part.rows.file.path.name, set()).update(part.ids.index)
    absent = [f"{key}: not in {file}" for file, own in there.items() for key in ids.index if key not in own]
    if absent and section.missing != "keep":
        cure = "add the rows, leave the people out with --exclude, or pass --set input.missing=keep"
        raise CohortError(listed("people without a row in one of the tables", absent, cure))
    return ids, values, names


def _covariates(files: CohortFiles, ids: pd.DataFrame, features: Sequence[Rows], notes: list[str]) -> pd.DataFrame:
    """Return everybody's covariates: of the covariates' own table, and what stands beside the features."""
    tables: dict[str, pd.DataFrame] = {}
    if files.covariates is not None:
        people, told = read_people(files.covariates, files)
        notes += told
        tables[files.covariates.name] = _by_instance(people, notes, files.covariates)
    header = [name for rows in features for name in rows.file.header]
    for name, asked in (("--id", files.id), ("--session", files.session)):
        own = files.covariates
        if asked and asked not in header and (own is None or asked not in open_table(own)[1]):
            raise CohortError(f"{name} {asked}: no table has this column; there are {few(header, 8)}")
    for rows in features:
        tables.setdefault(rows.file.path.name, _beside(rows))
    table, canonical = ids, ids["participant_id"].tolist()
    for name, people in tables.items():
        columns = [column for column in people if column not in table or column in KEY_COLUMNS]
        again = [column for column in people if column not in columns]
        if again:
            notes.append(f"{name}: {few(again)} stand in a table read before, too, and are not read from here")
        if set(columns) - set(KEY_COLUMNS):
            table = _with_rows(table, _spelled(people[columns], canonical, name, notes), name, notes)
    return table.fillna("n/a").replace("", "n/a")


def _beside(rows: Rows) -> pd.DataFrame:
    """Return the columns of a table that are no features, as covariates may be."""
    layout, header = rows.layout, rows.file.header
    kept = [k for k in rows.file.texts if k not in (layout.id, layout.session) and header[k]]
    table = rows.file.texts[kept].rename(columns={k: header[k] for k in kept})
    return pd.concat([rows.ids, table.loc[:, ~table.columns.duplicated()]], axis=1)


def _by_instance(people: pd.DataFrame, notes: list[str], path: Path) -> pd.DataFrame:
    """Give covariates of UK Biobank with several instances a row a visit, under the field's number, beside what they were."""
    if "session_id" in people:
        return people
    found: dict[str, dict[str, str]] = {}
    for name in people:
        match = field_of(name)
        if match is not None and int(match.group(3) or 0) == 0:
            found.setdefault(match.group(1), {})[match.group(2)] = name
    several = {number: own for number, own in found.items() if len(own) > 1}
    if not several:
        return people
    instances = sorted({instance for own in several.values() for instance in own}, key=int)
    notes.append(f"{path.name}: fields {few(list(several))} have a value a visit, under the number of the field")
    rows = [
        people.assign(
            session_id=instance,
            **{number: people[own[instance]] if instance in own else "n/a" for number, own in several.items()},
        )
        for instance in instances
    ]
    return pd.concat(rows, ignore_index=True)


def _with_rows(table: pd.DataFrame, people: pd.DataFrame, name: str, notes: list[str]) -> pd.DataFrame:
    """Return the rows of features with the columns of people: of the visit where both name visits, else of the person."""
    who = labels(people["participant_id"].tolist(), "sub")
    own = labels(table["participant_id"].tolist(), "sub")
    by_visit = "session_id" in people and "session_id" in table
    if by_visit:
        there, wanted = (
            [
                f"{one} {visit}"
                for one, visit in zip(whose, labels(frame["session_id"].astype(str).tolist(), "ses"), strict=True)
            ]
            for whose, frame in ((who, people), (own, table))
        )
    else:
        there, wanted = who, own
        if len(set(there)) < len(there):
            several = sorted({one for one, count in Counter(there).items() if count > 1} & set(wanted))
            if several:
                raise CohortError(
                    listed(
                        f"{name}: people with several visits, where the features name none",
                        several,
                        "name the features' column of visits with --session, or keep one row a person",
                    )
                )
    place = {key: row for row, key in enumerate(there)}
    absent = [key for key in wanted if key not in place]
    if absent:
        cure = "add the rows, or leave the people out with --exclude"
        what = "visits" if by_visit else "people"
        raise CohortError(
            listed(f"{what} with features and without a row in {name}", list(dict.fromkeys(absent)), cure)
        )
    unused = len(set(there) - set(wanted))
    if unused:
        notes.append(f"{name}: rows of {unused} people or visits without features are not used")
    rows = people.iloc[[place[key] for key in wanted]].set_axis(table.index)
    return pd.concat([table, rows[[column for column in rows if column not in KEY_COLUMNS]]], axis=1)
