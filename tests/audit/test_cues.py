"""Cues: what a representation is built to lose is said to be lost, what changes nothing is said to change nothing."""

import numpy as np
import pandas as pd
import pytest

from medrep.audit.cues import CUES, METRICS, Cue, Plantable, audit_cues, planted_cues
from medrep.audit.data import AuditData
from medrep.audit.finding import Finding, findings_table
from medrep.audit.learning_paths import STEPS, folds_of, learning_path, separability
from medrep.audit.stress import audit_stress, check_stress
from medrep.cohort.dataset import Dataset
from medrep.errors import ModelError
from medrep.models import LinearModel
from tests.models.planted import AGE, SITE, draw_people, fit, people_of

PEOPLE, COLUMNS = 160, 24


class Fixed(LinearModel):
    """A model that hands out data as they are, and projects them on some directions."""

    latents = np.zeros((COLUMNS, 0))

    def transform(self, dataset: Dataset, to: pd.DataFrame, out: np.ndarray | None = None) -> np.ndarray:  # noqa: ARG002
        return dataset.values.copy()

    def encode(self, dataset: Dataset) -> np.ndarray:
        return dataset.values @ self.latents

    def remove_and_encode(self, dataset, target):
        return self.remove(dataset, target), (self.encode(dataset), None)


class Refusing(Fixed):
    """A model that takes no data but its own."""

    def remove_and_encode(self, dataset, target):  # noqa: ARG002
        raise ModelError("sub-0000: region_3 is below 0")


def audited(latents: np.ndarray, kind: type[Fixed] = Fixed, seed: int = 0, people: int = PEOPLE) -> AuditData:
    """People in whom all columns go together."""
    rng = np.random.default_rng(seed)
    frame = draw_people(people, 2, seed)
    data = 1.2 * rng.normal(size=(people, 1)) + rng.normal(size=(people, COLUMNS)) + 5
    model = fit(frame, data, declared=(AGE, SITE))
    state = {name: getattr(model, name) for name in model.__dataclass_fields__}
    planted = type("Case", (kind,), {"latents": latents})(**state)
    return AuditData(planted, people_of(data, model.schema.transfer(frame), model.schema), frame, {"site": "S0"})


def by_group(found: list[Finding]) -> dict[tuple[str, str], Finding]:
    return {(one.metric, one.group): one for one in found}


@pytest.fixture(scope="module")
def mean_kept() -> dict[tuple[str, str], Finding]:
    """Findings of a model whose one latent is the mean of all columns."""
    return by_group(planted_cues(audited(np.full((COLUMNS, 1), 1 / COLUMNS)), seed=1))


def test_the_mean_of_all_columns_keeps_the_widespread_cue_and_loses_the_focal_one(mean_kept) -> None:
    kept = {cue.name: mean_kept["cue_kept", f"latents/{cue.name}"] for cue in CUES}
    assert kept["widespread"].estimate > 0.85
    assert kept["focal"].estimate < 0.3
    assert kept["widespread"].estimate > kept["regional"].estimate > kept["focal"].estimate
    assert [kept[cue.name].note.split(";")[0] for cue in CUES] == ["rank 1 of 3", "rank 2 of 3", "rank 3 of 3"]
    assert mean_kept["cue_bias", "latents"].p < 0.001
    assert mean_kept["cue_bias", "latents"].ci_low > 0.4


def test_where_the_focal_cue_is_lost_the_widespread_one_is_followed(mean_kept) -> None:
    assert mean_kept["cue_followed", "latents"].estimate > 0.75
    assert mean_kept["cue_followed_change", "latents"].ci_low > 0.1
    assert mean_kept["cue_followed_change", "latents"].p < 0.01


def test_what_changes_nothing_keeps_all_of_every_cue(mean_kept) -> None:
    for cue in CUES:
        found = mean_kept["cue_kept", f"exported/{cue.name}"]
        assert (found.estimate, found.ci_low, found.ci_high) == pytest.approx((1, 1, 1))
    for metric in ("cue_bias", "cue_followed_change"):
        found = mean_kept[metric, "exported"]
        assert found.estimate == pytest.approx(0, abs=1e-9)
        assert found.p == 1
    assert mean_kept["cue_followed", "exported"].estimate == mean_kept["cue_followed", "raw"].estimate


def test_columns_without_the_mean_keep_the_focal_cue() -> None:
    found = by_group(planted_cues(audited(np.eye(COLUMNS) - 1 / COLUMNS), seed=2, plantings=5))
    assert found["cue_kept", "latents/focal"].estimate > 0.8
    assert found["cue_kept", "latents/widespread"].estimate < 0.5
    assert found["cue_bias", "latents"].ci_high < 0
    assert found["cue_followed_change", "latents"].estimate < 0


def test_units_and_turns_of_latents_do_not_matter() -> None:
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(COLUMNS, 3)))[0]
    one, other = (
        by_group(planted_cues(audited(latents), seed=3, plantings=3)) for latents in (turned, -1000 * turned[:, ::-1])
    )
    for cue in CUES:
        group = f"latents/{cue.name}"
        assert one["cue_kept", group].estimate == pytest.approx(other["cue_kept", group].estimate, abs=1e-6)


def test_a_cue_moves_people_by_a_deviation_along_its_own_columns() -> None:
    plantable = Plantable.of(audited(np.eye(COLUMNS)), 0)
    adds = plantable.directions(CUES, np.random.default_rng(0))
    assert [(row != 0).sum() for row in adds] == [COLUMNS, round(0.2 * COLUMNS), 1]
    for row in adds:
        scaled = row / plantable.sd
        along = plantable.left @ scaled / np.linalg.norm(scaled)
        assert np.linalg.norm(scaled) == pytest.approx(along.std(), rel=1e-6)


def test_people_of_no_use_and_models_that_refuse_say_nothing() -> None:
    few = planted_cues(audited(np.eye(COLUMNS), people=30))
    refused = planted_cues(audited(np.eye(COLUMNS), Refusing))
    data = audited(np.eye(COLUMNS))
    narrow = Dataset(np.where(np.arange(COLUMNS) < 3, data.data, np.nan), data.frame, data.schema, data.dataset.columns)
    narrowed = planted_cues(AuditData(data.model, narrow, data.table, data.target))
    for found, said in ((few, "30 people; 40 are needed"), (refused, "below 0"), (narrowed, "3 columns vary")):
        assert {one.status for one in found} == {"insufficient"}
        assert {one.metric for one in found} == set(METRICS)
        assert all(said in one.note for one in found)


def test_cues_that_the_data_hide_are_not_told_of() -> None:
    """Of 40 people with 600 columns nobody finds one that was moved."""
    data = audited(np.zeros((COLUMNS, 0)), people=40)
    wide = np.tile(data.data, (1, 25)) + np.random.default_rng(0).normal(size=(40, 25 * COLUMNS))
    model = type("Wide", (Fixed,), {"latents": np.zeros((25 * COLUMNS, 0))})(
        **{name: getattr(data.model, name) for name in data.model.__dataclass_fields__}
    )
    people = people_of(wide, data.frame, data.schema)
    alone = (Cue("widespread", 1.0, 0.8), Cue("single", 0.001, 0.9))
    found = by_group(planted_cues(AuditData(model, people, data.table, data.target), alone, plantings=4))
    assert found["cue_kept", "exported/widespread"].status == "ok"
    for metric, group in (
        ("cue_kept", "exported/single"),
        ("cue_bias", "exported"),
        ("cue_followed", "raw"),
        ("cue_followed_change", "exported"),
    ):
        assert found[metric, group].status == "insufficient"
        assert "hardly read" in found[metric, group].note


def test_cues_alike_have_no_rank_of_their_own() -> None:
    alike = (Cue("one", 0.1, 0.85), Cue("other", 0.1, 0.85))
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(COLUMNS, 4)))[0]
    p = [
        by_group(planted_cues(audited(turned, seed=seed), alike, seed=seed, plantings=5))["cue_bias", "latents"].p
        for seed in range(10)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.3


def test_the_stress_asks_for_planted_cues_and_for_those_of_the_cohort() -> None:
    data = audited(np.eye(COLUMNS)[:, :2])
    site = data.frame["site"].astype(str)
    outcome = pd.Series(
        np.where((site == "S1") ^ (np.random.default_rng(0).random(PEOPLE) < 0.3), "ill", "well"),
        site.index,
        name="diagnosis",
    )
    check_stress(("cues",), data.schema, ("site",))
    found = findings_table(audit_stress(data, ("cues",), (outcome, False))).set_index(["metric", "group"])
    assert ("cue_kept", "exported/focal") in found.index
    assert found.loc[("minority_gap", "latents/diagnosis by site"), "status"] == "ok"
    again = findings_table(audit_cues(data, (outcome, False))).set_index(["metric", "group"])
    pd.testing.assert_frame_equal(found, again)


def test_training_is_that_of_gradient_descent_step_by_step() -> None:
    rng = np.random.default_rng(4)
    rows, classes = rng.normal(size=(30, 4)), np.where(np.arange(30) % 2, 1.0, -1.0)
    folds = folds_of(classes, rng)
    path = learning_path(rows, classes[:, None], folds)
    teach, judged = folds != 0, folds == 0
    centred, aim = rows[teach] - rows[teach].mean(axis=0), classes[teach] - classes[teach].mean()
    length = 1 / np.linalg.norm(centred, 2) ** 2
    slopes, at = np.zeros(4), 0
    for step in range(1, STEPS[5] + 1):
        slopes = slopes - length * centred.T @ (centred @ slopes - aim)
        if step in STEPS:
            taught = centred @ slopes
            middle = (taught[classes[teach] > 0].mean() + taught[classes[teach] < 0].mean()) / 2
            read = (rows[judged] - rows[teach].mean(axis=0)) @ slopes - middle
            np.testing.assert_allclose(path.scores[at, judged, 0], read, atol=1e-9)
            at += 1
    assert at == 6


def test_parts_of_people_sum_to_d_prime_and_spread_as_it_does() -> None:
    rng = np.random.default_rng(5)
    classes = np.where(np.arange(200) % 2, 1.0, -1.0)[:, None]
    scores = rng.normal(size=(200, 1)) + 0.7 * classes
    parts = separability(scores, classes)
    ones, others = scores[classes > 0], scores[classes < 0]
    within = np.sqrt((99 * ones.var(ddof=1) + 99 * others.var(ddof=1)) / 198)
    assert parts.sum() == pytest.approx((ones.mean() - others.mean()) / within)
    error = np.sqrt(((parts - parts.mean()) ** 2).sum())
    assert error == pytest.approx(np.sqrt(4 / 200 + 1.4**2 / (2 * 200)), rel=0.15)
    assert separability(np.ones((200, 1)), classes).sum() == 0
