"""How much of a removed covariate can be read from what is handed out, beyond what chance and kept covariates tell.

On people the remover never saw (`probe_halves.py`). Of each table T and covariate: `leakage`, the strongest probe's figure;
`leakage_kept`, what kept covariates alone tell; `leakage_excess`, strongest(T) - max(floor of T, kept); and
`leakage_equivalence`, the upper 95% bound of strongest(T) - max(chance, kept), with the p of the hypothesis that this is the
margin or more. The bound counts from chance and not from the floor: as the largest of several figures is too large on a few
people, and the floor is, too, taking off the floor would make it too easy to pass with few people. For the same reason the probe
of the kept covariates is the one that the training half's folds chose, not the best of four on the test half.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.audit.findings import Finding
from medrep.audit.probing.probe_figures import recentred
from medrep.audit.probing.probe_halves import DRAWS, FEWEST, MIN_N, PERMUTATIONS, Halves, Judged
from medrep.audit.probing.probe_suite import PROBES
from medrep.audit.resampling.intervals import LEVEL, percentile_interval, permutation_p
from medrep.audit.tables import refuse_gaps

MARGIN = 0.1


def audit_leakage(
    tables: Mapping[str, Float[np.ndarray, "people _"]],
    values: pd.Series,
    *,
    continuous: bool,
    name: str,
    participants: Shaped[np.ndarray, " people"],
    kept: Float[np.ndarray, "people width"],
    seed: int,
    margin: float = MARGIN,
    permutations: int = PERMUTATIONS,
    draws: int = DRAWS,
    min_n: int = MIN_N,
    probes: Sequence[str] = PROBES,
) -> list[Finding]:
    """Measure what tables tell of one covariate.

    Args:
        tables: Name -> rows of audited people, without missing cells.
        values: The covariate; rows without a value are left out.
        continuous: Whether it is a number (signed squared correlation) or has levels (macro one-vs-rest AUC).
        name: How the covariate is called in groups, ``exported/site``.
        participants: Whose each row is; a participant's rows stay together in halves, folds, exchanges and samples.
        kept: Scaled kept covariates; without columns nothing is kept.
        seed: Of every random step.
        margin: What the excess has to be shown to be under, in units of the figure.
        permutations: Exchanges of labels.
        draws: Bootstrap samples.
        min_n: Fewest participants in the half that judges.
        probes: Which of `PROBES` judge.

    Raises:
        CohortError: Tables with missing cells, or of other people.
    """
    refuse_gaps({**tables, "kept covariates": kept}, len(values))
    halves = Halves.of(
        values,
        participants,
        seed,
        continuous=continuous,
        min_n=min_n,
        permutations=permutations,
        draws=draws,
        probes=probes,
    )
    found = [
        Finding("leakage", f"{table}/{name}={level}", count, status="insufficient", note=_few(count))
        for table in tables
        for level, count in halves.left_out.items()
    ]
    if halves.too_few:
        groups = [("leakage_kept", name)] + [
            (metric, f"{table}/{name}")
            for table in tables
            for metric in ("leakage", "leakage_excess", "leakage_equivalence")
        ]
        return found + [
            Finding(metric, group, halves.people, status="insufficient", note=halves.too_few)
            for metric, group in groups
        ]
    alone = halves.judge(kept)
    at, at_draws = float(alone.figures[alone.chosen]), alone.resampled[:, alone.chosen]
    if not kept.shape[1]:
        note = f"{halves.measure}; nothing is kept"
    else:
        note = f"{halves.measure}, probe chosen on the training half: {alone.probes[alone.chosen]}; {halves.note}"
    low, high = percentile_interval(at_draws[np.isfinite(at_draws)])
    found.append(Finding("leakage_kept", name, halves.people, at, low, high, alone.p, note=note))
    for table, data in tables.items():
        told = halves.judge(data)
        found += _of_table(f"{table}/{name}", halves, told, at, at_draws, margin)
    return found


def _of_table(
    group: str, halves: Halves, told: Judged, kept: float, kept_draws: np.ndarray, margin: float
) -> list[Finding]:
    people, low_high = halves.people, told.interval()
    note = (
        f"{halves.measure} of the strongest probe, {told.strongest_probe}"
        f" ({', '.join(f'{probe} {at:.3f}' for probe, at in zip(told.probes, told.figures, strict=True))});"
        f" floor {told.floor:.3f}; {halves.note}"
    )
    found = [Finding("leakage", group, people, told.strongest, *low_high, told.p, note=note)]
    floor = max(told.floor, kept)
    excess = told.strongest - floor
    draws = recentred(told.strongest_draws - np.maximum(told.floor, kept_draws), excess)
    over = f"kept covariates ({kept:.3f})" if kept > told.floor else f"the floor ({told.floor:.3f})"
    found.append(
        Finding(
            "leakage_excess",
            group,
            people,
            excess,
            *percentile_interval(draws),
            note=f"{halves.measure} over {over}, the larger of the two",
        )
    )
    beyond = told.strongest - max(halves.chance, kept)
    draws = recentred(told.strongest_draws - np.maximum(halves.chance, kept_draws), beyond)
    bound = float(np.quantile(draws, LEVEL)) if len(draws) else float("nan")
    over = "kept covariates" if kept > halves.chance else "chance"
    note = (
        f"upper {LEVEL:.0%} bound of {halves.measure} over {over}, {beyond:.3f}; p: that it is {margin:g} or more;"
        f" {'shown to be under' if bound < margin else 'not shown to be under'} the margin"
    )
    p = permutation_p(margin, draws) if len(draws) else float("nan")
    found.append(Finding("leakage_equivalence", group, people, bound, p=p, note=note))
    return found


def _few(count: int) -> str:
    return f"{count} people; {FEWEST} are needed in each half; left out of the probes"
