import dataclasses

import pytest
import yaml

from medrep.cohort.covariates import Covariate
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.kinds import saved_input
from medrep.config import SHIPPED, Config, parse_config, read_config
from medrep.errors import ConfigError
from medrep.models import LinearSettings, VaeSettings
from medrep.training.schedule import Schedule

MINIMAL = "covariates: {age: {kind: continuous}, site: {kind: categorical, role: batch}}\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINIMAL)
    return file


def refused(text: str, tmp_path, *overrides: str) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(file, overrides)
    return str(error.value)


@pytest.mark.parametrize("name", sorted(e.name for e in SHIPPED.glob("*.yaml") if not e.name.startswith("gates")))
def test_shipped_configurations_round_trip(name, tmp_path):
    config = read_config(name)
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "again.yaml") == config


def test_everything_round_trips(tmp_path):
    overrides = [
        "covariates.age={kind: continuous, unit: año, column: Alter, reference: 0, missing: impute, inexact: midpoint}",
        "covariates.site={kind: categorical, role: batch, reference: '3'}",
        "input={kind: volume, suffix: T1w, entities: {run: '1'}, spacing: [1, 1, 2.5], shape: [48, 64, 48]}",
        "settings={interactions: [[age, sex]], scale: false, gain: 'yes', borrow: columns}",
        "seed=3",
    ]
    config = read_config("linear", overrides)
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "again.yaml") == config
    assert config.covariates[0].reference == 0
    assert config.input.section.spacing == (1.0, 1.0, 2.5)
    assert config.settings.interactions == (("age", "sex"),)


def test_the_parts_of_a_configuration():
    config = read_config("linear.yaml")
    assert config.model == "linear"
    assert [covariate.name for covariate in config.covariates] == ["age", "sex", "site"]
    assert config.covariates[2].role == "batch"
    assert isinstance(config.settings, LinearSettings)


def test_shipped_settings_are_the_defaults():
    assert read_config("linear.yaml").settings == LinearSettings()


def test_defaults(path):
    assert read_config(path) == Config(
        covariates=(Covariate("age", "continuous"), Covariate("site", "categorical", "batch")),
        settings=LinearSettings(),
    )


def test_a_kind_alone_is_enough(tmp_path):
    assert parse_config({"covariates": {"age": "continuous"}}).covariates == (Covariate("age", "continuous"),)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("covaraites: {}\n", "covaraites: unknown; did you mean covariates?"),
        ("settings: {spline_degree: 3}\n", "settings.spline_degree: unknown; did you mean spline_degrees?"),
        ("input: {spaceing: [1, 1, 1]}\n", "input.spaceing: unknown; did you mean spacing?"),
        ("zzz: 1\n", "zzz: unknown; known: model, input, covariates, settings, seed"),
        ("3: 1\n", "3: unknown; known: model"),
        ("null: 1\n", "None: unknown"),
    ],
)
def test_unknown_keys_suggest_the_nearest(tmp_path, text, suggestion):
    assert suggestion in refused(MINIMAL + text, tmp_path)


def test_unknown_keys_of_a_covariate(tmp_path):
    assert "covariates.age.knid: unknown; did you mean kind?" in refused("covariates: {age: {knid: x}}", tmp_path)


def test_all_problems_are_listed(tmp_path):
    message = refused(
        "modle: linear\nseed: x\ninput: {kind: picture}\nsettings: {scale: 3}\n"
        "covariates: {age: {kind: number}, site: {role: batch}, iq: {kind: continuous, role: batch}}\n",
        tmp_path,
    )
    for part in (
        "modle: unknown; did you mean model?",
        "seed: 'x' is not a whole number",
        "input.kind: 'picture' is not allowed; allowed: features, volume",
        "settings.scale: 3 is not allowed; allowed: true or false",
        "covariates.age.kind: 'number' is not allowed; allowed: continuous, categorical",
        "covariates.site.kind: missing; allowed: continuous, categorical",
        "covariates.iq: role batch needs kind categorical",
    ):
        assert part in message
    assert "(7):" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("settings.spline_degrees=2.5", "spline_degrees: 2.5 is not allowed; allowed: a whole number"),
        ("settings.spline_degrees=true", "spline_degrees: True is not allowed"),
        ("settings.scale=1", "scale: 1 is not allowed; allowed: true or false"),
        ("settings.interactions=[age, sex]", "interactions: ['age', 'sex'] is not allowed"),
        ("settings.borrow=time", "borrow: 'time' is not allowed; allowed: auto, space, columns"),
        ("settings=3", "settings: 3 is not a set of keys and values"),
        ("input.spacing=1", "spacing: 1 is not allowed; allowed: a list of a number"),
        ("input.shape=[1.5, 2, 3]", "shape: [1.5, 2, 3] is not allowed; allowed: a list of a whole number"),
        ("input.entities=[run]", "entities: ['run'] is not allowed"),
        ("covariates.age=7", "covariates.age.kind: 7 is not allowed"),
        ("covariates.age.reference=[1]", "reference: [1] is not allowed; allowed: a number"),
        ("covariates.age.name=years", "covariates.age.name"),
        ("covariates=3", "covariates: give names and properties"),
        ("covariates=null", "covariates: none is left"),
        ("seed=-1", "seed: -1 is not a whole number from 0"),
        ("seed=true", "seed: True is not a whole number"),
        ("model=forest", "model 'forest' is unknown; allowed: linear"),
        ("model=[linear]", "model ['linear'] is unknown"),
        ("model=null", "model None is unknown"),
        ("nonsense", "--set nonsense: write it as dotted.path=value"),
        ("=3", "--set =3: write it as dotted.path=value"),
        ("input={kind: volume", "is not YAML"),
    ],
)
def test_values_of_the_wrong_kind(tmp_path, override, message):
    assert message in refused(MINIMAL, tmp_path, override)


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("settings.latent=3", "settings.latent: unknown; did you mean latents?"),
        ("settings.training.epoch=3", "settings.training.epoch: unknown; did you mean epochs?"),
        ("settings.training.learning-rate=3", "settings.training.learning-rate: unknown; did you mean learning_rate?"),
        ("settings.linear.spline_degree=3", "settings.linear.spline_degree: unknown; did you mean spline_degrees?"),
        ("settings.linear.zzz=3", "settings.linear.zzz: unknown; known: "),
    ],
)
@pytest.mark.parametrize("name", ["vae_features", "vae_volume"])
def test_unknown_nested_settings_suggest_the_nearest_with_their_full_path(name, override, suggestion):
    with pytest.raises(ConfigError) as error:
        read_config(name, [override])
    assert suggestion in str(error.value)


def test_all_problems_of_nested_settings_are_listed():
    overrides = [
        "settings.latnets=4",
        "settings.body=tree",
        "settings.hidden=[wide]",
        "settings.training={epohcs: 3, batch: many, device: tpu, threads: true}",
        "settings.linear={scale: 3, interactions: [age]}",
        "settings.noise=null",
        "seed=x",
    ]
    with pytest.raises(ConfigError) as error:
        read_config("vae_features", overrides)
    message = str(error.value)
    for part in (
        "settings.latnets: unknown; did you mean latents?",
        "settings.body: 'tree' is not allowed; allowed: auto, linear, mlp, conv",
        "settings.hidden: ['wide'] is not allowed; allowed: a list of a whole number",
        "settings.training.epohcs: unknown; did you mean epochs?",
        "settings.training.batch: 'many' is not allowed; allowed: a whole number",
        "settings.training.device: 'tpu' is not allowed; allowed: auto, cpu, cuda",
        "settings.training.threads: True is not allowed",
        "settings.linear.scale: 3 is not allowed; allowed: true or false",
        "settings.linear.interactions: ['age'] is not allowed",
        "settings.noise: None is not allowed; allowed: a number",
        "seed: 'x' is not a whole number from 0",
    ):
        assert part in message
    assert "(11):" in message


@pytest.mark.parametrize("section", ["training", "linear"])
@pytest.mark.parametrize("value", ["3", "null", "[epochs]"])
def test_a_nested_section_that_is_none(section, value):
    with pytest.raises(ConfigError, match=rf"settings\.{section}: .* is not a set of keys and values"):
        read_config("vae_features", [f"settings.{section}={value}"])


def test_nested_settings_that_are_not_named_have_their_defaults(path):
    settings = read_config(path, ["model=conditional_vae", "settings.training.epochs=3"]).settings
    assert settings == VaeSettings(training=Schedule(epochs=3))


def test_overrides_take_yaml(path):
    config = read_config(
        path,
        [
            "input={kind: volume, suffix: T1w, spacing: [2, 2, 2]}",
            "settings.interactions=[[age, sex]]",
            "covariates.sex={kind: categorical, reference: F}",
            "covariates.age.reference=40",
            "settings.components=0",
        ],
    )
    assert (config.input.kind, config.input.section.spacing) == ("volume", (2.0, 2.0, 2.0))
    assert config.settings == LinearSettings(interactions=(("age", "sex"),), components=0)
    assert {c.name: c.reference for c in config.covariates} == {"age": 40.0, "site": None, "sex": "F"}


@pytest.mark.parametrize("word", ["yes", "no", "auto", "'yes'"])
def test_yes_and_no_are_words_where_a_word_is_wanted(path, word):
    assert read_config(path, [f"settings.gain={word}"]).settings.gain == word.strip("'")


def test_null_drops_a_covariate(path):
    assert [c.name for c in read_config(path, ["covariates.site=null"]).covariates] == ["age"]
    assert [c.name for c in read_config("linear", ["covariates.sex=null"]).covariates] == ["age", "site"]


def test_dropping_a_covariate_that_is_not_there_is_harmless(path):
    assert read_config(path, ["covariates.sex=null"]) == read_config(path)


def test_later_overrides_win(path):
    assert read_config(path, ["seed=1", "seed=2"]).seed == 2


def test_a_value_with_an_equals_sign(path):
    assert read_config(path, ["covariates.age.column=a=b"]).covariates[0].column == "a=b"


def test_numbers_become_text_where_text_is_wanted(path):
    assert read_config(path, ["covariates.age.column=7"]).covariates[0].column == "7"


@pytest.mark.parametrize("text", ["a: [", "a: \x00", "- a\n- b", "just words", "a: !!python/object/apply:os.getcwd []"])
def test_unreadable_yaml(tmp_path, text):
    message = refused(text, tmp_path)
    assert "mine.yaml" in message
    assert "\n" not in message


def test_an_empty_file_lacks_covariates(tmp_path):
    assert "covariates: none is left; name at least one" in refused("", tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match=r"no such configuration; give a file or a shipped one: .*linear\.yaml"):
        read_config(tmp_path / "absent.yaml")


def test_configurations_are_frozen(path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_config(path).seed = 3


def test_saved_input_sections_are_read_back():
    section = read_config("linear", ["input={kind: volume, shape: [4, 5, 6], entities: {run: '1'}}"]).input
    plain = yaml.safe_load(yaml.safe_dump({**section.to_json(), "shape": [4, 5, 6], "spacing": []}))
    assert saved_input(plain, "model.json") == section


def test_a_damaged_input_section():
    with pytest.raises(ConfigError, match=r"model\.json: not a valid input section: input\.knd: unknown"):
        saved_input({"knd": "volume"}, "model.json")


@pytest.mark.parametrize("word", ["007", "2", "1.0", "NO", "on", "1_000", "0x1F", "2020-01-02", "1:30", ".inf", "true"])
def test_a_level_stays_as_it_is_written(tmp_path, word):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"covariates: {{site: {{kind: categorical, role: batch, reference: {word}, verbatim: [{word}, NA]}}}}"
    )
    for config in (
        read_config(file),
        read_config("linear", [f"covariates.site.reference={word}", f"covariates.site.verbatim=[{word}, NA]"]),
        read_config("linear", [f"covariates.site={{kind: categorical, reference: {word}, verbatim: [{word}, NA]}}"]),
    ):
        site = config.covariates[-1]
        assert (site.name, site.reference, site.verbatim) == ("site", word, (word, "NA"))
        (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
        assert read_config(tmp_path / "again.yaml") == config


def test_a_covariate_is_called_as_it_is_written(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("covariates: {no: {kind: continuous, column: 01, unit: y, reference: ~}, 1: categorical}")
    first, second = read_config(file).covariates
    assert (first.name, first.column, first.unit, first.reference, second.name) == ("no", "01", "y", None, "1")


def test_numbers_of_a_continuous_covariate_stay_numbers(path):
    assert read_config(path, ["covariates.age.reference=40"]).covariates[0].reference == 40.0
    assert read_config(path, ["covariates.age.missing_codes=[-9, 999.0]"]).covariates[0].missing_codes == (
        "-9",
        "999.0",
    )
    assert read_config(path, ["covariates.age.limits=[0, 120]"]).covariates[0].limits == (0.0, 120.0)


@pytest.mark.parametrize("given", ["{}", "null", "{latents: 3}", "{body: conv, training: {epochs: 2}}", "{body: auto}"])
@pytest.mark.parametrize("kind", ["volume", "shape"])
def test_a_conditional_vae_on_images_has_settings_that_fit_them(path, kind, given):
    config = read_config(path, ["model=conditional_vae", f"input={{kind: {kind}}}", f"settings={given}"])
    shipped = read_config("vae_volume").settings
    assert config.settings.hidden == shipped.hidden
    assert config.settings.heteroscedastic is False
    config.settings.check(Columns((), 512, Grid((8, 8, 8), (1.0, 1.0, 1.0))))
    assert config.settings.latents == (3 if "latents" in given else shipped.latents)
    assert config.settings.training.epochs == (2 if "epochs" in given else shipped.training.epochs)


@pytest.mark.parametrize(
    "overrides",
    [
        ["input.kind=features"],
        ["input.kind=volume", "settings.hidden=[4, 8, 16]"],
        ["input.kind=volume", "settings.body=mlp"],
    ],
)
def test_other_settings_keep_their_defaults(path, overrides):
    settings = read_config(path, ["model=conditional_vae", *overrides]).settings
    assert (settings.latents, settings.heteroscedastic) == (VaeSettings().latents, True)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("settings.spline_degree=3", "settings.spline_degree: unknown; did you mean spline_degrees?"),
        ("covariates.sight=null", "covariates.sight: unknown; did you mean site?"),
        ("covariates.ages.column=years", "covariates.ages: unknown; did you mean age?"),
        ("inputs.kind=volume", "inputs: unknown; did you mean input?"),
        ("seed=x", "seed: 'x' is not a whole number from 0"),
    ],
)
def test_what_is_wrong_with_an_override_is_not_blamed_on_the_file(override, line):
    with pytest.raises(ConfigError) as error:
        read_config("linear", ["seed=1", override])
    assert f"--set {override}: {line}" in str(error.value)
    assert "linear.yaml" not in str(error.value)


def test_what_is_wrong_with_the_file_is(tmp_path):
    message = refused(f"{MINIMAL}sed: 1\n", tmp_path, "settings.x=1")
    assert str(tmp_path / "mine.yaml") in message
    assert "--set settings.x=1: settings.x: unknown" in message
    assert "\n  sed: unknown; did you mean seed?" in message


def test_a_new_covariate_may_have_a_similar_name():
    declared = read_config("linear", ["covariates.sites={kind: categorical}", "covariates.smoker=null"]).covariates
    assert [covariate.name for covariate in declared] == ["age", "sex", "site", "sites"]
