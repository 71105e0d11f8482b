import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.covariates import POOLED, CovariateSchema
from medrep.cohort.support import Support, refuse_extrapolation
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
    content = support.to_json()
    assert Support.from_json(content) == support
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


def test_a_person_of_several_scans_is_one_person(schema, frame):
    twice = pd.concat([frame, frame])
    whose = [*frame.index, *frame.index]
    target = {"site": "S1"}
    assert Support.fit(schema, twice, whose) == Support.fit(schema, frame)
    assert Support.fit(schema, twice).near(schema, target) == 2 * Support.fit(schema, frame).near(schema, target)
