"""One small linear model of a feature table, trained once."""

from pathlib import Path

import pytest

from medrep.cli import main


@pytest.fixture(scope="session")
def features_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "cohort"
    assert main(["simulate", str(folder), "--kind", "features", "--n", "120", "--seed", "3", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="session")
def features_model(features_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features-model") / "trained"
    assert main(["train", str(features_cohort), str(out), "--tracking", "none", "--quiet"]) == 0
    return out / "model"


@pytest.fixture(scope="session")
def volume_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "cohort"
    assert main(["simulate", str(folder), "--kind", "volume", "--n", "24", "--seed", "3", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="session")
def volume_model(volume_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("volumes-model") / "trained"
    wanted = ("--set", "input.kind=volume", "--tracking", "none", "--quiet")
    assert main(["train", str(volume_cohort), str(out), *wanted]) == 0
    return out / "model"
