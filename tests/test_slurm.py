"""The SLURM script, run as SLURM runs it: a shell with the array's variables set, and a signal before the time is over."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.stand_in import accepted, call, environment

SCRIPT = ROOT / "docker" / "slurm_array.sh"
ARGUMENTS = ["score", "/data/co hort", "/data/scores", "--model", "models:/thickness@champion"]
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "15",
    "SLURM_ARRAY_TASK_COUNT": "16",
    "SLURM_ARRAY_TASK_STEP": "1",
    "SLURM_CPUS_PER_TASK": "4",
}


def test_it_is_a_script_that_a_shell_takes() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", SCRIPT], check=True)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (1, 1), (4, 4), (130, 130)])
def test_failed_people_are_no_failed_task_and_everything_else_is(tmp_path: Path, code: int, expected: int) -> None:
    found, given = call(["bash", str(SCRIPT), *ARGUMENTS], tmp_path, code, **ARRAY)
    assert found == expected
    assert given == [*ARGUMENTS, "--workers", "4"]
    options = accepted(given)
    assert options["workers"] == 4
    assert options["num_parts"] is None  # left to the array's variables
    assert options["part_id"] is None


def test_without_arguments_it_says_how(tmp_path: Path) -> None:
    assert call(["bash", str(SCRIPT)], tmp_path, **ARRAY) == (2, [])


def test_the_signal_before_the_time_is_over_reaches_medrep(tmp_path: Path) -> None:
    variables = environment(tmp_path, 0, ARRAY | {"STAND_IN_SLEEP": "1"})
    process = subprocess.Popen(["bash", SCRIPT, *ARGUMENTS], env=variables)
    for _ in range(200):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.05)
    process.terminate()
    assert process.wait(10) == 130
    assert (tmp_path / "signal").read_text() == "TERM\n"
