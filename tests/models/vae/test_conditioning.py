import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrep.models.vae.bodies import ConditionedLayer, modulate, zero_linear


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 999), channels=st.integers(1, 5), room=st.sampled_from([(), (4,), (2, 3, 1)]))
def test_features_are_scaled_and_shifted_by_person_and_channel(seed, channels, room):
    features, modulation = draw(seed, 3, channels, *room), draw(seed + 1, 3, 2 * channels)
    transformed = modulate(features, modulation)
    for person in range(3):
        for channel in range(channels):
            gain, shift = modulation[person, channel], modulation[person, channels + channel]
            torch.testing.assert_close(transformed[person, channel], (1 + gain) * features[person, channel] + shift)


@pytest.mark.parametrize("room", [(), (2, 3, 4)])
def test_no_modulation_changes_nothing(room):
    features = draw(0, 3, 4, *room)
    assert torch.equal(modulate(features, torch.zeros(3, 8)), features)


def test_a_film_layer_starts_without_the_covariates_and_follows_its_formula():
    layer, x, context = ConditionedLayer(5, 4, 3, "film"), draw(0, 6, 5), draw(1, 6, 3)
    assert torch.equal(layer(x, context), torch.nn.functional.silu(layer.linear(x)))
    torch.nn.init.normal_(layer.modulation.weight)
    gain, shift = layer.modulation(context).chunk(2, dim=1)
    torch.testing.assert_close(
        layer(x, context),
        torch.nn.functional.silu((1 + gain) * (x @ layer.linear.weight.T + layer.linear.bias) + shift),
    )


def test_a_concatenating_layer_sees_the_covariates_beside_the_input():
    layer, x, context = ConditionedLayer(5, 4, 3, "concatenate"), draw(0, 6, 5), draw(1, 6, 3)
    weight = layer.linear.weight
    expected = x @ weight[:, :5].T + context @ weight[:, 5:].T + layer.linear.bias
    torch.testing.assert_close(layer(x, context), torch.nn.functional.silu(expected))


def test_what_starts_at_zero_adds_nothing_but_learns():
    layer = zero_linear(3, 2)
    value = layer(draw(0, 4, 3))
    assert torch.equal(value, torch.zeros(4, 2))
    value.sum().backward()
    assert layer.weight.grad.abs().sum() > 0
