"""Commands that make cohorts, train models, ask them, and write cohorts with covariates moved: ``demo`` to ``merge``."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    ERROR,
    OK,
    SOME_FAILED,
    Commands,
    add_batch,
    add_cohort,
    add_config,
    add_extrapolate,
    add_json,
    add_matrix,
    add_mesh,
    add_metrics,
    add_model,
    add_newcomers,
    add_out,
    add_parts,
    add_show,
    add_tracking,
    add_with_pose,
    batch_options,
    cohort_of,
    command,
    memory,
    names,
    number,
    numbers,
    overrides,
    pairs,
    request_of,
    show_batch,
)
from medrep.cli.chart import add_models, merge_models
from medrep.errors import CohortError, MedrepError

if TYPE_CHECKING:
    from medrep.cli.console import Console
    from medrep.simulate.visits import FollowUp
    from medrep.workflows.train import Trained


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
        _show_trained(speaking, done, options.experiment)
    return OK


def _show_trained(console: "Console", done: "Trained | None", experiment: str) -> None:
    """Say what was trained and log it; nothing of a process that only helps another one."""
    from medrep.workflows.train import log_run

    if done is None:
        return
    results = {"model": done.out / "model", "report": done.out / "report.html"}
    people = f"{done.trained_on} trained on, {done.held_out} held out"
    console.summary(f"trained a {done.config.model} model", people, results)
    log_run(done, experiment, console)


def add_sample(commands: Commands) -> None:
    """Add ``medrep sample``."""
    parser = command(commands, "sample", "draw new people for given demographics", _sample)
    add_out(parser)
    add_model(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--table", type=Path, metavar="T.tsv", help="demographics, one row a person")
    who.add_argument("--n", type=int, metavar="N", help="how many people, with demographics drawn as in training")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    add_extrapolate(parser, "demographics far")
    add_mesh(parser)


def _sample(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.sample import SampleRequest, sample

    request = request_of(SampleRequest, options, {"people": options.n})
    drawn = sample(options.out, options.model, request, console)
    console.summary("drawn by a model; not real people", f"{drawn} drawn", {"cohort": options.out})
    return OK


def add_forecast(commands: Commands) -> None:
    """Add ``medrep forecast``."""
    text = "say what further visits of people will measure, with intervals"
    parser = command(commands, "forecast", text, _forecast)
    add_cohort(parser)
    add_out(parser)
    add_model(parser)
    parser.add_argument(
        "--years",
        type=numbers,
        required=True,
        metavar="1,2,5",
        help="how long after each person's last visit, separated by commas",
    )
    parser.add_argument(
        "--set",
        dest="wanted",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a covariate that is another one by then, e.g. site=S0 (default: all but the age as at the last visit)",
    )
    add_newcomers(parser, "ages to come (and people) far")


def _forecast(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.forecast import ForecastRequest, forecast

    request = request_of(ForecastRequest, options, {"others": pairs("--set", options.wanted)})
    done = forecast(cohort_of(options), options.out, options.model, request, console)
    told = f"{done.people} people, told from {done.visits} visits"
    results = {"forecast": done.table}
    if done.failures:
        told += f"; {len(done.failures)} failed"
        results["failures"] = done.table.with_name("failures.tsv")
    console.summary("forecast; a model's answer, not what will be", told, results)
    return SOME_FAILED if done.failures else OK


def add_score(commands: Commands) -> None:
    """Add ``medrep score``."""
    text = "say how well a model draws each person, and how unusual they are at their covariates"
    parser = command(commands, "score", text, _score)
    add_cohort(parser)
    add_out(parser, resumes=True)
    add_model(parser)
    add_newcomers(parser, "people far")
    parser.add_argument(
        "--unshrink",
        choices=("none", "linear", "tweedie"),
        default="none",
        help="undo the regression to the mean of covariates that the model predicts (predict: [age] in its configuration)",
    )
    parser.add_argument(
        "--false-alarms",
        type=number,
        default=0.05,
        metavar="RATE",
        help="share of people like those of calibration (train --hold-out) whom the shift gate rejects (default: 0.05)",
    )
    parser.add_argument(
        "--map",
        dest="latent_map",
        type=Path,
        metavar="FILE",
        help="write latents in the space of another model, by a map that medrep compare wrote (OUT/a_to_b.safetensors)",
    )
    add_batch(parser)


def _score(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.score import ScoreRequest, score

    request = request_of(ScoreRequest, options)
    done = score(cohort_of(options), options.out, options.model, request, console, options=batch_options(options))
    if done is not None and done.whole:
        _show_scores(console, options.out)
    return show_batch(console, done, options.out)


def _show_scores(console: "Console", out: Path) -> None:
    """Show how the scores of OUT are spread."""
    import pandas as pd

    from medrep.derivatives.scores import FAILED, STATUS

    table = pd.read_csv(out / "scores.tsv", sep="\t")
    scored = table[table[STATUS] != FAILED]
    if "shift_p" in table:
        counts = scored[STATUS].value_counts()
        said = ", ".join(f"{status} {counts.get(status, 0)}" for status in ("accept", "warn", "reject"))
        console.say(f"like the people of calibration: {said}")
        known = int((scored["in_training"] == "yes").sum()) if "in_training" in scored else 0
        if known:
            console.say(f"  {known} of them were in training: their errors are not compared with those of others")
    figures = [name for name in scored.select_dtypes("number") if name != "shift_p"]
    found = scored[figures].quantile([0.05, 0.5, 0.95])
    rows = [(name, *(f"{value:.3g}" for value in found[name])) for name in figures]
    console.table("Scores", ("score", "5%", "median", "95%"), rows)


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
            _show_trained(console, done, options.experiment)
        return OK
    joined = merge(options.out, console)
    if joined.scored:
        _show_scores(console, options.out)
    code = show_batch(console, joined.result, options.out)
    if options.prune:
        from medrep.workflows.transform import remove_state

        size, folder = remove_state(options.out)
        console.say(f"removed {size} bytes of {folder} that only going on needs")
    return code


def add_export(commands: Commands) -> None:
    """Add ``medrep export``."""
    parser = command(commands, "export", "write the cohort without the effects of chosen covariates", _export)
    add_cohort(parser)
    add_out(parser, resumes=True)
    add_model(parser)
    parser.add_argument("--remove", required=True, metavar="A,B", help="covariates to remove, separated by commas")
    parser.add_argument("--keep", default="", metavar="C,D", help="covariates to keep; whatever is not removed is kept")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="where a removed covariate is moved to, e.g. site=S0 (default: the model's reference)",
    )
    add_newcomers(parser, "people far (and references)")
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
    add_with_pose(parser)
    add_mesh(parser)
    add_matrix(parser)
    add_show(parser)
    add_batch(parser)


def _export(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.transform import ExportRequest, export

    given = {"remove": names(options.remove), "keep": names(options.keep)}
    request = request_of(ExportRequest, options, {**given, "references": pairs("--reference", options.reference)})
    done = export(cohort_of(options), options.out, options.model, request, console, options=batch_options(options))
    return show_batch(console, done, options.out)


def add_counterfactual(commands: Commands) -> None:
    """Add ``medrep counterfactual``."""
    parser = command(
        commands, "counterfactual", "write the cohort as the model expects it with other covariates", _counterfactual
    )
    add_cohort(parser)
    add_out(parser, resumes=True)
    add_model(parser)
    parser.add_argument(
        "--years",
        type=number,
        metavar="N",
        help="instead of --set: move each visit so many years along the person's own trajectory, e.g. +5",
    )
    parser.add_argument(
        "--set",
        dest="wanted",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a covariate and the value everybody gets, e.g. age=80; several times for several",
    )
    add_newcomers(parser, "values (and people far)")
    add_with_pose(parser)
    add_mesh(parser)
    add_matrix(parser)
    add_show(parser)
    add_batch(parser)


def _counterfactual(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.transform import ExportRequest, counterfactual

    wanted = pairs("--set", options.wanted)
    request = request_of(ExportRequest, options, {"remove": tuple(wanted), "references": wanted})
    done = counterfactual(
        cohort_of(options), options.out, options.model, request, console, options=batch_options(options)
    )
    return show_batch(console, done, options.out)
