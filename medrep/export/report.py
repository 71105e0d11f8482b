"""A self-contained HTML page: tables and text that open from disk without any network."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from medrep.atomic import write_text

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #8886; padding: 0.25rem 0.75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: white; }
pre { white-space: pre-wrap; background: #8881; padding: 0.75rem; }
"""


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        heading: Its title.
        text: A paragraph above the table; empty for none.
        table: Shown as it is; numbers with four digits. None for none.
        code: Shown in a fixed-width block; empty for none.
        picture: A PNG; empty for none.
        alt: What the picture shows, for who cannot see it.
    """

    heading: str
    text: str = ""
    table: pd.DataFrame | None = None
    code: str = ""
    picture: bytes = b""
    alt: str = ""


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page, atomically.

    Args:
        path: The HTML file.
        title: Of the page.
        sections: In reading order.
    """
    body = "\n".join(_section(section) for section in sections)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n",
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.picture:
        inline = b64encode(section.picture).decode()
        parts.append(f'<img src="data:image/png;base64,{inline}" alt="{escape(section.alt)}">')
    if section.table is not None:
        parts.append(_table(section.table))
    if section.code:
        parts.append(f"<pre>{escape(section.code)}</pre>")
    return "\n".join(parts)


def _table(table: pd.DataFrame) -> str:
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in table.itertuples(index=False)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
