"""The Python of each peer: a virtual environment of its own at the repository root, made from pinned requirements."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from benchmarks.peers.worker import PEERS

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).resolve().parent


def peer_python(name: str) -> Path:
    """Return the Python that can run a peer, making its environment where it is missing or its pins have changed.

    Args:
        name: A key of PEERS.

    Returns:
        Path of the interpreter in `.venv-ENVIRONMENT` at the repository root.

    Raises:
        RuntimeError: pip could not install the pinned requirements.
    """
    environment = PEERS[name].environment
    pins = (REQUIREMENTS / f"{environment}.txt").read_text(encoding="utf-8")
    folder = ROOT / f".venv-{environment}"
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if installed.is_file() and installed.read_text(encoding="utf-8") == pins:
        return python
    venv.EnvBuilder(clear=True, with_pip=True).create(folder)
    command = [str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS / f"{environment}.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {environment}.txt could not be installed into {folder}:\n{done.stderr[-2000:]}")
    installed.write_text(pins, encoding="utf-8")
    return python
