"""``medrep merge``: join the parts of a batch."""

from pathlib import Path

from medrep.batch.finish import SCORE, finish
from medrep.batch.job import read_job
from medrep.batch.retention import prune
from medrep.commands.batch import tell_failures
from medrep.commands.moved_report import report_moved
from medrep.commands.score import summarise
from medrep.console import Console


def merge(out: Path, console: Console) -> int:
    """Write the tables of a batch whose parts are all done.

    Args:
        out: OUT of the command that did the parts.
        console: Where to speak.

    Returns:
        How many people could not be delivered; they stand in failures.tsv.

    Raises:
        MedrepError: No batch, or people who are not done; they are listed.
    """
    job = read_job(out)
    whole = finish(job)
    command = str(job.identity["command"])
    if command == SCORE:
        summarise(console, out)
        results = {"scores": out / "scores.tsv"}
    else:
        page = report_moved(out, whole.delivered.index, console, job.content.get("show", ""))
        results = {"cohort": out, **page}
    return tell_failures(console, out, whole, f"merged the parts of {command}", results)


def remove_state(out: Path, console: Console) -> None:
    """Remove what a whole batch keeps to go on, and nothing that it wrote for others.

    Args:
        out: OUT of the command that did the parts.
        console: Where to speak.

    Raises:
        MedrepError: No batch, one that is not whole, or one that a process works on.
    """
    job = read_job(out)
    console.say(f"removed {prune(job)} bytes of {job.folder} that only going on needs")
