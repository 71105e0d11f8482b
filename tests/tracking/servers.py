"""Servers on the loopback that a test starts and ends."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 (the loopback)
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def running(
    command: Sequence[str], up: Callable[[], bool], log: Path, environment: Mapping[str, str], seconds: int = 120
) -> Iterator[None]:
    """Run a server until the block ends; it and the processes it started are a group of their own."""
    own = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
    with log.open("w") as output:
        server = subprocess.Popen(
            command, env=own, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + seconds
        while not up():
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(20)


def postgresql() -> Path | None:
    """Folder of PostgreSQL's programs; None where there are none, or nobody but root to run them."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    usable = [folder for folder in folders if (folder / "initdb").is_file() and (folder / "postgres").is_file()]
    return usable[-1] if usable and (os.getuid() != 0 or _unprivileged()) else None


def _unprivileged() -> dict[str, object]:
    """Arguments of ``subprocess`` to be somebody else than root, which PostgreSQL refuses to run as."""
    try:
        who = pwd.getpwnam("postgres")
    except KeyError:
        return {}
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


@contextmanager
def database(folder: Path, name: str, password: str) -> Iterator[str]:
    """Run a PostgreSQL cluster in a folder that its own user may enter, with a user and a database; yield host:port."""
    programs, somebody = postgresql(), _unprivileged() if os.getuid() == 0 else {}
    assert programs is not None
    if somebody:
        shutil.chown(folder, "postgres")
    secret = folder / "password"
    secret.write_text(password)
    secret.chmod(0o644)
    data, port = folder / "data", free_port()
    run = {"cwd": folder, "check": True, "capture_output": True, **somebody}
    options = [f"--username={name}", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync"]
    subprocess.run([programs / "initdb", "-D", data, *options], **run)  # type: ignore[call-overload]
    listen = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", listen, "start"], **{**run, "capture_output": False})  # type: ignore[call-overload]
    try:
        login = {"PGPASSWORD": password, "PATH": os.environ["PATH"]}
        made = [programs / "createdb", "--host=127.0.0.1", f"--port={port}", f"--username={name}", name]
        subprocess.run(made, **run, env=login)  # type: ignore[call-overload]
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)  # type: ignore[call-overload]
