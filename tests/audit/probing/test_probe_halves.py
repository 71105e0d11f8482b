"""Halves hold a participant's rows together, in exchanges and samples too."""

import numpy as np
import pandas as pd

from medrep.audit.probing.probe_halves import Halves


def test_sessions_of_a_participant_stay_in_one_half():
    rng = np.random.default_rng(9)
    who = np.repeat(np.arange(80), rng.integers(1, 4, 80))
    for seed in range(20):
        values = pd.Series(rng.choice(["A", "B"], len(who)))
        halves = Halves.of(values, who, seed, continuous=False, permutations=20, draws=20)
        assert not set(who[halves.train]) & set(who[halves.test])
        assert len(halves.train) + len(halves.test) == len(who)
        own = who[halves.test]
        for source in halves.sources:  # a series of labels goes from one participant to another as a whole
            for person in np.unique(own):
                givers = own[source[own == person]]
                assert len(set(givers)) == 1
                assert (own == givers[0]).sum() == (own == person).sum()
        for weights in halves.weights:
            assert all(len(set(weights[own == person])) == 1 for person in np.unique(own))
