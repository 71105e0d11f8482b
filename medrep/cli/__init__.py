"""The command line. Parsing only: what a command does is a file in ``workflows``, imported when it is called."""

import argparse
import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from medrep import __version__
from medrep.cli.arguments import ERROR, GATE_REFUSED, OK, SOME_FAILED, TOO_LITTLE, USAGE
from medrep.cli.audit import add_audit, add_promote, add_register, add_report
from medrep.cli.chart import add_chart
from medrep.cli.cohorts import add_check, add_demo, add_simulate
from medrep.cli.compare import add_compare
from medrep.cli.merging import add_merge
from medrep.cli.moving import add_counterfactual, add_export
from medrep.cli.scoring import add_forecast, add_sample, add_score
from medrep.cli.training import add_train
from medrep.errors import EvidenceError, MedrepError, UnfinishedError, printable

if TYPE_CHECKING:
    from medrep.cli.console import Console

__all__ = ["ERROR", "GATE_REFUSED", "OK", "SOME_FAILED", "TOO_LITTLE", "USAGE", "main"]

_INTERRUPTED = 130
_STORE = "MLFLOW_TRACKING_URI"
_LISTS = ("--remove", "--keep", "--by", "--effects", "--years", "--centiles", "--draw")
"""Switches that take names separated by commas, which people separate by blanks."""
_CODES = {EvidenceError: TOO_LITTLE, UnfinishedError: USAGE}
_EXIT_CODES = (
    "0 ok, 1 error, 2 usage, 3 finished with failed participants (listed), 4 a gate refused, 5 too little evidence"
)
_COMMANDS = (
    add_demo,
    add_simulate,
    add_check,
    add_train,
    add_export,
    add_counterfactual,
    add_sample,
    add_forecast,
    add_chart,
    add_score,
    add_merge,
    add_audit,
    add_compare,
    add_report,
    add_register,
    add_promote,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `_EXIT_CODES` says what they mean."""
    options = _parsed(sys.argv[1:] if arguments is None else arguments)
    # Loading libraries makes many objects and no garbage; looking for it took a fifth of the time.
    gc.set_threshold(100_000, 20, 20)
    from medrep.cli.console import Console  # rich, which --help does not need

    console = Console(
        quiet=options.quiet, json=getattr(options, "json", False), log=options.log, command=options.command
    )
    metrics, begun = None, time.monotonic()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        metrics = _metrics(options)
        with _registry(getattr(options, "tracking_uri", None)), console.holding_output(), _masked_warnings():
            code = int(options.run(options, console))
    except MedrepError as error:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), ERROR)
        said = str(error)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code, said = ERROR, f"{error.strerror or error}{where}"
    except KeyboardInterrupt:
        again = "; the same command goes on" if getattr(options, "resumes", False) else ""
        code, said = _INTERRUPTED, f"interrupted; nothing half-written is left{again}"
    except Exception as error:  # nobody foresaw it: the traceback is for whoever mends it
        console.fail(options.command, f"{type(error).__name__}: {error}", ERROR)
        _expose(metrics, options, console, ERROR, begun)
        sys.excepthook = partial(_masked_traceback, console)
        raise
    else:
        console.finish(code)
        _expose(metrics, options, console, code, begun)
        return code
    console.fail(options.command, said, code)
    _expose(metrics, options, console, code, begun)
    return code


def _metrics(options: argparse.Namespace) -> Path | None:
    """Return the file for a monitor, if one was asked for and something will be done; ConfigError if it cannot be written."""
    path: Path | None = getattr(options, "metrics", None)
    if path is None or getattr(options, "dry_run", False):
        return None
    from medrep.monitoring import check_metrics

    check_metrics(path)
    return path


def _expose(path: Path | None, options: argparse.Namespace, console: "Console", code: int, begun: float) -> None:
    """Write the file for a monitor; that it cannot be written changes nothing of how the command ended."""
    if path is None:
        return
    from medrep.monitoring import Run, write_metrics

    part = getattr(options, "part", None)
    of = "all" if part is None or part.count == 1 else f"{part.index}/{part.count}"
    worked, working = console.pace(options.command)
    seconds = time.monotonic() - begun
    run = Run(options.command, options.out.resolve().name, of, code, seconds, console.counts, worked, working)
    try:
        write_metrics(path, run)
    except OSError as error:
        console.tell(f"medrep {options.command}: --metrics {path}: cannot be written ({error.strerror or error})")


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; wrong usage ends the process, with a document where one was asked for."""
    parser, said = _parser(), StringIO()
    try:
        with redirect_stderr(said):  # it repeats what was typed
            found, left = parser.parse_known_args(arguments)
            if left:
                return parser.parse_args(_joined(parser, arguments, left))
            return found
    except SystemExit as ending:
        _tell_usage(arguments, said.getvalue())
        if ending.code == USAGE and "--json" in arguments:
            from medrep.cli.console import write_document

            write_document({"error": "wrong usage; standard error says what", "exit_code": USAGE}, sys.stdout)
        raise


def _tell_usage(arguments: Sequence[str], said: str) -> None:
    if said and ("--log=json" in arguments or ("--log", "json") in pairwise(arguments)):
        from medrep.monitoring import LogLines

        command = next((word for word in arguments if not word.startswith("-")), "")
        LogLines(sys.stderr, command).write("error", said.strip(), {"exit_code": USAGE})
    else:
        sys.stderr.write(printable(said))


def _joined(parser: argparse.ArgumentParser, arguments: Sequence[str], left: Sequence[str]) -> Sequence[str]:
    """Return the arguments with ``--keep age sex`` as ``--keep age,sex``, where that leaves nothing over; else as they are."""
    count = len(left)
    if any(word.startswith("-") for word in left):
        return arguments
    for place, word in enumerate(arguments):
        words = arguments[place + 1 : place + 2 + count]
        if word in _LISTS and len(words) == count + 1 and not any(one.startswith("-") for one in words):
            joined = [*arguments[: place + 1], ",".join(words), *arguments[place + 2 + count :]]
            if not parser.parse_known_args(joined)[1]:
                return joined
    return arguments


@contextmanager
def _registry(uri: str | None) -> Iterator[None]:
    """Let everything that asks MLFLOW_TRACKING_URI find the store that was given."""
    before = os.environ.get(_STORE)
    if uri:
        os.environ[_STORE] = uri
    try:
        yield
    finally:
        if before is not None:
            os.environ[_STORE] = before
        elif uri:
            os.environ.pop(_STORE, None)


@contextmanager
def _masked_warnings() -> Iterator[None]:
    """Let what libraries warn of be shown as everything else is."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        told = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(printable(told))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _masked_traceback(
    console: "Console", kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    import traceback  # only where something went wrong

    console.tell("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _terminate(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medrep",
        description="Separate who a person is from what age, sex, diagnosis, scanner and site do to anybody's image.",
        epilog=f"Exit codes: {_EXIT_CODES}.",
    )
    parser.add_argument("--version", action="version", version=f"medrep {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser
