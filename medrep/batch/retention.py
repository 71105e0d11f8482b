"""What a finished batch keeps for itself: everything that going on needs, or just the mark that medrep wrote the folder."""

import shutil
from contextlib import ExitStack

from filelock import FileLock, Timeout

from medrep.batch.job import COMPLETE, Job
from medrep.errors import MedrepError
from medrep.outputs import MARK, mark_output


def prune(job: Job) -> int:
    """Remove journals, copy of the model and lists of people of a job that is whole; return how many bytes that freed.

    What it wrote for others stays. The same command does not go on any more: it would begin anew, with ``--overwrite``.

    Raises:
        MedrepError: Not whole, or a process works on it.
    """
    if not (job.out / COMPLETE).is_file():
        raise MedrepError(f"{job.out}: is not whole; medrep merge {job.out} says who is not done")
    with ExitStack() as locks:
        for path in [job.folder / "job.lock", *sorted(job.folder.glob("part-*.lock"))]:
            try:
                locks.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise MedrepError(
                    f"{job.out}: another process works on {path.stem}; wait for it, or end it, and call again"
                ) from None
        mark_output(job.out)
        (job.folder / "job.json").unlink()  # first: without it nobody goes on with what is left
        freed = 0
        for path in sorted(job.folder.iterdir()):
            if path.name.endswith(".lock") or path.name == MARK:
                continue
            inside = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
            freed += sum(one.stat().st_size for one in inside)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in job.folder.glob("*.lock"):
        path.unlink(missing_ok=True)
    return freed
