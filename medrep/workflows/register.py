"""``register`` and ``promote``: a model and its audit -> a version in a registry; gates decide whether it gets an alias."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medrep._persisted import to_json
from medrep.config import SHIPPED
from medrep.errors import ConfigError, MedrepError, ModelError, RegistryError, listed
from medrep.models.saved import SavedModel
from medrep.tracking.audits import Audit, read_audit, read_trusted_keys, refuse_altered, refuse_unsigned
from medrep.tracking.download import Address
from medrep.tracking.gates import Decision, read_gates
from medrep.tracking.registry import Candidate, promote_version, register_version
from medrep.tracking.store import Store, registry_store


@dataclass(frozen=True)
class RegisterRequest:
    """How to register.

    Attributes:
        alias: What the version is called until it is promoted.
        tracking_uri: Of the store; None: MLFLOW_TRACKING_URI, or mlflow.db where `train` keeps its runs.
        experiment: The MLflow experiment.
        with_participants: Whether rows of persons in the audit go along.
        trusted: Public keys (PEM) one of which has to have signed the audit; none: no signature is asked for.
    """

    alias: str = "challenger"
    tracking_uri: str | None = None
    experiment: str = "medrep"
    with_participants: bool = False
    trusted: Sequence[Path] = ()


@dataclass(frozen=True, eq=False)
class Registration:
    """Result of a registration: the new version and its audit, and where it lies."""

    version: str
    audit: Audit
    store: Store


@dataclass(frozen=True, eq=False)
class Promotion:
    """Result of a promotion: decisions of the gates about a version, where it lies, and whether the alias was moved."""

    version: str
    decision: Decision
    store: Store

    @property
    def promoted(self) -> bool:
        """True if the alias was moved."""
        return self.decision.verdict == "passed"


def register(model_folder: Path, name: str, audit_folder: Path, request: RegisterRequest | None = None) -> Registration:
    """Register the model of OUT/model with an audit of it as a new version.

    Raises MedrepError for a model or an audit that cannot be used, an audit that was altered, that is not signed as it has to
    be or that is of another model; all that is wrong.
    """
    request = request or RegisterRequest()
    keys = read_trusted_keys(request.trusted)
    store = registry_store(request.tracking_uri, model_folder.resolve().parent.parent)
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
    version = register_version(
        store,
        request.experiment,
        name,
        request.alias,
        candidate,
        audit,
        with_participants=request.with_participants,
    )
    return Registration(version, audit, store)


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


def promote(
    name: str,
    *,
    source: str = "challenger",
    target: str = "champion",
    gates: Path = Path("gates.yaml"),
    tracking_uri: str | None = None,
    trusted: Sequence[Path] = (),
) -> Promotion:
    """Hold the gates against the audit of a version, write the decision down, and move the alias if it passed.

    The source is an alias or a number, the gates a YAML list or a shipped one. Without a URI of the store it is that of
    MLFLOW_TRACKING_URI, or mlflow.db in the current folder. One of the trusted keys (PEM), if there are any, has to have
    signed the audit. Raises MedrepError for no such version, an audit that was altered or is not signed as it has to be, or
    gates that are not valid.
    """
    wanted = read_gates(_find(gates))
    keys = read_trusted_keys(trusted)
    store = registry_store(tracking_uri, Path.cwd(), present=True)
    number = source.isascii() and source.isdigit()
    address = Address(name, version=source) if number else Address(name, alias=source)
    version, decision = promote_version(store, address, target, wanted, keys)
    return Promotion(version, decision, store)


def _find(path: Path) -> Path:
    shipped = SHIPPED / path.name
    if path.is_file():
        return path
    if path.parent in {Path(), Path("configs")} and shipped.is_file():
        return shipped
    names = ", ".join(sorted(entry.name for entry in SHIPPED.glob("gates*.yaml")))
    raise ConfigError(f"{path}: no such gates; give a file or shipped ones: {names}")
