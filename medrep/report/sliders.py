"""A person whom the reader can move: an exhibit of numbers, packed into the page beside the script that draws it."""

import json
from base64 import b64encode
from gzip import compress
from html import escape
from pathlib import Path

from medrep.exhibits.store import Exhibit, read_exhibit
from medrep.report.elements import paragraph
from medrep.report.page import Section

_VIEWS = {"volume": "volume.js", "mesh": "mesh.js", "features": "bars.js"}
_LIBRARIES = {"mesh": ("three.min.js",)}
_SAID = {
    "volume": "Three planes of the picture as the model expects it at the chosen covariates; what differs from the person as"
    " scanned is in colour. The right of the picture is the person's right.",
    "mesh": "The organ as the model expects it at the chosen covariates; in colour, how far its surface has moved outward. Drag"
    " to turn it.",
    "features": "What changes at the chosen covariates, in standard deviations of the cohort: the features that change most.",
}


def slider(exhibit: Exhibit, heading: str) -> Section:
    """Return the part of a page in which a person can be moved.

    Args:
        exhibit: Written by `exhibits.moved_person`.
        heading: Its title.
    """
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
    exhibit = read_exhibit(out, "person")
    if exhibit is None:
        return Section("Move a person", "")
    return slider(exhibit, f"Move a person: {exhibit.content['person']}")
