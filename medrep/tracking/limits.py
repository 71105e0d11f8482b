"""What one request to a served model may ask for: bytes, levels of nesting, voxels of scans, as environment variables say.

What is larger is answered with 413 before anything is unpacked or computed, so that nobody holds a worker with a small file.
"""

import os
from collections.abc import Iterable
from functools import wraps
from math import prod
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server

from medrep.cohort.image_files import open_header
from medrep.errors import CohortError, ConfigError, MedrepError, listed
from medrep.json_texts import refuse_deep

MAX_VOXELS, MAX_BYTES = "MEDREP_MAX_VOXELS", "MEDREP_MAX_REQUEST_BYTES"
_DEFAULTS = {MAX_VOXELS: 512**3, MAX_BYTES: 2**26}
_TOO_LARGE = 413
_DECODER = "_decode_json_input"


class LimitError(MedrepError):
    """A request for more than this server does at once."""


class _TooLarge(MlflowException):  # type: ignore[misc]  # MLflow is untyped here
    """Answered with 413."""

    def get_http_status_code(self) -> int:
        """Return 413, which MLflow has no code for."""
        return _TOO_LARGE


def refusal(error: MedrepError) -> MlflowException:
    """Return what MLflow answers a request with: 413 if it asks for too much, else 400."""
    kind = _TooLarge if isinstance(error, LimitError) else MlflowException
    return kind(str(error), INVALID_PARAMETER_VALUE)


def limit(name: str) -> int:
    """Return a limit.

    Raises:
        ConfigError: The environment variable is no whole number from 1.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return _DEFAULTS[name]
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ConfigError(f"{name} is {text[:40]!r}; give a whole number from 1 (default: {_DEFAULTS[name]})")
    return int(text)


def refuse_many_voxels(files: Iterable[tuple[str, str, Path]]) -> None:
    """Refuse scans that together claim more voxels than `MAX_VOXELS`; only the beginnings of the files are read.

    Args:
        files: Row, path as it was given, and file.

    Raises:
        LimitError: With what each claims.
    """
    most, claimed = limit(MAX_VOXELS), {}
    for row, given, file in files:
        try:
            shape = open_header(file).shape
        except CohortError:
            continue  # whoever reads it says what is wrong with it
        claimed[f"{row}: {given!r} claims {' x '.join(map(str, shape))} voxels"] = prod(int(n) for n in shape)
    if sum(claimed.values()) > most:
        largest = sorted(claimed, key=lambda one: -claimed[one])
        cure = f"send fewer or smaller scans, or start the server with a higher {MAX_VOXELS}"
        raise LimitError(listed(f"more than {most} voxels in one request", largest, cure))


def guard_requests() -> None:
    """Let MLflow's server answer 4xx to JSON that is too large or too deep, where it would answer 500; once a process."""
    limit(MAX_VOXELS)
    limit(MAX_BYTES)
    before = getattr(scoring_server, _DECODER, None)
    if before is None or getattr(before, "guarded", False):
        return

    @wraps(before)
    def decoded(request: Any) -> Any:
        most = limit(MAX_BYTES)
        if isinstance(request, str | bytes) and len(request) > most:
            raise _TooLarge(f"a request of {len(request)} bytes; at most {most} ({MAX_BYTES})", BAD_REQUEST)
        try:
            found = before(request)
            refuse_deep(found)
        except (RecursionError, ValueError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise MlflowException(f"the JSON of the request cannot be read: {reason}", BAD_REQUEST) from None
        return found

    decoded.guarded = True  # type: ignore[attr-defined]
    setattr(scoring_server, _DECODER, decoded)
