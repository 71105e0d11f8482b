"""Regions: the one in which a label was planted is found, what others let expect of it is not counted, and chance is chance."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.holdout_split import HoldoutSplit, Probing
from medrep.audit.regions import METRICS, audit_regions, region_figures, region_scores, usual_regions
from medrep.audit.stress import check_stress
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.grid import Columns, Grid, world_rows
from medrep.cohort.regions import Regions
from medrep.errors import MedrepError
from medrep.models.chunks import ChunkSource
from medrep.models.vae.components import FactorModel
from tests.models.planted import DECLARED, draw_data, draw_people, fit, people_of

REGIONS, EACH = 6, 5
OF = Regions(tuple(f"r{k}" for k in range(REGIONS)), np.repeat(np.arange(REGIONS), EACH))
FEW = Probing(permutations=199, draws=200)


def correlated(people: int, seed: int, shift: float, planted: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns that go together within and between regions, and a number that moves those of one region."""
    rng = np.random.default_rng(seed)
    everywhere = rng.normal(size=(people, 3)) @ rng.normal(size=(3, REGIONS * EACH))
    within = rng.normal(size=(people, REGIONS))[:, OF.codes]
    label = rng.normal(size=people)
    table = everywhere + 0.6 * within + 0.6 * rng.normal(size=(people, REGIONS * EACH))
    table[:, OF.codes == planted] += shift * np.outer(label, rng.uniform(0.5, 1.0, EACH))
    return table, label


def halves(label: np.ndarray, seed: int = 0, *, continuous: bool = True, probing: Probing = FEW) -> HoldoutSplit:
    who = np.arange(len(label)).astype(str)
    return HoldoutSplit.of(pd.Series(label), who, seed, continuous=continuous, probing=probing)


def test_the_planted_region_is_first_and_all_others_are_near_nothing() -> None:
    for seed in range(4):
        table, label = correlated(200, seed, 0.5, seed % REGIONS)
        split = halves(label, seed)
        found = region_figures(region_scores(table, split, OF), split)
        reliance = np.array([own[0] for own in found.reliance])
        assert reliance.argmax() == seed % REGIONS
        assert reliance.max() > 0.1
        assert np.delete(reliance, seed % REGIONS).max() < 0.1
        low, high, p = found.reliance[seed % REGIONS][1:]
        assert low < reliance.max() < high
        assert p <= 0.01
        assert found.full[3] <= 0.01


def test_levels_are_read_as_numbers_are() -> None:
    table, label = correlated(240, 9, 1.0, 2)
    split = halves(np.where(label > 0, "ill", "well"), continuous=False)
    found = region_figures(region_scores(table, split, OF), split)
    assert np.argmax([own[0] for own in found.reliance]) == 2
    assert np.argmax([own[0] for own in found.only]) == 2
    assert found.reliance[2][0] > 0.1
    assert found.only[2][3] <= 0.01


def test_what_a_region_only_shares_with_another_is_expected_from_it() -> None:
    """A copy of another region tells nothing of its own, though it tells as much alone; a box takes part of the reading away."""
    rng = np.random.default_rng(3)
    table, label = correlated(300, 3, 0.6, 0)
    copied = table.copy()
    copied[:, OF.codes == 1] = table[:, OF.codes == 0] + 0.01 * rng.normal(size=(300, EACH))
    split = halves(label)
    scores = region_scores(copied, split, OF)
    found = region_figures(scores, split)
    assert abs(found.reliance[0][0]) < 0.05
    assert abs(found.reliance[1][0]) < 0.05
    assert found.only[1][0] > 0.2
    alone = region_figures(region_scores(table, split, OF), split)
    assert alone.reliance[0][0] > 0.2


def test_expectations_are_those_of_the_gaussian_written_out() -> None:
    """With L and psi known, E(x_g | x_-g) by regions is that of the covariance inverted in full."""
    table, label = correlated(160, 5, 0.4, 1)
    split = halves(label)
    scores = region_scores(table, split, OF)
    train, test = table[split.train], table[split.test]
    mean, sd = train.mean(axis=0), train.std(axis=0)
    z, taught = (test - mean) / sd, (train - mean) / sd
    # The reader's weights, from what it says of people: the columns span its scores.
    full = scores.full[:, 0, 0]
    weights = np.linalg.lstsq(z, full, rcond=None)[0]
    np.testing.assert_allclose(z @ weights, full, atol=1e-9)
    for code in range(REGIONS):
        inside = OF.codes == code
        np.testing.assert_allclose(scores.box[code, :, 0, 0], z[:, ~inside] @ weights[~inside], atol=1e-9)
    factors = FactorModel.fit(ChunkSource.of(taught), len(taught) - 1.0, scores.factors, seed=0)
    covariance = factors.loadings.T @ factors.loadings + np.diag(factors.noise)
    inside = OF.codes == 1
    across = np.linalg.solve(covariance[np.ix_(~inside, ~inside)], covariance[np.ix_(~inside, inside)])
    expected = z[:, ~inside] @ (weights[~inside] + across @ weights[inside])
    np.testing.assert_allclose(scores.without[1, :, 0, 0], expected, atol=1e-8)
    back = np.linalg.solve(covariance[np.ix_(inside, inside)], covariance[np.ix_(inside, ~inside)])
    expected = z[:, inside] @ (weights[inside] + back @ weights[~inside])
    np.testing.assert_allclose(scores.only[1, :, 0, 0], expected, atol=1e-8)


def test_units_constant_columns_and_float32_change_nothing() -> None:
    table, label = correlated(160, 6, 0.4, 1)
    split = halves(label)
    first = region_scores(table, split, OF)
    moved = region_scores(table * np.linspace(0.1, 50, table.shape[1]) + 7, split, OF)
    np.testing.assert_allclose(moved.without, first.without, atol=1e-8)
    wider = np.concatenate([table, np.full((160, 3), 2.5)], axis=1)
    more = Regions((*OF.names, "nothing"), np.concatenate([OF.codes, np.full(3, REGIONS)]))
    found = region_figures(region_scores(wider.astype(np.float32), split, more), split)
    assert found.reliance[REGIONS][:1] == (0.0,)
    assert found.reliance[REGIONS][3] == 1.0


def test_without_a_label_in_the_data_p_is_that_of_chance() -> None:
    p = []
    for seed in range(20):
        table, label = correlated(100, 50 + seed, 0.0, 0)
        split = halves(label, seed, probing=Probing(permutations=99, draws=10))
        p += [own[3] for own in region_figures(region_scores(table, split, OF), split).reliance]
    assert np.mean(np.array(p) <= 0.05) < 0.12
    assert 0.35 < np.mean(p) < 0.65


@pytest.fixture(scope="module")
def audited() -> AuditData:
    frame = draw_people(240, 3, 0)
    data = draw_data(frame, 6, 0)
    half = np.arange(240) < 120
    model = fit(frame[half], data[half])
    own = frame[~half]
    return AuditData(
        model, people_of(data[~half], model.schema.transfer(own), model.schema), own, {"site": str(own["site"].iloc[0])}
    )


def test_findings_name_label_and_region_and_the_first_is_the_one_relied_on(audited: AuditData) -> None:
    rng = np.random.default_rng(1)
    ill = rng.random(len(audited.frame)) < 0.5
    data = audited.dataset.values.copy()
    data[ill, 4] += 3 * data[:, 4].std()
    shifted = replace(audited, dataset=replace(audited.dataset, values=data))
    outcome = pd.Series(np.where(ill, "ill", "well"), audited.frame.index, name="diagnosis", dtype=object)
    outcome.iloc[:2] = None
    regions = Regions(("front", "back", "side"), np.array([0, 0, 2, 2, 1, 1]))
    found = audit_regions(shifted, regions, (outcome, False))
    table = findings_table(found).set_index(["metric", "group"])
    assert {group for metric, group in table.index if metric == METRICS[0]} == {
        "exported/age",
        "exported/sex",
        "exported/site",
        "raw/site",
        "exported/diagnosis",
    }
    order = [own.group for own in found if own.metric == METRICS[1] and "diagnosis" in own.group]
    assert order[0] == "exported/diagnosis & back"
    assert len(order) == 3
    first = table.loc[(METRICS[1], order[0])]
    assert first["ci_low"] > 0.1
    assert first["note"].startswith("rank 1 of 3; AUC")
    assert first["n"] == pytest.approx(59, abs=1)
    assert (table["status"] == "ok").all()


def test_regions_that_nobody_named_are_features_or_what_is_bright(audited: AuditData) -> None:
    columns = audited.model.columns
    found = usual_regions(columns, audited.data)
    assert [found.names[code] for code in found.codes] == list(columns.names)
    scans = np.random.default_rng(0).normal(np.repeat([1.0, 9.0], [5, 3]), 0.1, (60, 8))
    found = usual_regions(Columns.of_grid(Grid((2, 2, 2), (1.0, 1.0, 1.0), world_rows(np.eye(4)))), scans)
    assert [found.names[code] for code in found.codes] == ["background"] * 5 + ["anatomy"] * 3


def test_few_people_and_one_region_say_nothing(audited: AuditData) -> None:
    few = AuditData(audited.model, audited.dataset.take(np.arange(24)), audited.table.iloc[:24], audited.target)
    regions = Regions(("front", "back"), np.array([0, 0, 0, 1, 1, 1]))
    assert {row.status for row in audit_regions(few, regions)} == {"insufficient"}
    gaps = audited.dataset.values.copy()
    gaps[0, 3:] = np.nan
    whole = replace(audited, dataset=replace(audited.dataset, values=gaps))
    found = audit_regions(whole, regions)
    assert {row.status for row in found} == {"insufficient"}
    assert "two regions" in found[0].note


def refusal(check: Callable[[], None]) -> str:
    with pytest.raises(MedrepError) as refused:
        check()
    return str(refused.value)


def test_regions_of_many_columns_are_asked_for_with_a_file() -> None:
    schema = CovariateSchema.fit(draw_people(60, 2, 0), DECLARED)
    check_stress(("regions",), schema, ("site",), regions=True)
    check_stress(("regions",), schema, ("site",), scans=True)
    check_stress(("regions",), schema, ("site",), features=64)
    assert "regions: give --regions FILE" in refusal(lambda: check_stress(("regions",), schema, ("site",)))
    assert "65 features, of which 64" in refusal(lambda: check_stress(("regions",), schema, ("site",), features=65))
    assert "ask for it, too" in refusal(lambda: check_stress((), schema, ("site",), regions=True))
