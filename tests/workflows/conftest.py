"""Small cohorts, generated once, that commands are run on."""

from pathlib import Path

import pytest

from medrep.cli import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def table_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table") / "cohort"
    assert run("simulate", folder, "--kind", "features", "--n", 160, "--seed", 1, "--quiet") == 0
    return folder


@pytest.fixture(scope="session")
def bids_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bids") / "cohort"
    assert run("simulate", folder, "--kind", "volume", "--n", 40, "--seed", 1, "--quiet") == 0
    return folder


@pytest.fixture(scope="session")
def table_model(table_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table-model") / "trained"
    assert run("train", table_cohort, out, "--quiet") == 0
    return out / "model"


@pytest.fixture(scope="session")
def bids_model(bids_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bids-model") / "trained"
    assert run("train", bids_cohort, out, "--set", "input.kind=volume", "--quiet") == 0
    return out / "model"
