"""Commands that make a cohort, or look at one before a model is trained: ``demo``, ``simulate``, ``check``."""

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
    cohort_of,
    command,
    names,
    overrides,
    show_batch,
)
from medrep.errors import CohortError

if TYPE_CHECKING:
    from medrep.cli.console import Console
    from medrep.simulate.visits import FollowUp


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
        metavar="A,B",
        help="with --from: effects to plant, of site, age, sex, diagnosis (default: site)",
    )
    parser.add_argument(
        "--visits",
        type=int,
        metavar="N",
        help="how often people come, some two years apart; half of them change site (with --from: further visits)",
    )
    parser.add_argument(
        "--travellers", type=int, metavar="K", help="how many of the people are scanned at every site within weeks"
    )
    parser.add_argument(
        "--dropout", type=float, metavar="P", help="share of people who leave before each further visit"
    )
    parser.add_argument(
        "--dropout-by", choices=("age", "value"), help="decides who leaves: age, or the values, at the visit before"
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

    follow_up = _follow_up(options)
    if options.source is None:
        design = Design(options.kind or "features", options.n, options.sites, options.seed, follow_up)
        made = simulate_cohort(options.out, design, console, overwrite=options.overwrite)
    else:
        effects = names("site" if options.effects is None else options.effects)
        planting = Planting(effects, options.sites, options.seed, options.kind, options.overrides)
        if follow_up is None:
            made = plant_effects(options.source, options.out, planting, console, overwrite=options.overwrite)
        elif options.effects is None:
            from medrep.workflows.follow_up import plant_follow_up  # a linear model is fitted

            made = plant_follow_up(
                options.source, options.out, follow_up, planting, console, overwrite=options.overwrite
            )
        else:
            raise CohortError("--effects and --visits: plant effects first, and then visits into what that wrote")
    console.summary(made.done, made.people, {"cohort": made.cohort, "truth": made.truth})
    return OK


def _follow_up(options: argparse.Namespace) -> "FollowUp | None":
    """Return the design of visits; None where nothing is said of any."""
    from medrep.simulate.visits import FollowUp

    said = ("visits", "travellers", "dropout", "dropout_by")
    given = {name: getattr(options, name) for name in said if getattr(options, name) is not None}
    return FollowUp(**given) if given else None


def add_check(commands: Commands) -> None:
    """Add ``medrep check``."""
    parser = command(commands, "check", "look for problems in a cohort: table, files, geometry, confounding", _check)
    add_cohort(parser)
    add_config(parser)
    add_json(parser)


def _check(options: argparse.Namespace, console: "Console") -> int:
    from medrep.config import read_config
    from medrep.workflows.check import check

    config = read_config(options.config, overrides(options))
    found = check(cohort_of(options), config, console, only=options.only, exclude=options.exclude)
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
