"""A registered model as a local model folder, checked before anything of it is used."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from medrep.models.saved import digest
from medrep.tracking.errors import RegistryError
from medrep.tracking.logged_code import refuse_foreign_code
from medrep.tracking.logged_model import WEIGHTS, fetch_files, listed_files, version_files
from medrep.tracking.session import explained, session
from medrep.tracking.stores import Store, registry_store
from medrep.tracking.versions import DIGEST, Address, find_version, passed_aliases, passed_gate


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
    """Fetch the two files of a model folder; the others are looked at, and nothing of them is used."""
    repository, where = version_files(client, store, version), str(address)
    files = listed_files(repository, where)
    model = folder / "model"
    model.mkdir()
    for path in fetch_files(repository, files, WEIGHTS, folder, where):
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
