"""The report of an audit: what leaks, who is drawn how well, what counterfactuals are worth; then every figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medrep.report.html import ChartRow, Section, details, intervals, paragraph, table
from medrep.report.sections_training import certificate_section, facts_section, sheet_sections
from medrep.tracking.audits import read_audit

_CHAPTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "What probes read",
        "A linear reader taught by four fifths of these people, among people alike in the kept covariates. The excess is over"
        " exchanged labels; beyond training: over what a model without fault leaves that learned from as few people. Shape:"
        " whatever is not a mean.",
        (
            "leakage",
            "leakage_kept",
            "leakage_excess",
            "leakage_beyond_training",
            "leakage_shape",
            "leakage_equivalence",
        ),
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
        (
            "reidentification",
            "reidentification_change",
            "test_retest",
            "identity_kept",
            "variance_kept",
            "utility",
            "utility_change",
        ),
    ),
    (
        "Change within people",
        "Of people with several visits: changes after and before, with what a change of scanner may take left out of both (the"
        " slope is 1 where every change is as it was, 0 where none is left); the difference that a change of scanner makes within"
        " people, in within-person deviations, and how often a person's own visits tell it (chance 0.5).",
        ("change_correlation", "change_slope", "within_switch", "within_switch_auc"),
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
        "Latents at their extremes",
        "Every latent is moved from its 5 % to its 95 % quantile in people whom the model never saw, and predictors that other"
        " real people taught read what becomes of their data: the largest effect of any latent on each reading, in deviations of"
        " the reading between people. Below, what else is measured.",
        ("traversal_reading",),
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
    (
        "Planted cues",
        "Which of three cues that were planted in these people's data is kept (1: as well told as in the data as they are), and"
        " which one a reader follows in people in whom a widespread one and a focal one, right more often, conflict.",
        ("cue_kept", "cue_bias", "cue_followed", "cue_followed_change"),
    ),
    (
        "Shortcuts",
        "Is a target read from a covariate that goes with it? Accuracies in people in whom the covariate suggests it rightly"
        " (majority), and in whom it conflicts (minority). Curvature below 0: the shortcut is learned first.",
        ("majority_accuracy", "minority_accuracy", "minority_gap", "minority_curvature"),
    ),
    (
        "Mechanisms that differ between sites",
        "Columns whose relation to a kept covariate is another one at each site, in the data as they are and in the export:"
        " location and scale cannot mend that. Slopes: their deviation over sites, in deviations of the column.",
        ("mechanism_columns", "mechanism_slope"),
    ),
    (
        "Robustness of effects",
        "How strong a confounder that nobody measured would have to be, as partial R2 with covariate and column, to explain an"
        " effect away; what one as strong as the batches leaves of it; and what the batches alone tell of the outcome.",
        (
            "partial_r2",
            "robustness_value",
            "robustness_significant",
            "effect_left",
            "acquisition_covariate",
            "acquisition_outcome",
            "acquisition_outcome_excess",
        ),
    ),
    (
        "Regions that labels are read from",
        "What a linear reader tells of each label; that less what it tells where a region's columns are what all others let"
        " expect; and what the region alone tells. The region most relied on comes first.",
        ("region_full", "region_reliance", "region_only"),
    ),
    (
        "Corrupted scans",
        "The same people's scans, blurred, noisy, bent, coarse or moved: how scores change, how many a shift gate rejects, and"
        " what a reader taught by clean scans still tells.",
        (
            "corruption_error",
            "corruption_deviation",
            "corruption_outside",
            "corruption_moved",
            "corruption_flagged",
            "corruption_read",
            "corruption_read_change",
            "corruption_bias",
        ),
    ),
)
_DRAWN = 10  # of what a label is told by; the table has all
_LEAKAGE = ("leakage", "leakage_excess")
_BY_GROUP = ("_gap", "_gap_excess", "_trend", "_smooth")
_TOGETHER = ("joint_dependence", "concatenated_dependence")


def auditing_title(about: Mapping[str, Any]) -> str:
    """Return the title of an audit's page."""
    return f"Audit of a {about['model']['kind']} model on {about['cohort']['name']}"


def auditing_sections(out: Path, about: Mapping[str, Any]) -> list[Section]:
    """Return the sections of what `medrep audit` wrote to OUT; `about` is audit.json."""
    findings = read_audit(out).table
    few = int((findings["status"] != "ok").sum())
    said = (
        f"{len(findings)} figures; of {few} nothing can be said, for want of people: they count as nothing."
        if few
        else ""
    )
    options = about["options"]
    pairs = {
        "Command": "audit",
        "Model": about["model"]["kind"],
        "Cohort": about["cohort"]["name"],
        "People, never seen by the model": about["cohort"]["people"],
        "Removed": ", ".join(f"{name} to {value}" for name, value in options["removed"].items()),
        "Kept": ", ".join(options["kept"]),
        "Compared by": options["by"] or "the model's covariates",
        "Result": options["outcome"],
        "Fewest people of a group": options["min_n"],
        "That nobody was in training": "checked" if options["training_known"] else "could not be checked",
        "Seed": about["seed"],
    }
    asked = facts_section(pairs)
    leaks, *others = [_chapter(*chapter, findings) for chapter in _CHAPTERS]
    latents = out / "latent_diagnostics.tsv"
    return [
        Section(asked.heading, asked.content + paragraph(said, "warn")),
        leaks,
        *_by_group(findings),
        *others,
        Section("Each latent", table(pd.read_csv(latents, sep="\t"), "One row a latent") if latents.is_file() else ""),
        _extremes(out / "traversals.tsv"),
        certificate_section(about.get("certificates", [])),
        *sheet_sections(about["model"]["kind"]),
    ]


def _extremes(path: Path) -> Section:
    """Return the effects of each latent, drawn, and all of them; nothing where nobody asked."""
    heading = "Each latent at its extremes"
    if not path.is_file():
        return Section(heading, "")
    found, content = pd.read_csv(path, sep="\t"), ""
    for latent, own in found.groupby("latent"):
        rows = [
            ChartRow(
                f"{row['kind']} {row['property']}",
                float(row["effect"]),
                float(row["ci_low"]),
                float(row["ci_high"]),
                note=f"n {row['n']}",
            )
            for row in own.to_dict("records")
        ]
        content += intervals(rows, f"latent {latent}: effect and 95 % interval, in deviations between people", base=0.0)
    return Section(heading, content + details("Every figure", table(found, heading)))


def _by_group(findings: pd.DataFrame) -> list[Section]:
    """Return a chapter a metric that was measured by group, and one of attributes together."""
    known = {metric for *_, metrics in _CHAPTERS for metric in metrics}
    measured = [str(metric) for metric in dict.fromkeys(findings["metric"]) if metric not in known]
    said = "Means and 95 % intervals; groups of too few people are listed as insufficient, which is never a pass."
    sections = []
    for metric in (metric for metric in measured if not metric.endswith((*_BY_GROUP, *_TOGETHER))):
        family = [metric, *(metric + ending for ending in _BY_GROUP)]
        sections.append(_chapter(f"By group: {metric.replace('_', ' ')}", said, family, findings, drawn=metric))
    together = "Distance covariance of a metric with several attributes at once."
    return [*sections, _chapter("Several attributes at once", together, _TOGETHER, findings)]


def _chapter(heading: str, said: str, metrics: Sequence[str], findings: pd.DataFrame, *, drawn: str = "") -> Section:
    own = findings[findings["metric"].isin(metrics)]
    if own.empty:
        return Section(heading, "")
    content = paragraph(said)
    for metric in [drawn] if drawn else list(dict.fromkeys(own["metric"])):
        measured = own[own["metric"] == metric]
        shown = measured.groupby(measured["group"].str.partition(" & ")[0], sort=False).head(_DRAWN)
        marks = [_mark(row, own) for row in shown.to_dict("records")]
        beyond = "" if len(shown) == len(measured) else f" (of each label the first {_DRAWN})"
        floors = "what chance, or the kept covariates, give" if any(mark.floor == mark.floor for mark in marks) else ""
        bars = metric in _LEAKAGE
        base = 0.0 if bars or metric.endswith(("_change", "_gain", "_excess", "_gap")) else None
        content += intervals(
            marks,
            f"{metric.replace('_', ' ')}: estimate and 95 % interval{beyond}",
            bars=bars,
            base=base,
            floor_name=floors,
        )
    return Section(heading, content + details("Every figure", table(own, heading)))


def _mark(row: Mapping[str, Any], findings: pd.DataFrame) -> ChartRow:
    label, note = str(row["group"]) or "all", f"n {row['n']}"
    if row["status"] != "ok":
        return ChartRow(label, float("nan"), note=note, absent=str(row["status"]))
    same = (findings["metric"] == "leakage_excess") & (findings["group"] == row["group"])
    excess = findings.loc[same, "estimate"]
    floor = (
        float(row["estimate"]) - float(excess.iloc[0]) if row["metric"] == "leakage" and len(excess) else float("nan")
    )
    return ChartRow(label, float(row["estimate"]), float(row["ci_low"]), float(row["ci_high"]), floor, note)
