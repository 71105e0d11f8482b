"""Counterfactual quality of models whose faults are known: none, and some that do nothing, blur, forget or take along."""

import numpy as np
import pandas as pd
import pytest

from medrep.audit.counterfactuals import audit_counterfactuals, default_targets
from medrep.audit.retention import Ruler
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models import LinearModel
from tests.models.planted import DECLARED, draw_people, fit

COLUMNS = 20
RNG = np.random.default_rng(3)
AGE_EFFECT, SEX_EFFECT, SITE_EFFECT = (
    RNG.normal(0, 0.8, COLUMNS),
    RNG.normal(0, 1.2, COLUMNS),
    RNG.normal(0, 1.5, (3, COLUMNS)),
)


def cohort(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    frame = draw_people(n, 3, seed)
    own = np.random.default_rng([seed, 1]).normal(size=(n, COLUMNS))
    return frame, own + effects(frame)


def effects(frame: pd.DataFrame) -> np.ndarray:
    decades = (frame["age"].to_numpy(float)[:, None] - 50) / 10
    male = (frame["sex"] == "M").to_numpy()[:, None]
    return decades * AGE_EFFECT + male * SEX_EFFECT + SITE_EFFECT[frame["site"].str[1:].astype(int).to_numpy()]


class Faulty(LinearModel):
    """The linear model with a fault in what it hands back."""

    fault = "none"

    def transform(self, dataset: Dataset, to: pd.DataFrame, out: np.ndarray | None = None) -> np.ndarray:
        if self.fault == "nothing":
            return dataset.values.copy()
        transformed = super().transform(dataset, to, out)
        if self.fault == "blurs":
            return 0.8 * transformed + 0.2 * transformed.mean(axis=1, keepdims=True)
        if self.fault == "forgets":
            return super().transform(dataset.with_values(np.tile(self.coefficients[0], (len(dataset), 1))), to)
        if self.fault == "takes_sex_along" and "age" in to:
            return super().transform(
                dataset.with_values(transformed), to[["age"]].assign(age="F").rename(columns={"age": "sex"})
            )
        return transformed


def faulty(fault: str) -> LinearModel:
    frame, data = cohort(400, 0)
    model = fit(frame, data)
    state = {name: getattr(model, name) for name in model.__dataclass_fields__}
    return type("Case", (Faulty,), {"fault": fault})(**state)


PEOPLE, DATA = cohort(260, 1)
WHO = PEOPLE.index.to_numpy(object)
TARGETS = {"age": (35.0, 70.0), "sex": ("F",), "site": ("S1",)}


def audit_data(fault: str, *names: str):
    model = faulty(fault)
    targets = {name: TARGETS[name] for name in names or TARGETS}
    found = audit_counterfactuals(model, model.dataset(DATA, PEOPLE), 0, targets=targets, draws=200, most_people=90)
    return {(f.metric, f.group): f for f in found}


@pytest.fixture(scope="module")
def good():
    return audit_data("none")


def test_a_good_model(good):
    for name in ("age", "sex", "site"):
        assert good["cf_composition", name].estimate == 0
    for group in ("age=35", "age=70", "sex=F", "site=S1"):
        assert good["cf_reversibility", group].ci_high < 1e-6
        assert good["cf_effectiveness_gap", group].ci_low < 0.1
        assert 0 < good["cf_minimality", group].estimate < 1
    for group in ("sex=F", "site=S1"):
        assert good["cf_effectiveness", group].ci_low > 0.75
    # Residual 1 over 20 columns with an effect of .8 a decade: read to about 3 years.
    for group in ("age=35", "age=70"):
        assert good["cf_effectiveness", group].ci_high < 4
        assert "mean error to" in good["cf_effectiveness", group].note
        assert ", year;" in good["cf_effectiveness", group].note
    assert good["cf_minimality", "age/sex"].ci_high < 0.2
    assert good["cf_minimality", "sex/age"].ci_high < 0.3
    assert len(good) == 3 + 4 * 4 + 6
    assert {f.status for f in good.values()} == {"ok"}


def test_a_model_that_does_nothing_is_not_effective(good):
    idle = audit_data("nothing")
    for group in ("sex=F", "site=S1"):
        assert idle["cf_effectiveness", group].ci_high < 0.3
        assert idle["cf_effectiveness_gap", group].ci_low > 0.5
        assert idle["cf_minimality", group].estimate == 0
    assert idle["cf_effectiveness", "age=70"].ci_low > 10
    assert idle["cf_effectiveness_gap", "age=70"].ci_low > 7
    assert good["cf_effectiveness_gap", "age=70"].ci_high < 2


def test_a_model_that_blurs_fails_composition_and_reversibility():
    blurred = audit_data("blurs", "sex", "site")
    for name in ("sex", "site"):
        assert blurred["cf_composition", name].ci_low > 0.1
    assert blurred["cf_reversibility", "sex=F"].ci_low > 0.1


def test_a_model_that_forgets_the_person_is_not_reversible():
    forgot = audit_data("forgets", "sex")
    assert forgot["cf_reversibility", "sex=F"].ci_low > 0.3
    assert forgot["cf_composition", "sex"].ci_low > 0.3
    assert forgot["cf_effectiveness_gap", "sex=F"].ci_high < 0.2


def test_a_model_that_moves_what_is_kept_is_not_minimal(good):
    dragged = audit_data("takes_sex_along", "age", "site")
    assert dragged["cf_minimality", "age/sex"].ci_low > 0.35
    assert dragged["cf_minimality", "site/sex"].estimate == good["cf_minimality", "site/sex"].estimate
    assert dragged["cf_effectiveness", "age=70"].ci_high < 6


def test_where_real_people_cannot_be_read_nothing_is_said():
    model = faulty("none")
    noise = np.random.default_rng(2).normal(size=DATA.shape)
    found = audit_counterfactuals(model, model.dataset(noise, PEOPLE), 0, targets=TARGETS, draws=50, most_people=60)
    effect = [f for f in found if f.metric.startswith("cf_effectiveness")]
    assert {f.status for f in effect} == {"insufficient"}
    assert {f.status for f in found if f.metric in {"cf_composition", "cf_reversibility"}} == {"ok"}
    assert {f.status for f in found if "/" in f.group} == {"insufficient"}


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_few_people_say_nothing(n):
    model = faulty("none")
    found = audit_counterfactuals(model, model.dataset(DATA[:n], PEOPLE.iloc[:n]), 0, draws=50)
    assert found
    assert {f.status for f in found} == {"insufficient"}


def test_a_rare_level_is_listed_as_insufficient():
    frame = PEOPLE.copy()
    rare = (frame["site"] == "S2").to_numpy() & (np.arange(len(frame)) > 12)
    model = faulty("none")
    found = audit_counterfactuals(
        model, model.dataset(DATA[~rare], frame[~rare]), 0, targets={"site": ("S1", "S2")}, draws=50
    )
    status = {f.group: f.status for f in found if f.metric == "cf_effectiveness"}
    assert status == {"site=S1": "ok", "site=S2": "insufficient"}


def test_default_targets_lie_in_the_support():
    schema = CovariateSchema.fit(PEOPLE.iloc[:50], DECLARED)
    targets = default_targets(schema, PEOPLE)
    assert targets["sex"] == ("F", "M")
    assert targets["site"] == ("S0", "S1", "S2")
    low, middle, high = targets["age"]
    assert schema["age"].low <= low < middle < high <= schema["age"].high


def test_distances_are_in_deviations_and_pass_over_holes():
    data = np.array([[0.0, 0, 5], [2, 4, 5], [4, 8, 5]])
    ruler = Ruler.of(data, 0)
    sd = data[:, :2].std(axis=0)
    assert np.isinf(ruler.scale[2])
    other = data + np.array([1.0, np.nan, 3.0])
    np.testing.assert_allclose(ruler.between(data, other), 1 / sd[0])


def test_sessions_of_one_participant_stay_together_and_the_seed_decides(good):
    model = faulty("none")
    who = np.repeat(WHO[::2], 2)
    found, again = (
        audit_counterfactuals(model, model.dataset(DATA, PEOPLE, who.tolist()), 1, targets={"sex": ("F",)}, draws=50)
        for _ in range(2)
    )
    assert found == again
    assert found[0].n <= 65
    assert good["cf_composition", "sex"].n == 90
