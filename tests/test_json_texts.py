"""JSON that is nested without end, or holds numbers without end, is refused wherever medrep reads JSON that others wrote."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._texts import MOST_LEVELS, read_json
from medrep.batch.store import read_job
from medrep.cohort.bids import read_datalist
from medrep.cohort.dictionary import read_dictionary
from medrep.cohort.features import read_features
from medrep.cohort.sidecars import Sidecars, earlier_work
from medrep.errors import MedrepError
from medrep.models.saved import SavedModel
from medrep.report.build import read_about
from medrep.report.data_store import read_report_data
from medrep.tracking.audits import read_audit
from medrep.training.loop import load_state

DEEP = {
    "lists": "[" * 100_000 + "]" * 100_000,
    "objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "just too deep": "[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1),
    "digits": '{"a": ' + "9" * 6000 + "}",
    "many digits": "[" + "9" * 200 + "]",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_what_nobody_means_is_a_value_error_of_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested deeper than|a whole number of") as caught:
        read_json(text)
    assert len(str(caught.value)) < 200


@given(st.recursive(st.none() | st.integers(-(2**63), 2**64) | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_everything_else_is_read_as_it_is(content: object) -> None:
    assert read_json(json.dumps(content)) == content
    assert read_json(json.dumps(content).encode()) == content


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _features(folder: Path, text: str) -> object:
    _write(folder / "features.tsv", "participant_id\ta\nsub-1\t1\n")
    return read_features(_write(folder / "features.json", text).with_suffix(".tsv"))


def _state(folder: Path, text: str) -> object:
    _write(folder / "state.json", text)
    return load_state(folder, {})


def _model(folder: Path, text: str) -> object:
    _write(folder / "model.json", text)
    return SavedModel.load(folder)


READERS = {
    "datalist": lambda folder, text: read_datalist(_write(folder / "list.json", text)),
    "participants.json": lambda folder, text: read_dictionary(_write(folder / "participants.json", text)),
    "sidecar": lambda folder, text: Sidecars(folder).value(
        _write(folder / "scan.json", text).with_suffix(".nii.gz"), "RepetitionTime"
    ),
    "features.json": _features,
    "model.json": _model,
    "state.json": _state,
    "job.json": lambda folder, text: read_job(_write(folder / ".medrep" / "job.json", text).parents[1]),
    "exhibit": lambda folder, text: read_report_data(
        _write(folder / "report" / "about.json", text).parents[1], "about"
    ),
    "audit.json": lambda folder, text: read_about(_write(folder / "audit.json", text).parent),
    "audit": lambda folder, text: read_audit(_write(folder / "audit.json", text).parent),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", [DEEP["lists"], DEEP["digits"]], ids=["deep", "digits"])
def test_every_reader_refuses_it_by_name(reader: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(MedrepError) as caught:
        READERS[reader](tmp_path, text)  # type: ignore[no-untyped-call]
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 700
    shutil.rmtree(tmp_path)


def test_what_may_be_a_sidecar_of_medrep_is_passed_over(tmp_path: Path) -> None:
    _write(tmp_path / "dataset_description.json", '{"GeneratedBy": "medrep", "a": ' + "[" * 2000 + "]" * 2000 + "}")
    assert earlier_work(tmp_path) == ()
