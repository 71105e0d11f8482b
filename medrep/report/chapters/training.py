"""The report of a training."""

from pathlib import Path
from typing import Any

import pandas as pd

from medrep.report.chapters.cohort import cohort_section
from medrep.report.chapters.effects import effects_section
from medrep.report.chapters.model import facts_section, sheet_sections
from medrep.report.elements import code, details, table
from medrep.report.marks import Mark, curve, intervals
from medrep.report.page import Section
from medrep.report.sliders import slider_section
from medrep.yaml_texts import read_yaml


def training_sections(out: Path, about: dict[str, Any]) -> list[Section]:
    """Return the sections of what `medrep train` wrote.

    Args:
        out: OUT of the command.
        about: The exhibit of that name.
    """
    config = (out / "config.yaml").read_text(encoding="utf-8")
    grid = about["grid"]
    pairs = {
        "Command": "train",
        "Model": about["model"],
        "Cohort": about["cohort"],
        "People of training": about["people"],
        "Columns": f"{about['columns']:,}",
        "Grid": "" if grid is None else f"{' x '.join(map(str, grid['shape']))} points of {_edges(grid['spacing'])} mm",
        "Seed": read_yaml(config).get("seed", 0),
    }
    return [
        facts_section(pairs),
        cohort_section(out, "Cohort of training"),
        history_section(out),
        effects_section(out),
        slider_section(out),
        *sheet_sections(about["model"]),
        Section("Configuration", details("config.yaml", code(config))),
    ]


def history_section(out: Path) -> Section:
    """Return what the fit found: shares of variance, and whatever ran over epochs as a curve."""
    history = pd.read_csv(out / "history.tsv", sep="\t")
    shares = history[history["metric"] == "variance_share"]
    content = ""
    if len(shares):
        marks = [Mark(str(name), float(value)) for name, value in zip(shares["name"], shares["value"], strict=True)]
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
