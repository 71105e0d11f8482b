"""The conditional VAE on feature tables with planted effects: exact at the ends, blind to kept labels, faithful in storage."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import POOLED, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.kinds import INPUTS
from medrep.errors import CovariateError, ModelError
from medrep.models import ConditionalVae, FitContext, VaeSettings, restore_model
from medrep.models.linear.settings import LinearSettings
from medrep.models.saved import SavedModel
from medrep.models.vae.objective import condition_vector
from medrep.models.vae.residuals import standardise
from medrep.training.schedule import Schedule
from tests.models.planted import AGE, DECLARED, SEX, SITE, draw_people, named, simulate, unlabelled

POOL = {"site": POOLED}
TARGETS = (
    {"site": "S0"},
    POOL,
    {"age": 50.0},
    {"age": 40.0, "sex": "F"},
    {"age": 50.0, "sex": "M", "site": POOLED},
)
BODIES = {
    "linear": VaeSettings(body="linear", latents=5),
    # Slow enough for the judges to gain, so that training goes beyond the closed-form start.
    "mlp": VaeSettings(
        body="mlp",
        latents=5,
        hidden=(12,),
        strength=1.0,
        validation=0.25,
        training=Schedule(epochs=5, batch=32, learning_rate=1e-3, warmup=0, threads=1),
    ),
    "untrained": VaeSettings(body="mlp", latents=5, hidden=(12,), strength=1.0, training=Schedule(epochs=0, threads=1)),
}


@dataclass(frozen=True)
class Planted:
    """People, what was measured, the same without site effects, and who they are."""

    frame: pd.DataFrame
    data: np.ndarray
    clean: np.ndarray
    identity: np.ndarray


def plant(n: int = 150, columns: int = 16, sites: int = 3, seed: int = 0) -> Planted:
    """Draw a bent age effect, a sex difference, locations and scales of sites (none at S0), and rank-3 identity."""
    frame = draw_people(n, sites, seed)
    rng = np.random.default_rng([seed, 5])
    decades = (frame["age"].to_numpy(float)[:, None] - 50) / 10
    age = decades * rng.normal(-0.5, 0.3, columns) - np.maximum(decades, 0) ** 2 * rng.uniform(0, 0.15, columns)
    sex = (frame["sex"] == "M").to_numpy()[:, None] * rng.normal(0, 0.7, columns)
    identity = rng.normal(size=(n, 3))
    own = identity @ rng.normal(0, 1, (3, columns)) + 0.5 * rng.normal(size=(n, columns))
    location, scale = rng.normal(0, 1.2, (sites, columns)), np.exp(rng.normal(0, 0.25, (sites, columns)))
    location[0], scale[0] = 0, 1
    site = frame["site"].str.removeprefix("S").to_numpy(int)
    clean = 10 + age + sex + own
    return Planted(frame, clean - own + location[site] + scale[site] * own, clean, identity)


def fit(
    frame: pd.DataFrame,
    data: np.ndarray,
    settings: VaeSettings = BODIES["linear"],
    declared: tuple[Covariate, ...] = DECLARED,
    seed: int = 0,
    work: FitContext | None = None,
) -> tuple[ConditionalVae, pd.DataFrame]:
    schema = CovariateSchema.fit(frame, declared)
    columns = named(data.shape[1])
    return ConditionalVae.fit(Dataset(data, schema.transfer(frame), schema, columns), settings, seed=seed, work=work)


def gap(data: np.ndarray, frame: pd.DataFrame, clean: np.ndarray) -> float:
    """How far sites lie apart in what was done to their people."""
    change = data - clean
    return float(np.stack([own.mean(axis=0) for _, own in _by(change, frame["site"])]).std(axis=0).mean())


def slopes(data: np.ndarray, frame: pd.DataFrame) -> np.ndarray:
    """Each column's age slope and sex difference."""
    design = np.column_stack([np.ones(len(frame)), frame["age"] - 50, frame["sex"] == "M"])
    return np.linalg.lstsq(design.astype(float), data, rcond=None)[0][1:]


def _by(data: np.ndarray, labels: pd.Series) -> list[tuple[str, np.ndarray]]:
    return [(level, data[(labels == level).to_numpy()]) for level in sorted(set(labels))]


@pytest.fixture(scope="module")
def people() -> Planted:
    return plant()


@pytest.fixture(scope="module")
def fitted(people: Planted) -> dict[str, ConditionalVae]:
    return {name: fit(people.frame, people.data, settings)[0] for name, settings in BODIES.items()}


@pytest.fixture(params=list(BODIES))
def any_model(request: pytest.FixtureRequest, fitted: dict[str, ConditionalVae]) -> ConditionalVae:
    return fitted[request.param]


@pytest.fixture(params=["linear", "mlp"])
def model(request: pytest.FixtureRequest, fitted: dict[str, ConditionalVae]) -> ConditionalVae:
    return fitted[request.param]


def test_everybody_is_moved_to_values_of_their_own(any_model, people):
    frame, data = any_model.schema.transfer(people.frame).iloc[:12], people.data[:12]
    to = pd.DataFrame({"age": frame["age"].to_numpy()[::-1], "site": ["S0", POOLED, "S1", "S2"] * 3}, index=frame.index)
    transformed = any_model.transform(any_model.dataset(data, frame), to)
    for row in range(12):
        target = {"age": float(to["age"].iloc[row]), "site": str(to["site"].iloc[row])}
        np.testing.assert_allclose(
            transformed[[row]], any_model.remove(any_model.dataset(data[[row]], frame.iloc[[row]]), target), rtol=1e-5
        )


def test_training_changes_the_network(fitted):
    weights = [fitted[name].parts.network.state_dict()["decoder.linear.weight"] for name in ("mlp", "untrained")]
    assert not np.array_equal(*(each.numpy() for each in weights))


@pytest.mark.parametrize("names", [["site"], ["age"], ["age", "sex"], ["age", "sex", "site"]], ids=str)
def test_the_null_intervention_returns_the_person_bit_for_bit(any_model, people, names):
    for person in range(0, len(people.frame), 29):
        own = {name: people.frame[name].iloc[person] for name in names}
        transformed = any_model.remove(any_model.dataset(people.data, people.frame), own)
        np.testing.assert_array_equal(transformed[person], people.data[person])


def test_people_of_the_reference_come_back_as_they_are(any_model, people):
    transformed = any_model.remove(any_model.dataset(people.data, people.frame), {"site": "S1"})
    there = (people.frame["site"] == "S1").to_numpy()
    np.testing.assert_array_equal(transformed[there], people.data[there])
    assert (transformed[~there] != people.data[~there]).mean() > 0.99


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_removing_twice_is_removing_once(any_model, people, target):
    once = any_model.remove(any_model.dataset(people.data, people.frame), target)
    twice = any_model.remove(any_model.dataset(once, any_model.schema.transformed(people.frame, target)), target)
    np.testing.assert_array_equal(twice, once)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_the_order_and_company_of_people_do_not_matter(model, people, target):
    whole = model.remove(model.dataset(people.data, people.frame), target)
    order = np.random.default_rng(0).permutation(len(people.data))
    shuffled = model.remove(model.dataset(people.data[order], people.frame.iloc[order]), target)
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-5)
    np.testing.assert_allclose(
        model.remove(model.dataset(people.data[7:9], people.frame.iloc[7:9]), target), whole[7:9], atol=1e-5
    )


def test_the_order_of_people_and_columns_does_not_matter_to_a_fit(people):
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(len(people.data)), rng.permutation(people.data.shape[1])
    # Cross-fitting draws its folds by position.
    settings = replace(BODIES["linear"], folds=0)
    plain, _ = fit(people.frame, people.data, settings)
    for target in ({"site": "S0"}, POOL):
        transformed = plain.remove(plain.dataset(people.data, people.frame), target)
        other, _ = fit(people.frame, people.data[:, columns], settings)
        np.testing.assert_allclose(
            other.remove(other.dataset(people.data[:, columns], people.frame), target),
            transformed[:, columns],
            atol=1e-3,
        )
        other, _ = fit(people.frame.iloc[rows], people.data[rows], settings)
        np.testing.assert_allclose(
            other.remove(other.dataset(people.data, people.frame), target), transformed, atol=1e-3
        )


@pytest.mark.parametrize("target", [{"site": "S0"}, POOL], ids=str)
def test_labels_of_what_is_kept_are_not_looked_at(any_model, people, target):
    order = np.random.default_rng(2).permutation(len(people.frame))
    mixed = people.frame.copy()
    for name in ("age", "sex"):
        mixed[name] = people.frame[name].to_numpy()[order]
    np.testing.assert_array_equal(
        any_model.remove(any_model.dataset(people.data, mixed), target),
        any_model.remove(any_model.dataset(people.data, people.frame), target),
    )


def test_the_site_goes_and_age_and_sex_stay(model, people):
    transformed = model.remove(model.dataset(people.data, people.frame), {"site": "S0"})
    assert gap(transformed, people.frame, people.clean) < 0.35 * gap(people.data, people.frame, people.clean)
    for found, wanted in zip(slopes(transformed, people.frame), slopes(people.clean, people.frame), strict=True):
        assert found @ wanted / (wanted @ wanted) == pytest.approx(1, abs=0.15)
        assert np.corrcoef(found, wanted)[0, 1] > 0.9
    errors = [np.square(data - people.clean).mean() for data in (transformed, people.data)]
    assert errors[0] < 0.3 * errors[1]


def test_towards_the_pool_the_site_goes_and_age_stays_readable(model, people):
    transformed = model.remove(model.dataset(people.data, people.frame), POOL)
    before, after = (
        np.stack([own.mean(axis=0) for _, own in _by(data, people.frame["site"])]).std(axis=0).mean()
        for data in (people.data, transformed)
    )
    assert after < 0.4 * before
    age = people.frame["age"].to_numpy()
    told = []
    for data in (people.clean, transformed):
        design = np.column_stack([np.ones(len(data)), data])
        told.append(1 - (age - design @ np.linalg.lstsq(design, age, rcond=None)[0]).var() / age.var())
    assert told[1] > told[0] - 0.05


def test_towards_the_pool_slopes_stay_where_what_is_not_modelled_is_carried(people):
    model, _ = fit(people.frame, people.data, replace(BODIES["linear"], carry=1.0))
    transformed = model.remove(model.dataset(people.data, people.frame), POOL)
    for found, wanted in zip(slopes(transformed, people.frame), slopes(people.clean, people.frame), strict=True):
        assert found @ wanted / (wanted @ wanted) == pytest.approx(1, abs=0.15)


def test_everything_removed_leaves_no_trace_in_the_means(model, people):
    target = model.schema.references(list(model.schema.names))
    transformed = model.remove(model.dataset(people.data, people.frame), target)
    for found, before in zip(slopes(transformed, people.frame), slopes(people.data, people.frame), strict=True):
        assert np.abs(found).mean() < 0.15 * np.abs(before).mean()


def test_identity_is_found_in_the_latents(model, people):
    latents = model.parts.network.encode(*_known(model, people))
    design = np.column_stack([np.ones(len(latents)), latents])
    left = people.identity - design @ np.linalg.lstsq(design, people.identity, rcond=None)[0]
    assert (1 - left.var(axis=0) / people.identity.var(axis=0)).min() > 0.7


def test_what_a_shift_of_age_does_is_the_planted_effect(model, people):
    older = model.remove(model.dataset(people.data, people.frame), {"age": 65.0})
    younger = model.remove(model.dataset(people.data, people.frame), {"age": 35.0})
    planted = slopes(people.clean, people.frame)[0] * 30
    change = (older - younger).mean(axis=0)
    assert np.corrcoef(change, planted)[0, 1] > 0.9


def test_latents_come_in_a_fixed_number_and_say_nothing_of_the_labels(model, people):
    handed = model.encode(model.dataset(people.data, people.frame))
    assert handed.shape == (len(people.frame), model.directions(model.schema.names, ()))
    design = np.column_stack([np.ones(len(handed)), pd.get_dummies(people.frame["site"]).to_numpy(float)[:, 1:]])
    left = handed - design @ np.linalg.lstsq(design, handed, rcond=None)[0]
    assert (1 - left.var(axis=0) / handed.var(axis=0)).max() < 0.15


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_missing_cells_stay_missing_and_touch_nobody_else(people, name):
    holed = people.data.copy()
    holed[5, 2] = holed[9, 0] = np.nan
    model, _ = fit(people.frame, holed, BODIES[name])
    transformed = model.remove(model.dataset(holed, people.frame), POOL)
    assert np.argwhere(~np.isfinite(transformed)).tolist() == [[5, 2], [9, 0]]
    assert np.isfinite(model.encode(model.dataset(holed, people.frame))).all()
    own = {"site": people.frame["site"].iloc[5]}
    np.testing.assert_array_equal(model.remove(model.dataset(holed, people.frame), own)[5], holed[5])


def test_a_person_and_a_column_without_any_value(people):
    holed = people.data.copy()
    holed[4], holed[:, 3] = np.nan, np.nan
    model, _ = fit(people.frame, holed)
    transformed = model.remove(model.dataset(holed, people.frame), POOL)
    np.testing.assert_array_equal(np.isnan(transformed), np.isnan(holed))
    assert np.isfinite(model.encode(model.dataset(holed, people.frame))).all()
    assert np.isfinite(model.sample(people.frame, seed=0)).all()


def test_columns_that_hardly_vary(people):
    data = people.data.copy()
    data[:, 1] = 4
    data[:140, 2] = 0
    model, _ = fit(people.frame, data)
    np.testing.assert_array_equal(model.remove(model.dataset(data, people.frame), POOL)[:, 1:3], data[:, 1:3])
    everything = model.schema.references(list(model.schema.names))
    bare = model.remove(model.dataset(data, people.frame), everything)
    np.testing.assert_array_equal(bare[:, 1:3], np.broadcast_to([4.0, 0.0], (len(data), 2)))
    data[7, 2] = np.nan
    assert np.isnan(model.remove(model.dataset(data, people.frame), everything)[7, 2])


def test_nothing_but_constant_columns_is_refused(people):
    with pytest.raises(ModelError, match="no direction of the residuals stands out from noise; train the linear model"):
        fit(people.frame, np.ones((len(people.frame), 3)))


@pytest.mark.parametrize("target", [{"site": "S0"}, POOL], ids=str)
def test_the_type_of_the_data_is_kept_and_they_may_be_overwritten(model, people, target):
    wanted = model.remove(model.dataset(people.data, people.frame), target)
    single = model.remove(model.dataset(people.data.astype(np.float32), people.frame), target)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, wanted, atol=1e-4)
    own = people.data.copy()
    assert model.remove(model.dataset(own, people.frame), target, out=own) is own
    np.testing.assert_array_equal(own, wanted)


def test_storage_is_faithful(model, people, tmp_path):
    SavedModel(model, INPUTS["features"]()).save(tmp_path / "model")
    again = SavedModel.load(tmp_path / "model").model
    assert isinstance(again, ConditionalVae)
    assert (again.settings, again.schema, again.columns) == (model.settings, model.schema, model.columns)
    for target in TARGETS:
        np.testing.assert_array_equal(
            again.remove(again.dataset(people.data, people.frame), target),
            model.remove(model.dataset(people.data, people.frame), target),
        )
    np.testing.assert_array_equal(
        again.encode(again.dataset(people.data, people.frame)), model.encode(model.dataset(people.data, people.frame))
    )
    np.testing.assert_array_equal(
        again.encode_unlabelled(unlabelled(again, people.data)), model.encode_unlabelled(unlabelled(model, people.data))
    )
    np.testing.assert_array_equal(again.sample(people.frame, seed=3), model.sample(people.frame, seed=3))


def test_damaged_weights_are_refused_by_name(fitted):
    model = fitted["mlp"]
    content, arrays = model.state()
    for name, array in arrays.items():
        spoilt = [{key: own for key, own in arrays.items() if key != name}]
        if array.size:
            spoilt.append({**arrays, name: array[..., None][:0]})
        # The shares of columns that are no level are NaN by rights.
        if array.size and array.dtype.kind == "f" and name != "latents.moments.shares":
            spoilt.append({**arrays, name: np.full_like(array, np.nan)})
        for damaged in spoilt:
            with pytest.raises(ModelError, match=name.rpartition(".")[2]):
                restore_model(model.kind, content, damaged)


def test_weights_of_another_network_are_refused(fitted):
    content, arrays = fitted["mlp"].state()
    with pytest.raises(ModelError, match="the network has no extra; the weights are of another model"):
        restore_model("conditional_vae", content, {**arrays, "network.extra": np.zeros(3, np.float32)})


def test_an_unseen_site(people):
    wide = plant(n=160, sites=4)
    strange = (wide.frame["site"] == "S3").to_numpy()
    model, _ = fit(wide.frame[~strange], wide.data[~strange])
    with pytest.raises(CovariateError, match=r"site 'S3' was not in training \(S0, S1, S2\)"):
        model.schema.transfer(wide.frame)
    frame, own = wide.frame[strange], wide.data[strange]
    adapted, notes = model.adapt([model.dataset(own[:20], frame[:20]), model.dataset(own[20:], frame[20:])])
    assert [(note.covariate, note.level, note.people) for note in notes] == [("site", "S3", 40)]
    assert model.schema.levels("site") == ("S0", "S1", "S2")
    transformed = adapted.remove(adapted.dataset(own, frame), {"site": "S0"})
    assert np.square(transformed - wide.clean[strange]).mean() < 0.4 * np.square(own - wide.clean[strange]).mean()
    assert adapted.encode(adapted.dataset(own, frame)).shape == (40, model.directions(model.schema.names, ()))
    again = restore_model(adapted.kind, *adapted.state())
    np.testing.assert_array_equal(again.remove(again.dataset(own, frame), {"site": "S0"}), transformed)
    np.testing.assert_array_equal(
        adapted.remove(adapted.dataset(own, frame), {"site": "S3"}),
        own,
        "the adapted level is a reference as good as any",
    )


MLP = BODIES["mlp"]
VARIANTS = {
    "hsic": replace(MLP, independence="hsic"),
    "joint": replace(MLP, independence="joint"),
    "concatenated": replace(MLP, independence="concatenated"),
    "none": replace(MLP, independence="none"),
    "chosen strength": replace(MLP, strength=-1.0),
    "concatenate": replace(MLP, conditioning="concatenate"),
    "fixed noise": replace(MLP, noise=0.5),
    "homoscedastic": replace(MLP, heteroscedastic=False),
    "dirichlet": replace(MLP, prior="dirichlet"),
    "no guard": replace(MLP, guard="no"),
    "carry": replace(MLP, carry=1.0),
    "gain": replace(BODIES["linear"], linear=LinearSettings(gain="yes")),
    "interactions": replace(BODIES["linear"], linear=LinearSettings(interactions=(("age", "sex"),))),
}


@pytest.fixture(scope="module")
def few() -> Planted:
    return plant(n=60, columns=8)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_setting_fits_and_gives_numbers(few, settings):
    model, history = fit(few.frame, few.data, settings)
    for target in TARGETS:
        transformed = model.remove(model.dataset(few.data, few.frame), target)
        assert np.isfinite(transformed).all()
        twice = model.remove(model.dataset(transformed, model.schema.transformed(few.frame, target)), target)
        np.testing.assert_array_equal(twice, transformed)
    assert np.isfinite(model.encode(model.dataset(few.data, few.frame))).all()
    assert np.isfinite(model.encode_unlabelled(unlabelled(model, few.data))).all()
    assert np.isfinite(model.remove_unlabelled(unlabelled(model, few.data), ["site"])).all()
    assert np.isfinite(model.reconstruct(model.dataset(few.data, few.frame))).all()
    assert np.isfinite(model.sample(few.frame, seed=0)).all()
    assert history["value"].notna().all()
    again = restore_model(model.kind, *model.state())
    np.testing.assert_array_equal(
        again.remove(again.dataset(few.data, few.frame), POOL), model.remove(model.dataset(few.data, few.frame), POOL)
    )


def test_history_tells_the_forecast_and_every_epoch(few):
    _, history = fit(few.frame, few.data, MLP)
    assert list(history.columns) == ["metric", "name", "value", "epoch"]
    values = history.query("epoch == 0").set_index(["metric", "name"])["value"]
    assert values["latents", "width"] == 5
    assert 1 <= values["latents", "forecast"] <= 5
    assert values["latents", "active"] >= values["latents", "forecast"]
    assert values["independence", "strength"] == 1
    epochs = history.query("metric == 'loss' and name.str.endswith('train/loss')")
    assert epochs["epoch"].tolist()[:5] == [1, 2, 3, 4, 5]


def test_a_collapse_is_said(few):
    said: list[str] = []
    fit(few.frame, few.data, work=FitContext(say=said.append))
    assert not [line for line in said if "collapsed" in line]
    weak, made = simulate(120, 0, 24)
    settings = replace(BODIES["linear"], latents=6, beta=50.0)
    _, history = fit(weak, made.features.to_numpy(), settings, work=FitContext(say=said.append))
    values = history.query("metric == 'latents'").set_index("name")["value"]
    assert values["active"] < values["forecast"]
    assert f"{values['active']:.0f} latents are active, {values['forecast']:.0f} were forecast" in said[-1]


def test_the_same_seed_gives_the_same_weights(few):
    first, second, other = (fit(few.frame, few.data, MLP, seed=seed)[0].state()[1] for seed in (3, 3, 4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert any(not np.array_equal(array, other[name]) for name, array in first.items())


@pytest.mark.parametrize(("n", "sites"), [(32, 4), (12, 4), (12, 2)])
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_small_cohorts_fit(n, sites, name):
    few = plant(n=n, columns=8, sites=sites)
    model, _ = fit(few.frame, few.data, BODIES[name])
    for target in TARGETS:
        assert np.isfinite(model.remove(model.dataset(few.data, few.frame), target)).all()
    assert np.isfinite(model.encode(model.dataset(few.data, few.frame))).all()


def test_too_few_people_for_the_effects_are_refused_by_name():
    few = plant(n=7, columns=8, sites=2)
    with pytest.raises(CovariateError, match="add people"):
        fit(few.frame, few.data)


@pytest.mark.parametrize(
    "declared", [(AGE,), (SEX,), (SITE,), (AGE, SEX)], ids=lambda own: ",".join(c.name for c in own)
)
def test_any_selection_of_covariates(few, declared):
    for settings in (BODIES["linear"], MLP):
        model, _ = fit(few.frame, few.data, settings, declared)
        target = model.schema.references(list(model.schema.names))
        transformed = model.remove(model.dataset(few.data, few.frame), target)
        assert np.isfinite(transformed).all()
        assert len(model.certificates(model.schema.names, ())) == len(declared)
        restored = restore_model(model.kind, *model.state())
        np.testing.assert_array_equal(restored.remove(restored.dataset(few.data, few.frame), target), transformed)


def test_two_batch_covariates(people):
    coil = Covariate("coil", "categorical", "batch")
    frame = people.frame.assign(coil=np.random.default_rng(1).choice(["C0", "C1"], len(people.frame)).tolist())
    own = (frame["coil"] == "C0").to_numpy()
    data = people.data + 2 * ~own[:, None]
    model, _ = fit(frame, data, declared=(*DECLARED, coil))
    transformed = model.remove(model.dataset(data, frame), {"coil": "C0"})
    np.testing.assert_array_equal(transformed[own], data[own])
    assert (transformed[~own] - data[~own]).mean() == pytest.approx(-2, abs=0.4)
    assert np.isfinite(model.remove(model.dataset(data, frame), model.schema.references(["coil", "site"]))).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": 0}, "latents is 0; give 1 or more"),
        ({"prior": "dirichlet"}, "prior dirichlet needs body mlp, not linear"),
        ({"body": "conv"}, "body conv needs columns with a grid"),
        ({"carry": 2.0}, "carry is 2.0; give a share from 0 to 1"),
        ({"scanner": "yes"}, "scanner is yes, but the columns have no grid"),
        ({"training": Schedule(epochs=-1)}, "settings.training: epochs is -1; give 0 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(few, settings, message):
    with pytest.raises(ModelError, match=message):
        fit(few.frame, few.data, replace(BODIES["linear"], **settings))


def test_all_settings_that_do_not_fit_are_listed(few):
    with pytest.raises(ModelError, match=r"latents is 0.*beta, noise and aggregate.*target_auc is 0\.5"):
        fit(few.frame, few.data, replace(BODIES["linear"], latents=0, beta=-1.0, target_auc=0.5))


def test_data_of_another_width_are_refused(model, people):
    narrow = people.data[:, :4]
    for refused in (
        lambda: model.remove(model.dataset(narrow, people.frame), POOL),
        lambda: model.remove_unlabelled(unlabelled(model, narrow), ["site"]),
    ):
        with pytest.raises(ModelError, match="the data have 4 columns, the model was fitted on 16"):
            refused()


def test_nobody_to_export(model, people):
    nobody, empty = people.data[:0], people.frame.iloc[:0]
    assert model.remove(model.dataset(nobody, empty), POOL).shape == (0, 16)
    assert model.remove_unlabelled(unlabelled(model, nobody), ["site"]).shape == (0, 16)
    assert (
        len(model.encode(model.dataset(nobody, empty))) == len(model.encode_unlabelled(unlabelled(model, nobody))) == 0
    )


@pytest.fixture(scope="module")
def crowd() -> tuple[Planted, ConditionalVae, np.ndarray]:
    many = plant(n=400)
    data = many.data.copy()
    data[:, 0] = np.round(4 * data[:, 0])
    data[:300, 1] = 0
    model, _ = fit(many.frame, data, replace(BODIES["linear"], latents=8))
    return replace(many, data=data), model, model.sample(many.frame, seed=1)


def test_samples_have_the_marginals_of_training(crowd):
    many, _, drawn = crowd
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    off = np.abs(np.quantile(drawn, levels, axis=0) - np.quantile(many.data, levels, axis=0)) / many.data.std(axis=0)
    assert np.delete(off, 1, axis=1).max() < 0.35
    assert np.delete(off, 1, axis=1).mean() < 0.12


def test_samples_have_the_covariance_and_slopes_of_training(crowd):
    many, _, drawn = crowd
    above = np.triu_indices(15, 1)
    covariances = [np.cov(np.delete(data, 1, axis=1).T)[above] for data in (drawn, many.data)]
    assert np.corrcoef(*covariances)[0, 1] > 0.9
    for found, wanted in zip(slopes(drawn, many.frame), slopes(many.data, many.frame), strict=True):
        found, wanted = np.delete(found, 1), np.delete(wanted, 1)
        assert found @ wanted / (wanted @ wanted) == pytest.approx(1, abs=0.25)


def test_samples_keep_atoms_and_whole_numbers(crowd):
    many, _, drawn = crowd
    assert np.array_equal(drawn[:, 0], np.round(drawn[:, 0]))
    assert (drawn[:, 1] == 0).mean() == pytest.approx(0.75, abs=0.08)
    assert drawn[:, 1].min() >= many.data[:, 1].min()
    assert drawn[:, 1].max() <= many.data[:, 1].max()


def test_samples_follow_the_seed_and_are_nobody_of_training(crowd):
    many, model, drawn = crowd
    np.testing.assert_array_equal(model.sample(many.frame, seed=1), drawn)
    assert not np.array_equal(model.sample(many.frame, seed=2), drawn)
    nearest = np.abs(drawn[:50, None, 2:] - many.data[None, :, 2:]).max(axis=2).min(axis=1)
    assert nearest.min() > 0.05


def _known(model: ConditionalVae, people: Planted) -> tuple[np.ndarray, np.ndarray]:
    names = model.schema.names
    h = standardise(model.parts.linear, people.data, people.frame, names)
    return h, condition_vector(model.trained_schema, people.frame, names)
