import numpy as np
import pandas as pd
import pytest

from medrep.audit.disentanglement import audit_latents, describe_latents
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.models import (
    AdditiveShape,
    ConditionalVae,
    LinearSettings,
    ShapeSettings,
    VaeSettings,
)
from medrep.training.schedule import Schedule
from tests.models.planted import DECLARED, draw_data, draw_people, fit, named

N = 200
WHO = np.arange(N).astype(str).astype(object)
RNG = np.random.default_rng(0)
# Active; passive; between them; known of some people only; and the prior itself.
VARIANCE = np.stack(
    [
        np.full(N, 0.05),
        np.full(N, 1.0),
        np.full(N, 0.5),
        np.where(np.arange(N) % 2, 0.01, 1.99),
        RNG.uniform(0.9, 1.1, N),
    ],
    axis=1,
)
MEANS = RNG.normal(size=(N, 5)) * np.sqrt(np.maximum(1 - VARIANCE, 0))


def test_kinds_are_those_of_the_rule():
    table = describe_latents(MEANS, np.sqrt(VARIANCE))
    assert list(table["kind"]) == ["active", "passive", "mixed", "mixed", "passive"]
    np.testing.assert_allclose(table["mean_variance"], VARIANCE.mean(axis=0))
    np.testing.assert_allclose(table["var_mean"], MEANS.var(axis=0))
    assert list(table["latent"]) == [0, 1, 2, 3, 4]


def test_the_kl_is_that_of_normal_distributions():
    table = describe_latents(np.full((4, 1), 2.0), np.full((4, 1), 0.5))
    assert table["kl"][0] == pytest.approx(0.5 * (4 + 0.25 - 1 - np.log(0.25)))
    prior = describe_latents(np.zeros((4, 1)), np.ones((4, 1)))
    assert prior["kl"][0] == pytest.approx(0)


def test_without_deviations_the_variance_speaks():
    means = RNG.normal(size=(N, 4)) * np.array([30.0, 5.0, 1.0, 0.0])
    table = describe_latents(means, None)
    assert list(table["kind"]) == ["active", "active", "passive", "passive"]
    assert table[["kl", "mean_variance"]].isna().all(axis=None)
    assert list(describe_latents(1000 * means, None)["kind"]) == list(table["kind"])
    found = audit_latents(means, None, WHO, 0, draws=50)
    assert [f.estimate for f in found] == [2, 2, 0]
    assert "no posterior deviation" in found[0].note


def test_counts_and_their_intervals():
    found = audit_latents(MEANS, np.sqrt(VARIANCE), WHO, 0, draws=100)
    assert [(f.metric, f.estimate) for f in found] == [
        ("latents_active", 1),
        ("latents_passive", 2),
        ("latents_mixed", 2),
    ]
    assert {(f.group, f.n, f.status) for f in found} == {("latents", N, "ok")}
    # One at the threshold is now this and now that.
    edge = np.where(np.arange(N) < 10, 1.0, 0.0525)[:, None]
    ends = audit_latents(np.zeros((N, 1)), np.sqrt(edge), WHO, 0, draws=200)[0]
    assert (ends.ci_low, ends.ci_high) == (0, 1)
    assert audit_latents(MEANS, None, WHO, 3, draws=20) == audit_latents(MEANS, None, WHO, 3, draws=20)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_people_or_no_latents_say_nothing(n):
    found = audit_latents(MEANS[:n], np.sqrt(VARIANCE[:n]), WHO[:n], 0)
    assert {f.status for f in found} == {"insufficient"}
    none = audit_latents(np.zeros((N, 0)), None, WHO, 0)
    assert {f.note for f in none} == {"the model has no latents"}


def test_a_linear_model_has_components_without_deviations():
    frame = draw_people(80, 3, 0)
    data = draw_data(frame, 10, 0)
    model = fit(frame, data, LinearSettings(components=3))
    means, sds = model.posterior(model.dataset(data, frame))
    np.testing.assert_array_equal(means, model.encode(model.dataset(data, frame)))
    assert sds is None


@pytest.mark.parametrize(("body", "prior"), [("linear", "gaussian"), ("mlp", "gaussian"), ("mlp", "dirichlet")])
def test_a_vae_has_what_its_encoder_says(body, prior):
    frame = draw_people(150, 3, 0)
    rng = np.random.default_rng(1)
    own = rng.normal(size=(150, 2)) @ rng.normal(0, 2, (2, 16))
    data = draw_data(frame, 16, 0) + own
    schema = CovariateSchema.fit(frame, DECLARED)
    settings = VaeSettings(
        body=body, prior=prior, latents=4, hidden=(8,), strength=1.0, training=Schedule(epochs=1, batch=64, threads=1)
    )
    model = ConditionalVae.fit(Dataset(data, frame, schema, named(16)), settings)[0]
    means, sds = model.posterior(model.dataset(data, frame))
    assert means.shape == (150, 4)
    if prior == "dirichlet":
        assert sds is None
        return
    assert sds is not None
    assert ((sds > 0) & (sds < 1.1)).all()
    if body == "linear":
        # N(0, I) over people: what varies and what is unknown make one together, and two directions are strong.
        total = means.var(axis=0) + (sds**2).mean(axis=0)
        np.testing.assert_allclose(total, 1, atol=0.25)
        assert list(describe_latents(means, sds)["kind"][:2]) == ["active", "active"]


def test_a_shape_model_knows_how_well_it_knows():
    grid = Grid((21, 21, 1), (1.0, 1.0, 1.0))
    nodes = np.stack(np.meshgrid(np.arange(21) - 10.0, np.arange(21) - 10.0, indexing="ij"), axis=-1).reshape(-1, 2)
    rng = np.random.default_rng(0)
    people = pd.DataFrame({"dose": rng.normal(size=16)}, index=[f"sub-{k}" for k in range(16)])
    axes = 5 + 0.4 * people["dose"].to_numpy()[:, None] + 0.5 * rng.normal(size=(16, 2))
    data = np.stack([np.linalg.norm(nodes * (own.mean() / own), axis=1) - own.mean() for own in axes]).astype(
        np.float32
    )
    schema = CovariateSchema.fit(people, [Covariate("dose", "continuous")])
    settings = ShapeSettings(modes=12, rounds=1, points=100, careful_points=150, threads=1, bootstrap=2, latents=4)
    model = AdditiveShape.fit(Dataset(data, people, schema, Columns((), grid.size, grid)), settings)[0]
    means, sds = model.posterior(model.dataset(data[:4], people.iloc[:4]))
    assert sds is not None
    np.testing.assert_array_equal(means, model.encode(model.dataset(data[:4], people.iloc[:4])))
    np.testing.assert_allclose(sds[0], model.latents(model.subject(data[0], people.iloc[[0]]))[1])


def test_rows_come_in_any_number():
    frame = draw_people(300, 3, 0)
    data = draw_data(frame, 6, 0)
    settings = VaeSettings(body="mlp", latents=2, hidden=(4,), strength=1.0, training=Schedule(epochs=0, threads=1))
    model = ConditionalVae.fit(Dataset(data, frame, CovariateSchema.fit(frame, DECLARED), named(6)), settings)[0]
    whole = model.posterior(model.dataset(data, frame))[1]
    part = model.posterior(model.dataset(data[250:], frame.iloc[250:]))[1]
    assert whole is not None
    assert part is not None
    np.testing.assert_allclose(whole[250:], part, rtol=1e-4)
