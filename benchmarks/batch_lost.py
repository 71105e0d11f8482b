"""Whether anything is lost: 2000 scans, 40 of them broken in ten ways and one that kills its worker; parents killed; a full disk.

Everything is done by whole `medrep` commands, and results are compared byte by byte.

The scan that kills is a sound one of so many voxels that its reader takes more memory than is allowed here; who does is killed
from outside, as the kernel would do it. Where this process is root, medrep runs without root's right to read everything.
"""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks import batch_cohorts, commands
from benchmarks.batch_cohorts import contents, scan
from benchmarks.process_tree import ended, started
from benchmarks.report import Line, Options, Report, Table, say
from medrep.batch.journal import read_events

PEOPLE, QUICK_PEOPLE, BROKEN, KILLS = 2000, 400, 40, 10
REASONS = {
    "truncated gzip": "cut off or damaged",
    "wrong magic": "not a readable image",
    "NaN": "NaN or infinite",
    "4-D": "has 4 axes",
    "header claims 10^12 voxels": "more than the file can hold",
    "zero bytes": "empty (0 bytes)",
    "permission denied": "cannot be opened (Permission denied)",
    "missing": "no sub-*_T1w.nii[.gz] under",
    "wrong grid": "differs from",
    "symlink loop": "a loop of links",
}
KILLER = "its worker died"
_DENIABLE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
_LARGE, _MOST_MB = (700, 700, 700), 1200
_START_S = 5.0
_STARTING = 0.3  # of the kills are in start-up


def run(options: Options) -> Report:
    """Break scans, score, kill, fill the disk."""
    people = QUICK_PEOPLE if options.quick else PEOPLE
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="bench-lost-") as name:
        work = Path(name)
        batch_cohorts.write_scans(work / "train", 100)
        commands.medrep("train", work / "train", work / "trained", "--set", "input={kind: volume, spacing: [4, 4, 4]}")
        model = work / "trained" / "model"
        cohort = work / "cohort"
        table = batch_cohorts.write_scans(cohort, people)
        broken, killer = _break(cohort, table)
        whole = _undisturbed(work, cohort, model)
        rows += _delivered(whole, table, broken, killer)
        rows += _killed(work, cohort, model, whole, len(table), 4 if options.quick else KILLS)
        rows += _filled(work, model)
    found = pd.DataFrame(rows)
    lines = tuple(
        Line("batch_lost", str(row["asked"]), str(row["measured"]), bool(row["passed"]))
        for row in found.to_dict("records")
    )
    return Report({"batch_lost": Table(found, tuple(found), "What was lost")}, lines)


def _break(cohort: Path, table: pd.DataFrame) -> tuple[dict[str, str], str]:
    """Break 40 scans in ten ways and make one large; return whose and how, and whose is large."""
    rng = random.Random(0)  # noqa: S311
    chosen = rng.sample(list(table["participant_id"]), BROKEN + 1)
    broken = {who: list(REASONS)[k % len(REASONS)] for k, who in enumerate(chosen[:-1])}
    for who, how in broken.items():
        path = scan(cohort, who)
        content, image = path.read_bytes(), nib.load(path)
        data = np.asarray(image.dataobj)
        body = gzip.decompress(content)
        path.unlink()
        if how == "truncated gzip":
            path.write_bytes(content[: len(content) // 2])
        elif how == "wrong magic":
            path.write_bytes(gzip.compress(body[:344] + b"none" + body[348:], 1))
        elif how == "NaN":
            holes = data.astype(np.float32)
            holes[40, 40, 40] = np.nan
            nib.save(nib.Nifti1Image(holes, image.affine), path)
        elif how == "4-D":
            nib.save(nib.Nifti1Image(np.stack([data, data], axis=-1), image.affine), path)
        elif how == "header claims 10^12 voxels":
            header = bytearray(body)
            header[40:56] = np.array([3, 10_000, 10_000, 10_000, 1, 1, 1, 1], "<i2").tobytes()
            path.write_bytes(gzip.compress(bytes(header), 1))
        elif how == "zero bytes":
            path.touch()
        elif how == "permission denied":
            path.write_bytes(content)
            path.chmod(0)
        elif how == "wrong grid":
            nib.save(nib.Nifti1Image(data[:-8], image.affine), path)
        elif how == "symlink loop":
            path.symlink_to(path.name)
    killer = chosen[-1]
    path = scan(cohort, killer)
    path.unlink()
    large = np.zeros(_LARGE, np.int16)
    large[::7, ::5] = np.arange(_LARGE[2], dtype=np.int16)
    nib.save(nib.Nifti1Image(large, np.diag([0.3, 0.3, 0.3, 1])), path)
    return broken, killer


def _undisturbed(work: Path, cohort: Path, model: Path) -> Path:
    say("batch_lost: undisturbed")
    out = work / "whole"
    with _killing() as deaths:
        code, said = _score(cohort, out, model)
    if code != 3:
        raise RuntimeError(f"medrep score ended with {code}: {said[-500:]}")
    say(f"  the killer was killed {len(deaths)} times")
    return out


def _delivered(out: Path, table: pd.DataFrame, broken: dict[str, str], killer: str) -> Iterator[dict[str, object]]:
    scores = pd.read_csv(out / "scores.tsv", sep="\t", index_col="participant_id")
    failures = pd.read_csv(out / "failures.tsv", sep="\t", index_col="participant_id", keep_default_na=False)
    good = [who for who in table["participant_id"] if who not in broken and who != killer]
    delivered = int(scores.loc[good, "deviation"].notna().sum())
    yield _row("every good scan is delivered", f"{delivered} of {len(good)}", delivered == len(good))
    named = [who for who, how in broken.items() if who in failures.index and REASONS[how] in failures.loc[who, "error"]]
    wrong = {broken[who]: failures["error"].get(who, "not named")[:90] for who in broken if who not in named}
    measured = f"{len(named)} of {len(broken)}" + (f"; {wrong}" if wrong else "")
    exact = len(failures) == len(broken) + 1
    yield _row("every broken scan is named with its own reason, exit code 3", measured, not wrong and exact)
    error = str(failures["error"].get(killer, ""))
    yield _row("the scan that kills workers is quarantined by name", error[:60], KILLER in error)


def _killed(work: Path, cohort: Path, model: Path, whole: Path, people: int, kills: int) -> Iterator[dict[str, object]]:
    say(f"batch_lost: {kills} kills of the parent")
    out, rng = work / "killed", random.Random(1)  # noqa: S311
    done, caught = list[int](), 0
    with _killing():
        for moment in sorted(rng.random() for _ in range(kills)):
            process = started("score", cohort, out, "--model", model, "--workers", 2, before=_DENIABLE)
            _wait(process, out, moment, people, rng)
            caught += process.poll() is None
            process.kill()
            process.wait()
            done.append(len(_ended(out)))
            say(f"  moment {moment:.2f}: {done[-1]} people were done")
        code, said = _score(cohort, out, model)
    other = _different(out, whole)
    yield _row(
        f"kill -9 of the parent {kills} times, then the same command: byte-identical",
        f"{other or 'identical'}, exit {code}{'' if code == 3 else _short(said)} ({caught} kills; done then: {done})",
        not other and code == 3 and caught == kills,
    )
    twice = {key: count for key, count in Counter(_ended(out)).items() if count > 1}
    yield _row("nothing is scored twice after its result was written", f"{len(twice)} people", not twice)


def _wait(process: subprocess.Popen[str], out: Path, moment: float, people: int, rng: random.Random) -> None:
    """Wait for a random moment: of start-up, or until so many people are done and a little longer."""
    if moment < _STARTING:
        time.sleep(rng.uniform(0, _START_S))
        return
    wanted = people * (moment - _STARTING) / (1 - _STARTING)
    if len(_ended(out)) >= wanted:
        time.sleep(rng.uniform(0, _START_S))
    while process.poll() is None and len(_ended(out)) < wanted:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))


def _filled(work: Path, model: Path) -> Iterator[dict[str, object]]:
    cohort, disk = work / "train", work / "disk"
    disk.mkdir()
    for command, more in (("score", ()), ("export", ("--remove", "site"))):
        whole = work / f"{command}-whole"
        code, said = _medrep([command, cohort, whole, "--model", model, *more])
        if code:
            raise RuntimeError(f"medrep {command} ended with {code}: {said[-500:]}")
        own = _allocated(whole / ".medrep" / "model")
        for when, size in (
            ("as it starts", own // 2),
            ("after some people", own + (_allocated(whole) - own) // 3),
        ):
            say(f"batch_lost: {command}, the disk is full {when}")
            asked = f"{command}, disk full {when}: exit 1, one line; resumes to the same bytes"
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                yield _row(asked, "not measured: a tmpfs cannot be mounted here", False)
                continue
            arguments = [command, cohort, disk / "out", "--model", model, *more]
            try:
                first, said = _medrep(arguments)
                complete = (disk / "out" / "dataset_description.json").exists()
                done = len(_ended(disk / "out"))
                subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
                second, _ = _medrep(arguments)
                other, twice = (
                    _different(disk / "out", whole),
                    len(_ended(disk / "out")) - len(set(_ended(disk / "out"))),
                )
            finally:
                subprocess.run(["umount", disk], check=True)
            clean = first == 1 and "Traceback" not in said and said.count("\n") == 1 and not complete
            measured = (
                f"exit {first} after {done} people{_short(said)}, then exit {second}, {other or 'the same bytes'}"
            )
            yield _row(asked, f"{measured}, {twice} worked on twice", clean and second == 0 and not other and not twice)


def _allocated(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _different(out: Path, whole: Path) -> str:
    ours, theirs = contents(out), contents(whole)
    other = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    return f"{len(other)} of {len(theirs)} files differ ({', '.join(other[:3])})" if other else ""


def _short(said: str) -> str:
    return f" ({' '.join(said.split())[-90:]})"


def _row(asked: str, measured: str, passed: bool) -> dict[str, object]:
    return {"asked": asked, "measured": measured, "passed": passed}


def _ended(out: Path) -> list[tuple[str, str]]:
    """Return key and fingerprint of each outcome that was written."""
    paths = sorted((out / ".medrep").glob("part-*.jsonl")) if (out / ".medrep").is_dir() else []
    events = [event for path in paths for _, event in read_events(path) if event["event"] == "end"]
    return [(event["keys"][0], event["fingerprint"]) for event in events]


def _score(cohort: Path, out: Path, model: Path) -> tuple[int, str]:
    return _medrep(["score", cohort, out, "--model", model, "--workers", 2])


def _medrep(arguments: list[object]) -> tuple[int, str]:
    return ended(started(*arguments, before=_DENIABLE))


@contextmanager
def _killing() -> Iterator[list[int]]:
    """Kill every worker that takes too much memory, from outside, until the block ends; yield who was killed."""
    deaths, over = list[int](), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                if _is_too_large(process):
                    with suppress(ProcessLookupError):
                        os.kill(int(process.name), signal.SIGKILL)
                        deaths.append(int(process.name))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield deaths
    finally:
        over.set()
        watcher.join()


def _is_too_large(process: Path) -> bool:
    """Tell whether a worker of ours, and nobody else's, holds more than is allowed."""
    try:
        pages = int((process / "statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") <= _MOST_MB * 2**20:
            return False
        return b"forkserver" in (process / "cmdline").read_bytes() and _is_descendant(int(process.name))
    except (OSError, IndexError):
        return False


def _is_descendant(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()
