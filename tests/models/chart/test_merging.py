"""Charts merged from those of institutes, beside the chart of all their people."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from medrep.cohort.dataset import Dataset
from medrep.cohort.support import Support
from medrep.errors import MedrepError
from medrep.models import ChartSettings, ConditionalVae, GrowthChart, VaeSettings, restore_model
from medrep.models.chart.merging import merged
from medrep.models.chart.parts import Part
from medrep.models.chart.powers import Powers
from medrep.models.exceptions import NEVER
from tests.models.test_growth_chart import COLUMNS, cohort, z_of

PLAIN = ChartSettings(power="none", components=4)
DECLARED = {"age": "continuous", "sex": "categorical", "site": "batch"}
SITES = [f"S{k}" for k in range(6)]


@lru_cache(maxsize=1)
def people() -> Dataset:
    return cohort(700, 21)[0]


@lru_cache(maxsize=1)
def unseen() -> tuple[Dataset, np.ndarray]:
    return cohort(1500, 22)


def part(
    of: Dataset,
    sites: list[str] = SITES,
    settings: ChartSettings = PLAIN,
    name: str = "A",
    declared: Mapping[str, str] = DECLARED,
) -> Part:
    """The chart of people of some sites, as their institute fits it."""
    own = of.take(of.covariates["site"].isin(sites).to_numpy())
    features = pd.DataFrame(own.values, columns=list(of.columns.names), index=own.keys)
    dataset = Dataset.from_frames(features, own.covariates, declared)
    return Part(name, GrowthChart.fit(dataset, settings)[0], Support.fit(dataset.schema, dataset.covariates))


@lru_cache(maxsize=1)
def whole() -> Part:
    return part(people())


@lru_cache(maxsize=1)
def institutes() -> tuple[Part, ...]:
    return tuple(
        part(people(), sites, name=name) for name, sites in (("A", SITES[:2]), ("B", SITES[2:4]), ("C", SITES[4:]))
    )


@lru_cache(maxsize=1)
def together() -> GrowthChart:
    return merged(institutes())[0]


def known(chart: GrowthChart, dataset: Dataset) -> np.ndarray:
    return z_of(chart, chart.dataset(dataset.values, chart.schema.transfer(dataset.covariates)))


def test_one_part_is_given_back() -> None:
    chart, support = merged([whole()])
    own = whole().chart
    np.testing.assert_allclose(known(chart, unseen()[0]), known(own, unseen()[0]), atol=1e-3)
    np.testing.assert_allclose(chart.location.line.coefficients, own.location.line.coefficients, atol=1e-5)
    np.testing.assert_allclose(chart.location.line.batches.location, own.location.line.batches.location, atol=1e-5)
    np.testing.assert_allclose(chart.location.line.sd, own.location.line.sd, rtol=1e-9)
    np.testing.assert_allclose(chart.scales.covariance, own.scales.covariance, atol=1e-3)
    np.testing.assert_allclose(chart.shapes.parameters, own.shapes.parameters, atol=1e-9)
    np.testing.assert_allclose(chart.components, own.components, atol=1e-9)
    assert support == whole().support
    assert whole().stand_ins.missed < 1e-4


def test_parts_of_one_design_are_regressed_as_all_their_people_are() -> None:
    """The same covariates in two institutes, so that knots and centres are the same."""
    twin, chart = people(), whole().chart
    logs = chart.scales.logs(chart.scales.design.full(twin.covariates))
    residual = chart.shapes.residuals(np.random.default_rng(3).normal(size=logs.shape))
    twin = replace(twin, values=chart.location.means(twin.covariates)(slice(0, COLUMNS)) + np.exp(logs) * residual)
    covariates = twin.covariates.set_axis([f"q{k}" for k in range(len(twin))])
    values = np.concatenate([people().values, twin.values])
    both = Dataset.from_frames(
        pd.DataFrame(values, columns=list(twin.columns.names), index=[*people().keys, *covariates.index]),
        pd.concat([people().covariates, covariates]),
        DECLARED,
    )
    pooled, (chart, _) = part(both).chart, merged([whole(), part(twin, name="B")])
    line, own = chart.location.line, pooled.location.line
    np.testing.assert_allclose(line.coefficients, own.coefficients, atol=1e-6)
    np.testing.assert_allclose(line.sd, own.sd, rtol=0.02)
    np.testing.assert_allclose(chart.location.covariance[1:6, 1:6], pooled.location.covariance[1:6, 1:6], rtol=0.01)
    assert np.abs(known(chart, unseen()[0]) - known(pooled, unseen()[0])).mean() < 0.02


def test_institutes_of_other_sites_and_ages_are_nearly_one_cohort() -> None:
    fresh, z = unseen()
    pooled, found = known(whole().chart, fresh), known(together(), fresh)
    site = fresh.covariates["site"]
    own = np.zeros_like(found)
    for one in institutes():
        rows = site.isin(one.chart.schema.levels("site")).to_numpy()
        own[rows] = known(one.chart, fresh.take(rows))
    apart = [np.abs(other - pooled).mean() for other in (found, own)]
    assert apart[0] < 0.05
    assert apart[0] < 0.5 * apart[1]
    assert np.abs(found - z).mean() < np.abs(own - z).mean()
    for probability in (0.02, 0.25, 0.75, 0.98):
        assert (found < ndtri(probability)).mean() == pytest.approx(probability, abs=0.02)


def test_the_order_of_parts_does_not_matter() -> None:
    again, _ = merged(institutes()[::-1])
    np.testing.assert_allclose(known(again, unseen()[0]), known(together(), unseen()[0]), atol=1e-8)


def test_merged_charts_are_merged_again() -> None:
    a, b, c = institutes()
    chart, support = merged([a, b])
    found, _ = merged([Part("AB", chart, support), c])
    assert np.abs(known(found, unseen()[0]) - known(together(), unseen()[0])).mean() < 0.02


def test_institutes_of_one_site_each_are_told_apart_by_what_is_given() -> None:
    bare = {"age": "continuous", "sex": "categorical"}
    alone = [replace(part(people(), [site], name=site, declared=bare), given={"site": site}) for site in SITES]
    chart, _ = merged(alone)
    pooled, fresh = whole().chart, unseen()[0]
    assert chart.schema.levels("site") == tuple(SITES)
    assert chart.schema["site"].declared.role == "batch"
    assert np.abs(known(chart, fresh) - known(pooled, fresh)).mean() < 0.06
    assert chart.location.level_variance == pytest.approx(pooled.location.level_variance, rel=0.6)
    assert 0.01 < chart.scales.prior.variance < 0.15


@pytest.mark.parametrize(
    ("declared", "interactions"),
    [
        (DECLARED | {"scanner": "batch"}, ()),
        (DECLARED | {"mass": "continuous"}, (("age", "mass"),)),
        ({"sex": "categorical", "site": "batch"}, ()),
    ],
)
def test_other_covariates(declared: Mapping[str, str], interactions: tuple[tuple[str, ...], ...]) -> None:
    rng = np.random.default_rng(1)
    further = {"scanner": rng.choice(["X", "Y"], 700), "mass": rng.normal(25, 4, 700)}
    everybody = replace(people(), covariates=people().covariates.assign(**further))
    settings = replace(PLAIN, interactions=interactions)
    pooled = part(everybody, settings=settings, declared=declared)
    halves = [part(everybody, SITES[k : k + 3], settings, f"{k}", declared) for k in (0, 3)]
    frame = pooled.chart.schema.transfer(everybody.covariates)
    found = [
        z_of(chart, chart.dataset(everybody.values, frame))
        for chart in (pooled.chart, merged([pooled])[0], merged(halves)[0])
    ]
    np.testing.assert_allclose(found[1], found[0], atol=0.02)
    assert np.abs(found[2] - found[0]).mean() < 0.06


def test_a_site_that_two_institutes_share_is_one() -> None:
    half = np.arange(700) % 2 == 0
    parts = [part(people().take(rows), name=name) for name, rows in (("A", half), ("B", ~half))]
    chart, support = merged(parts)
    assert chart.schema["site"] == whole().chart.schema["site"]
    assert sum(support.counts) == 700
    assert np.abs(known(chart, unseen()[0]) - known(whole().chart, unseen()[0])).mean() < 0.05


def test_new_sites_are_adapted_to_and_what_is_written_says_the_same() -> None:
    few, fresh = cohort(30, 7, "new")[0], cohort(600, 8, "new")[0]
    again = restore_model("growth_chart", *together().state())
    assert isinstance(again, GrowthChart)
    assert np.array_equal(known(again, unseen()[0]), known(together(), unseen()[0]))
    frame = together().schema.transfer(few.covariates, unseen="adapt")
    adapted, (note,) = together().adapt([together().dataset(few.values, frame)])
    assert note.people == 30
    z = z_of(adapted, adapted.dataset(fresh.values, adapted.schema.transfer(fresh.covariates)))
    assert (np.abs(z) < 1.96).mean() == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_part_in_another_power_has_the_same_quantiles(power: float) -> None:
    one = whole()
    some, width = np.arange(COLUMNS), np.ones(COLUMNS)
    powers = Powers(power * width, 20 * width, 2 * width)
    told = one.told(some, powers)
    for z in (-1.0, 0.0, 1.0):
        residual = np.sinh((np.arcsinh(z) + told.shapes[2]) / np.exp(told.shapes[3])) * np.exp(told.shapes[1])
        found = powers.back(told.values + np.exp(told.shrunk) * (told.shapes[0] + residual))
        for column in range(COLUMNS):
            np.testing.assert_allclose(found[:, column], one.quantile(column, z), atol=0.12)


def test_parts_of_other_units_of_one_power_are_brought_together_exactly() -> None:
    logs = part(replace(people(), values=np.exp(people().values / 20)), settings=ChartSettings(components=0))
    powers = logs.chart.powers
    assert powers.used
    other = Powers(powers.exponents, powers.units * 1.3, powers.floors / 50)
    some = np.flatnonzero(powers.exponents != 1)
    told = logs.told(some, other.some(some))
    for number, column in enumerate(some.tolist()):
        shape, z = told.shapes[:, number], 1.0
        residual = shape[0] + np.exp(shape[1]) * np.sinh((np.arcsinh(z) + shape[2]) / np.exp(shape[3]))
        moved = told.values[:, [number]] + np.exp(told.shrunk[:, [number]]) * residual
        found = other.some(np.array([column])).back(moved)[:, 0]
        np.testing.assert_allclose(found, logs.quantile(column, z), rtol=1e-6)


def test_a_column_that_one_institute_lacks_is_told_by_the_others_and_never_at_its_sites() -> None:
    _, b, c = institutes()
    holes = people().values.copy()
    holes[people().covariates["site"].isin(SITES[:2]).to_numpy(), 0] = np.nan
    chart, _ = merged([part(replace(people(), values=holes), SITES[:2]), b, c])
    fresh = unseen()[0]
    found, here = known(chart, fresh), fresh.covariates["site"].isin(SITES[:2]).to_numpy()
    assert np.isnan(found[here, 0]).all()
    assert np.isfinite(found[~here]).all()
    assert np.isfinite(found[here, 1:]).all()
    others, _ = merged([b, c])
    assert np.abs(found[~here, 0] - known(others, fresh.take(~here))[:, 0]).mean() < 0.05
    assert {cell[0][1] for cell in chart.location.line.support.cells} == {"S0", "S1"}
    assert (chart.location.line.support.codes == NEVER).all()


def test_shares_of_a_value_that_many_share_are_those_of_all_people() -> None:
    massive = people().values.copy()
    massive[np.arange(700) % 3 == 0, 1] = 5.0
    with_mass = replace(people(), values=massive)
    parts = [
        part(with_mass if name == "A" else people(), sites, name=name)
        for name, sites in (("A", SITES[:3]), ("B", SITES[3:]))
    ]
    chart, _ = merged(parts)
    masses = chart.location.line.masses
    assert masses.values[:, 1].tolist() == [5.0]
    own = parts[0].location.line.masses.shares[0, 1]
    assert masses.shares[0, 1] == pytest.approx(own * parts[0].people / 700)
    assert np.isnan(masses.values[:, [0, *range(2, COLUMNS)]]).all()


def _adapted() -> Part:
    one = institutes()[1]
    few = cohort(9, 7, "new")[0]
    frame = one.chart.schema.transfer(few.covariates, unseen="adapt")
    return replace(one, chart=one.chart.adapt([one.chart.dataset(few.values, frame)])[0])


def _renamed(old: str, new: str) -> Part:
    some = people().take(people().covariates["site"].isin(SITES[3:]).to_numpy())
    frame = some.covariates.replace({"site": {old: new}})
    return part(replace(some, covariates=frame), [*SITES[3:], new], name="B")


BARE = {"age": "continuous", "site": "batch"}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: part(people(), SITES[2:4], replace(PLAIN, scale_degrees=1), "B"), "B: has other settings than A"),
        (_adapted, "B: was adapted to site new; give it as it was trained"),
        (
            lambda: part(people(), SITES[2:4], name="B", declared=BARE),
            "B lacks sex; if all of its people have the same",
        ),
        (lambda: replace(institutes()[1], given={"site": "S9"}), "B:site=S9 is given, but the model knows site"),
        (lambda: replace(institutes()[1], given={"scanner": "X"}), "A lacks scanner"),
        (lambda: _renamed("S3", "s0"), "site: 'S0' and 's0' look like one level"),
        (
            lambda: part(people(), SITES[2:4], name="B", declared=DECLARED | {"sex": "batch"}),
            "sex.role is 'batch' in B",
        ),
    ],
)
def test_charts_that_cannot_be_merged_are_refused_by_name(other: object, said: str) -> None:
    assert callable(other)
    with pytest.raises(MedrepError) as refused:
        merged([institutes()[0], other()])
    assert said in str(refused.value)


def test_other_columns_are_refused_by_name() -> None:
    names = [*people().columns.names[:-1], "other"]
    features = pd.DataFrame(people().values, columns=names, index=people().keys)
    other = part(Dataset.from_frames(features, people().covariates, DECLARED), name="B")
    with pytest.raises(MedrepError, match=r"B: has other columns than A \(f7, other\)"):
        merged([whole(), other])


def test_no_array_of_a_chart_has_a_row_a_person_or_names_anybody() -> None:
    """What is kept of single people is said on the page: ends of ranges, and medians and least values where there is a power."""
    one = part(replace(people(), values=np.exp(people().values / 20)), settings=ChartSettings())
    content, arrays = one.chart.state()
    assert all(700 not in array.shape for array in arrays.values())
    text = repr(content)
    assert not [key for key in people().keys if f"'{key}'" in text]
    values = np.exp(people().values / 20)
    told = {name: int(np.isin(array, values).sum()) for name, array in arrays.items()}
    assert {name for name, count in told.items() if count} <= {"powers.units"}


def test_no_array_of_a_vae_of_tables_has_a_row_a_person_and_values_of_people_are_its_quantiles_alone() -> None:
    """The page says so."""
    some = people().take(np.arange(700) < 187)
    _, arrays = ConditionalVae.fit(some, VaeSettings(body="linear"))[0].state()
    assert all(187 not in array.shape for array in arrays.values())
    assert {name for name, array in arrays.items() if np.isin(array, some.values).any()} == {"marginals.real"}
