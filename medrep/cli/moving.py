"""Commands that write a cohort with covariates moved: ``export``, ``counterfactual``."""

import argparse
from typing import TYPE_CHECKING

from medrep.cli.arguments import (
    Commands,
    add_batch,
    add_cohort,
    add_matrix,
    add_mesh,
    add_model,
    add_newcomers,
    add_out,
    add_show,
    add_with_pose,
    batch_options,
    cohort_of,
    command,
    names,
    number,
    pairs,
    request_of,
    show_batch,
)

if TYPE_CHECKING:
    from medrep.cli.console import Console


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
