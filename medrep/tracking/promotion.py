"""Promotion: the gates are held against the audit that was registered, the decision is written down, then the alias moves."""

import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from medrep import __version__
from medrep.errors import listed
from medrep.tracking.audits import ABOUT, TABLE, Audit, audit_digest, read_audit
from medrep.tracking.errors import RegistryError
from medrep.tracking.gates import Decision, Gates
from medrep.tracking.session import explained, session
from medrep.tracking.stores import Store
from medrep.tracking.versions import (
    AUDIT_DIGEST,
    AUDITED,
    DIGEST,
    GATE,
    PASSED,
    REFUSED,
    Address,
    alias_problems,
    find_version,
    gate_tag,
)

_LONGEST = 4000  # characters of a tag; databases that were made by earlier MLflow take 5000


@dataclass(frozen=True)
class Promotion:
    """What came of a promotion; the alias moved if the decision is ``passed``."""

    name: str
    version: str
    alias: str
    decision: Decision


def promote_version(store: Store, source: Address, alias: str, gates: Gates) -> Promotion:
    """Promote a version if its gates let it.

    Args:
        store: Where it is registered.
        source: The version.
        alias: What it is to be called.
        gates: What its audit has to show.

    Raises:
        RegistryError: No such version, one that `medrep register` did not make, an audit that was altered since, or a store
            that does not answer. No alias has moved.
    """
    if problems := alias_problems(alias):
        raise RegistryError(listed("names that cannot be used", problems))
    with explained(store), session(store) as client:
        version = find_version(client, source)
        audit = registered_audit(client, store, version)
        decision = gates.judge(audit.table)
        _write_down(client, version, alias, gates, decision)
        if decision.verdict == "passed":
            client.set_registered_model_alias(version.name, alias, version.version)
    return Promotion(str(version.name), str(version.version), alias, decision)


def registered_audit(client: MlflowClient, store: Store, version: ModelVersion) -> Audit:
    """Fetch the audit that a version was registered with.

    Raises:
        RegistryError: The version has none, or not the one that was registered.
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
                problems.append(f"{name}: {' '.join(str(error).split())[:200]}")
        if problems:
            raise RegistryError(listed(f"{where}: its audit cannot be fetched", problems, "register the model again"))
        if audit_digest(Path(folder)) != version.tags[AUDIT_DIGEST]:
            raise RegistryError(f"{where}: its audit is not the one it was registered with; register the model again")
        audit = read_audit(Path(folder))
    if audit.model != version.tags[DIGEST]:
        raise RegistryError(f"{where}: its audit is of another model; register the model with its own")
    return audit


def _write_down(client: MlflowClient, version: ModelVersion, alias: str, gates: Gates, decision: Decision) -> None:
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
        "gates_digest": gates.digest,
        "gates": yaml.safe_load(gates.source),
        "decision": decision.to_json(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    client.log_text(version.run_id, text, f"decisions/{now.replace(':', '')}_{alias}.json")
    client.log_text(version.run_id, text, "decision.json")
    outcome = PASSED if decision.verdict == "passed" else REFUSED
    reasons = "\n".join(decision.reasons)
    tags = {
        f"{GATE}_time": now,
        f"{GATE}_digest": gates.digest,
        f"{GATE}_verdict": decision.verdict,
        f"{GATE}_reasons": reasons if len(reasons) <= _LONGEST else f"{reasons[: _LONGEST - 3]}...",
        gate_tag(alias): outcome,
        GATE: outcome,
    }
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
