"""People with another identity: their own changes nothing, and another one is what a surface then tells."""

import numpy as np
import pytest

from medrep.audit import traversals
from medrep.audit.data import AuditData
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


def test_volume_and_surface_of_an_organ_are_measured_at_the_extremes(
    starmen: Starmen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traversals, "MOST_LATENTS", 2)
    dataset = Dataset(starmen.data, starmen.frame, starmen.schema, starmen.columns)
    asked = AuditData(starmen.model, dataset, starmen.frame, {"legs": 0.0})
    found = traversals.audit_traversals(asked, starmen.model.posterior(dataset), min_n=10)
    table = found.table[found.table["kind"] == "measure"].set_index(["latent", "property"])
    assert len(table) == 4  # volume and area of two latents
    assert set(found.table["kind"]) <= {"measure", "reading"}  # no single points
    inside = float((starmen.data < 0).sum(axis=1).mean())  # voxels of 1 mm3
    for latent in table.index.unique(0):
        row = table.loc[(latent, "volume, mm3")]
        assert row["at_low"] == pytest.approx(inside, rel=0.3)
        assert row["at_high"] - row["at_low"] == pytest.approx(
            row["effect"] * np.std((starmen.data < 0).sum(axis=1)), rel=0.5, abs=0.1 * inside
        )
