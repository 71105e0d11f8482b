"""Sections of the report of an export, of counterfactuals, and of the demo."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep.audit.confounding import correlation, correlation_ratio
from medrep.cohort.parsing import shown
from medrep.cohort.participants import count_participants
from medrep.report.data_store import read_report_data
from medrep.report.html import (
    ChartRow,
    Section,
    Track,
    centiles_section,
    diverging,
    fan_section,
    grey,
    intervals,
    paragraph,
    picture,
    sheet,
    slider_section,
    table,
    tracks,
)
from medrep.report.sections_training import (
    certificate_section,
    cohort_section,
    effects_section,
    facts_section,
    sheet_sections,
)


def before_after_section(out: Path) -> Section:
    """Return a few people before and after, or groups of a table."""
    exhibit = read_report_data(out, "before_after")
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
            ChartRow(f"{g['group']}, {state}", mean, mean - sd, mean + sd, note=f"n {g['n']}")
            for g in row["groups"]
            for state in ("before", "after")
            for mean, sd in [g[state]]
        ]
        content += intervals(marks, str(row["feature"]))
    return content


def visits_section(out: Path) -> Section:
    """Return people who came again, before and after, side by side."""
    exhibit = read_report_data(out, "visits")
    if exhibit is None:
        return Section("People who came again", "")
    found = exhibit.content
    content = paragraph(
        f"{len(found['rows'][0]['people'])} of {found['people']} people who came again, over {found['time']}: a line a person,"
        f" orange where the person changed {found['group']}. Afterwards these steps should be no larger than the others."
    )
    for row in found["rows"]:
        pair = []
        values = [value for one in row["people"] for state in ("before", "after") for value in one[state]]
        for state in ("before", "after"):
            lines = [
                Track(
                    list(zip(one["times"], one[state], strict=True)),
                    [first != second for first, second in pairwise(one["levels"])],
                )
                for one in row["people"]
            ]
            pair.append(tracks(lines, (min(values), max(values)), f"{row['feature']}, {state}"))
        content += f'<div class="pair">{"".join(pair)}</div>'
    return Section("People who came again", content)


_LATENTS, _PEOPLE = 16, 5000


def transform_sections(out: Path, about: Mapping[str, Any]) -> list[Section]:
    """Return the sections of what `medrep export` or `medrep counterfactual` wrote to OUT; `about` is the sidecars' content."""
    return [
        _transform_facts(out, about),
        before_after_section(out),
        visits_section(out),
        slider_section(out),
        fan_section(out),
        _leakage_section(out),
        certificate_section(about.get("Certificates", [])),
        cohort_section(out, "Cohort"),
        _latents_section(out),
        _failures_section(out),
        *sheet_sections(about["ModelKind"]),
    ]


def _transform_facts(out: Path, about: Mapping[str, Any]) -> Section:
    """Return what was moved where, of how many."""
    failed = out / "failures.tsv"
    targets = about.get("References") or about.get("Covariates") or {}
    pairs = {
        "Command": about["command"],
        "Model": f"{about['ModelKind']} ({about['Model']})"
        if about["Model"].startswith("models:/")
        else about["ModelKind"],
        "People written": count_participants(_rows(out / "participants.tsv")).removesuffix(" people"),
        "Failed": len(_rows(failed)) if failed.is_file() else "nobody",
        "Moved": ", ".join(f"{name} to {shown(value)}" for name, value in targets.items()),
        "Kept": ", ".join(about.get("Kept", [])) or "nothing else",
        "Sites adapted to": ", ".join(one["level"] for one in about.get("AdaptedLevels", [])),
        "Covariates looked at": "no" if about.get("LabelFree") else "",
        "People of training near": about.get("TrainingPeopleNear"),
    }
    return facts_section(pairs)


def chart_sections(out: Path, about: Mapping[str, Any]) -> list[Section]:
    """Return the sections of what `medrep chart` wrote to OUT; `about` is the sidecar's content."""
    at = ", ".join(f"{name} {shown(value)}" for name, value in about["At"].items())
    points = {
        "moved": f"as they would be at {at}" if at else "as they are",
        "measured": "as they were measured",
        "none": "nobody",
    }
    pairs = {
        "Command": about["command"],
        "Model": f"{about['ModelKind']} ({about['Model']})"
        if about["Model"].startswith("models:/")
        else about["ModelKind"],
        "People": about["people"],
        "Curves over": about["Along"],
        "Curves by": ", ".join(about["By"]),
        "Curves at": at,
        "People shown": points[about["Points"]],
        "Sites adapted to": ", ".join(one["level"] for one in about["AdaptedLevels"]),
    }
    return [
        facts_section(pairs),
        centiles_section(out),
        cohort_section(out, "Cohort"),
        *sheet_sections(about["ModelKind"]),
    ]


def _leakage_section(out: Path) -> Section:
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
        marks = [ChartRow(label, float(value)) for label, value in zip(labels, measured[column], strict=True)]
        content += intervals(marks, column.replace("_", " "), bars=True, base=0.0)
    return Section(heading, content + table(measured, "leakage.tsv"))


def _latents_section(out: Path) -> Section:
    """Return how wide the leading latents are, and how they go with the covariates of the table."""
    path = out / "latents.tsv"
    if not path.is_file():
        return Section("Latents", "")
    people, latents = _rows(out / "participants.tsv"), pd.read_csv(path, sep="\t", nrows=_PEOPLE)
    names = [name for name in latents if name.startswith("z")][:_LATENTS]
    values = latents[names].to_numpy(float)
    spread = values.std(axis=0)
    marks = [ChartRow(name, float(sd)) for name, sd in zip(names, spread, strict=True)]
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
        strongest = [ChartRow(name, float(np.max(row)), note=names[int(np.argmax(row))]) for name, row in known.items()]
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


def _failures_section(out: Path) -> Section:
    """Return who could not be delivered, and why."""
    path, heading = out / "failures.tsv", "Who failed"
    return Section(heading, table(_rows(path), path.name) if path.is_file() else "")


def _rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


CLEAN, TRAINED, PICTURE, LEAKAGE = "clean", "trained", "before_after.png", "leakage.tsv"


def demonstration_sections(out: Path) -> list[Section]:
    """Return the sections of what `medrep demo` wrote."""
    clean, exhibit = out / CLEAN, read_report_data(out / CLEAN, "about")
    about = {} if exhibit is None else exhibit.content
    alt = "One unseen person a site: as scanned, with site removed, and the truth; the same slice and grey scale"
    caption = (
        "Unseen people, one a site: as scanned, site removed, and what the generator says they look like without it"
    )
    shown = picture((out / PICTURE).read_bytes(), alt, caption)
    probes = pd.read_csv(out / LEAKAGE, sep="\t")
    content = ""
    for row in probes.to_dict("records"):
        states = [state for state in ("before", "after", "truth") if state in row]
        floor = pd.to_numeric(row.get("from_kept_covariates"), errors="coerce")
        marks = [ChartRow(state, float(row[state]), floor=float(floor)) for state in states]
        name = f"{row['covariate']}, {row['role']}: strongest of three probes"
        base = 0.5 if "AUC" in str(row["covariate"]) else 0.0  # chance
        floor_name = "age and sex alone" if floor == floor else ""
        content += intervals(marks, name, bars=True, base=base, floor_name=floor_name)
    return [
        _transform_facts(clean, about),
        Section("Unseen people beside the truth", shown),
        Section("What probes read", content + table(probes, LEAKAGE)),
        effects_section(out / TRAINED),
        before_after_section(clean),
        slider_section(clean),
        cohort_section(clean, "Cohort"),
        _latents_section(clean),
        *sheet_sections(about["ModelKind"]),
    ]
