"""What a notebook shows of a fitted estimator, below scikit-learn's diagram."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from medrep.cohort.description import describe_covariates, html_table
from medrep.cohort.values import shown
from medrep.erasure import Certificate
from medrep.models import Model


def summary_html(
    model: Model,
    people: int,
    target: Mapping[str, str | float],
    history: pd.DataFrame,
    certificates: Sequence[Certificate],
    *,
    latents: bool,
) -> str:
    """Return a table of covariates, and a line for each certificate.

    Args:
        model: The fitted model.
        people: Of training.
        target: Removed covariate -> reference.
        history: Of the fit; its ``variance_share`` is shown.
        certificates: What the guard leaves.
        latents: Whether latents are handed out, from which every covariate is removed.
    """
    shares = history[history["metric"] == "variance_share"].set_index("name")["value"]
    rows = [
        (
            row["covariate"],
            f"{row['kind']}, {row['role']}",
            row["training people"],
            "removed" if latents else _becomes(target.get(row["covariate"])),
            f"{100 * shares[row['covariate']]:.1f} %" if row["covariate"] in shares else "",
        )
        for row in describe_covariates(model.schema).to_dict("records")
    ]
    headings = ("covariate", "kind", "training people", "after removal", "variance")
    known = f"{people} people, " if people else ""
    lines = "".join(f"<div>{escape(_forecast(certificate))}</div>" for certificate in certificates)
    return (
        f"<div><strong>medrep {escape(model.kind)}</strong>: {known}{model.columns.count} features"
        f"{html_table(headings, rows)}{lines}</div>"
    )


def _becomes(reference: str | float | None) -> str:
    return "kept" if reference is None else f"-> {shown(reference)}"


def _forecast(certificate: Certificate) -> str:
    return (
        f"Certificate: {certificate.rank} directions erased; a linear probe of {certificate.covariate} on the latents of new"
        f" people, forecast: {certificate.forecast}"
    )
