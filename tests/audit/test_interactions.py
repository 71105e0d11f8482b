"""Whether covariates interact: found where planted, for kinds of three sorts; silent where effects add up."""

import numpy as np
import pandas as pd
import pytest

from medrep.audit.confounding import Interaction, probe_interactions, sample_columns, suggestion
from medrep.cohort.covariates import Covariate, CovariateSchema
from tests.models.planted import AGE, DIAGNOSIS, SEX, SITE, draw_data, draw_people

DECLARED = (AGE, SEX, DIAGNOSIS, SITE)


def people(n: int = 150, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    frame = draw_people(n, 3, seed).assign(diagnosis=[("well", "ill", "worse")[k // 6 % 3] for k in range(n)])
    return frame, draw_data(frame, 20, seed)


def probe(
    frame: pd.DataFrame, data: np.ndarray, declared: tuple[Covariate, ...] = DECLARED, **more
) -> dict[tuple[str, str], Interaction]:
    schema = CovariateSchema.fit(frame, declared)
    found = probe_interactions(data, schema.transfer(frame), schema, degrees=4, **more)
    return {result.covariates: result for result in found}


def product(frame: pd.DataFrame, first: str, second: str) -> np.ndarray:
    def number(name: str) -> np.ndarray:
        values = frame[name]
        return (
            (values.to_numpy(float) - 50) / 17
            if name == "age"
            else values.isin(["M", "ill"]).to_numpy(dtype=np.float64)
        )

    return (number(first) * number(second))[:, None]


@pytest.mark.parametrize("pair", [("age", "sex"), ("age", "diagnosis"), ("sex", "diagnosis")], ids="-".join)
@pytest.mark.parametrize("share", [1.0, 0.1], ids=["everywhere", "in two columns"])
def test_a_planted_interaction_is_found_and_no_other(pair, share):
    frame, data = people()
    columns = int(share * data.shape[1])
    data[:, :columns] += product(frame, *pair) * np.random.default_rng(5).normal(0, 1.5, columns)
    found = probe(frame, data)
    assert list(found) == [("age", "sex"), ("age", "diagnosis"), ("sex", "diagnosis")]
    assert [own for own, result in found.items() if result.found] == [pair]
    assert found[pair].n == 150
    assert 0 < found[pair].share < 0.5


def test_bent_and_confounded_effects_that_add_up_are_silent():
    frame, data = people(seed=1)
    frame["sex"] = np.where(frame["age"] + np.random.default_rng(0).normal(0, 15, len(frame)) > 55, "M", "F")
    age = (frame["age"].to_numpy(float)[:, None] - 50) / 17
    data += 2 * age**2 + 3 * (frame["sex"] == "M").to_numpy()[:, None]
    assert not any(result.found for result in probe(frame, data).values())


def test_two_continuous_covariates_interact():
    frame, data = people()
    frame["dose"] = np.random.default_rng(2).uniform(0, 10, len(frame))
    declared = (*DECLARED, Covariate("dose", "continuous"))
    assert not probe(frame, data, declared)["age", "dose"].found
    data = data + (frame["dose"] * (frame["age"] - 50)).to_numpy()[:, None] / 60
    assert probe(frame, data, declared)["age", "dose"].found


def test_scans_of_one_person_are_no_evidence_of_their_own():
    hits = 0
    for seed in range(6):
        frame, data = people(60, seed)
        own = np.random.default_rng(seed).normal(0, 2, data.shape)
        scans = np.repeat(np.arange(60), 4)
        noise = 0.1 * np.random.default_rng([seed, 1]).normal(size=(240, data.shape[1]))
        who = frame.index[scans].tolist()
        found = probe(frame.iloc[scans].set_axis(range(240)), (data + own)[scans] + noise, participants=who)
        assert {result.n for result in found.values()} == {60}
        hits += any(result.found for result in found.values())
    assert hits <= 1


def test_what_is_declared_is_not_tested_and_few_people_tell_nothing():
    frame, data = people()
    assert list(probe(frame, data, declared=DECLARED)) == list(probe(frame, data))
    schema = CovariateSchema.fit(frame, DECLARED)
    tested = probe_interactions(
        data, schema.transfer(frame), schema, degrees=4, declared=(("sex", "age"), ("age", "diagnosis"))
    )
    assert [result.covariates for result in tested] == [("sex", "diagnosis")]
    assert not probe(*people(18))
    assert not probe(frame, np.full_like(data, 3.0))
    assert not probe(frame, data, (AGE, SITE))


def test_columns_are_sampled_evenly():
    np.testing.assert_array_equal(sample_columns(5), np.arange(5))
    some = sample_columns(7_000_000)
    assert len(some) < 200
    assert (some[0], some[-1]) == (0, 6_999_999)
    assert np.ptp(np.diff(some)) <= 1


def test_the_setting_names_what_is_there_and_what_was_found():
    def result(first: str, second: str, p: float) -> Interaction:
        return Interaction((first, second), 0.1, p, 100)

    found = (result("age", "diagnosis", 0.01), result("sex", "diagnosis", 0.5))
    assert suggestion(found, (("age", "sex"),), "settings.interactions") == (
        "--set 'settings.interactions=[[age, sex], [age, diagnosis]]'"
    )
    assert suggestion(found[1:], (), "settings.interactions") == ""


@pytest.mark.parametrize("some", [1, 2, 9])
def test_too_few_people_tell_nothing(some):
    frame, data = people()
    schema = CovariateSchema.fit(frame, DECLARED)
    assert probe_interactions(data[:some], schema.transfer(frame).iloc[:some], schema, degrees=4) == ()
