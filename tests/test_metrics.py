"""What a monitor reads, read by Prometheus' own parser."""

import os
import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from medrep.cli import ERROR, OK, SOME_FAILED, main
from medrep.errors import ConfigError
from medrep.monitoring import Run, check_metrics, exposed, write_metrics
from tests.small_runs import Runs

Figures = dict[tuple[str, ...], float]


def read(text: str) -> Figures:
    """Return (name, command, out, part, state) -> value; every family says what it is."""
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            labels = [sample.labels.get(name, "") for name in ("command", "out", "part", "state")]
            found[sample.name, *(label for label in labels if label)] = sample.value
    return found


def figure(path: Path, name: str, *labels: str) -> float:
    return read(path.read_text("utf-8"))[f"medrep_{name}", *labels]


def score(runs: Runs, cohort: Path, out: Path, path: Path, *more: object) -> int:
    words = ("score", cohort, out, "--model", runs("table_model") / "model", "--metrics", path, "--quiet", *more)
    return main([str(word) for word in words])


def test_a_batch_says_how_many_how_fast_and_when(runs: Runs, tmp_path: Path) -> None:
    path, who = tmp_path / "nightly.prom", ("score", "out", "all")
    assert score(runs, runs("table"), tmp_path / "out", path) == OK
    assert figure(path, "people", *who, "delivered") == 200
    assert figure(path, "people", *who, "failed") == 0
    assert figure(path, "run_people", *who) == 200
    assert figure(path, "run_people_per_second", *who) > 0
    assert figure(path, "run_exit_code", *who) == 0
    first = figure(path, "last_success_timestamp_seconds", *who)
    assert first == figure(path, "run_timestamp_seconds", *who) > 1e9
    assert score(runs, runs("table"), tmp_path / "out", path) == OK
    assert figure(path, "people", *who, "delivered") == 200
    assert figure(path, "run_people", *who) == 0, "all were done before"
    assert figure(path, "last_success_timestamp_seconds", *who) > first
    assert [one.name for one in tmp_path.iterdir() if "prom" in one.name] == ["nightly.prom"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_run_that_fails_keeps_when_one_last_went_well(runs: Runs, tmp_path: Path) -> None:
    path, who = tmp_path / "a.prom", ("score", "out", "all")
    assert score(runs, runs("table"), tmp_path / "out", path) == OK
    before = figure(path, "last_success_timestamp_seconds", *who)
    assert score(runs, tmp_path / "nowhere", tmp_path / "out", path) == ERROR
    assert figure(path, "run_exit_code", *who) == 1
    assert figure(path, "last_success_timestamp_seconds", *who) == before
    assert ("medrep_people", *who, "delivered") not in read(path.read_text("utf-8"))


def test_parts_and_their_merger_tell_themselves_apart(runs: Runs, tmp_path: Path) -> None:
    done = 0.0
    for part in (0, 1):
        path = tmp_path / f"part{part}.prom"
        assert score(runs, runs("table"), tmp_path / "out", path, "--num-parts", 2, "--part-id", part) == OK
        done += figure(path, "people", "score", "out", f"{part}/2", "delivered")
    assert done == 200
    path = tmp_path / "merged.prom"
    assert main(["merge", str(tmp_path / "out"), "--metrics", str(path), "--quiet"]) == OK
    assert figure(path, "people", "merge", "out", "all", "delivered") == 200


def test_who_failed_is_counted(runs: Runs, tmp_path: Path) -> None:
    path, model = tmp_path / "a.prom", runs("scans_model") / "model"
    cohort = tmp_path / "cohort"
    shutil.copytree(runs("scans"), cohort)
    next(cohort.rglob("*_T1w.nii.gz")).write_bytes(b"no image")
    words = ["export", cohort, tmp_path / "out", "--model", model, "--remove", "site", "--metrics", path, "--quiet"]
    assert main([*map(str, words), "--workers", "1"]) == SOME_FAILED
    assert figure(path, "people", "export", "out", "all", "failed") == 1
    assert figure(path, "run_exit_code", "export", "out", "all") == SOME_FAILED
    assert figure(path, "last_success_timestamp_seconds", "export", "out", "all") > 0


@pytest.mark.parametrize("name", ['a"b', "a\\b", "ü", "a b", "{x}", "a\nb"])
def test_any_name_of_a_folder_can_be_a_label(name: str, tmp_path: Path) -> None:
    run = Run("score", name, "all", 0, 1.5, {"delivered": 3, "failed": 0}, 3, 0.5)
    shown = read(exposed(run, 2e9, 0.0))
    assert shown["medrep_run_people_per_second", "score", name, "all"] == 6
    path = tmp_path / "a.prom"
    write_metrics(path, run)
    kept = figure(path, "last_success_timestamp_seconds", "score", name, "all")
    write_metrics(path, Run("score", name, "all", 1, 0.1, {}))
    assert figure(path, "last_success_timestamp_seconds", "score", name, "all") == kept


@pytest.mark.parametrize("text", ["", "medrep_last_success_timestamp_seconds{}", "\0", "# nothing"])
def test_what_lay_there_before_can_be_anything(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    path.write_text(text)
    write_metrics(path, Run("score", "out", "all", 1, 0.1, {}))
    assert figure(path, "last_success_timestamp_seconds", "score", "out", "all") == 0


def test_a_file_that_nobody_would_read_is_refused_before_the_work(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "a.txt", tmp_path / "nowhere" / "a.prom"):
        with pytest.raises(ConfigError, match="--metrics"):
            check_metrics(path)
        assert score(runs, runs("table"), tmp_path / "out", path) == ERROR
        assert "--metrics" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_none(runs: Runs, tmp_path: Path) -> None:
    assert score(runs, runs("table"), tmp_path / "out", tmp_path / "a.prom", "--dry-run") == OK
    assert not (tmp_path / "a.prom").exists()
