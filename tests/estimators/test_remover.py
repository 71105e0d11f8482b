"""What the estimator takes, gives back, says and saves."""

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

import medrep as mr
from medrep.cli import main
from medrep.errors import CovariateError, EstimatorError
from medrep.estimators import CovariateRemover
from tests.estimators.people import DECLARED, SMALL_VAE, People, draw

SITE_AND_AGE = {"age": "continuous", "site": "batch"}


@pytest.fixture(scope="module")
def people() -> People:
    return draw(90, n_features=5)


@pytest.fixture(scope="module")
def fitted(people: People) -> CovariateRemover:
    return CovariateRemover("site", covariates=DECLARED).fit(people.features, covariates=people.covariates)


@pytest.fixture(scope="module")
def vae(people: People) -> CovariateRemover:
    declared = {"model": "conditional_vae", "settings": SMALL_VAE, "output": "latents"}
    return CovariateRemover(covariates=DECLARED, **declared).fit(people.both)


def write_cohort(folder: Path, people: People) -> Path:
    folder.mkdir()
    people.covariates.to_csv(folder / "participants.tsv", sep="\t")
    people.features.to_csv(folder / "features.tsv", sep="\t", float_format="%.17g")
    return folder


def test_covariates_beside_x_and_in_it_are_the_same(people: People, fitted: CovariateRemover) -> None:
    beside = fitted.transform(people.features, covariates=people.covariates)
    inside = CovariateRemover(covariates=DECLARED).fit_transform(people.both)
    shuffled_columns = people.both[[*people.features.columns[:2], "site", "sex", *people.features.columns[2:], "age"]]
    assert np.array_equal(beside, inside)
    assert np.array_equal(beside, CovariateRemover(covariates=DECLARED).fit_transform(shuffled_columns))


def test_positions_name_columns_of_a_matrix(people: People) -> None:
    by_name = people.both.drop(columns="sex")
    matrix = by_name.to_numpy(object)
    by_position = CovariateRemover(1, covariates={0: "continuous", 1: "batch"})
    wanted = CovariateRemover("site", covariates=SITE_AND_AGE).fit_transform(by_name)
    assert np.array_equal(by_position.fit_transform(matrix), wanted)
    assert by_position.schema_.names == ("x0", "x1")
    assert list(by_position.get_feature_names_out()) == [f"x{k}" for k in range(2, 7)]


def test_the_order_of_named_people_changes_nothing(people: People) -> None:
    mixed = people.both.sample(frac=1, random_state=0)
    remover = CovariateRemover(covariates=DECLARED)
    wanted = remover.fit(people.both).transform(mixed)
    assert np.allclose(remover.fit(mixed).transform(mixed), wanted, rtol=0, atol=1e-10)


def test_a_column_of_another_name(people: People) -> None:
    renamed = people.both.rename(columns={"site": "scanner"})
    declared = {**DECLARED, "site": {"kind": "categorical", "role": "batch", "column": "scanner"}}
    found = CovariateRemover("site", covariates=declared).fit_transform(renamed)
    assert np.array_equal(found, CovariateRemover(covariates=DECLARED).fit_transform(people.both))


def test_whole_numbers_are_one_level_whether_int_or_float(people: People) -> None:
    numbered = people.both.assign(site=people.covariates["site"].str[1:].astype(int))
    remover = CovariateRemover(covariates=DECLARED).fit(numbered)
    assert remover.schema_.levels("site") == ("0", "1", "2")
    assert np.array_equal(remover.transform(numbered.astype({"site": float})), remover.transform(numbered))


def test_nothing_declared_changes_nothing(people: People) -> None:
    remover = CovariateRemover().fit(people.features)
    assert np.array_equal(remover.transform(people.features), people.features)
    assert remover.model_ is None
    for use in (CovariateRemover().fit, remover.transform):
        with pytest.raises(mr.EstimatorError, match="none is declared, so that nothing would be removed"):
            use(people.features, covariates=people.covariates)
    for use in (lambda: remover.save("nowhere"), lambda: remover.counterfactual(people.features, age=70)):
        with pytest.raises(mr.EstimatorError, match="no covariates were declared"):
            use()


def test_float32_stays_float32(people: People) -> None:
    narrow = people.features.astype("float32")
    found = CovariateRemover(covariates=DECLARED).fit_transform(narrow, covariates=people.covariates)
    assert found.dtype == np.float32


def test_latents_and_their_names(people: People, vae: CovariateRemover) -> None:
    latents = vae.transform(people.both)
    assert latents.shape == (90, len(vae.get_feature_names_out()))
    assert {certificate.covariate for certificate in vae.certificates_} == {"age", "sex", "site"}


def test_a_model_without_latents_hands_out_none(people: People) -> None:
    remover = CovariateRemover(covariates=DECLARED, settings={"components": 0}, output="latents")
    with pytest.raises(mr.EstimatorError, match="the model keeps none of a person"):
        remover.fit(people.both)


def test_pandas_out(people: People, fitted: CovariateRemover) -> None:
    found = clone(fitted).set_output(transform="pandas").fit_transform(people.both)
    assert list(found.columns) == list(people.features.columns)
    assert found.index.equals(people.both.index)


@pytest.mark.parametrize("which", ["fitted", "vae"])
def test_joblib_carries_a_fitted_estimator(
    people: People, which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    remover: CovariateRemover = request.getfixturevalue(which)
    joblib.dump(remover, tmp_path / "remover")
    carried = joblib.load(tmp_path / "remover")
    # Of the one, covariates were beside X in training; a table with both is parted all the same.
    assert np.array_equal(carried.transform(people.both), remover.transform(people.both))


def test_folds_in_processes_of_their_own(people: People) -> None:
    steps = make_pipeline(CovariateRemover(covariates=DECLARED), LinearRegression())
    one, two = (cross_val_predict(steps, people.both, people.covariates["age"], cv=2, n_jobs=jobs) for jobs in (1, 2))
    assert np.array_equal(one, two)


def test_missing_cells_are_kept_if_asked(people: People) -> None:
    holey = people.both
    holey.iloc[3, 5] = np.nan
    with pytest.raises(mr.EstimatorError, match=r"sub-0004: region_003 is NaN; mend.*missing='keep'"):
        CovariateRemover(covariates=DECLARED).fit(holey)
    found = CovariateRemover(covariates=DECLARED, missing="keep").fit_transform(holey)
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 2]]
    holey.iloc[3, 5] = np.inf
    with pytest.raises(mr.EstimatorError, match="region_003 is inf"):
        CovariateRemover(covariates=DECLARED, missing="keep").fit(holey)


def test_references(people: People) -> None:
    remover = CovariateRemover(["site", "age"], covariates=DECLARED, references={"site": "S1", "age": 40})
    everybody = remover.fit_transform(people.both)
    assert np.array_equal(everybody, remover.counterfactual(people.both, site="S1", age=40).to_numpy())
    with pytest.raises(CovariateError, match="reference site='S9' was not in training; allowed: S0, S1, S2"):
        CovariateRemover("site", covariates=DECLARED, references={"site": "S9"}).fit(people.both)


def test_counterfactuals(people: People, fitted: CovariateRemover) -> None:
    same = fitted.counterfactual(people.features, people.covariates, site="S0")
    stay = (people.covariates["site"] == "S0").to_numpy()
    assert np.array_equal(same.to_numpy()[stay], people.features.to_numpy()[stay])
    assert not np.array_equal(same.to_numpy()[~stay], people.features.to_numpy()[~stay])
    with pytest.raises(CovariateError, match="age=120: training people had"):
        fitted.counterfactual(people.features, people.covariates, age=120)
    assert fitted.counterfactual(people.features, people.covariates, extrapolate=True, age=120).notna().all(axis=None)
    with pytest.raises(mr.EstimatorError, match="nothing to set; name one or more of age, sex, site"):
        fitted.counterfactual(people.features, people.covariates)


def test_people_far_outside_the_range_of_training_are_named_in_a_warning(
    people: People, fitted: CovariateRemover
) -> None:
    changed = people.covariates.assign(age=[999.0, *people.covariates["age"][1:]])
    with pytest.warns(UserWarning, match="people far outside those of training: .*age=999: training people had"):
        cleaned = fitted.transform(people.features, covariates=changed)
    usual = fitted.transform(people.features, covariates=people.covariates)
    np.testing.assert_allclose(cleaned[1:], usual[1:], rtol=1e-12)


def test_sites_that_training_did_not_have(people: People, fitted: CovariateRemover) -> None:
    elsewhere = people.covariates.assign(site=people.covariates["site"].replace("S2", "S9"))
    with pytest.raises(CovariateError, match="site 'S9' was not in training") as refusal:
        fitted.transform(people.features, covariates=elsewhere)
    assert "unseen_site='adapt'" in str(refusal.value)
    adapting = CovariateRemover(covariates=DECLARED, unseen_site="adapt")
    adapting.fit(people.features, covariates=people.covariates)
    schema = adapting.schema_
    found = adapting.transform(people.features, covariates=elsewhere)
    usual = adapting.transform(people.features, covariates=people.covariates)
    assert adapting.schema_ is schema
    assert adapting.model_.schema.levels("site") == ("S0", "S1", "S2")
    known = (elsewhere["site"] != "S9").to_numpy()
    assert np.array_equal(found[known], usual[known])
    # Learned from the same people, the site's own correction and that of a newcomer differ by shrinkage only.
    assert np.abs(found - usual).max() < 0.1


def test_a_saved_model_serves_the_command_line_and_comes_back(
    people: People, fitted: CovariateRemover, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]
    cohort = write_cohort(tmp_path / "cohort", people)
    command = ["export", str(cohort), str(tmp_path / "out"), "--model", str(tmp_path / "model"), "--remove", "site"]
    assert main([*command, "--quiet"]) == 0
    exported = pd.read_csv(tmp_path / "out" / "features.tsv", sep="\t", index_col="participant_id")
    found = fitted.transform(people.features, covariates=people.covariates)
    assert np.allclose(exported.loc[people.features.index], found, atol=1e-6)
    loaded = CovariateRemover.load(tmp_path / "model", remove=["site"])
    for given in ({"X": people.features, "covariates": people.covariates}, {"X": people.both}):
        assert np.array_equal(loaded.transform(**given), found)
    assert list(loaded.get_feature_names_out()) == list(people.features.columns)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.json").read_bytes() == (tmp_path / "model" / "model.json").read_bytes()
    # What a folder says is enough to fit anew.
    assert np.array_equal(clone(loaded).fit_transform(people.both), found)


def test_a_model_of_the_command_line_is_an_estimator(people: People, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", people)
    assert main(["train", str(cohort), str(tmp_path / "trained"), "--quiet"]) == 0
    loaded = CovariateRemover.load(tmp_path / "trained" / "model")
    fitted = CovariateRemover(covariates=DECLARED)
    assert np.allclose(loaded.transform(people.both), fitted.fit_transform(people.both), atol=1e-12)


def test_latents_come_back_from_a_folder(people: People, vae: CovariateRemover, tmp_path: Path) -> None:
    vae.save(tmp_path / "model")
    loaded = CovariateRemover.load(tmp_path / "model", output="latents")
    assert np.array_equal(loaded.transform(people.both), vae.transform(people.both))
    assert loaded.certificates_ == vae.certificates_


def test_nothing_is_overwritten_unless_it_is_a_model(fitted: CovariateRemover, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.txt").write_text("mine", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(mr.EstimatorError, match="is there already; give another folder"):
            fitted.save(tmp_path / "results", overwrite=overwrite)
    fitted.save(tmp_path / "model")
    with pytest.raises(mr.EstimatorError, match="overwrite=True"):
        fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model", overwrite=True)


def test_a_model_of_images_is_no_estimator(fitted: CovariateRemover, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    described = tmp_path / "model" / "model.json"
    described.write_text(described.read_text(encoding="utf-8").replace('"features"', '"volume"'), encoding="utf-8")
    with pytest.raises(mr.EstimatorError, match="a model of volume data; an estimator takes models of feature tables"):
        CovariateRemover.load(tmp_path / "model")


def test_before_the_fit(people: People) -> None:
    for use in (
        lambda: CovariateRemover().transform(people.features),
        lambda: CovariateRemover().counterfactual(people.features, age=3),
        lambda: CovariateRemover().get_feature_names_out(),
        lambda: CovariateRemover().save("nowhere"),
    ):
        with pytest.raises(NotFittedError):
            use()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": "lineer"}, "model is 'lineer'; allowed: linear, conditional_vae"),
        ({"unseen_site": "adopt"}, "unseen_site is 'adopt'; allowed: error, adapt"),
        ({"missing": True}, "missing is True; allowed: error, keep"),
        ({"output": "latent"}, "output is 'latent'; allowed: data, latents"),
        ({"random_state": -1}, "random_state is -1; give a whole number from 0"),
        ({"random_state": None}, "random_state is None"),
        ({"covariates": ["site"]}, "give names and kinds, for instance"),
        ({"covariates": {"site": "batches"}}, "covariates.site.kind: 'batches' is not allowed"),
        ({"covariates": {"site": {"kind": "batch"}}}, "covariates.site.kind: 'batch' is not allowed"),
        ({"covariates": {"age": {"kind": "continuous", "role": "batch"}}}, "role batch needs kind categorical"),
        ({"covariates": {"age": {"kind": "continuous", "refrence": 3}}}, "did you mean reference?"),
        ({"covariates": {"site": {"kind": "categorical", "missing": "drop"}}}, "a transformer returns every row"),
        ({"covariates": {99: "batch"}}, "99 is neither a name nor a position from 0 in X"),
        ({"covariates": {0: "continuous", "age": "continuous"}}, "age is declared twice"),
        ({"covariates": {"age": "continuous"}}, "remove: nothing; name one or more of age"),
        (
            {"remove": "scanner", "covariates": DECLARED},
            "remove: 'scanner' is not declared; covariates has age, sex, site",
        ),
        ({"remove": "site"}, "remove: 'site' is not declared; covariates has nothing"),
        ({"remove": 0.5, "covariates": DECLARED}, "remove is 0.5; give names of covariates"),
        ({"output": "latents"}, "no covariates are declared"),
        ({"references": "S0", "covariates": DECLARED}, "references is 'S0'; give a covariate's name and the value"),
        ({"settings": {"spline_degree": 2}, "covariates": DECLARED}, "did you mean spline_degrees?"),
        ({"settings": {"latents": 4}, "covariates": DECLARED}, "settings.latents: unknown"),
    ],
)
def test_parameters_are_refused_by_name(people: People, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(mr.EstimatorError) as refusal:
        CovariateRemover(**parameters).fit(people.both)
    assert message in str(refusal.value)
    assert isinstance(refusal.value, ValueError)


def test_all_parameters_are_told_at_once(people: People) -> None:
    with pytest.raises(mr.EstimatorError) as refusal:
        CovariateRemover(model="x", output="y", covariates={"site": "z"}).fit(people.both)
    assert all(word in str(refusal.value) for word in ("(3)", "model", "output", "covariates.site"))


def test_covariates_that_do_not_come_in_one_way(people: People, fitted: CovariateRemover) -> None:
    X, covariates = people.features, people.covariates
    remover = CovariateRemover("site", covariates=DECLARED)
    with pytest.raises(mr.EstimatorError, match="covariates that are nowhere: sex, site; give them beside X"):
        remover.fit(X.assign(age=covariates["age"]))
    with pytest.raises(mr.EstimatorError, match="age: a column of X, and of covariates"):
        remover.fit(X.assign(age=covariates["age"]), covariates=covariates)
    with pytest.raises(mr.EstimatorError, match="give a pandas DataFrame"):
        remover.fit(X, covariates=covariates.to_numpy())
    with pytest.raises(mr.EstimatorError, match="covariates has 89 rows, X has 90"):
        remover.fit(X, covariates=covariates.iloc[1:])
    with pytest.raises(mr.EstimatorError) as refusal:
        remover.fit(X, covariates=covariates.iloc[[1, 0, *range(2, 90)]])
    assert "row 0: X 'sub-0001', covariates 'sub-0002'" in str(refusal.value)
    assert "covariates.loc[X.index]" in str(refusal.value)
    with pytest.raises(mr.EstimatorError, match="'site': no column of that name; covariates has the columns age, sex"):
        remover.fit(X, covariates=covariates[["age", "sex"]])
    with pytest.raises(mr.EstimatorError, match=r"no covariates \(age, sex, site\); give transform"):
        fitted.transform(X)
    inside = clone(remover).fit(people.both)
    with pytest.raises(mr.EstimatorError, match="the covariates are columns of X, as in fit; leave covariates out"):
        inside.transform(people.both, covariates=covariates)


def test_cells_are_refused_by_row_and_column(people: People, fitted: CovariateRemover) -> None:
    spoiled = people.both.astype({"age": object})
    spoiled.loc["sub-0002", "age"] = "old"
    spoiled.loc["sub-0003", "age"] = None
    with pytest.raises(CovariateError) as refusal:
        CovariateRemover(covariates=DECLARED).fit(spoiled)
    assert "sub-0002: age 'old' is no number" in str(refusal.value)
    assert "sub-0003: age '' is missing" in str(refusal.value)
    with pytest.raises(mr.EstimatorError, match="sub-0001: column 'site' holds 'S"):
        CovariateRemover(covariates={"age": "continuous"}, remove="age").fit(people.both.drop(columns="sex"))
    with pytest.raises(mr.EstimatorError, match="sub-0001: column 'when' holds Timestamp"):
        CovariateRemover(covariates=DECLARED).fit(people.both.assign(when=pd.Timestamp("2020-01-01")))
    with pytest.raises(
        mr.EstimatorError, match=r"3 feature\(s\).*a minimum of 4 is required: 3 of them are covariates"
    ):
        CovariateRemover(covariates=DECLARED).fit(people.covariates)
    with pytest.raises(CovariateError, match="sub-0001: sex 'X' was not in training"):
        fitted.transform(people.features.iloc[:1], covariates=people.covariates.iloc[:1].assign(sex="X"))
    with pytest.raises(mr.EstimatorError, match="Sparse data was passed for X"):
        CovariateRemover().fit(scipy.sparse.csr_array(people.features.to_numpy()))


def test_rows_without_names_have_numbers(people: People) -> None:
    numbered = people.both.reset_index(drop=True)
    numbered.loc[7, "age"] = np.nan
    for table, name in ((numbered, "row 7"), (numbered.iloc[[0, 0, *range(1, 90)]], "row 8")):
        with pytest.raises(CovariateError, match=f"{name}: age '' is missing"):
            CovariateRemover(covariates=DECLARED).fit(table)


def test_missing_covariates_are_imputed_if_declared(people: People) -> None:
    declared = {**DECLARED, "age": {"kind": "continuous", "missing": "impute"}}
    holey = people.both
    holey.loc["sub-0002", "age"] = np.nan
    remover = CovariateRemover("site", covariates=declared).fit(holey)
    filled = holey.fillna({"age": remover.schema_["age"].mean})
    assert np.allclose(remover.transform(holey), remover.transform(filled))


@pytest.mark.parametrize("cell", ["1_000", "\uff11", "inf"])
def test_what_only_python_takes_for_a_number_is_none(cell):
    X = pd.DataFrame({"a": ["1", "2", cell], "b": [1.0, 2, 3]})
    with pytest.raises(EstimatorError, match=r"cells of X that are no numbers: row 2: column 'a' holds"):
        CovariateRemover().fit(X)
