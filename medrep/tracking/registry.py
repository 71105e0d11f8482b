"""A model and its audit, registered together: one run that holds the audit, one logged model, one version.

The client is the plain one here, too (see ``runs``), and the model is saved to a folder first: ``mlflow.pyfunc.log_model``
would need a run of ``mlflow.start_run``.

Promotion holds the gates against the audit that was registered, writes the decision down, and then moves the alias.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types.schema import ParamSchema, ParamSpec
from mlflow.utils.validation import _validate_model_name

from medrep import __version__
from medrep._persisted import to_json
from medrep._texts import read_yaml
from medrep.cohort.kinds import INPUTS
from medrep.errors import RegistryError, listed, mask
from medrep.tracking.audits import (
    ABOUT,
    SIGNATURE,
    TABLE,
    Audit,
    audit_digest,
    read_audit,
    refuse_altered,
    refuse_unsigned,
)
from medrep.tracking.download import (
    AUDIT_DIGEST,
    AUDITED,
    CODE,
    DIGEST,
    FINGERPRINT,
    GATE,
    KIND,
    MODEL_ID,
    OWN_FILE,
    PASSED,
    REFUSED,
    Address,
    alias_problems,
    find_version,
    gate_tag,
    listed_files,
    own_code_digest,
    pass_tag,
    passed_of,
    refuse_foreign_code,
    version_files,
)
from medrep.tracking.gates import AcceptanceCheck, Decision, Gates, Judged
from medrep.tracking.runs import explained, find_experiment, log_metrics, metric_key, open_run, session
from medrep.tracking.store import Store

_PATIENCE_S = 120  # a server takes a model whole before it answers
_REQUIRED = ("mlflow", "monai", "nibabel", "numpy", "pandas", "safetensors", "scikit-learn", "scipy", "torch")


@dataclass(frozen=True)
class Candidate:
    """A model to be registered: its folder and digest, its kind and that of its input, its schema as JSON, and its sheet."""

    folder: Path
    digest: str
    kind: str
    input_kind: str
    schema: dict[str, object]
    sheet: str


def register_version(
    store: Store,
    experiment: str,
    name: str,
    alias: str,
    candidate: Candidate,
    audit: Audit,
    *,
    with_participants: bool = False,
) -> str:
    """Register a model with its audit; return the version, made, and its alias moved, only when all else is there.

    Rows of persons go along only if asked for. Raises RegistryError for a name or alias that MLflow does not take, an alias
    that only a promotion may move, a medrep whose code was edited, or a store that does not answer.
    """
    _check_names(name, alias)
    if with_participants and audit.people is None:
        raise RegistryError("the audit holds no rows of persons (people.tsv); leave --with-participants out")
    people = {audit.people: "audit"} if with_participants and audit.people else {}
    tags = {
        AUDITED: "true",
        AUDIT_DIGEST: audit.digest,
        CODE: own_code_digest(),
        DIGEST: candidate.digest,
        FINGERPRINT: str(audit.cohort["fingerprint"]),
        KIND: candidate.kind,
        "medrep.audit_unseen": "checked" if audit.unseen else "not checked",
        "medrep.version": __version__,
    }
    with explained(store), session(store, patience_s=_PATIENCE_S) as client:
        # First: a server denies questions about a model that is not there.
        _make_model(client, name)
        _refuse_promoted(client, Address(name, alias))
        experiment_id = find_experiment(client, experiment, store)
        with open_run(client, experiment_id, f"register {name}", tags) as run_id:
            model_id, place = _log_model(client, experiment_id, run_id, name, candidate, tags)
            log_metrics(client, run_id, _metrics(audit.table, model_id))
            for path, within in (audit.files | people).items():
                client.log_artifact(run_id, str(path), within)
            client.log_text(run_id, candidate.sheet, "model_sheet.md")
            client.log_text(run_id, json.dumps(candidate.schema, indent=2, ensure_ascii=False) + "\n", "schema.json")
        # The place, not models:/ID: MLflow would look that up in the store of the whole process instead of this one.
        made = client.create_model_version(name, place, run_id, tags={**tags, MODEL_ID: model_id}, model_id=model_id)
        client.set_registered_model_alias(name, alias, made.version)
    return str(made.version)


def requirements(input_kind: str) -> list[str]:
    """Return what an environment needs to serve the model, pinned to what it was registered with."""
    packages = (*_REQUIRED, *(INPUTS[input_kind].packages if input_kind in INPUTS else ()))
    # The build (+cpu) is the environment's choice.
    return [f"medrep=={__version__}", *(f"{package}=={installed(package).partition('+')[0]}" for package in packages)]


def _log_model(
    client: MlflowClient, experiment_id: str, run_id: str, name: str, candidate: Candidate, tags: dict[str, str]
) -> tuple[str, str]:
    """Log the model folder and the code that loads it; return the logged model's id, and where it is."""
    # No inputs in the signature: it would drop columns it does not name and refuse integers where it names doubles.
    texts = [ParamSpec(param, "string", "") for param in ("output", "remove", "keep", "references", "set")]
    params = [*texts, ParamSpec("extrapolate", "boolean", False)]
    logged = client.create_logged_model(experiment_id, name, run_id, tags)
    with tempfile.TemporaryDirectory(prefix="medrep-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)  # would be a person's data
        path = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            path,
            python_model=str(OWN_FILE),
            artifacts={"model": str(candidate.folder)},
            model_config={"digest": candidate.digest},
            pip_requirements=requirements(candidate.input_kind),
            signature=ModelSignature(params=ParamSchema(params)),
            mlflow_model=MlflowModel(model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id),
        )
        _forget_origin(path)
        client.log_model_artifacts(logged.model_id, str(path))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id), str(logged.artifact_location)


def _forget_origin(path: Path) -> None:
    """Take out of MLmodel where on this machine the model folder and the code lay."""
    described = MlflowModel.load(str(path))
    flavor = described.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for entry in flavor["artifacts"].values():
        entry["uri"] = entry["path"]
    described.save(str(path / "MLmodel"))


def _metrics(table: pd.DataFrame, model_id: str) -> list[Metric]:
    """Return every figure as a metric of the run and of the logged model; several of one name are its steps."""
    now, seen, metrics = int(time.time() * 1000), dict[str, int](), []
    for row in table.to_dict("records"):
        if pd.notna(row["estimate"]):
            key = metric_key(str(row["metric"]), str(row["group"]))
            metrics.append(Metric(key, float(row["estimate"]), now, seen.get(key, 0), model_id=model_id))
            seen[key] = seen.get(key, 0) + 1
    return metrics


def _make_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _refuse_promoted(client: MlflowClient, address: Address) -> None:
    """Refuse an alias that was given by a promotion: what is used under it would stop working."""
    try:
        found = find_version(client, address)
    except RegistryError:
        return
    if found.tags.get(gate_tag(address.alias)) == PASSED:
        raise RegistryError(
            f"{address} is version {found.version}, which passed its gates; register under another alias and promote it"
        )


def _check_names(name: str, alias: str) -> None:
    problems = []
    try:
        _validate_model_name(name)
    except MlflowException as error:
        problems.append(" ".join(error.message.split()))
    problems += alias_problems(alias)
    if {"@", "%", ".."} & {*name} or ".." in name:
        problems.append(f"name {name!r}: @, % and .. are not allowed, since models:/NAME@ALIAS could not tell it")
    if problems:
        raise RegistryError(listed("names that cannot be used", problems))


UNSEEN = "nobody audited was in training"
"""The gate that every promotion has, beside those of the file."""

_LONGEST = 4000  # characters of a tag; databases that were made by earlier MLflow take 5000


def promote_version(
    store: Store, source: Address, alias: str, gates: Gates, trusted: Sequence[Ed25519PublicKey] = ()
) -> tuple[str, Decision]:
    """Promote a version if its gates let it, and one of the trusted keys, if there are any, signed its audit.

    Returns its number and the decision; the alias moved if that is ``passed``.
    Raises RegistryError for no such version, one that `medrep register` did not make, an audit that was altered since or is
    not signed as it has to be, code that is not medrep's, or a store that does not answer. No alias has moved then.
    """
    if problems := alias_problems(alias):
        raise RegistryError(listed("names that cannot be used", problems))
    with explained(store), session(store) as client:
        version = find_version(client, source)
        audit, signer = _registered_audit(client, store, version, trusted)
        where, repository = f"{version.name} version {version.version}", version_files(client, store, version)
        refuse_foreign_code(repository, listed_files(repository, where), version, where)
        decision = _with_unseen(gates.judge(audit.table), audit)
        _write_down(client, version, alias, gates, decision, {"audit_seal": audit.seal, "signed_by": signer or None})
        if decision.verdict == "passed":
            client.set_registered_model_alias(version.name, alias, version.version)
    return str(version.version), decision


def _registered_audit(
    client: MlflowClient, store: Store, version: ModelVersion, trusted: Sequence[Ed25519PublicKey] = ()
) -> tuple[Audit, str]:
    """Fetch the audit that a version was registered with, and the id of the trusted key that signed it; empty if none has to.

    Raises RegistryError for none, not the one that was registered, or none that is signed as it has to be.
    """
    where = f"{version.name} version {version.version}"
    absent = [tag for tag in (AUDITED, AUDIT_DIGEST, DIGEST) if not version.tags.get(tag)]
    if absent or not version.run_id:
        raise RegistryError(f"{where}: has no audit ({', '.join(absent) or 'no run'}); register the model with one")
    # Not client.download_artifacts, which asks a server five things a file.
    place = client.get_run(version.run_id).info.artifact_uri
    repository = get_artifact_repository(place, tracking_uri=store.uri, registry_uri=store.uri)
    with tempfile.TemporaryDirectory(prefix="medrep-") as folder:
        problems = []
        for name in (TABLE, ABOUT):
            try:
                Path(repository.download_artifacts(f"audit/{name}", folder)).replace(Path(folder) / name)
            except (MlflowException, OSError) as error:
                problems.append(f"{name}: {' '.join(mask(str(error)).split())[:200]}")
        if problems:
            raise RegistryError(listed(f"{where}: its audit cannot be fetched", problems, "register the model again"))
        if audit_digest(Path(folder)) != version.tags[AUDIT_DIGEST]:
            raise RegistryError(f"{where}: its audit is not the one it was registered with; register the model again")
        audit = read_audit(Path(folder))
        refuse_altered(audit, f"{where}: its audit", "audit the model again, and register it with that audit")
        if trusted:
            # Absent where nobody signed, which is said below.
            with suppress(MlflowException, OSError):
                Path(repository.download_artifacts(f"audit/{SIGNATURE}", folder)).replace(Path(folder) / SIGNATURE)
        signer = refuse_unsigned(Path(folder), audit.seal, trusted, f"{where}: its audit")
    if audit.model != version.tags[DIGEST]:
        raise RegistryError(f"{where}: its audit is of another model; register the model with its own")
    return audit, signer


def _with_unseen(decision: Decision, audit: Audit) -> Decision:
    """Add to a decision what is known of the audited people; that nothing is, is not enough evidence."""
    if audit.unseen:
        return replace(decision, judged=(*decision.judged, Judged(UNSEEN, "passed", 1)))
    reason = (
        "the audit could not tell (the model holds no digests of its training rows, and people.tsv was not at hand); train the "
        "model again with this medrep, or audit it with --trained people.tsv of its training, and register that audit"
    )
    verdict: AcceptanceCheck = "refused" if decision.verdict == "refused" else "insufficient"
    return replace(decision, verdict=verdict, judged=(*decision.judged, Judged(UNSEEN, "insufficient", 0, (reason,))))


def _write_down(
    client: MlflowClient,
    version: ModelVersion,
    alias: str,
    gates: Gates,
    decision: Decision,
    of: Mapping[str, str | None],
) -> None:
    """Keep the decision in the version's run, with all earlier ones, and its outcome in the version's tags."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {
        "format": 1,
        "medrep": __version__,
        "time": now,
        "name": version.name,
        "version": str(version.version),
        "alias": alias,
        "model_digest": version.tags[DIGEST],
        "audit_digest": version.tags[AUDIT_DIGEST],
        **of,
        "gates_digest": gates.digest,
        "gates": read_yaml(gates.source),
        "decision": to_json(decision),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    client.log_text(version.run_id, text, f"decisions/{now.replace(':', '')}_{alias}.json")
    client.log_text(version.run_id, text, "decision.json")
    result = PASSED if decision.verdict == "passed" else REFUSED
    reasons = "\n".join(decision.reasons)
    tags = {
        f"{GATE}_time": now,
        f"{GATE}_digest": gates.digest,
        f"{GATE}_verdict": decision.verdict,
        f"{GATE}_reasons": reasons if len(reasons) <= _LONGEST else f"{reasons[: _LONGEST - 3]}...",
        pass_tag(alias): f"{passed_of(version)}; gates {gates.digest}",
        gate_tag(alias): result,
        GATE: result,
    }
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
