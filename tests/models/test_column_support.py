"""Levels that nobody was measured in: nothing is put there, and new people who have the column are named."""

import numpy as np
import pytest

from medrep.models import LinearSettings, restore_model
from medrep.models.left_alone import left_alone, notes_on, summed, unmeasured
from tests.models.planted import AGE, DIAGNOSIS, SEX, SITE, draw_data, draw_people, fit, moved_by

TARGET = {"site": "S0"}


@pytest.fixture
def frame():
    frame = draw_people(120, 3, 0)
    return frame.assign(diagnosis=np.random.default_rng(0).choice(["HC", "MCI", "AD"], 120).tolist())


@pytest.fixture
def data(frame):
    return draw_data(frame, 8, 0)


def in_site(frame, site="S2"):
    return (frame["site"] == site).to_numpy()


@pytest.mark.parametrize("kind", ["missing", "zeros"])
def test_a_site_that_lacks_a_column_has_no_effect_there(frame, data, kind):
    away, whole = in_site(frame), data.copy()
    data[away, 3] = np.nan if kind == "missing" else 0.0
    model = fit(frame, data)
    assert model.batches.location[2, 3] == 0
    assert model.batches.log_scale[2, 3] == 0
    assert left_alone(model)["NotMeasured"] == {"site=S2": ["region_3"]}
    np.testing.assert_array_equal(model.remove(model.dataset(data, frame), TARGET)[away, 3], data[away, 3])
    for own in (model, restore_model(model.kind, *model.state())):
        transformed = own.remove(own.dataset(whole, frame), TARGET)
        assert np.isnan(transformed[away, 3]).all()
        assert np.isfinite(np.delete(transformed, 3, axis=1)).all()
        assert np.isfinite(transformed[~away, 3]).all()
    home = model.remove(model.dataset(whole, frame), {"site": "S2"})
    np.testing.assert_array_equal(home[away], whole[away])
    assert np.isnan(home[~away, 3]).all()
    cells = unmeasured(model, model.dataset(whole, frame), TARGET)
    assert {cell.person for cell in cells} == set(frame.index[away])
    assert str(cells[0]).endswith("region_3, which nobody of site=S2 had in training")
    assert summed(cells) == ["region_3 of site=S2 (40 people)"]
    assert unmeasured(model, model.dataset(data, frame), TARGET) == []
    assert len(unmeasured(model, model.dataset(whole, frame), {"site": "S2"})) == 80


def test_a_site_where_hardly_anybody_has_more_than_zero_is_left_as_it_is(frame, data):
    away = np.flatnonzero(in_site(frame))
    data[away[2:], 3] = 0
    model = fit(frame, data)
    transformed = model.remove(model.dataset(data, frame), TARGET)
    np.testing.assert_array_equal(transformed[away, 3], data[away, 3])
    assert left_alone(model)["HardlyMeasured"] == {"site=S2": ["region_3"]}
    assert "site=S2 stays as it is" in " ".join(notes_on(left_alone(model)))


@pytest.mark.parametrize("level", ["AD", "HC", "MCI"])
def test_a_diagnosis_that_lacks_a_column(frame, data, level):
    declared = (AGE, SEX, SITE, DIAGNOSIS)
    own, whole = (frame["diagnosis"] == level).to_numpy(), data.copy()
    data[own, 3] = np.nan
    model = fit(frame, data, declared=declared)
    transformed = model.remove(model.dataset(data, frame), {"site": "S0"})
    assert (transformed[~own & ~in_site(frame, "S0"), 3] != data[~own & ~in_site(frame, "S0"), 3]).all()
    alone = moved_by(fit(frame[~own], whole[~own], declared=declared), whole[~own], frame[~own], {"site": "S0"})
    np.testing.assert_allclose(transformed[~own, 3], alone[:, 3], atol=0.6)  # sites are shrunk with other neighbours
    assert {cell.cell for cell in unmeasured(model, model.dataset(whole, frame), {"site": "S0"})} == {
        f"diagnosis={level}"
    }
    assert np.isnan(model.remove(model.dataset(whole, frame), {"diagnosis": level})[~own, 3]).all()


def test_levels_that_interact(frame, data):
    settings = LinearSettings(spline_degrees=1, interactions=(("sex", "diagnosis"), ("age", "sex")))
    own = ((frame["sex"] == "M") & (frame["diagnosis"] == "AD")).to_numpy()
    whole = data.copy()
    data[own, 3] = np.nan
    model = fit(frame, data, settings, (AGE, SEX, SITE, DIAGNOSIS))
    cells = unmeasured(model, model.dataset(whole, frame), TARGET)
    assert {cell.cell for cell in cells} == {"sex=M x diagnosis=AD"}
    home = in_site(frame, "S0")
    assert {cell.person for cell in cells} == set(frame.index[own & ~home])
    transformed = model.remove(model.dataset(whole, frame), TARGET)
    assert np.isnan(transformed[own & ~home, 3]).all()
    assert np.isfinite(transformed[~own, 3]).all()


def test_a_new_site_that_lacks_a_column(frame, data):
    model = fit(frame, data)
    new = frame.iloc[:12].assign(site="X")
    holed = data[:12].copy()
    holed[:, 5] = np.nan
    adapted, _ = model.adapt([model.dataset(holed, new)])
    assert adapted.batches.location[3, 5] == 0
    assert left_alone(adapted)["NotMeasured"] == {"site=X": ["region_5"]}
    transformed = adapted.remove(adapted.dataset(data[:12], new), TARGET)
    assert np.isnan(transformed[:, 5]).all()
    assert np.isfinite(np.delete(transformed, 5, axis=1)).all()
