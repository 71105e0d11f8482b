"""Model folders of earlier versions are read; format_1/ was written by the first version that wrote any, and never changes."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import OK, main
from medrep.models.saved import FORMAT, SavedModel

FIRST = Path(__file__).with_name("format_1")
DIGEST = "fa469fba718ba6d6"


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    made = tmp_path / "cohort"
    made.mkdir()
    for name in ("participants.tsv", "features.tsv"):
        shutil.copy(FIRST / name, made)
    return made


def test_the_first_format_is_what_it_was() -> None:
    described = json.loads((FIRST / "model" / "model.json").read_text("utf-8"))
    assert described["format"] == 1
    assert not {"support", "cohort", "shift", "readouts"} & set(described)
    digest = sha256((FIRST / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert digest.startswith(DIGEST), "write no new one: it stands for what people have"


def test_an_export_with_the_first_format_is_that_of_its_time(cohort: Path, tmp_path: Path) -> None:
    model, out = FIRST / "model", tmp_path / "out"
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    switches = ("--remove", "site", "--keep", "age,sex", "--quiet")
    assert main(["export", str(cohort), str(out), "--model", str(model), *switches]) == OK
    then, now = (pd.read_csv(path, sep="\t", index_col=0) for path in (FIRST / "cleaned.tsv", out / "features.tsv"))
    assert list(now.columns) == list(then.columns)
    assert list(now.index) == list(then.index)
    np.testing.assert_allclose(now, then, rtol=1e-8)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before, "its digest is its name"


@pytest.mark.parametrize("command", [("score",), ("counterfactual", "--set", "age=50")])
def test_what_the_first_format_lacks_is_not_missed(command: tuple[str, ...], cohort: Path, tmp_path: Path) -> None:
    name, *switches = command
    words = [name, str(cohort), str(tmp_path / "out"), "--model", str(FIRST / "model"), *switches, "--quiet"]
    assert main(words) == OK


def test_a_model_that_is_saved_again_has_the_format_of_today(tmp_path: Path) -> None:
    old = SavedModel.load(FIRST / "model")
    old.save(tmp_path / "model")
    described = json.loads((tmp_path / "model" / "model.json").read_text("utf-8"))
    assert described["format"] == FORMAT
    new = SavedModel.load(tmp_path / "model")
    assert (new.model.state()[0], new.input, new.support, new.readouts) == (old.model.state()[0], old.input, None, ())
    assert (described["support"], described["cohort"], described["shift"], described["readouts"]) == ({}, {}, {}, {})
    assert new.model.columns.names == ("left", "right")
