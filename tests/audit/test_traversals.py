"""Latents at their extremes: planted effects are measured as they are, and readings are those of predictors, not of the model."""

import numpy as np
import pandas as pd
import pytest

from medrep.audit.data import AuditData
from medrep.audit.stress import check_stress
from medrep.audit.traversals import SMALL, Traversals, audit_traversals, organ_measures, standardised_shift
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.grid import Columns, Grid
from medrep.errors import MedrepError
from medrep.models import LinearModel, LinearSettings
from tests.models.planted import DECLARED, draw_people, people_of

TRAINED, AUDITED, COLUMNS = 300, 200, 12


def planted() -> tuple[AuditData, np.ndarray]:
    """Return people whose columns 0 to 3 follow one thing, 4 to 7 another, which the diagnosis is told by; and both things."""
    frame = draw_people(TRAINED + AUDITED, 2, 0)
    rng = np.random.default_rng(1)
    own = rng.normal(size=(len(frame), 2))
    loadings = np.zeros((2, COLUMNS))
    loadings[0, :4], loadings[1, 4:8] = 2.5, 1.2
    data = own @ loadings + rng.normal(size=(len(frame), COLUMNS))
    data += (frame["age"].to_numpy()[:, None] - 50) / 20 * np.repeat([0.0, 1.5], [8, 4])
    schema = CovariateSchema.fit(frame.iloc[:TRAINED], DECLARED)
    frame = schema.transfer(frame)
    model, _ = LinearModel.fit(
        people_of(data[:TRAINED], frame.iloc[:TRAINED], schema), LinearSettings(components=2, spline_degrees=1)
    )
    new = model.dataset(data[TRAINED:], frame.iloc[TRAINED:])
    ill = own[TRAINED:, 1] + 0.3 * rng.normal(size=AUDITED) > 0
    table = pd.DataFrame({"diagnosis": np.where(ill, "AD", "TD")}, index=new.covariates.index)
    return AuditData(model, new, table, {"site": "pooled"}), own[TRAINED:]


@pytest.fixture(scope="module")
def audited() -> AuditData:
    return planted()[0]


@pytest.fixture(scope="module")
def walked(audited: AuditData) -> Traversals:
    return audit_traversals(audited, audited.model.posterior(audited.dataset), (audited.table["diagnosis"], False))


def rows(walked: Traversals, latent: int, kind: str) -> pd.DataFrame:
    own = walked.table
    return own[(own["latent"] == latent) & (own["kind"] == kind)].set_index("property")


def test_columns_move_by_what_the_latent_does_to_them(walked: Traversals, audited: AuditData) -> None:
    """A column of variance v that follows a latent by a loading b moves by (high - low) b / sqrt(v)."""
    first, model = rows(walked, 0, "feature"), audited.model
    assert isinstance(model, LinearModel)
    assert set(first.index[:4]) == {"region_0", "region_1", "region_2", "region_3"}
    assert (first["q"].head(4) < 1e-3).all()
    wide = np.std(audited.data, axis=0)
    for place in range(4):
        row = first.loc[f"region_{place}"]
        expected = (row["high"] - row["low"]) * model.components[0, place] * model.sd[place] / wide[place]
        assert row["effect"] == pytest.approx(expected, rel=0.1)
        assert row["ci_low"] < expected < row["ci_high"]
        assert row["at_high"] - row["at_low"] == pytest.approx(row["effect"] * wide[place], rel=0.1)
    assert 2.5 < abs(first["effect"].head(4)).min() < 3.5  # 3.29 r, and r is .93
    assert set(rows(walked, 1, "feature").index[:4]) == {f"region_{k}" for k in range(4, 8)}


def test_readings_move_with_the_latent_that_tells_them_and_with_no_other(walked: Traversals) -> None:
    first, second = rows(walked, 0, "reading"), rows(walked, 1, "reading")
    assert abs(second.loc["diagnosis=TD", "effect"]) > 2
    assert second.loc["diagnosis=TD", "q"] < 0.001
    assert abs(first.loc["diagnosis=TD", "effect"]) < abs(second.loc["diagnosis=TD", "effect"]) / 3
    for one in (first, second):
        assert abs(one.loc["age", "effect"]) < SMALL + 0.3
        assert one.loc["age", "p"] > 0.05


def test_findings_hold_the_largest_effect_of_any_latent(walked: Traversals) -> None:
    found = {row.group: row for row in walked.findings}
    assert set(found) == {"age", "sex", "site", "diagnosis"}
    of_second = rows(walked, 1, "reading").loc["diagnosis=TD"]
    told = found["diagnosis"]
    assert told.estimate == pytest.approx(abs(of_second["effect"]))
    assert told.ci_low < abs(of_second["effect"]) < told.ci_high
    assert told.ci_high - told.ci_low > of_second["ci_high"] - of_second["ci_low"]  # it is the largest of several
    assert told.p < 0.01
    assert "latent 1" in told.note
    assert found["age"].p > 0.05


def test_an_outcome_that_cannot_be_read_says_nothing(audited: AuditData) -> None:
    names = pd.Series(np.arange(AUDITED).astype(str), audited.table.index, name="name")
    found = audit_traversals(audited, audited.model.posterior(audited.dataset), (names, False))
    assert {row.group: row.status for row in found.findings}["name"] == "insufficient"
    assert not found.table["property"].str.startswith("name").any()


def test_latents_that_do_nothing_have_no_effect(audited: AuditData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearModel, "with_latents", lambda self, people, latents: (people.values for _ in latents))
    found = audit_traversals(audited, audited.model.posterior(audited.dataset))
    assert (found.table["effect"] == 0).all()
    assert (found.table["q"] == 1).all()
    assert all(row.estimate == 0 for row in found.findings if row.status == "ok")


def test_few_people_say_nothing(audited: AuditData) -> None:
    few = AuditData(audited.model, audited.dataset.take(np.arange(18)), audited.table.iloc[:18], audited.target)
    found = audit_traversals(few, audited.model.posterior(few.dataset))
    assert found.table.empty
    assert {row.status for row in found.findings} == {"insufficient"}


def test_the_error_is_that_of_resampled_people_with_several_rows_and_holes() -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(150), 2)
    own = np.repeat(rng.normal(3, 2, (150, 3)), 2, axis=0) + rng.normal(0, 0.3, (300, 3))
    change = 1 + 0.3 * own + np.repeat(rng.normal(0, 0.5, (150, 3)), 2, axis=0)
    own[5, 1] = np.nan
    found = standardised_shift(own, change, who)
    drawn = []
    for _ in range(300):
        people = rng.integers(150, size=150)
        some = np.concatenate([2 * people, 2 * people + 1])
        drawn.append(
            np.nanmean(np.where(np.isfinite(own), change, np.nan)[some], axis=0) / np.nanstd(own[some], axis=0)
        )
    np.testing.assert_allclose(found.error, np.std(drawn, axis=0), rtol=0.2)
    assert np.isnan(standardised_shift(np.ones((9, 1)), np.ones((9, 1)), np.arange(9)).effect[0])


def test_organs_are_measured_in_mm() -> None:
    grid = Grid((40, 36, 44), (1.0, 1.2, 0.9))
    places = np.stack(
        np.meshgrid(
            *((np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(grid.shape, grid.spacing, strict=True)),
            indexing="ij",
        )
    )
    ball = np.sqrt((places**2).sum(axis=0)) - 12
    volume, area = organ_measures(ball.ravel(), grid)
    assert volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)
    assert area == pytest.approx(4 * np.pi * 12**2, rel=0.02)
    two = Columns.of_grid(grid, structures=("left", "right"))
    assert len(organ_measures(np.tile(ball.ravel(), 2), grid)) == 4
    assert two.count == 2 * ball.size


def test_a_model_without_latents_is_refused() -> None:
    frame = draw_people(60, 2, 0)
    schema = CovariateSchema.fit(frame, DECLARED)
    people = people_of(np.random.default_rng(0).normal(size=(60, 3)), schema.transfer(frame), schema)
    without, with_some = (LinearModel.fit(people, LinearSettings(components=count))[0] for count in (0, 2))
    with pytest.raises(MedrepError, match="--stress traversals: this linear model has no latents"):
        check_stress(("traversals",), schema, ("site",), without_latents=without.refusal("latents"))
    check_stress(("traversals",), schema, ("site",), without_latents=with_some.refusal("latents"))
