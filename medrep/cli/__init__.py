"""The command line. Parsing only: what a command does is a file in ``commands``, imported when it is called."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from medrep import __version__
from medrep.cli.arguments import ERROR, GATE_REFUSED, OK, SOME_FAILED, TOO_LITTLE, USAGE
from medrep.cli.auditing import add_audit
from medrep.cli.cohorts import add_check, add_demo, add_simulate
from medrep.cli.models import add_merge, add_sample, add_score, add_train
from medrep.cli.moving import add_counterfactual, add_export
from medrep.cli.registry import add_promote, add_register
from medrep.cli.reporting import add_report
from medrep.errors import EvidenceError, MedrepError

__all__ = ["ERROR", "GATE_REFUSED", "OK", "SOME_FAILED", "TOO_LITTLE", "USAGE", "main"]

_INTERRUPTED = 130
_STORE = "MLFLOW_TRACKING_URI"
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
    add_score,
    add_merge,
    add_audit,
    add_report,
    add_register,
    add_promote,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `_EXIT_CODES` says what they mean."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with _registry(getattr(options, "tracking_uri", None)):
            return int(options.run(options))
    except MedrepError as error:
        sys.stderr.write(f"medrep {options.command}: {error}\n")
        return TOO_LITTLE if isinstance(error, EvidenceError) else ERROR
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sys.stderr.write(f"medrep {options.command}: {error.strerror or error}{where}\n")
        return ERROR
    except KeyboardInterrupt:
        again = "; the same command goes on" if getattr(options, "resumes", False) else ""
        sys.stderr.write(f"medrep {options.command}: interrupted; nothing half-written is left{again}\n")
        return _INTERRUPTED


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
