"""Arguments that several commands share, what they show, and the exit codes."""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from medrep._files import model_folder
from medrep.cohort.files import CohortFiles
from medrep.cohort.parsing import plain_number
from medrep.errors import MedrepError, listed

if TYPE_CHECKING:
    from medrep.batch.run import BatchOptions, BatchResult
    from medrep.cli.console import Console

OK, ERROR, USAGE, SOME_FAILED, GATE_REFUSED, TOO_LITTLE = 0, 1, 2, 3, 4, 5
_Request = TypeVar("_Request")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(
    commands: Commands, name: str, text: str, run: "Callable[[argparse.Namespace, Console], int]"
) -> argparse.ArgumentParser:
    """Add a command; every command can be quiet."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument(
        "--log",
        choices=("text", "json"),
        default="text",
        help="how standard error is written; json: one object a line, for collectors of logs (default: text)",
    )
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the document for scripts."""
    parser.add_argument(
        "--json", action="store_true", help="write one JSON document to standard output, all else to standard error"
    )


def add_cohort(parser: argparse.ArgumentParser) -> None:
    """Add the cohort and who of it."""
    parser.add_argument(
        "cohort",
        metavar="COHORT",
        type=Path,
        help="BIDS folder, folder with participants.tsv and features.tsv, a table (.csv, .tsv, .txt, .xlsx, .parquet, or .gz of "
        "text), FreeSurfer's SUBJECTS_DIR, or MONAI datalist JSON",
    )
    parser.add_argument(
        "--participant-label",
        dest="only",
        nargs="+",
        default=(),
        metavar="ID",
        help="only these people, with or without sub-",
    )
    parser.add_argument("--exclude", nargs="+", default=(), metavar="ID", help="all but these people")
    parser.add_argument(
        "--session-label", nargs="+", default=(), metavar="ID", help="only these visits, with or without ses-"
    )
    files = parser.add_argument_group("files", "what medrep does not find by itself")
    files.add_argument(
        "--covariates",
        type=Path,
        metavar="FILE",
        help="table of covariates, where COHORT has none (see COHORT for forms)",
    )
    files.add_argument(
        "--also", nargs="+", type=Path, default=(), metavar="FILE", help="further tables of features of the same people"
    )
    files.add_argument("--id", default="", metavar="COLUMN", help="column of ids (default: found by its name)")
    files.add_argument("--session", default="", metavar="COLUMN", help="column of visits (default: found by its name)")
    files.add_argument(
        "--features",
        nargs="+",
        metavar="NAME",
        help="columns that are features, e.g. 'lh_*_thickness' (default: all numbers)",
    )
    files.add_argument("--drop", nargs="+", metavar="NAME", help="columns that are no features, e.g. eTIV 'Brain*'")
    for name, what in (
        ("suffix", "T1w"),
        ("desc", "preproc"),
        ("space", "MNI152NLin2009cAsym"),
        ("run", "1, or first, all (a row each) or mean of several"),
    ):
        files.add_argument(
            f"--{name}", dest=f"bids_{name}", metavar="LABEL", help=f"BIDS {name} of the images, e.g. {what}"
        )


def cohort_of(options: argparse.Namespace) -> CohortFiles:
    """Return where the cohort of `add_cohort` lies, with what was said about its files."""
    bids = {"suffix": "bids_suffix", "desc": "bids_desc"}
    changes = {
        name: tuple(given) if isinstance(given, list) else given
        for name, dest in {"features": "features", "drop": "drop", "group": "group", **bids}.items()
        if (given := getattr(options, dest, None)) is not None
    }
    entities = {name: given for name in ("space", "run") if (given := getattr(options, f"bids_{name}")) is not None}
    return CohortFiles(
        options.cohort,
        options.covariates,
        tuple(options.also),
        options.id,
        options.session,
        tuple(options.session_label),
        {**changes, "entities": entities} if entities else changes,
    )


def add_out(parser: argparse.ArgumentParser, *, resumes: bool = False) -> None:
    """Add the folder to write."""
    how = "the same command goes on where it was ended" if resumes else "it appears only when it is complete"
    parser.add_argument("out", metavar="OUT", type=Path, help=f"folder to write; {how}")
    parser.set_defaults(resumes=resumes)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it holds files already")


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Add how a cohort is gone through."""
    batch = parser.add_argument_group("batch", "the same command again goes on where an earlier one was ended")
    add_parts(batch, "work on one of N parts (default: as many as a SLURM array 0-n has, or 1)")
    batch.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one a processor)")
    batch.add_argument("--engine", choices=("local", "ray"), default="local", help="who works (default: local)")
    batch.add_argument(
        "--ray-address", default="", metavar="HOST:PORT", help="Ray cluster (default: one of its own on this machine)"
    )
    batch.add_argument(
        "--timeout", type=float, default=1800.0, metavar="S", help="seconds that one person may take (default: 1800)"
    )
    batch.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    batch.add_argument("--retry-failed", action="store_true", help="try people again who failed")
    add_metrics(batch)


def add_parts(parser: "argparse.ArgumentParser | argparse._ArgumentGroup", text: str) -> None:
    """Add which part of a cohort is worked on."""
    parser.add_argument("--num-parts", type=int, metavar="N", help=text)
    parser.add_argument(
        "--part-id",
        type=int,
        metavar="K",
        help="which part, from 0 (default: SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX); `medrep merge OUT` joins them",
    )


def add_tracking(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add where a training is logged."""
    parser.add_argument(
        "--tracking",
        default=os.environ.get("MEDREP_TRACKING") or "auto",
        metavar="auto|none|URI",
        help="where the run is logged with MLflow; auto: MLFLOW_TRACKING_URI, or else mlflow.db beside OUT (default: auto, "
        "or what MEDREP_TRACKING says)",
    )
    parser.add_argument("--experiment", default="medrep", metavar="NAME", help="MLflow experiment (default: medrep)")


def add_metrics(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add the file for a monitor."""
    parser.add_argument(
        "--metrics",
        type=Path,
        metavar="FILE.prom",
        help="write counts, rates and the time of the last success there, for Prometheus' textfile collector",
    )


def batch_options(options: argparse.Namespace) -> "BatchOptions":
    """Return what `add_batch` was given; ConfigError or MedrepError for a part or numbers that cannot be."""
    from medrep.batch.run import BatchOptions
    from medrep.batch.store import choose_part

    if options.workers < 0 or options.timeout <= 0:
        raise MedrepError(
            f"--workers {options.workers}, --timeout {options.timeout:g}: give 0 or more, and more than 0 seconds"
        )
    options.part = choose_part(options.part_id, options.num_parts)
    return request_of(BatchOptions, options)


def request_of(kind: type[_Request], options: argparse.Namespace, given: Mapping[str, Any] | None = None) -> _Request:
    """Return a request of the library: its fields are the options of the same names, but for those that are given."""
    known = {**vars(options), **(given or {})}
    return kind(**{name: known[name] for name in signature(kind).parameters if name in known})


def show_batch(console: "Console", result: "BatchResult | None", out: Path) -> int:
    """Say who could not be delivered, and keep what the table at the end says; return the exit code."""
    if result is None:
        return OK
    if result.failures:
        failed = [f"{failure.participant}: {failure.error}" for failure in result.failures]
        console.say(listed("failed", failed, f"see {out / 'failures.tsv'}; --retry-failed tries them again"))
    console.count(result.delivered, result.failed)
    delivered = f"{result.delivered} visits of {result.people} people" if result.people else str(result.delivered)
    console.summary(result.done, f"{delivered} delivered, {result.failed} failed", result.results)
    return SOME_FAILED if result.whole and result.failed else OK


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and its overrides."""
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
    add_group(parser)
    parser.add_argument(
        "--mask",
        metavar="auto|bids|FILE",
        help="which voxels of volumes are fitted and changed: all that are not background in most people (auto), those of each "
        "person's own desc-brain_mask (bids), or of one mask image; as --set input.mask=... (default: what the config says)",
    )


def add_group(parser: argparse.ArgumentParser) -> None:
    """Add the column of relatives."""
    parser.add_argument(
        "--group",
        metavar="COLUMN",
        help="column that names whom each person belongs with, such as family_id: relatives are split, resampled and exchanged "
        "together (default: what the config or the model says)",
    )


def memory(text: str) -> float:
    """Return bytes for ``4G``, ``500M`` or a number of bytes."""
    units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    bare = text.strip().upper().removesuffix("B")
    count = plain_number(bare[:-1] if bare[-1:] in units else bare)
    if count is None or not 0 < count < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; give for instance 4G or 500M")
    return count * units.get(bare[-1:], 1.0)


def overrides(options: argparse.Namespace) -> list[str]:
    """Return what is set on top of the configuration, by ``--set`` or by flags of their own."""
    return [*options.overrides, *([f"input.mask={json.dumps(options.mask)}"] if options.mask else [])]


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the trained model."""
    parser.add_argument(
        "--model",
        required=True,
        type=model_folder,
        metavar="M",
        help="the folder OUT/model that train wrote, or models:/NAME@ALIAS of the registry",
    )
    add_tracking_uri(parser, "mlflow.db in the current folder")


def add_tracking_uri(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add the store of registered models."""
    parser.add_argument(
        "--tracking-uri", metavar="URI", help=f"MLflow store (default: MLFLOW_TRACKING_URI, or else {otherwise})"
    )


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Add the form of meshes."""
    parser.add_argument(
        "--mesh", choices=("gifti", "stl", "ply"), help="what meshes of organs are written as (default: gifti)"
    )


def add_with_pose(parser: argparse.ArgumentParser) -> None:
    """Add the motion of organs as a whole."""
    parser.add_argument(
        "--with-pose",
        action="store_true",
        help="shapes: what covariates do to how an organ lies (effects/pose.tsv) is moved, too; by default it stays",
    )


def add_matrix(parser: argparse.ArgumentParser) -> None:
    """Add matrices of edges."""
    parser.add_argument(
        "--matrix", action="store_true", help="connectivity: a matrix a person, too (sub-X_..._relmat.dense.tsv)"
    )


def add_newcomers(parser: argparse.ArgumentParser, what: str) -> None:
    """Add what sites that training did not have do, and people outside of its range."""
    parser.add_argument(
        "--unseen-site",
        choices=("error", "adapt"),
        default="error",
        help="sites that training did not have: refuse, or estimate from their own people (default: error)",
    )
    parser.add_argument(
        "--reference-people",
        default="",
        metavar="COLUMN=VALUE",
        help="with --unseen-site adapt: estimate them from these of their people, for instance diagnosis=TD (default: all)",
    )
    add_extrapolate(parser, what)


def add_extrapolate(parser: argparse.ArgumentParser, what: str) -> None:
    """Add what people outside the range of training do."""
    parser.add_argument("--extrapolate", action="store_true", help=f"allow {what} outside the range of training")


def add_show(parser: argparse.ArgumentParser) -> None:
    """Add whom the report shows."""
    parser.add_argument(
        "--show",
        default="",
        metavar="ID",
        help="whom the report lets the reader move (default: the first person); `nobody` leaves pictures of people out",
    )


def number(text: str) -> float:
    """Return a number; ``float`` by itself also takes ``1_0``, ``nan`` and digits of any script."""
    value = plain_number(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Return numbers separated by commas."""
    return tuple(number(one) for one in names(text))


def names(text: str) -> tuple[str, ...]:
    """Return names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def pairs(switch: str, entries: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE entries; refuse others, all of them."""
    found = dict(entry.partition("=")[::2] for entry in entries)
    bad = [entry for entry in entries if not all(entry.partition("="))]
    if bad:
        raise MedrepError(f"{switch} {', '.join(bad)}: write it as NAME=VALUE, for instance site=S0")
    return {name.strip(): value.strip() for name, value in found.items()}
