"""What was done and with which model: facts, certificate, the model's sheet, how to cite."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medrep import __version__
from medrep.erasure import Certificate
from medrep.models import MODELS
from medrep.report.elements import code, details, facts, listing, paragraph, table
from medrep.report.page import Section


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
