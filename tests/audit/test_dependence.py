import numpy as np
import pandas as pd
import pytest
import torch

from medrep.audit.dependence import audit_dependence, concatenated_dependence, joint_dependence
from medrep.audit.groups import group_participants, parse_by
from medrep.audit.metrics import person_mean
from medrep.models.vae.losses import concatenated_distance_covariance, joint_distance_covariance
from tests.shortened import at_most, seeds


def attributes(n, rng):
    return pd.DataFrame(
        {"sex": rng.choice(["F", "M"], n), "site": rng.choice(["A", "B"], n), "age": rng.uniform(20, 80, n)}
    )


def audit(values, frame, people=None, by="sex,site", **more):
    people = np.arange(len(values)) if people is None else people
    found = audit_dependence("m", person_mean(values, people), group_participants(frame, parse_by(by)), **more)
    return {row.metric: row for row in found}


def test_both_figures_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    y, a = rng.normal(size=(30, 1)), rng.normal(size=(30, 1))
    b = np.eye(3)[rng.integers(3, size=30)]
    parts = [torch.from_numpy(a), torch.from_numpy(b)]
    assert joint_dependence(y, [a, b]) == pytest.approx(float(joint_distance_covariance(torch.from_numpy(y), parts)))
    assert concatenated_dependence(y, [a, b]) == pytest.approx(
        float(concatenated_distance_covariance(torch.from_numpy(y), parts))
    )


def test_dependence_that_only_the_intersection_has_is_seen():
    rng = np.random.default_rng(1)
    frame = attributes(200, rng)
    crossed = (frame["sex"] == "F").to_numpy() ^ (frame["site"] == "A").to_numpy()
    values = rng.normal(size=200) + 0.8 * crossed
    both = audit(values, frame, permutations=199)
    assert both["joint_dependence"].p <= 0.01
    assert both["concatenated_dependence"].p <= 0.01
    assert both["joint_dependence"].group == "m | sex,site"
    for name in ("sex", "site"):
        assert audit(values, frame, by=name, permutations=199)["joint_dependence"].p > 0.05


@pytest.mark.shortened
def test_attributes_that_tell_each_other_are_no_dependence_of_the_metric():
    rng = np.random.default_rng(2)
    alarms, figures = np.zeros(2), []
    for seed in seeds(120):
        frame = attributes(60, rng)
        frame["site"] = np.where(rng.random(60) < 0.9, frame["sex"], frame["site"])
        found = audit(rng.standard_t(3, size=60), frame, by="sex,site,age", permutations=99, seed=seed)
        figures.append([row.estimate for row in found.values()])
        alarms += [row.p <= 0.05 for row in found.values()]
    assert (alarms <= at_most(len(figures), 0.05, 0.99)).all()
    mean, error = np.mean(figures, axis=0), np.std(figures, axis=0) / np.sqrt(len(figures))
    assert (np.abs(mean) < 3.5 * error).all()


def test_a_participant_is_in_it_once():
    rng = np.random.default_rng(3)
    frame = attributes(30, rng)
    values = np.r_[rng.normal(size=29), np.nan]
    repeated = pd.concat([frame] * 4, ignore_index=True)
    found = audit(np.tile(values, 4), repeated, np.tile(np.arange(30), 4), permutations=99)
    assert found["joint_dependence"].n == 29
    assert found["joint_dependence"].estimate == pytest.approx(
        audit(values, frame, permutations=99)["joint_dependence"].estimate
    )
    assert "one session" in found["joint_dependence"].note
    assert "4 rows without a value" in found["joint_dependence"].note


def test_too_few_people_say_nothing():
    rng = np.random.default_rng(4)
    for row in audit(rng.normal(size=19), attributes(19, rng)).values():
        assert (row.status, row.n) == ("insufficient", 19)
        assert np.isnan(row.estimate)
        assert np.isnan(row.p)


def test_the_same_seed_gives_the_same_figures():
    rng = np.random.default_rng(5)
    values, frame = rng.normal(size=40), attributes(40, rng)
    assert audit(values, frame, permutations=49) == audit(values, frame, permutations=49)
