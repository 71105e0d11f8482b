"""The folder of a batch: which job it is, and the share of the cohort that each process works on."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, TypeVar

import pandas as pd
from filelock import FileLock, Timeout

from medrep import __version__
from medrep._files import STATE, is_output, not_ours, write_json
from medrep._texts import read_json
from medrep.cohort.bids import image_files
from medrep.cohort.samples import Samples
from medrep.cohort.support import Outside, outside_json
from medrep.derivatives.bids import write_tsv
from medrep.errors import ConfigError, MedrepError, listed

_Block = TypeVar("_Block")
_SLURM = "SLURM_ARRAY_TASK_ID"
_COUNT, _FIRST, _LAST, _STEP = (f"SLURM_ARRAY_TASK_{name}" for name in ("COUNT", "MIN", "MAX", "STEP"))
_KUBERNETES = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True)
class Part:
    """One of several shares.

    Attributes:
        index: From 0.
        count: Of all shares.
    """

    index: int = 0
    count: int = 1

    def of(self, blocks: Sequence[_Block]) -> Sequence[_Block]:
        """Return this share: every ``count``-th block, so that sites that lie together are spread over the shares."""
        return blocks[self.index :: self.count]

    @property
    def name(self) -> str:
        """How the files of this share are named."""
        return f"part-{self.index:05d}-of-{self.count:05d}"


def choose_part(index: int | None, count: int | None, environment: Mapping[str, str] = os.environ) -> Part:
    """Return the share that was asked for, or that the cluster's scheduler assigned.

    Args:
        index: ``--part-id``; None takes SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, which are counted from 0.
        count: ``--num-parts``; None takes the size of SLURM's array, if its tasks are 0 to n - 1, and else one part.
        environment: The process's variables.

    Raises:
        ConfigError: A share that does not exist, or a scheduler's share without how many there are.
    """
    where = "--part-id"
    if index is None and count != 1 and _SLURM in environment:
        return _task(count, environment)
    if index is None and count != 1 and _KUBERNETES in environment:
        where = _KUBERNETES
        index = _number(environment, _KUBERNETES)
    if count is None and index is not None:
        raise ConfigError(f"{where} says part {index}, and nothing says of how many; give --num-parts")
    if count is not None and count > 1 and index is None:
        raise ConfigError(f"--num-parts {count} without --part-id; give a number from 0 to {count - 1}")
    part = Part(index or 0, 1 if count is None else count)
    if part.count < 1 or not 0 <= part.index < part.count:
        raise ConfigError(f"{where}: part {part.index} of {part.count}; parts are numbered from 0 to --num-parts - 1")
    return part


def _task(count: int | None, environment: Mapping[str, str]) -> Part:
    """Return the share of a task of a SLURM array; task ids are part ids."""
    index = _number(environment, _SLURM)
    size, first, last, step = (
        _number(environment, name) if name in environment else None for name in (_COUNT, _FIRST, _LAST, _STEP)
    )
    if count is not None:
        for name, task in ((_SLURM, index), (_LAST, last)):
            if count < 1 or (task is not None and not 0 <= task < count):
                array = f"sbatch --array=0-{count - 1}, or some of these" if count > 0 else "give --num-parts"
                raise ConfigError(f"{name}: part {task} of {count}; task ids are part ids, counted from 0: {array}")
        return Part(index, count)
    if size is None:
        raise ConfigError(f"{_SLURM} says part {index}, and nothing says of how many; give --num-parts")
    whole = first in (None, 0) and last in (None, size - 1) and (size == 1 or step in (None, 1))
    if whole and 0 <= index < size:
        return Part(index, size)
    between = "" if first is None or last is None else f" from {first} to {last}"
    raise ConfigError(
        f"{_SLURM} is {index} in an array of {size}{between}, whose tasks are not 0 to {size - 1}: of how many parts is "
        f"not said; sbatch --array=0-{size - 1} for all of {size} parts, the same --array with --num-parts N for some of N "
        "parts, or --num-parts 1 for the whole cohort in this task"
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ConfigError(f"{name} is {environment[name][:40]!r}, no number; give --part-id and --num-parts") from None


COMPLETE = "dataset_description.json"
"""Written last: whoever sees it in OUT sees everything."""

_FORMAT = 1
_OUTSIDE, _WRITTEN = "outside.json", "written.tsv"
_DIGITS = 16


@dataclass(frozen=True)
class Job:
    """One batch in its folder.

    Attributes:
        out: Where results go.
        identity: What must be the same for work to go on: command, model, request.
        content: What merging needs to know beside it.
    """

    out: Path
    identity: Mapping[str, Any]
    content: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The job's own folder."""
        return self.out / STATE

    @property
    def model(self) -> Path:
        """The model folder that workers load."""
        return self.folder / "model"

    def journal(self, part: Part) -> Path:
        """Return the journal of a part."""
        return self.folder / f"{part.name}.jsonl"

    @contextmanager
    def working(self, part: Part) -> Iterator[None]:
        """Keep a part for this process.

        Raises:
            MedrepError: Another process works on it.
        """
        lock = FileLock(self.folder / f"{part.name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise MedrepError(
                f"{self.out}: another process works on {part.name}; wait for it, or end it, and call again"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write_people(
        self,
        table: pd.DataFrame,
        people: Samples,
        root: Path,
        outside: Sequence[Outside] = (),
        written: "pd.DataFrame | None" = None,
    ) -> dict[str, str]:
        """Write who is in the cohort, and return everybody's fingerprint: of covariates and file.

        A person whose covariates or file change is worked on again.

        Args:
            table: Of the cohort.
            people: Its rows.
            root: Its folder.
            outside: Who lies outside the range of training, for the sidecars.
            written: Key columns as they stand in the table of features, index: key; None for images.
        """
        if written is not None:
            write_tsv(self.folder / _WRITTEN, written.reset_index(names="key"))
        write_json(self.folder / _OUTSIDE, outside_json(outside))
        prints = fingerprints(people)
        files = ["" if path is None else path.relative_to(root).as_posix() for path in people.files]
        known = pd.DataFrame({"key": people.keys, "fingerprint": prints, "file": files})
        for name, content in (("participants.tsv", table), ("people.tsv", known)):
            write_tsv(self.folder / name, content)
        return dict(zip(people.keys, prints, strict=True))

    def state(self) -> str:
        """Return a digest of what the tables of OUT depend on beside the rows: the request, and who is in the cohort."""
        found = sha256()
        for name in ("job.json", "participants.tsv", "people.tsv", _OUTSIDE, _WRITTEN):
            path = self.folder / name
            found.update(sha256(path.read_bytes() if path.is_file() else b"").digest())
        return found.hexdigest()

    def read_outside(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return who lies outside the range of training: person -> covariate -> what a sidecar says."""
        path = self.folder / _OUTSIDE
        try:
            return read_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise MedrepError(_damaged(path, error, self.out)) from None

    def read_written(self) -> "pd.DataFrame | None":
        """Return the key columns as they stand in the table of features, index: key; None where there is none."""
        path = self.folder / _WRITTEN
        if not path.is_file():
            return None
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).set_index("key")

    def read_people(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the table of the cohort, index: key, and key, fingerprint and file of everybody."""
        table, known = (
            pd.read_csv(self.folder / name, sep="\t", dtype=str, keep_default_na=False)
            for name in ("participants.tsv", "people.tsv")
        )
        return table.set_axis(pd.Index(known["key"], name="key")), known


def open_job(
    out: Path,
    identity: Mapping[str, Any],
    prepare: Callable[[Path], Mapping[str, Any]],
    part: Part,
    *,
    overwrite: bool,
) -> Job:
    """Begin a job, or go on with it.

    Args:
        out: Where results go.
        identity: What must be the same for work to go on.
        prepare: Called once a job, with the folder to write the model to; returns what merging needs to know.
        part: Which share this process works on.
        overwrite: Whether what OUT holds may be replaced; an unfinished job of the same identity is gone on with.

    Raises:
        MedrepError: OUT holds something else.
    """
    identity = {"format": _FORMAT, "version": __version__, **identity}
    if overwrite and part.count > 1:
        raise MedrepError("--overwrite would have each part delete the others; remove OUT first, or give another")
    held = (
        sorted(path.name for path in out.iterdir() if path.name != STATE or path.is_symlink()) if out.is_dir() else []
    )
    if held and not is_output(out):
        raise MedrepError(not_ours(out, held))
    if held and not (out / STATE / "job.json").exists() and not overwrite:
        raise MedrepError(f"{out}: already holds files; give another OUT, or pass --overwrite to replace the folder")
    (out / STATE).mkdir(parents=True, exist_ok=True)
    _refuse_links(out)
    with FileLock(out / STATE / "job.lock"):
        found = _read(out)
        finished = (out / COMPLETE).exists()
        if overwrite and (found is None or found.identity != identity or finished):
            _empty(out)
            found = None
        if found is None:
            content = prepare(out / STATE / "model")
            write_json(out / STATE / "job.json", {"identity": identity, "content": dict(content)})
            return Job(out, identity, content)
        if found.identity != identity:
            raise MedrepError(
                listed(
                    f"{out}: holds another job",
                    _differences(found.identity, identity),
                    "give another OUT, or pass --overwrite to replace the folder",
                )
            )
        return found


def read_job(out: Path) -> Job:
    """Return the job of a folder.

    Raises:
        MedrepError: There is none.
    """
    if (out / STATE).is_symlink():
        raise MedrepError(
            f"{out / STATE}: is a link; give the OUT of medrep score, export, counterfactual or train --num-parts"
        )
    _refuse_links(out)
    found = _read(out)
    if found is None:
        raise MedrepError(
            f"{out}: no batch was begun here; give the OUT of medrep score, export, counterfactual or train --num-parts"
        )
    return found


def fingerprints(people: Samples) -> list[str]:
    """Return 16 hexadecimal digits of what each is now: covariates, and the row, or path, size and time of the file."""
    names = sorted(str(name) for name in people.covariates)
    cells = (zip(repeat(name), people.covariates[name].tolist(), strict=False) for name in names)
    covariates = zip(*cells, strict=True) if names else repeat(())
    found = []
    for key, own, mark, file in zip(people.keys, covariates, people.marks.tolist(), people.files, strict=False):
        state: list[object] = [*own, people.problems.get(key, ""), mark.decode()]
        for path in () if file is None else image_files(file):
            try:
                status = path.stat()
                state += [path.name, status.st_size, status.st_mtime_ns]
            except OSError as error:
                state += [path.name, error.errno]
        found.append(sha256("\n".join(map(repr, state)).encode()).hexdigest()[:_DIGITS])
    return found


def _read(out: Path) -> Job | None:
    path = out / STATE / "job.json"
    if not path.is_file():
        return None
    try:
        described = read_json(path.read_text(encoding="utf-8"))
        return Job(out, dict(described["identity"]), dict(described["content"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedrepError(_damaged(path, error, out)) from None


def _damaged(path: Path, error: Exception, out: Path) -> str:
    return f"{path}: damaged ({type(error).__name__}: {error}); remove {out} and call again"


def _refuse_links(out: Path) -> None:
    """Refuse what stands in the job's own folder for a file elsewhere: medrep would write to it.

    Raises:
        MedrepError: All links, second names of files, and what is neither file nor folder.
    """
    if not (out / STATE).is_dir():
        return
    found = {}
    for path in sorted((out / STATE).rglob("*")):
        with suppress(FileNotFoundError):  # another part has just put its file in place
            found[path] = path.lstat()
    odd = [
        str(path.relative_to(out))
        for path, state in found.items()
        if not (S_ISDIR(state.st_mode) or (S_ISREG(state.st_mode) and state.st_nlink == 1))
    ]
    if odd:
        cure = "medrep made none of them; find out who did, and give another OUT"
        raise MedrepError(listed(f"{out}: links or special files where the job keeps its own", odd, cure))


def _empty(out: Path) -> None:
    """Remove what a folder holds, but for the lock that this process keeps."""
    for path in list(out.iterdir()):
        if path.name == STATE:
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in list((out / STATE).iterdir()):
        if path.name != "job.lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name}: {before.get(name)} there, {now.get(name)} now" for name in names]
