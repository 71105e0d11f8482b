"""Sections about a cohort, a model and its training."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep import __version__
from medrep._texts import read_json, read_yaml
from medrep.cohort.parsing import shown
from medrep.erasure import Certificate
from medrep.models import MODELS
from medrep.report.data_store import ReportData, read_report_data
from medrep.report.html import (
    ChartRow,
    Section,
    Spread,
    code,
    curve,
    details,
    facts,
    fan_section,
    histograms,
    intervals,
    listing,
    overlay,
    paragraph,
    picture,
    sheet,
    slider_section,
    table,
)


def cohort_section(out: Path, heading: str) -> Section:
    """Return who is in the cohort, and what is confounded with what."""
    exhibit = read_report_data(out, "cohort")
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
            [ChartRow(level, float(n), note="people") for level, n in one["levels"]],
            f"People by {one['name']}",
            bars=True,
            base=0.0,
        )
        for one in found["levels"]
    ]
    content += f'<div class="pair">{"".join(charts)}</div>'
    if found["confounding"]:
        pairs = [
            ChartRow(f"{r['first']} - {r['second']}", r["estimate"], note=r["verdict"]) for r in found["confounding"]
        ]
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


_PLANES = ("sagittal", "coronal", "axial")


def effects_section(out: Path) -> Section:
    """Return what each covariate does on average."""
    heading = "What each covariate does"
    exhibit = read_report_data(out, "effects")
    if exhibit is not None:
        return Section(heading, _volume_effects(exhibit) if exhibit.arrays else _feature_effects(exhibit.content))
    drawn, listed = out / "effects" / "effects.png", out / "effects" / "effects.tsv"
    if not drawn.is_file() or not listed.is_file():
        return Section(heading, "")
    rows = pd.read_csv(listed, sep="\t")
    marks = [
        ChartRow(
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


def pose_section(out: Path) -> Section:
    """Return what covariates do to how organs lie, apart from their shape."""
    heading = "Position, not shape"
    listed, about = out / "effects" / "pose.tsv", out / "effects" / "pose.json"
    if not listed.is_file() or not about.is_file():
        return Section(heading, "")
    rows, known = pd.read_csv(listed, sep="\t"), read_json(about.read_text(encoding="utf-8"))
    content = paragraph(
        "How organs as a whole lie in their images, which is no part of their shape: where (mm to the right, to the front, up),"
        " and how they are turned (degrees; above 0 the front goes up, the top to the right, the right side forward). A change on"
        " one side counts as far as it moves the whole."
    )
    if known["InEffects"]:
        said = "The model counts position as an effect (settings.placement is kept): what an alignment left of it is in the"
        content += paragraph(f"{said} effects on the organ, too.", "warn")
    else:
        content += paragraph("It is not in the effects on the organ, and nobody is moved by it without --with-pose.")
    if not known["SharedSpace"]:
        apart = f"{known['CentresApartPercent']:g} % of the organ's size"
        said = f"People do not share a space: centres lie {apart} apart, which is more than 15 %."
        content += paragraph(f"{said} Position is then how images were cut or how people lay, and no anatomy.", "warn")
    return Section(heading, content + table(rows, "What goes with position, with 95 % interval"))


def _volume_effects(exhibit: ReportData) -> str:
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
        marks = [ChartRow(name, value) for name, value in contrast["features"]]
        chart = intervals(
            marks, f"{contrast['name']} (median over features {contrast['median']:.3g})", bars=True, base=0.0
        )
        content += details(str(contrast["name"]), chart, unfolded=number == 0)
    return content


def facts_section(pairs: Mapping[str, object]) -> Section:
    """Return what was done and with what; what is empty is left out."""
    return Section("What was done", facts({name: value for name, value in pairs.items() if value not in ("", None)}))


def certificate_section(certificates: Sequence[Mapping[str, Any]]) -> Section:
    """Return what the model's guard promises."""
    heading = "Certificate"
    if not certificates:
        return Section(heading, "")
    known = [Certificate(**dict(one)) for one in certificates]
    rows = [(one.covariate, one.rank, one.forecast) for one in known]
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
        Section("How to cite", cite + listing(MODELS[kind].sources) if kind in MODELS else ""),
    ]


def _of_voxels(about: dict[str, Any]) -> str:
    return f" of {about['voxels']:,} voxels, those inside a mask" if "voxels" in about else ""


def training_sections(out: Path, about: dict[str, Any]) -> list[Section]:
    """Return the sections of what `medrep train` wrote to OUT; `about` is the exhibit of that name."""
    config = (out / "config.yaml").read_text(encoding="utf-8")
    grid = about["grid"]
    pairs = {
        "Command": "train",
        "Model": about["model"],
        "Cohort": about["cohort"],
        "People of training": about["people"],
        "Columns": f"{about['columns']:,}{_of_voxels(about)}",
        "Grid": "" if grid is None else f"{' x '.join(map(str, grid['shape']))} points of {_edges(grid['spacing'])} mm",
        "Seed": read_yaml(config).get("seed", 0),
    }
    return [
        facts_section(pairs),
        cohort_section(out, "Cohort of training"),
        _history_section(out),
        effects_section(out),
        pose_section(out),
        slider_section(out),
        fan_section(out),
        *sheet_sections(about["model"]),
        Section("Configuration", details("config.yaml", code(config))),
    ]


def _history_section(out: Path) -> Section:
    """Return what the fit found: shares of variance, and whatever ran over epochs as a curve."""
    history = pd.read_csv(out / "history.tsv", sep="\t")
    shares = history[history["metric"] == "variance_share"]
    content = ""
    if len(shares):
        marks = [ChartRow(str(name), float(value)) for name, value in zip(shares["name"], shares["value"], strict=True)]
        content += intervals(marks, "Share of variance, mean over columns", bars=True, base=0.0)
    if "epoch" in history:
        for (metric, name), own in history.groupby(["metric", "name"], sort=False):
            points = own.dropna(subset=["epoch", "value"]).sort_values("epoch")
            if len(points) > 2:
                where = [(float(e), float(v)) for e, v in zip(points["epoch"], points["value"], strict=True)]
                content += curve(where, f"{metric} {name}".replace("_", " "))
    content += details("Every figure of the fit", table(history, "history.tsv"))
    return Section("What the model found", content)


def _edges(spacing: list[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in spacing)
