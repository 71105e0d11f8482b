import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from medrep.errors import ModelError
from medrep.training.loop import TrainingState, load_state, save_state

FINGERPRINT = {"settings": {"beta": 1.0, "hidden": (4, 2)}, "seed": 3, "people": "abc"}
numbers = st.floats(allow_nan=False)


def filled() -> TrainingState:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b.c": torch.tensor(3.0)}
    copies = ({name: tensor.clone() for name, tensor in tensors.items()} for _ in range(2))
    return TrainingState(5, 2, 0.25, [(1, "train/loss", 0.1)], *copies, {"0/step": torch.ones(())})


@given(best=numbers, rows=st.lists(st.tuples(st.integers(0, 99), st.text(max_size=5), numbers), max_size=5))
def test_a_state_is_read_as_it_was_written(tmp_path_factory, best, rows):
    folder = tmp_path_factory.mktemp("state") / "state"
    state = filled()
    state.best_loss, state.rows = best, rows
    save_state(folder, state, FINGERPRINT)
    again = load_state(folder, FINGERPRINT)
    assert (again.epoch, again.best_epoch, again.best_loss, again.rows) == (5, 2, best, rows)
    for group in ("weights", "best", "optimiser"):
        own, read = getattr(state, group), getattr(again, group)
        assert own.keys() == read.keys()
        assert all(torch.equal(own[name], read[name]) for name in own)


def test_a_state_without_a_best_epoch_yet_is_kept(tmp_path):
    save_state(tmp_path / "state", TrainingState(epoch=5), {})
    assert load_state(tmp_path / "state", {}).best_loss == float("inf")


def test_there_may_be_no_state(tmp_path):
    assert load_state(tmp_path / "none", FINGERPRINT) is None


def test_another_training_is_refused_by_what_differs(tmp_path):
    save_state(tmp_path / "state", filled(), FINGERPRINT)
    with pytest.raises(ModelError, match="is of another training") as error:
        load_state(tmp_path / "state", {**FINGERPRINT, "seed": 4, "strength": 1.0})
    assert "seed was 3 and is 4" in str(error.value)
    assert "strength was None and is 1.0" in str(error.value)
    assert "people" not in str(error.value)
    assert "--resume" in str(error.value)


def cut(name):
    def damage(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def rewritten(**changes):
    def damage(folder):
        path = folder / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def stranger(folder):
    save_file({"nobody/knows": torch.ones(1)}, folder / "state.safetensors")


DAMAGES = {
    "cut weights": cut("state.safetensors"),
    "cut description": cut("state.json"),
    "no weights": lambda folder: (folder / "state.safetensors").unlink(),
    "unknown tensors": stranger,
    "list": lambda folder: (folder / "state.json").write_text("[]"),
    "nesting without end": lambda folder: (folder / "state.json").write_text("[" * 100_000),
    "no number of epochs": rewritten(epoch=None),
    "odd rows": rewritten(rows=[[1, "train/loss"]]),
    "no fingerprint": rewritten(fingerprint=None),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_refused_in_a_line(tmp_path, damage):
    save_state(tmp_path / "state", filled(), FINGERPRINT)
    damage(tmp_path / "state")
    with pytest.raises(ModelError, match=r"damaged .* train without --resume to start anew") as error:
        load_state(tmp_path / "state", FINGERPRINT)
    assert "\n" not in str(error.value)
