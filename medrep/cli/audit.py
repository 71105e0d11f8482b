"""Commands that judge models: ``audit``, ``report``, and those of the registry, ``register`` and ``promote``."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from medrep._files import model_folder
from medrep.cli.arguments import (
    GATE_REFUSED,
    OK,
    TOO_LITTLE,
    Commands,
    add_cohort,
    add_group,
    add_json,
    add_model,
    add_newcomers,
    add_out,
    add_tracking_uri,
    cohort_of,
    command,
    names,
    number,
    pairs,
    request_of,
)

if TYPE_CHECKING:
    import pandas as pd

    from medrep.cli.console import Console
    from medrep.tracking.gates import Decision


_TOLD = ("leakage_excess", "leakage_beyond_training", "injection_gain", "utility_change", "identity_kept")
_CALIBRATION = ("z_mean", "z_log_sd", "z_outside", "pit_distance")


def add_audit(commands: Commands) -> None:
    """Add ``medrep audit``."""
    text = "measure what a model leaks, whom it harms and what its counterfactuals are worth, on people it never saw"
    parser = command(commands, "audit", text, _audit)
    add_cohort(parser)
    add_out(parser)
    add_model(parser)
    add_group(parser)
    parser.add_argument(
        "--by",
        default="",
        metavar="A,B:EDGES",
        help="columns whose groups are compared, e.g. sex,age:20/40/60/80,site (default: the model's covariates)",
    )
    parser.add_argument(
        "--intersect", action="append", default=[], metavar="A,B", help="groups that are crossed, e.g. sex,site"
    )
    parser.add_argument("--min-n", type=int, default=20, help="fewest participants to say anything (default: 20)")
    parser.add_argument(
        "--remove", default="", metavar="A,B", help="covariates that are removed (default: the batches, such as site)"
    )
    parser.add_argument(
        "--reference", action="append", default=[], metavar="NAME=VALUE", help="where a removed covariate is moved to"
    )
    parser.add_argument(
        "--outcome", default="", metavar="COLUMN", help="what the data are for, such as diagnosis: is it still there?"
    )
    parser.add_argument(
        "--prediction", default="", metavar="COLUMN", help="a predictor's output for the outcome: is it fair to groups?"
    )
    parser.add_argument(
        "--positive", default="", metavar="CLASS", help="the class of the outcome that a high prediction stands for"
    )
    parser.add_argument(
        "--margin",
        type=number,
        default=0.1,
        help="leakage shown to exceed chance by less (AUC or R2) counts as none (default: 0.1)",
    )
    parser.add_argument(
        "--stress",
        default="",
        metavar="A,B",
        help="further questions: cues (which of several planted ones does the model keep, and is the outcome read from a"
        " covariate that goes with it), mechanisms (which columns' relation to a covariate differs between sites), robustness"
        " (how strong a confounder explains an effect away, and what acquisition alone tells of the outcome), regions (from"
        " which columns covariates and the outcome are read), corruptions (what becomes of scans that are"
        " blurred, noisy, bent, coarse or moved), traversals (each latent at its extremes: what becomes of columns and of what"
        " predictors read)",
    )
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="FILE",
        help="for --stress regions: a table with the columns feature and region, or of volumes a label image (default: each"
        " feature is a region; of volumes anatomy and background)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    parser.add_argument(
        "--trained",
        type=Path,
        metavar="PEOPLE.tsv",
        help="who was trained on (default: people.tsv that train wrote beside the model)",
    )
    parser.add_argument(
        "--sign", type=Path, metavar="KEY.pem", help="sign what was found with this private key (Ed25519): audit.sig"
    )
    parser.add_argument(
        "--against",
        type=model_folder,
        metavar="M",
        help="another model, such as models:/NAME@champion: do embeddings agree with its, so that gates may ask?",
    )
    add_newcomers(parser, "people far")
    add_json(parser)


def _audit(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.audit import AuditRequest, audit

    given = {
        "intersect": tuple(options.intersect),
        "remove": names(options.remove),
        "stress": tuple(dict.fromkeys(names(options.stress))),
    }
    request = request_of(AuditRequest, options, {**given, "references": pairs("--reference", options.reference)})
    found = audit(cohort_of(options), options.out, options.model, request, console)
    _show_findings(console, found.findings)
    _show_expected(console, found.expected)
    paths = {"report": options.out / "report.html", "table": options.out / "audit.tsv"}
    console.result(
        people=len(found.people),
        figures=found.findings.to_dict("records"),
        decision=found.expected.verdict,
        reasons=found.expected.reasons,
        gates=[asdict(one) for one in found.expected.judged],
        paths=paths,
    )
    console.summary(
        f"audited a {found.kind} model", f"{found.audited.removesuffix(' people')} whom the model never saw", paths
    )
    return OK


def _show_expected(console: "Console", decision: "Decision") -> None:
    """Say what the gates that `promote` asks by default would make of it, and what they miss."""
    words = {"passed": "would pass it", "refused": "would refuse it", "insufficient": "would find too little evidence"}
    console.say(f"gates.yaml, which promote asks, {words[decision.verdict]}")
    for reason in decision.reasons:
        console.say(f"  {reason}")


def _show_findings(console: "Console", findings: "pd.DataFrame") -> None:
    told = findings["metric"].isin(_TOLD) | findings["metric"].isin(_CALIBRATION) & (findings["group"] == "everybody")
    by_group = findings["metric"].str.endswith("_gap") & ~findings["metric"].str.startswith("cf_")
    gaps = by_group & (findings["status"] == "ok")
    rows = [
        (
            str(row["metric"]),
            str(row["group"]),
            str(row["n"]),
            row["status"] if row["status"] != "ok" else f"{row['estimate']:.3f}",
            "" if row["ci_low"] != row["ci_low"] else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
        )
        for row in [*findings[told].to_dict("records"), *findings[gaps].to_dict("records")]
    ]
    console.table("Audit", ("metric", "group", "n", "estimate", "95% interval"), rows)
    few = int((findings["status"] != "ok").sum())
    if few:
        console.say(
            f"{few} of {len(findings)} figures are insufficient: too few people; they are listed and count as nothing"
        )


def add_report(commands: Commands) -> None:
    """Add ``medrep report``."""
    parser = command(commands, "report", "write report.html again, or compare several runs on one page", _report)
    parser.add_argument(
        "runs",
        metavar="OUT",
        type=Path,
        nargs="+",
        help="what train, export, counterfactual, chart, audit or demo wrote",
    )
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="page that compares several runs (default: comparison.html)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a page that compares if it is there already")


def _report(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.report import report

    page = report(options.runs, to=options.to, overwrite=options.overwrite)
    console.summary("wrote the page", "", {"report": page})
    return OK


def _add_trusted_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trusted-key",
        action="append",
        default=[],
        type=Path,
        metavar="PUB.pem",
        help="public key that has to have signed the audit; given several times: one of them",
    )


def add_register(commands: Commands) -> None:
    """Add ``medrep register``."""
    parser = command(commands, "register", "register a model with its audit in MLflow", _register)
    parser.add_argument("model", metavar="MODEL_DIR", type=model_folder, help="the folder OUT/model that train wrote")
    parser.add_argument("--name", required=True, metavar="NAME", help="name of the registered model")
    parser.add_argument("--audit", required=True, type=Path, metavar="AUDIT_DIR", help="the folder that audit wrote")
    parser.add_argument(
        "--alias", default="challenger", help="what the version is called until it is promoted (default: challenger)"
    )
    add_tracking_uri(parser, "mlflow.db where train keeps its runs, beside the folder it wrote")
    parser.add_argument("--experiment", default="medrep", metavar="NAME", help="MLflow experiment (default: medrep)")
    parser.add_argument(
        "--with-participants", action="store_true", help="log the audit's rows of persons, with their ids, too"
    )
    _add_trusted_key(parser)


def _register(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.register import RegisterRequest, register

    name, alias = options.name, options.alias
    request = RegisterRequest(
        alias, options.tracking_uri, options.experiment, options.with_participants, options.trusted_key
    )
    made = register(options.model, name, options.audit, request)
    table, people = made.audit.table, made.audit.cohort["people"]
    console.say(f"{name} version {made.version}, alias {alias}, in {made.store}")
    weak = int((table["status"] != "ok").sum())
    console.say(f"  {len(table)} findings of {people} people, {weak} of them insufficient")
    if not made.audit.unseen:
        console.warn(
            "the audit could not check that the model had never seen its people, so that promote will find too little "
            "evidence; train the model again, or audit it with --trained people.tsv of its training"
        )
    done = f"registered {name} version {made.version}, alias {alias}"
    console.summary(done, f"{people} audited", {"store": made.store})
    return OK


def add_promote(commands: Commands) -> None:
    """Add ``medrep promote``."""
    text = "give a registered version an alias if its audit passes the gates"
    parser = command(commands, "promote", text, _promote)
    parser.add_argument("name", metavar="NAME", help="name of the registered model")
    parser.add_argument(
        "--from",
        dest="source",
        default="challenger",
        metavar="ALIAS|VERSION",
        help="which version (default: challenger)",
    )
    parser.add_argument("--to", dest="target", default="champion", metavar="ALIAS", help="(default: champion)")
    parser.add_argument(
        "--gates",
        type=Path,
        default=Path("configs/gates.yaml"),
        metavar="G",
        help="YAML file, or a shipped one: gates.yaml, gates_small.yaml, gates_strict.yaml (default: gates.yaml)",
    )
    _add_trusted_key(parser)
    add_tracking_uri(parser, "mlflow.db in the current folder")
    add_json(parser)


def _promote(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.register import promote

    name, target = options.name, options.target
    done = promote(
        name,
        source=options.source,
        target=target,
        gates=options.gates,
        tracking_uri=options.tracking_uri,
        trusted=options.trusted_key,
    )
    decision = done.decision
    rows = [
        (one.gate, one.verdict, str(one.looked_at))
        for one in decision.judged
        if one.verdict != "absent" or one.warnings
    ]
    console.table(f"Gates of {name} version {done.version}", ("gate", "verdict", "findings"), rows)
    for warning in decision.warnings:
        console.warn(f"left out: {warning}")
    console.result(
        name=name,
        version=done.version,
        alias=target,
        decision=decision.verdict,
        promoted=done.promoted,
        reasons=decision.reasons,
        gates=[asdict(one) for one in decision.judged],
    )
    transformed = f"{target} is now version {done.version}" if done.promoted else f"{target} stays where it is"
    said = f"gates of {name} version {done.version}: {decision.verdict}; {transformed}"
    console.summary(said, "", {"store": done.store})
    if done.promoted:
        console.say(f"{target} of {name} is now version {done.version} (models:/{name}@{target})")
        return OK
    refused = decision.verdict == "refused"
    why = "a gate refused" if refused else "too little evidence"
    console.tell("\n  ".join([f"medrep promote: {why}; {target} stays where it is", *decision.reasons]))
    return GATE_REFUSED if refused else TOO_LITTLE
