"""The command line. Parsing only: what a command does is a file in ``commands``, imported when it is called."""

import argparse
import signal
import sys
from collections.abc import Sequence

from medrep import __version__
from medrep.cli.arguments import ERROR, OK, SOME_FAILED, USAGE
from medrep.cli.cohorts import add_check, add_demo, add_simulate
from medrep.cli.models import add_sample, add_score, add_train
from medrep.cli.moving import add_counterfactual, add_export
from medrep.errors import MedrepError

__all__ = ["ERROR", "OK", "SOME_FAILED", "USAGE", "main"]

_INTERRUPTED = 130
_COMMANDS = (
    add_demo,
    add_simulate,
    add_check,
    add_train,
    add_export,
    add_counterfactual,
    add_sample,
    add_score,
)


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
    for add in _COMMANDS:
        add(commands)
    return parser
