"""A registered model as a local model folder, checked before anything of it is used."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from medrep.tracking.errors import RegistryError
from medrep.tracking.session import explained, session
from medrep.tracking.stores import Store, registry_store
from medrep.tracking.versions import DIGEST, Address, find_version, passed_aliases, passed_gate
from medrep.training.checkpoint import digest

_MODEL = "artifacts/model"
_WEIGHTS = (f"{_MODEL}/model.json", f"{_MODEL}/model.safetensors")
# What `registry` logs, and what MLflow adds; a model that holds anything else was altered.
_KNOWN = frozenset(
    {
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "pyfunc_model.py",
        "registered_model_meta",
        *_WEIGHTS,
    }
)
_FOLDERS = frozenset({"artifacts", _MODEL})


@contextmanager
def fetched_model(uri: str, tracking_uri: str | None = None) -> Iterator[Path]:
    """Yield the model folder of a registered version, in a temporary place that is gone afterwards.

    Args:
        uri: ``models:/NAME@ALIAS``, which only a version answers to that was promoted to this alias, or ``models:/NAME/VERSION``.
        tracking_uri: Of the store; None: MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        RegistryError: No such version, none that may be used under this alias, or one that was altered.
        ModelError: A damaged model.
    """
    address = Address.parse(uri)
    store = registry_store(tracking_uri, Path.cwd(), present=True)
    with tempfile.TemporaryDirectory(prefix="medrep-") as folder:
        with explained(store), session(store, alone=False) as client:
            version = find_version(client, address)
            if address.alias and not passed_gate(version, address.alias):
                others = ", ".join(passed_aliases(version))
                passed = f" (but for {others})" if others else ""
                raise RegistryError(
                    f"{address}: is version {version.version}, which no gate passed for {address.alias}{passed}; promote it, "
                    f"or name the version (models:/{address.name}/{version.version}) to use it all the same"
                )
            model = _fetch(client, store, version, Path(folder), address)
        _verify(model, version, address)
        yield model


def _fetch(client: MlflowClient, store: Store, version: ModelVersion, folder: Path, address: Address) -> Path:
    """Fetch the two files of a model folder, and nothing else."""
    repository = _repository(client, store, version)
    files = _listed(repository, address)
    absent = [name for name in _WEIGHTS if name not in files]
    if absent:
        raise RegistryError(f"{address}: lacks {', '.join(absent)}; register the model again")
    if isinstance(repository, LocalArtifactRepository):
        root = Path(repository.artifact_dir).resolve()
        outside = [name for name in _WEIGHTS if not (root / name).resolve().is_relative_to(root)]
        if outside:
            raise RegistryError(f"{address}: {', '.join(outside)} leads out of the model; register the model again")
    model = folder / "model"
    model.mkdir()
    for name in _WEIGHTS:
        Path(repository.download_artifacts(name, str(folder))).replace(model / PurePosixPath(name).name)
    return model


def _repository(client: MlflowClient, store: Store, version: ModelVersion) -> ArtifactRepository:
    place = client.get_model_version_download_uri(version.name, version.version)
    return get_artifact_repository(place, tracking_uri=store.uri, registry_uri=store.uri)


def _listed(repository: Any, address: Address) -> set[str]:
    """Return the files of a logged model; refuse foreign ones, and names that leave the model."""
    files: set[str] = set()
    folders = [""]
    strangers: list[str] = []
    while folders:
        for info in _entries(repository, folders.pop(), address):
            path = str(info.path)
            if ".." in PurePosixPath(path).parts or path.startswith("/"):
                raise RegistryError(f"{address}: {path!r} leads out of the model; register the model again")
            if info.is_dir and path in _FOLDERS:
                folders.append(path)
            elif info.is_dir or path not in _KNOWN:
                strangers.append(path)
            else:
                files.add(path)
    if strangers:
        names = ", ".join(sorted(strangers)[:10])
        raise RegistryError(f"{address}: holds files that medrep did not register ({names}); register the model again")
    return files


def _entries(repository: Any, folder: str, address: Address) -> Any:
    try:
        return repository.list_artifacts(folder or None)
    except MlflowException as error:
        if "outside the artifact directory" not in str(error):
            raise
        raise RegistryError(f"{address}: {folder!r} leads out of the model; register the model again") from None


def _verify(model: Path, version: ModelVersion, address: Address) -> None:
    expected = version.tags.get(DIGEST)
    if not expected:
        raise RegistryError(f"{address}: has no digest; it was not registered by medrep register")
    if digest(model) != expected:
        raise RegistryError(
            f"{address}: its weights or description are not the registered ones; register the model again"
        )
