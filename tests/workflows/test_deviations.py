"""`medrep score` with a growth chart: z of each feature or voxel, how far in the tails people lie, and changes between visits."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import medrep as mr
from medrep.models.chunks import ChunkSource
from medrep.workflows.cohorts import load_trained
from tests.point_cohorts import write_points_cohort
from tests.surface_cohorts import VERTICES, gifti_path, write_gifti, write_surface_cohort
from tests.workflows.conftest import run

KEYS = ["participant_id", "session_id"]
CHART = ("--config", "growth_chart.yaml", "--set", "settings.power=none", "--tracking", "none", "--quiet")
SUMMARY = ["share_high", "share_low", "share_very_high", "share_very_low", "extreme"]


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", index_col="participant_id", na_values="n/a")


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".medrep" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def chart(table_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chart") / "m"
    assert run("train", table_cohort, out, *CHART) == 0
    return out / "model"


@pytest.fixture(scope="module")
def scored(table_cohort: Path, chart: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "s"
    assert run("score", table_cohort, out, "--model", chart, "--quiet") == 0
    return out


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cohort of people who come again, and a chart of half of them."""
    folder = tmp_path_factory.mktemp("visits")
    assert run("simulate", folder / "c", "--n", 160, "--sites", 3, "--visits", 3, "--seed", 5, "--quiet") == 0
    assert run("train", folder / "c", folder / "m", *CHART, "--participant-label", *people(folder / "c")[:80]) == 0
    return folder / "c", folder / "m" / "model"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Images of people who come again, one of which cannot be read, a chart of them, and their scores."""
    folder = tmp_path_factory.mktemp("images")
    design = ("--n", 14, "--sites", 2, "--visits", 2, "--seed", 2)
    assert run("simulate", folder / "c", "--kind", "volume", *design, "--quiet") == 0
    assert run("train", folder / "c", folder / "m", *CHART, "--set", "input.kind=volume") == 0
    next((folder / "c" / "sub-0003" / "ses-1").rglob("*.nii.gz")).write_bytes(b"no image")
    assert run("score", folder / "c", folder / "s", "--model", folder / "m" / "model", "--quiet", "--workers", 1) == 3
    return folder / "c", folder / "m" / "model", folder / "s"


def people(cohort: Path) -> list[str]:
    return list(dict.fromkeys(pd.read_csv(cohort / "participants.tsv", sep="\t")["participant_id"]))


def test_z_is_computed_once_and_scores_are_the_models(
    table_cohort: Path, chart: Path, scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, dataset = load_trained(chart), mr.read_cohort(table_cohort)
    whole = saved.model.scores(saved.model.dataset(dataset.values, saved.model.schema.transfer(dataset.covariates)))
    found, asked = table(scored / "scores.tsv"), list[int]()
    np.testing.assert_allclose(found["deviation"], whole.deviation, rtol=1e-9)
    np.testing.assert_allclose(found["reconstruction_error"], whole.reconstruction_error, rtol=1e-9)
    first = mr.GrowthChart.deviations

    def counted(self: mr.GrowthChart, people: mr.Dataset) -> ChunkSource:
        asked.append(len(people))
        return first(self, people)

    monkeypatch.setattr(mr.GrowthChart, "deviations", counted)
    again = mr.score(saved, dataset)
    assert sum(asked) < 2 * len(dataset), "blocks are filled up"
    np.testing.assert_array_equal(again["deviation"], found["deviation"])


def test_each_feature_of_a_person_has_the_z_of_the_chart(table_cohort: Path, chart: Path, scored: Path) -> None:
    model, dataset = load_trained(chart).model, mr.read_cohort(table_cohort)
    found = table(scored / "deviations.tsv")
    assert tuple(found) == model.columns.names
    z = model.deviations(model.dataset(dataset.values, model.schema.transfer(dataset.covariates)))
    np.testing.assert_allclose(found, z.compute(slice(0, found.shape[1])), rtol=1e-8)
    said = json.loads((scored / "deviations.json").read_text())
    assert said["ModelKind"] == "growth_chart"
    assert "No diagnosis" in said["Description"]
    assert not (scored / "deviations_gain.tsv").exists()


def test_scores_sum_up_the_tails(scored: Path) -> None:
    scores, z = table(scored / "scores.tsv"), table(scored / "deviations.tsv")
    assert list(scores)[:8] == ["status", "reconstruction_error", "deviation", *SUMMARY]
    np.testing.assert_allclose(scores["share_high"], (z > 1.96).mean(axis=1))
    np.testing.assert_allclose(scores["share_very_low"], (z < -3).mean(axis=1))
    np.testing.assert_allclose(scores["extreme"], z.abs().max(axis=1), rtol=1e-8)
    # z of people of training lie closer together than those of new people, whose chart it is.
    sd = float(z.to_numpy().std())
    assert 0.85 < sd < 1
    assert scores["share_low"].mean() == pytest.approx(norm.cdf(-1.96 / sd), abs=0.005)
    said = json.loads((scored / "scores.json").read_text())
    assert set(said) == set(scores)
    assert "below -1.96; 2.5 %" in said["share_low"]["Description"]


def test_a_person_who_was_changed_stands_out(table_cohort: Path, chart: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(table_cohort, cohort)
    features = pd.read_csv(cohort / "features.tsv", sep="\t", index_col="participant_id")
    odd, names = features.index[7], list(features)[:3]
    features.loc[odd, names] -= 6 * features[names].std()
    features.to_csv(cohort / "features.tsv", sep="\t")
    assert run("score", cohort, tmp_path / "s", "--model", chart, "--quiet") == 0
    z, scores = table(tmp_path / "s" / "deviations.tsv"), table(tmp_path / "s" / "scores.tsv")
    assert (z.loc[odd, names] < -3).all()
    assert scores.loc[odd, "share_very_low"] >= 3 / len(z.columns)
    assert scores["extreme"].idxmax() == odd


def test_parts_workers_and_a_second_call_give_the_same_bytes(
    table_cohort: Path, chart: Path, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, workers = tmp_path / "parts", tmp_path / "workers"
    for index in (1, 0):
        asked = ("--num-parts", 2, "--part-id", index, "--quiet")
        assert run("score", table_cohort, parts, "--model", chart, *asked) == 0
    assert run("merge", parts, "--quiet") == 0
    assert contents(parts) == contents(scored)
    assert run("score", table_cohort, scored, "--model", chart, "--quiet") == 0
    assert contents(parts) == contents(scored)
    monkeypatch.setattr("medrep.batch.run._MANY_CELLS", 1)
    assert run("score", table_cohort, workers, "--model", chart, "--workers", 2, "--quiet") == 0
    assert contents(workers) == contents(scored)


def test_a_cohort_that_grows_keeps_the_rows_it_has(
    table_cohort: Path, chart: Path, scored: Path, tmp_path: Path
) -> None:
    cohort, out = tmp_path / table_cohort.name, tmp_path / "s"
    shutil.copytree(table_cohort, cohort)
    listed = (cohort / "participants.tsv").read_text().splitlines(keepends=True)
    (cohort / "participants.tsv").write_text("".join(listed[:-30]))
    assert run("score", cohort, out, "--model", chart, "--quiet") in (0, 3)
    assert len(table(out / "deviations.tsv")) == len(listed) - 31
    (cohort / "participants.tsv").write_text("".join(listed))
    assert run("score", cohort, out, "--model", chart, "--quiet") == 0
    assert (out / "deviations.tsv").read_bytes() == (scored / "deviations.tsv").read_bytes()


def test_other_models_write_what_they_wrote(table_cohort: Path, table_model: Path, tmp_path: Path) -> None:
    assert run("score", table_cohort, tmp_path / "s", "--model", table_model, "--quiet") == 0
    assert not list((tmp_path / "s").glob("deviations*"))
    assert not set(SUMMARY) & set(table(tmp_path / "s" / "scores.tsv"))


def test_in_python_the_tables_stay_where_they_are_asked_for(chart: Path, table_cohort: Path, tmp_path: Path) -> None:
    scores = mr.score(load_trained(chart), mr.read_cohort(table_cohort), out=tmp_path / "s")
    assert set(SUMMARY) <= set(scores)
    assert len(table(tmp_path / "s" / "deviations.tsv")) == len(scores)


def test_changes_of_people_whose_change_is_typical_have_variance_one(visits: tuple[Path, Path], tmp_path: Path) -> None:
    cohort, model = visits
    asked = ("--model", model, "--participant-label", *people(cohort)[80:], "--quiet")
    assert run("score", cohort, tmp_path / "s", *asked) == 0
    scores, gains, z = (
        pd.read_csv(tmp_path / "s" / f"{name}.tsv", sep="\t", index_col=KEYS, na_values="n/a")
        for name in ("scores", "deviations_gain", "deviations")
    )
    assert list(gains) == list(z)
    later = gains.index.get_level_values(1) != "ses-1"
    np.testing.assert_array_equal(gains.notna().all(axis=1), later)
    np.testing.assert_array_equal(scores["gain_z"].notna(), later)
    np.testing.assert_allclose(scores.loc[later, "gain_z"], np.sqrt((gains[later] ** 2).mean(axis=1)), rtol=1e-6)
    assert np.nanvar(gains) == pytest.approx(1, abs=0.1)
    assert np.var(z.to_numpy()) == pytest.approx(1, abs=0.15)
    assert (
        "since the person's visit before"
        in json.loads((tmp_path / "s" / "deviations_gain.json").read_text())["Description"]
    )
    for part in (0, 1):
        assert run("score", cohort, tmp_path / "parts", *asked, "--num-parts", 2, "--part-id", part) == 0
    assert run("merge", tmp_path / "parts", "--quiet") == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "s")


def test_images_have_a_map_of_z_in_their_own_grid(images: tuple[Path, Path, Path]) -> None:
    cohort, chart, out = images
    source = next((cohort / "sub-0002" / "ses-2").rglob("*.nii.gz"))
    own = out / source.relative_to(cohort).parent
    written, image = nib.load(own / "sub-0002_ses-2_desc-z_T1w.nii.gz"), nib.load(source)
    assert written.get_data_dtype() == np.float32
    assert written.shape == image.shape
    np.testing.assert_array_equal(written.affine, image.affine)
    model, dataset = (
        load_trained(chart).model,
        mr.read_cohort(cohort, overrides=["input.kind=volume"], exclude=["0003"]),
    )
    place = dataset.covariates.index.tolist().index("sub-0002_ses-2")
    rows = model.dataset(np.asarray(dataset.values), model.schema.transfer(dataset.covariates))
    z = np.nan_to_num(model.deviations(rows).compute(slice(0, model.columns.count))[place])
    found = written.get_fdata()
    if nib.aff2axcodes(image.affine) != ("R", "A", "S"):
        found = nib.as_closest_canonical(written).get_fdata()
    np.testing.assert_allclose(found, z.reshape(found.shape), atol=1e-4)
    said = json.loads((own / "sub-0002_ses-2_desc-z_T1w.json").read_text())
    assert said["Sources"] == [source.relative_to(cohort).as_posix()]
    assert (own / "sub-0002_ses-2_desc-zgain_T1w.nii.gz").is_file()
    assert not list((out / "sub-0002" / "ses-1").rglob("*zgain*"))
    assert not list(out.glob("deviations*"))


def test_an_image_that_cannot_be_read_has_no_map_and_takes_nobody_with_it(images: tuple[Path, Path, Path]) -> None:
    cohort, _, out = images
    assert not list((out / "sub-0003" / "ses-1").rglob("*.nii.gz"))
    # The visit after it is a first one.
    assert [path.name for path in (out / "sub-0003" / "ses-2").rglob("*.nii.gz")] == [
        "sub-0003_ses-2_desc-z_T1w.nii.gz"
    ]
    assert len(list(out.rglob("*_desc-z_T1w.nii.gz"))) == 27
    scores = pd.read_csv(out / "scores.tsv", sep="\t", na_values="n/a")
    assert scores["share_high"].isna().sum() == 1
    assert pd.read_csv(out / "failures.tsv", sep="\t")["stage"].tolist() == ["read"]
    assert len(list(cohort.rglob("*.nii.gz"))) >= 28


def test_maps_of_images_are_made_in_parts(images: tuple[Path, Path, Path], tmp_path: Path) -> None:
    cohort, chart, before = images
    for part in (1, 0):
        cut = ("--num-parts", 2, "--part-id", part, "--quiet", "--workers", 1)
        assert run("score", cohort, tmp_path / "s", "--model", chart, *cut) in (0, 3)
    assert run("merge", tmp_path / "s", "--quiet") == 3
    assert contents(tmp_path / "s") == contents(before)


def test_a_map_goes_with_its_image(images: tuple[Path, Path, Path], tmp_path: Path) -> None:
    cohort, out = tmp_path / "c", tmp_path / "s"
    shutil.copytree(images[0], cohort)
    asked = ("--model", images[1], "--participant-label", "0001", "0003", "--quiet", "--workers", 1)
    assert run("score", cohort, out, *asked) == 3
    kept = out / "sub-0003" / "ses-2" / "anat" / "sub-0003_ses-2_desc-z_T1w.nii.gz"
    before = kept.read_bytes()
    broken, other = (next((cohort / f"sub-000{k}" / "ses-1").rglob("*.nii.gz")) for k in (3, 1))
    broken.write_bytes(other.read_bytes())
    other.write_bytes(b"no image")
    assert run("score", cohort, out, *asked, "--retry-failed") == 3
    assert kept.with_name("sub-0003_ses-2_desc-zgain_T1w.nii.gz").is_file()
    assert kept.read_bytes() == before
    assert (out / "sub-0003" / "ses-1" / "anat" / "sub-0003_ses-1_desc-z_T1w.nii.gz").is_file()
    assert not list((out / "sub-0001").rglob("*ses-1_*")) + list((out / "sub-0001").rglob("*zgain*"))


def test_surfaces_have_files_of_z(tmp_path: Path) -> None:
    cohort, out = write_surface_cohort(tmp_path / "c"), tmp_path / "s"
    hole = gifti_path(cohort, "sub-0005", "R")
    holes = np.array(nib.load(hole).agg_data())
    holes[4] = np.nan
    write_gifti(hole, holes)
    keep = ("--set", "input={kind: surface, missing: keep}")
    assert run("train", cohort, tmp_path / "m", *CHART, *keep) == 0
    assert run("score", cohort, out, "--model", tmp_path / "m" / "model", "--quiet", "--workers", 1) == 0
    model = load_trained(tmp_path / "m" / "model").model
    dataset = mr.read_cohort(cohort, overrides=["input={kind: surface, missing: keep}"])
    z = model.deviations(model.dataset(np.asarray(dataset.values), model.schema.transfer(dataset.covariates)))
    wanted = z.compute(slice(0, 2 * VERTICES))
    for who in ("sub-0002", "sub-0005"):
        found = [nib.load(gifti_path(out, who, side, "_desc-z")).agg_data() for side in "LR"]
        place = dataset.covariates.index.tolist().index(who)
        np.testing.assert_allclose(np.concatenate(found), wanted[place], atol=1e-4)
    assert np.isnan(found[1][4])
    assert not list(out.glob("deviations*"))


def test_points_are_columns_of_the_table(tmp_path: Path) -> None:
    write_points_cohort(tmp_path / "c")
    assert run("train", tmp_path / "c", tmp_path / "m", *CHART, "--set", "input.kind=points") == 0
    out = tmp_path / "s"
    assert run("score", tmp_path / "c", out, "--model", tmp_path / "m" / "model", "--quiet", "--workers", 1) == 0
    found = table(out / "deviations.tsv")
    assert tuple(found) == load_trained(tmp_path / "m" / "model").model.columns.names
    assert found.notna().any().any()
