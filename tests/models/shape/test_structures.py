"""Two flat structures that touch: the left one shrinks with age, the right one does not, and group does nothing."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid, grid_lattice
from medrep.errors import ModelError
from medrep.models import AdditiveShape, ShapeSettings, restore_model
from medrep.models.linear.design import Contrast
from medrep.models.shape.mean_shape import LevelFunction, clear_level, without_overlap

GRID = Grid((41, 27, 1), (1.5, 1.5, 1.5))
NODES = grid_lattice(GRID).nodes()
SETTINGS = ShapeSettings(
    modes=24, rounds=2, points=300, careful_points=400, threads=1, bootstrap=20, latents=8, spline_degrees=1
)
MM = 1.2
"""What 25 years do to the radius of the left structure."""


def levels(age: np.ndarray, sizes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return levels of people, mm: two discs that are cut by the line between them."""
    rows = []
    for years, (left, right), shift in zip(age, sizes, shifts, strict=True):
        x, y = (NODES - shift).T
        shrunk = 9.0 + left - MM * (years - 50) / 25
        first, second = np.hypot(x + 7, y) - shrunk, np.hypot(x - 7, y) - (9.0 + right)
        rows.append(np.concatenate([np.maximum(first, x), np.maximum(second, -x)]))
    return np.stack(rows).astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """The people, and a model of them."""

    data: Dataset
    model: AdditiveShape

    def at(self, **values: object) -> np.ndarray:
        """Return everybody at some covariates."""
        there = pd.DataFrame({name: [value] * len(self.data) for name, value in values.items()})
        return self.model.transform(self.data, there.set_index(self.data.covariates.index))


def drawn(people: int, visits: int = 1) -> Dataset:
    rng = np.random.default_rng(2)
    age = rng.permutation(np.linspace(25, 75, people)).repeat(visits) + np.tile(4.0 * np.arange(visits), people)
    sizes, shifts = rng.normal(0, 0.4, (people, 2)), rng.normal(0, 0.4, (people, 2))
    # By chance people differ in nothing that goes with covariates: what is found is the effect that was planted.
    design = np.column_stack([np.ones(people), age[::visits], np.arange(people) % 2])
    sizes, shifts = (one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in (sizes, shifts))
    table = pd.DataFrame({"age": age, "group": np.array(["A", "B"])[np.arange(people).repeat(visits) % 2]})
    table.index = pd.Index([f"sub-{k // visits}_ses-{k % visits}" for k in range(len(table))])
    declared = [Covariate("age", "continuous", reference=50.0), Covariate("group", "categorical", reference="A")]
    schema = CovariateSchema.fit(table, declared)
    whose = [str(k // visits) for k in range(len(table))] if visits > 1 else None
    rows = levels(age, sizes.repeat(visits, axis=0), shifts.repeat(visits, axis=0))
    columns = Columns.of_grid(GRID, structures=("left", "right"))
    return Dataset(rows, schema.transfer(table), schema, columns, whose)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    data = drawn(30)
    return Pairs(data, AdditiveShape.fit(data, SETTINGS)[0])


def test_the_null_intervention_gives_every_structure_back_bit_for_bit(pairs: Pairs) -> None:
    home = pairs.data.covariates
    np.testing.assert_array_equal(pairs.model.transform(pairs.data, home[["age"]]), pairs.data.values)
    np.testing.assert_array_equal(pairs.model.transform(pairs.data, home), pairs.data.values)


def test_an_effect_on_one_structure_is_found_there_and_not_in_the_other(pairs: Pairs) -> None:
    template = pairs.model.population.template.surface(200)
    outer = np.abs(template.points[:, 0]) > 4  # away from where they touch, which moves with neither
    found = {}
    for name, before, after in (("age", 37.5, 62.5), ("group", "A", "B")):
        motion = pairs.model.surface_displacement(Contrast(name, before, after), template.points, template.normals)
        low, high = motion.interval()
        for structure in (0, 1):
            where = outer & (template.structures == structure)
            zero = (low[where] <= 0) & (high[where] >= 0)
            found[name, structure] = motion.millimetres[where].mean(), zero.mean()
    assert found["age", 0][0] == pytest.approx(-MM, abs=0.2)
    assert found["age", 0][1] < 0.05
    for null in (("age", 1), ("group", 0), ("group", 1)):
        assert abs(found[null][0]) < 0.1
        assert found[null][1] > 0.85


def test_volumes_are_followed_in_each_structure(pairs: Pairs) -> None:
    inside = np.stack([pairs.at(age=age).reshape(30, 2, -1) < 0 for age in (30.0, 70.0)]).sum(axis=3).mean(axis=1)
    exact = np.stack(
        [(levels(np.array([age]), np.zeros((1, 2)), np.zeros((1, 2))).reshape(2, -1) < 0).sum(1) for age in (30, 70)]
    )
    changed, true = inside[1] / inside[0], exact[1] / exact[0]
    np.testing.assert_allclose(changed, true, atol=0.035)


def test_structures_share_no_point_after_a_move_and_still_touch(pairs: Pairs) -> None:
    far = pairs.at(age=100.0).reshape(30, 2, -1)
    deepest = np.minimum(-far[:, 0], -far[:, 1]).max()
    assert deepest < 0.15  # mm, between nodes of a cut that is sharp
    for row in far[:3]:
        own = LevelFunction.through(grid_lattice(GRID), row.ravel())
        fine = np.random.default_rng(0).uniform(-15, 15, (4000, 2))
        clear = np.stack([clear_level(own, structure)(fine) for structure in (0, 1)])
        assert not ((clear < 0).sum(axis=0) > 1).any()
        between = np.abs(own.everywhere(fine).reshape(2, -1).sum(axis=0))
        middle = (np.abs(fine[:, 1]) < 3) & (np.abs(fine[:, 0]) < 2)
        assert between[middle].max() < 0.4  # one ends where the other begins


def test_an_effect_of_nothing_leaves_structures_where_they_lie_to_each_other(pairs: Pairs) -> None:
    def apart(rows: np.ndarray) -> np.ndarray:
        inside = np.clip(0.5 - rows.reshape(30, 2, -1) / 1.5, 0, 1)
        centres = inside @ NODES / inside.sum(axis=2, keepdims=True)
        return centres[:, 1] - centres[:, 0]

    np.testing.assert_allclose(apart(pairs.at(group="B")), apart(pairs.data.values), atol=0.2)


def test_what_lies_in_two_structures_belongs_to_the_deeper_one() -> None:
    rng = np.random.default_rng(0)
    some = rng.normal(size=(3, 500))
    clear = without_overlap(some)
    assert ((clear < 0).sum(axis=0) == (some < 0).any(axis=0)).all()
    inside = (some < 0).any(axis=0)
    np.testing.assert_array_equal(clear.argmin(axis=0)[inside], some.argmin(axis=0)[inside])
    np.testing.assert_array_equal(without_overlap(some[:1]), some[:1])


def test_one_named_structure_is_the_organ_without_a_name() -> None:
    both, width = drawn(12), len(NODES)
    some = [
        replace(both, values=both.values[:, :width], columns=Columns.of_grid(GRID, structures=names))
        for names in ((), ("left",))
    ]
    fits = [AdditiveShape.fit(one, replace(SETTINGS, bootstrap=2))[0] for one in some]
    (plain, arrays), (named, others) = (model.state() for model in fits)
    assert "structures" not in plain["grid"]
    assert named["grid"] == {**plain["grid"], "structures": ["left"]}
    assert {**named, "grid": plain["grid"]} == plain
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])
    moved = [model.remove(one, {"age": 50.0}) for model, one in zip(fits, some, strict=True)]
    np.testing.assert_array_equal(*moved)


def test_what_is_written_is_read(pairs: Pairs) -> None:
    again = restore_model("additive_shape", *pairs.model.state())
    assert again.columns == pairs.model.columns
    np.testing.assert_array_equal(
        again.sample(pairs.data.covariates[:2], seed=1), pairs.model.sample(pairs.data.covariates[:2], seed=1)
    )
    columns = pairs.model.columns
    assert from_state(Columns, *to_state(columns)) == columns
    assert columns.count == 2 * GRID.size


def test_people_are_drawn_and_scored_with_all_structures(pairs: Pairs) -> None:
    young, old = (pd.DataFrame({"age": [age] * 12, "group": "A"}) for age in (30.0, 70.0))
    sizes = np.stack(
        [(pairs.model.sample(one, seed=4).reshape(12, 2, -1) < 0).sum(axis=2).mean(axis=0) for one in (young, old)]
    )
    assert sizes[1, 0] < 0.85 * sizes[0, 0]
    assert sizes[1, 1] == pytest.approx(sizes[0, 1], rel=0.05)
    few = pairs.data.take(slice(0, 3))
    assert (pairs.model.scores(few).reconstruction_error < 0.5).all()
    drawn_again = pairs.model.reconstruct(few)
    near = np.abs(few.values) < 1.5
    assert np.sqrt(((drawn_again - few.values)[near] ** 2).mean()) < 0.4


def test_each_structure_is_followed_over_visits() -> None:
    visits = drawn(12, 2)
    model = AdditiveShape.fit(visits, replace(SETTINGS, modes=16, bootstrap=0))[0]
    some = visits.take(slice(0, 2))
    np.testing.assert_array_equal(model.follow(some, 0.0), some.values)
    to = some.covariates[1:].assign(age=some.covariates["age"].max() + 12)
    found = model.forecast(some, to, some.whose[1:].tolist())
    assert found.estimate.shape == found.sd.shape == (1, 2 * GRID.size)
    assert (found.sd > 0).all()
    before, after = ((rows.reshape(2, -1) < 0).sum(axis=1) for rows in (some.values[1], found.estimate))
    assert after[0] < before[0]


def test_structures_are_displaced_and_have_to_overlap_from_person_to_person() -> None:
    data = drawn(12)
    with pytest.raises(ModelError, match="field is distance"):
        AdditiveShape.fit(data, replace(SETTINGS, field="distance"))
    width = len(NODES)
    apart = np.abs(data.values[:, width:]) + 1
    with pytest.raises(ModelError, match=r"structures right do not overlap; set input\.align"):
        AdditiveShape.fit(replace(data, values=np.concatenate([data.values[:, :width], apart], axis=1)), SETTINGS)
