"""A covariate schema as a table for people to read."""

import pandas as pd

from medrep.cohort.covariates import Continuous, CovariateSchema


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
