"""Folders that commands write: medrep knows them again, and replaces no others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medrep.atomic import atomic_folder, write_json

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
