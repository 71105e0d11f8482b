"""The files of a logged model in a store: listed, so that foreign ones are refused, and fetched by name."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from medrep.tracking.errors import RegistryError
from medrep.tracking.stores import Store

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
    """Return the files of a logged model.

    Args:
        repository: Where they are.
        where: For messages.

    Raises:
        RegistryError: Files that medrep did not register, or names that lead out of the model.
    """
    files: set[str] = set()
    folders = [""]
    strangers: list[str] = []
    while folders:
        for info in _entries(repository, folders.pop(), where):
            path = str(info.path)
            if ".." in PurePosixPath(path).parts or path.startswith("/"):
                raise RegistryError(f"{where}: {path!r} leads out of the model; register the model again")
            if info.is_dir and path in _FOLDERS:
                folders.append(path)
            elif info.is_dir or path not in _KNOWN:
                strangers.append(path)
            else:
                files.add(path)
    if strangers:
        names = ", ".join(sorted(strangers)[:10])
        raise RegistryError(f"{where}: holds files that medrep did not register ({names}); register the model again")
    return files


def fetch_files(
    repository: ArtifactRepository, files: set[str], wanted: Sequence[str], folder: Path, where: str
) -> list[Path]:
    """Fetch some files, and nothing else.

    Args:
        repository: Where they are.
        files: Which there are, see `listed_files`.
        wanted: Their names in the model.
        folder: Where to.
        where: For messages.

    Returns:
        Where each lies now.

    Raises:
        RegistryError: Files that are absent, or links that lead out of the model.
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
