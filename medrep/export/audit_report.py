"""An audit as pages and pictures: what leaks, who is drawn how well, what counterfactuals are worth; then every figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from medrep.export.interval_plot import Interval, interval_plot
from medrep.export.report import Section, write_report

_NUMBERS = ["estimate", "ci_low", "ci_high", "p", "q"]
_CHAPTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "What probes read",
        "Strongest of four probes, trained on one half of these people and judged on the other. The excess is over the floor of"
        " exchanged labels and over what the kept covariates tell by themselves.",
        ("leakage", "leakage_kept", "leakage_excess", "leakage_equivalence"),
    ),
    ("What depends on covariates", "Distance correlation, bias-corrected.", ("dependence", "dependence_given_kept")),
    (
        "What is written in",
        "Labels of kept covariates are exchanged before the export: nothing may tell the exchanged ones, and the true ones may"
        " not become easier to read than in the data as they are.",
        ("injection", "injection_gain"),
    ),
    (
        "What is left of the person and of the outcome",
        "Before and after.",
        ("reidentification", "reidentification_change", "test_retest", "identity_kept", "utility", "utility_change"),
    ),
    (
        "Latents",
        "What they carry, and what they tell of covariates above chance.",
        (
            "latents_active",
            "latents_passive",
            "latents_mixed",
            "info_modularity",
            "info_compactness",
            "info_explicitness",
        ),
    ),
    (
        "Counterfactuals",
        "A counterfactual is the model's answer near its support, not a causal fact.",
        (
            "cf_composition",
            "cf_reversibility",
            "cf_effectiveness",
            "cf_effectiveness_gap",
            "cf_minimality",
            "counterfactual_fairness",
        ),
    ),
)
_FIRST = ("leakage", "leakage_excess")
_BY_GROUP = ("_gap", "_gap_excess", "_trend", "_smooth")
_TOGETHER = ("joint_dependence", "concatenated_dependence")


def write_audit_report(
    folder: Path, title: str, findings: pd.DataFrame, latents: pd.DataFrame, about: Mapping[str, object], sheet: str
) -> None:
    """Write report.html and the pictures in it as figures/*.png.

    Args:
        folder: Where to.
        title: Of the page.
        findings: audit.tsv.
        latents: One row a latent.
        about: What was audited, and how.
        sheet: The model sheet.
    """
    (folder / "figures").mkdir()
    shown = pd.DataFrame(list(about.items()), columns=["what", ""]).astype(str)
    few = int((findings["status"] != "ok").sum())
    said = f"{len(findings)} figures; of {few} nothing can be said, for want of people." if few else ""
    leaks, *others = [_chapter(folder, *chapter, findings) for chapter in _CHAPTERS]
    chapters = [leaks, *_by_group(folder, findings), *others, Section("Each latent", "", latents)]
    full = [section for section in chapters if section.table is not None and len(section.table)]
    sections = [Section("What was audited", said, shown), *full, Section("Model sheet", code=sheet)]
    write_report(folder / "report.html", title, sections)


def _by_group(folder: Path, findings: pd.DataFrame) -> list[Section]:
    """Return a chapter a metric that was measured by group, and one of attributes together."""
    known = {metric for *_, metrics in _CHAPTERS for metric in metrics}
    measured = [str(metric) for metric in dict.fromkeys(findings["metric"]) if metric not in known]
    text = "Means and 95% intervals; groups of too few people are listed and count as nothing."
    sections = []
    for metric in (metric for metric in measured if not metric.endswith((*_BY_GROUP, *_TOGETHER))):
        family = [metric, *(metric + ending for ending in _BY_GROUP)]
        heading = f"By group: {metric.replace('_', ' ')}"
        sections.append(_chapter(folder, heading, text, family, findings, picture=metric))
    text = "Distance covariance of a metric with several attributes at once."
    return [*sections, _chapter(folder, "Several attributes at once", text, _TOGETHER, findings)]


def _chapter(
    folder: Path, heading: str, text: str, metrics: Sequence[str], findings: pd.DataFrame, *, picture: str = ""
) -> Section:
    own = findings[findings["metric"].isin(metrics)]
    if own.empty:
        return Section(heading)
    table = own.copy()
    table[_NUMBERS] = table[_NUMBERS].map(lambda value: "" if value != value else f"{value:.3g}")
    # Levels without people enough are in the table; by group they are drawn too, so that nobody is overlooked.
    drawn = own[own["metric"].isin([picture] if picture else _FIRST) & ((own["status"] == "ok") | bool(picture))]
    if drawn.empty:
        return Section(heading, text, table)
    rows = [_interval(row, own, with_metric=not picture) for row in drawn.to_dict("records")]
    floor = "what chance, or the kept covariates, give" if any(row.floor == row.floor for row in rows) else ""
    image = interval_plot(rows, heading, "estimate and 95% interval", floor)
    (folder / "figures" / f"{picture or metrics[0]}.png").write_bytes(image)
    alt = f"{heading}: {len(rows)} estimates with their intervals; the figures stand in the table below"
    return Section(heading, text, table, picture=image, alt=alt)


def _interval(row: Mapping[str, object], findings: pd.DataFrame, *, with_metric: bool) -> Interval:
    label = f"{row['group']} ({row['n']})"
    name = f"{str(row['metric']).replace('_', ' ')} {label}" if with_metric else label
    if row["status"] != "ok":
        return Interval(name, float("nan"))
    figures = (float(str(row[column])) for column in ("estimate", "ci_low", "ci_high"))
    estimate, low, high = figures
    # What leakage is in excess of.
    same = (findings["metric"] == "leakage_excess") & (findings["group"] == row["group"])
    excess = findings.loc[same, "estimate"]
    floor = estimate - float(excess.iloc[0]) if row["metric"] == "leakage" and len(excess) else float("nan")
    return Interval(name, estimate, low, high, floor)
