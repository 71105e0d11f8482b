import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cohort.covariates import POOLED, CovariateSchema
from medrep.cohort.support import (
    Support,
    outside_json,
    outside_training,
    refuse_extrapolation,
    refuse_far,
)
from medrep.errors import CovariateError
from tests.models.planted import AGE, DECLARED, draw_people


@pytest.fixture
def frame() -> pd.DataFrame:
    return draw_people(90, 3, 0)


@pytest.fixture
def schema(frame) -> CovariateSchema:
    return CovariateSchema.fit(frame, DECLARED)


def counted(frame: pd.DataFrame, age: float | None = None, **levels: str) -> int:
    """Count by hand, with ages taken to the middle of their bin of 40."""
    near = np.ones(len(frame), dtype=bool)
    if age is not None:
        own = frame["age"].to_numpy()
        width = (own.max() - own.min()) / 40
        middle = own.min() + (np.minimum((own - own.min()) // width, 39) + 0.5) * width
        near &= np.abs(middle - age) <= own.std() / 2
    for name, level in levels.items():
        near &= (frame[name] == level).to_numpy()
    return int(near.sum())


@given(age=st.floats(0, 120), sex=st.sampled_from(["F", "M", None]), site=st.sampled_from(["S0", "S2", None]))
def test_who_is_near_is_a_count_by_hand(age, sex, site):
    frame = draw_people(90, 3, 0)
    schema = CovariateSchema.fit(frame, DECLARED)
    levels = {name: level for name, level in (("sex", sex), ("site", site)) if level is not None}
    assert Support.fit(schema, frame).near(schema, {"age": age, **levels}) == counted(frame, age, **levels)


def test_levels_are_counted_exactly(schema, frame):
    support = Support.fit(schema, frame)
    assert support.near(schema, {"sex": "F"}) == (frame["sex"] == "F").sum()
    assert support.near(schema, {"sex": "F", "site": "S1"}) == ((frame["sex"] == "F") & (frame["site"] == "S1")).sum()
    assert support.near(schema, {}) == sum(support.counts) == 90


def test_bins_tell_ages_to_within_half_a_bin(schema, frame):
    age, own = 50.0, frame["age"].to_numpy()
    half_bin, radius = (own.max() - own.min()) / 80, own.std() / 2
    found = Support.fit(schema, frame).near(schema, {"age": age})
    gaps = np.abs(own - age)
    assert (gaps <= radius - half_bin).sum() <= found <= (gaps <= radius + half_bin).sum()


def test_nobody_is_near_what_nobody_is(schema, frame):
    support = Support.fit(schema, frame)
    assert support.near(schema, {"age": 300.0}) == 0
    assert support.near(schema, {"site": POOLED}) == 0


def test_the_youngest_and_the_oldest_have_a_bin(schema, frame):
    support = Support.fit(schema, frame)
    bins = [int(cell[0]) for cell in support.cells]
    assert (min(bins), max(bins)) == (0, 39)
    for age in (frame["age"].min(), frame["age"].max()):
        assert support.near(schema, {"age": float(age)}) >= 1


def test_storage_is_faithful_and_holds_no_rows(schema, frame):
    support = Support.fit(schema, frame)
    content = to_json(support)
    assert from_json(Support, content) == support
    assert not set(map(str, frame.index)) & set(str(content).split("'"))


def test_the_order_of_people_does_not_matter(schema, frame):
    assert Support.fit(schema, frame.iloc[::-1]) == Support.fit(schema, frame)


def test_inside_the_range_is_allowed_to_the_ends(schema, frame):
    for age in (frame["age"].min(), 50.0, frame["age"].max()):
        refuse_extrapolation(schema, {"age": float(age), "sex": "F", "site": POOLED})


def test_beyond_the_range_is_refused_with_all_offenders():
    frame = draw_people(90, 3, 0).assign(iq=np.linspace(80, 120, 90))
    schema = CovariateSchema.fit(frame, (AGE, type(AGE)("iq", "continuous")))
    with pytest.raises(CovariateError) as error:
        refuse_extrapolation(schema, {"age": 120.0, "iq": 60.0})
    message = str(error.value)
    for part in ("age=120: training people had", "year", "iq=60: training people had 80 to 120", "--extrapolate"):
        assert part in message


def at(frame: pd.DataFrame, **ages: float) -> pd.DataFrame:
    """Return as many people as ages are given, of these ages."""
    return frame.iloc[: len(ages)].set_axis(list(ages)).assign(age=list(ages.values()))


@given(share=st.floats(-0.5, 1), below=st.booleans())
def test_a_fifth_of_the_range_is_where_far_begins(share, below):
    frame = draw_people(90, 3, 0)
    schema = CovariateSchema.fit(frame, DECLARED)
    low, high = schema["age"].low, schema["age"].high
    age = low - share * (high - low) if below else high + share * (high - low)
    found = outside_training(schema, at(frame, a=age, b=50.0))
    assert [one.key for one in found] == (["a"] if age < low or age > high else [])
    if abs(share - 0.2) > 1e-9:
        assert any(one.far for one in found) == (share > 0.2)


def test_everybody_who_is_far_is_refused_with_value_and_range(schema, frame):
    found = outside_training(schema, at(frame, a=958.0, b=50.0, c=-99.0, d=schema["age"].high + 1))
    assert [one.key for one in found] == ["a", "c", "d"]
    with pytest.raises(CovariateError) as error:
        refuse_far(found)
    message = str(error.value)
    for part in ("(2)", "a: age=958: training people had", "c: age=-99", "--exclude", "--extrapolate"):
        assert part in message
    assert "d: age" not in message
    refuse_far([one for one in found if not one.far])


def test_a_sidecar_says_how_far(schema, frame):
    high, sd = schema["age"].high, schema["age"].sd
    content = outside_json(outside_training(schema, at(frame, a=high + 2 * sd, b=50.0)))
    assert content == {
        "a": {
            "age": {"Value": high + 2 * sd, "TrainingLow": schema["age"].low, "TrainingHigh": high, "DistanceSd": 2.0}
        }
    }
    assert outside_training(schema, frame[["sex"]]) == []


def test_a_person_of_several_scans_is_one_person(schema, frame):
    twice = pd.concat([frame, frame])
    whose = [*frame.index, *frame.index]
    target = {"site": "S1"}
    assert Support.fit(schema, twice, whose) == Support.fit(schema, frame)
    assert Support.fit(schema, twice).near(schema, target) == 2 * Support.fit(schema, frame).near(schema, target)
