"""Model folders: safetensors and JSON, never pickle."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medrep.atomic import atomic_folder, write_json
from medrep.errors import ModelError
from medrep.json_texts import read_json

FORMAT = 2
"""Of what is written. Each older one is read by way of `_MIGRATIONS`."""

_LATER = ("support", "cohort", "shift")
_READOUT, _READOUT_ARRAYS = "readout/", ("weights", "centre")
_FILES = {"model.json", "model.safetensors"}


@dataclass(frozen=True)
class Checkpoint:
    """What a model folder holds.

    Attributes:
        kind: Key of ``MODELS``.
        content: The model's own JSON content.
        arrays: Its weights and statistics.
        input: The ``input`` section it was trained with.
        versions: Package -> version at training.
        support: Where training people lie among the covariates; empty in models of earlier versions.
        cohort: How many people of training there were, their data's fingerprint, and keyed digests of their rows (``rows``, see
            `TrainingRows`; absent in models of earlier versions); empty in models of versions before that.
        readouts: Covariate -> content and arrays of what predicts it from the data; empty where nothing does.
        shift: The gate that tells people unlike those of calibration; empty where training held nobody out.
        digest: Of the folder, see `digest`.
    """

    kind: str
    content: dict[str, Any]
    arrays: dict[str, np.ndarray]
    input: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    support: dict[str, Any] = field(default_factory=dict)
    cohort: dict[str, Any] = field(default_factory=dict)
    readouts: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = field(default_factory=dict)
    shift: dict[str, Any] = field(default_factory=dict)
    digest: str = ""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a model folder as a whole, or not at all; versions and digest are those of what is written.

    Raises:
        ModelError: It cannot be written, for instance since the disk is full.
    """
    arrays = dict(checkpoint.arrays)
    for name, (_, own) in checkpoint.readouts.items():
        arrays |= {f"{_READOUT}{name}/{key}": array for key, array in own.items()}
    with atomic_folder(folder) as partial:
        try:
            save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial / "model.safetensors"
            )
        except SafetensorError as error:
            raise ModelError(f"{folder}: cannot be written ({error}); free space, and call again") from None
        described = {
            "format": FORMAT,
            "kind": checkpoint.kind,
            "input": checkpoint.input,
            "content": checkpoint.content,
        }
        described |= {name: getattr(checkpoint, name) for name in _LATER}
        described["readouts"] = {name: content for name, (content, _) in checkpoint.readouts.items()}
        versions = {package: version(package) for package in ("medrep", "numpy", "torch", "monai")}
        write_json(partial / "model.json", {**described, "versions": versions})


def _from_first(described: dict[str, Any]) -> dict[str, Any]:
    """Format 1 grew: models of its first versions know nothing of where training people lie, who they were, or readouts."""
    return {**{name: {} for name in (*_LATER, "readouts")}, **described, "format": 2}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_first}
"""Format -> how a description of it becomes one of the next."""


def _migrated(described: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a description in today's format; the folder stays as it is, since its digest is the model's name.

    Raises:
        ModelError: A format that no medrep has written, or a later one.
    """
    while described["format"] != FORMAT:
        step = _MIGRATIONS.get(described["format"]) if isinstance(described["format"], int) else None
        if step is None:
            raise ModelError(
                f"{folder}: format {described['format']!r:.40}, this medrep reads 1 to {FORMAT}; a later medrep may read it"
            )
        described = step(described)
    return described


def digest(folder: Path) -> str:
    """Return the SHA-256 of what a model folder holds, in hexadecimal: the same for the same model, wherever it lies."""
    found = sha256()
    for name in sorted(_FILES):
        with (folder / name).open("rb") as file:
            found.update(f"{name}:{file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def refuse_unreadable(folder: Path) -> None:
    """Refuse a model folder that is there and that this user may not read: it is neither absent nor damaged.

    Raises:
        ModelError: With the files, and what to do.
    """
    closed = [folder] if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK) else []
    closed = closed or [
        folder / name for name in _FILES if (folder / name).exists() and not os.access(folder / name, os.R_OK)
    ]
    if closed:
        names = ", ".join(map(str, sorted(closed)))
        raise ModelError(f"{names}: you may not read it; ask its owner to let you (chmod -R a+rX)")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a model folder without running anything that is in it.

    Raises:
        ModelError: Not a model folder, foreign files in it, a newer format, or damaged weights.
    """
    refuse_unreadable(folder)
    if not (folder / "model.json").is_file():
        raise ModelError(f"{folder}: no model.json; give the folder that train wrote to OUT/model")
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in _FILES)
    if strangers:
        raise ModelError(
            f"{folder}: holds files that no model folder has ({', '.join(strangers)}); remove them or retrain"
        )
    outside = sorted(name for name in _FILES if not (folder / name).resolve().is_relative_to(folder.resolve()))
    if outside:
        raise ModelError(f"{folder}: {', '.join(outside)} leads out of the folder; copy the file in")
    try:
        described = read_json((folder / "model.json").read_text(encoding="utf-8"))
        if not isinstance(described, dict):
            raise ValueError("no object")
        described = _migrated(described, folder)
        kinds = {"kind": str, "content": dict, "input": dict, "versions": dict}
        wrong = [f"{key} is no {kind.__name__}" for key, kind in kinds.items() if not isinstance(described[key], kind)]
        if wrong:
            raise ValueError(", ".join(wrong))
        arrays = load_file(folder / "model.safetensors")
        known = {name: described[name] for name in ("kind", "content", "input", "versions")}
        later = {name: described[name] for name in _LATER}
        readouts = {
            name: (content, {key: arrays.pop(f"{_READOUT}{name}/{key}") for key in _READOUT_ARRAYS})
            for name, content in described["readouts"].items()
        }
        return Checkpoint(arrays=arrays, digest=digest(folder), readouts=readouts, **known, **later)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: damaged ({type(error).__name__}: {error}); train again or fetch it again"
        ) from None
