"""Workers on a Ray cluster: one actor each, on any node; an actor or a node that dies takes nothing with it but its group.

Ray is told never to repeat anything: who is tried again, and how, is the scheduler's to say. Nodes share the cohort's folder
and that of OUT, and have the same environment. With GPUs in the cluster each actor gets an equal share of one.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import torch
from joblib import cpu_count
from threadpoolctl import threadpool_limits

from medrep.batch.local_pool import ENVIRONMENT
from medrep.batch.pool import Finished, Pool, WorkerCrashed, attempt
from medrep.cohort.samples import Sample
from medrep.derivatives.tasks import Result, TaskFactory
from medrep.errors import MedrepError, ModelError, lacking

_LOOPBACK = "127.0.0.1"
_CONNECT_S = 10.0
_START_S, _STARTS = 600.0, 5


class _Actor:
    """The actor that runs on the cluster."""

    def __init__(self, factory: TaskFactory) -> None:
        torch.set_num_threads(1)
        self._limits = threadpool_limits(1)
        self._opener = factory

    def open(self) -> MedrepError | OSError | None:
        try:
            self._step = self._opener.open()
        except (MedrepError, OSError) as error:
            return error
        return None

    def work(self, people: Sequence[Sample]) -> Sequence[Result] | OSError:
        try:
            return attempt(self._step, people)
        except OSError as error:
            return error


@dataclass
class _Worker:
    handle: Any
    opened: Any
    people: Sequence[Sample] = ()
    pending: Any = None
    ready: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + _START_S)


class RayPool(Pool):
    """Actors of a Ray cluster.

    Args:
        factory: How actors come by their step.
        workers: How many; 0 takes one for each processor that the cluster has now.
        timeout: Seconds a person may take; an actor that takes longer is killed.
        address: HOST:PORT of the cluster's head; empty starts a cluster on this machine, reachable from it only.

    Raises:
        MedrepError: Ray is not installed (the extra ray), or there is no such cluster.
    """

    def __init__(self, factory: TaskFactory, workers: int, timeout: float, address: str = "") -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise lacking("ray", error) from None
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            self._connect(address, workers)
        resources = ray.cluster_resources()
        self.workers = workers or max(1, int(resources.get("CPU", 1)))
        gpus = resources.get("GPU", 0) / self.workers
        self._remote = ray.remote(
            num_cpus=1,
            num_gpus=min(1.0, gpus),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": dict(ENVIRONMENT)},
        )(_Actor)
        self._opener, self._timeout = factory, timeout
        self._team: list[_Worker] = []
        self._failed_starts = 0

    def submit(self, people: Sequence[Sample]) -> None:
        """Hand a group to a free actor; a new one, on any node that lives, where fewer than wanted are left."""
        worker = next((one for one in self._team if not one.people), None) or self._started()
        worker.people = people
        if worker.ready:
            self._hand(worker)

    def wait(self) -> list[Finished | WorkerCrashed]:
        """Return what happened; see `Pool.wait`."""
        while True:
            busy = {worker.pending if worker.ready else worker.opened: worker for worker in self._team if worker.people}
            started = [worker for worker in busy.values() if worker.ready] or list(busy.values())
            left = min(worker.deadline for worker in started) - time.monotonic()
            ready, _ = self._ray.wait(list(busy), num_returns=1, timeout=max(left, 0.0))
            heard = [self._heard(busy[reference], reference) for reference in ready]
            # Whoever has started takes over from those that have no place to.
            late = [worker for worker in started if worker.people and worker.deadline < time.monotonic()]
            heard += [self._lost(worker, f"took more than {self._timeout:g} s a person") for worker in late]
            results = [result for result in heard if result is not None]
            if results:
                return results

    def close(self) -> None:
        """Kill the actors, and end the cluster if it was started here."""
        for worker in self._team:
            self._kill(worker)
        self._team.clear()
        if self._own:
            self._ray.shutdown()

    def _connect(self, address: str, workers: int) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        before = signal.getsignal(signal.SIGTERM)
        try:
            if address:
                host, _, port = address.rpartition(":")
                with socket.create_connection((host, int(port)), _CONNECT_S):  # Ray itself would wait for minutes
                    pass
                self._ray.init(address=address, **quiet)
            else:
                count = workers or cpu_count()
                # Of this cluster only; Ray would else make one and leave it in the home folder, for all later clusters.
                os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
                self._ray.init(
                    address="local", num_cpus=count, include_dashboard=False, _node_ip_address=_LOOPBACK, **quiet
                )
        except (OSError, RuntimeError, ValueError) as error:
            text = " ".join(str(error).split())[:300]
            cure = "; a cluster that asks for a token needs RAY_AUTH_MODE=token here, too" if address else ""
            raise MedrepError(f"--ray-address {address or '(none)'}: no Ray cluster to be had ({text}){cure}") from None
        finally:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in its place

    def _started(self) -> _Worker:
        handle = self._remote.remote(self._opener)
        worker = _Worker(handle, handle.open.remote())
        self._team.append(worker)
        return worker

    def _hand(self, worker: _Worker) -> None:
        worker.pending = worker.handle.work.remote(worker.people)
        worker.deadline = time.monotonic() + self._timeout * len(worker.people)

    def _heard(self, worker: _Worker, reference: Any) -> Finished | WorkerCrashed | None:
        try:
            reply = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._lost(worker, f"died ({type(error).__name__})")
        if isinstance(reply, OSError | MedrepError):
            raise reply
        if not worker.ready:
            worker.ready = True
            self._hand(worker)
            return None
        people, worker.people = worker.people, ()
        self._take_over(worker)
        return Finished(people, reply)

    def _take_over(self, free: _Worker) -> None:
        """Let a free actor do what waits for one that has no place to start, for instance since a node is gone."""
        waiting = next((one for one in self._team if one.people and not one.ready), None)
        if waiting is not None:
            free.people, waiting.people = waiting.people, ()
            self._hand(free)

    def _lost(self, worker: _Worker, how: str) -> WorkerCrashed | None:
        self._kill(worker)
        self._team.remove(worker)
        if worker.ready:
            return WorkerCrashed(worker.people, how)
        # Nobody's file is at fault: its node may have gone while it started.
        self._failed_starts += 1
        if self._failed_starts > _STARTS:
            raise ModelError(
                f"{self._failed_starts} actors {how} before they had loaded the model; look at the cluster's logs"
            )
        self.submit(worker.people)
        return None

    def _kill(self, worker: _Worker) -> None:
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker.handle, no_restart=True)
