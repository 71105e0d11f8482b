"""A harmoniser comes back from its state as it was, and what is damaged is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.cohort.covariates import POOLED
from medrep.errors import ModelError
from medrep.models.scanner import ScannerHarmonizer


@pytest.fixture(scope="module")
def stored(model):
    content, arrays = to_state(model)
    return json.loads(json.dumps(content)), load(save(arrays))


def test_it_comes_back_as_it_was(model, stored, cohort):
    again = from_state(ScannerHarmonizer, *stored)
    assert (again.covariate, again.reference, again.seed, again.notes) == (model.covariate, "A", 0, ())
    rows, levels = cohort.seen[:4], ["A", "B", "A", "B"]
    for target in ("A", "B", POOLED):
        np.testing.assert_array_equal(again.transform(rows, levels, target), model.transform(rows, levels, target))
    content, arrays = to_state(again)
    assert json.loads(json.dumps(content)) == stored[0]
    assert all(np.array_equal(arrays[name], array) for name, array in stored[1].items())


def test_damaged_arrays_are_refused(stored):
    content, arrays = stored
    with pytest.raises(ModelError, match=r"scanner\.taps is absent"):
        from_state(ScannerHarmonizer, content, {k: v for k, v in arrays.items() if k != "scanner.taps"})
    with pytest.raises(ModelError, match=r"way_back\.weights has the shape \(2"):
        from_state(ScannerHarmonizer, content, {**arrays, "way_back.weights": arrays["way_back.weights"][:2]})
    with pytest.raises(ModelError, match=r"evidence\.covariance holds values that are not finite"):
        from_state(
            ScannerHarmonizer, content, {**arrays, "evidence.covariance": arrays["evidence.covariance"] * np.nan}
        )


def test_an_anchor_that_is_no_level_is_refused(stored):
    with pytest.raises(ModelError, match="anchor 'C' is none of the levels"):
        from_state(ScannerHarmonizer, {**stored[0], "anchor": "C"}, stored[1])


def test_levels_without_counts_are_refused(stored):
    known = {**stored[0]["known"], "counts": {"A": 3}}
    with pytest.raises(ModelError, match=r"levels and counts do not agree \(B\)"):
        from_state(ScannerHarmonizer, {**stored[0], "known": known}, stored[1])
