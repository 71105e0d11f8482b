import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrep.errors import ModelError
from medrep.training.loop import autocast, placed
from medrep.training.schedule import Schedule


def test_all_offenders_are_listed():
    wrong = Schedule(epochs=-1, batch=7, learning_rate=0.0, clip=float("nan"), patience=0, warmup=-2, threads=-3)
    with pytest.raises(ModelError, match=r"^settings\.training: ") as error:
        wrong.check()
    for name in ("epochs", "batch", "learning_rate", "clip", "patience", "warmup", "threads"):
        assert f"{name} is {getattr(wrong, name)}; give " in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="device is cuda, but this machine has none; give auto or cpu"):
        Schedule(device="cuda").check()


def test_the_least_and_the_defaults_pass():
    Schedule().check()
    Schedule(epochs=0, batch=8, learning_rate=1e-9, clip=1e-9, patience=1, warmup=0, threads=0).check()


@given(warmup=st.integers(0, 40), epoch=st.integers(0, 80))
def test_beta_rises_in_a_straight_line_and_stays(warmup, epoch):
    share = Schedule(warmup=warmup).beta_share(epoch)
    assert share == pytest.approx(min(1, (epoch + 1) / (warmup + 1)))
    assert Schedule(warmup=warmup).beta_share(warmup) == 1


@pytest.mark.parametrize(("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_that_of_matrix_products(precision, expected):
    with autocast(Schedule(precision=precision), torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    assert placed(Schedule(device="cpu")) == torch.device("cpu")
