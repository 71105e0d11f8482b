"""The command that shows what others wrote: ``report``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cli.arguments import OK, Commands, command

if TYPE_CHECKING:
    from medrep.console import Console


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
    from medrep.commands.report import report

    report(options.runs, console, to=options.to, overwrite=options.overwrite)
    return OK
