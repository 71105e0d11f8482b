"""A scanner that training did not have, from its own people."""

from dataclasses import replace

import numpy as np
import pytest

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.errors import CovariateError, ModelError
from medrep.models.scanner import ScannerHarmonizer
from medrep.models.scanner.forward import Rendering
from tests.models.scanner.conftest import BOX, error, padded, person, true_scanner


@pytest.fixture(scope="module")
def arrivals(axes):
    """People of a third scanner: brighter, less blurred, noisier."""
    rng = np.random.default_rng(8)
    own = true_scanner(axes)
    rendering = Rendering(axes, replace(own, shading=-own.shading, taps=own.taps / 2, noise=0.03))
    people = [person(rng) for _ in range(40)]
    seen = [padded(rendering.simulate(values, BOX, rng)).ravel() for values in people]
    return np.stack([padded(values).ravel() for values in people]), np.stack(seen)


def chunks(rows, size=7):
    return ((rows[k : k + size], np.zeros((len(rows[k : k + size]), 1))) for k in range(0, len(rows), size))


def test_a_planted_scanner_is_recovered(model, arrivals):
    clean, seen = arrivals
    wider, how_well = from_state(ScannerHarmonizer, *to_state(model)).adapt("C", chunks(seen[:30]))
    assert wider.levels == ("A", "B", "C")
    transformed = wider.transform(seen[30:], ["C"] * 10, "A")
    assert error(transformed, clean[30:]) < 0.03  # the noise's deviation
    assert error(transformed, clean[30:]) < error(seen[30:], clean[30:]) / 4
    assert (how_well.covariate, how_well.level, how_well.people) == ("site", "C", 30)
    assert 0 < how_well.location_se < 1
    assert 0 < how_well.log_scale_se < 0.3
    assert 0.5 < how_well.location_kept <= 1
    assert 0 < how_well.log_scale_kept <= 1
    assert "C" not in model.levels


def test_what_was_known_stays(model, arrivals, cohort):
    wider, _ = model.adapt("C", chunks(arrivals[1][:12]))
    rows, levels = cohort.seen[:4], ["A", "B", "A", "B"]
    for target in ("A", "B", "(pooled)"):
        np.testing.assert_array_equal(wider.transform(rows, levels, target), model.transform(rows, levels, target))
    again = from_state(ScannerHarmonizer, *to_state(wider))
    np.testing.assert_array_equal(
        again.transform(arrivals[1][:2], ["C"] * 2, "A"), wider.transform(arrivals[1][:2], ["C"] * 2, "A")
    )


def test_a_few_people_tell_gain_and_shading(model, arrivals):
    clean, seen = arrivals
    wider, how_well = model.adapt("C", chunks(seen[:3]))
    assert wider.notes == ("C: gain and shading alone are estimated, shrunk: fewer than 5 usable images (3)",)
    assert how_well.log_scale_se is None
    assert error(wider.transform(seen[30:], ["C"] * 10, "A"), clean[30:]) < 0.6 * error(seen[30:], clean[30:])
    assert not wider.known.scanners["C"].spreads


def test_without_kept_volumes_gain_and_shading_are_told(model, arrivals):
    _, seen = arrivals
    nobody = replace(model, known=replace(model.known, kept=model.known.kept[:0]))
    wider, _ = from_state(ScannerHarmonizer, *to_state(nobody)).adapt("C", chunks(seen[:20]))
    assert wider.notes == ("C: gain and shading alone are estimated, since the model keeps no volumes",)
    known, full = (m.known.scanners["C"].shading[0] for m in (wider, model.adapt("C", chunks(seen[:20]))[0]))
    assert known == pytest.approx(full, abs=0.1)


def test_refusals(model, cohort):
    with pytest.raises(CovariateError, match="site 'B' has a scanner already"):
        model.adapt("B", chunks(cohort.seen[:4]))
    for rows in (cohort.seen[:0], np.ones_like(cohort.seen[:2])):
        with pytest.raises(CovariateError, match="site 'C' has nobody with a usable image"):
            model.adapt("C", chunks(rows))
    with pytest.raises(ModelError, match="3 covariate columns, but training had 1"):
        model.adapt("C", [(cohort.seen[:2], np.zeros((2, 3)))])
