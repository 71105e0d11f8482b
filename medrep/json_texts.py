"""JSON that others wrote: read as far as anything of medrep is nested, and refused with a ValueError beyond that."""

import json
from typing import Any

MOST_LEVELS = 64
_MOST_DIGITS = 40


def read_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: No JSON, nested deeper than `MOST_LEVELS`, or whole numbers of more digits than any that is meant; one line.
    """
    try:
        content = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError(_deep()) from None
    refuse_deep(content)
    return content


def refuse_deep(content: Any) -> None:
    """Refuse lists and objects that are nested deeper than `MOST_LEVELS`.

    Raises:
        ValueError: One line.
    """
    level, count = [content], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        count += 1
        if count > MOST_LEVELS:
            raise ValueError(_deep())
        level = [entry for one in level for entry in (one.values() if isinstance(one, dict) else one)]


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits, {digits[:12]}...; at most {_MOST_DIGITS} are read")
    return int(digits)


def _deep() -> str:
    return f"nested deeper than {MOST_LEVELS} levels"
