import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from medrep.training.loop import TOTAL, TrainingProblem, average_gradients, fit_loop, own_share
from medrep.training.schedule import Schedule, process_group, rank, world_size

ROOT = Path(__file__).parents[2]
SCHEDULE = Schedule(epochs=6, batch=8, learning_rate=0.05, patience=100)

SCRIPT = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from tests.training.test_processes import SCHEDULE, regression
from medrep.training.loop import TrainingRun, fit_loop
from medrep.training.schedule import rank, process_group

folder = Path(sys.argv[1])
with process_group():
    problem, seen = regression()
    fit_loop(problem, SCHEDULE, 3, TrainingRun(folder / "state"))
save_file({**problem.network.state_dict(), "seen": seen[0].contiguous()}, folder / f"{rank()}.safetensors")
threads = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
(folder / f"{rank()}.threads").write_text("".join(threads))
"""


def regression() -> tuple[TrainingProblem, list[torch.Tensor]]:
    """Return a network whose loss is a mean over people and draws nothing, and who was in each batch."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=generator), torch.randn(40, 2, generator=generator)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def objective(people: torch.Tensor, epoch: int) -> dict[str, torch.Tensor]:
        if network.training:
            seen.append(people)
        return {TOTAL: ((network(x[people]) - y[people]) ** 2).mean()}

    return TrainingProblem(network, objective, torch.arange(32), torch.arange(32, 40)), seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_single_process_has_everybody_and_its_own_gradients():
    assert (rank(), world_size()) == (0, 1)
    people = torch.arange(5)
    assert torch.equal(own_share(people), people)
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    with process_group():
        average_gradients(layer)
    assert torch.equal(layer.weight.grad, before)


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_a_batch_are_a_partition(monkeypatch, processes):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = []
    for number in range(processes):
        monkeypatch.setenv("RANK", str(number))
        shares.append(own_share(torch.arange(10)).tolist())
    assert sorted(person for share in shares for person in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.skipif(
    sys.platform != "linux" or not (dist.is_available() and dist.is_gloo_available()),
    reason="needs torch.distributed with Gloo on the loopback interface",
)
def test_two_processes_end_with_the_weights_of_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    launch = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch, str(tmp_path / "script.py"), str(tmp_path)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"{number}.safetensors") for number in (0, 1))
    problem, seen = regression()
    start = {name: tensor.clone() for name, tensor in problem.network.state_dict().items()}
    fit_loop(problem, SCHEDULE, 3)
    # The mean of two halves' gradients is the gradient of the whole batch.
    for name, tensor in problem.network.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)
        assert not torch.equal(tensor, start[name])
    assert sorted([*first["seen"].tolist(), *second["seen"].tolist()]) == sorted(seen[0].tolist())
    assert (tmp_path / "state" / "state.json").is_file()
    # A thread that outlives the parting aborts its process where it meets the end of the interpreter.
    left = [(tmp_path / f"{number}.threads").read_text() for number in (0, 1)]
    assert not any("gloo" in threads for threads in left), left
