"""Every test runs with the documented shapes and types checked over the whole package, and warnings as errors."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.documented_shapes import check_documented_shapes

# Processes that tests start by the dozen would each compile medrep anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

check_documented_shapes("medrep")

pytest_plugins = ["tests.processor_time", "tests.small_runs"]

settings.register_profile(
    "medrep", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("medrep")

# Logging every training of the suite would take seconds each; the tests of tracking turn it on.
os.environ["MEDREP_TRACKING"] = "none"
# Test files import MLflow before medrep.tracking can say so.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# A shell ignores Ctrl-C for what runs in its background, and what tests start would inherit that; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public data for tests; see MEDREP_DATA in CONTRIBUTING.md."""
    folder = Path(os.environ.get("MEDREP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set MEDREP_DATA")
    return folder
