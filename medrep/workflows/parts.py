"""``train`` in parts: images are read by many processes, and fitted by one, as if it had read them all.

Each part knows the whole table of participants, so that all decide alike who is held out and what the design is. The first
that comes decides the grid, the mask and the landmarks of intensities. What a part leaves are the rows of its own people, as
training's scratch file holds them. Sums of squares and products would not do: point masses, missing voxels, weights of noisy
batches and the noise of each band need whole columns, and sums for every level of a batch take as much room as 20 to 200 people.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medrep._files import STATE, atomic_file, release_pages, write_json, write_text
from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep._texts import read_json
from medrep.batch.merge import TRAIN
from medrep.batch.run import BatchResult, chosen_participants
from medrep.batch.store import Job, Part, fingerprints, open_job, read_job
from medrep.cohort.cohort import Cohort, read_matrix, scratch_room
from medrep.cohort.files import CohortFiles, Place
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import SILENT, Listener, saved_input
from medrep.config import Config, read_config
from medrep.errors import MedrepError, UnfinishedError, listed
from medrep.models.linear.scales import measured_units
from medrep.tracking.store import find_store
from medrep.training.schedule import rank
from medrep.workflows.cohorts import input_paths, place_of, refuse_input
from medrep.workflows.train import Trained, Training, TrainOptions, complete, prepared, refuse_much

_CONFIG, _COLUMNS = "config.yaml", "columns.safetensors"
_DAMAGES = (OSError, ValueError, KeyError, TypeError, MedrepError, SafetensorError)


def read_part(
    source: Place,
    out: Path,
    config: Config,
    part: Part,
    listener: Listener = SILENT,
    options: TrainOptions | None = None,
) -> BatchResult:
    """Read the images of one part of a training's people into OUT/.medrep; a part that is there already is not read again.

    Args:
        source: The cohort.
        out: Where the model will be written; all parts have the same.
        config: What to fit.
        part: Which part.
        listener: Who is told.
        options: How; the same for all parts.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name; OUT holds another job.
    """
    options = options or TrainOptions()
    refuse_input(out, input_paths(source))
    training = prepared(source, config, listener, options)
    identity = _identity(source, training, options, part.count)

    def prepare(_model: Path) -> Mapping[str, Any]:
        write_text(out / STATE / _CONFIG, training.config.to_yaml())
        kind, notes = training.cohort.input.measured(training.cohort.source, listener)
        with tempfile.TemporaryFile(dir=out / STATE) as scratch:
            columns = kind.common_columns(training.cohort.source, scratch_room(scratch, "in OUT"), listener)
        content, arrays = ({}, {}) if columns is None else to_state(columns)
        with atomic_file(out / STATE / _COLUMNS) as partial:
            save_file(arrays, partial)
        described = None if columns is None else content
        return {"input": kind.to_json(), "notes": list(notes), "show": options.show, "columns": described}

    job = open_job(out, identity, prepare, part, overwrite=options.overwrite)
    training, columns = _decided(job, training)
    if columns is not None:
        refuse_much(training, columns, options.memory, listener)
    keys = training.cohort.table.index
    mine = keys[list(part.of(range(len(keys))))]
    listener.say(f"{part.name}: {len(mine)} of {len(keys)} images or rows")
    with job.working(part):
        if _problem(job, part, len(mine), columns):
            _write_part(job, part, training.cohort.select(mine), columns, options, listener)
        else:
            listener.say("they are read already")
    done = f"read {part.name} of a training; medrep merge {out} fits the model once all parts are read"
    return BatchResult(done, len(mine), 0, {"part": _described(job, part)}, whole=False)


def merge_training(out: Path, listener: Listener = SILENT, tracking: str | None = None) -> Trained | None:
    """Fit the model to the rows of all parts, and put it into OUT in their place.

    Args:
        out: OUT of the parts.
        listener: Who is told.
        tracking: Where the run is to be logged, as of `TrainOptions`.

    Returns:
        What was trained, the same as by one process that reads all; None of a process that only helps another one.

    Raises:
        UnfinishedError: Parts that are not read, or not as a whole; all of them.
        MedrepError: Parts of another training, or a cohort that has changed.
    """
    job = read_job(out)
    lock = FileLock(job.folder / "merge.lock", timeout=0)
    try:
        if rank() == 0:
            lock.acquire()
    except Timeout:
        raise MedrepError(f"{out}: another process merges its parts; wait for it, or end it, and call again") from None
    try:
        store = find_store(tracking, out)
        trained = _merged(job, listener)
        return None if trained is None else replace(trained, store=store)
    finally:
        lock.release()


def _merged(job: Job, listener: Listener) -> Trained | None:
    out, asked = job.out, job.identity
    place = CohortFiles.from_json(Path(asked["cohort"]), asked.get("files", {}))
    shown = str(job.content.get("show", ""))
    options = TrainOptions(asked["only"], asked["exclude"], hold_out=float(asked["hold_out"]), show=shown)
    parts = [Part(index, int(asked["parts"])) for index in range(int(asked["parts"]))]
    _refuse_unread(job, parts)
    training = prepared(place, read_config(job.folder / _CONFIG), listener, options)
    now = _identity(place, training, options, len(parts))
    if any(asked.get(name) != value for name, value in now.items()):
        raise MedrepError(
            f"{out}: the cohort has changed since its parts were read (people, covariates, or size and time of files);"
            f" remove {out}, and read all parts again"
        )
    training, columns = _decided(job, training)
    keys = training.cohort.table.index
    places = [np.arange(len(keys))[part.index :: part.count] for part in parts]
    wrong = [(part, _problem(job, part, len(own), columns)) for part, own in zip(parts, places, strict=True)]
    _refuse_parts(job, [(part, problem) for part, problem in wrong if problem])
    units = [_read(job, part)["units"] for part in parts]
    known = {key: row for own in units if own is not None for key, row in own.items()}
    training = replace(training, units=pd.DataFrame.from_dict(known, orient="index", dtype=float) if known else None)
    with tempfile.TemporaryFile(dir=out.resolve().parent) as scratch:
        if columns is None:
            data, columns = read_matrix(training.cohort, scratch, listener)
        else:
            data = scratch_room(scratch)(len(keys), columns.count)
            with listener.track("join the parts", len(keys)) as advance:
                for part, own in zip(parts, places, strict=True):
                    _copy(_values(job, part), own, data)
                    advance(len(own))
        refuse_much(training, columns, 0.0, listener)
        return complete(training, data, columns, out, listener, resume=True)


def _identity(source: Place, training: Training, options: TrainOptions, parts: int) -> dict[str, Any]:
    """Return what must be the same of all parts, and when they are merged."""
    people = training.cohort.source.samples(training.frame)
    others = training.others
    held = others.source.samples(training.covariates.frame.loc[others.table.index])
    prints = sha256()
    for some in (people, held):
        prints.update(
            "\n".join(f"{key} {own}" for key, own in zip(some.keys, fingerprints(some), strict=True)).encode()
        )
    chosen = chosen_participants(place_of(source), options.only, options.exclude)
    config = yaml.safe_load(training.config.to_yaml())
    asked = {"command": TRAIN, **chosen, "hold_out": float(options.hold_out), "parts": parts}
    return {**asked, **config, "people": prints.hexdigest()[:16]}


def _decided(job: Job, training: Training) -> tuple[Training, Columns | None]:
    """Return the training with what its first part measured, and the columns; None of a table."""
    content, path = job.content, job.folder / _COLUMNS
    try:
        kind = saved_input(content["input"], str(job.folder / "job.json"))
        described, arrays = content["columns"], load_file(path)
        columns = None if described is None else from_state(Columns, described, arrays)
    except _DAMAGES as error:
        raise MedrepError(f"{path}: damaged ({error}); OUT is {job.out}: remove it, and read all parts again") from None
    return training.measured(kind, content["notes"]), columns


def _write_part(
    job: Job, part: Part, cohort: Cohort, columns: Columns | None, options: TrainOptions, listener: Listener
) -> None:
    """Read the images of a part's people; what describes them is written last."""
    if columns is not None and len(cohort):
        with atomic_file(_values(job, part)) as partial, partial.open("w+b") as file:
            data, found = read_matrix(cohort, file, listener, workers=options.workers, like=columns, where="in OUT")
            data.flush()  # type: ignore[attr-defined]
            if found.count != columns.count:
                raise AssertionError("a kind reads into the columns that it was given")
    units = measured_units(cohort.input, cohort.source.files) if len(cohort) else None
    told = {
        "job": _digest(job),
        "part": part.index,
        "parts": part.count,
        "participants": [str(key) for key in cohort.table.index],
        "columns": 0 if columns is None else columns.count,
        "units": None
        if units is None
        else {str(key): row.tolist() for key, row in zip(units.index, units.to_numpy(), strict=True)},
    }
    write_json(_described(job, part), told)


def _values(job: Job, part: Part) -> Path:
    return job.folder / f"{part.name}.float32"


def _described(job: Job, part: Part) -> Path:
    return job.folder / f"{part.name}.json"


def _digest(job: Job) -> str:
    """Return a digest of what all parts of a job have in common."""
    return sha256(yaml.safe_dump({**job.identity}).encode()).hexdigest()[:16]


def _read(job: Job, part: Part) -> dict[str, Any]:
    found = read_json(_described(job, part).read_text(encoding="utf-8"))
    return dict(found)


def _problem(job: Job, part: Part, people: int, columns: Columns | None) -> str:
    """Return why a part cannot be used; nothing if it can."""
    try:
        found = _read(job, part)
    except FileNotFoundError:
        return "is not read"
    except _DAMAGES as error:
        return f"is damaged ({error})"
    if (found.get("job"), found.get("part")) != (_digest(job), part.index):
        return "is of another training, cohort or configuration"
    if len(found.get("participants", ())) != people:
        return f"holds {len(found.get('participants', ()))} people, not {people}"
    values, size = _values(job, part), 0 if columns is None else 4 * people * columns.count
    held = values.stat().st_size if values.is_file() else 0
    return "" if held == size else f"holds {held} bytes of values, not {size}"


def _refuse_unread(job: Job, parts: list[Part]) -> None:
    """Refuse to merge before all parts are there, without looking at the cohort."""
    _refuse_parts(job, [(part, "is not read") for part in parts if not _described(job, part).is_file()])


def _refuse_parts(job: Job, wrong: list[tuple[Part, str]]) -> None:
    if not wrong:
        return
    count, ids = wrong[0][0].count, ",".join(str(part.index) for part, _ in wrong)
    cure = (
        f"call train again with --num-parts {count} --part-id {ids} (one of these at a time, or sbatch --array={ids})"
    )
    lines = [f"part {part.index} of {part.count} {problem}" for part, problem in wrong]
    raise UnfinishedError(listed(f"{job.out}: parts that are to be read", lines, cure))


def _copy(values: Path, places: np.ndarray, data: np.ndarray) -> None:
    """Copy the rows of a part to where its people stand."""
    if not len(places):
        return
    rows = np.memmap(values, np.float32, "r", shape=(len(places), data.shape[1]))
    for row, place in zip(rows, places, strict=True):
        data[place] = row
        release_pages(data)
        release_pages(rows)
