"""Pieces of a page: every text is escaped here, so that nothing a cohort holds can become markup."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from medrep.cohort.values import shown

_MOST_ROWS = 400


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; ``kind`` is a class of the style sheet."""
    return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def facts(pairs: Mapping[str, object]) -> str:
    """Return what is known as names and values."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs.items())
    return f'<dl class="facts">{rows}</dl>'


def listing(items: Sequence[str]) -> str:
    """Return a list; nothing where there is nothing."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>" if items else ""


def code(text: str) -> str:
    """Return a block of fixed width."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def details(summary: str, content: str, *, unfolded: bool = False) -> str:
    """Return what is folded away until somebody opens it; print shows it."""
    return f"<details{' open' if unfolded else ''}><summary>{escape(summary)}</summary>{content}</details>"


def table(rows: pd.DataFrame, caption: str) -> str:
    """Return a table that scrolls by itself; numbers with four digits, and of very long ones the first 400 rows."""
    head = "".join(f'<th scope="col">{escape(str(name).replace("_", " "))}</th>' for name in rows.columns)
    lines = []
    for number, row in enumerate(rows.itertuples(index=False)):
        if number == _MOST_ROWS:
            break
        first, *others = (escape(_cell(cell)) for cell in row)
        lines.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>")
    more = f" (first {_MOST_ROWS} of {len(rows)} rows)" if len(rows) > _MOST_ROWS else ""
    return scrolled(
        f"<table><caption>{escape(caption + more)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>",
        caption,
    )


def scrolled(content: str, name: str) -> str:
    """Return wide content in a box that scrolls sideways, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{content}</div>'


def picture(image: bytes, alt: str, caption: str) -> str:
    """Return a PNG in the page.

    Args:
        image: The PNG.
        alt: What it shows, for who cannot see it.
        caption: Below it.
    """
    inline = b64encode(image).decode()
    source = f'<img src="data:image/png;base64,{inline}" alt="{escape(alt)}">'
    return f"<figure>{source}<figcaption>{escape(caption)}</figcaption></figure>"


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""


def _cell(value: object) -> str:
    return "" if value != value else shown(value)
