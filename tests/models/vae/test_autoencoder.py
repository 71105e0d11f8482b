"""Both bodies: shapes on odd grids, a correction that starts at zero, and what depends on what."""

from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrep.models.vae import bodies
from medrep.models.vae.bodies import LOG_BOUND, Autoencoder, ConvEncoder, coarse_shape

LATENTS, CONTEXT = 3, 4


@dataclass(frozen=True)
class Body:
    name: str
    columns: int
    hidden: tuple[int, ...]
    conditioning: str = "film"
    shape: tuple[int, int, int] | None = None

    def build(self, *, heteroscedastic: bool = True, prior: str = "gaussian") -> Autoencoder:
        torch.manual_seed(0)
        return Autoencoder(
            self.columns,
            LATENTS,
            CONTEXT,
            bodies.Body(self.name, self.hidden, self.conditioning, self.shape),
            heteroscedastic=heteroscedastic,
            prior=prior,
        ).eval()


def conv(shape: tuple[int, int, int]) -> Body:
    return Body("conv", prod(shape), (2, 3, 4), shape=shape)


BODIES = {
    "linear": Body("linear", 6, (5,)),
    "film": Body("mlp", 6, (5, 4)),
    "concatenate": Body("mlp", 6, (5,), "concatenate"),
    "odd grid": conv((5, 7, 9)),
    "flat grid": conv((1, 8, 17)),
}
each_body = pytest.mark.parametrize("name", BODIES)
corrected = pytest.mark.parametrize("name", [name for name in BODIES if name != "linear"])
LINEAR = {"linear.weight", "linear.bias", "log_variance", "log_scale"}


def people(columns: int, count: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return tuple(torch.as_tensor(rng.normal(size=(count, w)), dtype=torch.float32) for w in (columns, LATENTS, CONTEXT))


def stir(network: Autoencoder, scale: float = 0.3) -> Autoencoder:
    """Give every weight that may learn a value that is not zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return network


@each_body
@pytest.mark.parametrize("prior", ["gaussian", "dirichlet"])
def test_shapes_and_types(name, prior):
    body = BODIES[name]
    network = stir(body.build(prior=prior))
    x, _, context = (part.numpy() for part in people(body.columns))
    z = network.encode(x, context)
    assert z.shape == (4, LATENTS)
    assert z.dtype == np.float64
    mean, log_scale = network.decode(z, context)
    assert mean.shape == log_scale.shape == (4, body.columns)
    assert mean.dtype == log_scale.dtype == np.float32
    nobody = network.decode(network.encode(x[:0], context[:0]), context[:0])
    assert [part.shape for part in nobody] == [(0, body.columns)] * 2


@each_body
@given(seed=st.integers(0, 999))
def test_the_network_equals_its_linear_maps_at_the_start(name, seed):
    body = BODIES[name]
    network = body.build()
    x, z, context = people(body.columns, seed=seed)
    with torch.no_grad():
        torch.nn.init.normal_(network.encoder.log_variance)
        torch.nn.init.normal_(network.decoder.log_scale)
        mean, log_variance = network.encoder(x, context)
        expected, log_scale = network.decoder(z, context)
        assert torch.equal(mean, network.encoder.linear(x))
        assert torch.equal(expected, network.decoder.linear(z))
        assert torch.equal(log_variance, network.encoder.log_variance.expand(4, -1))
        assert torch.equal(log_scale, network.decoder.log_scale.expand(4, -1))


@each_body
def test_covariates_matter_only_where_there_is_a_correction(name):
    body = BODIES[name]
    network = stir(body.build())
    x, z, context = people(body.columns)
    for half, rows in ((network.encoder, x), (network.decoder, z)):
        for here, there in zip(half(rows, context), half(rows, context + 1), strict=True):
            assert torch.equal(here, there) == (name == "linear")


@corrected
def test_every_weight_learns_but_the_linear_maps_of_volumes(name):
    body = BODIES[name]
    network = stir(body.build())
    x, z, context = people(body.columns, count=8)
    outputs = [*network.encoder(x, context), *network.decoder(z, context)]
    sum((output**2).sum() for output in outputs).backward()
    still = {n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)}
    fixed = {f"{half}.linear.{kind}" for half in ("encoder", "decoder") for kind in ("weight", "bias")}
    assert still == (fixed if body.name == "conv" else set())


@corrected
def test_the_scale_depends_on_the_person_only_where_it_may(name):
    body = BODIES[name]
    _, z, context = people(body.columns)
    for heteroscedastic in (True, False):
        _, log_scale = stir(body.build(heteroscedastic=heteroscedastic)).decoder(z, context)
        assert bool((log_scale == log_scale[:1]).all()) != heteroscedastic


@corrected
def test_scales_stay_within_bounds(name):
    body = BODIES[name]
    network = stir(body.build(), scale=30)
    x, z, context = people(body.columns)
    _, log_variance = network.encoder(x, context)
    _, log_scale = network.decoder(z, context)
    assert log_variance.abs().max() == 2 * LOG_BOUND
    assert log_scale.abs().max() == LOG_BOUND


@each_body
def test_a_person_does_not_depend_on_who_else_is_encoded(name):
    body = BODIES[name]
    network = stir(body.build())
    x, z, context = (part.numpy() for part in people(body.columns, count=260))
    rows = [0, 255, 256, 259]
    np.testing.assert_allclose(network.encode(x, context)[rows], network.encode(x[rows], context[rows]), atol=1e-5)
    for all_, some in zip(network.decode(z, context), network.decode(z[rows], context[rows]), strict=True):
        np.testing.assert_allclose(all_[rows], some, atol=1e-5)


def test_voxels_are_in_c_order():
    shape = (3, 5, 9)
    encoder = ConvEncoder(shape, LATENTS, CONTEXT, (2, 3, 4))
    volume, context = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(2, CONTEXT)
    seen = []
    encoder.layers[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    encoder(volume.flatten(1), context)
    padded = torch.zeros(2, 1, 8, 8, 16)
    padded[:, 0, :3, :5, :9] = volume
    assert torch.equal(seen[0], padded)


@given(st.tuples(*[st.integers(1, 40)] * 3))
def test_the_coarse_grid_covers_the_grid_and_no_more(shape):
    for edge, coarse in zip(shape, coarse_shape(shape), strict=True):
        assert 8 * (coarse - 1) < edge <= 8 * coarse
