"""Command that joins what was worked on in parts, or growth charts of several institutes: ``merge``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    OK,
    Commands,
    add_metrics,
    add_tracking,
    command,
    show_batch,
)
from medrep.cli.chart import add_models, merge_models
from medrep.cli.scoring import show_scores
from medrep.cli.training import show_trained
from medrep.errors import MedrepError

if TYPE_CHECKING:
    from medrep.cli.console import Console


def add_merge(commands: Commands) -> None:
    """Add ``medrep merge``."""
    text = (
        "join the parts that score, export, counterfactual or train worked on, or growth charts of several institutes"
    )
    parser = command(commands, "merge", text, _merge)
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="OUT of the command that worked on the parts; with --models what to write"
    )
    add_models(parser)
    parser.add_argument(
        "--prune", action="store_true", help="then remove what only going on needs: OUT/.medrep but for its mark"
    )
    add_metrics(parser)
    add_tracking(parser.add_argument_group("parts of train"))


def _merge(options: argparse.Namespace, console: "Console") -> int:
    if options.models:
        return merge_models(options, console)
    from medrep.batch.merge import TRAIN
    from medrep.batch.store import read_job
    from medrep.workflows.transform import merge

    try:
        command = read_job(options.out).identity["command"]
    except MedrepError:  # what is wrong is said where parts are joined
        command = ""
    if command == TRAIN:
        from medrep.workflows.parts import merge_training

        with console.alive("read the cohort"):
            done = merge_training(options.out, console, options.tracking)
            show_trained(console, done, options.experiment)
        return OK
    joined = merge(options.out, console)
    if joined.scored:
        show_scores(console, options.out)
    code = show_batch(console, joined.result, options.out)
    if options.prune:
        from medrep.workflows.transform import remove_state

        size, folder = remove_state(options.out)
        console.say(f"removed {size} bytes of {folder} that only going on needs")
    return code
