"""The command that shows what others wrote: ``report``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cli.arguments import OK, Commands, command

if TYPE_CHECKING:
    from medrep.cli.console import Console


def add_report(commands: Commands) -> None:
    """Add ``medrep report``."""
    parser = command(commands, "report", "write report.html again, or compare several runs on one page", _report)
    parser.add_argument(
        "runs", metavar="OUT", type=Path, nargs="+", help="what train, export, counterfactual, audit or demo wrote"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="page that compares several runs (default: comparison.html)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a page that compares if it is there already")


def _report(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.report import report

    page = report(options.runs, to=options.to, overwrite=options.overwrite)
    console.summary("wrote the page", "", {"report": page})
    return OK
