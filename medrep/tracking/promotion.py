"""Promotion: the gates are held against the audit that was registered, the decision is written down, then the alias moves."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from medrep import __version__
from medrep._persisted import to_json
from medrep._texts import read_yaml
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
    DIGEST,
    GATE,
    PASSED,
    REFUSED,
    Address,
    alias_problems,
    find_version,
    gate_tag,
    listed_files,
    pass_tag,
    passed_of,
    refuse_foreign_code,
    version_files,
)
from medrep.tracking.gates import AcceptanceCheck, Decision, Gates, Judged
from medrep.tracking.runs import explained, session
from medrep.tracking.store import Store

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
