"""Models that fooled an audit: one that removes nothing, one that guts the data. The shipped gates refuse both, with reasons."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.audit import suite
from medrep.audit.data import AuditData
from medrep.audit.suite import AuditOptions, run_suite
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.config import SHIPPED
from medrep.models import LinearModel, LinearSettings
from medrep.tracking.gates import Decision, read_gates
from tests.models.planted import DECLARED, named


def people(n: int, seed: int, tie: float = 0.0) -> pd.DataFrame:
    """Draw people of two sites; with a tie, those of S1 are older."""
    rng = np.random.default_rng([seed, 1])
    site = rng.permutation(np.arange(n) % 2)
    age = np.clip(50 + 12 * rng.normal(size=n) + tie * (site - 0.5), 18, 90)
    return pd.DataFrame(
        {"age": age, "sex": rng.choice(["F", "M"], n), "site": np.where(site == 1, "S1", "S0")},
        index=[f"sub-{k}" for k in range(n)],
    )


def measured(frame: pd.DataFrame, seed: int, site_effect: float) -> np.ndarray:
    """Draw 20 columns that tell age and sex, and six traits of people; three columns tell the site."""
    rng = np.random.default_rng([seed, 2])
    fixed = np.random.default_rng(99)
    decades = (frame["age"].to_numpy(float)[:, None] - 50) / 10
    male = (frame["sex"] == "M").to_numpy(float)[:, None]
    loadings = fixed.normal(size=(6, 20))
    own = rng.normal(size=(len(frame), 6)) @ loadings + rng.normal(size=(len(frame), 20))
    data = 10 + decades * fixed.normal(0, 0.5, 20) + male * fixed.normal(0, 0.5, 20) + own
    data[:, :3] += site_effect * own.std(axis=0)[:3] * (frame["site"] == "S1").to_numpy(float)[:, None]
    return data


def audit(model: LinearModel, frame: pd.DataFrame, data: np.ndarray, outcome: np.ndarray) -> Decision:
    frame = model.schema.transfer(frame)
    table = frame.assign(participant_id=frame.index, diagnosis=outcome)
    audit_data = AuditData(model, model.dataset(data, frame), table, model.schema.references(["site"]), trained=300)
    found = run_suite(audit_data, AuditOptions(outcome="diagnosis"))
    return read_gates(SHIPPED / "gates.yaml").judge(found.findings)


def fitted(frame: pd.DataFrame, data: np.ndarray) -> LinearModel:
    schema = CovariateSchema.fit(frame, DECLARED)
    columns: Columns = named(data.shape[1])
    return LinearModel.fit(Dataset(data, schema.transfer(frame), schema, columns), LinearSettings())[0]


class Gutted(LinearModel):
    """A model that hands out two directions of what is left, and nothing else of a person."""

    def transform(self, dataset: Dataset, to: pd.DataFrame, out: np.ndarray | None = None) -> np.ndarray:
        transformed = super().transform(dataset, to, out)
        mean = transformed.mean(axis=0)
        axes = np.linalg.svd(transformed - mean, full_matrices=False)[2][:1]
        return mean + (transformed - mean) @ axes.T @ axes


@pytest.fixture(autouse=True)
def without_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of an audit's time goes to what latents carry, which no gate asks."""
    monkeypatch.setattr(suite, "_latents", lambda *_: [])


@pytest.fixture(scope="module")
def training() -> tuple[pd.DataFrame, np.ndarray]:
    frame = people(300, 0)
    return frame, measured(frame, 0, 0.0)


def outcome_of(data: np.ndarray, seed: int) -> np.ndarray:
    score = (data[:, 12] - data[:, 14]) / (data[:, 12] - data[:, 14]).std()
    return np.where(score + 0.5 * np.random.default_rng(seed).normal(size=len(data)) > 0, "patient", "control")


def test_a_model_that_removes_nothing_is_refused_although_age_tells_the_site(training) -> None:
    model = fitted(*training)
    frame = people(200, 1, tie=36.0)
    data = measured(frame, 1, 1.2)
    decision = audit(model, frame, data, outcome_of(data, 1))
    assert decision.verdict == "refused"
    said = "\n".join(decision.reasons)
    assert "exported/site" in said
    assert "leakage" in said or "dependence_given_kept" in said


def test_a_gutted_export_is_refused_for_what_is_lost(training) -> None:
    model = fitted(*training)
    state = {name: getattr(model, name) for name in model.__dataclass_fields__}
    frame = people(200, 2)
    data = measured(frame, 2, 0.0)
    decision = audit(Gutted(**state), frame, data, outcome_of(data, 2))
    assert decision.verdict == "refused"
    said = "\n".join(decision.reasons)
    for metric in ("variance_kept", "identity_kept", "utility_change"):
        assert metric in said


def test_a_proper_model_is_not_refused(training) -> None:
    frame, _ = training
    model = fitted(frame, measured(frame, 0, 1.2))
    others = people(240, 3)
    data = measured(others, 3, 1.2)
    decision = audit(model, others, data, outcome_of(data, 3))
    assert decision.verdict != "refused", decision.reasons
    assert replace(decision).warnings == ()


def test_people_of_training_are_counted_and_not_their_scans(training) -> None:
    frame, _ = training
    scans = frame.loc[np.repeat(frame.index, 3)].set_axis([f"sub-{k}" for k in range(900)])
    schema = CovariateSchema.fit(scans, DECLARED)
    model = LinearModel.fit(
        Dataset(measured(scans, 0, 0.0), schema.transfer(scans), schema, named(20)), LinearSettings()
    )[0]
    audit_data = AuditData(model, model.dataset(measured(scans, 0, 0.0), scans), scans, {"site": "S0"}, trained=300)
    assert audit_data.people_of_training("site") == {"S0": 150.0, "S1": 150.0}
    assert audit_data.people_of_training("age") == {"": 300.0}
    assert replace(audit_data, trained=0).people_of_training("site") == {}
