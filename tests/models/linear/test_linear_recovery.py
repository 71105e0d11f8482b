"""What was planted is found, on generated people whom the fit never saw, against the truth."""

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.models import LinearModel, LinearSettings
from tests.models.planted import AGE, DIAGNOSIS, SETTINGS, SEX, SITE, draw_people, fit, simulate

DECLARED = (AGE, SEX, DIAGNOSIS, SITE)


class HoldoutSplit:
    """A simulated cohort of 1200: a model fitted on half of it, and the other half with its truth."""

    def __init__(self) -> None:
        frame, made = simulate(1200, seed=3)
        values, clean = made.features.to_numpy(), made.clean.to_numpy()
        first = np.random.default_rng(0).permutation(1200) < 600
        self.truth = made.truth
        self.trained, self.trained_data = frame[first], values[first]
        self.frame, self.data, self.clean = frame[~first], values[~first], clean[~first]
        self.model = fit(self.trained, self.trained_data, declared=DECLARED)

    def removed(self, **target: str | float) -> np.ndarray:
        return self.model.remove(self.model.dataset(self.data, self.frame), target)


@pytest.fixture(scope="module")
def halves() -> HoldoutSplit:
    return HoldoutSplit()


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def site_differences(frame: pd.DataFrame, data: np.ndarray) -> float:
    """Return the deviation of the site means once age, sex and diagnosis are taken out, in residual deviations."""
    decades = (frame["age"].to_numpy(float) - 50) / 10
    X = np.stack(
        [
            np.ones(len(frame)),
            decades,
            np.maximum(decades, 0) ** 2,
            frame["sex"] == "M",
            frame["diagnosis"] == "patient",
        ],
        axis=1,
    ).astype(float)
    sites = np.stack([(frame["site"] == level).to_numpy(float) for level in sorted(set(frame["site"]))[1:]], axis=1)
    coefficients, *_ = np.linalg.lstsq(np.concatenate([X, sites], axis=1), data)
    residual = data - np.concatenate([X, sites], axis=1) @ coefficients
    return rms(coefficients[5:] / residual.std(axis=0))


def effects(frame: pd.DataFrame, data: np.ndarray) -> np.ndarray:
    """Return the slope of age (a decade) and the sex difference of each column, by least squares with site."""
    columns = [(frame["age"].to_numpy(float) - 50) / 10, (frame["sex"] == "M").to_numpy(float)]
    columns += [(frame["site"] == level).to_numpy(float) for level in sorted(set(frame["site"]))]
    return np.linalg.lstsq(np.stack(columns, axis=1), data)[0][:2]


def test_removing_site_gives_what_the_reference_site_would_have_measured(halves):
    away = (halves.frame["site"] != "S0").to_numpy()
    before = rms(halves.data[away] - halves.clean[away])
    after = rms(halves.removed(site="S0")[away] - halves.clean[away])
    assert after < 0.3 * before


def test_the_reference_site_is_left_alone(halves):
    own = (halves.frame["site"] == "S0").to_numpy()
    np.testing.assert_array_equal(halves.removed(site="S0")[own], halves.data[own])


def test_removal_reduces_the_site_differences_of_people_never_seen(halves):
    for reference in ("S0", "S2", "(pooled)"):
        after = site_differences(halves.frame, halves.removed(site=reference))
        assert after < 0.35 * site_differences(halves.frame, halves.data)


def test_the_planted_locations_are_found(halves):
    planted = halves.truth["site"]["levels"]
    location = halves.model.batches.location
    for k, level in enumerate(("S1", "S2", "S3"), start=1):
        wanted = np.asarray(planted[level]["location"])
        assert rms(location[k] - location[0] - wanted) < 0.3 * rms(wanted)


def test_the_planted_scales_are_found(halves):
    planted = halves.truth["site"]["levels"]
    log_scale = halves.model.batches.log_scale
    for k, level in enumerate(("S1", "S2", "S3"), start=1):
        wanted = np.log(planted[level]["scale"])
        assert rms(log_scale[k] - log_scale[0] - wanted) < 0.5 * rms(wanted)


def test_the_planted_age_curve_is_found(halves):
    age = halves.truth["age"]
    for years in (30.0, 65.0, 80.0):
        decades = (years - 50) / 10
        wanted = np.asarray(age["linear"]) * decades + np.asarray(age["quadratic"]) * max(0, decades) ** 2
        found = (halves.removed(age=years) - halves.removed(age=50.0)).mean(axis=0)
        assert rms(found - wanted) < 0.2 * rms(wanted)


def test_the_planted_sex_and_diagnosis_effects_are_found(halves):
    for name, here, there in (("sex", "F", "M"), ("diagnosis", "control", "patient")):
        wanted = np.asarray(halves.truth[name][there])
        found = (halves.removed(**{name: there}) - halves.removed(**{name: here})).mean(axis=0)
        assert rms(found - wanted) < 0.25 * rms(wanted)


def test_an_interaction_is_found():
    frame = draw_people(800, 2, 0)
    rng = np.random.default_rng(0)
    decades, male = (frame["age"].to_numpy() - 50) / 10, (frame["sex"] == "M").to_numpy()
    data = rng.normal(size=(800, 5)) + (0.5 * decades * male)[:, None]
    model = fit(frame, data, SETTINGS["line"])
    slopes = [
        (
            model.remove(model.dataset(data, frame), {"sex": sex, "age": 60.0})
            - model.remove(model.dataset(data, frame), {"sex": sex, "age": 50.0})
        )
        for sex in ("F", "M")
    ]
    np.testing.assert_allclose(slopes[0], 0, atol=0.1)
    np.testing.assert_allclose(slopes[1], 0.5, atol=0.1)


def test_what_is_kept_stays(halves):
    kept, raw = effects(halves.frame, halves.removed(site="(pooled)")), effects(halves.frame, halves.data)
    clean = effects(halves.frame, halves.clean)
    for row in range(2):
        assert rms(kept[row] - raw[row]) < 0.1 * rms(raw[row])
        assert rms(kept[row] - clean[row]) < 0.2 * rms(clean[row])


def test_removing_everything_makes_groups_alike(halves):
    target = {"age": 50.0, "sex": "F", "diagnosis": "control", "site": "(pooled)"}
    transformed = halves.model.remove(halves.model.dataset(halves.trained_data, halves.trained), target)
    noise = transformed.std(axis=0)
    for name, tolerance in (("sex", 0.02), ("diagnosis", 0.02), ("site", 0.06)):
        for level in sorted(set(halves.trained[name])):
            own = (halves.trained[name] == level).to_numpy()
            assert rms((transformed[own].mean(axis=0) - transformed.mean(axis=0)) / noise) < tolerance
    age = halves.trained["age"].to_numpy(float)
    assert rms(np.array([np.corrcoef(age, column)[0, 1] for column in transformed.T])) < 0.02


def test_effects_without_batches_are_removed_to_the_last_digit():
    frame, made = simulate(200, seed=5)
    data = made.features.to_numpy()
    model = fit(frame, data, declared=(AGE, SEX))
    transformed = model.remove(model.dataset(data, frame), {"age": 50.0, "sex": "F"})
    means = [transformed[(frame["sex"] == sex).to_numpy()].mean(axis=0) for sex in ("F", "M")]
    np.testing.assert_allclose(means[0], means[1], atol=1e-10)
    np.testing.assert_allclose((frame["age"] - frame["age"].mean()).to_numpy() @ transformed, 0, atol=1e-8)


def test_site_means_and_deviations_agree_afterwards(halves):
    everything = {"age": 50.0, "sex": "F", "diagnosis": "control"}
    spread = []
    for data in (halves.data, halves.removed(site="S0")):
        flat = halves.model.remove(halves.model.dataset(data, halves.frame.assign(site="S0")), everything)
        spread.append([flat[(halves.frame["site"] == level).to_numpy()].std(axis=0) for level in ("S1", "S2", "S3")])
    ratios = [rms(np.log(np.array(each) / each[0])) for each in spread]
    assert ratios[1] < 0.6 * ratios[0]


def test_covariance_aligns_the_relation_between_columns():
    rng = np.random.default_rng(0)
    frame = draw_people(1000, 2, 0)
    direction = rng.normal(size=30) / np.sqrt(30)
    strength = np.where(frame["site"] == "S1", 4.0, 1.0)
    data = rng.normal(size=(1000, 30)) + (strength * rng.normal(size=1000))[:, None] * direction
    first = np.arange(1000) < 500
    own = (frame["site"] == "S1").to_numpy()[~first]
    gaps = {}
    for covariance in (False, True):
        model = fit(frame[first], data[first], LinearSettings(covariance=covariance, components=4))
        transformed = model.remove(model.dataset(data[~first], frame[~first]), {"site": "S0"})
        gaps[covariance] = rms(np.cov(transformed[own].T) - np.cov(transformed[~own].T))
    assert gaps[True] < 0.7 * gaps[False]


def test_images_are_harmonised_better_over_space_than_over_columns():
    grid = Grid((12, 10, 6), (4.0, 4.0, 4.0))
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij")
    rng = np.random.default_rng(0)
    frame = draw_people(60, 2, 0)
    second = (frame["site"] == "S1").to_numpy()
    clean = 100 + 20 * y.ravel() + 10 * rng.normal(size=(60, grid.size)) + 0.2 * frame["age"].to_numpy()[:, None]
    data = np.where(second[:, None], (1.1 + 0.1 * x.ravel()) * clean + 10, clean)
    schema = CovariateSchema.fit(frame, (AGE, SEX, SITE))
    errors = {}
    for borrow in ("space", "columns"):
        model, _ = LinearModel.fit(
            Dataset(data, frame, schema, Columns((), grid.size, grid)), LinearSettings(borrow=borrow)
        )
        errors[borrow] = rms(model.remove(model.dataset(data, frame), {"site": "S0"})[second] - clean[second])
    assert errors["space"] < 0.5 * errors["columns"]
    assert errors["space"] < 0.2 * rms(data[second] - clean[second])


class Newcomers:
    """A model that never saw site S3, and that site's people."""

    def __init__(self) -> None:
        frame, made = simulate(1600, seed=4)
        self.strange = (frame["site"] == "S3").to_numpy()
        self.data, self.clean, self.truth = made.features.to_numpy(), made.clean.to_numpy(), made.truth
        self.frame = frame
        self.model = fit(frame[~self.strange], self.data[~self.strange], declared=DECLARED)

    def adapted(self, count: int) -> tuple[LinearModel, object, np.ndarray]:
        rows = np.flatnonzero(self.strange)
        batches = [rows[start : min(start + 7, count)] for start in range(0, count, 7)]
        model, notes = self.model.adapt(self.model.dataset(self.data[part], self.frame.iloc[part]) for part in batches)
        return model, notes[0], rows[-80:]


@pytest.fixture(scope="module")
def newcomers() -> Newcomers:
    return Newcomers()


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_new_site_is_adapted_to_from_its_own_people(newcomers, count):
    model, note, rows = newcomers.adapted(count)
    assert (note.covariate, note.level, note.people) == ("site", "S3", count)
    assert 0 < note.location_se < 2.5 / np.sqrt(count)
    assert (note.log_scale_se is None) == (count == 1)
    transformed = model.remove(model.dataset(newcomers.data[rows], newcomers.frame.iloc[rows]), {"site": "S0"})
    assert np.isfinite(transformed).all()
    assert model.schema["site"].levels == ("S0", "S1", "S2", "S3")


def test_adaptation_comes_closer_with_every_person(newcomers):
    errors = []
    for count in (2, 10, 50, 250):
        model, _, rows = newcomers.adapted(count)
        transformed = model.remove(model.dataset(newcomers.data[rows], newcomers.frame.iloc[rows]), {"site": "S0"})
        errors.append(rms(transformed - newcomers.clean[rows]))
    raw = rms(newcomers.data[rows] - newcomers.clean[rows])
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.7 * raw
    assert errors[3] < 0.25 * raw


def test_an_adapted_site_is_no_worse_than_a_fitted_one(newcomers):
    model, _, rows = newcomers.adapted(250)
    fitted = fit(newcomers.frame, newcomers.data, declared=DECLARED)
    errors = [
        rms(
            each.remove(each.dataset(newcomers.data[rows], newcomers.frame.iloc[rows]), {"site": "S0"})
            - newcomers.clean[rows]
        )
        for each in (model, fitted)
    ]
    assert errors[0] < 1.5 * errors[1]


def test_adaptation_leaves_the_known_sites_alone(newcomers):
    model, *_ = newcomers.adapted(20)
    known, frame = newcomers.data[~newcomers.strange], newcomers.frame[~newcomers.strange]
    for target in ({"site": "S0"}, {"site": "(pooled)"}, {"age": 50.0, "site": "S2"}):
        np.testing.assert_allclose(
            model.remove(model.dataset(known, frame), target),
            newcomers.model.remove(newcomers.model.dataset(known, frame), target),
            atol=1e-12,
        )


def test_an_adapted_model_is_exact_at_the_ends(newcomers):
    model, _, rows = newcomers.adapted(20)
    data, frame = newcomers.data[rows], newcomers.frame.iloc[rows]
    np.testing.assert_array_equal(model.remove(model.dataset(data, frame), {"site": "S3"}), data)
    once = model.remove(model.dataset(data, frame), {"site": "S0"})
    np.testing.assert_array_equal(model.remove(model.dataset(once, frame.assign(site="S0")), {"site": "S0"}), once)


def test_missing_cells_do_not_pull_an_adapted_site_to_the_pool(newcomers):
    rows = np.flatnonzero(newcomers.strange)[:60]
    holed = newcomers.data[rows].copy()
    holed[::2, 0] = np.nan
    whole, _ = newcomers.model.adapt(
        [newcomers.model.dataset(newcomers.data[rows[1::2]], newcomers.frame.iloc[rows[1::2]])]
    )
    part, _ = newcomers.model.adapt([newcomers.model.dataset(holed, newcomers.frame.iloc[rows])])
    sd = newcomers.model.sd[0]
    assert part.batches.location[3, 0] / sd == pytest.approx(whole.batches.location[3, 0] / sd, abs=0.1)
    assert part.batches.log_scale[3, 0] == pytest.approx(whole.batches.log_scale[3, 0], abs=0.15)


def test_nobody_new_changes_nothing(newcomers):
    known = ~newcomers.strange
    model, notes = newcomers.model.adapt(
        [newcomers.model.dataset(newcomers.data[known][:5], newcomers.frame[known].iloc[:5])]
    )
    assert model is newcomers.model
    assert notes == ()


def test_an_unseen_scanner_with_gain_is_told_from_the_age_of_its_people():
    rng = np.random.default_rng(3)
    n, width = 400, 60
    site = np.repeat(["A", "B", "new"], [150, 150, 100])
    age = np.where(site == "new", rng.uniform(60, 80, n), rng.uniform(20, 80, n))
    frame = pd.DataFrame({"age": age, "site": site}, index=[f"sub-{k:03d}" for k in range(n)])
    slope = rng.normal(0, 0.05, width)
    own = 10 + (age - 50)[:, None] * slope + rng.standard_normal((n, width))
    # The new scanner has a gain of 1.5 about the pooled mean and no offset of its own.
    pooled = own[site != "new"].mean(axis=0)
    data = np.where((site == "new")[:, None], pooled + 1.5 * (own - pooled), own)
    known = site != "new"
    declared = [Covariate("age", "continuous"), Covariate("site", "categorical", role="batch")]
    schema = CovariateSchema.fit(frame[known], declared)
    settings = LinearSettings(gain="yes", spline_degrees=1, components=0)
    model, _ = LinearModel.fit(
        Dataset(
            data[known],
            schema.transfer(frame[known]),
            schema,
            Columns(tuple(f"v{k}" for k in range(width)), width, None),
        ),
        settings,
    )
    new = schema.transfer(frame[~known], unseen="adapt")
    adapted, _ = model.adapt([model.dataset(data[~known], new)])
    clean = adapted.remove(adapted.dataset(data[~known], new), adapted.schema.references(["site"]))
    before, after = (np.abs(x.mean(axis=0) - own[~known].mean(axis=0)).mean() for x in (data[~known], clean))
    assert after < 0.3 * before
    assert np.abs(clean.std(axis=0) / own[~known].std(axis=0) - 1).mean() < 0.1
