"""Slices as PNG, and the slider that moves through one participant."""

import json
from base64 import b64encode
from collections.abc import Sequence
from gzip import compress
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int8, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from medrep.report.data_store import ReportData, read_report_data
from medrep.report.html import Section, paragraph

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


_VIEWS = {"volume": "volume.js", "mesh": "mesh.js", "features": "bars.js"}
_LIBRARIES = {"mesh": ("three.min.js",)}
_SAID = {
    "volume": "Three planes of the picture as the model expects it at the chosen covariates; what differs from the person as"
    " scanned is in colour. The right of the picture is the person's right.",
    "mesh": "The organ as the model expects it at the chosen covariates; in colour, how far its surface has moved outward. Drag"
    " to turn it.",
    "features": "What changes at the chosen covariates, in standard deviations of the cohort: the features that change most.",
}


def slider(exhibit: ReportData, heading: str) -> Section:
    """Return the part of a page in which a person (`transformed_participant`) can be moved."""
    kind = str(exhibit.content["kind"])
    arrays = [{"name": name, "type": str(a.dtype), "shape": list(a.shape)} for name, a in exhibit.arrays.items()]
    about = json.dumps({**exhibit.content, "arrays": arrays}, allow_nan=False).replace("<", "\\u003c")
    packed = compress(b"".join(array.tobytes() for array in exhibit.arrays.values()), compresslevel=6, mtime=0)
    content = (
        paragraph(_SAID[kind])
        + paragraph(
            "Hatched parts of a slider lie outside what training people had: there the model guesses. A counterfactual is"
            " the model's answer near its support, not a causal fact."
        )
        + f'<div class="slider" data-kind="{escape(kind)}"><div class="controls"></div>'
        '<p class="said" aria-live="polite"></p><div class="views"></div>'
        f'<script type="application/json" class="about">{about}</script>'
        f'<script type="text/plain" class="payload">{b64encode(packed).decode()}</script>'
        "<noscript><p>The slider needs JavaScript, which this browser has off.</p></noscript></div>"
    )
    return Section(heading, content, (*_LIBRARIES.get(kind, ()), "slider.js", _VIEWS[kind]))


def slider_section(out: Path) -> Section:
    """Return the person whom the reader can move."""
    exhibit = read_report_data(out, "person")
    if exhibit is None:
        return Section("Move a person", "")
    return slider(exhibit, f"Move a person: {exhibit.content['person']}")
