"""Command that makes a model: ``train``."""

import argparse
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    OK,
    Commands,
    add_cohort,
    add_config,
    add_out,
    add_parts,
    add_show,
    add_tracking,
    cohort_of,
    command,
    memory,
    number,
    overrides,
    request_of,
    show_batch,
)

if TYPE_CHECKING:
    from medrep.cli.console import Console
    from medrep.workflows.train import Trained


def add_train(commands: Commands) -> None:
    """Add ``medrep train``."""
    parser = command(commands, "train", "fit a model to a cohort", _train)
    add_cohort(parser)
    add_out(parser)
    add_config(parser)
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read images ahead (default: 0)"
    )
    parser.add_argument(
        "--hold-out",
        type=number,
        default=0.0,
        metavar="SHARE",
        help="keep this share of the people from training, for an audit (default: 0)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the state that an interrupted training left beside OUT; with the same weights at the end",
    )
    add_tracking(parser)
    add_parts(
        parser, "read the images of one of N parts, and fit nothing; `medrep merge OUT` does (default: all at once)"
    )
    parser.add_argument(
        "--memory",
        type=memory,
        default=0.0,
        metavar="4G",
        help="memory that training on volumes may take; more is refused, with what to change (default: said where it is much)",
    )
    add_show(parser)


def _train(options: argparse.Namespace, console: "Console") -> int:
    from medrep.batch.store import choose_part
    from medrep.cli.console import Console
    from medrep.config import read_config
    from medrep.training.schedule import rank
    from medrep.workflows.train import TrainOptions, train

    config = read_config(options.config, overrides(options))
    speaking = console if rank() == 0 else Console(quiet=True)
    with speaking.alive("read the cohort"):
        request = request_of(TrainOptions, options)
        # A task of an array trains a model of its own unless it is told of how many parts it is one.
        if (options.num_parts, options.part_id) != (None, None):
            part = choose_part(options.part_id, options.num_parts)
            if part.count > 1:
                from medrep.workflows.parts import read_part

                read = read_part(cohort_of(options), options.out, config, part, speaking, request)
                return show_batch(speaking, read, options.out)
        done = train(cohort_of(options), options.out, config, speaking, request)
        show_trained(speaking, done, options.experiment)
    return OK


def show_trained(console: "Console", done: "Trained | None", experiment: str) -> None:
    """Say what was trained and log it; nothing of a process that only helps another one."""
    from medrep.workflows.train import log_run

    if done is None:
        return
    results = {"model": done.out / "model", "report": done.out / "report.html"}
    people = f"{done.trained_on} trained on, {done.held_out} held out"
    console.summary(f"trained a {done.config.model} model", people, results)
    log_run(done, experiment, console)
