"""Schemas of several trainings as one, and people as cells count them."""

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.joining import FittedCovariates, joined_schema
from medrep.cohort.support import Support
from medrep.errors import CovariateError

DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


def people(count: int, seed: int, sites: str = "AB") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {"age": rng.uniform(20, 60 + seed, count), "sex": rng.choice(["F", "M"], count)}
    return pd.DataFrame(columns | {"site": rng.choice(list(sites), count)}, index=[f"{seed}-{k}" for k in range(count)])


def fitted(
    frame: pd.DataFrame, name: str, declared: tuple[Covariate, ...] = DECLARED, **given: str
) -> FittedCovariates:
    return FittedCovariates(name, CovariateSchema.fit(frame, declared), len(frame), given)


def test_a_joined_schema_is_that_of_all_people() -> None:
    frames = [people(40, 1), people(70, 2, "BC"), people(30, 3, "D")]
    without = tuple(one for one in DECLARED if one.name != "site")
    parts = [fitted(frames[0], "X"), fitted(frames[1], "Y"), fitted(frames[2], "Z", without, site="D")]
    found, wanted = joined_schema(parts), CovariateSchema.fit(pd.concat(frames), DECLARED)
    assert found.names == wanted.names
    assert found.fitted[1:] == wanted.fitted[1:]
    for name in ("mean", "sd", "low", "high", "reference"):
        assert getattr(found["age"], name) == pytest.approx(getattr(wanted["age"], name))


def test_a_number_may_be_given() -> None:
    frames = [people(40, 1), people(50, 2).assign(age=31.0)]
    parts = [fitted(frames[0], "X"), fitted(frames[1], "Y", DECLARED[1:], age="31")]
    found, wanted = joined_schema(parts), CovariateSchema.fit(pd.concat(frames), DECLARED)
    assert (found["age"].mean, found["age"].sd) == pytest.approx((wanted["age"].mean, wanted["age"].sd))


def test_all_that_differs_is_refused_at_once() -> None:
    months = (Covariate("age", "continuous", unit="month"), *DECLARED[1:])
    coded = people(40, 2).replace({"sex": {"F": "1", "M": "2"}})
    with pytest.raises(CovariateError) as refused:
        joined_schema(
            [
                fitted(people(40, 1), "X"),
                fitted(coded, "Y", months),
                fitted(people(40, 3), "Z", DECLARED[1:], age="old"),
            ]
        )
    said = str(refused.value)
    assert "age.unit is 'month' in Y, and 'year' in X" in said
    assert "Z:age=old is no number" in said
    assert "sex is 1, 2 in Y, and F, M in the others" in said


def test_cells_say_where_people_are_to_a_fortieth_of_the_range() -> None:
    frame = people(60, 4)
    schema = CovariateSchema.fit(frame, DECLARED)
    support = Support.fit(schema, frame)
    middles = support.frame(schema)
    assert Support.counted(schema, middles, support.counts) == support
    ages = np.sort(np.repeat(middles["age"].to_numpy(), support.counts))
    width = (schema["age"].high - schema["age"].low) / 40
    assert np.abs(ages - np.sort(frame["age"])).max() <= width / 2 + 1e-9
    ends = support.frame(schema, (0.0, 1.0))
    assert len(ends) == 2 * len(middles)
    assert ends["age"].min() == pytest.approx(schema["age"].low)
