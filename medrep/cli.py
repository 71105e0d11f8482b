"""The command line. Parsing only: each command is a file in ``commands``, imported when it is called."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from medrep import __version__
from medrep.errors import MedrepError

OK, ERROR, USAGE, SOME_FAILED = 0, 1, 2, 3
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 ok, 1 error, 2 usage, 3 finished with failed participants."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(options.run(options))
    except MedrepError as error:
        sys.stderr.write(f"medrep {options.command}: {error}\n")
        return ERROR
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sys.stderr.write(f"medrep {options.command}: {error.strerror or error}{where}\n")
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write(f"medrep {options.command}: interrupted; nothing half-written is left\n")
        return _INTERRUPTED


def _terminate(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medrep",
        description="Separate who a person is from what age, sex, diagnosis, scanner and site do to anybody's image.",
        epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 finished with failed participants (listed).",
    )
    parser.add_argument("--version", action="version", version=f"medrep {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_demo,
        _add_simulate,
        _add_check,
        _add_train,
        _add_export,
        _add_counterfactual,
        _add_sample,
        _add_score,
    ):
        add(commands)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: _Commands, name: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    return parser


def _add_cohort(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "cohort",
        metavar="COHORT",
        type=Path,
        help="BIDS folder, folder with participants.tsv and features.tsv, or MONAI datalist JSON",
    )
    parser.add_argument(
        "--participant-label", nargs="+", default=(), metavar="ID", help="only these people, with or without sub-"
    )
    parser.add_argument("--exclude", nargs="+", default=(), metavar="ID", help="all but these people")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; it appears only when it is complete")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it holds files already")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default="linear.yaml", metavar="C", help="YAML file, or a shipped one (default: linear.yaml)"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override by dotted path with a YAML value, e.g. covariates.site=null",
    )


def _add_demo(commands: _Commands) -> None:
    parser = _command(commands, "demo", "run the whole job on a generated cohort, in minutes", _demo)
    _add_out(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated cohort (default: 0)")


def _add_simulate(commands: _Commands) -> None:
    parser = _command(
        commands, "simulate", "generate a cohort with planted effects, or plant effects into your own", _simulate
    )
    _add_out(parser)
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


def _add_check(commands: _Commands) -> None:
    parser = _command(commands, "check", "look for problems in a cohort: table, files, geometry, confounding", _check)
    _add_cohort(parser)
    _add_config(parser)


def _add_train(commands: _Commands) -> None:
    parser = _command(commands, "train", "fit a model to a cohort", _train)
    _add_cohort(parser)
    _add_out(parser)
    _add_config(parser)
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read images ahead (default: 0)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the state that an interrupted training left beside OUT; with the same weights at the end",
    )
    parser.add_argument(
        "--tracking",
        default=os.environ.get("MEDREP_TRACKING") or "auto",
        metavar="auto|none|URI",
        help="where the run is logged with MLflow; auto: MLFLOW_TRACKING_URI, or else mlflow.db beside OUT (default: auto, "
        "or what MEDREP_TRACKING says)",
    )
    parser.add_argument("--experiment", default="medrep", metavar="NAME", help="MLflow experiment (default: medrep)")


def _add_export(commands: _Commands) -> None:
    parser = _command(commands, "export", "write the cohort without the effects of chosen covariates", _export)
    _add_cohort(parser)
    _add_out(parser)
    _add_model(parser)
    parser.add_argument("--remove", required=True, metavar="A,B", help="covariates to remove, separated by commas")
    parser.add_argument("--keep", default="", metavar="C,D", help="covariates to keep; whatever is not removed is kept")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="where a removed covariate is moved to, e.g. site=S0 (default: the model's reference)",
    )
    _add_unseen_site(parser)
    parser.add_argument(
        "--label-free",
        action="store_true",
        help="people whose covariates nobody knows: a conditional VAE's guard erases without looking at labels",
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help="measure what probes read from the written table and latents (leakage.tsv); for people not in training",
    )
    _add_mesh(parser)


def _add_counterfactual(commands: _Commands) -> None:
    parser = _command(
        commands, "counterfactual", "write the cohort as the model expects it with other covariates", _counterfactual
    )
    _add_cohort(parser)
    _add_out(parser)
    _add_model(parser)
    parser.add_argument(
        "--set",
        dest="wanted",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a covariate and the value everybody gets, e.g. age=80; several times for several",
    )
    parser.add_argument(
        "--extrapolate", action="store_true", help="allow values outside the range of the people of training"
    )
    _add_unseen_site(parser)
    _add_mesh(parser)


def _add_sample(commands: _Commands) -> None:
    parser = _command(commands, "sample", "draw new people for given demographics", _sample)
    _add_out(parser)
    _add_model(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--table", type=Path, metavar="T.tsv", help="demographics, one row a person")
    who.add_argument("--n", type=int, metavar="N", help="how many people, with demographics drawn as in training")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    _add_mesh(parser)


def _add_score(commands: _Commands) -> None:
    text = "say how well a model draws each person, and how unusual they are at their covariates"
    parser = _command(commands, "score", text, _score)
    _add_cohort(parser)
    _add_out(parser)
    _add_model(parser)
    _add_unseen_site(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, type=Path, metavar="M", help="the folder OUT/model that train wrote")


def _add_mesh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mesh", choices=("gifti", "stl", "ply"), help="what meshes of organs are written as (default: gifti)"
    )


def _add_unseen_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unseen-site",
        choices=("error", "adapt"),
        default="error",
        help="sites that training did not have: refuse, or estimate from their own people (default: error)",
    )


def _demo(options: argparse.Namespace) -> int:
    from medrep.commands.demo import demo
    from medrep.console import Console

    demo(options.out, Console(quiet=options.quiet), seed=options.seed, overwrite=options.overwrite)
    return OK


def _simulate(options: argparse.Namespace) -> int:
    from medrep.commands.simulate import plant_effects, simulate_cohort
    from medrep.console import Console

    console = Console(quiet=options.quiet)
    if options.source is None:
        kind = options.kind or "features"
        simulate_cohort(options.out, kind, options.n, options.sites, options.seed, console, overwrite=options.overwrite)
        return OK
    plant_effects(
        options.source,
        options.out,
        _names(options.effects),
        options.sites,
        options.seed,
        console,
        kind=options.kind,
        overrides=options.overrides,
        overwrite=options.overwrite,
    )
    return OK


def _check(options: argparse.Namespace) -> int:
    from medrep.commands.check import check
    from medrep.config import read_config
    from medrep.console import Console

    config = read_config(options.config, options.overrides)
    problems = check(
        options.cohort, config, Console(quiet=options.quiet), only=options.participant_label, exclude=options.exclude
    )
    return ERROR if problems else OK


def _train(options: argparse.Namespace) -> int:
    from medrep.commands.train import train
    from medrep.config import read_config
    from medrep.console import Console
    from medrep.training.processes import rank

    config = read_config(options.config, options.overrides)
    train(
        options.cohort,
        options.out,
        config,
        Console(quiet=options.quiet or rank() > 0),
        only=options.participant_label,
        exclude=options.exclude,
        overwrite=options.overwrite,
        workers=options.workers,
        resume=options.resume,
        tracking=options.tracking,
        experiment=options.experiment,
    )
    return OK


def _export(options: argparse.Namespace) -> int:
    from medrep.commands.export import ExportRequest, export
    from medrep.console import Console

    request = ExportRequest(
        remove=_names(options.remove),
        keep=_names(options.keep),
        references=_pairs("--reference", options.reference),
        unseen_site=options.unseen_site,
        label_free=options.label_free,
        probe=options.probe,
        only=options.participant_label,
        exclude=options.exclude,
        mesh=options.mesh,
        overwrite=options.overwrite,
    )
    failed = export(options.cohort, options.out, options.model, request, Console(quiet=options.quiet))
    return SOME_FAILED if failed else OK


def _counterfactual(options: argparse.Namespace) -> int:
    from medrep.commands.counterfactual import counterfactual
    from medrep.console import Console

    failed = counterfactual(
        options.cohort,
        options.out,
        options.model,
        _pairs("--set", options.wanted),
        Console(quiet=options.quiet),
        extrapolate=options.extrapolate,
        unseen_site=options.unseen_site,
        only=options.participant_label,
        exclude=options.exclude,
        mesh=options.mesh,
        overwrite=options.overwrite,
    )
    return SOME_FAILED if failed else OK


def _sample(options: argparse.Namespace) -> int:
    from medrep.commands.sample import sample
    from medrep.console import Console

    sample(
        options.out,
        options.model,
        Console(quiet=options.quiet),
        table=options.table,
        people=options.n,
        seed=options.seed,
        mesh=options.mesh,
        overwrite=options.overwrite,
    )
    return OK


def _score(options: argparse.Namespace) -> int:
    from medrep.commands.score import score
    from medrep.console import Console

    failed = score(
        options.cohort,
        options.out,
        options.model,
        Console(quiet=options.quiet),
        unseen_site=options.unseen_site,
        only=options.participant_label,
        exclude=options.exclude,
        overwrite=options.overwrite,
    )
    return SOME_FAILED if failed else OK


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _pairs(switch: str, entries: Sequence[str]) -> dict[str, str]:
    pairs = dict(entry.partition("=")[::2] for entry in entries)
    bad = [entry for entry in entries if not all(entry.partition("="))]
    if bad:
        raise MedrepError(f"{switch} {', '.join(bad)}: write it as NAME=VALUE, for instance site=S0")
    return {name.strip(): value.strip() for name, value in pairs.items()}


if __name__ == "__main__":
    sys.exit(main())
