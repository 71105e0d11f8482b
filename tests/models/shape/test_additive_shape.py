"""A model of flat figures with known fields."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, grid_lattice
from medrep.errors import ModelError
from medrep.models import AdditiveShape, restore_model
from medrep.models.linear.design import Contrast, contrasts
from medrep.models.shape.mean_shape import LevelFunction, soft_volumes
from medrep.simulate.displaced import displacement
from tests.models.planted import moved_by
from tests.models.shape.conftest import SETTINGS, Starmen, flat_distances


def close_to_zero(data: np.ndarray) -> np.ndarray:
    return np.abs(data) < 2.0


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float(((a < 0) & (b < 0)).sum()) / float((a < 0).sum() + (b < 0).sum())


def test_every_effect_is_exactly_zero_at_the_reference(starmen: Starmen) -> None:
    home = pd.DataFrame({"arms": [0.0], "legs": [0.0]})
    assert (starmen.model.mean(home) == 0).all()
    assert np.abs(starmen.model.mean(home.assign(arms=0.5))).max() > 0


def test_effects_add_up(starmen: Starmen) -> None:
    def of(arms: float, legs: float) -> np.ndarray:
        return starmen.model.mean(pd.DataFrame({"arms": [arms], "legs": [legs]}))

    np.testing.assert_allclose(of(0.7, -0.4), of(0.7, 0.0) + of(0.0, -0.4), atol=1e-12)


def test_the_null_intervention_gives_everybody_back_bit_for_bit(starmen: Starmen) -> None:
    own = starmen.frame.iloc[:1]
    target = {"arms": float(own["arms"].iloc[0]), "legs": float(own["legs"].iloc[0])}
    np.testing.assert_array_equal(
        starmen.model.remove(starmen.model.dataset(starmen.data[:1], own), target), starmen.data[:1]
    )


def test_removing_twice_is_removing_once(starmen: Starmen) -> None:
    target = starmen.schema.references(["arms", "legs"])
    once = starmen.model.remove(starmen.model.dataset(starmen.data[:3], starmen.frame.iloc[:3]), target)
    there = starmen.schema.transformed(starmen.frame.iloc[:3], target)
    np.testing.assert_array_equal(starmen.model.remove(starmen.model.dataset(once, there), target), once)


def test_the_order_of_people_does_not_matter(starmen: Starmen) -> None:
    target = starmen.schema.references(["arms"])
    order = [2, 0, 1]
    straight = starmen.model.remove(starmen.model.dataset(starmen.data[:3], starmen.frame.iloc[:3]), target)
    turned = starmen.model.remove(starmen.model.dataset(starmen.data[order], starmen.frame.iloc[order]), target)
    np.testing.assert_array_equal(turned, straight[order])


def test_people_are_reconstructed_and_registration_gets_better(starmen: Starmen) -> None:
    errors = starmen.history.query("name == 'error_mm'")["value"].to_numpy()
    assert errors[-1] < 0.5 * errors[0]
    made = starmen.model.reconstruct(starmen.model.dataset(starmen.data[:8], starmen.frame.iloc[:8]))
    assert min(overlap(a, b) for a, b in zip(made, starmen.data[:8], strict=True)) > 0.97


def test_a_moved_person_is_the_true_one_at_other_covariates(starmen: Starmen) -> None:
    """People who are moved far: the model comes nearer to the truth than leaving them as they are."""
    people = np.argsort(starmen.frame["arms"].to_numpy())[:4]
    cohort = replace(starmen.cohort, people=tuple(starmen.cohort.people[k] for k in people))
    wanted = starmen.frame.iloc[people].assign(arms=0.8)
    assert starmen.columns.grid is not None
    truth = flat_distances(cohort, wanted, starmen.columns.grid)
    transformed = starmen.model.remove(
        starmen.model.dataset(starmen.data[people], starmen.frame.iloc[people]), {"arms": 0.8}
    )
    for own, made, true in zip(starmen.data[people], transformed, truth, strict=True):
        assert overlap(made, true) > max(0.95, overlap(own, true) + 0.02)


def test_sizes_of_moved_people_change_by_the_share_of_the_template(starmen: Starmen) -> None:
    assert starmen.columns.grid is not None
    model, nodes, step = starmen.model, grid_lattice(starmen.columns.grid).nodes(), 1.0
    people = np.argsort(np.abs(starmen.frame["arms"].to_numpy() + 0.4))[:4]
    own = starmen.frame.iloc[people]
    moved = model.remove(model.dataset(starmen.data[people], own), {"arms": 0.8})
    before, after = (model.means(frame) for frame in (own, own.assign(arms=0.8)))
    for row, made, here, there in zip(starmen.data[people], moved, before, after, strict=True):
        expected = np.stack([model.population.mean_shape(mean).values(nodes) for mean in (here, there)])
        sizes, own = soft_volumes(expected, step), soft_volumes(np.stack([row, made]).astype(float), step)
        assert own[1] / own[0] == pytest.approx(sizes[1] / sizes[0], abs=0.005)


def on_the_surface(template: LevelFunction) -> tuple[np.ndarray, np.ndarray]:
    nodes = template.lattice.nodes()
    points = template.onto_surface(nodes[np.abs(template.values(nodes)) < 1.0])
    slope = template.slopes(points)[1]
    return points, slope / np.linalg.norm(slope, axis=1, keepdims=True)


def test_planted_motion_is_found_along_the_normal_with_intervals(starmen: Starmen) -> None:
    population = starmen.model.population
    points, normals = on_the_surface(population.template)
    motion = starmen.model.surface_displacement(Contrast("arms", 0.0, 0.5), points, normals)
    truth = -(displacement(starmen.cohort.family, "arms", 0.5, points) * normals).sum(axis=1)
    assert np.corrcoef(motion.millimetres, truth)[0, 1] > 0.9
    low, high = motion.interval()
    assert (low <= high).all()
    assert ((low < motion.millimetres) & (motion.millimetres < high)).mean() > 0.9
    mean, lower, upper = motion.mean(np.ones(len(points)))
    assert lower < mean < upper
    assert [contrast.covariate for contrast in contrasts(starmen.schema)] == ["arms", "legs"]


def test_latents_come_with_their_uncertainty_and_the_best_known_come_first(starmen: Starmen) -> None:
    z, sd = starmen.model.posterior(starmen.model.dataset(starmen.data, starmen.frame))
    assert z.shape == sd.shape == (60, SETTINGS.latents)
    assert 0.5 < z[:, 0].std() < 1.1
    model = starmen.model
    before = np.einsum("ij,ij->j", model.latent_basis, model.population.covariance @ model.latent_basis)
    assert ((sd > 0) & (sd**2 <= 1.001 * before)).all()
    assert sd[:, 0].mean() < sd[:, -1].mean()
    # What is known and what is not add up to the unit variance of identities.
    np.testing.assert_allclose(z.var(axis=0) + (sd**2).mean(axis=0), 1.0, atol=0.45)
    np.testing.assert_allclose((z.var(axis=0) + (sd**2).mean(axis=0)).mean(), 1.0, atol=0.1)
    np.testing.assert_array_equal(
        z[:2], starmen.model.encode(starmen.model.dataset(starmen.data[:2], starmen.frame.iloc[:2]))
    )


def test_a_saved_model_is_the_same_model(starmen: Starmen) -> None:
    content, arrays = starmen.model.state()
    again = restore_model("additive_shape", content, arrays)
    target = {"legs": 0.3}
    np.testing.assert_array_equal(
        again.remove(again.dataset(starmen.data[:1], starmen.frame.iloc[:1]), target),
        starmen.model.remove(starmen.model.dataset(starmen.data[:1], starmen.frame.iloc[:1]), target),
    )
    with pytest.raises(ModelError, match=r"covariance has the shape \(1,\)"):
        restore_model("additive_shape", content, {**arrays, "covariance": np.zeros(1)})
    with pytest.raises(ModelError, match=r"modes\.nodes lie beyond"):
        restore_model("additive_shape", content, {**arrays, "modes.nodes": arrays["modes.nodes"] + 10**6})


def test_the_same_seed_learns_the_same_whatever_the_threads(starmen: Starmen) -> None:
    few = slice(0, 20)
    fits = [
        AdditiveShape.fit(
            Dataset(starmen.data[few], starmen.frame.iloc[few], starmen.schema, starmen.columns),
            replace(SETTINGS, threads=threads, rounds=1, modes=20),
            seed=3,
        )[0]
        for threads in (1, 3)
    ]
    np.testing.assert_array_equal(fits[0].population.effects, fits[1].population.effects)


def test_drawn_people_vary_and_follow_their_covariates(starmen: Starmen) -> None:
    frame = pd.DataFrame({"arms": [-0.9, 0.9] * 10, "legs": 0.0})
    drawn = starmen.model.sample(frame, seed=1)
    sizes = (drawn < 0).sum(axis=1)
    assert sizes[1::2].mean() > sizes[::2].mean()
    assert len(np.unique(sizes)) > 15
    np.testing.assert_array_equal(drawn, starmen.model.sample(frame, seed=1))


@pytest.mark.parametrize(
    "changes", [{"field": "distance"}, {"composition": "joint"}, {"conditioned": False}, {"identity": False}]
)
def test_ablations_fit_and_keep_the_null_intervention(starmen: Starmen, changes: dict[str, object]) -> None:
    settings = replace(SETTINGS, rounds=1, modes=20, **changes)
    model, _ = AdditiveShape.fit(
        Dataset(starmen.data, starmen.frame, starmen.schema, starmen.columns), settings, seed=0
    )
    own, data = starmen.frame.iloc[:2], starmen.data[:2]
    transformed = model.remove(model.dataset(data, own), {"arms": 0.9})
    assert np.isfinite(transformed).all()
    assert (np.abs(transformed - data).max() > 0.1) == settings.conditioned
    same = float(own["arms"].iloc[0])
    np.testing.assert_array_equal(model.remove(model.dataset(data[:1], own.iloc[:1]), {"arms": same}), data[:1])
    assert model.encode(model.dataset(data, own)).shape[1] == (20 if settings.identity else 0)
    content, arrays = model.state()
    np.testing.assert_array_equal(
        moved_by(restore_model(model.kind, content, arrays), data, own, {"arms": 0.9}), transformed
    )


def test_a_new_site_is_estimated_from_its_own_people(starmen: Starmen) -> None:
    sites = np.array(["A", "B"] * 30)
    declared = [Covariate("arms", "continuous"), Covariate("site", "categorical", role="batch")]
    frame = starmen.frame.assign(site=sites)
    schema = CovariateSchema.fit(frame, declared)
    known = schema.transfer(frame)
    settings = replace(SETTINGS, rounds=1, modes=20)
    # A scanner that sees everybody larger.
    data = starmen.data - np.where(sites == "B", 0.8, 0.0).astype(np.float32)[:, None]
    model, _ = AdditiveShape.fit(Dataset(data, known, schema, starmen.columns), settings, seed=0)
    strange = schema.transfer(frame.iloc[:5].assign(site="C"), unseen="adapt")
    wider, notes = model.adapt([model.dataset(starmen.data[:5] - np.float32(1.5), strange)])
    assert [(note.level, note.people) for note in notes] == [("C", 5)]
    assert 0 < notes[0].location_kept < 1
    assert wider.schema.levels("site") == ("A", "B", "C")
    transformed = wider.remove(wider.dataset(starmen.data[:1], strange.iloc[:1]), schema.references(["site"]))
    assert np.abs(transformed - starmen.data[:1]).max() > 0
    content, arrays = wider.state()
    assert restore_model(wider.kind, content, arrays).schema == wider.schema


def test_settings_and_data_that_cannot_be_are_refused(starmen: Starmen) -> None:
    with pytest.raises(ModelError, match=r"(?s)modes is 1.*threads is 0.*shrinkage is 0"):
        replace(SETTINGS, modes=1, threads=0, shrinkage=0.0).check(starmen.columns)
    with pytest.raises(ModelError, match=r"set input\.kind to shape"):
        SETTINGS.check(Columns(("a",), 1, None))
    with pytest.raises(ModelError, match="the data have 5 voxels"):
        starmen.model.encode(starmen.model.dataset(np.zeros((1, 5)), starmen.frame.iloc[:1]))
    far = np.full((4, starmen.columns.count), 30.0)
    with pytest.raises(ModelError, match="organs do not overlap"):
        AdditiveShape.fit(
            Dataset(far, starmen.frame.iloc[:4], starmen.schema, starmen.columns), replace(SETTINGS, conditioned=False)
        )
    model, _ = AdditiveShape.fit(
        Dataset(starmen.data, starmen.frame, starmen.schema, starmen.columns),
        replace(SETTINGS, field="distance", rounds=1, modes=8),
    )
    with pytest.raises(ModelError, match="does not say how points move"):
        model.surface_displacement(Contrast("arms", 0.0, 0.5), np.zeros((1, 2)), np.ones((1, 2)))


def test_position_is_an_effect_where_people_share_a_space_and_noise_where_they_lie_anywhere(starmen: Starmen) -> None:
    few = slice(0, 20)
    rng = np.random.default_rng(0)
    side = round(starmen.columns.count**0.5)
    anywhere = np.stack(
        [np.roll(row.reshape(side, side), rng.integers(-6, 7, 2), (0, 1)).ravel() for row in starmen.data[few]]
    )

    def effects(data: np.ndarray, placement: str) -> np.ndarray:
        settings = replace(SETTINGS, rounds=1, modes=12, bootstrap=0, placement=placement)  # type: ignore[arg-type]
        dataset = Dataset(data, starmen.frame.iloc[few], starmen.schema, starmen.columns)
        return AdditiveShape.fit(dataset, settings, seed=0)[0].population.effects

    np.testing.assert_array_equal(effects(starmen.data[few], "auto"), effects(starmen.data[few], "kept"))
    np.testing.assert_array_equal(effects(anywhere, "auto"), effects(anywhere, "still"))
