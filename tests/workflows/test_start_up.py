"""A table and a linear model need little: what takes seconds to load is loaded by those who need it."""

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("torch", "monai", "mlflow", "sklearn", "scipy.stats", "statsmodels", "matplotlib", "skimage", "igl", "nilearn")
_CODE = """
import sys
from medrep.cli import main
code = main(sys.argv[1:])
print(",".join(name for name in {slow!r} if name in sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["check", "train", "export", "score", "counterfactual"])
def test_a_table_and_a_linear_model_load_nothing_slow(
    command: str, table_cohort: Path, table_model: Path, tmp_path: Path
) -> None:
    more = {
        "check": (),
        "train": (tmp_path / "out", "--tracking", "none"),
        "export": (tmp_path / "out", "--model", table_model, "--remove", "site"),
        "score": (tmp_path / "out", "--model", table_model),
        "counterfactual": (tmp_path / "out", "--model", table_model, "--set", "age=50"),
    }[command]
    arguments = [command, table_cohort, *more, "--quiet"]
    ran = subprocess.run(
        [sys.executable, "-c", _CODE.format(slow=SLOW), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == ""


def test_images_whose_axes_alone_are_turned_load_neither_monai_nor_torch(bids_cohort: Path, tmp_path: Path) -> None:
    arguments = ["train", bids_cohort, tmp_path / "out", "--set", "input.kind=volume", "--tracking", "none", "--quiet"]
    code = _CODE.format(slow=("torch", "monai", "mlflow"))
    ran = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
