"""The loop on a small noisy regression, whose objective draws from torch's generator as that of an autoencoder does."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from medrep.errors import ModelError
from medrep.training.loop import TOTAL, TrainingProblem, TrainingRun, TrainingState, fit_loop, load_state, save_state
from medrep.training.schedule import Schedule

SCHEDULE = Schedule(epochs=14, batch=8, learning_rate=0.02, patience=100, warmup=3)
FINGERPRINT = {"data": "regression", "strength": 1.0}


class KilledError(Exception):
    pass


def regression(*, validation: int = 8, factor: float = 1.0) -> TrainingProblem:
    """Return an untrained network and its people; every call gives the same."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=generator), torch.randn(40, 2, generator=generator)
    network = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        noisy = x[people] + 0.3 * torch.randn(len(people), 3)
        fit = factor * ((network(noisy) - y[people]) ** 2).mean()
        size = sum((parameter**2).sum() for parameter in network.parameters()) * 1e-3
        return {"fit": fit, "size": size, TOTAL: fit + SCHEDULE.beta_share(epoch) * size}

    return TrainingProblem(network, objective, torch.arange(40 - validation), torch.arange(40 - validation, 40))


def scalar(start: float, train: Callable[[Tensor], Tensor], judge: Callable[[Tensor], Tensor]) -> TrainingProblem:
    """Return one weight with a loss in training and another among validation people."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, start)

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        return {TOTAL: (train if network.training else judge)(network.weight.squeeze())}

    return TrainingProblem(network, objective, torch.arange(8), torch.arange(8, 12))


def killer(after: int) -> Callable[[int, Mapping[str, float]], None]:
    def report(epoch: int, parts: Mapping[str, float]) -> None:
        if epoch == after:
            raise KilledError

    return report


def killed(folder: Path, after: int, *, resume: bool = False, schedule: Schedule = SCHEDULE) -> None:
    with pytest.raises(KilledError):
        fit_loop(regression(), schedule, 3, TrainingRun(folder, resume, FINGERPRINT, killer(after)))


def assert_same(
    problem: TrainingProblem, state: TrainingState, other: TrainingProblem, expected: TrainingState
) -> None:
    assert state.rows == expected.rows
    assert (state.epoch, state.best_epoch, state.best_loss) == (
        expected.epoch,
        expected.best_epoch,
        expected.best_loss,
    )
    for name, tensor in other.network.state_dict().items():
        assert torch.equal(problem.network.state_dict()[name], tensor)


@pytest.mark.parametrize("kills", [(1,), (5,), (6,), (7, 12), (8, 9, 10, 11), (13,), (14,)], ids=str)
def test_resuming_ends_with_the_same_bits_as_no_interruption(tmp_path, kills):
    whole = regression()
    expected = fit_loop(whole, SCHEDULE, 3, TrainingRun(tmp_path / "whole", fingerprint=FINGERPRINT))
    for attempt, after in enumerate(kills):
        killed(tmp_path / "state", after, resume=attempt > 0)
        torch.manual_seed(attempt)  # what was drawn in between is of no account
    again = regression()
    if max(kills) > 5:
        nn.init.zeros_(again.network[0].weight)  # all comes from the state that is there
    state = fit_loop(again, SCHEDULE, 3, TrainingRun(tmp_path / "state", True, FINGERPRINT))
    assert_same(again, state, whole, expected)


def test_keeping_a_state_changes_nothing_and_what_was_done_is_not_done_again(tmp_path):
    plain, kept, finished = regression(), regression(), regression()
    schedule = replace(SCHEDULE, epochs=10)
    expected = fit_loop(plain, schedule, 3)
    assert_same(kept, fit_loop(kept, schedule, 3, TrainingRun(tmp_path, fingerprint=FINGERPRINT)), plain, expected)
    training_run = TrainingRun(tmp_path, True, FINGERPRINT, killer(10))
    assert_same(finished, fit_loop(finished, schedule, 3, training_run), plain, expected)


def test_without_resume_an_old_state_is_not_looked_at(tmp_path):
    killed(tmp_path / "state", 7)
    again, plain = regression(), regression()
    state = fit_loop(again, SCHEDULE, 3, TrainingRun(tmp_path / "state", False, {"data": "other"}))
    assert_same(again, state, plain, fit_loop(plain, SCHEDULE, 3))


def test_the_state_of_another_training_is_refused_by_name(tmp_path):
    killed(tmp_path / "state", 7)
    with pytest.raises(ModelError, match=r"strength was 1\.0 and is 2\.0"):
        fit_loop(regression(), SCHEDULE, 3, TrainingRun(tmp_path / "state", True, {**FINGERPRINT, "strength": 2.0}))


@pytest.mark.parametrize("group", ["weights", "best"])
def test_the_state_of_another_network_is_refused_in_a_line(tmp_path, group):
    killed(tmp_path / "state", 7)
    state = load_state(tmp_path / "state", FINGERPRINT)
    getattr(state, group)["0.weight"] = torch.ones(7)
    save_state(tmp_path / "state", state, FINGERPRINT)
    with pytest.raises(
        ModelError, match=r"another network .*0\.weight.* train without --resume to start anew"
    ) as error:
        fit_loop(regression(), SCHEDULE, 3, TrainingRun(tmp_path / "state", True, FINGERPRINT))
    assert "\n" not in str(error.value)


def test_another_seed_gives_another_training_and_the_same_seed_the_same():
    runs = [regression() for _ in range(3)]
    states = [fit_loop(run, SCHEDULE, seed) for run, seed in zip(runs, (3, 3, 4), strict=True)]
    assert_same(runs[1], states[1], runs[0], states[0])
    assert states[2].rows != states[0].rows


def test_early_stopping_keeps_the_best_weights():
    schedule = Schedule(epochs=200, batch=8, learning_rate=0.05, patience=4)
    problem = scalar(0.0, lambda w: (w - 5) ** 2, lambda w: (w - 1) ** 2)
    state = fit_loop(problem, schedule, 0)
    losses = {epoch: value for epoch, name, value in state.rows if name == "validation/loss"}
    assert state.best_loss == min(losses.values()) == losses[state.best_epoch]
    assert state.epoch == max(losses) == state.best_epoch + 4
    assert (problem.network.weight.item() - 1) ** 2 == pytest.approx(state.best_loss)
    assert state.best_loss < 0.05**2


def test_a_training_that_only_hurts_leaves_the_start():
    problem = scalar(1.0, lambda w: (w - 5) ** 2, lambda w: (w - 1) ** 2)
    state = fit_loop(problem, Schedule(batch=8, patience=3), 0)
    assert (state.best_epoch, state.epoch, problem.network.weight.item()) == (0, 3, 1.0)


def test_validation_never_ends_worse_than_it_started():
    for seed in range(5):
        problem = regression()
        state = fit_loop(problem, replace(SCHEDULE, learning_rate=1.0), seed)
        losses = [value for _, name, value in state.rows if name == "validation/loss"]
        assert state.best_loss == min(losses) <= losses[0]


def test_without_validation_people_the_last_epoch_counts():
    problem = regression(validation=0)
    state = fit_loop(problem, replace(SCHEDULE, patience=1), 0)
    assert state.best_epoch == state.epoch == 14
    assert not [name for _, name, _ in state.rows if name.startswith("validation/")]
    assert all(torch.equal(state.best[name], own) for name, own in problem.network.state_dict().items())


def test_a_training_of_known_length_is_the_beginning_of_a_whole_one(tmp_path):
    assert fit_loop(regression(), replace(SCHEDULE, epochs=0), 0, until=4).epoch == 0
    whole = fit_loop(regression(validation=0), SCHEDULE, 0)
    with pytest.raises(KilledError):
        fit_loop(regression(validation=0), SCHEDULE, 0, TrainingRun(tmp_path, True, FINGERPRINT, killer(6)), until=9)
    state = fit_loop(regression(validation=0), SCHEDULE, 0, TrainingRun(tmp_path, True, FINGERPRINT), until=9)
    assert (state.epoch, state.best_epoch) == (9, 9)
    assert state.rows == [row for row in whole.rows if row[0] <= 9]


def test_no_epochs_leave_the_network_alone():
    problem = regression()
    state = fit_loop(problem, replace(SCHEDULE, epochs=0), 0)
    assert all(
        torch.equal(own, regression().network.state_dict()[n]) for n, own in problem.network.state_dict().items()
    )
    assert state.epoch == 0


def test_steps_see_clipped_gradients_and_a_rate_that_falls_to_a_tenth():
    norms, rates = [], []

    def look(optimiser, args, kwargs):
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        rates.append(optimiser.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(look)
    try:
        fit_loop(regression(factor=1e4), replace(SCHEDULE, clip=0.5, epochs=100, patience=1000), 0)
    finally:
        handle.remove()
    assert norms == pytest.approx([0.5] * 400, rel=1e-3)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.02)
    assert rates[200] == pytest.approx(0.011)
    assert rates[-1] == pytest.approx(0.002, rel=0.02)


def test_every_person_is_seen_once_an_epoch_in_batches_of_like_size():
    problem, seen = regression(), []

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        if problem.network.training:
            seen.append((epoch, people.tolist()))
        return problem.objective(people, epoch)

    fit_loop(replace(problem, objective=objective), replace(SCHEDULE, epochs=3, batch=9), 0)
    for epoch in range(3):
        batches = [people for when, people in seen if when == epoch]
        assert [len(people) for people in batches] == [8, 8, 8, 8]
        assert sorted(person for people in batches for person in people) == list(range(32))
    assert seen[0][1] != seen[4][1]


def test_validation_is_judged_at_the_full_beta_with_the_same_draws():
    problem, judged = regression(), []

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        if not problem.network.training:
            judged.append((SCHEDULE.beta_share(epoch), torch.get_rng_state().sum().item(), people.tolist()))
        return problem.objective(people, epoch)

    fit_loop(replace(problem, objective=objective), SCHEDULE, 0)
    assert len(judged) == 15
    assert {(share, rng, tuple(people)) for share, rng, people in judged} == {(1.0, judged[0][1], tuple(range(32, 40)))}


def test_a_loss_that_is_not_finite_names_its_parts():
    problem = regression()

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        parts = problem.objective(people, epoch)
        bad = parts["size"] * (float("nan") if epoch == 2 and problem.network.training else 1)
        return {**parts, "size": bad, TOTAL: parts["fit"] + bad}

    with pytest.raises(ModelError, match=r"not finite in epoch 3 \(fit [0-9.]+, size nan, loss nan\); lower settings"):
        fit_loop(replace(problem, objective=objective), SCHEDULE, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_validation_people_whom_the_loss_cannot_judge_never_make_an_epoch_the_best(tmp_path, value):
    problem = regression()

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        parts = problem.objective(people, epoch)
        return parts if problem.network.training else {**parts, TOTAL: parts[TOTAL] + value}

    state = fit_loop(replace(problem, objective=objective), SCHEDULE, 0, TrainingRun(tmp_path, fingerprint=FINGERPRINT))
    assert (state.best_epoch, state.epoch, state.best) == (0, 14, {})
    assert load_state(tmp_path, FINGERPRINT).best_loss == float("inf")


def test_the_history_has_the_mean_of_each_part_over_the_batches_that_have_it():
    problem = regression()

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        parts = problem.objective(people, epoch)
        return {**parts, "rare": parts["fit"] * 0 + 3} if 0 in people else parts

    reports = []
    training_run = TrainingRun(report=lambda epoch, parts: reports.append((epoch, dict(parts))))
    state = fit_loop(replace(problem, objective=objective), replace(SCHEDULE, epochs=2), 0, training_run)
    assert [epoch for epoch, _ in reports] == [1, 2]
    assert reports[1][1] == {name: value for epoch, name, value in state.rows if epoch == 2}
    assert reports[1][1]["train/rare"] == pytest.approx(3)
    assert {"train/fit", "train/size", "train/loss", "validation/loss"} <= set(reports[1][1])


def test_threads_and_the_generator_are_given_back():
    problem, inside = regression(), []
    threads, before = torch.get_num_threads(), torch.get_rng_state()

    def objective(people: Tensor, epoch: int) -> dict[str, Tensor]:
        inside.append(torch.get_num_threads())
        return problem.objective(people, epoch)

    schedule = replace(SCHEDULE, threads=threads + 1)
    fit_loop(replace(problem, objective=objective), schedule, 0)
    with pytest.raises(KilledError):
        fit_loop(problem, schedule, 0, TrainingRun(report=killer(2)))
    assert set(inside) == {threads + 1}
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)
