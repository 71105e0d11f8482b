"""``chart``: centiles of features; ``merge --models``: one chart of several."""

import argparse
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    OK,
    Commands,
    add_cohort,
    add_model,
    add_newcomers,
    add_out,
    cohort_of,
    command,
    names,
    numbers,
    pairs,
    request_of,
)

if TYPE_CHECKING:
    from medrep.cli.console import Console


def add_chart(commands: Commands) -> None:
    """Add ``medrep chart``."""
    text = "draw centiles of each feature by age and sex, with people among them"
    parser = command(commands, "chart", text, _chart)
    add_cohort(parser)
    add_out(parser)
    add_model(parser)
    parser.add_argument(
        "--centiles",
        type=numbers,
        metavar="5,50,95",
        help="which, in per cent, separated by commas (default: 2,10,25,50,75,90,98)",
    )
    parser.add_argument(
        "--along",
        default="",
        metavar="NAME",
        help="continuous covariate to draw curves over (default: age, or else the first)",
    )
    parser.add_argument(
        "--by", metavar="A,B", help="covariates whose levels have curves of their own (default: sex, or else the first)"
    )
    parser.add_argument(
        "--set",
        dest="wanted",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="where curves are drawn in another covariate, e.g. site=S0 (default: the pooled site, the model's reference)",
    )
    parser.add_argument(
        "--points",
        choices=("moved", "measured", "none"),
        default="moved",
        help="people moved to where curves are drawn (site removed), as they were measured, or nobody (default: moved)",
    )
    parser.add_argument(
        "--draw", default="", metavar="A,B", help="features to draw, separated by commas (default: all)"
    )
    add_newcomers(parser, "people far")


def _chart(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.chart import PER_CENT, ChartRequest, chart

    given = {
        "others": pairs("--set", options.wanted),
        "by": None if options.by is None else names(options.by),
        "draw": names(options.draw),
        "per_cent": PER_CENT if options.centiles is None else options.centiles,
    }
    request = request_of(ChartRequest, options, given)
    done = chart(cohort_of(options), options.out, options.model, request, console)
    console.summary("drew centiles", f"{done.features} features, {done.people}", dict(done.results))
    return OK


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the charts that ``merge`` takes."""
    charts = parser.add_argument_group("growth charts of several institutes")
    charts.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="M",
        help="model folders (or models:/NAME@ALIAS) to make one chart of; M:site=X of one whose people are all of X",
    )
    charts.add_argument("--overwrite", action="store_true", help="replace OUT if it holds files already")


def merge_models(options: argparse.Namespace, console: "Console") -> int:
    """Merge growth charts."""
    from medrep.workflows.merging import merge_charts

    done = merge_charts(options.out, options.models, console, overwrite=options.overwrite)
    console.table(
        "Merged",
        ("model", "people", "sites", "columns"),
        [
            (str(p), str(n), str(s), str(c))
            for p, n, s, c in done.parts[["part", "people", "levels", "columns"]].to_numpy()
        ],
    )
    people = f"{done.saved.provenance.people} people of {len(done.parts)} models"
    console.summary("merged growth charts", people, {"model": options.out / "model"})
    return OK
