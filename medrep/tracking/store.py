"""Where runs are kept: an SQLite file beside OUT, or any database or server that MLflow knows. Imports no MLflow."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from medrep.errors import STARS, ConfigError, RegistryError, mask

_DATABASES = frozenset({"postgresql", "mysql", "mssql"})
_PIECE = 4  # letters; shorter ones are in every text
_FILE, _ARTIFACTS = "mlflow.db", "mlartifacts"


@dataclass(frozen=True)
class Store:
    """A place for runs: MLflow's tracking URI, and the SQLite file if it is one.

    Files of new experiments go to the artifacts; None leaves it to the server.
    """

    uri: str
    artifacts: Path | None = None
    file: Path | None = None

    def hide(self, text: str) -> str:
        """Return ``text`` without secrets, those that the URI holds first of all, however malformed it is."""
        return hidden(self.uri, text)

    def __str__(self) -> str:
        return self.hide(self.uri)


def find_store(tracking: str | None, out: Path) -> Store | None:
    """Say where the run that writes OUT is logged; None to log nothing, as in every process of ``torchrun`` but the first.

    ``none`` or None is nowhere; ``auto`` is the environment variable MLFLOW_TRACKING_URI, or else ``mlflow.db`` in OUT's
    parent folder. Otherwise it is an MLflow tracking URI: ``sqlite:///FILE``, ``postgresql://...``, ``http://...``. Raises
    ConfigError for a plain folder or an SQLite database in memory, neither of which can keep runs.
    """
    if tracking in (None, "none") or os.environ.get("RANK", "0") not in ("", "0"):
        return None
    return _store("" if tracking == "auto" else str(tracking), out.resolve().parent, "--tracking", "--tracking none")


def registry_store(tracking_uri: str | None, beside: Path, *, present: bool = False) -> Store:
    """Say where the registry of models is: at a tracking URI, or MLFLOW_TRACKING_URI, or else ``mlflow.db`` in ``beside``.

    Raises ConfigError for a place that can keep no registry, and RegistryError for no SQLite file where there should be one.
    """
    store = _store(tracking_uri or "", beside.resolve(), "--tracking-uri", "a server's http://...")
    if present and store.file is not None and not store.file.is_file():
        raise RegistryError(
            f"{store.file}: no such registry; run this in the folder where train or register wrote mlflow.db, set "
            "MLFLOW_TRACKING_URI, or pass --tracking-uri"
        )
    return store


def hidden(uri: str, text: str) -> str:
    """Return ``text`` without the password of a URI, in all its spellings, and without whatever else looks like a secret."""
    _, slashes, rest = uri.partition("//")
    login, at, _ = (rest if slashes else uri).rpartition("@")
    password = (login if at else rest.partition("/")[0]).partition(":")[2]
    if not at and password.isdigit():
        password = ""  # a port
    # What a library tells of a URI that it cannot read may be a piece of it.
    pieces = {piece for piece in re.split(r"[/?#@:\s]", password) if len(piece) >= _PIECE}
    shapes = {password, unquote(password), quote(password), quote(password, safe=""), repr(password)[1:-1], *pieces} - {
        ""
    }
    for shape in sorted(shapes, key=len, reverse=True):
        text = text.replace(shape, STARS)
    return mask(text)


def _store(given: str, beside: Path, option: str, otherwise: str) -> Store:
    """Return the store that is given, that the environment names, or the file in a folder."""
    default = f"sqlite:///{beside / _FILE}"
    source, uri = option, given
    if not given:
        source, uri = "MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        if {"%", "?"} & set(default):
            cure = f"name another file with {option} sqlite:///FILE, or pass {otherwise}"
            raise ConfigError(f"{beside}: a path with % or ? cannot lead to an SQLite file of runs; {cure}")
        return Store(default, beside / _ARTIFACTS, beside / _FILE)
    cure = f"write {default} (or leave {option} out), a server's http://... or postgresql://..."
    cure += ", or none" if option == "--tracking" else ""
    scheme, separator, rest = uri.partition("://")
    if scheme == "file" or not (separator or uri.startswith("databricks")):
        raise ConfigError(f"{source} {hidden(uri, repr(uri))}: MLflow keeps no runs in plain folders any more; {cure}")
    if scheme == "sqlite":
        path = rest.removeprefix("/").partition("?")[0]
        if not rest.startswith("/") or path in ("", ":memory:") or "%" in path:
            raise ConfigError(f"{source} {hidden(uri, repr(uri))}: names no file (or one with % in its path); {cure}")
        file = Path(path).absolute()
        return Store(uri, file.parent / _ARTIFACTS, file)
    return Store(uri, beside / _ARTIFACTS if scheme.partition("+")[0] in _DATABASES else None)
