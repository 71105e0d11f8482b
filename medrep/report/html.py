"""A page: escaped elements, charts as rows of a table, slices as PNG, the slider through one participant, and the page itself.

Strips are drawn in percent of their width, so they fit a telephone and a poster; every figure can be read without seeing a mark.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from gzip import compress
from html import escape
from importlib.resources import files
from io import BytesIO
from math import floor, isfinite, log10
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int8, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from medrep import __version__
from medrep._files import write_text
from medrep.cohort.parsing import shown
from medrep.report.data_store import ReportData, read_report_data

_MOST_ROWS = 400


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; ``kind`` is a class of the style sheet."""
    marked = f' class="{escape(kind)}"' if kind else ""
    return f"<p{marked}>{escape(text)}</p>" if text else ""


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
    return _scrolled(
        f"<table><caption>{escape(caption + more)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>",
        caption,
    )


def _scrolled(content: str, name: str) -> str:
    """Return wide content in a box that scrolls sideways, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{content}</div>'


def picture(image: bytes, alt: str, caption: str) -> str:
    """Return a PNG in the page, with what it shows for who cannot see it, and a caption below."""
    inline = b64encode(image).decode()
    source = f'<img src="data:image/png;base64,{inline}" alt="{escape(alt)}">'
    return f"<figure>{source}<figcaption>{escape(caption)}</figcaption></figure>"


def _cell(value: object) -> str:
    return "" if value != value else shown(value)


# Nothing may be fetched from anywhere, whatever the page holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class Section:
    """One part of a page: HTML of escaped elements, and the assets that it needs, in the order in which they are to be run."""

    heading: str
    content: str
    scripts: tuple[str, ...] = ()


def write_page(path: Path, title: str, said: str, sections: Sequence[Section]) -> None:
    """Write a page, atomically, with one sentence below the title; empty sections are left out."""
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
    inline = "".join(f"<script>{_asset(name)}</script>" for name in (*scripts, "page.js"))
    write_text(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{_asset('report.css')}</style></head><body>"
        f'<a class="skip" href="#main">To the report</a>'
        f"<header><h1>{escape(title)}</h1><p>{escape(said)}</p></header>"
        f'<nav aria-label="Sections"><ol>{links}</ol></nav><main id="main">{body}</main>'
        f"<footer><p>Written by medrep {escape(__version__)}. This file holds everything it shows and asks nothing of a network."
        f"</p></footer>{inline}</body></html>\n",
    )


def _asset(name: str) -> str:
    """Return a file of the report's own style and scripts."""
    return files("medrep.report").joinpath("assets", name).read_text(encoding="utf-8")


_HEIGHT = 22
_MIDDLE = _HEIGHT // 2


@dataclass(frozen=True)
class ChartRow:
    """One row: an estimate with its interval; NaN draws nothing and says ``absent``.

    The floor is a figure to compare with, such as chance; NaN for none. The note, such as n, stands beside.
    """

    label: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    floor: float = float("nan")
    note: str = ""
    absent: str = "insufficient"


@dataclass(frozen=True)
class Spread:
    """One row of a histogram: counts of a group in bins of equal width over the whole scale."""

    label: str
    counts: Sequence[int]
    note: str


@dataclass(frozen=True)
class Track:
    """One line of many: points in their order, and which of the steps between them are marked."""

    points: Sequence[tuple[float, float]]
    marked: Sequence[bool]


def intervals(
    rows: Sequence[ChartRow], caption: str, *, bars: bool = False, base: float | None = None, floor_name: str = ""
) -> str:
    """Return a chart of estimates, as points, or as bars from the base.

    The base is a value that every scale contains, such as 0: no effect; a line is drawn there. The key says what the floors
    are.
    """
    low, high = _scale([*(value for row in rows for value in _numbers(row)), *([] if base is None else [base])])

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    lines = []
    for row in rows:
        strip = "" if base is None else _line("zero", at(base), at(base), 0, _HEIGHT)
        figure = row.absent
        if isfinite(row.estimate):
            strip += _estimate(row, at, bars=bars, base=low if base is None else base)
            figure = f"{row.estimate:.3g}"
            if isfinite(row.low) and isfinite(row.high):
                figure += f" ({row.low:.3g} to {row.high:.3g})"
            if isfinite(row.floor):
                figure += f"; floor {row.floor:.3g}"
        missing = ' class="absent"' if not isfinite(row.estimate) else ""
        note = f" <small>{escape(row.note)}</small>" if row.note else ""
        lines.append(
            f'<tr{missing}><th scope="row">{escape(row.label)}{note}</th><td class="strip">{_svg(strip)}</td>'
            f"<td>{escape(figure)}</td></tr>"
        )
    key = f'<span class="key"><i class="floor"></i> {escape(floor_name)}</span>' if floor_name else ""
    return _chart(lines, caption, low, high, key)


def histograms(rows: Sequence[Spread], low: float, high: float, caption: str) -> str:
    """Return one histogram a group, over one scale from low to high; heights are shares of the group."""
    most = max((count / max(sum(row.counts), 1) for row in rows for count in row.counts), default=1.0) or 1.0
    lines = []
    for row in rows:
        total, width = max(sum(row.counts), 1), 100 / max(len(row.counts), 1)
        strip = "".join(
            f'<rect class="bin" x="{k * width:.3g}%" width="{width * 0.92:.3g}%" y="{_HEIGHT - height:.3g}" '
            f'height="{height:.3g}"/>'
            for k, count in enumerate(row.counts)
            for height in [_HEIGHT * count / total / most]
            if count
        )
        lines.append(
            f'<tr><th scope="row">{escape(row.label)}</th><td class="strip">{_svg(strip)}</td>'
            f"<td>{escape(row.note)}</td></tr>"
        )
    return _chart(lines, caption, low, high, "")


def curve(points: Sequence[tuple[float, float]], caption: str) -> str:
    """Return a line through points, with both scales in words."""
    (x0, x1), (y0, y1) = (_scale([point[axis] for point in points]) for axis in (0, 1))
    first, last = points[0], points[-1]
    path = " ".join(f"{100 * (x - x0) / (x1 - x0):.2f},{100 - 100 * (y - y0) / (y1 - y0):.2f}" for x, y in points)
    said = f"{caption}: {first[1]:.4g} at {first[0]:g}, {last[1]:.4g} at {last[0]:g}"
    return (
        f'<figure class="curve"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(said)}">'
        f'<polyline points="{path}" vector-effect="non-scaling-stroke"/></svg><figcaption>{escape(said)}</figcaption></figure>'
    )


def tracks(lines: Sequence[Track], span: tuple[float, float], caption: str) -> str:
    """Return many lines in one picture, with marked steps in another colour and above the others; span is that of y."""
    x0, x1 = _scale([x for line in lines for x, _ in line.points])
    y0, y1 = _scale(span)
    drawn: dict[bool, list[str]] = {False: [], True: []}
    for line in lines:
        places = [(100 * (x - x0) / (x1 - x0), 100 - 100 * (y - y0) / (y1 - y0)) for x, y in line.points]
        for (a, b), (c, d), marked in zip(places, places[1:], line.marked, strict=False):
            kind = ' class="marked"' if marked else ""
            drawn[marked].append(
                f'<path{kind} d="M{a:.2f},{b:.2f}L{c:.2f},{d:.2f}" vector-effect="non-scaling-stroke"/>'
            )
    said = f"{caption}: {span[0]:.3g} to {span[1]:.3g}, from left to right {x0:.3g} to {x1:.3g}"
    return (
        f'<figure class="tracks"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(said)}">'
        f"{''.join(drawn[False] + drawn[True])}</svg><figcaption>{escape(said)}</figcaption></figure>"
    )


def _estimate(row: ChartRow, at: Callable[[float], float], *, bars: bool, base: float) -> str:
    middle, strip = at(row.estimate), ""
    if bars:
        left, right = sorted((at(base), middle))
        strip += f'<rect class="bar" x="{left:.3f}%" width="{right - left:.3f}%" y="5" height="{_HEIGHT - 10}"/>'
    if isfinite(row.low) and isfinite(row.high):
        strip += _line("whisker", at(row.low), at(row.high), _MIDDLE, _MIDDLE)
    if isfinite(row.floor):
        strip += _line("floor", at(row.floor), at(row.floor), 1, _HEIGHT - 1)
    return strip if bars else strip + f'<circle class="dot" cx="{middle:.3f}%" cy="{_MIDDLE}" r="4.5"/>'


def _numbers(row: ChartRow) -> list[float]:
    return [value for value in (row.estimate, row.low, row.high, row.floor) if isfinite(value)]


def _scale(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.04 * (high - low) or max(abs(high), 1.0) * 0.5
    return low - room, high + room


def _line(kind: str, x1: float, x2: float, y1: int, y2: int) -> str:
    return f'<line class="{kind}" x1="{x1:.3f}%" x2="{x2:.3f}%" y1="{y1}" y2="{y2}"/>'


def _svg(strip: str) -> str:
    return f'<svg height="{_HEIGHT}" aria-hidden="true">{strip}</svg>'


def _chart(lines: Sequence[str], caption: str, low: float, high: float, key: str) -> str:
    ticks = "".join(
        f'<text x="{100 * (value - low) / (high - low):.3f}%" y="12">{value:g}</text>' for value in _ticks(low, high)
    )
    axis = f'<tr class="axis" aria-hidden="true"><td></td><td class="strip"><svg height="16">{ticks}</svg></td><td></td></tr>'
    content = (
        f'<table class="chart"><caption>{escape(caption)} {key}</caption><tbody>{"".join(lines)}{axis}</tbody></table>'
    )
    return _scrolled(content, caption)


def _ticks(low: float, high: float) -> list[float]:
    """Return a few round values inside the scale."""
    rough = (high - low) / 3
    power = 10 ** floor(log10(rough))
    step = next(float(factor * power) for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = -floor(-low / step)
    return [round((first + k) * step, 10) for k in range(4) if (first + k) * step <= high]


_LESS, _NONE, _MORE = np.array([33, 102, 172]), np.array([247, 247, 247]), np.array([178, 24, 43])
_GAP, _TITLE, _TALLEST = 6, 22, 200


def grey(slice_: UInt8[np.ndarray, "_ _"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return a slice as a picture: the first axis runs to the right, the second up."""
    return np.repeat(np.flipud(slice_.T)[:, :, None], 3, axis=2)


def diverging(share: Float[np.ndarray, "_ _"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return shares from -1 to 1 as colours."""
    share = np.flipud(share.T)[:, :, None]
    end = np.where(share < 0, _LESS, _MORE)
    return (_NONE + (end - _NONE) * np.abs(share)).astype(np.uint8)


def overlay(anatomy: UInt8[np.ndarray, "_ _"], change: Int8[np.ndarray, "_ _"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return anatomy in grey with a change in colour, the more opaque the larger it is."""
    share = change.astype(float) / 127
    strong = np.sign(share) * (0.35 + 0.65 * np.abs(share))
    alpha = np.flipud(np.minimum(1, 1.6 * np.abs(share)).T)[:, :, None]
    return (grey(anatomy) * (1 - alpha) + diverging(strong) * alpha).astype(np.uint8)


def sheet(rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]], titles: Sequence[str]) -> bytes:
    """Return rows of pictures, in columns that share a shape and a title, as one PNG on black."""
    factor = max(1, _TALLEST // max(picture.shape[0] for row in rows for picture in row))
    drawn = [
        [ImageOps.scale(Image.fromarray(picture), factor, Image.Resampling.BICUBIC) for picture in row] for row in rows
    ]
    widths = [max(row[k].width for row in drawn) for k in range(len(titles))]
    heights = [max(picture.height for picture in row) for row in drawn]
    whole = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), _TITLE + sum(heights) + _GAP * len(heights)))
    pen, font, left = ImageDraw.Draw(whole), ImageFont.load_default(14), _GAP
    for column, (width, title) in enumerate(zip(widths, titles, strict=True)):
        pen.text((left, 2), title, fill="white", font=font)
        top = _TITLE
        for row, height in zip(drawn, heights, strict=True):
            whole.paste(row[column], (left + (width - row[column].width) // 2, top))
            top += height + _GAP
        left += width + _GAP
    with BytesIO() as file:
        whole.save(file, format="PNG", compress_level=6)
        return file.getvalue()


_VIEWS = {"volume": "volume.js", "mesh": "mesh.js", "features": "bars.js", "fan": "fan.js", "chart": "chart.js"}
_LIBRARIES = {"mesh": ("three.min.js",)}
_SAID = {
    "volume": "Three planes of the picture as the model expects it at the chosen covariates; what differs from the person as"
    " scanned is in colour. The right of the picture is the person's right.",
    "mesh": "The organ as the model expects it at the chosen covariates; in colour, how far its surface has moved outward. Drag"
    " to turn it.",
    "features": "What changes at the chosen covariates, in standard deviations of the cohort: the features that change most.",
    "fan": "Visits of a person, and what a further one is expected to measure on the scanner of the last: told from all of the"
    " person's visits here, with bands that hold 50, 80 and 95 % of such measurements. The features that are expected to change"
    " most; people without a name are others who were followed longest.",
    "chart": "Curves of centiles with 95 % bands of their own uncertainty, and people as points: point at one to see who it is,"
    " choose it to see where the person lies in every feature. Where people came again, visits are connected, and orange dashes"
    " lead to what the visit before would be later, were z to stay as it was.",
}
_CAUTION = (
    "Hatched parts of a slider lie outside what training people had: there the model guesses. A counterfactual is the model's"
    " answer near its support, not a causal fact."
)
_CAUTIONS = {
    "fan": "",
    "chart": "z says how rare a value is among people like those of training. It is no diagnosis: one in twenty healthy people"
    " has |z| above 1.96 in a feature, and nearly everybody has it in one of many.",
}


def slider(exhibit: ReportData, heading: str) -> Section:
    """Return the part of a page in which a person (`transformed_participant`) can be moved."""
    kind = str(exhibit.content["kind"])
    arrays = [{"name": name, "type": str(a.dtype), "shape": list(a.shape)} for name, a in exhibit.arrays.items()]
    about = json.dumps({**exhibit.content, "arrays": arrays}, allow_nan=False).replace("<", "\\u003c")
    packed = compress(b"".join(array.tobytes() for array in exhibit.arrays.values()), compresslevel=6, mtime=0)
    content = (
        paragraph(_SAID[kind])
        + paragraph(_CAUTIONS.get(kind, _CAUTION))
        + f'<div class="slider" data-kind="{escape(kind)}"><div class="controls"></div>'
        '<p class="said" aria-live="polite"></p><div class="views"></div>'
        f'<script type="application/json" class="about">{about}</script>'
        f'<script type="text/plain" class="payload">{b64encode(packed).decode()}</script>'
        "<noscript><p>The slider needs JavaScript, which this browser has off.</p></noscript></div>"
    )
    return Section(heading, content, (*_LIBRARIES.get(kind, ()), "slider.js", _VIEWS[kind]))


_FAN = "What a further visit would measure"


def slider_section(out: Path) -> Section:
    """Return the person whom the reader can move."""
    exhibit = read_report_data(out, "person")
    if exhibit is None:
        return Section("Move a person", "")
    return slider(exhibit, f"Move a person: {exhibit.content['person']}")


def centiles_section(out: Path) -> Section:
    """Return curves of centiles, and people among them."""
    exhibit, heading = read_report_data(out, "chart"), "Centiles"
    return Section(heading, "") if exhibit is None else slider(exhibit, heading)


def fan_section(out: Path) -> Section:
    """Return what further visits of people are expected to measure."""
    exhibit = read_report_data(out, "fan")
    return Section(_FAN, "") if exhibit is None else slider(exhibit, _FAN)
