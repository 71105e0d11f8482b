"""Every command of the README runs as it stands."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from medrep.cli import main
from tests.bold_cohorts import save_atlas, write_bold_cohort
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```(\w+)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    assert main(["simulate", str(folder / "my_bids"), "--kind", "volume", "--n", "32", "--quiet"]) == 0
    assert main(["simulate", str(folder / "my_table"), "--kind", "features", "--n", "200", "--quiet"]) == 0
    assert main(["simulate", str(folder / "my_shapes"), "--kind", "shape", "--n", "16", "--sites", "1", "--quiet"]) == 0
    write_bold_cohort(folder / "my_rest")
    save_atlas(folder / "atlas.nii.gz")
    return folder


def test_every_medrep_command_is_in_a_block_that_is_run() -> None:
    shown = set(re.findall(r"^medrep .*$", README, flags=re.MULTILINE))
    run = {line for _, _, block in BLOCKS for line in block.splitlines() if line.startswith("medrep ")}
    assert shown == run
    assert run


def test_shell_blocks_run_in_order(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for _, language, block in BLOCKS:
        for line in block.splitlines() if language == "bash" else ():
            assert main(shlex.split(line)[1:]) == 0, line
    cleaned = sorted((workplace / "cleaned").glob("sub-*/anat/sub-*_desc-residualized_T1w.nii.gz"))
    assert len(cleaned) == 32


def test_python_block_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    (code,) = [block for _, language, block in BLOCKS if language == "python"]
    assert len(code.strip().splitlines()) <= 10
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102
    assert names["clean"].shape == names["X"].shape
    assert (names["clean"] != names["X"]).any()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_exist(target: str) -> None:
    assert f"make {target}" in README
    plan = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"demo": "medrep demo", "test": "pytest"}[target] in plan


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
