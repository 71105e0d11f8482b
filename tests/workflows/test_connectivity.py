"""Connectivity from 4-D images through check, train and export."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.cohort import read_cohort
from medrep.cohort.kinds.connectivity import EdgeForm
from medrep.config import read_config
from medrep.tracking.serving import ServedModel
from medrep.workflows.cohorts import load_trained
from tests.bold_cohorts import atlas_labels, bold_path, save_atlas, write_bold_cohort
from tests.workflows.conftest import run


@pytest.fixture(scope="session")
def rest_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bold_cohort(tmp_path_factory.mktemp("rest") / "cohort", people=40)


@pytest.fixture
def chosen(tmp_path: Path) -> str:
    atlas = save_atlas(tmp_path / "atlas.nii.gz")
    return f"input={{kind: connectivity, suffix: bold, desc: preproc, entities: {{task: rest}}, atlas: {atlas}}}"


def edges_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "features.tsv", sep="\t", index_col="participant_id")


def test_check_train_and_export_run_on_it_as_on_any_table(
    rest_cohort: Path, chosen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", rest_cohort, "--set", chosen) == 0
    assert "15 features" in capsys.readouterr().err
    assert run("train", rest_cohort, tmp_path / "m", "--set", chosen, "--quiet") == 0
    model, out = tmp_path / "m" / "model", tmp_path / "clean"
    assert run("export", rest_cohort, out, "--model", model, "--remove", "site", "--keep", "age,sex") == 0

    people = pd.read_csv(rest_cohort / "participants.tsv", sep="\t", index_col="participant_id")
    wanted = read_config("linear.yaml", [chosen]).input
    before = read_cohort(rest_cohort, wanted).source.features
    after = edges_of(out)
    assert list(after.columns) == list(before.names)
    assert list(after.index) == list(people.index) == list(before.ids["participant_id"])
    assert json.loads((out / "features.json").read_text())["Removed"] == ["site"]
    away = (people["site"] == "S1").to_numpy()
    gaps = [abs(values[away].mean() - values[~away].mean()) for values in (before.values, after.to_numpy())]
    assert gaps[0] > 0.15
    assert gaps[1] < 0.3 * gaps[0]

    table = tmp_path / "table"
    table.mkdir()
    shutil.copy(rest_cohort / "participants.tsv", table)
    frame = pd.DataFrame(before.values, index=people.index, columns=list(before.names))
    frame.to_csv(table / "features.tsv", sep="\t")
    assert run("train", table, tmp_path / "t", "--quiet") == 0
    export = ("export", table, tmp_path / "clean-t", "--model", tmp_path / "t" / "model", "--remove", "site", "--quiet")
    assert run(*export) == 0
    np.testing.assert_allclose(edges_of(tmp_path / "clean-t"), after, atol=1e-12)


def test_another_atlas_than_in_training_is_refused_by_name(
    rest_cohort: Path, chosen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", rest_cohort, tmp_path / "m", "--set", chosen, "--quiet") == 0
    assert "atlas_sha256: ''" in (tmp_path / "m" / "config.yaml").read_text()
    export = ("export", rest_cohort, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site")
    shifted = np.roll(atlas_labels(), 1, axis=2)
    save_atlas(tmp_path / "atlas.nii.gz", shifted)
    capsys.readouterr()
    assert run(*export) == 1
    assert f"{tmp_path / 'atlas.nii.gz'}: not the atlas of training (sha256 " in capsys.readouterr().err
    (tmp_path / "atlas.nii.gz").unlink()
    assert run(*export) == 1
    assert f"{tmp_path / 'atlas.nii.gz'}: no such file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    save_atlas(tmp_path / "atlas.nii.gz")
    assert run(*export) == 0
    save_atlas(tmp_path / "atlas.nii.gz", shifted)
    again = ("train", rest_cohort, tmp_path / "again", "--config", tmp_path / "m" / "config.yaml", "--quiet")
    assert run(*again) == 0


def test_all_settings_travel_with_the_model(rest_cohort: Path, chosen: str, tmp_path: Path) -> None:
    more = "measure: partial, confounds: [breath_derivative1, breath], high_pass: 0.01, low_pass: 0.2, t_r: 2"
    asked = f"{chosen[:-1]}, {more}}}"
    assert run("train", rest_cohort, tmp_path / "m", "--set", asked, "--quiet") == 0
    saved = load_trained(tmp_path / "m" / "model").input
    given = read_config("linear.yaml", [asked]).input
    section = saved.section
    assert saved == given.changed(atlas_sha256=section.atlas_sha256)
    assert (section.confounds, section.t_r, len(section.atlas_sha256)) == (("breath_derivative1", "breath"), 2.0, 64)
    export = ("export", rest_cohort, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site", "--quiet")
    assert run(*export) == 0
    assert edges_of(tmp_path / "o").abs().max().max() < 1


def test_a_relative_atlas_is_looked_for_in_the_current_folder(
    rest_cohort: Path, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = chosen.replace(f"{tmp_path}/", "")
    assert run("check", rest_cohort, "--set", relative) == 1
    monkeypatch.chdir(tmp_path)
    assert run("check", rest_cohort, "--set", relative) == 0


def test_everybody_who_cannot_be_measured_is_named_and_nothing_is_written(
    rest_cohort: Path, chosen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(rest_cohort, cohort)
    broken = ["sub-0002", "sub-0005"]
    for who in broken:
        bold_path(cohort, who).write_bytes(b"")
    for command in (("check", cohort), ("train", cohort, tmp_path / "m")):
        capsys.readouterr()
        assert run(*command, "--set", chosen) == 1
        said = capsys.readouterr().err
        assert all(f"{who}: {bold_path(cohort, who)}: the file is empty (0 bytes)" in said for who in broken)
    assert not (tmp_path / "m").exists()
    assert run("train", cohort, tmp_path / "m", "--set", chosen, "--exclude", "2", "sub-0005") == 1
    assert run("train", cohort, tmp_path / "m", "--set", chosen, "--exclude", "0002", "sub-0005") == 0


def test_nilearn_is_imported_only_for_connectivity(table_cohort: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medrep.cohort.cohort import read_cohort;"
        f"from medrep.cohort.kinds import INPUTS; read_cohort(Path({str(table_cohort)!r}), INPUTS['features']());"
        "import medrep.cli, medrep.workflows.train; sys.exit('nilearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def correlations_of(edges: np.ndarray) -> np.ndarray:
    """Matrices of upper triangles of six regions."""
    whole = np.tile(np.eye(6), (len(edges), 1, 1))
    first, second = np.triu_indices(6, 1)
    whole[:, first, second] = whole[:, second, first] = edges
    return whole


def test_tangent_writes_correlation_matrices_without_the_site_effect(
    rest_cohort: Path, chosen: str, tmp_path: Path
) -> None:
    asked = f"{chosen[:-1]}, measure: tangent}}"
    model, out = tmp_path / "m" / "model", tmp_path / "clean"
    assert run("train", rest_cohort, tmp_path / "m", "--set", asked, "--hold-out", 0.3, "--quiet") == 0
    export = ("export", rest_cohort, out, "--model", model, "--remove", "site", "--matrix", "--quiet")
    assert run(*export) == 0
    kind = read_config("linear.yaml", [asked]).input
    cohort = read_cohort(rest_cohort, kind)
    before = EdgeForm(kind.section, cohort.source.features.names).released(cohort.source.features.values)
    after = edges_of(out)
    assert list(after.columns) == list(cohort.source.features.names)
    assert (np.linalg.eigvalsh(correlations_of(np.tanh(after.to_numpy()))) > 0).all()
    people = pd.read_csv(rest_cohort / "participants.tsv", sep="\t", index_col="participant_id")
    away = (people["site"] == "S1").to_numpy()
    gaps = [abs(values[away].mean() - values[~away].mean()) for values in (before, after.to_numpy())]
    assert gaps[1] < 0.3 * gaps[0]

    stem = "sub-0003/func/sub-0003_task-rest_meas-PearsonCorrelation_desc-residualized_"
    matrix = np.loadtxt(out / f"{stem}relmat.dense.tsv", delimiter="\t")
    np.testing.assert_allclose(matrix, correlations_of(np.tanh(after.to_numpy()))[2], atol=1e-9)
    about = json.loads((out / f"{stem}relmat.json").read_text())
    assert (about["Removed"], about["RelationshipMeasure"]) == (["site"], "PearsonCorrelation")
    nodes = pd.read_csv(out / f"{stem}nodeindices.tsv", sep="\t")
    assert list(nodes["label"]) == ["Caudate", "Cuneus", "Insula", "Pallidum", "Putamen", "Uncus"]

    # A person who is moved to where they are comes back; matrices that were written are read again.
    same = ("counterfactual", rest_cohort, tmp_path / "same", "--model", model, "--quiet", "--set")
    assert run(*same, f"site={people['site'].iloc[0]}") == 0
    stay = ~away if people["site"].iloc[0] != "S1" else away
    np.testing.assert_allclose(edges_of(tmp_path / "same")[stay], before[stay], atol=1e-9)
    shutil.copy(rest_cohort / "participants.tsv", out)
    again = read_cohort(out, kind.changed(suffix="relmat", desc="residualized", atlas="")).source.features
    np.testing.assert_allclose(
        np.tanh(EdgeForm(kind.section, again.names).released(again.values)), np.tanh(after), atol=1e-8
    )


def test_edges_of_a_table_go_from_table_to_table(rest_cohort: Path, chosen: str, tmp_path: Path) -> None:
    kind = read_config("linear.yaml", [f"{chosen[:-1]}, measure: tangent}}"]).input
    features = read_cohort(rest_cohort, kind).source.features
    values = np.tanh(EdgeForm(kind.section, features.names).released(features.values))
    shuffled = np.random.default_rng(0).permutation(len(features.names))
    table = tmp_path / "table"
    table.mkdir()
    shutil.copy(rest_cohort / "participants.tsv", table)
    frame = pd.DataFrame(values, index=features.ids["participant_id"], columns=list(features.names))
    frame.iloc[:, shuffled].to_csv(table / "features.tsv", sep="\t")
    wanted = ("--set", "input={kind: connectivity, measure: tangent, edges: r}", "--quiet")
    assert run("train", table, tmp_path / "m", *wanted) == 0
    options = ("--model", tmp_path / "m" / "model", "--remove", "site", "--quiet")
    assert run("export", table, tmp_path / "clean", *options) == 0
    clean = edges_of(tmp_path / "clean")
    assert list(clean.columns) == [features.names[k] for k in shuffled]
    assert (np.linalg.eigvalsh(correlations_of(clean[list(features.names)].to_numpy())) > 0).all()
    assert run("score", table, tmp_path / "s", *options[:2], "--quiet") == 0
    assert "edges: r" in (tmp_path / "m" / "config.yaml").read_text()

    people = pd.read_csv(table / "participants.tsv", sep="\t")
    people.merge(frame.reset_index(), on="participant_id").to_csv(tmp_path / "edges.csv", index=False)
    assert run("train", tmp_path / "edges.csv", tmp_path / "n", *wanted) == 0
    options = ("--model", tmp_path / "n" / "model", "--remove", "site", "--quiet")
    assert run("export", tmp_path / "edges.csv", tmp_path / "csv", *options) == 0
    np.testing.assert_allclose(edges_of(tmp_path / "csv")[list(clean.columns)], clean, atol=1e-8)

    served = ServedModel.load(tmp_path / "m" / "model")
    people = pd.read_csv(table / "participants.tsv", sep="\t").merge(
        frame.reset_index(), on="participant_id", suffixes=("", "_")
    )
    answered = served.answer(people, remove="site")
    np.testing.assert_allclose(answered[list(clean.columns)], clean, atol=1e-12)
    once = served.answer(people, remove="site", references="site=S0")
    there = people.assign(site="S0", **{name: once[name] for name in clean.columns})
    np.testing.assert_allclose(served.answer(there, remove="site", references="site=S0"), once, atol=1e-8)
    assert np.abs(once - people[list(once.columns)]).max().max() > 0.05


def test_matrices_are_refused_of_what_are_no_edges(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", table_cohort, tmp_path / "m", "--quiet") == 0
    export = ("export", table_cohort, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site")
    assert run(*export, "--matrix") == 1
    assert "--matrix: the model was trained on features data, which are no edges" in capsys.readouterr().err
