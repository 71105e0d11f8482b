"""Output folders: never mixed with something else, never half there."""

from pathlib import Path

from medrep.errors import MedrepError
from medrep.outputs import is_output, not_ours


def check_output(out: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse an output folder that holds something already, or that lies in an input.

    Args:
        out: Where the command will write.
        overwrite: Whether the person allowed to replace it.
        inputs: Folders that are read.

    Raises:
        MedrepError: With what to do.
    """
    refuse_input(out, inputs)
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held and not is_output(out):
        raise MedrepError(not_ours(out, held))
    if held and not overwrite:
        raise MedrepError(f"{out}: already holds files; give another OUT, or pass --overwrite to replace the folder")


def refuse_input(out: Path, inputs: tuple[Path, ...]) -> None:
    """Refuse an output folder that is or holds an input, or that is no folder.

    Raises:
        MedrepError: With what to do.
    """
    for source in inputs:
        if out.resolve() == source.resolve() or source.resolve().is_relative_to(out.resolve()):
            raise MedrepError(f"{out}: is or holds the input {source}; give another OUT")
    if out.exists() and not out.is_dir():
        raise MedrepError(f"{out}: is a file; give a folder for OUT")
