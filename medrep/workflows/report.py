"""``report``: the page of a run again, or of several runs side by side, from their files alone."""

from collections.abc import Sequence
from pathlib import Path

from medrep.errors import MedrepError
from medrep.report.build import PAGE, write_comparison, write_report


def report(runs: Sequence[Path], *, to: Path | None = None, overwrite: bool = False) -> Path:
    """Write report.html of one run, or a page that compares several (by default comparison.html); return the page.

    Raises MedrepError for folders of something else, a page that is there, or ``to`` for a single run.
    """
    if len(runs) == 1:
        if to is not None:
            raise MedrepError(f"--to {to}: one run's page is its {PAGE}; give several runs, or leave it out")
        page = write_report(runs[0])
    else:
        page = to or Path("comparison.html")
        if page.exists() and not overwrite:
            raise MedrepError(f"{page}: is there already; give another with --to, or pass --overwrite")
        write_comparison(page, runs)
    return page
