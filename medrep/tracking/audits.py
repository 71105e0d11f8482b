"""The audit of a model as files, read and checked; the seal that binds it to the model, and signatures of it.

``audit.json`` holds the SHA-256 of ``audit.tsv`` beside the digest of the model, the fingerprint of the people's data and all
options, and a seal, the SHA-256 of all of that. Whoever may write to the folder can seal what they have edited; that, only a
signature tells (`medrep.tracking.audits`).

Keys are PEM files, as OpenSSL writes them::

    openssl genpkey -algorithm ed25519 -out release.pem
    openssl pkey -in release.pem -pubout -out release.pub.pem
"""

import json
import math
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from medrep._files import digest_of, digest_of_files, write_json
from medrep._texts import read_json
from medrep.audit.finding import COLUMNS
from medrep.errors import RegistryError, listed

_FILES, _SEAL = "files", "seal"


def sealed(about: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """Return the content of audit.json with the digest of the table as it was written, and the seal over all of it."""
    content = {key: value for key, value in about.items() if key != _SEAL} | {_FILES: {table.name: digest_of(table)}}
    return {**content, _SEAL: _seal(content)}


def seal_of(about: Mapping[str, Any]) -> str:
    """Return the seal that audit.json holds; empty in audits of before there were seals."""
    seal = about.get(_SEAL)
    return seal if isinstance(seal, str) else ""


def seal_problems(about: Mapping[str, Any], table: Path) -> list[str]:
    """Return what is not as the audit wrote it, in audit.json or the table beside it; nothing if all is."""
    if not seal_of(about):
        return ["audit.json holds no seal (an earlier medrep wrote it), so that nothing binds the table to the model"]
    problems = []
    files = about.get(_FILES)
    if not isinstance(files, Mapping) or files.get(table.name) != digest_of(table):
        problems.append(f"{table.name} is not the one that the audit wrote")
    if _seal({key: value for key, value in about.items() if key != _SEAL}) != seal_of(about):
        problems.append("audit.json is not as the audit wrote it")
    return problems


def _seal(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


FORMAT = 1
TABLE, ABOUT = "audit.tsv", "audit.json"
PEOPLE, SIGNATURE = "people.tsv", "audit.sig"
# Only these are logged: whatever else lies in the folder may name people.
_ALSO = (SIGNATURE, "report.html", "latent_diagnostics.tsv", "traversals.tsv")
_FIGURES = ("*.png", "*.svg")
_NUMBERS = ("estimate", "ci_low", "ci_high", "p", "q")
_MISSING = frozenset({"", "n/a", "nan"})


@dataclass(frozen=True, eq=False)
class Audit:
    """An audit, as `medrep audit` wrote it.

    Attributes:
        table: Columns of `finding.COLUMNS`, figures as numbers, NaN where there is none.
        model: Digest of the model folder that was audited.
        kind: Of the model.
        cohort: Name, fingerprint and number of the people it was audited on.
        digest: Of audit.tsv and audit.json.
        files: What is to be logged, as path -> folder in the run; names no participant.
        people: Rows of persons; None where there are none.
        unseen: Whether it was checked that the model had not seen the people.
        seal: Over what it found, of which model and whom; empty in audits of before there were seals.
        altered: What is not as `medrep audit` wrote it.
    """

    table: pd.DataFrame
    model: str
    kind: str
    cohort: dict[str, Any]
    digest: str
    files: dict[Path, str]
    people: Path | None
    unseen: bool
    seal: str
    altered: tuple[str, ...]


def read_audit(folder: Path) -> Audit:
    """Read what `medrep audit` wrote; RegistryError for all files that are absent or damaged."""
    absent = [f"{name} is absent" for name in (TABLE, ABOUT) if not (folder / name).is_file()]
    if absent:
        raise RegistryError(listed(f"{folder}: not an audit", absent, "give the folder that medrep audit wrote"))
    problems: list[str] = []
    about = _read_about(folder / ABOUT, problems)
    table = _read_table(folder / TABLE, problems)
    if problems:
        raise RegistryError(listed(f"{folder}: a damaged audit", problems, "audit the model again"))
    figures = sorted(path for pattern in _FIGURES for path in (folder / "figures").glob(pattern))
    plain = [folder / name for name in (TABLE, ABOUT, *_ALSO) if (folder / name).is_file()]
    files = dict.fromkeys(plain, "audit") | dict.fromkeys(figures, "audit/figures")
    people = folder / PEOPLE
    options = about.get("options")
    return Audit(
        table=table,
        model=about["model"]["digest"],
        kind=about["model"]["kind"],
        cohort=about["cohort"],
        digest=audit_digest(folder),
        files=files,
        people=people if people.is_file() else None,
        unseen=isinstance(options, dict) and options.get("training_known") is True,
        seal=seal_of(about),
        altered=tuple(seal_problems(about, folder / TABLE)),
    )


def refuse_altered(audit: Audit, where: str, cure: str) -> None:
    """Refuse an audit that is not as it was written, or that nothing binds to what it audited."""
    if audit.altered:
        raise RegistryError(listed(f"{where}: not as medrep audit wrote it", audit.altered, cure))


def audit_digest(folder: Path) -> str:
    """Return the SHA-256 of what an audit found, in hexadecimal."""
    return digest_of_files(folder, (ABOUT, TABLE))


def _read_about(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        about = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {error}")
        return {}
    wanted: dict[str, dict[str, type]] = {
        "model": {"digest": str, "kind": str},
        "cohort": {"name": str, "fingerprint": str, "people": int},
    }
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        problems.append(f"{path.name}: no format {FORMAT}, which is what this medrep reads")
        return {}
    for section, keys in wanted.items():
        entries = about.get(section)
        if not isinstance(entries, dict):
            problems.append(f"{path.name}: {section} is absent")
            continue
        problems += [
            f"{path.name}: {section}.{key} is absent or no {kind.__name__}"
            for key, kind in keys.items()
            if not isinstance(entries.get(key), kind)
        ]
    return about


def _read_table(path: Path, problems: list[str]) -> pd.DataFrame:
    try:
        cells = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        problems.append(f"{path.name}: {' '.join(str(error).split())}")
        return pd.DataFrame()
    if tuple(cells.columns) != COLUMNS:
        problems.append(f"{path.name}: has the columns {', '.join(cells.columns)}, not {', '.join(COLUMNS)}")
        return pd.DataFrame()
    if cells.empty:
        problems.append(f"{path.name}: holds no finding")
        return cells
    rows = []
    for number, row in enumerate(cells.to_dict("records"), 1):
        wrong: list[str] = []
        figures = {name: _number(row[name], name, wrong) for name in _NUMBERS}
        count = row["n"]
        if not (count.isascii() and count.isdigit()):
            wrong.append(f"n {count!r} is no count")
        if row["status"] not in ("ok", "insufficient"):
            wrong.append(f"status {row['status']!r} is neither ok nor insufficient")
        if not row["metric"]:
            wrong.append("has no metric")
        if figures["ci_low"] > figures["ci_high"]:
            wrong.append("its interval ends before it begins")
        wrong += [f"{name} {figures[name]:g} is no probability" for name in ("p", "q") if not _probable(figures[name])]
        problems += [f"{path.name}, row {number} ({row['metric']} {row['group']}): {text}" for text in wrong]
        rows.append({**row, **figures, "n": 0 if wrong else int(count)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _number(text: str, name: str, wrong: list[str]) -> float:
    try:
        return math.nan if text.strip().lower() in _MISSING else float(text)
    except ValueError:
        wrong.append(f"{name} {text!r} is no number")
        return math.nan


def _probable(value: float) -> bool:
    return math.isnan(value) or 0 <= value <= 1


_FORMAT = 1
_MAKE = "openssl genpkey -algorithm ed25519 -out KEY.pem"
_PUBLISH = "openssl pkey -in KEY.pem -pubout -out PUB.pem"


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises RegistryError for no such file, one that others may read, one with a passphrase, or anything but an Ed25519 key.
    """
    pem = _read(path, "--sign")
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise RegistryError(
            f"--sign {path}: has a passphrase; write it without one, where nobody else can read it: "
            f"openssl pkey -in {path} -out PLAIN.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise RegistryError(f"--sign {path}: holds no private key in PEM; make one with {_MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise RegistryError(f"--sign {path}: holds a key of another kind than Ed25519; make one with {_MAKE}")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise RegistryError(f"--sign {path}: others may read this key; chmod 600 {path}")
    return key


def read_trusted_keys(paths: Sequence[Path]) -> tuple[Ed25519PublicKey, ...]:
    """Read public keys; RegistryError for all files that are absent or hold no public Ed25519 key."""
    keys, problems = [], []
    for path in paths:
        try:
            keys.append(_public(path))
        except RegistryError as error:
            problems.append(str(error))
    if problems:
        raise RegistryError("\n".join(problems))
    return tuple(keys)


def write_signature(folder: Path, seal: str, key: Ed25519PrivateKey) -> None:
    """Write audit.sig: the id of the key, and its signature over a seal."""
    signature = b64encode(key.sign(_message(seal))).decode()
    write_json(folder / SIGNATURE, {"format": _FORMAT, "key": key_id(key.public_key()), "signature": signature})


def refuse_unsigned(folder: Path, seal: str, trusted: Sequence[Ed25519PublicKey], where: str) -> str:
    """Return the id of the trusted key that signed a seal; empty where no key has to.

    Raises RegistryError for no signature in the folder, one of another key, or one over something else.
    """
    if not trusted:
        return ""
    wanted = ", ".join(key_id(key) for key in trusted)
    if not (folder / SIGNATURE).is_file():
        raise RegistryError(f"{where}: is not signed, and a trusted key ({wanted}) has to; audit with --sign KEY.pem")
    try:
        content = read_json((folder / SIGNATURE).read_text(encoding="utf-8"))
        name, signature = str(content["key"]), b64decode(content["signature"], validate=True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise RegistryError(f"{where}: {SIGNATURE} is damaged; audit again with --sign KEY.pem") from None
    by = next((key for key in trusted if key_id(key) == name), None)
    if by is None:
        raise RegistryError(
            f"{where}: is signed by the key {name}, which is not trusted; trusted: {wanted}; give its owner's PUB.pem with "
            "--trusted-key if it is to be"
        )
    try:
        by.verify(signature, _message(seal))
    except InvalidSignature:
        raise RegistryError(
            f"{where}: its signature is not of the key {name} over this audit: one of them was altered; audit again with "
            "--sign KEY.pem"
        ) from None
    return name


def key_id(key: Ed25519PublicKey) -> str:
    """Return 16 hexadecimal digits that tell one public key from another."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()[:16]


def _public(path: Path) -> Ed25519PublicKey:
    pem = _read(path, "--trusted-key")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        private = b"PRIVATE KEY" in pem
        what = "holds a private key; give the public one" if private else "holds no public key in PEM; write it"
        raise RegistryError(f"--trusted-key {path}: {what}: {_PUBLISH}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise RegistryError(f"--trusted-key {path}: holds a key of another kind than Ed25519; make one with {_MAKE}")
    return key


def _read(path: Path, switch: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RegistryError(f"{switch} {path}: cannot be read ({error.strerror})") from None


def _message(seal: str) -> bytes:
    """Return what is signed: a signature over it is one over nothing else."""
    return f"medrep audit seal {_FORMAT}\n{seal}\n".encode()
