"""Repeated visits: one row a session, from the features, from ``sub-*/ses-*`` folders and from sessions.tsv."""

from pathlib import Path

import pandas as pd

from medrep.cohort.participants import keys, label, read_tsv
from medrep.errors import CohortError, listed


def with_sessions(
    root: Path, table: pd.DataFrame, feature_ids: "pd.DataFrame | None"
) -> tuple[pd.DataFrame, list[str]]:
    """Give a table of people one row a session where the data have sessions and the table has not.

    A covariate that changes between visits (age) is taken from ``sub-X/sub-X_sessions.tsv`` where that file has it.

    Args:
        root: The cohort's folder.
        table: One row a person; returned as it is if it has a ``session_id`` already.
        feature_ids: Key columns of features.tsv, or None for images.

    Returns:
        The table, index: key, and notes.
    """
    if "session_id" in table:
        return table, []
    visits = _visits(root, table, feature_ids)
    if not any(visits.values()):
        return table, []
    rows = []
    for _, row in table.iterrows():
        own = visits[str(row["participant_id"])]
        details = _sessions_table(root, str(row["participant_id"])) if own else {}
        rows += [
            {**row.to_dict(), "session_id": visit, **details.get(label(visit, "ses"), {})} for visit in own or ["n/a"]
        ]
    expanded = pd.DataFrame(rows).astype(str)
    expanded.index = pd.Index(keys(expanded), name="key")
    return expanded, [f"{len(expanded)} sessions of {len(table)} people"]


def _visits(root: Path, table: pd.DataFrame, feature_ids: "pd.DataFrame | None") -> dict[str, list[str]]:
    people = [str(who) for who in table["participant_id"]]
    if feature_ids is None:
        return {
            who: sorted(p.name for p in (root / f"sub-{label(who, 'sub')}").glob("ses-*") if p.is_dir())
            for who in people
        }
    if "session_id" not in feature_ids:
        return {who: [] for who in people}
    bare = feature_ids["participant_id"].map(lambda who: label(str(who), "sub"))
    return {who: [str(v) for v in feature_ids.loc[bare == label(who, "sub"), "session_id"]] for who in people}


def _sessions_table(root: Path, participant: str) -> dict[str, dict[str, str]]:
    folder = root / f"sub-{label(participant, 'sub')}"
    path = folder / f"{folder.name}_sessions.tsv"
    if not path.is_file():
        return {}
    header, rows, _ = read_tsv(path)
    if "session_id" not in header:
        raise CohortError(f"{path}: no column session_id; name the column of visits session_id")
    entries = [dict(zip(header, row, strict=True)) for row in rows]
    visits = [label(entry.pop("session_id"), "ses") for entry in entries]
    twice = sorted({visit for visit in visits if visits.count(visit) > 1})
    if twice:
        raise CohortError(listed(f"{path}: sessions that occur twice", twice, "keep one row a session"))
    return {
        visit: {column: text for column, text in entry.items() if column and column != "participant_id"}
        for visit, entry in zip(visits, entries, strict=True)
    }
