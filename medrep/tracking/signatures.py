"""Signatures of audits (Ed25519): who holds the private key wrote the seal, whoever may write to the folder or the store.

Keys are PEM files, as OpenSSL writes them::

    openssl genpkey -algorithm ed25519 -out release.pem
    openssl pkey -in release.pem -pubout -out release.pub.pem
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from medrep.atomic import write_json
from medrep.json_texts import read_json
from medrep.tracking.audits import SIGNATURE
from medrep.tracking.errors import RegistryError

_FORMAT = 1
_MAKE = "openssl genpkey -algorithm ed25519 -out KEY.pem"
_PUBLISH = "openssl pkey -in KEY.pem -pubout -out PUB.pem"


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        RegistryError: No such file, one that others may read, one with a passphrase, or anything but an Ed25519 key.
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
    """Read public keys.

    Raises:
        RegistryError: Files that are absent or hold no public Ed25519 key; all of them.
    """
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

    Args:
        folder: Where audit.sig lies.
        seal: Of the audit beside it.
        trusted: One of them has to have signed; none: no signature is asked for.
        where: For the message.

    Raises:
        RegistryError: No signature, one of another key, or one over something else.
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
