"""Rows that belong together by one column of the table of participants: people of a family, or scans of one session of a person.

Relatives are alike for reasons of their own. What takes them for strangers tells the one half of a family from the other, and
believes its intervals too much: whoever shares a group is drawn, split, folded and exchanged together. Scans of a session, which
never leave their person, are alike in what that day was.
"""

from collections.abc import Sequence

import pandas as pd

from medrep.cohort.parsing import MISSING_WORDS
from medrep.errors import CohortError, listed


def tied_rows(table: pd.DataFrame, group: str) -> tuple[str, ...]:
    """Return the group of each row; a row without one is with its participant's others, or by itself among scans of sessions.

    Groups of which each holds whole people are families, where a row that names the group speaks for all of its person. Where
    no two people share a group, and somebody has several, they are sessions.

    Args:
        table: Rows with ``participant_id`` and the column; index: key.
        group: The column.

    Raises:
        CohortError: No such column, or people in several groups that others are in, too; all of them.
    """
    if group not in table:
        own = ", ".join(str(name) for name in table.columns)
        cure = "name another one with --group, or leave it out"
        raise CohortError(f"--group {group} (input.group): there is no such column; columns are: {own}; {cure}")
    people = table["participant_id"].astype(str).tolist()
    cells = [str(cell).strip() for cell in table[group].tolist()]
    cells = ["" if cell.lower() in MISSING_WORDS else cell for cell in cells]
    found: dict[str, dict[str, str]] = {}
    for who, cell, key in zip(people, cells, table.index, strict=True):
        if cell:
            found.setdefault(who, {}).setdefault(cell, str(key))
    shared = pd.Series([cell for own in found.values() for cell in own], dtype=str).duplicated(keep=False).any()
    several = {who: own for who, own in found.items() if len(own) > 1}
    if several and not shared:
        return tuple(
            f"{group}={cell}" if cell else f"{key} by itself" for cell, key in zip(cells, table.index, strict=True)
        )
    if several:
        told = [f"{who}: {', '.join(f'{cell!r} ({key})' for cell, key in own.items())}" for who, own in several.items()]
        cure = (
            "write one group a person; of scans that belong to one session, name each session by its person: sub-01_1,"
            " sub-01_2"
        )
        raise CohortError(listed(f"people in several groups of {group}", told, cure))
    names = {who: f"{group}={next(iter(own))}" for who, own in found.items()}
    return tuple(names.get(who, who) for who in people)


def are_sessions(groups: Sequence[str], participants: Sequence[str]) -> bool:
    """Return whether groups lie within people, of whom somebody has several."""
    return len(set(zip(groups, participants, strict=True))) > len(set(participants))


def independent_units(groups: Sequence[str] | None, participants: Sequence[str]) -> Sequence[str]:
    """Return whom each row is drawn, split, folded and exchanged with: its group of people, or else its participant."""
    return participants if groups is None or are_sessions(groups, participants) else groups


def count_groups(units: Sequence[str], participants: Sequence[str]) -> pd.Series:
    """Return how many people each group holds, largest first; who belongs to nobody is a group of one."""
    people = pd.DataFrame({"unit": list(units), "who": list(participants)}).drop_duplicates()
    return people["unit"].value_counts()
