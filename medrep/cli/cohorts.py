"""Commands that make cohorts and look at them: ``demo``, ``simulate``, ``check``."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    ERROR,
    OK,
    Commands,
    add_cohort,
    add_config,
    add_json,
    add_out,
    command,
    names,
    show_batch,
)

if TYPE_CHECKING:
    from medrep.cli.console import Console


def add_demo(commands: Commands) -> None:
    """Add ``medrep demo``."""
    parser = command(commands, "demo", "run the whole job on a generated cohort, in minutes", _demo)
    add_out(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated cohort (default: 0)")


def _demo(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.demo import demo

    done = demo(options.out, console, seed=options.seed, overwrite=options.overwrite)
    show_batch(console, done.exported, options.out / "clean")
    console.summary("trained on one half, removed site from the other", f"{done.people} unseen", done.results)
    return OK


def add_simulate(commands: Commands) -> None:
    """Add ``medrep simulate``."""
    parser = command(
        commands, "simulate", "generate a cohort with planted effects, or plant effects into your own", _simulate
    )
    add_out(parser)
    parser.add_argument(
        "--kind", choices=("volume", "shape", "features"), help="what to generate (with --from: what the cohort holds)"
    )
    parser.add_argument("--n", type=int, default=100, help="people to generate (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    parser.add_argument(
        "--sites", type=int, default=4, help="sites to generate or to plant; the first is left untouched (default: 4)"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="COHORT", help="plant into this cohort instead of generating one"
    )
    parser.add_argument(
        "--effects",
        default="site",
        metavar="A,B",
        help="with --from: effects to plant, of site, age, sex, diagnosis (default: site)",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --from: override the input section, e.g. input.suffix=T2w",
    )


def _simulate(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.simulate import Design, Planting, plant_effects, simulate_cohort

    if options.source is None:
        design = Design(options.kind or "features", options.n, options.sites, options.seed)
        made = simulate_cohort(options.out, design, console, overwrite=options.overwrite)
    else:
        effects = names(options.effects)
        planting = Planting(effects, options.sites, options.seed, options.kind, options.overrides)
        made = plant_effects(options.source, options.out, planting, console, overwrite=options.overwrite)
    console.summary(made.done, made.people, {"cohort": made.cohort, "truth": made.truth})
    return OK


def add_check(commands: Commands) -> None:
    """Add ``medrep check``."""
    parser = command(commands, "check", "look for problems in a cohort: table, files, geometry, confounding", _check)
    add_cohort(parser)
    add_config(parser)
    add_json(parser)


def _check(options: argparse.Namespace, console: "Console") -> int:
    from medrep.config import read_config
    from medrep.workflows.check import check

    config = read_config(options.config, options.overrides)
    found = check(options.cohort, config, console, only=options.participant_label, exclude=options.exclude)
    console.result(
        people=found.people,
        scans=found.scans,
        confounding=found.confounding.to_dict("records"),
        interactions=[asdict(one) for one in found.interactions],
        problems=found.problems,
    )
    count = len(found.problems)
    for problem in found.problems:
        console.say(f"problem: {problem}")
    console.say(f"{count} problem(s) to mend before training" if count else "nothing stands in the way of training")
    told = {"problems": count, "cohort": options.cohort}
    console.summary("checked; nothing is written", f"{found.scans} looked at", told)
    return ERROR if count else OK
