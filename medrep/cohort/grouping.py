"""People who belong together: families, litters, twins, named by one column of the table of participants.

Relatives are alike for reasons of their own. What takes them for strangers tells the one half of a family from the other, and
believes its intervals too much: whoever shares a group is drawn, split, folded and exchanged together.
"""

from collections.abc import Sequence

import pandas as pd

from medrep.cohort.parsing import MISSING_WORDS
from medrep.errors import CohortError, listed


def tied_units(table: pd.DataFrame, group: str, keys: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return for each row the name of those it belongs with: its group, or its participant where the cell is missing.

    A person's visits belong together in any case: one that names the group speaks for all.

    Args:
        table: Rows with ``participant_id`` and the column.
        group: The column.
        keys: Names of rows, for messages; by default the index.

    Raises:
        CohortError: No such column, or people in several groups; all of them.
    """
    if group not in table:
        own = ", ".join(str(name) for name in table.columns)
        cure = "name another one with --group, or leave it out"
        raise CohortError(f"--group {group} (input.group): there is no such column; columns are: {own}; {cure}")
    people = table["participant_id"].astype(str).tolist()
    cells = [str(cell).strip() for cell in table[group].tolist()]
    found: dict[str, dict[str, str]] = {}
    for who, cell, key in zip(people, cells, table.index if keys is None else keys, strict=True):
        if cell.lower() not in MISSING_WORDS:
            found.setdefault(who, {}).setdefault(cell, str(key))
    several = [
        f"{who}: {', '.join(f'{cell!r} ({key})' for cell, key in own.items())}"
        for who, own in found.items()
        if len(own) > 1
    ]
    if several:
        cure = (
            "a group holds whole people: write one group a person. Several runs of one visit are no group:"
            " --run first, or --run mean"
        )
        raise CohortError(listed(f"people in several groups of {group}", several, cure))
    names = {who: f"{group}={next(iter(own))}" for who, own in found.items()}
    return tuple(names.get(who, who) for who in people)


def count_groups(units: Sequence[str], participants: Sequence[str]) -> pd.Series:
    """Return how many people each group holds, largest first; who belongs to nobody is a group of one."""
    people = pd.DataFrame({"unit": list(units), "who": list(participants)}).drop_duplicates()
    return people["unit"].value_counts()
