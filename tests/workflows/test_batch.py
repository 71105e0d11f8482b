"""Going through a cohort in parts, resuming, and what is said about whom; workers that die are in tests/batch."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep.batch.journal import read_events
from medrep.cli import main

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "JOB_"))}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def contents(out: Path) -> dict[str, bytes]:
    """Return the files of OUT, without the batch's own."""
    files = (path for path in out.rglob("*") if path.is_file() and ".medrep" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def ended(out: Path) -> list[str]:
    """Return whose outcome was written, once for each time."""
    paths = sorted((out / ".medrep").glob("part-*.jsonl"))
    events = [event for path in paths for _, event in read_events(path)]
    return [key for event in events if event["event"] in ("end", "rows") for key in event["keys"]]


@pytest.fixture(scope="module")
def scans(bids_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cohort of images, ten of them unusable, each in its own way."""
    root = tmp_path_factory.mktemp("scans") / "cohort"
    shutil.copytree(bids_cohort, root)
    files = sorted(root.glob("sub-*/anat/*.nii.gz"))
    content = gzip.decompress(files[0].read_bytes())
    image = nib.load(files[0])
    data = np.asarray(image.dataobj, dtype=np.float32)
    files[0].write_bytes(files[0].read_bytes()[:2000])
    files[1].write_bytes(gzip.compress(content[:344] + b"\0\0\0\0" + content[348:]))
    holes = data.copy()
    holes[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(holes, image.affine), files[2])
    nib.save(nib.Nifti1Image(np.stack([data, data], axis=-1), image.affine), files[3])
    claim = bytearray(content)
    claim[40:56] = np.array([3, 10_000, 10_000, 10_000, 1, 1, 1, 1], "<i2").tobytes()
    files[4].write_bytes(gzip.compress(bytes(claim)))
    files[5].write_bytes(b"")
    files[6].unlink()
    nib.save(nib.Nifti1Image(data[:-3], image.affine), files[7])
    files[8].unlink()
    files[8].symlink_to(files[8].name)
    files[9].unlink()
    files[9].symlink_to("/etc/hostname")
    return root


REASONS = {
    0: "cut off or damaged",
    1: "not a readable image",
    2: "1 of",
    3: "has 4 axes",
    4: "more than the file can hold",
    5: "empty (0 bytes)",
    6: "no sub-*_T1w.nii[.gz] under",
    7: "differs from",
    8: "a loop of links",
    9: "leads out of",
}


@pytest.fixture(scope="module")
def undisturbed(scans: Path, bids_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "scored"
    assert run("score", scans, out, "--model", bids_model, "--quiet") == 3
    return out


def test_every_good_scan_is_delivered_and_every_bad_one_is_named_with_its_reason(
    scans: Path, undisturbed: Path
) -> None:
    scores = pd.read_csv(undisturbed / "scores.tsv", sep="\t")
    failures = pd.read_csv(undisturbed / "failures.tsv", sep="\t", keep_default_na=False)
    everybody = [f"sub-{k:04d}" for k in range(1, 41)]
    assert scores["participant_id"].tolist() == everybody
    assert (scores["status"] == ["failed"] * 10 + ["scored"] * 30).all()
    assert failures["participant_id"].tolist() == everybody[:10]
    for row, reason in REASONS.items():
        assert reason in failures.loc[row, "error"]
    assert (failures["attempts"] == 1).all()
    assert pd.read_csv(undisturbed / "participants.tsv", sep="\t")["participant_id"].tolist() == everybody
    assert not list(undisturbed.rglob(".partial-*"))


@pytest.mark.parametrize("count", [3, 50])
def test_parts_merge_to_the_same_bytes(
    count: int, scans: Path, bids_model: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scored"
    for index in reversed(range(min(count, 8))):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        assert run("score", scans, out, "--model", bids_model, "--num-parts", count, "--workers", 1, "--quiet") == 0
        assert not (out / "scores.tsv").exists()
    assert run("merge", out, "--quiet") == 3
    assert contents(out) == contents(undisturbed)


def test_merging_too_early_names_who_is_not_done(
    scans: Path, bids_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored"
    switches = ("--participant-label", "0011", "0012", "0030", "--num-parts", 2, "--quiet")
    assert run("score", scans, out, "--model", bids_model, "--part-id", 1, *switches) == 0
    assert run("merge", out, "--quiet") == 1
    assert "people who are not done" in capsys.readouterr().err
    assert not (out / "scores.tsv").exists()


def test_the_same_command_again_does_nothing_twice(scans: Path, bids_model: Path, undisturbed: Path) -> None:
    before, times = contents(undisturbed), ended(undisturbed)
    assert run("score", scans, undisturbed, "--model", bids_model, "--quiet") == 3
    assert contents(undisturbed) == before
    assert ended(undisturbed) == times
    assert len(times) == len(set(times)) == 40


def test_a_run_that_was_killed_goes_on_and_nobody_is_worked_on_twice(
    scans: Path, bids_model: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scored"
    command = [sys.executable, "-m", "medrep", "score", str(scans), str(out), "--model", str(bids_model), "--quiet"]
    journal = out / ".medrep" / "part-00000-of-00001.jsonl"
    for most in (1, 4):
        process = subprocess.Popen([*command, "--workers", "1"], env=ENVIRONMENT, start_new_session=True)
        while process.poll() is None and not (journal.exists() and len(ended(out)) >= most):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "scores.tsv").exists() or process.returncode == 3
    assert run(*command[3:]) == 3
    assert contents(out) == contents(undisturbed)
    assert sorted(ended(out)) == sorted(set(ended(out)))


def test_what_changed_is_worked_on_again_and_what_failed_on_request(
    scans: Path, bids_model: Path, tmp_path: Path
) -> None:
    cohort, out = tmp_path / "cohort", tmp_path / "moved"
    shutil.copytree(scans, cohort, symlinks=True)
    people = [f"{k:04d}" for k in (2, 7, 11, 12, 13)]
    switches = ("--model", bids_model, "--remove", "site", "--participant-label", *people, "--quiet")
    assert run("export", cohort, out, *switches) == 3
    assert len(list(out.glob("sub-*/anat/*.nii.gz"))) == 3
    first = contents(out)
    assert pd.read_csv(out / "failures.tsv", sep="\t")["attempts"].tolist() == [1, 1]
    # Mended, broken, and gone.
    good = next((cohort / "sub-0011").rglob("*.nii.gz"))
    next((cohort / "sub-0002").rglob("*.nii.gz")).write_bytes(good.read_bytes())
    next((cohort / "sub-0012").rglob("*.nii.gz")).write_bytes(b"no image")
    assert run("export", cohort, out, *switches, "--retry-failed") == 3
    failures = pd.read_csv(out / "failures.tsv", sep="\t")
    assert failures["participant_id"].tolist() == ["sub-0007", "sub-0012"]
    assert failures["attempts"].tolist() == [2, 1]
    assert sorted(ended(out)) == ["sub-0002"] * 2 + ["sub-0007"] * 2 + ["sub-0011"] + ["sub-0012"] * 2 + ["sub-0013"]
    assert sorted(path.parts[-3] for path in out.glob("sub-*/anat/*.nii.gz")) == ["sub-0002", "sub-0011", "sub-0013"]
    kept = [name for name in first if "sub-0011" in name or "sub-0013" in name]
    assert {name: contents(out)[name] for name in kept} == {name: first[name] for name in kept}


def test_a_dry_run_writes_nothing(
    scans: Path, bids_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored"
    assert run("score", scans, out, "--model", bids_model, "--dry-run", "--num-parts", 4, "--part-id", 0) == 0
    shown = capsys.readouterr()
    assert "would be worked on" in shown.out
    assert "sub-0007: no sub-*_T1w.nii[.gz]" in shown.err
    assert not out.exists()


def test_another_job_in_the_same_folder_is_refused(
    bids_cohort: Path, bids_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    few = ("--participant-label", "0001", "0002", "--quiet")
    assert run("export", bids_cohort, out, "--model", bids_model, "--remove", "site", *few) == 0
    before = contents(out)
    assert run("export", bids_cohort, out, "--model", bids_model, "--remove", "age", *few) == 1
    assert "holds another job: references: {'site': '(pooled)'} there" in capsys.readouterr().err
    assert contents(out) == before
    # Fewer people by a switch, or another cohort, are no reason to remove what is there.
    assert run("export", bids_cohort, out, "--model", bids_model, "--remove", "site", *few[:2], "--quiet") == 1
    assert "only: ['0001', '0002'] there, ['0001'] now" in capsys.readouterr().err
    assert contents(out) == before
    assert run("score", bids_cohort, out, "--model", bids_model, *few) == 1
    switches = ("--num-parts", 2, "--part-id", 0, "--overwrite")
    assert run("score", bids_cohort, out, "--model", bids_model, *few, *switches) == 1
    assert "--overwrite would have each part delete the others" in capsys.readouterr().err
    assert contents(out) == before
    assert run("score", bids_cohort, out, "--model", bids_model, *few, "--overwrite") == 0
    assert sorted(contents(out)) == [
        "dataset_description.json",
        "latents.tsv",
        "participants.tsv",
        "scores.json",
        "scores.tsv",
    ]


def test_files_of_somebody_else_are_never_mixed_with(
    bids_cohort: Path, bids_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run("score", bids_cohort, tmp_path, "--model", bids_model, "--quiet") == 1
    assert "holds files that medrep did not write (notes.txt)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert run("merge", tmp_path, "--quiet") == 1
    assert "no batch was begun here" in capsys.readouterr().err


def test_a_part_is_worked_on_by_one_process_at_a_time(
    bids_cohort: Path, bids_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    out = tmp_path / "scored"
    few = ("--participant-label", "0001", "--quiet")
    assert run("score", bids_cohort, out, "--model", bids_model, *few) == 0
    with FileLock(out / ".medrep" / "part-00000-of-00001.lock"):
        assert run("score", bids_cohort, out, "--model", bids_model, *few) == 1
    assert "another process works on part-00000-of-00001" in capsys.readouterr().err


def test_tables_are_worked_on_in_parts_too(table_cohort: Path, table_model: Path, tmp_path: Path) -> None:
    for command in (("score",), ("export", "--remove", "site"), ("counterfactual", "--set", "age=50")):
        whole, parts = tmp_path / f"{command[0]}-whole", tmp_path / f"{command[0]}-parts"
        switches = (*command[1:], "--model", table_model, "--quiet")
        assert run(command[0], table_cohort, whole, *switches) == 0
        for index in (1, 0):
            assert run(command[0], table_cohort, parts, *switches, "--num-parts", 2, "--part-id", index) == 0
        assert run("merge", parts, "--quiet") == 0
        assert contents(whole) == contents(parts)


def test_sites_that_training_did_not_have_are_estimated_once_and_from_those_who_can_be_read(
    scans: Path, bids_model: Path, tmp_path: Path
) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(scans, cohort, symlinks=True)
    table = pd.read_csv(cohort / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    table.loc[4:20, "site"] = "Mars"
    table.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    switches = ("--model", bids_model, "--unseen-site", "adapt", "--quiet")
    assert run("score", cohort, tmp_path / "whole", *switches) == 3
    for index in (1, 0):
        parts = ("--num-parts", 2, "--part-id", index)
        assert run("score", cohort, tmp_path / "parts", *switches, *parts) == 0
    assert run("merge", tmp_path / "parts", "--quiet") == 3
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
    adapted = pd.read_csv(tmp_path / "whole" / "adapted.tsv", sep="\t")
    assert adapted[["level", "people"]].to_numpy().tolist() == [["Mars", 11]]
    job = json.loads((tmp_path / "whole" / ".medrep" / "job.json").read_text())
    assert job["identity"]["adapted to"]


def test_a_row_of_a_table_that_changed_is_worked_on_again(
    table_cohort: Path, table_model: Path, tmp_path: Path
) -> None:
    cohort, out = tmp_path / "cohort", tmp_path / "scored"
    shutil.copytree(table_cohort, cohort)
    assert run("score", cohort, out, "--model", table_model, "--quiet") == 0
    before = pd.read_csv(out / "scores.tsv", sep="\t")
    features = pd.read_csv(cohort / "features.tsv", sep="\t")
    features.iloc[3, 1:] *= 1.5
    people = pd.read_csv(cohort / "participants.tsv", sep="\t").iloc[1:]
    features.to_csv(cohort / "features.tsv", sep="\t", index=False)
    people.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    assert run("score", cohort, out, "--model", table_model, "--quiet") == 0
    after = pd.read_csv(out / "scores.tsv", sep="\t")
    who = people["participant_id"].iloc[2]
    assert sorted(ended(out)) == sorted([*before["participant_id"], who])
    changed = (
        before.set_index("participant_id").loc[after["participant_id"], "deviation"].to_numpy() != after["deviation"]
    )
    assert after.loc[changed, "participant_id"].tolist() == [who]
    assert len(after) == len(before) - 1
    # A cohort that grows again: who stayed is not worked on again; who had left stood in no table of OUT any more.
    (cohort / "participants.tsv").write_bytes((table_cohort / "participants.tsv").read_bytes())
    assert run("score", cohort, out, "--model", table_model, "--quiet") == 0
    assert len(ended(out)) == len(before) + 2
    assert pd.read_csv(out / "scores.tsv", sep="\t")["participant_id"].tolist() == before["participant_id"].tolist()
