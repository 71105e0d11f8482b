"""Stress: questions that an audit asks only where somebody names them, since they take time of their own."""

from collections.abc import Sequence

import pandas as pd

from medrep.audit.data import AuditData
from medrep.audit.finding import Finding
from medrep.audit.mechanisms import audit_mechanisms
from medrep.audit.robustness import audit_robustness
from medrep.cohort.covariates import CovariateSchema
from medrep.errors import MedrepError, listed
from medrep.models import Model

MECHANISMS, ROBUSTNESS, TRAVERSALS = "mechanisms", "robustness", "traversals"
STRESSES = (MECHANISMS, ROBUSTNESS, TRAVERSALS)


def check_stress(
    asked: Sequence[str], schema: CovariateSchema, removed: Sequence[str], model: "Model | None" = None
) -> None:
    """Refuse what cannot be asked of a model.

    Args:
        asked: Names of `STRESSES`.
        schema: The model's covariates.
        removed: Covariates that are taken out of what is handed out.
        model: The model, where it is known.

    Raises:
        MedrepError: All names that are not known, and all questions that lack the covariates they ask about.
    """
    wrong = [f"--stress {name}: not known" for name in asked if name not in STRESSES]
    if MECHANISMS in asked and not schema.batches:
        wrong.append(
            f"--stress {MECHANISMS}: the model has no batch covariate, such as site, between whose levels to compare"
        )
    if MECHANISMS in asked and not [name for name in schema.names if name not in (*schema.batches, *removed)]:
        wrong.append(f"--stress {MECHANISMS}: no covariate is kept whose effect could differ; name fewer in --remove")
    if TRAVERSALS in asked and model is not None and (refused := model.refusal("latents")):
        wrong.append(f"--stress {TRAVERSALS}: {refused}")
    if wrong:
        raise MedrepError(listed("stress that cannot be asked", wrong, f"there are {', '.join(STRESSES)}"))


def audit_stress(
    data: AuditData,
    asked: Sequence[str],
    outcome: "tuple[pd.Series, bool] | None" = None,
    *,
    min_n: int = 20,
    seed: int = 0,
) -> list[Finding]:
    """Answer the questions that were named; what latents do at their extremes is asked by itself (`traversals`).

    Args:
        data: People whom the model never saw.
        asked: Names of `STRESSES`.
        outcome: What the data are for, and whether it is a number; None: none is named.
        min_n: Fewest people.
        seed: Of every draw.
    """
    found: list[Finding] = []
    if MECHANISMS in asked:
        found += audit_mechanisms(data, min_n=min_n, seed=seed)
    if ROBUSTNESS in asked:
        found += audit_robustness(data, outcome, min_n=min_n, seed=seed)
    return found
