"""The benchmarks can be started: their imports hold, though no test has the time to run them."""

import subprocess
import sys

from tests.conftest import ROOT


def test_the_benchmarks_import_and_say_what_there_is() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "shape_fields" in found.stdout
