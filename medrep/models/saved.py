"""A trained model and what is known of it, as a folder: safetensors and JSON, never pickle."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from medrep._files import atomic_folder, digest_of_files, release_pages, write_json
from medrep._persisted import Arrays, converted, given, stored, to_json, to_state
from medrep._structuring import from_json, from_state
from medrep._texts import read_json
from medrep.cohort.cohort import read_matrix
from medrep.cohort.columns import read_covariates
from medrep.cohort.dataset import Dataset
from medrep.cohort.features import column_order
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import InputKind, saved_input
from medrep.cohort.splits import TrainingRows, saved_rows
from medrep.cohort.support import Support, outside_training, refuse_extrapolation, refuse_far
from medrep.errors import ModelError
from medrep.models import Model, restore_model
from medrep.models.prediction import Prediction, refuse_other_columns
from medrep.models.shape.pose import PoseModel
from medrep.models.shift import ShiftGate, saved_gate

FORMAT = 2
"""Of what is written. Each older one is read by way of `_MIGRATIONS`."""

_LATER = ("support", "cohort", "shift")
_READOUT, _UNIT, _POSE = "readout/", "unit/", "pose/"
_MAPPED_BYTES = 2**26
_DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_FILES = {"model.json", "model.safetensors"}


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from; models of earlier versions say less.

    Attributes:
        people: How many people of training there were; 0 where nobody says.
        fingerprint: Of their data; empty where nobody says.
        rows: Keyed digests of their rows; None where there are none.
        transformed: Covariates that medrep had moved in their data before.
        versions: Package -> version at training.
        digest: Of the folder, see `digest`.
    """

    people: int = field(default=0, metadata=stored(omitted=lambda own: not own.people))
    fingerprint: str = field(default="", metadata=stored(omitted=lambda own: not own.fingerprint))
    rows: TrainingRows | None = field(
        default=None,
        metadata=converted("rows", Any, to_json, lambda rows, read: saved_rows(rows), lambda own: own.rows is None),
    )
    transformed: tuple[str, ...] = field(default=(), metadata=stored("moved", omitted=lambda own: not own.transformed))
    versions: Mapping[str, str] = field(default_factory=dict, metadata=given(lambda read: {}))
    digest: str = field(default="", metadata=given(lambda read: ""))


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A trained model and all that its folder holds.

    Attributes:
        model: The model.
        input: The kind of input it was trained with, with its section.
        support: Where training people lie among the covariates; None in models of earlier versions.
        provenance: Where it comes from.
        readouts: What predicts covariates from the data.
        shift: The gate that tells people unlike those of calibration; None where training held nobody out.
        unit: What moves the logarithms of each image's own units; None where these stay.
        pose: What covariates do to how an organ lies; None where that is not known.
        address: Where it was loaded from, as the user calls it; empty where it was not.
    """

    model: Model
    input: InputKind[Any]
    support: Support | None = None
    provenance: Provenance = field(default_factory=Provenance)
    readouts: tuple[Prediction, ...] = ()
    shift: ShiftGate | None = None
    unit: Model | None = None
    pose: PoseModel | None = None
    address: str = ""

    @property
    def named(self) -> str:
        """Name of the model, as it is written."""
        return self.address or "a model that was not saved"

    def people(self, dataset: Dataset, *, extrapolate: bool = False) -> Dataset:
        """Return people in the columns and the form of covariates of the model.

        Args:
            dataset: Read for this model, for another or for none; images on another grid are read again.
            extrapolate: Whether people far outside the range of training are taken.

        Raises:
            MedrepError: Data of another kind or other columns, or covariates that the model does not know; all of them.
        """
        schema, columns, origin = self.model.schema, self.model.columns, dataset.origin
        if origin is None:
            frame = schema.transfer(dataset.covariates)
        else:
            refuse_other_kind(self.input, origin.cohort.input)
            table, units = origin.cohort.table.loc[dataset.keys], origin.cohort.units
            known = read_covariates(table, schema.declared, units, origin.cohort.levels).frame
            dataset, frame = dataset.select(known.index), schema.transfer(known)
        if not extrapolate:
            refuse_far(outside_training(schema, frame), "pass extrapolate=True to be told what the model guesses")
        values = dataset.values
        if columns.names or dataset.columns.names:
            order = column_order(columns.names, dataset.columns.names)
            values = values if order == list(range(len(order))) else values[:, order]
        elif origin is not None and (origin.read_as != self.input or dataset.columns != columns):
            with tempfile.TemporaryFile() as scratch:
                again = replace(dataset.as_cohort(), input=self.input)
                values, found = read_matrix(again, scratch, like=columns, where=f"in {tempfile.gettempdir()}")
            _refuse_other_grid(columns, found)
        else:
            _refuse_other_grid(columns, dataset.columns)
        return replace(dataset, values=values, covariates=frame, schema=schema, columns=columns)

    def remove(
        self,
        dataset: Dataset,
        names: Sequence[str] | str,
        references: Mapping[str, str | float | int] | None = None,
        *,
        extrapolate: bool = False,
    ) -> Dataset:
        """Move covariates of people to a reference, and leave everything else of them as it is.

        Args:
            dataset: The people.
            names: Covariates to remove; the others are kept.
            references: Removed covariate -> value to move to, where it is not the model's default.
            extrapolate: Whether people and references far outside the range of training are taken.

        Returns:
            The same people with other values; their covariates stay what they are.

        Raises:
            MedrepError: People whom the model cannot take (`SavedModel.people`), unknown covariates or levels.
        """
        names = [names] if isinstance(names, str) else list(names)
        target = self.model.schema.references(names, references)
        if references and not extrapolate:
            chosen = {name: target[name] for name in references}
            refuse_extrapolation(self.model.schema, chosen, "pass extrapolate=True to be told what the model guesses")
        people = self.people(dataset, extrapolate=extrapolate)
        return people.with_values(self.model.remove(people, target))

    def encode(self, dataset: Dataset, *, extrapolate: bool = False) -> Float[np.ndarray, "people latents"]:
        """Return what is left of each person once all covariates are accounted for; see `SavedModel.remove`."""
        return self.model.encode(self.people(dataset, extrapolate=extrapolate))

    def save(self, folder: Path | str) -> None:
        """Write a model folder as a whole, or not at all; versions and digest are those of what is written.

        Raises:
            ModelError: It cannot be written, for instance since the disk is full.
        """
        folder = Path(folder)
        content, arrays = self.model.state()
        readouts = {readout.name: to_state(readout) for readout in self.readouts}
        for name, (_, own) in readouts.items():
            arrays |= {f"{_READOUT}{name}/{key}": array for key, array in own.items()}
        unit, own = ({}, {}) if self.unit is None else self.unit.state()
        arrays |= {f"{_UNIT}{key}": array for key, array in own.items()}
        pose, own = ({}, {}) if self.pose is None else to_state(self.pose)
        arrays |= {f"{_POSE}{key}": array for key, array in own.items()}
        with atomic_folder(folder) as partial:
            try:
                save_file(
                    {name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial / "model.safetensors"
                )
            except SafetensorError as error:
                raise ModelError(f"{folder}: cannot be written ({error}); free space, and call again") from None
            for array in arrays.values():
                release_pages(array)
            described = {
                "format": FORMAT,
                "kind": self.model.kind,
                "input": self.input.to_json(),
                "content": content,
                "support": {} if self.support is None else to_json(self.support),
                "cohort": to_json(self.provenance),
                "shift": {} if self.shift is None else to_json(self.shift),
                "readouts": {name: about for name, (about, _) in readouts.items()},
                "versions": {package: version(package) for package in ("medrep", "numpy", "torch", "monai")},
            }
            beside = {name: content for name, content in (("unit", unit), ("pose", pose)) if content}
            write_json(partial / "model.json", {**described, **beside})

    @classmethod
    def load(cls, folder: Path, address: str = "") -> "SavedModel":
        """Read a model folder without running anything that is in it.

        Args:
            folder: The folder.
            address: What the user calls it, if that is another word.

        Raises:
            ModelError: Not a model folder, foreign files in it, a newer format, damaged weights, or parts of another model.
            ConfigError: An ``input`` section that is none.
        """
        described = _described(folder)
        try:
            arrays = _load_arrays(folder / "model.safetensors")
            apart = {name: _readout_arrays(name, arrays) for name in described["readouts"]}
            units, lying = (_arrays_of(part, arrays) for part in (_UNIT, _POSE))
            own = digest(folder)
        except _DAMAGES as error:
            raise _damaged(folder, error) from None
        model = restore_model(described["kind"], described["content"], arrays)
        unit = restore_model("linear", described["unit"], units) if "unit" in described else None
        section = saved_input(described["input"], address or str(folder))
        try:
            readouts = tuple(
                from_state(Prediction, content, apart[name]) for name, content in described["readouts"].items()
            )
            support = from_json(Support, described["support"]) if described["support"] else None
            provenance = from_json(Provenance, described["cohort"])
            pose = from_state(PoseModel, described["pose"], lying) if "pose" in described else None
        except _DAMAGES as error:
            raise _damaged(folder, error) from None
        for readout in readouts:
            refuse_other_columns(readout, model.columns.count)
        shift = saved_gate(described["shift"]) if described["shift"] else None
        provenance = replace(provenance, versions=described["versions"], digest=own)
        return cls(model, section, support, provenance, readouts, shift, unit, pose, address or str(folder))


def refuse_other_kind(wanted: InputKind[Any], given: InputKind[Any]) -> None:
    """Refuse people whose data are of another kind than those of training; tables are compared column by column."""
    if type(given) is not type(wanted) and not (given.tabular and wanted.tabular):
        raise ModelError(f"the model was trained on {wanted.kind} data, and these are {given.kind} data")


def _refuse_other_grid(wanted: Columns, given: Columns) -> None:
    """Refuse images on another grid than those of training."""
    if given != wanted:
        raise ModelError("the people's data are not of the grid or the columns that the model was fitted on")


def load_input(folder: Path) -> InputKind[Any]:
    """Return the ``input`` section of a model folder alone, for those who need no model; see `SavedModel.load` for errors."""
    return saved_input(_described(folder)["input"], str(folder))


_DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError)


def _load_arrays(path: Path) -> Arrays:
    """Return the arrays of a file; those of a large one are memory-mapped, so that no process holds more than it looks at."""
    if path.stat().st_size < _MAPPED_BYTES:
        return load_file(path)
    with safe_open(path, framework="np"):  # refuses a file whose header does not fit its content
        pass
    content = np.memmap(path, mode="r", dtype=np.uint8)
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__", None)
    if any(about["dtype"] not in _DTYPES for about in header.values()):
        return load_file(path)
    arrays = {}
    for name, about in header.items():
        low, high = (start + offset for offset in about["data_offsets"])
        arrays[name] = np.asarray(content[low:high]).view(_DTYPES[about["dtype"]]).reshape(about["shape"])
    return arrays


def _damaged(folder: Path, error: Exception) -> ModelError:
    return ModelError(f"{folder}: damaged ({type(error).__name__}: {error}); train again or fetch it again")


def _arrays_of(part: str, arrays: Arrays) -> Arrays:
    """Take the arrays of a part of a folder out of the others."""
    return {key.removeprefix(part): arrays.pop(key) for key in [*arrays] if key.startswith(part)}


def _readout_arrays(name: str, arrays: Arrays) -> Arrays:
    """Take the arrays of a readout out of those of its model."""
    return {key: arrays.pop(f"{_READOUT}{name}/{key}") for key in ("weights", "centre")}


def _from_first(described: dict[str, Any]) -> dict[str, Any]:
    """Format 1 grew: models of its first versions know nothing of where training people lie, who they were, or readouts."""
    return {**{name: {} for name in (*_LATER, "readouts")}, **described, "format": 2}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_first}
"""Format -> how a description of it becomes one of the next."""


def _migrated(described: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a description in today's format; the folder stays as it is, since its digest is the model's name."""
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
    return digest_of_files(folder, sorted(_FILES))


def _refuse_unreadable(folder: Path) -> None:
    """Refuse a model folder that is there and that this user may not read: it is neither absent nor damaged."""
    closed = [folder] if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK) else []
    closed = closed or [
        folder / name for name in _FILES if (folder / name).exists() and not os.access(folder / name, os.R_OK)
    ]
    if closed:
        names = ", ".join(map(str, sorted(closed)))
        raise ModelError(f"{names}: you may not read it; ask its owner to let you (chmod -R a+rX)")


def _described(folder: Path) -> dict[str, Any]:
    """Return the description that a model folder holds, in today's format; see `SavedModel.load` for errors."""
    _refuse_unreadable(folder)
    if not (folder / "model.json").is_file():
        raise ModelError(f"{folder}: no model.json; give the folder that train wrote to OUT/model")
    unknown = sorted(path.name for path in folder.iterdir() if path.name not in _FILES)
    if unknown:
        raise ModelError(
            f"{folder}: holds files that no model folder has ({', '.join(unknown)}); remove them or retrain"
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
        return {**described, **{name: described[name] for name in (*_LATER, "readouts")}}
    except _DAMAGES as error:
        raise _damaged(folder, error) from None
