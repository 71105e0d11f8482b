"""Shortcuts: a target that is read from a covariate is read worse, and later, in people in whom the two conflict."""

import numpy as np
import pandas as pd
import pytest

from medrep.audit.data import AuditData, compact
from medrep.audit.learning_paths import folds_of, learning_path
from medrep.audit.shortcuts import METRICS, Reliance, audit_shortcuts, cued_people, reliance
from tests.models.planted import draw_people, fit, people_of

N, COLUMNS = 240, 20


def cohort(seed: int, shift: float, effect: float = 1.2) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """A factor of all columns that site shifts, and a diagnosis that goes with site and shows in three columns."""
    rng = np.random.default_rng(seed)
    site = np.arange(N) % 2
    diagnosis = np.where(rng.random(N) < np.where(site == 1, 0.75, 0.25), 1.0, -1.0)
    data = 1.2 * (rng.normal(size=N) + shift * (site - 0.5))[:, None] + rng.normal(size=(N, COLUMNS))
    data[:, :3] += effect / 2 * diagnosis[:, None] * np.array([1, -1, 1])
    return data, diagnosis, pd.Series(site, name="site")


def read(seed: int, shift: float, effect: float = 1.2) -> Reliance:
    data, diagnosis, site = cohort(seed, shift, effect)
    chosen, people = cued_people(diagnosis, site)
    assert len(chosen) == N
    folds = folds_of(people.classes + 3 * people.agrees, np.random.default_rng(seed))
    return reliance(learning_path(compact(data, 0), people.classes[:, None], folds), people)


def test_a_shortcut_that_is_learned_first_bends_the_path() -> None:
    found = read(0, 2.5)
    assert found.curvature.p < 0.001
    assert found.curvature.interval[1] < -0.3
    assert found.majority.estimate > found.minority.estimate


def test_a_shortcut_that_is_all_there_is_shows_in_the_gap() -> None:
    found = read(1, 2.5, effect=0.0)
    assert found.minority.estimate < 0.3
    assert found.gap.p < 0.001
    assert found.gap.interval[0] > 0.3


def test_a_target_that_is_read_from_anatomy_is_not_called_a_shortcut() -> None:
    found = [read(100 + seed, 0.0) for seed in range(40)]
    for name in ("gap", "curvature"):
        assert np.mean([getattr(one, name).p <= 0.05 for one in found]) <= 0.15
        assert np.mean([getattr(one, name).estimate for one in found]) == pytest.approx(0, abs=0.04)
    assert all(one.majority.estimate > 0.7 for one in found)


def test_where_nothing_is_read_there_is_no_path() -> None:
    """Neither site nor diagnosis shows in the data."""
    found = [read(200 + seed, 0.0, effect=0.0) for seed in range(5)]
    hardly = [one for one in found if one.majority.estimate < 0.55]
    assert hardly
    assert all(np.isnan(one.curvature.estimate) and np.isnan(one.curvature.p) for one in hardly)


def test_majority_and_minority_are_those_in_whom_the_cue_agrees_and_conflicts() -> None:
    site = pd.Series(["A"] * 20 + ["B"] * 20 + ["C"] * 3 + ["D"] * 20)
    target = np.concatenate(
        [np.repeat([1.0, -1.0], [15, 5]), np.repeat([1.0, -1.0], [4, 16]), np.ones(3), np.full(20, np.nan)]
    )
    chosen, people = cued_people(target, site)
    assert chosen.tolist() == list(range(40))  # three people tell nothing of their site, nor do those who are not known
    assert people.agrees.sum() == 15 + 16
    assert [int(cell.sum()) for cell in people.cells] == [16, 15, 5, 4]


def test_classes_may_be_exchanged() -> None:
    data, diagnosis, site = cohort(3, 1.0)
    found = []
    for turn in (1.0, -1.0):
        _, people = cued_people(turn * diagnosis, site)
        path = learning_path(compact(data, 0), people.classes[:, None], np.arange(N) % 5)
        found.append(reliance(path, people))
    for name in ("majority", "minority", "gap", "curvature"):
        one, other = (getattr(each, name).estimate for each in found)
        assert one == pytest.approx(other, abs=1e-9)


@pytest.fixture(scope="module")
def audited() -> AuditData:
    """Site shifts all columns; a linear model that takes that away was fitted to other people."""
    frame = draw_people(2 * N, 2, 0)
    rng = np.random.default_rng(0)
    site = (frame["site"] == "S1").to_numpy(float)
    data = (
        1.2 * (rng.normal(size=2 * N) + 3 * site)[:, None]
        + rng.normal(size=(2 * N, COLUMNS))
        + 0.02 * frame[["age"]].to_numpy()
    )
    half = np.arange(2 * N) < N
    model = fit(frame[half], data[half])
    own = frame[~half]
    return AuditData(model, people_of(data[~half], model.schema.transfer(own), model.schema), own, {"site": "S0"})


def follows(audited: AuditData, seed: int) -> pd.Series:
    """A diagnosis that goes with site and with nothing in the data."""
    ill = (audited.frame["site"].astype(str) == "S1") ^ (np.random.default_rng(seed).random(N) < 0.25)
    return pd.Series(np.where(ill, "ill", "well"), audited.frame.index, name="diagnosis")


def test_removal_of_the_site_takes_the_shortcut_away(audited: AuditData) -> None:
    found = {(one.metric, one.group): one for one in audit_shortcuts(audited, (follows(audited, 1), False))}
    gap = {table: found["minority_gap", f"{table}/diagnosis by site"] for table in ("raw", "exported")}
    assert gap["raw"].ci_low > 0.4
    assert "rightly in 7" in gap["raw"].note
    assert gap["exported"].ci_low < 0.1
    minority = found["minority_accuracy", "raw/diagnosis by site"]
    assert minority.ci_high < 0.5
    assert minority.ci_low <= minority.estimate <= minority.ci_high
    # Sex does not go with the diagnosis.
    assert "no cue" in found["minority_gap", "raw/diagnosis by sex"].note


def test_without_an_outcome_kept_covariates_are_read(audited: AuditData) -> None:
    found = audit_shortcuts(audited)
    assert {one.group for one in found} >= {"raw/sex by site", "exported/sex by site"}
    assert {one.status for one in found} == {"insufficient"}  # sexes are as frequent at each site


def test_a_number_counts_as_above_its_median_and_three_classes_are_none(audited: AuditData) -> None:
    outcome = follows(audited, 2)
    score = pd.Series(
        np.where(outcome == "ill", 1.0, 0.0) + np.random.default_rng(0).random(N), outcome.index, name="score"
    )
    score.iloc[:4] = np.nan
    found = [one for one in audit_shortcuts(audited, (score, True)) if one.group == "raw/score by site"]
    assert [one.metric for one in found] == list(METRICS)
    assert {one.n for one in found} == {N - 4}
    three = outcome.where(np.arange(N) % 3 > 0, "unclear")
    assert {one.note for one in audit_shortcuts(audited, (three, False))} == {"diagnosis does not have two classes"}


def test_few_people_say_how_many_are_needed(audited: AuditData) -> None:
    few = AuditData(audited.model, audited.dataset.take(np.arange(24)), audited.table.iloc[:24], audited.target)
    found = audit_shortcuts(few, (follows(audited, 3).iloc[:24], False))
    assert {one.status for one in found} == {"insufficient"}
    assert all("20 and 8 are needed" in one.note or "no cue" in one.note for one in found)
