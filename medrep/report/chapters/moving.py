"""The report of an export, or of counterfactuals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep.report.chapters.before_after import before_after_section
from medrep.report.chapters.cohort import cohort_section
from medrep.report.chapters.model import certificate_section, facts_section, sheet_sections
from medrep.report.elements import paragraph, table
from medrep.report.marks import Mark, intervals
from medrep.report.page import Section
from medrep.report.sliders import slider_section

_LATENTS, _PEOPLE = 16, 5000


def moving_sections(out: Path, about: dict[str, Any]) -> list[Section]:
    """Return the sections of what `medrep export` or `medrep counterfactual` wrote.

    Args:
        out: OUT of the command.
        about: The exhibit of that name: the sidecars' content.
    """
    people = pd.read_csv(out / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    failed = _failures(out)
    targets = about.get("References") or about.get("Covariates") or {}
    pairs = {
        "Command": about["command"],
        "Model": f"{about['ModelKind']} ({about['Model']})"
        if about["Model"].startswith("models:/")
        else about["ModelKind"],
        "People written": len(people),
        "Failed": len(failed) or "nobody",
        "Moved": ", ".join(f"{name} to {_short(value)}" for name, value in targets.items()),
        "Kept": ", ".join(about.get("Kept", [])) or "nothing else",
        "Sites adapted to": ", ".join(one["level"] for one in about.get("AdaptedLevels", [])),
        "Covariates looked at": "no" if about.get("LabelFree") else "",
        "People of training near": about.get("TrainingPeopleNear"),
    }
    return [
        facts_section(pairs),
        before_after_section(out),
        slider_section(out),
        leakage_section(out),
        certificate_section(about.get("Certificates", [])),
        cohort_section(out, "Cohort"),
        latents_section(out, people),
        Section("Who failed", table(failed, "failures.tsv") if len(failed) else ""),
        *sheet_sections(about["ModelKind"]),
    ]


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


def latents_section(out: Path, people: pd.DataFrame) -> Section:
    """Return how wide the leading latents are, and how they go with the covariates of the table."""
    path = out / "latents.tsv"
    if not path.is_file():
        return Section("Latents", "")
    latents = pd.read_csv(path, sep="\t", nrows=_PEOPLE)
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
    known = {name: row for name, row in rows.items() if row is not None}
    if known and len(values) > 2:
        strongest = [Mark(name, float(np.max(row)), note=names[int(np.argmax(row))]) for name, row in known.items()]
        caption = "Strongest association of one latent with each column (|r| or eta; some is chance in few people)"
        content += intervals(strongest, caption, bars=True, base=0.0)
    return Section("Latents", content)


def _association(column: pd.Series, values: np.ndarray) -> np.ndarray | None:
    """Return |r| with numbers or the correlation ratio with levels, for each latent; None where neither means anything."""
    numbers = pd.to_numeric(column, errors="coerce")
    centred = values - values.mean(axis=0)
    total = np.maximum((centred**2).sum(axis=0), 1e-300)
    if numbers.notna().all() and numbers.nunique() > 2:
        own = numbers.to_numpy(float) - numbers.mean()
        return np.abs(own @ centred) / np.sqrt(total * max(own @ own, 1e-300))
    levels = column.astype(str)
    if not 2 <= levels.nunique() <= max(2, len(levels) // 5):
        return None
    between = sum(
        len(own) * centred[own].mean(axis=0) ** 2 for own in levels.groupby(levels.to_numpy()).indices.values()
    )
    return np.sqrt(between / total)


def _failures(out: Path) -> pd.DataFrame:
    path = out / "failures.tsv"
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
