"""The code that MLflow runs when it loads a registered model: one file, known by its digest, and what MLmodel says of it.

Whoever may write to a store may write code there, and MLflow runs it without asking. medrep itself runs nothing from a store; it
tells whether a version would run anything but medrep's own file. The digest in the tags is what was registered. That alone would
be changed together with the file, so the file also has to be that of a release.
"""

import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from medrep.errors import listed
from medrep.tracking.errors import RegistryError
from medrep.tracking.logged_model import CODE_FILE, MLMODEL, MODEL, fetch_files
from medrep.tracking.versions import CODE
from medrep.yaml_texts import read_yaml

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


def code_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return sha256(path.read_bytes()).hexdigest()


def own_code_digest() -> str:
    """Return the digest of the file that is registered with models.

    Raises:
        RegistryError: It was edited where medrep is installed: what it registers would be refused.
    """
    found = code_digest(OWN_FILE)
    if found != RELEASED[0]:
        raise RegistryError(f"{OWN_FILE}: is not the file of this medrep; install medrep again, then register")
    return found


def refuse_foreign_code(repository: ArtifactRepository, files: set[str], version: ModelVersion, where: str) -> None:
    """Refuse a version that would run anything but medrep's own code when MLflow loads it.

    Args:
        repository: Where its files are.
        files: Which there are.
        version: The version.
        where: For messages.

    Raises:
        RegistryError: All that is not as medrep registers it.
    """
    with tempfile.TemporaryDirectory(prefix="medrep-") as folder:
        code, described = fetch_files(repository, files, (CODE_FILE, MLMODEL), Path(folder), where)
        problems = [
            *_code_problems(code_digest(code), version.tags.get(CODE, "")),
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
