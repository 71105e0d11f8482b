"""Commands that make cohorts and look at them: ``demo``, ``simulate``, ``check``."""

import argparse
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
)

if TYPE_CHECKING:
    from medrep.console import Console


def add_demo(commands: Commands) -> None:
    """Add ``medrep demo``."""
    parser = command(commands, "demo", "run the whole job on a generated cohort, in minutes", _demo)
    add_out(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated cohort (default: 0)")


def _demo(options: argparse.Namespace, console: "Console") -> int:
    from medrep.commands.demo import demo

    demo(options.out, console, seed=options.seed, overwrite=options.overwrite)
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
    from medrep.commands.simulate import plant_effects, simulate_cohort

    if options.source is None:
        kind = options.kind or "features"
        simulate_cohort(options.out, kind, options.n, options.sites, options.seed, console, overwrite=options.overwrite)
        return OK
    plant_effects(
        options.source,
        options.out,
        names(options.effects),
        options.sites,
        options.seed,
        console,
        kind=options.kind,
        overrides=options.overrides,
        overwrite=options.overwrite,
    )
    return OK


def add_check(commands: Commands) -> None:
    """Add ``medrep check``."""
    parser = command(commands, "check", "look for problems in a cohort: table, files, geometry, confounding", _check)
    add_cohort(parser)
    add_config(parser)
    add_json(parser)


def _check(options: argparse.Namespace, console: "Console") -> int:
    from medrep.commands.check import check
    from medrep.config import read_config

    config = read_config(options.config, options.overrides)
    problems = check(options.cohort, config, console, only=options.participant_label, exclude=options.exclude)
    return ERROR if problems else OK
