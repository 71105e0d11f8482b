"""Registered models and versions of them: found, fetched, and checked before anything is used.

Whoever may write to a store may write code there, and MLflow runs it without asking. medrep itself runs nothing from a store; it
tells whether a version would run anything but medrep's own file. The digest in the tags is what was registered. That alone would
be changed together with the file, so the file also has to be that of a release.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.validation import _validate_model_alias_name, _validate_model_alias_name_reserved

from medrep._files import digest_of
from medrep._texts import read_yaml
from medrep.errors import RegistryError, listed
from medrep.models.saved import digest
from medrep.tracking.runs import explained, session
from medrep.tracking.store import Store, registry_store

AUDITED = "medrep.audited"
AUDIT_DIGEST = "medrep.audit_digest"
CODE = "medrep.code_digest"
DIGEST = "medrep.digest"
FINGERPRINT = "medrep.cohort_fingerprint"
GATE = "medrep.gate"
KIND = "medrep.kind"
MODEL_ID = "medrep.model_id"
PASSED, REFUSED = "passed", "refused"

_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w\-]+)|/(?P<version>[1-9]\d*))")


@dataclass(frozen=True)
class Address:
    """Where a version is: by number, or by an alias that anybody who may write to the registry can move."""

    name: str
    alias: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"

    @classmethod
    def parse(cls, uri: str) -> "Address":
        """Read ``models:/NAME@ALIAS`` or ``models:/NAME/3``; RegistryError for anything else."""
        found = _URI.fullmatch(uri)
        if found is None:
            raise RegistryError(
                f"{uri}: write models:/NAME@ALIAS or models:/NAME/VERSION, for instance models:/NAME@champion"
            )
        return cls(found["name"], found["alias"] or "", found["version"] or "")


def find_version(client: MlflowClient, address: Address) -> ModelVersion:
    """Return a version; RegistryError for no such model, alias or version, with what there is."""
    try:
        if address.alias:
            return client.get_model_version_by_alias(address.name, address.alias)
        return client.get_model_version(address.name, address.version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    known = [model.name for model in client.search_registered_models(max_results=20)]
    if address.name not in known and not _exists(client, address.name):
        raise RegistryError(
            f"{address}: no model {address.name!r} is registered; there is {', '.join(known) or 'none'}; see medrep register"
        )
    if address.alias:
        aliases = sorted(client.get_registered_model(address.name).aliases)
        raise RegistryError(f"{address}: no such alias; {address.name} has {', '.join(aliases) or 'none'}")
    versions = sorted(int(one.version) for one in client.search_model_versions(f"name='{address.name}'"))
    raise RegistryError(
        f"{address}: no such version; {address.name} has {', '.join(map(str, versions[-20:])) or 'none'}"
    )


def alias_problems(alias: str) -> list[str]:
    """Return why MLflow would not take an alias; nothing if it would."""
    try:
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
    except MlflowException as error:
        return [f"alias {alias!r}: {' '.join(error.message.split())}"]
    return []


def gate_tag(alias: str) -> str:
    """Return the tag that says what came of the last promotion of a version to an alias."""
    return f"{GATE}.{alias}"


def pass_tag(alias: str) -> str:
    """Return the tag that says of which model and audit the last promotion of a version to an alias was."""
    return f"{gate_tag(alias)}.of"


def passed_of(version: ModelVersion) -> str:
    """Return which model and audit a pass has to be of."""
    return f"model {version.tags.get(DIGEST, '')}, audit {version.tags.get(AUDIT_DIGEST, '')}"


def _passed_gate(version: ModelVersion, alias: str) -> bool:
    """Say whether a version may be used under an alias.

    The tags of the version decide, not the alias, which any client can move: what came of its last promotion to this very
    alias, with the model and the audit that it has now. Promotions of earlier versions of medrep do not say of which those
    were, and count.
    """
    told = version.tags.get(pass_tag(alias), "")
    if told and told.partition("; ")[0] != passed_of(version):
        return False
    return str(version.tags.get(gate_tag(alias), "")) == PASSED


def _passed_aliases(version: ModelVersion) -> list[str]:
    """Return the aliases that a version passed the gates of."""
    prefix = gate_tag("")
    named = [key.removeprefix(prefix) for key in version.tags if key.startswith(prefix)]
    return sorted(alias for alias in named if "." not in alias and _passed_gate(version, alias))


def _exists(client: MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException:
        return False
    return True


CODE_FILE, MLMODEL = "pyfunc_model.py", "MLmodel"
MODEL = "artifacts/model"
WEIGHTS = (f"{MODEL}/model.json", f"{MODEL}/model.safetensors")
# What `registry` logs, and what MLflow adds; a model that holds anything else was altered.
_KNOWN = frozenset(
    {MLMODEL, "conda.yaml", "python_env.yaml", "requirements.txt", CODE_FILE, "registered_model_meta", *WEIGHTS}
)
_FOLDERS = frozenset({"artifacts", MODEL})


def version_files(client: MlflowClient, store: Store, version: ModelVersion) -> ArtifactRepository:
    """Return where the files of a version are."""
    place = client.get_model_version_download_uri(version.name, version.version)
    return get_artifact_repository(place, tracking_uri=store.uri, registry_uri=store.uri)


def listed_files(repository: ArtifactRepository, where: str) -> set[str]:
    """Return the files of a logged model; RegistryError for such that medrep did not register, or that lead out of the model."""
    files: set[str] = set()
    folders = [""]
    unknown: list[str] = []
    while folders:
        for info in _entries(repository, folders.pop(), where):
            path = str(info.path)
            if ".." in PurePosixPath(path).parts or path.startswith("/"):
                raise RegistryError(f"{where}: {path!r} leads out of the model; register the model again")
            if info.is_dir and path in _FOLDERS:
                folders.append(path)
            elif info.is_dir or path not in _KNOWN:
                unknown.append(path)
            else:
                files.add(path)
    if unknown:
        names = ", ".join(sorted(unknown)[:10])
        cure = "register the model again"
        if {PurePosixPath(path).name for path in unknown} == {"__pycache__"}:
            cure = (
                "Python left that where MLflow loaded the model out of the store itself: delete it there, and set "
                "PYTHONDONTWRITEBYTECODE=1 where models are loaded"
            )
        raise RegistryError(f"{where}: holds files that medrep did not register ({names}); {cure}")
    return files


def _fetch_files(
    repository: ArtifactRepository, files: set[str], wanted: Sequence[str], folder: Path, where: str
) -> list[Path]:
    """Fetch some files of those that there are (`listed_files`) and nothing else; return where each lies now.

    Raises RegistryError for files that are absent, or links that lead out of the model.
    """
    absent = [name for name in wanted if name not in files]
    if absent:
        raise RegistryError(f"{where}: lacks {', '.join(absent)}; register the model again")
    if isinstance(repository, LocalArtifactRepository):
        root = Path(repository.artifact_dir).resolve()
        outside = [name for name in wanted if not (root / name).resolve().is_relative_to(root)]
        if outside:
            raise RegistryError(f"{where}: {', '.join(outside)} leads out of the model; register the model again")
    return [Path(repository.download_artifacts(name, str(folder))) for name in wanted]


def _entries(repository: Any, folder: str, where: str) -> Any:
    try:
        return repository.list_artifacts(folder or None)
    except MlflowException as error:
        if "outside the artifact directory" not in str(error):
            raise
        raise RegistryError(f"{where}: {folder!r} leads out of the model; register the model again") from None


OWN_FILE = Path(__file__).with_name(CODE_FILE)
RELEASED = (
    "93e5d9efef763995b74b822b7869ef1e5a8ed0992fdd535ea91aff2a7e10641d",
    # Of before the file led into the package.
    "8bd70347aee110036b8a0d8f460c2ea1ce86eb074699c3f84a0eb8b4ce54fe7a",
    "e7c21fcb3e45ad6217093aba1701422b8f11d88d8b946ae4ab16ce69cc60fa17",
)
"""SHA-256 of every pyfunc_model.py that a medrep has registered, the current one first."""

_LOADER = "mlflow.pyfunc.loaders.code_model"
_ENVIRONMENTS = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
_LONGEST = 2**16  # bytes; MLflow's are one or two thousand


def own_code_digest() -> str:
    """Return the digest of the file that is registered with models.

    Raises RegistryError if it was edited where medrep is installed: what it registers would be refused.
    """
    found = digest_of(OWN_FILE)
    if found != RELEASED[0]:
        raise RegistryError(f"{OWN_FILE}: is not the file of this medrep; install medrep again, then register")
    return found


def refuse_foreign_code(repository: ArtifactRepository, files: set[str], version: ModelVersion, where: str) -> None:
    """Refuse a version that would run anything but medrep's own code when MLflow loads it; all that is not as registered."""
    with tempfile.TemporaryDirectory(prefix="medrep-") as folder:
        code, described = _fetch_files(repository, files, (CODE_FILE, MLMODEL), Path(folder), where)
        problems = [
            *_code_problems(digest_of(code), version.tags.get(CODE, "")),
            *_loading_problems(described),
        ]
    if problems:
        cure = "do not serve it; find out who wrote to the store, and register the model again"
        raise RegistryError(listed(f"{where}: runs other code than medrep's", problems, cure))


def _code_problems(found: str, tagged: str) -> list[str]:
    if tagged and found != tagged:
        return [f"{CODE_FILE} is not the one that was registered"]
    if found not in RELEASED:
        return [f"{CODE_FILE} is of no medrep that this one knows (a later one? update medrep)"]
    return []


def _loading_problems(path: Path) -> list[str]:
    """Return what MLmodel says of loading that medrep would not have written."""
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError("too long")
        flavors = read_yaml(path.read_text(encoding="utf-8"))["flavors"]
        flavor: Mapping[str, Any] = flavors["python_function"]
        wanted = {
            "loader_module": _LOADER,
            "model_code_path": CODE_FILE,
            "code": None,
            "python_model": None,
            "data": None,
            "env": _ENVIRONMENTS,
            "artifacts": {"model": {"path": MODEL, "uri": MODEL}},
        }
        strange = [key for key, value in wanted.items() if flavor.get(key) != value]
        strange += [] if set(flavor["config"]) == {"digest"} else ["config"]
        return [
            *(f"{MLMODEL} has another {key} than medrep wrote" for key in strange),
            *(f"{MLMODEL} has a flavor of another library" for name in flavors if name != "python_function"),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return [f"{MLMODEL} cannot be read"]


@contextmanager
def downloaded_model(uri: str, tracking_uri: str | None = None) -> Iterator[Path]:
    """Yield the model folder of a registered version, in a temporary place that is gone afterwards.

    Only a version answers to ``models:/NAME@ALIAS`` that was promoted to this alias; ``models:/NAME/VERSION`` needs no gate.
    The store is by default that of MLFLOW_TRACKING_URI, or mlflow.db in the current folder. Raises RegistryError for no such
    version, none that may be used under this alias, or one that was altered, and ModelError for a damaged model.
    """
    address = Address.parse(uri)
    store = registry_store(tracking_uri, Path.cwd(), present=True)
    with tempfile.TemporaryDirectory(prefix="medrep-") as folder:
        with explained(store), session(store, alone=False) as client:
            version = find_version(client, address)
            if address.alias and not _passed_gate(version, address.alias):
                others = ", ".join(_passed_aliases(version))
                passed = f" (but for {others})" if others else ""
                raise RegistryError(
                    f"{address}: is version {version.version}, which no gate passed for {address.alias}{passed}; promote it, "
                    f"or name the version (models:/{address.name}/{version.version}) to use it all the same"
                )
            model = _fetch(client, store, version, Path(folder), address)
        _verify(model, version, address)
        yield model


def _fetch(client: MlflowClient, store: Store, version: ModelVersion, folder: Path, address: Address) -> Path:
    """Fetch the two files of a model folder; the others are looked at, and nothing of them is used."""
    repository, where = version_files(client, store, version), str(address)
    files = listed_files(repository, where)
    model = folder / "model"
    model.mkdir()
    for path in _fetch_files(repository, files, WEIGHTS, folder, where):
        path.replace(model / path.name)
    refuse_foreign_code(repository, files, version, where)
    return model


def _verify(model: Path, version: ModelVersion, address: Address) -> None:
    expected = version.tags.get(DIGEST)
    if not expected:
        raise RegistryError(f"{address}: has no digest; it was not registered by medrep register")
    if digest(model) != expected:
        raise RegistryError(
            f"{address}: its weights or description are not the registered ones; register the model again"
        )
