"""Who is in a cohort: ages and levels of covariates by site, and what is confounded with what. Counts, nobody's own row."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medrep.audit.confounding import confounding, small_levels
from medrep.cohort.covariates import Categorical, Continuous, CovariateSchema
from medrep.cohort.description import describe_covariates
from medrep.exhibits.store import Exhibit

_BINS = 24
_EVERYBODY = "everybody"


def cohort_summary(
    frame: pd.DataFrame,
    schema: CovariateSchema,
    notes: Sequence[str] = (),
    participants: Sequence[str] | None = None,
) -> Exhibit:
    """Summarise the covariates of people.

    Args:
        frame: Their covariates, in the form of the schema.
        schema: Of the model.
        notes: What was interpreted while reading.
        participants: Whose each row is; by default each is a person.
    """
    grouped_by = next(iter(schema.batches), "") or next(
        (c.declared.name for c in schema.fitted if isinstance(c, Categorical)), ""
    )
    groups = frame[grouped_by].astype(str) if grouped_by else pd.Series(_EVERYBODY, index=frame.index)
    numbers = [_spread(frame, covariate, groups) for covariate in schema.fitted if isinstance(covariate, Continuous)]
    levels = [
        {"name": c.declared.name, "levels": [[str(level), int(n)] for level, n in _counts(frame[c.declared.name])]}
        for c in schema.fitted
        if isinstance(c, Categorical)
    ]
    content = {
        "people": len(frame) if participants is None else len(set(participants)),
        "grouped_by": grouped_by,
        "covariates": describe_covariates(schema).to_dict("records"),
        "numbers": numbers,
        "levels": levels,
        "confounding": confounding(frame, schema, participants).to_dict("records"),
        "small": small_levels(schema, frame=frame, participants=participants),
        "notes": list(notes),
    }
    return Exhibit(content)


def _counts(values: pd.Series) -> list[tuple[str, int]]:
    return list(values.astype(str).value_counts().sort_index().items())


def _spread(frame: pd.DataFrame, covariate: Continuous, groups: pd.Series) -> dict[str, object]:
    """Return a histogram for each group, all over the same edges."""
    values = frame[covariate.declared.name].astype(float)
    edges = np.linspace(float(values.min()), float(max(values.max(), values.min() + 1e-9)), _BINS + 1)
    rows = []
    for level, own in values.groupby(groups.to_numpy(), sort=True):
        counts = np.histogram(own, edges)[0]
        sd = float(own.std()) if len(own) > 1 else 0.0
        rows.append(
            {
                "group": str(level),
                "n": len(own),
                "mean": float(own.mean()),
                "sd": sd,
                "counts": [int(count) for count in counts],
            }
        )
    return {
        "name": covariate.declared.name,
        "unit": covariate.declared.unit,
        "edges": [float(edge) for edge in edges],
        "groups": rows,
    }
