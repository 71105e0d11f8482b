"""The page itself: style, scripts and sections in one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from medrep import __version__
from medrep.atomic import write_text

# Nothing may be fetched from anywhere, whatever the page holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        heading: Its title.
        content: HTML made of `elements` and `marks`, which escape what they are given.
        scripts: Assets that it needs, in the order in which they are to be run.
    """

    heading: str
    content: str
    scripts: tuple[str, ...] = ()


def write_page(path: Path, title: str, said: str, sections: Sequence[Section]) -> None:
    """Write a page, atomically.

    Args:
        path: The HTML file.
        title: Of the page.
        said: One sentence below the title.
        sections: In reading order; empty ones are left out.
    """
    shown = [section for section in sections if section.content]
    names = [f"s{number}" for number in range(len(shown))]
    links = "".join(
        f'<li><a href="#{name}">{escape(section.heading)}</a></li>' for name, section in zip(names, shown, strict=True)
    )
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}h"><h2 id="{name}h">{escape(section.heading)}</h2>{section.content}'
        "</section>"
        for name, section in zip(names, shown, strict=True)
    )
    scripts = dict.fromkeys(name for section in shown for name in section.scripts)
    inline = "".join(f"<script>{asset(name)}</script>" for name in (*scripts, "page.js"))
    write_text(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{asset('report.css')}</style></head><body>"
        f'<a class="skip" href="#main">To the report</a>'
        f"<header><h1>{escape(title)}</h1><p>{escape(said)}</p></header>"
        f'<nav aria-label="Sections"><ol>{links}</ol></nav><main id="main">{body}</main>'
        f"<footer><p>Written by medrep {escape(__version__)}. This file holds everything it shows and asks nothing of a network."
        f"</p></footer>{inline}</body></html>\n",
    )


def asset(name: str) -> str:
    """Return a file of the report's own style and scripts."""
    return files("medrep.report").joinpath("assets", name).read_text(encoding="utf-8")
