"""Whom a report shows: one person by name, the first, or nobody."""

import pandas as pd

from medrep.cohort.participants import label
from medrep.errors import CohortError

NOBODY = "nobody"


def refuse_strangers(show: str, table: pd.DataFrame) -> None:
    """Refuse somebody who is not in the cohort.

    Args:
        show: What the person asked for; empty for the first.
        table: The people, index: key.

    Raises:
        CohortError: With who can be shown.
    """
    if show and show != NOBODY and shown_key(show, table) is None:
        some = ", ".join(str(key) for key in table.index[:3])
        raise CohortError(f"--show {show}: not among these people ({some}, ...); give one of them, or {NOBODY}")


def shown_key(show: str, table: pd.DataFrame) -> str | None:
    """Return the key of whom the report shows; None for nobody."""
    if show == NOBODY or not len(table):
        return None
    keys = [str(key) for key in table.index]
    if not show:
        return keys[0]
    wanted = label(show, "sub")
    bare = [label(str(who), "sub") for who in table["participant_id"]]
    return next((key for key, who in zip(keys, bare, strict=True) if key == show or who == wanted), None)
