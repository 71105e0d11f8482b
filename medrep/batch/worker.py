"""The main loop of a worker process: open the step, take groups, send outcomes."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing import parent_process
from multiprocessing.connection import Connection

from threadpoolctl import threadpool_limits

from medrep.batch.pools import attempt
from medrep.cohort.visits import Visit
from medrep.errors import MedrepError
from medrep.export.outcomes import Opener, Outcome


def work(connection: Connection, opener: Opener) -> None:
    """Work until the pool hangs up or its process is gone.

    Args:
        connection: Groups come in; None once the step is open, and then lists of outcomes, or the error that is nobody's own,
            go out.
        opener: How to come by the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with threadpool_limits(1):
        reply: list[Outcome] | OSError | MedrepError
        try:
            step = opener.open()
            _one_thread()
        except (MedrepError, OSError) as error:
            connection.send(error)
            return
        connection.send(None)  # ready
        while True:
            try:
                people: Sequence[Visit] = connection.recv()
            except EOFError:
                return
            try:
                reply = attempt(step, people)
            except OSError as error:
                reply = error
            connection.send(reply)


def _one_thread() -> None:
    """Keep torch, where the step needs it, to one thread: it counts its own, beside those of `threadpool_limits`."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
