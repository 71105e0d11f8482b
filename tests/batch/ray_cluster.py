"""A real Ray cluster on the loopback: a head, and nodes that can be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

# With a token, as Ray will be by default; told to all processes before any of them imports Ray, whatever the home folder holds.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = token_hex(32)
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
}


class Node:
    """One node, in a session of its own, with all its processes."""

    def __init__(self, *arguments: str, cpus: int) -> None:
        ray = Path(sys.executable).with_name("ray")
        command = [
            ray,
            "start",
            "--block",
            "--disable-usage-stats",
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={cpus}",
        ]
        self._process = subprocess.Popen(
            [*map(str, command), *arguments],
            env=os.environ | _ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kill the node's processes at once, as a machine that loses its power does."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def cluster(cpus: tuple[int, ...]) -> Iterator[tuple[str, list[Node]]]:
    """Yield the address and the nodes, the head first; all are killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        Node("--head", f"--port={port}", "--include-dashboard=false", "--object-store-memory=80000000", cpus=cpus[0])
    ]
    try:
        _await(port)
        join = (f"--address=127.0.0.1:{port}", "--object-store-memory=80000000")
        nodes += [Node(*join, cpus=count) for count in cpus[1:]]
        yield f"127.0.0.1:{port}", nodes
    finally:
        for node in reversed(nodes):
            node.kill()


def _await(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError("the head of the Ray cluster did not start")
