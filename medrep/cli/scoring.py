"""Commands that ask a model about people: ``score``, ``forecast``, and ``sample``, which draws new ones."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    OK,
    SOME_FAILED,
    Commands,
    add_batch,
    add_cohort,
    add_extrapolate,
    add_mesh,
    add_model,
    add_newcomers,
    add_out,
    batch_options,
    cohort_of,
    command,
    number,
    numbers,
    pairs,
    request_of,
    show_batch,
)

if TYPE_CHECKING:
    from medrep.cli.console import Console


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
        show_scores(console, options.out)
    return show_batch(console, done, options.out)


def show_scores(console: "Console", out: Path) -> None:
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
