"""Flat figures that come again, at rates of their own: followed along their own paths, and forecast."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.starmen import draw_starmen
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.errors import ModelError
from medrep.models import AdditiveShape, ShapeSettings
from medrep.models.shape.mean_shape import Posterior
from medrep.models.shape.repeated import told_together
from tests.models.shape.conftest import HALF, flat_distances

TRAIN, UNSEEN = 24, 8
SETTINGS = ShapeSettings(modes=40, rounds=2, points=250, careful_points=300, threads=1, bootstrap=0, latents=10)


@dataclass(frozen=True)
class Followed:
    """Visits, 0.2 of arms apart at which they have grown by 0.2 (1 + r), r the person's own, and a model of some people."""

    table: pd.DataFrame
    whole: Dataset
    model: AdditiveShape

    def visits(self, *numbers: int) -> Dataset:
        """Return some visits of people whom the model never saw."""
        rows = (self.table["person"] >= TRAIN) & self.table["visit"].isin(numbers)
        return self.whole.take(np.flatnonzero(rows))


@pytest.fixture(scope="module")
def followed() -> Followed:
    cohort, rng = draw_starmen(TRAIN + UNSEEN, seed=3), np.random.default_rng(5)
    table = pd.DataFrame(
        {"person": np.repeat(np.arange(TRAIN + UNSEEN), 3), "visit": np.tile(range(3), TRAIN + UNSEEN)}
    )
    rates, start = rng.normal(1.0, 1.0, TRAIN + UNSEEN)[table["person"]], rng.uniform(-0.6, 0.2, TRAIN + UNSEEN)
    table["rate"], years = rates, 0.2 * table["visit"].to_numpy()
    table["arms"] = start[table["person"]] + years + rng.uniform(0, 0.03, len(table))
    table["legs"] = cohort.participants["legs"].to_numpy()[table["person"]]
    table.index = pd.Index([f"sub-{one.person}_ses-{one.visit}" for one in table.itertuples()])
    cohort = replace(cohort, people=tuple(cohort.people[k] for k in table["person"]))
    grid = Grid((HALF + 1, HALF + 1, 1), (2.0, 2.0, 2.0))
    grown = table[["legs"]].assign(arms=table["arms"] + (rates - 1) * years)
    values = flat_distances(cohort, grown, grid)
    train = np.flatnonzero(table["person"] < TRAIN)
    schema = CovariateSchema.fit(
        table.iloc[train], [Covariate(name, "continuous", reference=0.0) for name in ("arms", "legs")]
    )
    whose = table["person"].astype(str).tolist()
    whole = Dataset(values, schema.transfer(table), schema, Columns((), grid.size, grid), whose)
    return Followed(table, whole, AdditiveShape.fit(whole.take(train), SETTINGS)[0])


def errors(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the root mean square error near the surface, mm, of each organ."""
    return np.array([np.sqrt(((a - b)[np.abs(b) < 2] ** 2).mean()) for a, b in zip(found, true, strict=True)])


def test_no_years_change_nothing(followed: Followed) -> None:
    visits = followed.visits(0, 1)
    np.testing.assert_array_equal(followed.model.follow(visits, 0.0), visits.values)
    found = followed.model.forecast(visits, followed.visits(1).covariates, followed.visits(1).whose.tolist())
    np.testing.assert_array_equal(found.estimate, followed.visits(1).values)


def test_a_persons_own_future_is_nearer_than_the_populations(followed: Followed) -> None:
    model, known, last, goal = followed.model, followed.visits(0, 1), followed.visits(1), followed.visits(2)
    own = model.forecast(known, goal.covariates, goal.whose.tolist())
    everybody = model.transform(last, goal.covariates[["arms"]].set_index(last.keys))
    assert model.followed == "arms"
    assert errors(own.estimate, goal.values).mean() < 0.8 * errors(everybody, goal.values).mean()
    assert errors(own.estimate, goal.values).mean() < 0.8 * errors(last.values, goal.values).mean()
    near = np.abs(goal.values) < 2
    low, high = own.interval(0.95)
    assert ((low < goal.values) & (goal.values < high))[near].mean() > 0.85
    assert 0.02 < own.sd[near].mean() < 0.6


def test_rates_that_were_planted_are_found(followed: Followed) -> None:
    known = followed.visits(0, 1)
    grown = followed.model.follow(known, 0.2)[1::2]
    size = ((grown < 0).sum(axis=1) - (known.values[1::2] < 0).sum(axis=1)).astype(float)
    assert np.corrcoef(size, followed.visits(0).covariates.index.map(followed.table["rate"]).to_numpy())[0, 1] > 0.8


def test_further_years_go_on_along_the_same_line(followed: Followed) -> None:
    """Of one visit nothing is told of a slope: the person changes as people do within themselves."""
    one = followed.visits(1).take(slice(0, 1))
    there = one.covariates.assign(arms=one.covariates["arms"] + 0.2)
    alone = followed.model.forecast(one, there, one.whose.tolist()).estimate
    np.testing.assert_allclose(alone, followed.model.follow(one, 0.2), atol=1e-6)


def test_a_change_has_a_gain_and_a_first_visit_none(followed: Followed) -> None:
    gain = followed.model.scores(followed.visits(0, 1)).gain
    assert gain is not None
    assert np.isnan(gain[0::2]).all()
    assert np.isfinite(gain[1::2]).all()
    assert followed.model.scores(followed.visits(0)).gain is None


def test_paths_come_back_from_what_is_written(followed: Followed) -> None:
    content, arrays = followed.model.state()
    again, visits = AdditiveShape.restore(content, arrays), followed.visits(0, 1).take(slice(0, 2))
    assert "forecast" in again.capabilities
    np.testing.assert_array_equal(again.follow(visits, 0.2), followed.model.follow(visits, 0.2))


def test_people_of_one_visit_are_what_they_were(followed: Followed) -> None:
    """Nothing of visits is written of them, and nothing depends on what they are called."""
    train = followed.whole.take(np.flatnonzero((followed.table["person"] < TRAIN) & (followed.table["visit"] == 0)))
    settings = replace(SETTINGS, rounds=1)
    named, model = (
        AdditiveShape.fit(train, settings)[0],
        AdditiveShape.fit(replace(train, participants=None), settings)[0],
    )
    (content, arrays), (other, others) = named.state(), model.state()
    assert content == other
    assert "paths" not in content
    assert "visits" not in content["settings"]
    assert not [name for name in arrays if name.startswith("paths")]
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])
    with pytest.raises(ModelError, match="too few people came again"):
        model.follow(train, 1.0)


def test_visits_can_be_taken_for_people(followed: Followed) -> None:
    train = followed.whole.take(np.flatnonzero(followed.table["person"] < TRAIN))
    model = AdditiveShape.fit(train, replace(SETTINGS, rounds=1, visits="independent"))[0]
    assert model.paths is None
    assert model.followed == ""


@pytest.mark.parametrize("count", [1, 2, 3])
def test_visits_of_a_person_tell_what_their_joint_normal_distribution_says(count: int) -> None:
    rng, width, alike = np.random.default_rng(count), 4, 0.7
    root, seen = rng.standard_normal((2, width, width))
    spread, surface = root @ root.T + np.eye(width), seen @ seen.T + np.eye(width)
    prior, own = np.linalg.inv(spread), rng.standard_normal((count, width))
    turn, rows = told_together([Posterior(one, surface + prior, 0.0) for one in own], prior, alike)
    between = (1 - alike) * np.eye(count) + alike
    whole = np.linalg.inv(np.kron(between, spread) + np.kron(np.eye(count), np.linalg.inv(surface)))
    # The surface alone, without what is believed of people, would have put a field there.
    told = own @ (surface + prior) @ np.linalg.inv(surface)
    score = (whole @ told.ravel()).reshape(count, width)
    np.testing.assert_allclose(turn.T @ np.stack([row.score for row in rows]), score, atol=1e-9)
    precision = sum(np.kron(np.outer(line, line), row.precision) for line, row in zip(turn, rows, strict=True))
    np.testing.assert_allclose(precision, whole, atol=1e-9)
