import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.workflows.conftest import run


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"participant_id": str})


def test_features_keep_their_columns_order_and_ids(table_cohort: Path, table_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean"
    assert run("export", table_cohort, out, "--model", table_model, "--remove", "site", "--keep", "age,sex") == 0
    before, after = read(table_cohort / "features.tsv"), read(out / "features.tsv")
    assert list(before.columns) == list(after.columns)
    assert before["participant_id"].equals(after["participant_id"])
    assert not np.allclose(before.iloc[:, 1:], after.iloc[:, 1:])
    people, latents = read(out / "participants.tsv"), read(out / "latents.tsv")
    assert people["participant_id"].equals(latents["participant_id"])
    sidecar = json.loads((out / "features.json").read_text())
    assert (sidecar["Removed"], sidecar["Kept"], sidecar["References"]) == (
        ["site"],
        ["age", "sex"],
        {"site": "(pooled)"},
    )
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_people_at_the_reference_site_come_back_as_they_were(
    table_cohort: Path, table_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "clean"
    assert run("export", table_cohort, out, "--model", table_model, "--remove", "site", "--reference", "site=S0") == 0
    at_reference = read(table_cohort / "participants.tsv")["site"] == "S0"
    before, after = (read(folder / "features.tsv").iloc[:, 1:] for folder in (table_cohort, out))
    assert np.array_equal(before[at_reference], after[at_reference])
    assert (before[~at_reference] != after[~at_reference]).to_numpy().mean() > 0.99


def test_planted_site_effect_is_removed_from_unseen_people(table_cohort: Path, tmp_path: Path) -> None:
    people = read(table_cohort / "participants.tsv")["participant_id"].tolist()
    train, new = people[::2], people[1::2]
    assert run("train", table_cohort, tmp_path / "m", "--participant-label", *train) == 0
    model = tmp_path / "m" / "model"
    arguments = (
        "--remove",
        "site",
        "--reference",
        "site=S0",
        "--participant-label",
        *[p.removeprefix("sub-") for p in new],
    )
    assert run("export", table_cohort, tmp_path / "clean", "--model", model, *arguments) == 0
    truth = read(table_cohort / "derivatives" / "truth" / "features.tsv").iloc[1::2, 1:]
    raw, clean = (
        read(table_cohort / "features.tsv").iloc[1::2, 1:],
        read(tmp_path / "clean" / "features.tsv").iloc[:, 1:],
    )
    assert (
        np.square(clean.to_numpy() - truth.to_numpy()).mean()
        < 0.4 * np.square(raw.to_numpy() - truth.to_numpy()).mean()
    )


def test_columns_in_another_order_give_the_same_result(table_cohort: Path, table_model: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    people, features = read(table_cohort / "participants.tsv"), read(table_cohort / "features.tsv")
    people.iloc[:, [0, 4, 3, 2, 1]].to_csv(shuffled / "participants.tsv", sep="\t", index=False)
    reordered = features[["participant_id", *reversed(features.columns[1:])]]
    reordered.iloc[::-1].to_csv(shuffled / "features.tsv", sep="\t", index=False)
    for cohort, out in ((table_cohort, "a"), (shuffled, "b")):
        assert run("export", cohort, tmp_path / out, "--model", table_model, "--remove", "site") == 0
    first, second = (read(tmp_path / out / "features.tsv").set_index("participant_id") for out in "ab")
    assert list(second.columns) == list(reordered.columns[1:])
    np.testing.assert_allclose(second[first.columns], first, rtol=1e-12, atol=1e-12)


def test_unseen_site_is_refused_by_name_or_adapted(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = read(table_cohort / "participants.tsv")
    known = people.loc[people["site"] != "S3", "participant_id"]
    assert run("train", table_cohort, tmp_path / "m", "--participant-label", *known) == 0
    export = ("export", table_cohort, tmp_path / "clean", "--model", tmp_path / "m" / "model", "--remove", "site")
    capsys.readouterr()
    assert run(*export) == 1
    message = capsys.readouterr().err
    unknown = people.loc[people["site"] == "S3", "participant_id"]
    assert f"{unknown.iloc[0]}: site 'S3' was not in training (S0, S1, S2)" in message
    assert "--unseen-site adapt" in message
    assert not (tmp_path / "clean").exists()
    assert run(*export, "--unseen-site", "adapt") == 0
    adapted = read(tmp_path / "clean" / "adapted.tsv")
    assert adapted["people"].tolist() == [len(unknown)]
    assert 0 < adapted["effect_se"].iloc[0] < adapted["location_se"].iloc[0] < 1
    truth = read(table_cohort / "derivatives" / "truth" / "features.tsv").iloc[:, 1:].to_numpy()
    away = (people["site"] == "S3").to_numpy()
    raw, clean = (read(f / "features.tsv").iloc[:, 1:].to_numpy() for f in (table_cohort, tmp_path / "clean"))
    pooled = truth[~away].mean(axis=0)
    assert np.abs(clean[away].mean(axis=0) - pooled).mean() < np.abs(raw[away].mean(axis=0) - pooled).mean()


def test_volumes_come_back_in_their_own_grid(bids_cohort: Path, bids_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean"
    assert run("export", bids_cohort, out, "--model", bids_model, "--remove", "site", "--reference", "site=S0") == 0
    errors = []
    for source in sorted(bids_cohort.glob("sub-*/anat/*_T1w.nii.gz")):
        result = out / source.parent.relative_to(bids_cohort) / source.name.replace("_T1w", "_desc-residualized_T1w")
        before, after = nib.load(source), nib.load(result)
        truth = nib.load(bids_cohort / "derivatives" / "truth" / source.relative_to(bids_cohort))
        assert after.get_data_dtype() == np.float32
        assert after.shape == before.shape
        np.testing.assert_array_equal(after.affine, before.affine)
        errors.append([float(np.square(image.get_fdata() - truth.get_fdata()).mean()) for image in (before, after)])
        sidecar = json.loads(result.with_name(result.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Removed"] == ["site"]
    before_error, after_error = np.mean(errors, axis=0)
    assert after_error < 0.5 * before_error


def test_one_broken_image_fails_alone_and_is_named(
    bids_cohort: Path, bids_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(bids_cohort, cohort)
    victim = sorted(cohort.glob("sub-*/anat/*.nii.gz"))[3]
    victim.write_bytes(victim.read_bytes()[:2000])
    assert run("export", cohort, tmp_path / "clean", "--model", bids_model, "--remove", "site") == 3
    failures = read(tmp_path / "clean" / "failures.tsv")
    who = victim.name.split("_")[0]
    assert failures["participant_id"].tolist() == [who]
    assert "cut off or damaged" in failures["error"].iloc[0]
    assert who in capsys.readouterr().err
    delivered = read(tmp_path / "clean" / "participants.tsv")["participant_id"]
    assert len(delivered) == 39
    assert who not in set(delivered)


def test_the_volume_path_equals_the_table_path(bids_cohort: Path, tmp_path: Path) -> None:
    volumes, table, rows = tmp_path / "volumes", tmp_path / "table", {}
    for file in sorted(bids_cohort.glob("sub-*/anat/*_T1w.nii.gz")):
        image = nib.load(file).slicer[10:26, 14:32, 12:26]
        place = volumes / file.relative_to(bids_cohort)
        place.parent.mkdir(parents=True)
        nib.save(image, place)
        rows[file.name.split("_")[0]] = image.get_fdata(dtype=np.float32).ravel()
    table.mkdir()
    for folder in (volumes, table):
        shutil.copy(bids_cohort / "participants.tsv", folder)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[f"v{k}" for k in range(16 * 18 * 14)])
    frame.rename_axis("participant_id").to_csv(table / "features.tsv", sep="\t")
    (table / "features.json").write_text(json.dumps({"Grid": {"shape": [16, 18, 14], "spacing": [4.0, 4.0, 4.0]}}))
    for cohort, kind in ((table, "features"), (volumes, "volume")):
        model = tmp_path / f"model-{kind}"
        assert run("train", cohort, model, "--set", f"input.kind={kind}", "--quiet") == 0
        export = ("export", cohort, tmp_path / kind, "--model", model / "model", "--remove", "site", "--quiet")
        assert run(*export) == 0
    results = sorted((tmp_path / "volume").glob("sub-*/anat/*_T1w.nii.gz"))
    by_volume = np.stack([nib.load(file).get_fdata().ravel() for file in results])
    by_table = read(tmp_path / "features" / "features.tsv").iloc[:, 1:].to_numpy()
    assert np.abs(by_table - frame.to_numpy()).max() > 1
    np.testing.assert_allclose(by_volume, by_table, atol=1e-5 * frame.to_numpy().std())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--remove", "scanner"), "does not know scanner; it was trained with age, sex, site"),
        (("--remove", "site", "--keep", "site"), "site: both in --remove and in --keep"),
        (("--remove", ","), "nothing to remove"),
        (
            ("--remove", "site", "--reference", "site=Mars"),
            "'Mars' was not in training; allowed: S0, S1, S2, S3, pooled",
        ),
        (("--remove", "age", "--reference", "age=old"), "'old' is no number; give one in year"),
        (("--remove", "site", "--reference", "age=40"), "a reference is given for age, which is not removed"),
        (("--remove", "site", "--reference", "site"), "write it as NAME=VALUE"),
        (("--remove", "site", "--participant-label", "9999"), "participants that the table does not have: 9999"),
    ],
)
def test_wrong_requests_say_what_is_allowed(
    table_cohort: Path,
    table_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    capsys.readouterr()
    assert run("export", table_cohort, tmp_path / "out", "--model", table_model, *arguments) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_is_never_mixed_with_what_is_there(
    table_cohort: Path, table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    command = ("export", table_cohort, out, "--model", table_model, "--remove", "site")
    assert run(*command) == 1
    assert "holds files that medrep did not write (precious.txt)" in capsys.readouterr().err
    assert run("export", table_cohort, table_cohort, "--model", table_model, "--remove", "site", "--overwrite") == 1
    assert (table_cohort / "features.tsv").exists()
    assert run(*command, "--overwrite") == 1
    assert (out / "precious.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_broken_image_of_an_unseen_site_fails_alone(bids_cohort: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(bids_cohort, cohort)
    people = read(cohort / "participants.tsv")
    known = people["participant_id"][:-1]
    people.loc[len(people) - 1, "site"] = "new"
    people.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    stranger = str(people["participant_id"].iloc[-1])
    train = ("train", cohort, tmp_path / "m", "--set", "input.kind=volume", "--participant-label", *known)
    assert run(*train, "--quiet") == 0
    next(iter((cohort / stranger / "anat").iterdir())).write_bytes(b"")
    export = ("export", cohort, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site", "--quiet")
    assert run(*export) == 1
    assert run(*export, "--unseen-site", "adapt") == 3
    assert read(tmp_path / "o" / "failures.tsv")["participant_id"].tolist() == [stranger]
    assert read(tmp_path / "o" / "participants.tsv")["participant_id"].tolist() == known.tolist()
