"""A training that was killed goes on to the same weights, and never on top of another one's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medrep.workflows.train import state_folder
from tests.workflows.conftest import run

EPOCHS = 12
SETTINGS = (
    "settings={body: mlp, latents: 3, hidden: [6], strength: 1, validation: 0.2,"
    " training: {epochs: %d, batch: 16, patience: 1000, warmup: 2, threads: 1, device: cpu}}"
)
OTHER = "settings.beta=2.0"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "cohort"
    assert run("simulate", folder, "--kind", "features", "--n", 60, "--sites", 2, "--seed", 1, "--quiet") == 0
    return folder


def command(cohort: Path, out: Path, epochs: int = EPOCHS) -> tuple[object, ...]:
    return ("train", cohort, out, "--config", "vae_features.yaml", "--set", SETTINGS % epochs, "--quiet")


# Slows every epoch down, so that there is time to kill it between two of them.
SLOW = """
import sys, time
import medrep.training.loop as loop
step = loop._epoch
def slow(*arguments):
    step(*arguments)
    time.sleep(0.2)
loop._epoch = slow
from medrep.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a training that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "m"
    assert run(*command(cohort, out)) == 0
    assert not state_folder(out).exists()
    return (out / "model" / "model.safetensors").read_bytes()


def kept(out: Path, name: str = "state.json") -> list[Path]:
    """The files of that name in the state; one state a stage of the training."""
    return sorted(state_folder(out).glob(f"[!.]*/{name}"))


def kill_midway(cohort: Path, out: Path) -> None:
    """Kill the training with SIGKILL as soon as it has kept a state."""
    arguments = [str(argument) for argument in command(cohort, out)]
    environment = {**os.environ, "MEDREP_TRACKING": "none", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], env=environment)
    try:
        patience = time.monotonic() + 120
        while not kept(out):
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < patience, "no state was kept"
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()


def test_a_killed_training_ends_with_the_same_weights(cohort: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "m"
    kill_midway(cohort, out)
    assert run(*command(cohort, out), "--resume") == 0
    assert (out / "model" / "model.safetensors").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.fixture
def interrupted(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training of which only the state is left, and its OUT."""
    out = tmp_path / "m"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medrep.models.vae.network.judged_dependence", stop)
        assert run(*command(cohort, out)) == 130
    assert kept(out)
    assert not out.exists()
    return out


def test_a_state_of_other_settings_is_refused_by_name(
    cohort: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command(cohort, interrupted), "--set", OTHER, "--resume") == 1
    said = capsys.readouterr().err
    assert "is of another training: settings was" in said
    assert "train without --resume to start anew" in said
    assert kept(interrupted)
    assert not interrupted.exists()


def test_a_state_of_other_people_is_refused(
    cohort: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command(cohort, interrupted), "--exclude", "sub-0003", "--resume") == 1
    assert "is of another training: people was" in capsys.readouterr().err


def test_a_damaged_state_is_refused(cohort: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept(interrupted, "state.safetensors")[0].write_bytes(b"no")
    assert run(*command(cohort, interrupted), "--resume") == 1
    assert "damaged" in capsys.readouterr().err


def test_without_resume_the_old_state_is_dropped(cohort: Path, whole: bytes, interrupted: Path) -> None:
    kept(interrupted, "state.safetensors")[0].write_bytes(b"no")
    assert run(*command(cohort, interrupted)) == 0
    assert (interrupted / "model" / "model.safetensors").read_bytes() == whole
    assert not state_folder(interrupted).exists()


def test_resuming_what_was_never_started_starts_it(cohort: Path, whole: bytes, tmp_path: Path) -> None:
    assert run(*command(cohort, tmp_path / "m"), "--resume") == 0
    assert (tmp_path / "m" / "model" / "model.safetensors").read_bytes() == whole
