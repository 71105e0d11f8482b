"""A covariate schema as a table for people to read, and tables that take their colours from a notebook, light or dark."""

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.values import shown

_TABLE = "border-collapse:collapse;color:inherit;background:transparent;margin:0.25em 0"
_CELL = "text-align:left;padding:0.1em 0.8em 0.1em 0;border:0;border-bottom:1px solid #8886;background:transparent"


def describe_covariates(schema: CovariateSchema) -> pd.DataFrame:
    """Return one row a covariate: name, kind, role, what training people had, and the reference."""
    rows = []
    for covariate in schema.fitted:
        declared = covariate.declared
        if isinstance(covariate, Continuous):
            had = f"{covariate.mean:.4g} +- {covariate.sd:.3g} {declared.unit}, {covariate.low:g} to {covariate.high:g}"
        else:
            had = ", ".join(f"{level} ({n})" for level, n in zip(covariate.levels, covariate.counts, strict=True))
        rows.append((declared.name, declared.kind, declared.role, had, covariate.reference))
    return pd.DataFrame(rows, columns=["covariate", "kind", "role", "training people", "reference"])


def html_table(headings: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; everything is escaped, numbers have four digits."""
    head = "".join(f'<th scope="col" style="{_CELL}">{escape(str(name))}</th>' for name in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(shown(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
