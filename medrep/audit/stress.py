"""Stress: questions that an audit asks only where somebody names them, since they take time of their own."""

from collections.abc import Sequence

import pandas as pd

from medrep.audit.corruptions import audit_corruptions
from medrep.audit.cues import audit_cues
from medrep.audit.data import AuditData
from medrep.audit.finding import Finding
from medrep.audit.mechanisms import audit_mechanisms
from medrep.audit.regions import MOST_FEATURES, audit_regions, usual_regions
from medrep.audit.robustness import audit_robustness
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.regions import Regions
from medrep.errors import MedrepError, listed

CUES, MECHANISMS, ROBUSTNESS, TRAVERSALS = "cues", "mechanisms", "robustness", "traversals"
REGIONS, CORRUPTIONS = "regions", "corruptions"
STRESSES = (CUES, MECHANISMS, ROBUSTNESS, REGIONS, CORRUPTIONS, TRAVERSALS)


def check_stress(
    asked: Sequence[str],
    schema: CovariateSchema,
    removed: Sequence[str],
    *,
    regions: bool = False,
    features: int = 0,
    scans: bool = False,
    without_latents: str = "",
) -> None:
    """Refuse what cannot be asked of a model.

    Args:
        asked: Names of `STRESSES`.
        schema: The model's covariates.
        removed: Covariates that are taken out of what is handed out.
        regions: Whether it is said which column is of which region.
        features: How many features the model has; 0 where its columns have no names.
        scans: Whether the model's columns are voxels of scans.
        without_latents: Why the model has no latents; empty where it has.

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
    if REGIONS in asked and not (regions or scans or 0 < features <= MOST_FEATURES):
        many = (
            f"{features} features, of which {MOST_FEATURES} at most are taken each for a region; " if features else ""
        )
        wrong.append(
            f"--stress {REGIONS}: {many}give --regions FILE, a table with the columns feature and region, or of volumes a label"
            " image on the model's grid"
        )
    if regions and REGIONS not in asked:
        wrong.append(f"--regions: is for --stress {REGIONS}; ask for it, too")
    if CORRUPTIONS in asked and not scans:
        wrong.append(f"--stress {CORRUPTIONS}: needs scans to corrupt; the model's columns are no voxels of volumes")
    if TRAVERSALS in asked and without_latents:
        wrong.append(f"--stress {TRAVERSALS}: {without_latents}")
    if wrong:
        raise MedrepError(listed("stress that cannot be asked", wrong, f"there are {', '.join(STRESSES)}"))


def audit_stress(
    data: AuditData,
    asked: Sequence[str],
    outcome: "tuple[pd.Series, bool] | None" = None,
    *,
    regions: Regions | None = None,
    min_n: int = 20,
    seed: int = 0,
) -> list[Finding]:
    """Answer the questions that were named; what latents do at their extremes is asked by itself (`traversals`).

    Args:
        data: People whom the model never saw.
        asked: Names of `STRESSES`.
        outcome: What the data are for, and whether it is a number; None: none is named.
        regions: Of the model's columns; None: `usual_regions`.
        min_n: Fewest people.
        seed: Of every draw.
    """
    found: list[Finding] = []
    if CUES in asked:
        found += audit_cues(data, outcome, min_n=min_n, seed=seed)
    if MECHANISMS in asked:
        found += audit_mechanisms(data, min_n=min_n, seed=seed)
    if ROBUSTNESS in asked:
        found += audit_robustness(data, outcome, min_n=min_n, seed=seed)
    if REGIONS in asked:
        found += audit_regions(
            data, regions or usual_regions(data.model.columns, data.data), outcome, min_n=min_n, seed=seed
        )
    if CORRUPTIONS in asked:
        found += audit_corruptions(data, outcome, min_n=min_n, seed=seed)
    return found
