"""A few people before and after, or groups of a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medrep.exhibits.store import read_exhibit
from medrep.report.elements import paragraph, picture
from medrep.report.marks import Mark, intervals
from medrep.report.page import Section
from medrep.report.pictures import diverging, grey, sheet


def before_after_section(out: Path) -> Section:
    """Return a few people before and after, or groups of a table."""
    exhibit = read_exhibit(out, "before_after")
    if exhibit is None:
        return Section("Before and after", "")
    if exhibit.content["kind"] == "features":
        return Section("Before and after", _groups(exhibit.content))
    step = float(exhibit.content["step"])
    said = "The same slices on the same scale, three planes a person; on the right what changed (blue less, red more)."
    content, states = "", ("before", "after", "change")
    white = np.uint8(255 if exhibit.content["kind"] == "shape" else 1)
    for number, person in enumerate(exhibit.content["people"]):
        rows = []
        for plane in range(3):
            before, after, change = (exhibit.arrays[f"{number}_{plane}_{state}"] for state in states)
            rows.append([grey(before * white), grey(after * white), diverging(change.astype(float) / 127)])
        name = f"{person['name']} ({person['covariates']})" if person["covariates"] else str(person["name"])
        alt = f"{name}: three slices before, after, and their difference"
        content += picture(sheet(rows, states), alt, f"{name}; colours end at {127 * step:.3g}")
    return Section("Before and after", paragraph(said) + f'<div class="pair">{content}</div>')


def _groups(found: Mapping[str, Any]) -> str:
    content = paragraph(
        f"Features whose means differed most by {found['group']} before ({found['people']} people looked at): mean of each"
        " group, before and after, on one scale; whiskers are one standard deviation."
    )
    for row in found["rows"]:
        marks = [
            Mark(f"{g['group']}, {state}", mean, mean - sd, mean + sd, note=f"n {g['n']}")
            for g in row["groups"]
            for state in ("before", "after")
            for mean, sd in [g[state]]
        ]
        content += intervals(marks, str(row["feature"]))
    return content
