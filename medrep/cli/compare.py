"""``compare``: may the embeddings of two models be used together?"""

import argparse
from typing import TYPE_CHECKING

from medrep._files import model_folder
from medrep.cli.arguments import (
    OK,
    Commands,
    add_cohort,
    add_group,
    add_json,
    add_newcomers,
    add_out,
    add_tracking_uri,
    cohort_of,
    command,
    request_of,
)

if TYPE_CHECKING:
    from medrep.cli.console import Console

_WORDS = {
    "interchangeable": "interchangeable as they are",
    "map": "usable together with this map",
    "not": "not to be used together",
}


def add_compare(commands: Commands) -> None:
    """Add ``medrep compare``."""
    text = "say whether the embeddings of two models may be used together, on people neither saw"
    parser = command(commands, "compare", text, _compare)
    for name in ("model_a", "model_b"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            type=model_folder,
            help="the folder OUT/model that train wrote, or models:/NAME@ALIAS of the registry",
        )
    add_cohort(parser)
    add_out(parser)
    add_group(parser)
    parser.add_argument(
        "--min-n",
        type=int,
        default=50,
        help="fewest participants to say anything; twice as many as latents are wanted, too (default: 50)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    add_newcomers(parser, "people far")
    add_tracking_uri(parser, "mlflow.db in the current folder")
    add_json(parser)


def _compare(options: argparse.Namespace, console: "Console") -> int:
    from medrep.workflows.compare import CompareRequest, compare

    request = request_of(CompareRequest, options)
    found = compare(options.model_a, options.model_b, cohort_of(options), options.out, request, console)
    rows = [
        (
            str(row["metric"]).removeprefix("agreement_"),
            str(row["group"]),
            f"{row['estimate']:.3f}",
            "" if row["ci_low"] != row["ci_low"] else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
            str(row["note"]),
        )
        for row in found.findings.to_dict("records")
        if row["metric"] != "agreement_verdict" and not str(row["group"]).endswith("worst")
    ]
    console.table("Agreement of latents", ("figure", "group", "estimate", "95% interval", "of"), rows)
    console.say(found.reason)
    for where in found.maps:
        source = "AB"[where != "a_to_b"]
        console.say(f"  medrep score COHORT OUT --model (model {source}) --map {found.results[where]}")
    console.result(
        verdict=found.verdict,
        reason=found.reason,
        people=found.people,
        figures=found.findings.to_dict("records"),
        paths=dict(found.results),
    )
    console.summary(
        f"latents are {_WORDS[found.verdict]}", f"{found.people} whom neither model saw", dict(found.results)
    )
    return OK
