"""What each covariate does on average: on the anatomy, to features, or to an organ's surface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep.cohort.values import shown
from medrep.exhibits.store import Exhibit, read_exhibit
from medrep.report.elements import details, paragraph, picture, table
from medrep.report.marks import Mark, intervals
from medrep.report.page import Section
from medrep.report.pictures import overlay, sheet

_PLANES = ("sagittal", "coronal", "axial")


def effects_section(out: Path) -> Section:
    """Return what each covariate does on average."""
    heading = "What each covariate does"
    exhibit = read_exhibit(out, "effects")
    if exhibit is not None:
        return Section(heading, _volume_effects(exhibit) if exhibit.arrays else _feature_effects(exhibit.content))
    drawn, listed = out / "effects" / "effects.png", out / "effects" / "effects.tsv"
    if not drawn.is_file() or not listed.is_file():
        return Section(heading, "")
    rows = pd.read_csv(listed, sep="\t")
    marks = [
        Mark(
            f"{row['covariate']} {shown(row['before'])} to {shown(row['after'])}",
            row["mean_mm"],
            row["ci_low"],
            row["ci_high"],
        )
        for row in rows.to_dict("records")
    ]
    alt = "The organ's surface for each covariate, from three sides; red moves outward, blue inward. Means stand in the chart."
    content = intervals(marks, "Mean outward motion of the surface, mm, with 95 % interval over people", base=0.0)
    content += picture(drawn.read_bytes(), alt, "mm along the outward normal")
    return Section(heading, content + details("Every figure", table(rows, "Effects on the organ")))


def _volume_effects(exhibit: Exhibit) -> str:
    anatomy, content = exhibit.arrays["anatomy"], ""
    middle = [length // 2 for length in anatomy.shape]
    for number, contrast in enumerate(exhibit.content["contrasts"]):
        effect = exhibit.arrays[f"effect{number}"]
        slices = [
            overlay(np.take(anatomy, middle[axis], axis=axis), np.take(effect, middle[axis], axis=axis))
            for axis in range(3)
        ]
        alt = f"{contrast['name']}: the change the model expects, in colour on three slices of the mean anatomy"
        caption = f"{contrast['name']}: blue less, red more, colours end at {127 * float(contrast['step']):.3g}"
        content += picture(sheet([slices], _PLANES), alt, caption)
    said = f"Mean change of {exhibit.content['people']} people when one covariate moves and the others stay."
    return paragraph(said) + f'<div class="pair">{content}</div>'


def _feature_effects(found: Mapping[str, Any]) -> str:
    content = paragraph(
        "Mean change of a few people when one covariate moves and the others stay, in standard deviations of the cohort: the"
        " features that change most."
    )
    for number, contrast in enumerate(found["contrasts"]):
        marks = [Mark(name, value) for name, value in contrast["features"]]
        chart = intervals(
            marks, f"{contrast['name']} (median over features {contrast['median']:.3g})", bars=True, base=0.0
        )
        content += details(str(contrast["name"]), chart, unfolded=number == 0)
    return content
