import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.kinds import INPUTS
from medrep.cohort.splits import TrainingRows, row_trace
from medrep.cohort.support import Support
from medrep.errors import MedrepError, ModelError
from medrep.models import LinearModel, LinearSettings, Model, restore_model
from medrep.models.prediction import Prediction
from medrep.models.saved import Provenance, SavedModel, _load_arrays, load_input
from medrep.models.shift import ShiftGate
from tests.models.planted import Case, draw_data, draw_people

FRAME = draw_people(60, 3, 0)
DATA = draw_data(FRAME, 12, 0)
TARGET = {"age": 50.0, "site": "S1"}


def fitted(grid: Grid | None = None) -> LinearModel:
    case = Case(FRAME, DATA)
    columns = Columns(tuple(f"region_{k}" for k in range(12)) if grid is None else (), 12, grid)
    settings = LinearSettings(covariance=True, components=3, interactions=(("age", "sex"),))
    return LinearModel.fit(Dataset(DATA, FRAME, case.schema, columns), settings, seed=7)[0]


def save(model: Model, folder: Path) -> Path:
    SavedModel(model, INPUTS["features"]()).save(folder)
    return folder


def load(folder: Path) -> Model:
    return SavedModel.load(folder).model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save(fitted(), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def refused(folder: Path) -> str:
    """Return the message of the refusal: one line that a person can read."""
    with pytest.raises(ModelError) as error:
        load(folder)
    message = str(error.value)
    assert "\n" not in message
    assert "TypeCheckError" not in message
    return message


def describe(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def weigh(folder: Path, change: dict[str, np.ndarray | None]) -> None:
    arrays = {**load_file(folder / "model.safetensors"), **change}
    save_file({name: array for name, array in arrays.items() if array is not None}, folder / "model.safetensors")


@pytest.mark.parametrize("grid", [None, Grid((3, 2, 2), (1.0, 1.5, 2.0))])
def test_a_loaded_model_gives_identical_results(tmp_path, grid):
    model = fitted(grid)
    again = load(save(model, tmp_path / "model"))
    np.testing.assert_array_equal(
        again.remove(again.dataset(DATA, FRAME), TARGET), model.remove(model.dataset(DATA, FRAME), TARGET)
    )
    np.testing.assert_array_equal(again.encode(again.dataset(DATA, FRAME)), model.encode(model.dataset(DATA, FRAME)))
    assert again.schema == model.schema
    assert again.columns == model.columns
    assert again.state()[0] == model.state()[0]


def test_an_adapted_model_is_stored_too(tmp_path):
    unknown = FRAME.assign(site="X")
    model = fitted()
    model, notes = model.adapt([model.dataset(DATA + 1, unknown)])
    assert notes[0].people == 60
    again = load(save(model, tmp_path / "model"))
    np.testing.assert_array_equal(
        again.remove(again.dataset(DATA, unknown), TARGET), model.remove(model.dataset(DATA, unknown), TARGET)
    )


def test_the_folder_says_what_made_it(saved):
    found = SavedModel.load(saved)
    assert found.model.kind == "linear"
    assert found.input == INPUTS["features"]()
    assert {"medrep", "numpy", "torch"} <= set(found.provenance.versions)
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_saving_again_replaces_the_folder_as_a_whole(folder):
    (folder / "stale.txt").write_text("old")
    save(fitted(), folder)
    assert isinstance(load(folder), LinearModel)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_folder(folder):
    before = (folder / "model.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        SavedModel(fitted(), INPUTS["shape"]().changed(size=float("nan"))).save(folder)
    assert (folder / "model.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_no_folder(tmp_path):
    assert "no model.json; give the folder that train wrote to OUT/model" in refused(tmp_path / "nothing")


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "model.py", ".hidden", "__init__.py"])
def test_a_planted_file(folder, name, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    assert f"holds files that no model folder has ({name})" in refused(folder)
    assert not (folder.parent / "exploded").exists()


def test_a_pickle_in_place_of_the_weights(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert "damaged" in refused(folder)
    assert not (folder.parent / "exploded").exists()


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_link_that_leaves_the_folder(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert f"{name} leads out of the folder; copy the file in" in refused(folder)


def test_a_folder_reached_through_a_link(folder):
    link = folder.parent / "latest"
    link.symlink_to(folder)
    assert isinstance(load(link), LinearModel)


def test_weights_of_another_shape(folder):
    weigh(folder, {"sd": np.ones(5)})
    assert "sd has the shape (5,), not (12,)" in refused(folder)


def test_weights_that_are_absent(folder):
    weigh(folder, {"batches.location": None})
    assert "batches.location is absent" in refused(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(folder, value):
    arrays = load_file(folder / "model.safetensors")
    arrays["coefficients"][0, 0] = value
    weigh(folder, arrays)
    assert "coefficients holds values that are not finite; train again or fetch it again" in refused(folder)


def test_all_wrong_weights_are_listed(folder):
    weigh(folder, {"sd": np.ones(5), "batches.location": None})
    with pytest.raises(
        ModelError, match=r"\(2\):\n  batches.location is absent\n  sd has the shape \(5,\), not \(12,\)\n"
    ):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in refused(folder)


def test_a_header_that_claims_more_than_there_is(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10**15) + b"{}")
    assert "damaged" in refused(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "damaged (FileNotFoundError" in refused(folder)


@pytest.mark.parametrize("number", [3, 0, -1, "1", None, [1], 1.5])
def test_another_format(folder, number):
    describe(folder, {"format": number})
    assert f"format {number!r}, this medrep reads 1 to 2; a later medrep may read it" in refused(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"model"', "\x00", '{"format": 1}', "[" * 5000, '{"format": NaN}']
)
def test_damaged_json(folder, text):
    (folder / "model.json").write_text(text)
    assert str(folder) in refused(folder)


def test_json_in_another_encoding(folder):
    (folder / "model.json").write_bytes(b"\xff\xfe{}")
    assert "damaged" in refused(folder)


@pytest.mark.parametrize("key", ["kind", "content", "input", "versions"])
@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_parts_of_the_wrong_kind(folder, key, value):
    describe(folder, {key: value})
    assert f"{key} is no" in refused(folder)


def test_a_model_of_an_unknown_kind(folder):
    describe(folder, {"kind": "diffusion"})
    assert "model 'diffusion' is unknown; this medrep knows linear" in refused(folder)


def damages(node: Any) -> list[Any]:
    """Return copies of JSON content with one node each replaced by something else or removed."""
    copies: list[Any] = [None, 3, "text", [], {}]
    if isinstance(node, dict):
        for key in node:
            copies += [{**node, key: damaged} for damaged in damages(node[key])]
            copies.append({other: value for other, value in node.items() if other != key})
    if isinstance(node, list) and node:
        copies += [[damaged, *node[1:]] for damaged in damages(node[0])]
        copies.append(node[1:])
    return copies


def test_content_damaged_anywhere_is_refused_or_harmless(saved):
    content, arrays = SavedModel.load(saved).model.state()
    outcomes = {"refused": 0, "restored": 0}
    for damaged in damages(content):
        if not isinstance(damaged, dict):
            continue
        try:
            restore_model("linear", damaged, arrays)
            outcomes["restored"] += 1
        except ModelError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100


def known_whole() -> SavedModel:
    """Return a model with all that can be known of one."""
    statistics = pd.DataFrame({"noise": DATA[:, 0], "deviation": np.abs(DATA[:, 1])}, index=FRAME.index)
    gate = ShiftGate.fit(statistics, FRAME["site"])
    rows = TrainingRows.of(map(row_trace, DATA), "f" * 64, 0)
    model = fitted()
    return SavedModel(
        model,
        INPUTS["features"]().changed(missing="keep"),
        Support.fit(model.schema, FRAME),
        Provenance(60, "f" * 64, rows, ("age",)),
        (Prediction.fit("age", DATA, FRAME["age"].to_numpy(float)),),
        gate,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    known_whole().save(folder)
    return folder


def test_all_that_is_known_of_a_model_comes_back_and_is_written_alike(whole, tmp_path):
    known, again = known_whole(), SavedModel.load(whole)
    assert (again.input, again.support) == (known.input, known.support)
    found = again.provenance
    assert (found.people, found.fingerprint, found.transformed) == (60, "f" * 64, ("age",))
    assert found.rows is not None
    assert all(found.rows.holds(row) for row in DATA[:3])
    assert not found.rows.holds(DATA[0] + 1)
    assert [readout.predict(DATA).tolist() for readout in again.readouts] == [
        readout.predict(DATA).tolist() for readout in known.readouts
    ]
    assert again.shift is not None
    again.save(tmp_path / "model")
    for path in whole.iterdir():
        assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("support", {"names": ["age"]}, r"damaged \(ValueError: cells: missing"),
        ("support", {"names": ["age"], "cells": [[1, 2, 3]]}, r"damaged \(ValueError: \(1, 2, 3\) is no cell of age"),
        ("cohort", {"people": "60"}, r"damaged \(ValueError: people: '60' is not allowed; allowed: a whole number"),
        ("cohort", {"peopel": 60}, r"damaged \(ValueError: peopel: unknown; did you mean people\?"),
        ("cohort", {"rows": {"key": "ab"}}, "digests of its training rows are damaged; train again or fetch it again"),
        ("shift", {"own": []}, r"not a saved shift gate \(.*reference: missing.*\); calibrate again"),
        ("readouts", {"sex": {}}, r"damaged \(KeyError: 'readout/sex/weights'\)"),
        ("readouts", {"age": {"name": "age"}}, r"damaged \(ValueError: intercept: missing"),
        ("input", {"knd": "volume"}, "not a valid input section: input.knd: unknown; did you mean kind"),
    ],
)
def test_what_is_known_beside_the_weights_is_checked_too(whole, tmp_path, key, content, said):
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    describe(folder, {key: content})
    with pytest.raises(MedrepError, match=said) as error:
        SavedModel.load(folder)
    assert "\n" not in str(error.value)


def test_a_readout_of_other_columns_is_refused(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    weigh(folder, {f"readout/age/{name}": np.ones(5) for name in ("weights", "centre")})
    assert "readout of age: weights of (5,), the model has 12 columns" in refused(folder)


def test_the_input_section_needs_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert load_input(folder) == INPUTS["features"]()


def test_a_description_is_not_taken_from_another_kind_of_model(folder):
    content = json.loads((folder / "model.json").read_text())["content"]
    describe(folder, {"content": {**content, "colour": 1, "seed": "7"}})
    message = refused(folder)
    assert "the description of the linear model is damaged (ValueError: colour: unknown; known: settings" in message
    assert "seed: '7' is not allowed; allowed: a whole number" in message


def test_arrays_of_a_large_model_are_mapped_and_the_same(tmp_path, monkeypatch):
    arrays = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.arange(5),
        "c": np.ones(3, np.uint8),
        "d": np.zeros((2, 0), np.int32),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    monkeypatch.setattr("medrep.models.saved._MAPPED_BYTES", 0)
    found = _load_arrays(tmp_path / "model.safetensors")
    assert {name: array.dtype for name, array in found.items()} == {name: array.dtype for name, array in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-3])
    with pytest.raises(SafetensorError):
        _load_arrays(tmp_path / "model.safetensors")
