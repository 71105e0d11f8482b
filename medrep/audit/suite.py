"""The whole audit of a model: what leaks, what is written in, who is harmed, what is left, what counterfactuals are worth."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from medrep.audit.calibration import audit_calibration
from medrep.audit.counterfactuals import audit_counterfactuals, counterfactual_fairness, outcome_predictor
from medrep.audit.data import LATENTS, AuditData, covariate_design
from medrep.audit.dependence import audit_dependence, audit_independence
from medrep.audit.disentanglement import audit_disentanglement, audit_latents, describe_latents
from medrep.audit.finding import Finding, findings_table
from medrep.audit.groups import Grouping, Least, Split, group_participants
from medrep.audit.holdout_split import Probing
from medrep.audit.identity import audit_identity
from medrep.audit.label_injection import audit_label_injection
from medrep.audit.leakage import audit_leakage
from medrep.audit.means import Sampling
from medrep.audit.metrics import ParticipantMean, ParticipantMetric, person_mean, prediction_metrics
from medrep.audit.predictors import split
from medrep.audit.retention import variance_kept
from medrep.audit.stress import audit_stress
from medrep.audit.subgroups import audit_subgroups
from medrep.audit.utility import audit_utility
from medrep.audit.within_person import audit_within_people
from medrep.cohort.parsing import parse_level, plain_number
from medrep.errors import CohortError
from medrep.models.base import Posterior

_FEW_VALUES = 10


@dataclass(frozen=True)
class AuditOptions:
    """Options of an audit.

    Attributes:
        by: Columns whose groups are compared.
        intersect: Columns whose groups are crossed.
        outcome: A column that the data are for, such as a diagnosis; empty for none.
        prediction: A column with a predictor's output for ``outcome``; empty for none.
        positive: The class of ``outcome`` that a high score stands for; needed where it is not 0 and 1.
        min_n: Fewest participants to say anything.
        margin: Leakage below this excess (AUC or R2) counts as none in the equivalence test.
        seed: Of every draw.
        stress: Further questions, names of `stress.STRESSES`.
    """

    by: tuple[Split, ...] = ()
    intersect: tuple[tuple[Split, ...], ...] = ()
    outcome: str = ""
    prediction: str = ""
    positive: str = ""
    min_n: int = 20
    margin: float = 0.1
    seed: int = 0
    stress: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class AuditResult:
    """Findings of an audit.

    Attributes:
        findings: audit.tsv.
        latents: One row a latent.
        people: Reconstruction error and deviation of everybody, index: key.
    """

    findings: pd.DataFrame
    latents: pd.DataFrame
    people: pd.DataFrame


def run_suite(
    audit_data: AuditData, options: AuditOptions, say: Callable[[str], None] = lambda line: None
) -> AuditResult:
    """Audit a model on people it never saw.

    Args:
        audit_data: The people.
        options: What is asked for.
        say: Called with what is being done.
    """
    scores = audit_data.model.scores(audit_data.dataset)
    people = pd.DataFrame(
        {"reconstruction_error": scores.reconstruction_error, "deviation": scores.deviation},
        index=audit_data.frame.index,
    )
    groupings = group_participants(audit_data.table.assign(**audit_data.frame), options.by, options.intersect)
    metrics: dict[str, ParticipantMetric] = {
        "reconstruction_error": person_mean(
            scores.reconstruction_error, audit_data.participants, audit_data.model.error_unit
        ),
        "deviation": person_mean(scores.deviation, audit_data.participants, "about 1 for a typical person"),
    }
    if options.prediction:
        outcome, prediction = audit_data.table[options.outcome], audit_data.table[options.prediction]
        metrics |= prediction_metrics(outcome, prediction, audit_data.participants, options.positive or None)
    latents = audit_data.model.posterior(audit_data.dataset)
    steps: dict[str, Callable[[], Iterable[Finding]]] = {
        "what probes read": lambda: _leakage(audit_data, options),
        "what depends on covariates": lambda: _independence(audit_data, options),
        "whether labels are written in": lambda: _injection(audit_data, options),
        "groups": lambda: _subgroups(metrics, groupings, options),
        "what is left of the person": lambda: _identity(audit_data, options),
        "what is left of the outcome": lambda: _utility(audit_data, options),
        "latents": lambda: _latents(audit_data, latents, options),
        "counterfactuals": lambda: _counterfactuals(audit_data, options),
    }
    if audit_data.dataset.people < len(audit_data.dataset):
        steps["change within people"] = lambda: audit_within_people(
            audit_data.tables, audit_data.dataset, audit_data.removed, Sampling(options.seed, options.min_n)
        )
    if "deviations" in audit_data.model.capabilities:
        steps["whether z is standard normal"] = lambda: audit_calibration(
            audit_data, options.by, options.intersect, min_n=options.min_n, seed=options.seed
        )
    if options.stress:
        steps["stress"] = lambda: _stress(audit_data, options)
    found: list[Finding] = []
    # Thousands of small products: two threads of BLAS that wait for each other are slower than one, by far on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"):
        for what, step in steps.items():
            say(what)
            found += step()
    described = describe_latents(*latents) if latents[0].shape[1] else pd.DataFrame(columns=["latent", "kind"])
    return AuditResult(findings_table(found), described, people)


def _leakage(audit_data: AuditData, options: AuditOptions) -> list[Finding]:
    """Removed covariates in the data, over what kept ones tell of them; all covariates in the latents, over the floor."""
    found: list[Finding] = []
    latents = {name: table for name, table in audit_data.tables.items() if name in LATENTS}
    data = {name: table for name, table in audit_data.tables.items() if name not in LATENTS}
    asked = [(audit_data.question(name, audit_data.kept), data) for name in audit_data.removed]
    beside = {name: {"raw": data["raw"]} for name in audit_data.model.carried if name not in audit_data.removed}
    asked += [
        (audit_data.question(name), {**beside.get(name, {}), **latents}) for name in audit_data.schema.names if latents
    ]
    for question, tables in asked:
        rows = audit_leakage(
            tables,
            question,
            options.seed,
            trained={"exported": audit_data.people_of_training(question.name)},
            margin=options.margin,
            min_n=options.min_n,
        )
        found += [row for row in rows if question.kept.shape[1] or row.metric != "leakage_kept"]
    return found


def _independence(audit_data: AuditData, options: AuditOptions) -> list[Finding]:
    found: list[Finding] = []
    for name in audit_data.schema.names:
        gone = name in audit_data.target
        tables = {k: v for k, v in audit_data.tables.items() if k == "latents" or (k == "exported" and gone)}
        if tables:
            question = audit_data.question(name, audit_data.kept if gone else ())
            found += audit_independence(tables, question, options.seed, min_n=options.min_n)
    return found


def _injection(audit_data: AuditData, options: AuditOptions) -> list[Finding]:
    return audit_label_injection(
        audit_data.export,
        audit_data.dataset,
        audit_data.kept,
        options.seed,
        exported=audit_data.exported,
        probing=Probing(min_n=options.min_n),
    )


def _subgroups(
    metrics: Mapping[str, ParticipantMetric], groupings: Sequence[Grouping], options: AuditOptions
) -> Iterator[Finding]:
    """Every metric by group; the attributes together where there are two or more."""
    alone = [grouping for grouping in groupings if "," not in grouping.name]
    for name, metric in metrics.items():
        yield from audit_subgroups(name, metric, groupings, least=Least(people=options.min_n), seed=options.seed)
        if len(alone) > 1 and isinstance(metric, ParticipantMean):
            yield from audit_dependence(name, metric, alone, min_n=options.min_n, seed=options.seed)


def _identity(audit_data: AuditData, options: AuditOptions) -> list[Finding]:
    found = audit_identity(audit_data.tables, audit_data.dataset, options.seed, min_n=options.min_n)
    batches = list(audit_data.schema.batches)
    kept = variance_kept(
        audit_data.tables["raw"],
        audit_data.tables["exported"],
        covariate_design(audit_data.frame, audit_data.schema),
        audit_data.participants,
        audit_data.frame[batches].astype(str).agg("|".join, axis=1).to_numpy(object) if batches else None,
        Sampling(options.seed, options.min_n),
    )
    return [*found, kept]


def _utility(audit_data: AuditData, options: AuditOptions) -> list[Finding]:
    if not options.outcome:
        return []
    outcome, continuous = _outcome(audit_data, options.outcome)
    return audit_utility(
        audit_data.tables,
        outcome,
        audit_data.dataset,
        options.seed,
        continuous=continuous,
        min_n=options.min_n,
    )


def _latents(audit_data: AuditData, posterior: Posterior, options: AuditOptions) -> list[Finding]:
    means, sds = posterior
    continuous = [name for name in audit_data.schema.names if audit_data.continuous(name)]
    who, seed, least = audit_data.participants, options.seed, options.min_n
    found = audit_latents(means, sds, who, seed, min_n=least)
    return found + audit_disentanglement(means, audit_data.frame, continuous, who, seed, min_n=least)


def _counterfactuals(audit_data: AuditData, options: AuditOptions) -> list[Finding]:
    """Return findings on counterfactuals, and on how they change the prediction of the outcome."""
    model, dataset, who = audit_data.model, audit_data.dataset, audit_data.participants
    found = audit_counterfactuals(model, dataset, options.seed, min_n=options.min_n)
    if not options.outcome:
        return found
    outcome, continuous = _outcome(audit_data, options.outcome)
    train, judged = split(dataset, options.seed)
    known = train[outcome.iloc[train].notna().to_numpy()]
    try:
        predictor = outcome_predictor(
            audit_data.data[known], outcome.iloc[known], who[known], options.seed, continuous=continuous
        )
    except CohortError as error:
        n = len(np.unique(who[known]))
        row = Finding("counterfactual_fairness", options.outcome, n, status="insufficient", note=str(error))
        return [*found, row]
    return found + counterfactual_fairness(predictor, model, dataset.take(judged), options.seed, min_n=options.min_n)


def _stress(audit_data: AuditData, options: AuditOptions) -> list[Finding]:
    outcome = _outcome(audit_data, options.outcome) if options.outcome else None
    return audit_stress(audit_data, options.stress, outcome, min_n=options.min_n, seed=options.seed)


def _outcome(audit_data: AuditData, name: str) -> tuple[pd.Series, bool]:
    """Return a column of the table with missing cells as such, and whether it is a number of more than a few values."""
    cells = audit_data.table[name].map(lambda cell: parse_level(str(cell)))
    numbers = cells.map(lambda cell: None if cell is None else plain_number(cell)).astype(float)
    continuous = bool(cells.nunique() > _FEW_VALUES and (numbers.notna() | cells.isna()).all())
    return (numbers if continuous else cells).rename(name), continuous
