"""``medrep audit``: what a model leaks, whom it harms and what its counterfactuals are worth, on people it never saw."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from medrep import __version__
from medrep.atomic import write_json
from medrep.audit.groups import parse_by, parse_intersect
from medrep.cohort.cohort import Cohort
from medrep.cohort.fingerprints import cohort_fingerprint, row_fingerprint
from medrep.cohort.participants import KEY_COLUMNS
from medrep.cohort.training_rows import known_rows
from medrep.commands.folders import check_output
from medrep.commands.matrix import cohort_matrix
from medrep.commands.newcomers import (
    adapted_model,
    check_earlier,
    load_trained,
    note_unplaced,
    read_newcomers,
    refuse_unmeasured,
)
from medrep.commands.seen_people import PEOPLE, refuse_trained, trained_people, without_trained
from medrep.console import Console
from medrep.errors import CohortError, CovariateError, EvidenceError, MedrepError, listed
from medrep.export.derivative import write_tsv
from medrep.export.removal import checked_target
from medrep.outputs import output_folder
from medrep.shipped import SHIPPED
from medrep.tracking.gates import Decision, read_gates
from medrep.tracking.seals import seal_of, sealed

FORMAT, GATES = 1, "gates.yaml"
_TOLD = ("leakage_excess", "leakage_beyond_training", "injection_gain", "utility_change", "identity_kept")


@dataclass(frozen=True)
class AuditRequest:
    """What the person asked for.

    Attributes:
        by: Columns whose groups are compared, ``sex,age:20/40/60/80,site``; empty: the model's covariates.
        intersect: Intersections, each ``sex,site``.
        remove: Covariates removed from what is handed out; empty: the batches, or all if there are none.
        references: Removed covariate -> value, where it is not the model's default.
        outcome: Column that the data are for, such as diagnosis; empty for none.
        prediction: Column with a predictor's output for ``outcome``; empty for none.
        positive: The class of ``outcome`` that a high score stands for.
        min_n: Fewest participants to say anything.
        margin: Leakage whose excess is shown to be below this counts as none.
        seed: Of every draw.
        trained: people.tsv of the training; by default the one that train wrote beside the model. It adds names to what the
            model itself knows of its training rows.
        sign: Private key that signs what was found; None: nothing is signed.
        unseen_site: What sites that training did not have do.
        extrapolate: Whether people far outside the range of training are taken.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
    """

    by: str = ""
    intersect: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    references: Mapping[str, str] | None = None
    outcome: str = ""
    prediction: str = ""
    positive: str = ""
    min_n: int = 20
    margin: float = 0.1
    seed: int = 0
    trained: Path | None = None
    sign: Path | None = None
    unseen_site: Literal["error", "adapt"] = "error"
    extrapolate: bool = False
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False


def audit(root: Path, out: Path, model_folder: Path, request: AuditRequest, console: Console) -> None:
    """Write audit.tsv, audit.json, report.html, figures, latent_diagnostics.tsv and people.tsv; audit.sig where it is signed.

    Args:
        root: The cohort; people of training are left out by themselves.
        out: Where to write; it appears only when it is complete.
        model_folder: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``.
        request: What to measure.
        console: Where to speak.

    Raises:
        EvidenceError: Too few people whom the model never saw.
        MedrepError: Anything about the input that cannot be used, by name.
    """
    from medrep.audit.audited import Audited  # scikit-learn takes seconds to import
    from medrep.audit.whole import AuditOptions, run_audit
    from medrep.export.audit_figures import write_audit_figures
    from medrep.report.build import write_report

    _check_numbers(request)
    key = None
    if request.sign is not None:
        from medrep.tracking.signatures import read_signing_key  # before hours of work, and only where somebody signs

        key = read_signing_key(request.sign)
    by = parse_by(request.by) if request.by else ()
    crossed = tuple(parse_intersect(text, by) for text in request.intersect)
    check_output(out, overwrite=request.overwrite, inputs=(root, model_folder))
    saved = load_trained(model_folder)
    model, wanted = saved.model, saved.input
    unseen, only, exclude = request.unseen_site, request.only, request.exclude
    cohort, frame = read_newcomers(
        root,
        model.schema,
        wanted,
        console,
        unseen_site=unseen,
        extrapolate=request.extrapolate,
        only=only,
        exclude=exclude,
    )
    check_earlier(cohort, saved, console, request.remove or model.schema.batches or model.schema.names)
    note_unplaced(model, wanted, console)
    if not by:
        by = parse_by(",".join(model.schema.names))
    _check_columns(cohort, request)
    trained = trained_people(request.trained, model_folder, saved.provenance.fingerprint)
    rows = known_rows(saved.provenance.rows, None if trained is None else trained["data"])
    if rows is None:
        console.warn(
            "the model holds no digests of its training rows (an earlier medrep wrote it), and no people.tsv lies beside it: "
            "that nobody here was in training cannot be checked, and promote will find too little evidence"
        )
    cohort = without_trained(cohort, trained, console)
    if cohort.table["participant_id"].nunique() < 2 * request.min_n:
        raise EvidenceError(
            f"{cohort.table['participant_id'].nunique()} participants whom the model never saw; an audit needs "
            f"{2 * request.min_n} or more (twice --min-n). Train with --hold-out 0.3, or give other people"
        )
    frame = frame.loc[cohort.table.index]
    model, adapted = adapted_model(model, cohort, frame, console)
    frame = model.schema.transfer(frame, unseen=request.unseen_site)
    removed = request.remove or model.schema.batches or model.schema.names
    target = checked_target(model.schema, removed, references=request.references)
    options = AuditOptions(
        by,
        crossed,
        request.outcome,
        request.prediction,
        request.positive,
        request.min_n,
        request.margin,
        request.seed,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent) as scratch:
        refuse_unmeasured(model, cohort, frame, console, target)
        data, columns = cohort_matrix(cohort, console, scratch, workers=0, like=model.columns)
        if columns != model.columns:
            raise CohortError("the people's data are not of the grid or the columns that the model was fitted on")
        marks = [row_fingerprint(row) for row in data]
        refuse_trained(cohort, data, rows)
        console.say(f"audit {len(cohort)} people whom the model never saw ({', '.join(removed)} removed)")
        people = cohort.table["participant_id"].astype(str).tolist()
        dataset = model.dataset(data, frame, people)
        audited = Audited(model, dataset, cohort.table, target, saved.provenance.people)
        result = run_audit(audited, options, lambda line: console.say(f"  {line}"))
    # Half of the people teach the probes, the other half is read.
    certificates = model.certificates(removed, audited.kept, learners=dataset.people // 2)
    about = {
        "format": FORMAT,
        "medrep": __version__,
        "model": {"kind": model.kind, "digest": saved.provenance.digest},
        "cohort": {"name": root.resolve().name, "fingerprint": cohort_fingerprint(marks), "people": dataset.people},
        "options": {
            "by": request.by,
            "intersect": list(request.intersect),
            "removed": {name: target[name] for name in removed},
            "kept": list(audited.kept),
            "outcome": request.outcome,
            "prediction": request.prediction,
            "positive": request.positive,
            "min_n": request.min_n,
            "margin": request.margin,
            "adapted": [adaptation.level for adaptation in adapted],
            "training_known": rows is not None,
        },
        "certificates": [asdict(one) for one in certificates],
        "seed": request.seed,
    }
    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    with output_folder(out) as partial:
        write_tsv(partial / "audit.tsv", result.findings)
        if len(result.latents):
            write_tsv(partial / "latent_diagnostics.tsv", result.latents)
        write_tsv(partial / PEOPLE, pd.concat([ids, result.people], axis=1))
        write_audit_figures(partial / "figures", result.findings)
        about = sealed(about, partial / "audit.tsv")
        write_json(partial / "audit.json", about)
        if key is not None:
            from medrep.tracking.signatures import write_signature

            write_signature(partial, seal_of(about), key)
        write_report(partial)
    _summary(console, result.findings)
    expected = _expect(console, result.findings)
    paths = {"report": out / "report.html", "table": out / "audit.tsv"}
    console.result(
        people=len(cohort),
        figures=result.findings.to_dict("records"),
        decision=expected.verdict,
        reasons=expected.reasons,
        gates=[asdict(one) for one in expected.judged],
        paths=paths,
    )
    console.summary(f"audited a {model.kind} model", f"{len(cohort)} whom the model never saw", paths)


def _check_numbers(request: AuditRequest) -> None:
    wrong = [] if request.min_n >= 2 else [f"--min-n {request.min_n}: give 2 or more; 20 is usual"]
    if not 0 < request.margin < 1:
        wrong.append(f"--margin {request.margin:g}: give more than 0 and less than 1, in AUC or R2; 0.1 is usual")
    if wrong:
        raise MedrepError(listed("numbers that cannot be", wrong))


def _check_columns(cohort: Cohort, request: AuditRequest) -> None:
    named = {"--outcome": request.outcome, "--prediction": request.prediction}
    absent = [f"{switch} {name}" for switch, name in named.items() if name and name not in cohort.table]
    if absent:
        raise CovariateError(
            listed("columns that participants.tsv does not have", absent, f"it has {', '.join(cohort.table)}")
        )
    if request.prediction and not request.outcome:
        raise MedrepError("--prediction needs --outcome: the column that was predicted")


def _expect(console: Console, findings: pd.DataFrame) -> Decision:
    """Say what the gates that `promote` asks by default would make of it, and what they miss."""
    decision = read_gates(SHIPPED / GATES).judge(findings)
    words = {"passed": "would pass it", "refused": "would refuse it", "insufficient": "would find too little evidence"}
    console.say(f"{GATES}, which promote asks, {words[decision.verdict]}")
    for reason in decision.reasons:
        console.say(f"  {reason}")
    return decision


def _summary(console: Console, findings: pd.DataFrame) -> None:
    told = findings[findings["metric"].isin(_TOLD)]
    by_group = findings["metric"].str.endswith("_gap") & ~findings["metric"].str.startswith("cf_")
    gaps = findings[by_group & (findings["status"] == "ok")]
    rows = [
        (
            str(row["metric"]),
            str(row["group"]),
            str(row["n"]),
            row["status"] if row["status"] != "ok" else f"{row['estimate']:.3f}",
            "" if row["ci_low"] != row["ci_low"] else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
        )
        for row in pd.concat([told, gaps]).to_dict("records")
    ]
    console.table("Audit", ("metric", "group", "n", "estimate", "95% interval"), rows)
    few = int((findings["status"] != "ok").sum())
    if few:
        console.say(
            f"{few} of {len(findings)} figures are insufficient: too few people; they are listed and count as nothing"
        )
