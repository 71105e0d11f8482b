"""Surfaces through every command: as a table of the same vertices, written back as they came, and nobody half."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.batch.run import BatchOptions, BatchResult
from medrep.cli import SOME_FAILED
from medrep.cohort.cohort import read_cohort
from medrep.cohort.files import CohortFiles
from medrep.config import read_config
from medrep.derivatives import person_files
from medrep.errors import CohortError, MedrepError
from medrep.tracking.cleaning import OUTPUT_ROOT
from medrep.tracking.serving import ALLOWED_ROOT, ServedModel
from medrep.workflows.score import score
from medrep.workflows.transform import ExportRequest
from medrep.workflows.transform import export as export_cohort
from tests.surface_cohorts import (
    PEOPLE,
    VERTICES,
    Form,
    as_table,
    cifti_path,
    gifti_path,
    write_cifti,
    write_gifti,
    write_surface_cohort,
)
from tests.workflows.conftest import run

SURFACE = ("--set", "input.kind=surface")
KEEP = ("--set", "input={kind: surface, missing: keep}")
INLINE = BatchOptions(engine="inline")
DESC = "_desc-residualized"
Trained = Callable[[Form], tuple[Path, Path]]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a function from a form to a cohort and a model that held half of it out; nothing is made twice."""
    root = tmp_path_factory.mktemp("surfaces")

    def made(form: Form) -> tuple[Path, Path]:
        cohort, out = root / form, root / f"{form}-trained"
        if not out.is_dir():
            write_surface_cohort(cohort, form)
            assert run("train", cohort, out, "--hold-out", 0.5, "--quiet", *SURFACE) == 0
        return cohort, out / "model"

    return made


def export(cohort: Path | CohortFiles, out: Path, model: Path, **asked: Any) -> BatchResult:
    """Remove site, in this process."""
    done = export_cohort(cohort, out, model, ExportRequest(("site",), **asked), options=INLINE)
    assert done is not None
    return done


def exported(out: Path, form: Form, people: list[str]) -> np.ndarray:
    """Return what nibabel reads of a derivative."""
    if form == "gifti":
        both = [[gifti_path(out, who, side, DESC) for side in "LR"] for who in people]
        return np.stack([np.concatenate([nib.load(one).darrays[0].data for one in pair]) for pair in both])
    return np.stack([nib.load(cifti_path(out, who, form, DESC)).get_fdata()[0] for who in people])


def test_runs_are_changed_as_their_mean_is(tmp_path: Path, trained: Trained) -> None:
    cohort, model = trained("gifti")
    whole, apart = export(cohort, tmp_path / "whole", model), tmp_path / "apart"
    assert not whole.failures
    shutil.copytree(cohort, apart)
    for path in apart.glob("sub-*/anat/*_thickness.shape.gii"):
        values = nib.load(path).darrays[0].data
        for number, more in ((1, 0.25), (2, -0.25)):
            write_gifti(path.with_name(path.name.replace("_hemi", f"_run-{number}_hemi")), values + np.float32(more))
        path.unlink()
    mean = CohortFiles(apart, changes={"entities": {"run": "mean"}})
    assert not export(mean, tmp_path / "out", model).failures
    for number, more in ((1, 0.25), (2, -0.25)):
        one = gifti_path(tmp_path / "out", "sub-0001", "L", DESC)
        own = nib.load(one.with_name(one.name.replace("_hemi", f"_run-{number}_hemi"))).darrays[0].data
        lone = nib.load(gifti_path(tmp_path / "whole", "sub-0001", "L", DESC)).darrays[0].data
        np.testing.assert_allclose(own, lone + more, atol=1e-5)


def people_of(root: Path) -> list[str]:
    return pd.read_csv(root / "participants.tsv", sep="\t")["participant_id"].tolist()


@pytest.mark.parametrize("form", ["gifti", "cifti"])
def test_a_table_of_the_same_vertices_gives_the_same(trained: Trained, tmp_path: Path, form: Form) -> None:
    cohort, model = trained(form)
    out, tables = tmp_path / "out", tmp_path / "tables"
    export(cohort, out, model)
    score(cohort, tmp_path / "s", model, options=INLINE)

    values = mr.read_cohort(cohort, overrides=["input.kind=surface"])
    table = as_table(cohort, tmp_path / "table", values.columns.names, np.asarray(values.values))
    assert run("train", table, tmp_path / "m", "--hold-out", 0.5, "--quiet") == 0
    export(table, tables, tmp_path / "m" / "model")
    score(table, tmp_path / "t", tmp_path / "m" / "model", options=INLINE)
    wanted = pd.read_csv(tables / "features.tsv", sep="\t", index_col=0)
    np.testing.assert_allclose(exported(out, form, list(wanted.index)), wanted.to_numpy(), atol=1e-5)
    assert np.abs(wanted.to_numpy() - values.values).max() > 0.01
    for name in ("scores.tsv", "latents.tsv"):
        one, other = (pd.read_csv(tmp_path / folder / name, sep="\t") for folder in ("s", "t"))
        assert list(one["participant_id"]) == list(other["participant_id"])
        numbers = [frame.select_dtypes("number").abs() for frame in (one, other)]  # a component's sign is free
        pd.testing.assert_frame_equal(*numbers, atol=2e-4, rtol=2e-4)


def test_gifti_goes_through_check_audit_and_counterfactual_and_is_reported(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, model = trained("gifti")
    assert run("check", cohort, *SURFACE) == 0
    assert f"{PEOPLE} surfaces of {2 * VERTICES} values" in capsys.readouterr().err
    out, chosen = tmp_path / "cf", ("--model", model, "--quiet")
    assert run("counterfactual", cohort, out, *chosen, "--set", "age=60") == 0
    assert run("audit", cohort, tmp_path / "audit", *chosen, "--by", "sex", "--min-n", 10) == 0
    assert (tmp_path / "audit" / "audit.tsv").is_file()
    moved = gifti_path(out, "sub-0003", "R", "_desc-counterfactual")
    said = json.loads(moved.with_name(moved.name.replace(".shape.gii", ".json")).read_text())
    assert said["Covariates"] == {"age": 60.0}
    assert said["Sources"] == ["sub-0003/anat/sub-0003_hemi-R_thickness.shape.gii"]
    for page in (out / "report.html", model.parent / "report.html"):
        assert "right_" in page.read_text()
    shown = json.loads((out / "report" / "before_after.json").read_text())
    assert shown["kind"] == "features"
    assert shown["people"] == PEOPLE


def test_what_was_written_is_read_again_and_not_cleaned_twice(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, model = trained("gifti")
    out = tmp_path / "out"
    export(cohort, out, model)
    again = "input={kind: surface, desc: residualized}"
    assert run("check", out, "--set", again) == 0
    assert "effects of site removed already" in capsys.readouterr().err
    (out / "dataset_description.json").unlink()
    (out / "features.json").unlink(missing_ok=True)
    assert read_cohort(out, read_config("linear.yaml", [again]).input).earlier[0].people == PEOPLE


def test_nobody_is_written_half_and_all_that_fail_are_listed(trained: Trained, tmp_path: Path) -> None:
    _, model = trained("gifti")
    cohort, out = write_surface_cohort(tmp_path / "cohort", people=8), tmp_path / "out"
    gifti_path(cohort, "sub-0001", "R").unlink()
    for side in "LR":
        gifti_path(cohort, "sub-0002", side).unlink()
    gifti_path(cohort, "sub-0003", "R").write_bytes(b"<GIFTI>")
    write_gifti(gifti_path(cohort, "sub-0004", "R"), np.zeros(18, np.float32))
    write_gifti(gifti_path(cohort, "sub-0005", "R"), np.full(20, np.nan, np.float32))
    chosen = ("--model", model, "--quiet", "--workers", 1)
    assert run("export", cohort, out, *chosen, "--remove", "site") == SOME_FAILED
    failures = pd.read_csv(out / "failures.tsv", sep="\t", index_col=0)["error"]
    told = [
        "R_thickness.shape.gii is absent",
        "no sub-*_thickness (GIFTI",
        "cut off",
        "not the 40 values",
        "20 of 20 values",
    ]
    assert all(some in error for some, error in zip(told, failures, strict=True))
    assert sorted(path.parts[-3] for path in out.rglob("*.gii")) == [f"sub-000{k}" for k in (6, 7, 8) for _ in "LR"]

    write_gifti(gifti_path(cohort, "sub-0003", "R"), np.ones(20, np.float32))
    written = gifti_path(out, "sub-0006", "L", DESC)
    before = written.stat().st_mtime_ns
    write_gifti(gifti_path(cohort, "sub-0007", "R"), np.ones(20, np.float32))
    assert len(export(cohort, out, model).failures) == 4
    assert written.stat().st_mtime_ns == before  # done already
    assert {path.parts[-3] for path in out.rglob("*.gii")} == {f"sub-000{k}" for k in (3, 6, 7, 8)}
    ones = exported(out, "gifti", ["sub-0003", "sub-0007"])[:, VERTICES:]
    assert np.abs(ones - 1).max() < 1  # the hemisphere that changed is done again


def test_a_disk_that_is_full_leaves_neither_hemisphere(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, model = trained("gifti")

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(person_files, "write_json", full)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space left"):
        export(cohort, out, model, only=("0001",))
    assert not [*out.rglob("*.gii")]


def test_a_medial_wall_of_nan_stays_and_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort, walled, model = write_surface_cohort(tmp_path / "c"), (0, 5, 6), tmp_path / "m" / "model"
    for who in people_of(cohort):
        for side in "LR":
            path = gifti_path(cohort, who, side)
            values = np.array(nib.load(path).darrays[0].data)
            values[list(walled)] = np.nan
            write_gifti(path, values)
    assert run("check", cohort, *SURFACE) == 1
    assert "3 of 20 values are NaN or infinite; mend the file, or set input.missing to keep" in capsys.readouterr().err
    assert run("train", cohort, tmp_path / "m", *KEEP, "--quiet") == 0
    export(cohort, tmp_path / "out", model)
    after = exported(tmp_path / "out", "gifti", ["sub-0001"])[0]
    assert np.flatnonzero(np.isnan(after)).tolist() == [*walled, *(VERTICES + k for k in walled)]
    sidecar = json.loads(
        gifti_path(tmp_path / "out", "sub-0001", "L", DESC).with_suffix("").with_suffix(".json").read_text()
    )
    assert sidecar["LeftAsTheyAre"] == [f"{side}_{k}" for side in ("left", "right") for k in walled]


@pytest.mark.parametrize("missing", ["error", "keep"])
def test_a_vertex_that_nobody_of_a_site_had_is_no_value_to_clean(tmp_path: Path, missing: str) -> None:
    cohort = write_surface_cohort(tmp_path / "c", "cifti")
    table = pd.read_csv(cohort / "participants.tsv", sep="\t", index_col=0)
    first = str(table.index[table["site"] == "S1"][0])
    for who in table.index[table["site"] == "S1"][1:]:
        data = np.array(nib.load(cifti_path(cohort, who)).get_fdata(), np.float32)
        data[0, 2] = np.nan
        write_cifti(cifti_path(cohort, who), data)
    kept, out = ("--set", "input={kind: surface, missing: keep}"), tmp_path / "out"
    assert run("train", cohort, tmp_path / "m", *kept, "--exclude", first, "--quiet") == 0
    model = tmp_path / "m" / "model"
    described = json.loads((model / "model.json").read_text())
    described["input"]["missing"] = missing
    (model / "model.json").write_text(json.dumps(described))
    asked = {"only": (first,), "extrapolate": True}
    if missing == "error":
        with pytest.raises(MedrepError, match="1 values without an effect to remove, CORTEX_LEFT_4 for one"):
            export(cohort, out, model, **asked)
    else:
        export(cohort, out, model, **asked)
        assert np.flatnonzero(np.isnan(exported(out, "cifti", [first])[0])).tolist() == [2]


def test_a_mean_of_time_points_moves_all_of_them_alike(tmp_path: Path) -> None:
    cohort = write_surface_cohort(tmp_path / "c", "parcels")
    rng = np.random.default_rng(0)
    for who in people_of(cohort):
        path = cifti_path(cohort, who, "parcels")
        row = nib.load(path).get_fdata()[0]
        path.unlink()
        series = (row + rng.normal(size=(3, len(row)))).astype(np.float32)
        write_cifti(path.with_name(f"{who}_timeseries.ptseries.nii"), series)
    chosen = ("--set", "input={kind: surface, suffix: timeseries, map: mean}")
    assert run("train", cohort, tmp_path / "m", *chosen, "--quiet") == 0
    export(cohort, tmp_path / "out", tmp_path / "m" / "model")
    place = Path("sub-0004") / "anat"
    before = nib.load(cohort / place / "sub-0004_timeseries.ptseries.nii")
    after = nib.load(tmp_path / "out" / place / f"sub-0004{DESC}_timeseries.ptseries.nii")
    assert after.header.get_axis(0) == before.header.get_axis(0)
    change = after.get_fdata() - before.get_fdata()
    assert np.abs(change[0]).max() > 0.01
    np.testing.assert_allclose(change, np.repeat(change[:1], 3, axis=0), atol=1e-5)


def test_in_python_they_are_read_trained_scored_and_exported(trained: Trained, tmp_path: Path) -> None:
    cohort, _ = trained("gifti")
    people = mr.read_cohort(cohort, overrides=["input.kind=surface", "input.entities={hemi: R}"])
    assert people.values.shape == (PEOPLE, VERTICES)
    model = mr.train(people)
    assert list(mr.score(model, people)["participant_id"]) == people_of(cohort)
    done = mr.export(model, people, tmp_path / "out", ["site"])
    assert not done.failures
    cleaned = model.remove(people, "site").values
    written = [nib.load(gifti_path(tmp_path / "out", who, "R", DESC)).darrays[0].data for who in people_of(cohort)]
    np.testing.assert_allclose(np.stack(written), cleaned, atol=1e-5)
    assert not gifti_path(tmp_path / "out", "sub-0001", "L", DESC).exists()


def test_sites_that_training_did_not_have_are_adapted_to(trained: Trained, tmp_path: Path) -> None:
    cohort, _ = trained("cifti")
    table = pd.read_csv(cohort / "participants.tsv", sep="\t", index_col=0)
    away = [str(who) for who in table.index[table["site"] == "S1"]]
    one_site = ("--exclude", *away, "--set", "covariates.sex=null")
    other = write_surface_cohort(tmp_path / "other", "cifti")
    table["site"] = [f"S{k % 2}" if who in away else f"S{2 + k % 2}" for k, who in enumerate(table.index)]
    table.reset_index().to_csv(other / "participants.tsv", sep="\t", index=False)
    assert run("train", other, tmp_path / "m", *SURFACE, *one_site, "--quiet") == 0
    cifti_path(other, away[0]).write_bytes(b"")
    done = export(other, tmp_path / "out", tmp_path / "m" / "model", unseen_site="adapt", extrapolate=True)
    assert [one.participant for one in done.failures] == away[:1]
    assert len([*(tmp_path / "out").rglob("*.dscalar.nii")]) == PEOPLE - 1


def test_a_served_model_cleans_both_hemispheres(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, model = trained("gifti")
    out = tmp_path / "served"
    out.mkdir()
    monkeypatch.setenv(ALLOWED_ROOT, str(cohort))
    monkeypatch.setenv(OUTPUT_ROOT, str(out))
    table = pd.read_csv(cohort / "participants.tsv", sep="\t").iloc[[2, 3]]
    paths = [str(gifti_path(cohort, who).relative_to(cohort)) for who in table["participant_id"]]
    served = ServedModel.load(model)
    found = served.answer(table.assign(path=paths), remove="site", extrapolate=True)
    assert list(found.columns) == ["path", "sidecar", "path_right", "sidecar_right"]
    assert all((out / path).is_file() for path in found.to_numpy().ravel())
    assert len(served.answer(table.assign(path=paths), extrapolate=True)) == 2
    lone = write_surface_cohort(tmp_path / "lone", people=4)
    gifti_path(lone, "sub-0003", "R").unlink()
    monkeypatch.setenv(ALLOWED_ROOT, str(lone))
    with pytest.raises(CohortError, match=r"row 1: sub-0003/anat/sub-0003_hemi-R\S*: no such file") as error:
        served.answer(table.assign(path=paths), extrapolate=True)
    assert str(lone) not in str(error.value)
