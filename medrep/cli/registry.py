"""Commands of the registry of models: ``register``, ``promote``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    GATE_REFUSED,
    OK,
    TOO_LITTLE,
    Commands,
    add_json,
    add_tracking_uri,
    command,
    model_folder,
)

if TYPE_CHECKING:
    from medrep.console import Console


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
    from medrep.commands.register import register

    register(
        options.model,
        options.name,
        options.audit,
        console,
        alias=options.alias,
        tracking_uri=options.tracking_uri,
        experiment=options.experiment,
        with_participants=options.with_participants,
        trusted=options.trusted_key,
    )
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
    from medrep.commands.promote import promote

    decision = promote(
        options.name,
        console,
        source=options.source,
        target=options.target,
        gates=options.gates,
        tracking_uri=options.tracking_uri,
        trusted=options.trusted_key,
    )
    if decision.verdict == "passed":
        return OK
    refused = decision.verdict == "refused"
    why = "a gate refused" if refused else "too little evidence"
    console.tell("\n  ".join([f"medrep promote: {why}; {options.target} stays where it is", *decision.reasons]))
    return GATE_REFUSED if refused else TOO_LITTLE
