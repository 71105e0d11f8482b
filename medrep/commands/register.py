"""``medrep register``: a model folder and its audit -> a version in a registry."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from medrep._persisted import to_json
from medrep.console import Console
from medrep.errors import MedrepError, ModelError, listed
from medrep.models.saved import SavedModel
from medrep.tracking.audits import Audit, read_audit, refuse_altered
from medrep.tracking.errors import RegistryError
from medrep.tracking.registry import Candidate, Registered, register_version
from medrep.tracking.signatures import read_trusted_keys, refuse_unsigned
from medrep.tracking.stores import registry_store


def register(
    model_folder: Path,
    name: str,
    audit_folder: Path,
    console: Console,
    *,
    alias: str = "challenger",
    tracking_uri: str | None = None,
    experiment: str = "medrep",
    with_participants: bool = False,
    trusted: Sequence[Path] = (),
) -> Registered:
    """Register a model with its audit as a new version.

    Args:
        model_folder: What `train` wrote to OUT/model.
        name: Of the registered model.
        audit_folder: What `audit` wrote.
        console: Where to speak.
        alias: What the version is called until it is promoted.
        tracking_uri: Of the store; None: MLFLOW_TRACKING_URI, or mlflow.db where `train` keeps its runs.
        experiment: The MLflow experiment.
        with_participants: Whether rows of persons in the audit go along.
        trusted: Public keys (PEM) one of which has to have signed the audit; none: no signature is asked for.

    Raises:
        MedrepError: A model or an audit that cannot be used, an audit that was altered, that is not signed as it has to be or
            that is of another model; all that is wrong.
    """
    keys = read_trusted_keys(trusted)
    store = registry_store(tracking_uri, model_folder.resolve().parent.parent)
    problems: list[str] = []
    candidate = audit = None
    try:
        candidate = _candidate(model_folder)
    except MedrepError as error:
        problems.append(str(error))
    try:
        audit = read_audit(audit_folder)
        refuse_altered(audit, str(audit_folder), "audit the model again")
        refuse_unsigned(audit_folder, audit.seal, keys, str(audit_folder))
    except RegistryError as error:
        problems.append(str(error))
    if problems or candidate is None or audit is None:
        raise RegistryError("\n".join(problems))
    _check_same(candidate, audit, model_folder, audit_folder)
    made = register_version(store, experiment, name, alias, candidate, audit, with_participants=with_participants)
    weak = int((audit.table["status"] != "ok").sum())
    console.say(f"{name} version {made.version}, alias {alias}, in {store}")
    console.say(f"  {len(audit.table)} findings of {audit.cohort['people']} people, {weak} of them insufficient")
    if not audit.unseen:
        console.warn(
            "the audit could not check that the model had never seen its people, so that promote will find too little "
            "evidence; train the model again, or audit it with --trained people.tsv of its training"
        )
    console.summary(
        f"registered {name} version {made.version}, alias {alias}",
        f"{audit.cohort['people']} audited",
        {"store": store},
    )
    return made


def _candidate(folder: Path) -> Candidate:
    saved = SavedModel.load(folder)
    sheet = inspect.getdoc(inspect.getmodule(type(saved.model)))
    if not sheet:
        raise ModelError(f"{folder}: the {saved.model.kind} model has no model sheet")
    schema = to_json(saved.model.schema)
    return Candidate(folder, saved.provenance.digest, saved.model.kind, saved.input.kind, schema, f"{sheet}\n")


def _check_same(candidate: Candidate, audit: Audit, model_folder: Path, audit_folder: Path) -> None:
    problems = []
    if audit.kind != candidate.kind:
        problems.append(f"it is of a {audit.kind} model, {model_folder} holds a {candidate.kind} model")
    if audit.model != candidate.digest:
        problems.append(f"digest {audit.model[:12]}..., {model_folder} has {candidate.digest[:12]}...")
    if problems:
        raise RegistryError(listed(f"{audit_folder}: an audit of another model", problems, "audit this model"))
