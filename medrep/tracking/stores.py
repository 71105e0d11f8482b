"""Where runs are kept: an SQLite file beside OUT, or any database or server that MLflow knows. Imports no MLflow."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medrep.errors import ConfigError

_DATABASES = frozenset({"postgresql", "mysql", "mssql"})
_FILE, _ARTIFACTS = "mlflow.db", "mlartifacts"


@dataclass(frozen=True)
class Store:
    """A place for runs.

    Attributes:
        uri: MLflow's tracking URI.
        artifacts: Where the files of new experiments go; None leaves it to the server.
        file: The SQLite file, if it is one.
    """

    uri: str
    artifacts: Path | None = None
    file: Path | None = None

    def hide(self, text: str) -> str:
        """Return ``text`` without the password that the URI may hold."""
        password = urlsplit(self.uri).password if "@" in self.uri else None
        for shape in {password, unquote(password)} if password else ():
            text = text.replace(shape, "***")
        return text


def find_store(tracking: str | None, out: Path) -> Store | None:
    """Say where the run that writes OUT is logged.

    Args:
        tracking: ``none`` or None: nowhere. ``auto``: the environment variable MLFLOW_TRACKING_URI, or else
            ``mlflow.db`` in OUT's parent folder. Otherwise an MLflow tracking URI: ``sqlite:///FILE``, ``postgresql://...``,
            ``http://...``.
        out: The folder that the command writes.

    Returns:
        The store; None to log nothing, as in every process of ``torchrun`` but the first.

    Raises:
        ConfigError: A plain folder or an SQLite database in memory, neither of which can keep runs.
    """
    if tracking in (None, "none") or os.environ.get("RANK", "0") not in ("", "0"):
        return None
    beside = out.resolve().parent
    default = f"sqlite:///{beside / _FILE}"
    cure = f"write {default} (or leave --tracking out), a server's http://... or postgresql://..., or none"
    source, uri = "--tracking", str(tracking)
    if tracking == "auto":
        source, uri = "MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if tracking == "auto" and not uri:
        if {"%", "?"} & set(default):
            cure = "name another file with --tracking sqlite:///FILE, or pass --tracking none"
            raise ConfigError(f"{beside}: a path with % or ? cannot lead to an SQLite file of runs; {cure}")
        return Store(default, beside / _ARTIFACTS, beside / _FILE)
    scheme, separator, rest = uri.partition("://")
    if scheme == "file" or not (separator or uri.startswith("databricks")):
        raise ConfigError(f"{source} {uri!r}: MLflow keeps no runs in plain folders any more; {cure}")
    if scheme == "sqlite":
        path = rest.removeprefix("/").partition("?")[0]
        if not rest.startswith("/") or path in ("", ":memory:") or "%" in path:
            raise ConfigError(f"{source} {uri!r}: names no file (or one with % in its path); {cure}")
        file = Path(path).absolute()
        return Store(uri, file.parent / _ARTIFACTS, file)
    return Store(uri, beside / _ARTIFACTS if scheme.partition("+")[0] in _DATABASES else None)
