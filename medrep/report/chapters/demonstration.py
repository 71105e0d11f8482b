"""The report of the demo: the cleaned half beside the truth, what probes read, and what the model learned from the other half."""

from pathlib import Path

import pandas as pd

from medrep.exhibits.store import read_exhibit
from medrep.report.chapters.before_after import before_after_section
from medrep.report.chapters.cohort import cohort_section
from medrep.report.chapters.effects import effects_section
from medrep.report.chapters.model import sheet_sections
from medrep.report.chapters.moving import latents_section, moved_facts
from medrep.report.elements import picture, table
from medrep.report.marks import Mark, intervals
from medrep.report.page import Section
from medrep.report.sliders import slider_section

CLEAN, TRAINED, PICTURE, LEAKAGE = "clean", "trained", "before_after.png", "leakage.tsv"


def demonstration_sections(out: Path) -> list[Section]:
    """Return the sections of what `medrep demo` wrote."""
    clean, exhibit = out / CLEAN, read_exhibit(out / CLEAN, "about")
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
        marks = [Mark(state, float(row[state]), floor=float(floor)) for state in states]
        name = f"{row['covariate']}, {row['role']}: strongest of three probes"
        base = 0.5 if "AUC" in str(row["covariate"]) else 0.0  # chance
        floor_name = "age and sex alone" if floor == floor else ""
        content += intervals(marks, name, bars=True, base=base, floor_name=floor_name)
    return [
        moved_facts(clean, about),
        Section("Unseen people beside the truth", shown),
        Section("What probes read", content + table(probes, LEAKAGE)),
        effects_section(out / TRAINED),
        before_after_section(clean),
        slider_section(clean),
        cohort_section(clean, "Cohort"),
        latents_section(clean),
        *sheet_sections(about["ModelKind"]),
    ]
