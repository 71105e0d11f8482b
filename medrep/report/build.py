"""A folder that a command wrote, or several side by side, as one page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medrep._texts import read_json, read_yaml
from medrep.errors import MedrepError, listed
from medrep.report.data_store import read_report_data
from medrep.report.html import (
    ChartRow,
    Section,
    centiles_section,
    intervals,
    paragraph,
    slider_section,
    table,
    write_page,
)
from medrep.report.sections_audit import auditing_sections, auditing_title
from medrep.report.sections_training import effects_section, pose_section, training_sections
from medrep.report.sections_transform import (
    CLEAN,
    LEAKAGE,
    before_after_section,
    chart_sections,
    demonstration_sections,
    transform_sections,
)
from medrep.tracking.audits import read_audit

PAGE = "report.html"


def write_report(out: Path) -> Path:
    """Write OUT/report.html of what train, export, counterfactual, chart, audit or demo wrote; return the page.

    Raises MedrepError for a folder of something else, or damaged files.
    """
    title, said, sections = _sections_of(out)
    write_page(out / PAGE, title, said, sections)
    return out / PAGE


def _sections_of(out: Path) -> tuple[str, str, list[Section]]:
    """Return title, a sentence, and the sections of a run; see `write_report` for errors."""
    about = read_about(out)
    try:
        if about["command"] == "audit":
            return auditing_title(about), "On people whom the model never saw.", auditing_sections(out, about)
        if about["command"] == "demo":
            return (
                "medrep demo",
                "Generated brains at four sites; no real person is shown.",
                demonstration_sections(out),
            )
        if about["command"] == "train":
            title = f"Training: {about['model']} model of {about['cohort']}"
            return title, _AS_DATA, training_sections(out, about)
        if about["command"] == "chart":
            return about["title"], _AS_DATA, chart_sections(out, about)
        return about["title"], _AS_DATA, transform_sections(out, about)
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        raise _damaged(out, error) from None


def read_about(out: Path) -> dict[str, Any]:
    """Return what a folder says of itself, with the ``command`` that wrote it; see `write_report` for errors."""
    try:
        if (out / "audit.json").is_file():
            return {"command": "audit", **read_json((out / "audit.json").read_text(encoding="utf-8"))}
        if (out / CLEAN).is_dir() and (out / LEAKAGE).is_file():
            return {"command": "demo"}
    except (OSError, ValueError) as error:
        raise _damaged(out, error) from None
    about = read_report_data(out, "about")
    if about is None or "command" not in about.content:
        raise MedrepError(
            f"{out}: nothing to report on; give what medrep train, export, counterfactual, chart, audit or demo wrote"
        )
    return dict(about.content)


def _damaged(out: Path, error: Exception) -> MedrepError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MedrepError(f"{out}: its files cannot be read ({reason}); call the command that wrote it again")


_AS_DATA = "Where this page shows or names people, share it only as you would share the data."


_TOLD = ("leakage_excess", "injection_gain", "identity_kept", "utility_change", "cf_effectiveness")
_MOST_FAMILIES = 40
_MOST_CHARACTERS = 14_000_000


def write_comparison(path: Path, runs: Sequence[Path]) -> None:
    """Write a page about several runs of one kind, folders that train, export, counterfactual, chart or audit wrote.

    Raises MedrepError for folders of something else, or of different kinds; all are named.
    """
    named = _named(runs)
    abouts = {name: read_about(out) for name, out in named.items()}
    kinds = {
        name: "export" if about["command"] == "counterfactual" else str(about["command"])
        for name, about in abouts.items()
    }
    if len(set(kinds.values())) > 1:
        different = [f"{name}: {kind}" for name, kind in kinds.items()]
        raise MedrepError(listed("runs of different kinds", different, "compare like with like"))
    kind = kinds[next(iter(named))]
    sections = [Section("The runs", table(_facts(abouts), "What was done"))]
    if kind == "audit":
        sections += _audits(named, abouts)
    elif kind == "train":
        shown = [section for make in (effects_section, pose_section, slider_section) for section in _each(named, make)]
        sections += [*_trainings(named), *shown]
    elif kind == "chart":
        sections += _each(named, centiles_section)
    else:
        sections += [*_each(named, before_after_section), *_each(named, slider_section)]
    write_page(path, f"{len(named)} runs side by side", ", ".join(named), sections)


def _named(runs: Sequence[Path]) -> dict[str, Path]:
    """Return the runs by the shortest ends of their paths that tell them apart."""
    whole = [out.resolve() for out in runs]
    if len(set(whole)) < len(whole):
        raise MedrepError("the same folder is given twice; name each run once")
    for depth in range(1, max(len(out.parts) for out in whole) + 1):
        names = ["/".join(out.parts[-depth:]) for out in whole]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, runs, strict=True))


def _facts(abouts: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    rows = []
    for name, about in abouts.items():
        model = about.get("model", about.get("ModelKind", ""))
        cohort = about.get("cohort", about.get("title", ""))
        options = about.get("options", {})
        removed = options.get("removed", about.get("References", about.get("Covariates", {})))
        rows.append(
            {
                "run": name,
                "command": about["command"],
                "model": model["kind"] if isinstance(model, Mapping) else model,
                "cohort": cohort["name"] if isinstance(cohort, Mapping) else cohort,
                "people": cohort["people"] if isinstance(cohort, Mapping) else about.get("people", ""),
                "moved": ", ".join(f"{key} to {value}" for key, value in removed.items()),
            }
        )
    return pd.DataFrame(rows)


def _audits(named: Mapping[str, Path], abouts: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    prints = {about["cohort"]["fingerprint"] for about in abouts.values()}
    warning = "These audits were not made on the same people: differences between them are not differences of models."
    said = paragraph(warning, "warn") if len(prints) > 1 else paragraph("All were made on the same people.")
    tables = {name: read_audit(out).table for name, out in named.items()}
    gaps = {m for found in tables.values() for m in found["metric"] if str(m).endswith("_gap")}
    sections = [Section("Same people?", said)]
    for metric in (*_TOLD, *sorted(gaps)):
        groups = dict.fromkeys(g for found in tables.values() for g in found.loc[found["metric"] == metric, "group"])
        charts = [
            intervals(
                [_of(name, found, metric, str(group)) for name, found in tables.items()],
                str(group) or "all",
                base=0.0,
            )
            for group in list(groups)[:_MOST_FAMILIES]
        ]
        sections.append(
            Section(metric.replace("_", " "), f'<div class="pair">{"".join(charts)}</div>' if charts else "")
        )
    return sections


def _of(name: str, found: pd.DataFrame, metric: str, group: str) -> ChartRow:
    rows = found[(found["metric"] == metric) & (found["group"] == group)]
    if rows.empty:
        return ChartRow(name, float("nan"), absent="not measured")
    row = rows.iloc[0]
    if row["status"] != "ok":
        return ChartRow(name, float("nan"), note=f"n {row['n']}", absent=str(row["status"]))
    return ChartRow(name, row["estimate"], row["ci_low"], row["ci_high"], note=f"n {row['n']}")


def _trainings(named: Mapping[str, Path]) -> list[Section]:
    histories = {name: pd.read_csv(out / "history.tsv", sep="\t") for name, out in named.items()}
    shares = {name: h[h["metric"] == "variance_share"].set_index("name")["value"] for name, h in histories.items()}
    covariates = dict.fromkeys(covariate for own in shares.values() for covariate in own.index)
    charts = [
        intervals(
            [
                ChartRow(name, float(own.get(covariate, float("nan"))), absent="not in the model")
                for name, own in shares.items()
            ],
            str(covariate),
            bars=True,
            base=0.0,
        )
        for covariate in covariates
    ]
    settings = {
        name: pd.json_normalize(read_yaml((out / "config.yaml").read_text(encoding="utf-8"))).iloc[0]
        for name, out in named.items()
    }
    told = pd.DataFrame(settings).astype(str)
    different = told[told.nunique(axis=1) > 1].rename_axis("setting").reset_index()
    return [
        Section("Variance explained", f'<div class="pair">{"".join(charts)}</div>' if charts else ""),
        Section("Settings that differ", table(different, "Configuration") if len(different) else ""),
    ]


def _each(named: Mapping[str, Path], make: Callable[[Path], Section]) -> list[Section]:
    """Return the section of each run; past a size that opens everywhere, it stays in the run's own report."""
    found, room = [], _MOST_CHARACTERS // 2
    for name, out in named.items():
        section = make(out)
        room -= len(section.content)
        content = (
            section.content if room > 0 else paragraph("Left out to keep this file small; see the run's own report.")
        )
        found.append(Section(f"{name}: {section.heading}", content, section.scripts if room > 0 else ()))
    return found
