from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from medrep.audit.holdout_split import Probing
from medrep.audit.label_injection import audit_label_injection, regressed_out, shuffle_kept
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.errors import CohortError, CovariateError
from tests.models.planted import people_of
from tests.shortened import at_most, seeds

AGE, SEX, SITE = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)
PLAIN = ("linear", "rbf")
COLUMNS = 5
Export = Callable[[pd.DataFrame], np.ndarray]


class People:
    """Data with effects of age, sex and site that the test knows, and exports that know them too."""

    def __init__(self, seed: int, people: int = 120, site: float = 1.0, age: float = 0.5) -> None:
        rng = np.random.default_rng(seed)
        keys = pd.Index([f"sub-{k:03d}" for k in range(people)])
        self.frame = pd.DataFrame(
            {
                "age": rng.uniform(20, 80, people),
                "sex": rng.choice(["F", "M"], people),
                "site": rng.choice(["A", "B", "C"], people),
            },
            index=keys,
        )
        self.schema = CovariateSchema.fit(self.frame, (AGE, SEX, SITE))
        self.weights, self.places = rng.normal(size=COLUMNS), site * rng.normal(size=(3, COLUMNS))
        self.raw = rng.normal(size=(people, COLUMNS)) + age * self.aged(self.frame) + self.placed(self.frame)

    def aged(self, frame: pd.DataFrame) -> np.ndarray:
        return (frame["age"].to_numpy(float)[:, None] - 50) / 17 * self.weights

    def placed(self, frame: pd.DataFrame) -> np.ndarray:
        return self.places[np.unique(frame["site"], return_inverse=True)[1]]

    def honest(self, frame: pd.DataFrame) -> np.ndarray:
        return self.raw - self.placed(frame)

    def writer(self, frame: pd.DataFrame) -> np.ndarray:
        """Add the effect of the age that it is told: what a decoder does that trusts its labels and not the data."""
        return self.honest(frame) + self.aged(frame)

    def audit(self, export: Export, kept=("age", "sex"), seed: int = 0, **more) -> dict[tuple[str, str], object]:
        found = audit_label_injection(
            export,
            people_of(self.raw, self.frame, self.schema, more.pop("participants", None)),
            kept,
            seed,
            exported=more.pop("exported", None),
            probing=Probing(**{"permutations": 99, "draws": 200, "probes": PLAIN, **more}),
        )
        return {(f.metric, f.group): f for f in found}


def test_a_decoder_that_writes_labels_is_found_and_an_honest_export_is_not():
    people = People(0)
    written, honest = people.audit(people.writer), people.audit(people.honest)
    assert set(written) == {(m, f"exported/{c}") for m in ("injection", "injection_gain") for c in ("age", "sex")}
    own = ("injection", "exported/age"), ("injection_gain", "exported/age")
    assert written[own[0]].p == pytest.approx(0.01)
    assert written[own[0]].estimate > 0.2
    assert written[own[1]].ci_low > 0.05
    assert honest[own[0]].p > 0.05
    assert honest[own[1]].ci_low < 0.05
    assert written["injection", "exported/sex"].p > 0.01
    assert {f.status for f in written.values()} == {"ok"}
    assert {f.n for f in written.values()} == {60}
    assert "labels that are not people's own" in written[own[0]].note


def test_a_written_category_is_found():
    people = People(1)

    def export(frame: pd.DataFrame) -> np.ndarray:
        spread = np.where(frame["sex"] == "M", 2.5, 0.5)[:, None]
        return people.honest(frame) * spread

    found = people.audit(export)
    assert found["injection", "exported/sex"].p == pytest.approx(0.01)
    assert found["injection_gain", "exported/sex"].ci_low > 0.05


@pytest.mark.shortened
def test_an_honest_export_is_rarely_accused_however_given_labels_fall():
    # People are few and age is plain in the data, so that given labels often resemble the true ones by chance.
    ps = []
    for seed in seeds(120):
        people = People(seed, people=44, age=1.5)
        found = people.audit(people.honest, kept=("age",), seed=seed)
        ps.append(found["injection", "exported/age"].p)
    for level in (0.05, 0.2):
        assert np.sum(np.array(ps) <= level) <= at_most(len(ps), level)
    assert np.mean(np.array(ps) <= 0.5) > 0.3


def test_taking_out_a_strong_site_effect_is_no_gain():
    people = People(3, people=200, site=6.0)
    found = people.audit(people.honest, kept=("age",))["injection_gain", "exported/age"]
    assert found.ci_low < 0.05
    assert "regressed out" in found.note
    assert people.audit(people.writer, kept=("age",))["injection_gain", "exported/age"].ci_low > 0.1


def test_kept_covariates_are_exchanged_together_and_removed_ones_stay():
    people = People(4)
    given = shuffle_kept(people.frame, ["age", "sex"], np.array(people.frame.index), np.random.default_rng(0))
    assert given.index.equals(people.frame.index)
    assert given["site"].equals(people.frame["site"])
    assert (given["age"] != people.frame["age"]).mean() > 0.9
    both = ["age", "sex"]
    pd.testing.assert_frame_equal(
        given[both].sort_values("age").reset_index(drop=True),
        people.frame[both].sort_values("age").reset_index(drop=True),
    )


def test_sessions_exchange_as_one_series():
    rng = np.random.default_rng(5)
    who = np.repeat(np.arange(30), 2)
    first = rng.uniform(20, 80, 30)
    frame = pd.DataFrame({"age": (first[:, None] + [0, 1]).ravel(), "site": ["A", "B"] * 30})
    given = shuffle_kept(frame, ["age"], who, rng)
    later = given["age"].to_numpy()
    np.testing.assert_allclose(later[1::2] - later[::2], 1)


def test_the_export_is_asked_with_given_labels_and_true_sites():
    people, asked = People(6), []

    def export(frame: pd.DataFrame) -> np.ndarray:
        asked.append(frame)
        return people.honest(frame)

    people.audit(export, exported=people.honest(people.frame))
    (given,) = asked
    assert given["site"].equals(people.frame["site"])
    assert not given["age"].equals(people.frame["age"])
    assert list(given.columns) == list(people.frame.columns)


def test_columns_with_missing_cells_are_left_out_and_other_people_refused():
    people = People(7)
    whole = people.audit(people.honest, kept=("age",))
    people.raw = np.concatenate([people.raw, np.full((120, 2), np.nan)], axis=1)
    people.places = np.concatenate([people.places, np.zeros((3, 2))], axis=1)
    assert people.audit(people.honest, kept=("age",)) == whole
    with pytest.raises(CohortError, match=r"exports of other people or columns.*\n.*export: \(3, 5\) for \(120, 7\)"):
        people.audit(lambda frame: people.raw[:3, :5])


def test_few_people_few_levels_and_nothing_kept():
    people = People(8, people=38)
    assert {f.status for f in people.audit(people.honest).values()} == {"insufficient"}
    assert people.audit(people.honest, kept=()) == {}
    with pytest.raises(CovariateError, match="no covariate 'weight'"):
        people.audit(people.honest, kept=("weight",))
    more = People(9)
    more.frame["site"] = ["A"] * 60 + ["B"] * 56 + ["S9"] * 4
    more.schema = CovariateSchema.fit(more.frame, (AGE, SEX, SITE))
    found = more.audit(lambda frame: more.raw, kept=("site",))
    assert found["injection", "exported/site=S9"].status == "insufficient"
    assert found["injection", "exported/site"].status == "ok"


def test_the_seed_decides():
    people = People(10)
    assert people.audit(people.honest, seed=1) == people.audit(people.honest, seed=1)
    assert people.audit(people.honest, seed=1) != people.audit(people.honest, seed=2)


def test_a_regression_takes_out_the_removed_covariates_alone():
    people = People(11, people=300, site=5.0, age=2.0)
    rest = regressed_out(people.raw, people.frame, ["site"], people.schema, np.arange(150))
    sites = pd.DataFrame(rest - people.raw + people.placed(people.frame))
    means = sites.groupby(people.frame["site"].to_numpy()).mean()
    assert (np.ptp(means.to_numpy(), axis=0) < 1.0).all()  # of effects of about 5; errors of 50 people
    slope = np.polyfit(people.frame["age"], rest @ people.weights / (people.weights**2).sum(), 1)[0]
    assert slope == pytest.approx(2.0 / 17, rel=0.15)
