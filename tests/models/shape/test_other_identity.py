"""People with another identity: their own changes nothing, and another one is what a surface then tells."""

import numpy as np

from medrep.cohort.dataset import Dataset
from tests.models.shape.conftest import Starmen


def test_a_shape_takes_another_identity_and_keeps_its_detail(starmen: Starmen) -> None:
    model, few = starmen.model, np.arange(4)
    dataset = Dataset(starmen.data[few], starmen.frame.iloc[few], starmen.schema, starmen.columns)
    z = model.encode(dataset)
    wanted = z.copy()
    wanted[:, 0] += 1.0
    same, other = model.with_latents(dataset, [z, wanted])
    np.testing.assert_array_equal(same, dataset.values)
    reached = model.encode(dataset.with_values(other)) - z
    assert np.abs(reached[:, 0] - 1.0).max() < 0.25  # told from the surface, with the prior's pull
    assert np.abs(reached[:, 1:6]).max() < 0.3
    assert 0.05 < np.abs(other - dataset.values).mean() < 5
