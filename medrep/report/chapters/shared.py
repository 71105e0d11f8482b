"""Sections that several kinds of run have: the cohort, before and after, the certificate, the model sheet, how to cite."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep import __version__
from medrep.erasure import Certificate
from medrep.exhibits.store import Exhibit, read_exhibit
from medrep.models import MODELS
from medrep.report.elements import code, details, facts, listing, paragraph, picture, table
from medrep.report.marks import Mark, Spread, histograms, intervals
from medrep.report.page import Section
from medrep.report.pictures import diverging, grey, overlay, sheet
from medrep.report.sliders import slider

_PLANES = ("sagittal", "coronal", "axial")
_SOURCES = {
    "linear": (
        "Location and scale of batches, empirical Bayes: Johnson, Li and Rabinovic 2007, Biostatistics 8, 118-127; for"
        " imaging: Fortin et al. 2018, NeuroImage 167, 104-120. With covariance alignment: Chen et al. 2022, Human Brain"
        " Mapping 43, 1179-1195.",
    ),
    "conditional_vae": (
        "Variational autoencoder: Kingma and Welling 2014, ICLR. Closed-form erasure: Belrose et al. 2023, NeurIPS (LEACE).",
    ),
    "additive_shape": (
        "Signed distance as a function: Park et al. 2019, CVPR (DeepSDF). Additive displacement of a template by covariates:"
        " Jiao et al. 2024, ICLR (NAISR).",
    ),
}


def cohort_section(out: Path, heading: str) -> Section:
    """Return who is in the cohort, and what is confounded with what."""
    exhibit = read_exhibit(out, "cohort")
    if exhibit is None:
        return Section(heading, "")
    found = exhibit.content
    content = paragraph(f"{found['people']} people or sessions.")
    for number in found["numbers"]:
        unit = f" ({number['unit']})" if number["unit"] else ""
        rows = [
            Spread(str(g["group"]), g["counts"], f"n {g['n']}, {g['mean']:.4g} +- {g['sd']:.3g}")
            for g in number["groups"]
        ]
        by = f" by {found['grouped_by']}" if found["grouped_by"] else ""
        caption = f"{number['name']}{unit}{by}: share of each group, mean and standard deviation"
        content += histograms(rows, number["edges"][0], number["edges"][-1], caption)
    charts = [
        intervals(
            [Mark(level, float(n), note="people") for level, n in one["levels"]],
            f"People by {one['name']}",
            bars=True,
            base=0.0,
        )
        for one in found["levels"]
    ]
    content += f'<div class="pair">{"".join(charts)}</div>'
    if found["confounding"]:
        pairs = [Mark(f"{r['first']} - {r['second']}", r["estimate"], note=r["verdict"]) for r in found["confounding"]]
        content += intervals(pairs, "Which covariates tell which: 0 nothing, 1 everything", bars=True, base=0.0)
        if any(r["verdict"] in {"strong", "aliased"} for r in found["confounding"]):
            warning = "Covariates that tell each other cannot be told apart: what is removed with one is taken from the other."
            content += paragraph(warning, "warn")
    if found["small"]:
        content += paragraph("Levels of few people, whose effects are uncertain:", "warn") + listing(found["small"])
    content += details(
        "Covariates as the model knows them",
        table(pd.DataFrame(found["covariates"]), "Covariates and what training had"),
    )
    if found["notes"]:
        content += details(f"Read with care: {len(found['notes'])} notes", code("\n".join(found["notes"])))
    return Section(heading, content)


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
        content += picture(sheet(rows, states), alt, f"{name}; colours end at {127 * step:.3g}", dark=True)
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
            f"{row['covariate']} {_short(row['before'])} to {_short(row['after'])}",
            row["mean_mm"],
            row["ci_low"],
            row["ci_high"],
        )
        for row in rows.to_dict("records")
    ]
    alt = "The organ's surface for each covariate, from three sides; red moves outward, blue inward. Means stand in the chart."
    content = intervals(marks, "Mean outward motion of the surface, mm, with 95 % interval over people", base=0.0)
    content += picture(drawn.read_bytes(), alt, "mm along the outward normal", dark=True)
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
        content += picture(sheet([slices], _PLANES), alt, caption, dark=True)
    said = f"Mean change of {exhibit.content['people']} people when one covariate moves and the others stay."
    return paragraph(said) + f'<div class="pair">{content}</div>'


def _feature_effects(found: Mapping[str, Any]) -> str:
    content = paragraph(
        "Mean change of a few people when one covariate moves and the others stay, in standard deviations of the cohort: the"
        " features that change most."
    )
    for contrast in found["contrasts"]:
        marks = [Mark(name, value) for name, value in contrast["features"]]
        chart = intervals(
            marks, f"{contrast['name']} (median over features {contrast['median']:.3g})", bars=True, base=0.0
        )
        content += details(str(contrast["name"]), chart)
    return content.replace("<details>", "<details open>", 1)


def slider_section(out: Path) -> Section:
    """Return the person whom the reader can move."""
    exhibit = read_exhibit(out, "person")
    if exhibit is None:
        return Section("Move a person", "")
    return slider(exhibit, f"Move a person: {exhibit.content['person']}")


def certificate_section(certificates: Sequence[Mapping[str, Any]]) -> Section:
    """Return what the model's guard promises."""
    heading = "Certificate"
    if not certificates:
        return Section(heading, "")
    known = [Certificate(**dict(one)) for one in certificates]
    rows = []
    for one in known:
        auc, r2 = one.predicted_auc, one.predicted_r2
        forecast = f"AUC {auc:.3g}" if auc is not None else f"R2 {r2:.3g}" if r2 is not None else "not to be told"
        rows.append((one.covariate, one.rank, forecast))
    said = (
        "Directions that tell a removed covariate linearly were erased in closed form. The forecast is what a linear probe will"
        " read of it from the latents of new people; nonlinear probes may read more: see an audit."
    )
    columns = ["covariate", "directions erased", "forecast for new people"]
    return Section(
        heading, paragraph(said) + table(pd.DataFrame(rows, columns=columns), "Certificate of each covariate")
    )


def sheet_sections(kind: str) -> list[Section]:
    """Return the model's own sheet with its limitations first, and how to cite."""
    text = inspect.getdoc(inspect.getmodule(MODELS[kind])) or "" if kind in MODELS else ""
    ends = text.partition("**Limitations**:")[2].partition("\n\n")[0].replace("\n", " ").strip()
    content = paragraph(f"Limitations: {ends}", "warn") + details("The whole model sheet", code(text)) if text else ""
    cite = paragraph(
        f"medrep {__version__} (software, Apache-2.0), model {kind}. Please cite the methods it builds on, too:"
    )
    return [
        Section("Model sheet", content),
        Section("How to cite", cite + listing(_SOURCES.get(kind, ())) if kind in MODELS else ""),
    ]


def facts_section(pairs: Mapping[str, object]) -> Section:
    """Return what was done and with what; what is empty is left out."""
    return Section("What was done", facts({name: value for name, value in pairs.items() if value not in ("", None)}))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
