"""Files and folders written whole or not at all, and folders that medrep knows again."""

import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the place of ``path`` when the block ends without an error.

    The temporary name starts with a dot and ends like ``path``, since libraries choose a format by the ending.

    Args:
        path: The final file; its parents are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix="".join(path.suffixes[-2:]))
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` as a whole when the block ends without an error.

    Args:
        path: The final folder; an older one of that name is removed only after the new one is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=".partial-"))
    retired = partial.with_name(f"{partial.name}-old")
    try:
        yield partial
        _share(partial)
        if path.exists():
            path.replace(retired)
        partial.replace(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` as indented JSON, atomically; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def digest_of_files(folder: Path, names: Iterable[str]) -> str:
    """Return the SHA-256 of some files of a folder, in hexadecimal: the same wherever they lie."""
    return sha256("".join(f"{name}:{digest_of(folder / name)}\n" for name in names).encode()).hexdigest()


def _share(folder: Path) -> None:
    """Let others read a folder and what it holds as far as the umask does, whatever a library made of it."""
    mask = _umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


STATE = ".medrep"
"""The folder in OUT that says that medrep wrote it; a batch keeps its journals, the model and who is in the cohort there."""

MARK = "output.json"
_MARKS = (MARK, "job.json")  # a batch's description of its job is one as well


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """Yield what `atomic_folder` yields for a command's OUT, marked as medrep's."""
    with atomic_folder(path) as partial:
        mark_output(partial)
        yield partial


def mark_output(folder: Path) -> None:
    """Mark a folder as one that medrep wrote."""
    write_json(folder / STATE / MARK, {"Description": "Written by medrep; --overwrite may replace the whole folder."})


def is_output(folder: Path) -> bool:
    """Say whether medrep wrote a folder; a link is no mark, nor is an empty folder of that name."""
    state = folder / STATE
    return not state.is_symlink() and any((state / name).is_file() for name in _MARKS)


def not_ours(out: Path, held: Sequence[str]) -> str:
    """Return why a folder is not replaced, whatever was allowed: medrep did not write what it holds."""
    return (
        f"{out}: holds files that medrep did not write ({', '.join(held[:4])}{', ...' if len(held) > 4 else ''});"
        " give another OUT, or move them away yourself: --overwrite replaces only folders that medrep wrote"
    )


def model_folder(text: str) -> Path:
    """Return the path of a model folder; of OUT that train wrote it is OUT/model."""
    path = Path(text)
    inner = path / "model"
    return inner if not (path / "model.json").is_file() and (inner / "model.json").is_file() else path


def release_pages(data: Any) -> None:
    """Let go of the memory a memory-mapped array takes; the file keeps its content. Other arrays stay as they are.

    A copy-on-write mapping stays too: what was changed in it exists nowhere else.

    Args:
        data: A numpy array, or a view of one.
    """
    base = data
    while base is not None and not isinstance(base, mmap.mmap):
        if getattr(base, "mode", "") == "c":
            return
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
