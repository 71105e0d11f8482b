import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import Dirichlet, Normal, kl_divergence

from medrep.errors import ModelError
from medrep.models.vae.losses import (
    concatenated_distance_covariance,
    dirichlet_kl,
    distance_correlation,
    distance_covariance,
    gaussian_kl,
    gaussian_nll,
    hsic,
    joint_distance_covariance,
    moment_gap,
)

PAIRWISE = [distance_covariance, distance_correlation, hsic]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(seed: int, people: int, count: int) -> Tensor:
    chosen = torch.randint(count, (people,), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(chosen, count).double()


def within_three_errors(values: list[float]) -> bool:
    return abs(np.mean(values)) < 3 * np.std(values, ddof=1) / len(values) ** 0.5


def naive_centred(pairs: np.ndarray) -> np.ndarray:
    n = len(pairs)
    centred = np.zeros((n, n))
    grand = sum(pairs[i, j] for i in range(n) for j in range(n) if i != j) / ((n - 1) * (n - 2))
    for i, j in product(range(n), range(n)):
        if i != j:
            row = sum(pairs[i, k] for k in range(n) if k != i) / (n - 2)
            column = sum(pairs[k, j] for k in range(n) if k != j) / (n - 2)
            centred[i, j] = pairs[i, j] - row - column + grand
    return centred


def naive_distances(a: Tensor) -> np.ndarray:
    x = a.numpy()
    return np.array([[np.sqrt(((p - q) ** 2).sum()) for q in x] for p in x])


@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3))
def test_gaussian_terms_agree_with_torch(seed, shift, log_scale):
    mean, log_variance = draw(seed, 6, 3) + shift, draw(seed + 1, 6, 3) + log_scale
    normal = Normal(mean, (0.5 * log_variance).exp())
    prior = Normal(torch.zeros(6, 3, dtype=torch.float64), 1.0)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), kl_divergence(normal, prior))
    x = draw(seed + 2, 6, 3)
    torch.testing.assert_close(gaussian_nll(x, mean, 0.5 * log_variance), -normal.log_prob(x))


def test_gaussian_terms_at_known_points():
    zero = torch.zeros(2, 3)
    assert torch.equal(gaussian_kl(zero, zero), zero)
    torch.testing.assert_close(gaussian_nll(zero, zero, zero[:1]), torch.full((2, 3), 0.5 * math.log(2 * math.pi)))


@given(st.integers(0, 1000))
def test_dirichlet_kl_agrees_with_torch_and_is_zero_at_the_prior(seed):
    concentration, prior = draw(seed, 5, 4).exp(), draw(seed + 1, 4).exp()
    expected = kl_divergence(Dirichlet(concentration), Dirichlet(prior.expand(5, 4)))
    torch.testing.assert_close(dirichlet_kl(concentration, prior), expected)
    torch.testing.assert_close(dirichlet_kl(prior.expand(5, 4), prior), torch.zeros(5, dtype=torch.float64))


def test_distance_covariance_agrees_with_loops():
    a, b = draw(0, 9, 2), levels(1, 9, 3)
    left, right = naive_centred(naive_distances(a)), naive_centred(naive_distances(b))
    expected = (left * right).sum() / (9 * 6)
    assert distance_covariance(a, b).item() == pytest.approx(expected)
    spread = (left**2).sum() * (right**2).sum() / (9 * 6) ** 2
    assert distance_correlation(a, b).item() == pytest.approx(expected / spread**0.5)


def test_distance_covariance_of_a_balanced_binary_variable_has_its_closed_form():
    sign = 2 * levels(0, 4000, 2)[:, :1] - 1
    # |x - x'| = 1 - x x' for signs, so the population value of dCov2(x, x) is E[(x x')^2] = 1.
    assert distance_covariance(sign, sign).item() == pytest.approx(1, abs=0.01)


def test_hsic_agrees_with_the_formula_of_song():
    n, a, b = 10, draw(0, 10, 2), levels(1, 10, 3)
    kernels = []
    for part in (a, b):
        d = naive_distances(part)
        apart = torch.tensor(d[d > 0]).median().item()
        k = np.exp(-(d**2) / (2 * apart**2))
        np.fill_diagonal(k, 0)
        kernels.append(k)
    k, l = kernels  # noqa: E741
    expected = np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
    assert hsic(a, b).item() == pytest.approx(expected / (n * (n - 3)))


def test_joint_distance_covariance_is_the_difference_of_its_two_terms():
    z, parts = draw(0, 8, 3), [draw(1, 8, 1), levels(2, 8, 2), levels(3, 8, 3)]

    def joint(variables: list[Tensor]) -> float:
        n = len(variables[0])
        kernels = [-naive_centred(naive_distances(v)) for v in variables]
        total = sum(math.prod(k[i, j] + 1 for k in kernels) for i in range(n) for j in range(n))
        return total / (n * (n - 3)) - n / (n - 3)

    assert joint_distance_covariance(z, parts).item() == pytest.approx(joint([z, *parts]) - joint(parts))
    assert joint_distance_covariance(z, parts[:1]).item() == pytest.approx(distance_covariance(z, parts[0]).item())
    assert joint_distance_covariance(z, []).item() == pytest.approx(0, abs=1e-12)


def test_an_intersection_that_no_covariate_tells_alone_is_seen():
    sex, site = 2 * levels(0, 1000, 2)[:, :1] - 1, 2 * levels(1, 1000, 2)[:, :1] - 1
    z = sex * site
    assert abs(distance_covariance(z, sex).item()) < 0.01
    assert abs(distance_covariance(z, site).item()) < 0.01
    # The third-order term is E[(z z')(sex sex')(site site')] = 1; with the other sign of U it would be -1.
    assert joint_distance_covariance(z, [sex, site]).item() == pytest.approx(1, abs=0.02)
    assert concatenated_distance_covariance(z, [sex, site]).item() > 0.01


def test_the_dependence_of_the_covariates_themselves_is_not_counted():
    values = []
    for z, noise, sex in zip(draw(0, 500, 20, 3), draw(1, 500, 20, 1), levels(2, 10000, 2).split(20), strict=True):
        age = noise + 2 * sex[:, :1]
        values.append(joint_distance_covariance(z, [age, sex, age * sex[:, :1]]).item())
    assert within_three_errors(values)


def test_concatenation_is_distance_covariance_with_all_parts():
    y, parts = draw(0, 12, 2), [draw(1, 12, 1), levels(2, 12, 3)]
    assert torch.equal(concatenated_distance_covariance(y, parts), distance_covariance(y, torch.cat(parts, dim=1)))
    with pytest.raises(ModelError, match="no covariates"):
        concatenated_distance_covariance(y, [])


@pytest.mark.parametrize("measure", PAIRWISE)
def test_no_bias_where_there_is_no_dependence(measure):
    pairs = zip(draw(0, 1000, 12, 3), levels(1, 12000, 3).split(12), strict=True)
    assert within_three_errors([measure(z, site).item() for z, site in pairs])


@pytest.mark.parametrize("measure", PAIRWISE)
def test_a_curved_dependence_is_seen(measure):
    age = draw(0, 400, 1)
    seen = measure(torch.cat([age**2, draw(1, 400, 1)], dim=1), age).item()
    chance = [measure(torch.cat([age**2, draw(1, 400, 1)], dim=1), draw(s, 400, 1)).item() for s in range(2, 22)]
    assert seen > 3 * max(chance)


@pytest.mark.parametrize("measure", PAIRWISE)
@given(seed=st.integers(0, 1000), people=st.integers(6, 20), scale=st.floats(0.01, 100))
def test_symmetry_and_invariances(measure, seed, people, scale):
    a, b = draw(seed, people, 3), draw(seed + 1, people, 2)
    value = measure(a, b)
    rotation, _ = torch.linalg.qr(draw(seed + 2, 3, 3))
    order = torch.randperm(people, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(measure(b, a), value)
    torch.testing.assert_close(measure(a[order], b[order]), value)
    torch.testing.assert_close(measure(a @ rotation + 3, b), value)
    by_scale = scale if measure is distance_covariance else 1
    torch.testing.assert_close(measure(scale * a, b), by_scale * value)


def test_distance_correlation_is_one_of_itself_and_zero_of_a_constant():
    a = draw(0, 15, 2).requires_grad_()
    assert distance_correlation(a, 2 * a + 1).item() == pytest.approx(1)
    value = distance_correlation(a, torch.ones(15, 1, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_moment_gap_has_the_expected_value_whatever_the_distribution():
    normal = draw(0, 5000, 16, 3)
    assert within_three_errors([moment_gap(z).item() for z in normal])
    mean, mix = torch.tensor([1.0, 0.0, -0.5]).double(), torch.tensor([[1, 0, 0], [0.5, 1, 0], [0, 0, 0.3]]).double()
    truth = ((mean**2).sum() + ((mix.T @ mix - torch.eye(3)) ** 2).sum()).item() / 3
    exponential = -torch.special.ndtr(normal).log() - 1
    for z in (normal, exponential):
        assert within_three_errors([moment_gap(batch @ mix + mean).item() - truth for batch in z])


def test_moment_gap_is_least_at_unit_variance():
    scales = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    torch.stack([moment_gap(s * z) for s, z in zip(scales, draw(0, 1000, 16, 3), strict=True)]).sum().backward()
    assert within_three_errors(scales.grad.tolist())


def test_moment_gap_agrees_with_a_large_sample():
    z = draw(0, 2000, 4) * 1.5 + 0.3
    plug_in = (z.mean(dim=0) ** 2).sum() + ((torch.cov(z.T) - torch.eye(4)) ** 2).sum()
    assert moment_gap(z).item() == pytest.approx(plug_in.item() / 4, rel=0.02)


@pytest.mark.parametrize("measure", [distance_covariance, distance_correlation])
def test_gradients_of_distances_agree_with_differences(measure):
    assert gradcheck(measure, (draw(0, 7, 3).requires_grad_(), draw(1, 7, 2).requires_grad_()))


def test_the_bandwidth_carries_no_gradient():
    a, b = draw(0, 9, 3), draw(1, 9, 2)
    distances = torch.cdist(a, a)
    bandwidth = distances[distances > 0].median()

    def held(z: Tensor) -> Tensor:
        kernels = [torch.exp(-0.5 * (torch.cdist(z, z) / bandwidth) ** 2)]
        d = torch.cdist(b, b)
        kernels.append(torch.exp(-0.5 * (d / d[d > 0].median()) ** 2))
        k, l = (m - torch.diag(m.diagonal()) for m in kernels)  # noqa: E741
        return (torch.trace(k @ l) + k.sum() * l.sum() / 56 - 2 / 7 * (k @ l).sum()) / 54

    ours, expected = a.clone().requires_grad_(), a.clone().requires_grad_()
    hsic(ours, b).backward()
    held(expected).backward()
    torch.testing.assert_close(ours.grad, expected.grad)


def test_gradients_of_the_rest_agree_with_differences():
    z, parts = draw(0, 7, 3).requires_grad_(), [draw(1, 7, 1), levels(2, 7, 2)]
    assert gradcheck(lambda z: joint_distance_covariance(z, parts), (z,))
    assert gradcheck(lambda z: concatenated_distance_covariance(z, parts), (z,))
    assert gradcheck(moment_gap, (z,))
    assert gradcheck(gaussian_kl, (z, draw(3, 7, 3).requires_grad_()))
    assert gradcheck(gaussian_nll, (z, draw(3, 7, 3).requires_grad_(), draw(4, 1, 3).requires_grad_()))
    assert gradcheck(dirichlet_kl, (draw(3, 7, 3).exp().requires_grad_(), draw(4, 3).exp().requires_grad_()))


@pytest.mark.parametrize("rows", [draw(0, 4, 2).repeat(2, 1), torch.ones(8, 2).double(), levels(0, 8, 2)])
def test_identical_people_have_finite_gradients(rows):
    sex, age = levels(1, 8, 2), draw(2, 8, 1)
    losses = [
        *(lambda z, m=measure: m(z, sex) for measure in PAIRWISE),
        lambda z: joint_distance_covariance(z, [sex, age]),
        lambda z: concatenated_distance_covariance(z, [sex, age]),
        moment_gap,
    ]
    for loss in losses:
        z = rows.clone().requires_grad_()
        value = loss(z)
        value.backward()
        assert value.isfinite()
        assert z.grad.isfinite().all()


def test_single_precision_is_kept_and_agrees():
    z, parts = draw(0, 64, 8), [draw(1, 64, 1), levels(2, 64, 3)]
    single = joint_distance_covariance(z.float(), [part.float() for part in parts])
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(joint_distance_covariance(z, parts).item(), abs=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: distance_covariance(z, z),
        lambda z: hsic(z, z),
        lambda z: joint_distance_covariance(z, [z]),
        moment_gap,
    ],
)
def test_too_small_a_batch_is_refused(loss):
    with pytest.raises(ModelError, match=r"3 people.*4 or more"):
        loss(draw(0, 3, 2))
