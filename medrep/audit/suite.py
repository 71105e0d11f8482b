"""The whole audit of a model: what leaks, what is written in, who is harmed, what is left, what counterfactuals are worth."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from medrep.audit.counterfactuals import audit_counterfactuals, counterfactual_fairness, outcome_predictor
from medrep.audit.data import Audited, covariate_design
from medrep.audit.dependence import audit_dependence, audit_independence
from medrep.audit.disentanglement import audit_informedness, audit_latents, describe_latents
from medrep.audit.finding import Finding, findings_table
from medrep.audit.groups import Grouping, Least, Split, group_people
from medrep.audit.holdout_split import Probing
from medrep.audit.identity import audit_identity
from medrep.audit.label_injection import audit_injection
from medrep.audit.leakage import audit_leakage
from medrep.audit.means import Sampling
from medrep.audit.metrics import PersonMean, PersonMetric, person_mean, prediction_metrics
from medrep.audit.predictors import halves
from medrep.audit.retention import variance_kept
from medrep.audit.subgroups import audit_subgroups
from medrep.audit.utility import audit_utility
from medrep.cohort.parsing import parse_level, plain_number
from medrep.errors import CohortError
from medrep.models.base import Posterior

_FEW_VALUES = 10


@dataclass(frozen=True)
class AuditOptions:
    """What an audit is asked for.

    Attributes:
        by: Columns whose groups are compared.
        intersect: Columns whose groups are crossed.
        outcome: A column that the data are for, such as a diagnosis; empty for none.
        prediction: A column with a predictor's output for ``outcome``; empty for none.
        positive: The class of ``outcome`` that a high score stands for; needed where it is not 0 and 1.
        min_n: Fewest participants to say anything.
        margin: Leakage below this excess (AUC or R2) counts as none in the equivalence test.
        seed: Of every draw.
    """

    by: tuple[Split, ...] = ()
    intersect: tuple[tuple[Split, ...], ...] = ()
    outcome: str = ""
    prediction: str = ""
    positive: str = ""
    min_n: int = 20
    margin: float = 0.1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class AuditResult:
    """What was found.

    Attributes:
        findings: audit.tsv.
        latents: One row a latent.
        people: Reconstruction error and deviation of everybody, index: key.
    """

    findings: pd.DataFrame
    latents: pd.DataFrame
    people: pd.DataFrame


def run_audit(audited: Audited, options: AuditOptions, say: Callable[[str], None] = lambda line: None) -> AuditResult:
    """Audit a model on people it never saw.

    Args:
        audited: The people.
        options: What is asked for.
        say: Called with what is being done.
    """
    scores = audited.model.scores(audited.dataset)
    people = pd.DataFrame(
        {"reconstruction_error": scores.reconstruction_error, "deviation": scores.deviation}, index=audited.frame.index
    )
    groupings = group_people(audited.table.assign(**audited.frame), options.by, options.intersect)
    metrics: dict[str, PersonMetric] = {
        "reconstruction_error": person_mean(
            scores.reconstruction_error, audited.participants, audited.model.error_unit
        ),
        "deviation": person_mean(scores.deviation, audited.participants, "about 1 for a typical person"),
    }
    if options.prediction:
        outcome, prediction = audited.table[options.outcome], audited.table[options.prediction]
        metrics |= prediction_metrics(outcome, prediction, audited.participants, options.positive or None)
    latents = audited.model.posterior(audited.dataset)
    steps: dict[str, Callable[[], Iterable[Finding]]] = {
        "what probes read": lambda: _leakage(audited, options),
        "what depends on covariates": lambda: _independence(audited, options),
        "whether labels are written in": lambda: _injection(audited, options),
        "groups": lambda: _subgroups(metrics, groupings, options),
        "what is left of the person": lambda: _identity(audited, options),
        "what is left of the outcome": lambda: _utility(audited, options),
        "latents": lambda: _latents(audited, latents, options),
        "counterfactuals": lambda: _counterfactuals(audited, options),
    }
    found: list[Finding] = []
    # Thousands of small products: two threads of BLAS that wait for each other are slower than one, by far on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"):
        for what, step in steps.items():
            say(what)
            found += step()
    described = describe_latents(*latents) if latents[0].shape[1] else pd.DataFrame(columns=["latent", "kind"])
    return AuditResult(findings_table(found), described, people)


def _leakage(audited: Audited, options: AuditOptions) -> list[Finding]:
    """Removed covariates in the data, over what kept ones tell of them; all covariates in the latents, over the floor."""
    found: list[Finding] = []
    latents = {name: table for name, table in audited.tables.items() if name == "latents"}
    data = {name: table for name, table in audited.tables.items() if name != "latents"}
    asked = [(audited.question(name, audited.kept), data) for name in audited.removed]
    asked += [(audited.question(name), latents) for name in audited.schema.names if latents]
    for question, tables in asked:
        rows = audit_leakage(
            tables,
            question,
            options.seed,
            trained={"exported": audited.people_of_training(question.name)},
            margin=options.margin,
            min_n=options.min_n,
        )
        found += [row for row in rows if question.kept.shape[1] or row.metric != "leakage_kept"]
    return found


def _independence(audited: Audited, options: AuditOptions) -> list[Finding]:
    found: list[Finding] = []
    for name in audited.schema.names:
        gone = name in audited.target
        tables = {k: v for k, v in audited.tables.items() if k == "latents" or (k == "exported" and gone)}
        if tables:
            question = audited.question(name, audited.kept if gone else ())
            found += audit_independence(tables, question, options.seed, min_n=options.min_n)
    return found


def _injection(audited: Audited, options: AuditOptions) -> list[Finding]:
    return audit_injection(
        audited.export,
        audited.dataset,
        audited.kept,
        options.seed,
        exported=audited.exported,
        probing=Probing(min_n=options.min_n),
    )


def _subgroups(
    metrics: Mapping[str, PersonMetric], groupings: Sequence[Grouping], options: AuditOptions
) -> Iterator[Finding]:
    """Every metric by group; the attributes together where there are two or more."""
    alone = [grouping for grouping in groupings if "," not in grouping.name]
    for name, metric in metrics.items():
        yield from audit_subgroups(name, metric, groupings, least=Least(people=options.min_n), seed=options.seed)
        if len(alone) > 1 and isinstance(metric, PersonMean):
            yield from audit_dependence(name, metric, alone, min_n=options.min_n, seed=options.seed)


def _identity(audited: Audited, options: AuditOptions) -> list[Finding]:
    found = audit_identity(audited.tables, audited.dataset, options.seed, min_n=options.min_n)
    batches = list(audited.schema.batches)
    kept = variance_kept(
        audited.tables["raw"],
        audited.tables["exported"],
        covariate_design(audited.frame, audited.schema),
        audited.participants,
        audited.frame[batches].astype(str).agg("|".join, axis=1).to_numpy(object) if batches else None,
        Sampling(options.seed, options.min_n),
    )
    return [*found, kept]


def _utility(audited: Audited, options: AuditOptions) -> list[Finding]:
    if not options.outcome:
        return []
    outcome, continuous = _outcome(audited, options.outcome)
    return audit_utility(
        audited.tables,
        outcome,
        audited.dataset,
        options.seed,
        continuous=continuous,
        min_n=options.min_n,
    )


def _latents(audited: Audited, posterior: Posterior, options: AuditOptions) -> list[Finding]:
    means, sds = posterior
    continuous = [name for name in audited.schema.names if audited.continuous(name)]
    who, seed, least = audited.participants, options.seed, options.min_n
    found = audit_latents(means, sds, who, seed, min_n=least)
    return found + audit_informedness(means, audited.frame, continuous, who, seed, min_n=least)


def _counterfactuals(audited: Audited, options: AuditOptions) -> list[Finding]:
    """What counterfactuals are worth, and how much they change what a predictor of the outcome says."""
    model, dataset, who = audited.model, audited.dataset, audited.participants
    found = audit_counterfactuals(model, dataset, options.seed, min_n=options.min_n)
    if not options.outcome:
        return found
    outcome, continuous = _outcome(audited, options.outcome)
    train, judged = halves(dataset, options.seed)
    known = train[outcome.iloc[train].notna().to_numpy()]
    try:
        predictor = outcome_predictor(
            audited.data[known], outcome.iloc[known], who[known], options.seed, continuous=continuous
        )
    except CohortError as error:
        n = len(np.unique(who[known]))
        row = Finding("counterfactual_fairness", options.outcome, n, status="insufficient", note=str(error))
        return [*found, row]
    return found + counterfactual_fairness(predictor, model, dataset.take(judged), options.seed, min_n=options.min_n)


def _outcome(audited: Audited, name: str) -> tuple[pd.Series, bool]:
    """Return a column of the table with missing cells as such, and whether it is a number of more than a few values."""
    cells = audited.table[name].map(lambda cell: parse_level(str(cell)))
    numbers = cells.map(lambda cell: None if cell is None else plain_number(cell)).astype(float)
    continuous = bool(cells.nunique() > _FEW_VALUES and (numbers.notna() | cells.isna()).all())
    return (numbers if continuous else cells).rename(name), continuous
