"""Every command of the README runs as it stands."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.documents import links, make_cohort, read_blocks, run_line, unmarked_commands

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = read_blocks(README)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for kind, people in {"volume": 32, "features": 200, "shape": 16, "connectivity": 40}.items():
        make_cohort(folder, kind, people)
    return folder


def test_every_medrep_command_is_in_a_block_that_is_run() -> None:
    assert not unmarked_commands(README)
    assert {block.mark for block in BLOCKS} == {"run"}


def test_shell_blocks_run_in_order(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for block in BLOCKS:
        for line in block.text.splitlines() if block.language == "bash" else ():
            assert run_line(line) == 0, line
    cleaned = sorted((workplace / "cleaned").glob("sub-*/anat/sub-*_desc-residualized_T1w.nii.gz"))
    assert len(cleaned) == 32


def test_python_block_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    (code,) = [block.text for block in BLOCKS if block.language == "python"]
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
    for target in links(README):
        assert (ROOT / target.partition("#")[0]).exists(), target
