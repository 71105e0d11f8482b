"""Halves hold a participant's rows together, in exchanges and samples too."""

import numpy as np
import pandas as pd

from medrep.audit.holdout_split import HoldoutSplit, Probing, figure_interval, taught_interval
from medrep.audit.intervals import jackknife_error
from medrep.audit.probe_figures import NUMBER


def test_sessions_of_a_participant_stay_in_one_half():
    rng = np.random.default_rng(9)
    who = np.repeat(np.arange(80), rng.integers(1, 4, 80))
    for seed in range(20):
        values = pd.Series(rng.choice(["A", "B"], len(who)))
        split = HoldoutSplit.of(values, who, seed, continuous=False, probing=Probing(permutations=20, draws=20))
        assert not set(who[split.train]) & set(who[split.test])
        assert len(split.train) + len(split.test) == len(who)
        own = who[split.test]
        for source in split.sources:  # a series of labels goes from one participant to another as a whole
            for person in np.unique(own):
                givers = own[source[own == person]]
                assert len(set(givers)) == 1
                assert (own == givers[0]).sum() == (own == person).sum()
        for weights in split.weights:
            assert all(len(set(weights[own == person])) == 1 for person in np.unique(own))


def test_who_taught_makes_the_interval_longer():
    draws = np.random.default_rng(0).normal(0.72, 0.05, 400)
    alone, alike, apart = (
        taught_interval(0.7, draws, np.array(folds)) for folds in ([], [0.7, 0.7, 0.7], [0.6, 0.7, 0.8])
    )
    assert alone == alike
    error = np.hypot(1, jackknife_error(np.array([0.6, 0.7, 0.8])) / draws.std())
    np.testing.assert_allclose(0.7 - np.array(apart), error * (0.7 - np.array(alone)))


def test_few_folds_make_the_interval_of_a_difference_longer_as_student_has_it():
    draws = np.random.default_rng(0).normal(0.0, 0.05, 400)
    few, many, none = (np.array(folds) for folds in ([-0.3, 0.0, 0.3], [-0.01, 0.0, 0.01], []))
    wide, narrow = (
        np.ptp(taught_interval(0.0, draws, f, 50)) / np.ptp(taught_interval(0.0, draws, f)) for f in (few, many)
    )
    assert 1.9 < wide < 2.2  # nearly the two degrees of freedom of three folds
    assert 1.0 < narrow < 1.05
    assert taught_interval(0.0, draws, none, 50) == taught_interval(0.0, draws, none)


def test_a_figure_of_a_number_stays_in_its_range():
    draws = np.clip(np.random.default_rng(0).normal(0.97, 0.03, 400), -1, 1)
    for estimate in (-1.0, 0.0, 0.97, 1.0):
        low, high = figure_interval(NUMBER, estimate, draws, np.array([0.8, 0.9, 1.0]))
        assert -1 <= low <= high <= 1


def test_every_fold_has_a_figure_of_each_probe():
    values = pd.Series(np.where(np.arange(80) % 2, "A", "B"))
    table = np.random.default_rng(1).normal(size=(80, 3)) + (np.arange(80) % 2)[:, None]
    probing = Probing(permutations=20, draws=50, probes=("linear", "rbf"))
    split = HoldoutSplit.of(values, np.arange(80), 0, continuous=False, probing=probing)
    told = split.judge(table)
    assert told.of_folds.shape == (3, 2)
    assert (told.of_folds > 0.6).all()
    flat = split.judge(np.zeros((80, 3)))
    assert flat.of_folds.shape == (0, 2)
    assert np.isfinite(flat.interval()).all()
