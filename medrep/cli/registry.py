"""Commands of the registry of models: ``register``, ``promote``."""

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
    add_json,
    add_tracking_uri,
    command,
)

if TYPE_CHECKING:
    from medrep.cli.console import Console


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
    rows = [(one.gate, one.verdict, str(one.looked_at)) for one in decision.judged]
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
