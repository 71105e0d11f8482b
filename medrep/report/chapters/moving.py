"""The report of an export, or of counterfactuals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep.audit.confounding import correlation, correlation_ratio
from medrep.cohort.values import shown
from medrep.report.chapters.before_after import before_after_section
from medrep.report.chapters.cohort import cohort_section
from medrep.report.chapters.model import certificate_section, facts_section, sheet_sections
from medrep.report.elements import paragraph, table
from medrep.report.marks import Mark, intervals
from medrep.report.page import Section
from medrep.report.sliders import slider_section

_LATENTS, _PEOPLE = 16, 5000


def moving_sections(out: Path, about: Mapping[str, Any]) -> list[Section]:
    """Return the sections of what `medrep export` or `medrep counterfactual` wrote.

    Args:
        out: OUT of the command.
        about: The exhibit of that name: the sidecars' content.
    """
    return [
        moved_facts(out, about),
        before_after_section(out),
        slider_section(out),
        leakage_section(out),
        certificate_section(about.get("Certificates", [])),
        cohort_section(out, "Cohort"),
        latents_section(out),
        failures_section(out),
        *sheet_sections(about["ModelKind"]),
    ]


def moved_facts(out: Path, about: Mapping[str, Any]) -> Section:
    """Return what was moved where, of how many."""
    failed = out / "failures.tsv"
    targets = about.get("References") or about.get("Covariates") or {}
    pairs = {
        "Command": about["command"],
        "Model": f"{about['ModelKind']} ({about['Model']})"
        if about["Model"].startswith("models:/")
        else about["ModelKind"],
        "People written": len(_rows(out / "participants.tsv")),
        "Failed": len(_rows(failed)) if failed.is_file() else "nobody",
        "Moved": ", ".join(f"{name} to {shown(value)}" for name, value in targets.items()),
        "Kept": ", ".join(about.get("Kept", [])) or "nothing else",
        "Sites adapted to": ", ".join(one["level"] for one in about.get("AdaptedLevels", [])),
        "Covariates looked at": "no" if about.get("LabelFree") else "",
        "People of training near": about.get("TrainingPeopleNear"),
    }
    return facts_section(pairs)


def leakage_section(out: Path) -> Section:
    """Return what probes read of what was written, where that was measured."""
    path = out / "leakage.tsv"
    heading = "What probes read from what was written"
    if not path.is_file():
        said = "Not measured here. `medrep audit` judges it on people the model never saw; `--probe` measures a table."
        return Section(heading, paragraph(said))
    measured = pd.read_csv(path, sep="\t")
    said = "Means something for people that training did not have."
    content = paragraph(said)
    numbers = [c for c in measured.columns if pd.api.types.is_float_dtype(measured[c])]
    for column in numbers:
        labels = measured.drop(columns=numbers).astype(str).agg(" ".join, axis=1)
        marks = [Mark(label, float(value)) for label, value in zip(labels, measured[column], strict=True)]
        content += intervals(marks, column.replace("_", " "), bars=True, base=0.0)
    return Section(heading, content + table(measured, "leakage.tsv"))


def latents_section(out: Path) -> Section:
    """Return how wide the leading latents are, and how they go with the covariates of the table."""
    path = out / "latents.tsv"
    if not path.is_file():
        return Section("Latents", "")
    people, latents = _rows(out / "participants.tsv"), pd.read_csv(path, sep="\t", nrows=_PEOPLE)
    names = [name for name in latents if name.startswith("z")][:_LATENTS]
    values = latents[names].to_numpy(float)
    spread = values.std(axis=0)
    marks = [Mark(name, float(sd)) for name, sd in zip(names, spread, strict=True)]
    content = paragraph(
        "What is left of each person without any covariate. Below: how wide each latent is among these people."
    )
    content += intervals(marks, "Standard deviation", bars=True, base=0.0)
    rows = {
        name: _association(people[name].iloc[: len(values)], values)
        for name in people.columns
        if "participant" not in name
    }
    known = {name: row for name, row in rows.items() if row}
    if known:
        strongest = [Mark(name, float(np.max(row)), note=names[int(np.argmax(row))]) for name, row in known.items()]
        caption = "Strongest association of one latent with each column (|r| or eta; some is chance in few people)"
        content += intervals(strongest, caption, bars=True, base=0.0)
    return Section("Latents", content)


def _association(column: pd.Series, values: np.ndarray) -> list[float]:
    """Return |r| with numbers or the correlation ratio with levels, for each latent; nothing where neither means anything."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all() and numbers.nunique() > 2:
        return [correlation(numbers.to_numpy(float), latent) for latent in values.T]
    if 2 <= column.nunique() <= max(2, len(column) // 5):
        return [correlation_ratio(latent, column) for latent in values.T]
    return []


def failures_section(out: Path) -> Section:
    """Return who could not be delivered, and why."""
    path, heading = out / "failures.tsv", "Who failed"
    return Section(heading, table(_rows(path), path.name) if path.is_file() else "")


def _rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
