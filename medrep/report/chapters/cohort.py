"""Who is in a cohort, and what is confounded with what."""

from pathlib import Path

import pandas as pd

from medrep.exhibits.store import read_exhibit
from medrep.report.elements import code, details, listing, paragraph, table
from medrep.report.marks import Mark, Spread, histograms, intervals
from medrep.report.page import Section


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
