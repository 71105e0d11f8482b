"""How organs lie, on surfaces and motions that are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Lattice
from medrep.models.shape.mean_shape import LevelFunction
from medrep.models.shape.pose import POSE, PoseModel, pose_columns
from medrep.models.shape.rigid import Poses, about, moved, rigid_motion, turns_of

PEOPLE = 40
AGE = np.array([1.5, -0.5, 0.8, 2.0, 0.0, -1.0])
"""Of ten years: mm to the right, to the front, up; degrees about these axes."""
MIDDLE = np.array([3.0, -2.0, 1.0])


def organ(dims: int = 3) -> LevelFunction:
    """An ellipsoid (an ellipse) with a different length along each axis."""
    half = 24.0
    lattice = Lattice.around(np.full(dims, -half), np.full(dims, half), 1.5)
    scaled = (lattice.nodes() - MIDDLE[:dims]) / np.array([14.0, 9.0, 6.0])[:dims]
    length = np.linalg.norm(scaled, axis=1)
    slope = np.linalg.norm(scaled / np.array([14.0, 9.0, 6.0])[:dims], axis=1) / np.maximum(length, 1e-9)
    return LevelFunction.through(lattice, (length - 1) / np.maximum(slope, 1 / 14.0))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_motion_between_two_organs_is_found(dims: int) -> None:
    level = organ(dims)
    surface = level.surface(600)
    middle = surface.points.mean(axis=0)
    turns = np.radians([12.0, -8.0, 15.0])[: 3 if dims == 3 else 1]
    truth = about(middle, np.array([4.0, -3.0, 2.0])[:dims], turns)
    there = replace(surface, points=moved(truth, surface.points))
    found = rigid_motion(level, there, middle)
    np.testing.assert_allclose(moved(found, surface.points), there.points, atol=0.1)
    np.testing.assert_allclose(np.degrees(turns_of(found[:dims, :dims])), np.degrees(turns), atol=0.5)
    columns = pose_columns(np.stack([found, np.eye(dims + 1)]), middle)
    np.testing.assert_allclose((columns[0] - columns[1])[:dims], np.array([4.0, -3.0, 2.0])[:dims], atol=0.1)
    np.testing.assert_allclose((columns[0] - columns[1])[dims:], np.degrees(turns), atol=0.5)


def people(sites: bool = False) -> Dataset:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"age": rng.uniform(30, 70, PEOPLE), "sex": rng.choice(["F", "M"], PEOPLE)})
    declared = [Covariate("age", "continuous", reference=50.0), Covariate("sex", "categorical")]
    if sites:
        frame["site"] = rng.choice(["A", "B"], PEOPLE)
        declared.append(Covariate("site", "categorical", role="batch"))
    frame.index = pd.Index([f"sub-{k}" for k in range(PEOPLE)])
    schema = CovariateSchema.fit(frame, declared)
    return Dataset(np.zeros((PEOPLE, 1)), schema.transfer(frame), schema, Columns(("a",), 1, None))


def lying_by_age(dataset: Dataset, seed: int = 2, noise: float = 1.0) -> np.ndarray:
    """Motions in the world that go with age, by `AGE` every ten years, and with nothing else."""
    rng = np.random.default_rng(seed)
    numbers = (dataset.covariates["age"].to_numpy(float)[:, None] - 50) / 10 * AGE
    numbers = numbers + noise * rng.standard_normal(numbers.shape)
    return np.stack([about(MIDDLE, own[:3], np.radians(own[3:])) for own in numbers])


def fitted(dataset: Dataset, motions: np.ndarray, frames: np.ndarray | None = None) -> PoseModel:
    frames = np.repeat(np.eye(4)[None], len(motions), axis=0) if frames is None else frames
    return PoseModel.fit(Poses(frames @ motions, MIDDLE, 10.0, in_effects=False), frames, dataset, 1)


def of_age(model: PoseModel) -> pd.DataFrame:
    found = model.table().query("covariate == 'age'").set_index("pose")
    assert found.index.tolist() == list(POSE)
    return found.assign(truth=(found["after"].astype(float) - found["before"].astype(float)) / 10 * AGE)


def test_a_planted_pose_is_found_within_its_intervals() -> None:
    dataset, inside = people(), []
    for seed in range(20):
        age = of_age(fitted(dataset, lying_by_age(dataset, seed)))
        inside.append((age["ci_low"] <= age["truth"]) & (age["truth"] <= age["ci_high"]))
    assert (age["estimate"] - age["truth"]).abs().max() < 1.2
    assert 0.85 < np.mean(inside) < 1
    assert age.loc["right", "p"] < 0.01


def test_what_an_alignment_took_out_counts_in() -> None:
    """The same people, each of them in a space of their own, turned by up to half a right angle."""
    dataset = people()
    motions = lying_by_age(dataset)
    rng = np.random.default_rng(3)
    frames = np.stack([about(MIDDLE, 30 * rng.standard_normal(3), rng.uniform(-0.5, 0.5, 3)) for _ in motions])
    pd.testing.assert_frame_equal(fitted(dataset, motions, frames).table(), fitted(dataset, motions).table(), atol=1e-6)


def test_nothing_moves_who_stays_and_covariates_add_up() -> None:
    dataset = people(sites=True)
    model, some = fitted(dataset, lying_by_age(dataset)), dataset.covariates.iloc[:5]
    first = some.iloc[[0]]
    home = {name: first[name].iloc[0] for name in first}
    assert not model.change(first, home).any()
    each = [{"age": 65.0}, {"sex": "F"}, {"site": "A"}]
    together = model.change(some, {name: value for one in each for name, value in one.items()})
    np.testing.assert_allclose(sum(model.change(some, one) for one in each), together, atol=1e-10)
    there = dataset.schema.transformed(some, {"age": 65.0})
    assert not model.change(there, {"age": 65.0}).any()


def test_a_pose_model_is_read_as_it_was_written() -> None:
    model = fitted(people(sites=True), lying_by_age(people(sites=True)))
    again = from_state(PoseModel, *to_state(model))
    pd.testing.assert_frame_equal(again.table(), model.table())
    assert again.shared_space == model.shared_space == (model.apart <= 0.15)


def test_visits_do_not_count_as_people() -> None:
    dataset = people()
    motions = lying_by_age(dataset)
    once = of_age(fitted(dataset, motions))
    keys = [f"{key}_ses-{visit}" for key in dataset.covariates.index for visit in "12"]
    twice = replace(
        dataset,
        values=np.repeat(dataset.values, 2, axis=0),
        covariates=dataset.covariates.loc[dataset.covariates.index.repeat(2)].set_axis(keys),
        participants=dataset.covariates.index.repeat(2).tolist(),
    )
    jitter = np.random.default_rng(4).standard_normal((2 * PEOPLE, 6)) * 0.1
    both = zip(jitter, np.repeat(motions, 2, axis=0), strict=True)
    near = np.stack([about(MIDDLE, own[:3], np.radians(own[3:])) @ motion for own, motion in both])
    again = of_age(fitted(twice, near))
    widths = [table["ci_high"] - table["ci_low"] for table in (once, again)]
    assert 0.75 < float((widths[1] / widths[0]).mean()) < 1.3
