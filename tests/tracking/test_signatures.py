"""Signed audits: which keys are taken, and whose signature opens `register` and `promote`."""

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from medrep.errors import MedrepError
from medrep.tracking.audits import (
    key_id,
    read_signing_key,
    read_trusted_keys,
    write_signature,
)
from medrep.workflows.register import RegisterRequest, promote, register
from tests.tracking.registering import seal_again, write_audit

PLAIN = NoEncryption()


def private_pem(key: object, how: KeySerializationEncryption = PLAIN) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)  # type: ignore[attr-defined]


def public_pem(key: object) -> bytes:
    public = key.public_key()  # type: ignore[attr-defined]
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Keys:
    """The release owner's pair of keys, and somebody else's."""

    def __init__(self, folder: Path) -> None:
        self.private, self.others = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.sign, self.pub, self.other_pub = (folder / name for name in ("key.pem", "pub.pem", "other.pem"))
        self.sign.write_bytes(private_pem(self.private))
        self.sign.chmod(0o600)
        self.pub.write_bytes(public_pem(self.private))
        self.other_pub.write_bytes(public_pem(self.others))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def signed(folder: Path, key: Ed25519PrivateKey) -> None:
    write_signature(folder, json.loads((folder / "audit.json").read_text())["seal"], key)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (private_pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret")), 0o600, "has a passphrase"),
        (private_pem(generate_private_key(SECP256R1())), 0o600, "of another kind than Ed25519"),
        (public_pem(Ed25519PrivateKey.generate()), 0o600, "holds no private key in PEM"),
        (b"secret", 0o600, "make one with openssl genpkey -algorithm ed25519"),
        (private_pem(Ed25519PrivateKey.generate()), 0o644, "others may read this key; chmod 600"),
        (private_pem(Ed25519PrivateKey.generate()), 0o640, "others may read this key; chmod 600"),
    ],
)
def test_keys_that_sign_nothing(tmp_path: Path, content: bytes, mode: int, said: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(MedrepError, match=said):
        read_signing_key(path)


def test_keys_that_nobody_can_trust_are_all_named(tmp_path: Path, keys: Keys) -> None:
    other = tmp_path / "ec.pem"
    other.write_bytes(public_pem(generate_private_key(SECP256R1())))
    with pytest.raises(MedrepError) as caught:
        read_trusted_keys((tmp_path / "nowhere.pem", keys.pub, keys.sign, other))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for line, said in zip(
        lines, ("cannot be read", "holds a private key; give the public one", "another kind"), strict=True
    ):
        assert said in line
    assert [key_id(key) for key in read_trusted_keys((keys.pub,))] == [key_id(keys.private.public_key())]
    assert read_signing_key(keys.sign).public_key() == keys.private.public_key()


@pytest.fixture
def registered(features_model: Path, keys: Keys, tmp_path: Path) -> Callable[..., str]:
    """Register an audit, signed and changed as asked, and return the store."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def make(
        *trusted: Path, key: Ed25519PrivateKey | None = None, change: Callable[[Path], object] | None = None
    ) -> str:
        audit = write_audit(tmp_path / "audit", features_model)
        if key is not None:
            signed(audit, key)
        if change is not None:
            change(audit)
        register(features_model, "brains", audit, RegisterRequest(tracking_uri=uri, trusted=trusted))
        return uri

    return make


def edited(audit: Path) -> None:
    path = audit / "audit.tsv"
    path.write_text(path.read_text().replace("0.07", "0.01"))
    seal_again(audit)


def other_name(audit: Path) -> None:
    """Claim the trusted key's name for another key's signature."""
    path = audit / "audit.sig"
    path.write_text(json.dumps({**json.loads(path.read_text()), "signature": b64encode(bytes(64)).decode()}))


def damaged(audit: Path) -> None:
    (audit / "audit.sig").write_text('{"key": 1}')


@pytest.mark.parametrize(
    ("signer", "change", "said"),
    [
        ("", None, r"is not signed, and a trusted key \(.{16}\) has to; audit with --sign"),
        ("others", None, "which is not trusted; trusted: "),
        ("private", edited, "one of them was altered"),
        ("private", other_name, "one of them was altered"),
        ("private", damaged, "audit.sig is damaged"),
    ],
)
def test_what_no_trusted_key_signed_is_not_registered(
    registered: Callable[..., str],
    keys: Keys,
    tmp_path: Path,
    signer: str,
    change: Callable[[Path], object] | None,
    said: str,
) -> None:
    with pytest.raises(MedrepError, match=said):
        registered(keys.pub, key=getattr(keys, signer) if signer else None, change=change)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_signature_goes_along_and_is_asked_for_again(
    registered: Callable[..., str], keys: Keys, tmp_path: Path
) -> None:
    uri = registered(keys.other_pub, keys.pub, key=keys.private)
    with pytest.raises(
        MedrepError, match=r"brains version 1: its audit: is signed by the key .{16}, which is not trusted"
    ):
        promote("brains", tracking_uri=uri, trusted=(keys.other_pub,))
    assert promote("brains", tracking_uri=uri, trusted=(keys.pub,)).decision.verdict == "passed"
    (decision,) = (tmp_path / "mlartifacts").rglob("decision.json")
    assert json.loads(decision.read_text())["signed_by"] == key_id(keys.private.public_key())
    (signature,) = (tmp_path / "mlartifacts").rglob("audit.sig")
    signature.unlink()
    with pytest.raises(MedrepError, match="brains version 1: its audit: is not signed"):
        promote("brains", tracking_uri=uri, trusted=(keys.pub,))
    assert promote("brains", tracking_uri=uri).decision.verdict == "passed"


def test_who_edits_a_store_can_seal_and_tag_but_not_sign(
    registered: Callable[..., str], keys: Keys, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from medrep.tracking.audits import audit_digest

    uri = registered(key=keys.private)
    (path,) = (tmp_path / "mlartifacts").rglob("audit.tsv")
    edited(path.parent)
    MlflowClient(uri, uri).set_model_version_tag("brains", "1", "medrep.audit_digest", audit_digest(path.parent))
    with pytest.raises(MedrepError, match="one of them was altered"):
        promote("brains", tracking_uri=uri, trusted=(keys.pub,))
    assert promote("brains", tracking_uri=uri).decision.verdict == "passed", (
        "without a key nothing tells; the page says so"
    )
