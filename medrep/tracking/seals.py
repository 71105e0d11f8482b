"""The seal of an audit: what binds its table of findings to the model and the people that it tells of.

``audit.json`` holds the SHA-256 of ``audit.tsv`` beside the digest of the model, the fingerprint of the people's data and all
options, and a seal, the SHA-256 of all of that. Whoever may write to the folder can seal what they have edited; that, only a
signature tells (`medrep.tracking.signatures`).
"""

import json
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

_FILES, _SEAL = "files", "seal"


def sealed(about: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """Return the content of audit.json with the digest of the table, and the seal over all of it.

    Args:
        about: What audit.json says; an earlier seal is replaced.
        table: audit.tsv as it was written.
    """
    content = {key: value for key, value in about.items() if key != _SEAL} | {_FILES: {table.name: _digest(table)}}
    return {**content, _SEAL: _seal(content)}


def seal_of(about: Mapping[str, Any]) -> str:
    """Return the seal that audit.json holds; empty in audits of before there were seals."""
    seal = about.get(_SEAL)
    return seal if isinstance(seal, str) else ""


def seal_problems(about: Mapping[str, Any], table: Path) -> list[str]:
    """Return what is not as the audit wrote it; nothing if all is.

    Args:
        about: What audit.json says.
        table: audit.tsv beside it.
    """
    if not seal_of(about):
        return ["audit.json holds no seal (an earlier medrep wrote it), so that nothing binds the table to the model"]
    problems = []
    files = about.get(_FILES)
    if not isinstance(files, Mapping) or files.get(table.name) != _digest(table):
        problems.append(f"{table.name} is not the one that the audit wrote")
    if _seal({key: value for key, value in about.items() if key != _SEAL}) != seal_of(about):
        problems.append("audit.json is not as the audit wrote it")
    return problems


def _seal(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
