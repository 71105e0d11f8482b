"""What the README says is there: blocks that are run (`test_docs.py` runs their commands), targets, links."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.documents import links, make_cohort, read_blocks, unmarked_commands

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = read_blocks(README)


COHORTS = {"volume", "features", "shape", "connectivity"}


def test_every_medrep_command_is_in_a_block_that_is_run() -> None:
    assert not unmarked_commands(README)
    assert {block.mark for block in BLOCKS} == {"run"}


def test_every_block_is_of_a_cohort_that_is_made() -> None:
    assert {block.name for block in BLOCKS} == {*COHORTS, "audit", "python"}


def test_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_cohort(tmp_path, "features", 60)
    (code,) = [block.text for block in BLOCKS if block.language == "python"]
    assert len(code.strip().splitlines()) <= 10
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102
    before, after = names["cohort"].values, names["clean"].values
    assert after.shape == before.shape
    assert (after != before).any()
    assert len(names["scores"]) == len(before)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_exist(target: str) -> None:
    assert f"make {target}" in README
    plan = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"demo": "medrep demo", "test": "pytest"}[target] in plan


def test_links_and_pictures_exist() -> None:
    for target in links(README):
        assert (ROOT / target.partition("#")[0]).exists(), target
