"""Salient latents on a planted diagnosis: told by these and by no others, moved exactly, found again when they are swapped."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medrep.audit.data import AuditData
from medrep.cohort.covariates import POOLED, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import CovariateError, ModelError
from medrep.models import ConditionalVae, VaeSettings, restore_model
from medrep.models.vae.contrastive import Contrast
from medrep.models.vae.roles import Roles
from tests.models.planted import AGE, SEX, SITE, named, unlabelled

DIAGNOSIS = Covariate("diagnosis", "categorical", reference="control")
DECLARED = (AGE, SEX, SITE, DIAGNOSIS)
SALIENT = VaeSettings(roles=Roles("diagnosis"))
COLUMNS = 30


@dataclass(frozen=True)
class World:
    """Common factors, and directions of the diagnosis: a shift in the first, variance in the second."""

    factors: np.ndarray
    salient: np.ndarray
    age: np.ndarray
    site: np.ndarray

    @classmethod
    def plant(cls, seed: int) -> "World":
        rng = np.random.default_rng(seed)
        return cls(
            rng.normal(size=(4, COLUMNS)) * 0.6,
            rng.normal(size=(2, COLUMNS)) * 0.3,
            rng.normal(size=COLUMNS) * 0.4,
            rng.normal(size=(3, COLUMNS)) * 0.5,
        )

    def draw(self, people: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """Return covariates, data, and the true salient part."""
        rng = np.random.default_rng([seed, 1])
        age = rng.uniform(20, 80, people)
        patient = rng.random(people) < 1 / (1 + np.exp(-(age - 50) / 60))
        site = rng.integers(0, 3, people)
        frame = pd.DataFrame(
            {
                "age": age,
                "sex": rng.choice(["F", "M"], people),
                "site": [f"S{k}" for k in site],
                "diagnosis": np.where(patient, "patient", "control"),
            },
            index=[f"sub-{k}" for k in range(people)],
        )
        s = patient[:, None] * (np.array([1.5, 0]) + rng.normal(size=(people, 2)) * [0, 2])
        own = rng.normal(size=(people, 4)) @ self.factors + 0.6 * rng.normal(size=(people, COLUMNS))
        return frame, np.outer((age - 50) / 20, self.age) + self.site[site] + own + s @ self.salient, s


def fit(frame: pd.DataFrame, data: np.ndarray, settings: VaeSettings = SALIENT) -> ConditionalVae:
    schema = CovariateSchema.fit(frame, DECLARED)
    return ConditionalVae.fit(Dataset(data, schema.transfer(frame), schema, named(data.shape[1])), settings)[0]


@pytest.fixture(scope="module")
def world() -> World:
    return World.plant(3)


@pytest.fixture(scope="module")
def model(world: World) -> ConditionalVae:
    frame, data, _ = world.draw(700, 0)
    return fit(frame, data)


@pytest.fixture(scope="module")
def unseen(world: World, model: ConditionalVae) -> Dataset:
    frame, data, _ = world.draw(800, 1)
    return model.dataset(data, model.schema.transfer(frame))


def patients(people: Dataset) -> np.ndarray:
    return (people.covariates["diagnosis"] == "patient").to_numpy()


def auc(table: np.ndarray, labels: np.ndarray) -> float:
    """AUC of a probe of columns and their squares, on the half that it was not fitted to."""
    half = len(table) // 2
    wide = np.concatenate([table, table**2], axis=1)
    wide = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    probe = LogisticRegression(C=0.1, max_iter=2000).fit(wide[:half], labels[:half])
    return float(roc_auc_score(labels[half:], probe.decision_function(wide[half:])))


def blocks(model: ConditionalVae, people: Dataset) -> tuple[np.ndarray, np.ndarray]:
    z, count = model.encode(people), len(model.latent_roles)
    return z[:, :-count], z[:, -count:]


def test_salient_latents_tell_the_diagnosis_and_common_ones_do_not(model, unseen):
    common, salient = blocks(model, unseen)
    assert model.latent_roles == ("salient_1", "salient_2")
    labels = patients(unseen)
    assert auc(salient, labels) > auc(unseen.values, labels) - 0.02
    assert auc(common, labels) < 0.58
    age = np.corrcoef(np.column_stack([salient, unseen.covariates["age"]]), rowvar=False)[-1, :-1]
    assert (age**2).max() < 0.05
    np.testing.assert_allclose(salient[~labels].mean(axis=0), 0, atol=0.1)


def test_nobodys_diagnosis_is_needed_to_encode(model, unseen):
    frame = unseen.covariates
    exchanged = unseen.with_covariates(frame.assign(diagnosis=frame["diagnosis"].to_numpy()[::-1]))
    np.testing.assert_array_equal(model.encode(exchanged), model.encode(unseen))
    np.testing.assert_array_equal(model.reconstruct(exchanged), model.reconstruct(unseen))


def test_controls_stay_and_a_second_removal_changes_nothing(model, unseen):
    removed = model.remove(unseen, {"diagnosis": "control"})
    labels = patients(unseen)
    np.testing.assert_array_equal(removed[~labels], unseen.values[~labels])
    assert np.abs(removed[labels] - unseen.values[labels]).max() > 0.1
    there = unseen.with_values(removed).with_covariates(unseen.covariates.assign(diagnosis="control"))
    np.testing.assert_array_equal(model.remove(there, {"diagnosis": "control"}), removed)
    assert auc(removed, labels) < auc(unseen.values, labels) - 0.15


def test_there_and_back_is_nothing(model, unseen):
    frame = unseen.covariates
    for level in ("control", "patient"):
        moved = model.remove(unseen, {"diagnosis": level})
        there = unseen.with_values(moved).with_covariates(frame.assign(diagnosis=level))
        np.testing.assert_allclose(model.transform(there, frame[["diagnosis"]]), unseen.values, atol=1e-5)


def test_an_audit_looks_at_both_blocks_apart(model, unseen):
    audited = AuditData(model, unseen, unseen.covariates, {"site": POOLED})
    assert audited.tables["salient"].shape == (len(unseen.values), 2)
    both = np.concatenate([audited.tables["latents"], audited.tables["salient"]], axis=1)
    np.testing.assert_array_equal(both, model.encode(unseen))


def test_patients_that_controls_are_made_of_look_like_patients(model, unseen, world):
    labels = patients(unseen)
    made = model.remove(unseen, {"diagnosis": "patient"})
    np.testing.assert_array_equal(made[labels], unseen.values[labels])
    both = np.concatenate([made[~labels], unseen.values[labels]])
    order = np.random.default_rng(0).permutation(len(both))
    _, salient = blocks(model, model.dataset(both, pd.concat([unseen.covariates[~labels], unseen.covariates[labels]])))
    assert auc(salient[order], (np.arange(len(both)) < (~labels).sum())[order]) < 0.6


def test_labels_of_what_is_kept_are_not_looked_at(model, unseen):
    frame = unseen.covariates
    others = frame.assign(age=frame["age"].to_numpy()[::-1], site=frame["site"].to_numpy()[::-1])
    np.testing.assert_array_equal(
        model.remove(unseen.with_covariates(others), {"diagnosis": "control"}),
        model.remove(unseen, {"diagnosis": "control"}),
    )


def test_diagnosis_and_site_go_together(model, unseen):
    removed = model.remove(unseen, {"diagnosis": "control", "site": POOLED})
    site = (unseen.covariates["site"] == "S0").to_numpy()
    assert auc(removed, patients(unseen)) < auc(unseen.values, patients(unseen)) - 0.15
    assert auc(removed, site) < 0.65 < auc(unseen.values, site)


def test_everything_goes_at_once_and_twice_is_once(model, unseen):
    target = {"age": 50.0, "sex": "F", "site": POOLED, "diagnosis": "control"}
    removed = model.remove(unseen, target)
    for labels in (patients(unseen), (unseen.covariates["site"] == "S0").to_numpy()):
        assert auc(removed, labels) < 0.65
    there = unseen.with_values(removed).with_covariates(unseen.covariates.assign(**target))
    np.testing.assert_array_equal(model.remove(there, target), removed)


def test_swapped_parts_are_found_again(model, unseen):
    order = np.random.default_rng(0).permutation(len(unseen.values))
    donors, count = unseen.take(order), len(model.latent_roles)
    z = model.posterior(unseen)[0]
    again = model.posterior(unseen.with_values(model.swapped(unseen, donors)))[0]
    np.testing.assert_allclose(again[:, :-count], z[:, :-count], atol=1e-4)
    np.testing.assert_allclose(again[:, -count:], z[order][:, -count:], atol=1e-4)
    np.testing.assert_allclose(model.swapped(unseen, unseen), unseen.values, atol=1e-12)
    with pytest.raises(ModelError, match="800 people and 3 donors"):
        model.swapped(unseen, donors.take(np.arange(3)))


def test_the_same_after_it_was_saved(model, unseen):
    content, arrays = model.state()
    again = restore_model(model.kind, content, arrays)
    np.testing.assert_array_equal(again.encode(unseen), model.encode(unseen))
    np.testing.assert_array_equal(
        again.remove(unseen, {"diagnosis": "control"}), model.remove(unseen, {"diagnosis": "control"})
    )
    assert again.latent_roles == model.latent_roles


def test_drawn_people_have_the_diagnosis_of_their_row(model, unseen):
    drawn = unseen.with_values(model.sample(unseen.covariates, seed=0))
    labels = patients(unseen)
    gap = [own[labels].mean(axis=0) - own[~labels].mean(axis=0) for own in (drawn.values, unseen.values)]
    assert np.corrcoef(gap)[0, 1] > 0.7
    assert auc(blocks(model, drawn)[1], labels) == pytest.approx(auc(blocks(model, unseen)[1], labels), abs=0.08)


def test_certificates_are_those_of_the_common_latents(model):
    found = model.certificates(list(model.schema.names), [])[-1]
    assert found.covariate == "diagnosis"
    assert found.predicted_auc is not None
    assert found.predicted_auc < 0.6
    assert model.encode_unlabelled(unlabelled(model, np.zeros((2, COLUMNS)))).shape[1] == found.latents + 2


def test_an_unseen_site_is_adapted_to(model, world):
    frame, data, _ = world.draw(60, 5)
    people = model.schema.transfer(frame).assign(site="S9")
    adapted, _ = model.adapt([model.dataset(data, people)])
    assert adapted.encode(adapted.dataset(data, people)).shape[0] == 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(SALIENT, roles=Roles("dignosis")), "dignosis.*name one of age, sex, site, diagnosis"),
        (replace(SALIENT, roles=Roles("age")), "categorical that is no batch"),
        (replace(SALIENT, roles=Roles("site")), "categorical that is no batch"),
        (replace(SALIENT, body="mlp", beta=2.0), "roles.salient needs prior gaussian, beta 1"),
        (replace(SALIENT, roles=Roles("diagnosis", -1)), "salient_latents is -1"),
        (replace(SALIENT, roles=Roles("diagnosis", swap=-1.0)), "roles.swap is -1.0; give 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(world, settings, message):
    frame, data, _ = world.draw(100, 0)
    with pytest.raises(ModelError, match=message):
        fit(frame, data, settings)


def test_few_patients_are_refused_by_name(world):
    frame, data, _ = world.draw(100, 0)
    frame["diagnosis"] = np.where(np.arange(100) < 5, "patient", "control")
    with pytest.raises(ModelError, match=r"diagnosis: patient \(5\); two levels or more with 20 people"):
        fit(frame, data)


def test_a_level_that_training_did_not_have_is_named(model, unseen):
    with pytest.raises(CovariateError, match="other; the model's salient latents know"):
        model.transform(unseen, pd.DataFrame({"diagnosis": ["other"] * len(unseen.values)}, index=unseen.keys))


def test_factors_and_levels_are_recovered():
    rng = np.random.default_rng(0)
    factors, noise = rng.normal(size=(3, 25)) * 0.7, rng.uniform(0.4, 0.8, 25)
    salient = rng.normal(size=(2, 25)) * 0.4
    codes = rng.integers(0, 3, 2000)
    means = np.array([[0, 0], [1.5, 0], [0, -1.5]])
    spreads = np.array([0, 1, 2])
    s = means[codes] + rng.normal(size=(2000, 2)) * spreads[codes][:, None] ** 0.5
    h = rng.normal(size=(2000, 3)) @ factors + s @ salient + rng.normal(size=(2000, 25)) * noise
    found = Contrast.fit(h, codes, 0, (48, 0), 0)
    assert found.salient.shape == (2, 25)
    covariance = found.common.loadings.T @ found.common.loadings + np.diag(found.common.noise)
    truth = factors.T @ factors + np.diag(noise**2)
    assert np.linalg.norm(covariance - truth) < 0.1 * np.linalg.norm(truth)
    assert not found.means[0].any()
    assert not found.spreads[0].any()
    for level in (1, 2):
        np.testing.assert_allclose(found.means[level] @ found.salient, means[level] @ salient, atol=0.12)
        own = found.salient.T @ found.spreads[level] @ found.salient
        np.testing.assert_allclose(own, spreads[level] * salient.T @ salient, atol=0.25)
    read = found.read(h[codes == 0])
    np.testing.assert_allclose(np.cov(read, rowvar=False), np.eye(2), atol=0.15)
    np.testing.assert_allclose(found.salient @ found.readings(), np.eye(2), atol=1e-9)


def test_without_added_variance_only_the_shift_is_salient():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, 600)
    h = rng.normal(size=(600, 3)) @ rng.normal(size=(3, 20)) + rng.normal(size=(600, 20))
    h += np.outer(codes, rng.normal(size=20) * 0.4)
    counts = [len(Contrast.fit(h, codes, 0, (48, 0), seed).second) for seed in range(3)]
    assert counts == [1, 1, 1]
    assert len(Contrast.fit(h, codes, 0, (48, 1), 0).second) == 1
