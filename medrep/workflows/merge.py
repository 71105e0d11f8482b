"""``merge``: join the parts of a batch."""

from dataclasses import dataclass
from pathlib import Path

from medrep.batch.finish import SCORE, finish
from medrep.batch.job import read_job
from medrep.batch.retention import prune
from medrep.batch.run import BatchResult, batch_result
from medrep.cohort.kinds import SILENT, Listener
from medrep.workflows.transform import report_moved


@dataclass(frozen=True)
class MergedParts:
    """What was joined.

    Attributes:
        scored: Whether `score` did the parts.
        result: How it went.
    """

    scored: bool
    result: BatchResult


def merge(out: Path, listener: Listener = SILENT) -> MergedParts:
    """Write the tables of a batch whose parts are all done.

    Args:
        out: OUT of the command that did the parts.
        listener: Who is told.

    Raises:
        MedrepError: No batch, or people who are not done; they are listed.
    """
    job = read_job(out)
    whole = finish(job)
    command = str(job.identity["command"])
    if command == SCORE:
        results = {"scores": out / "scores.tsv"}
    else:
        page = report_moved(out, whole.delivered.index, listener, job.content.get("show", ""))
        results = {"cohort": out, **page}
    return MergedParts(command == SCORE, batch_result(out, whole, f"merged the parts of {command}", results))


def remove_state(out: Path) -> tuple[int, Path]:
    """Remove what a whole batch keeps to go on, and nothing that it wrote for others.

    Args:
        out: OUT of the command that did the parts.

    Returns:
        How many bytes were removed, and of which folder.

    Raises:
        MedrepError: No batch, one that is not whole, or one that a process works on.
    """
    job = read_job(out)
    return prune(job), job.folder
