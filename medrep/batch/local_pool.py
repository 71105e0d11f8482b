"""Worker processes on this machine, watched one by one: one that dies or hangs takes nothing with it but its group."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from signal import Signals

from medrep.batch.pool import Finished, Pool, WorkerCrashed, work
from medrep.cohort.samples import Sample
from medrep.derivatives.tasks import TaskFactory
from medrep.errors import MedrepError, ModelError

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Volumes come and go; memory that glibc hands back to the kernel after each has to be mapped anew, page by page, for the next.
_MEMORY = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
ENVIRONMENT = dict.fromkeys(_THREADS, "1") | dict.fromkeys(_MEMORY, str(2**30))
"""What workers see of the environment beside everything else: read once by libraries, as they start."""
_START_S = 600.0
_CONTEXT = get_context("forkserver")


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    people: Sequence[Sample] = ()
    ready: bool = False
    deadline: float = 0.0


def start_server(preload: Sequence[str]) -> None:
    """Let the server of workers load modules while this process does something else."""
    _CONTEXT.set_forkserver_preload(list(preload))
    with _environment():
        ensure_running()


class LocalPool(Pool):
    """Processes forked from a server that has loaded what steps need, so that a new one costs next to nothing.

    Args:
        factory: How workers come by their step.
        workers: How many.
        timeout: Seconds a person may take; a worker that takes longer is killed.
    """

    def __init__(self, factory: TaskFactory, workers: int, timeout: float) -> None:
        self.workers = workers
        self._opener, self._timeout = factory, timeout
        _CONTEXT.set_forkserver_preload(list(factory.preload))
        self._team: list[_Worker] = []

    def submit(self, people: Sequence[Sample]) -> None:
        """Hand a group to a free worker; a new one, where fewer than wanted are left."""
        worker = next((one for one in self._team if not one.people), None) or self._started()
        worker.people = people
        worker.deadline = time.monotonic() + (self._timeout * len(people) if worker.ready else _START_S)
        with suppress(BrokenPipeError, ConnectionResetError):  # died since; `wait` finds out
            worker.connection.send(people)

    def wait(self) -> list[Finished | WorkerCrashed]:
        """Return what happened; see `Pool.wait`."""
        while True:
            busy = {worker.connection: worker for worker in self._team if worker.people}
            left = min(worker.deadline for worker in busy.values()) - time.monotonic()
            ready = wait(list(busy), timeout=max(left, 0))
            heard = [self._heard(busy[one]) for one in ready if isinstance(one, Connection)]
            late = [worker for worker in busy.values() if worker.people and worker.deadline < time.monotonic()]
            heard += [self._lost(worker, f"took more than {self._timeout:g} s a person") for worker in late]
            results = [result for result in heard if result is not None]
            if results:
                return results

    def close(self) -> None:
        """Kill the workers; whatever they are at can be done again."""
        for worker in self._team:
            worker.connection.close()
            worker.process.kill()
        for worker in self._team:
            worker.process.join()
        self._team.clear()

    def _started(self) -> _Worker:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=work, args=(theirs, self._opener), daemon=True)
        with _environment():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._team.append(worker)
        return worker

    def _heard(self, worker: _Worker) -> Finished | WorkerCrashed | None:
        try:
            reply = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode or 0
            how = f"was killed by {Signals(-code).name}" if code < 0 else f"ended with code {code}"
            return self._lost(worker, how)
        if isinstance(reply, OSError | MedrepError):
            raise reply
        if reply is None:
            worker.ready = True
            worker.deadline = time.monotonic() + self._timeout * len(worker.people)
            return None
        people, worker.people = worker.people, ()
        return Finished(people, reply)

    def _lost(self, worker: _Worker, how: str) -> WorkerCrashed:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        self._team.remove(worker)
        if not worker.ready:  # nobody's file is at fault
            raise ModelError(f"a worker {how} before it had loaded the model; give fewer --workers, or more memory")
        return WorkerCrashed(worker.people, how)


@contextmanager
def _environment() -> Iterator[None]:
    """Let the server of workers, which is started with the first of them, see what libraries ask for once, as they start."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
