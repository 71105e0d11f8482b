import numpy as np
import pytest

from medrep.audit.finding import COLUMNS, Finding, findings_table
from medrep.audit.intervals import (
    bootstrap,
    percentile_interval,
    permutation_p,
    resampled_rows,
)


def test_a_table_keeps_order_and_corrects_within_a_metric():
    found = [
        Finding("gap", "sex", 100, 0.1, p=0.01),
        Finding("gap", "site", 100, 0.2, p=0.04),
        Finding("leakage", "raw/site", 100, 0.9, p=0.04),
        Finding("error", "sex=F", 2, status="insufficient"),
    ]
    table = findings_table(found)
    assert tuple(table.columns) == COLUMNS
    assert list(table["group"]) == ["sex", "site", "raw/site", "sex=F"]
    np.testing.assert_allclose(table["q"][:3], [0.02, 0.04, 0.04])
    assert np.isnan(table["q"][3])
    assert np.isnan(table["estimate"][3])


def test_no_findings_are_an_empty_table():
    assert tuple(findings_table([]).columns) == COLUMNS


def test_sessions_of_a_participant_are_drawn_together():
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    for rows in resampled_rows(6, 50, np.random.default_rng(0), groups):
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[1]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[2] + counts[3] == 3


def test_intervals_of_a_mean_cover_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        x = rng.normal(size=80)
        low, high = percentile_interval(bootstrap(lambda rows, x=x: float(x[rows].mean()), 80, 300, rng))
        hits += low <= 0 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_a_p_value_counts_the_observed_in():
    assert permutation_p(5.0, np.arange(4.0)) == pytest.approx(0.2)
    assert permutation_p(0.0, np.arange(4.0)) == 1.0
