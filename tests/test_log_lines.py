"""Logs as lines of JSON: nothing else is on standard error, whoever writes there."""

import json
import subprocess
import sys
import warnings
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from medrep.cli import ERROR, OK, USAGE, main
from medrep.cli.console import Console
from medrep.monitoring import CapturedLines, LogLines
from tests.small_runs import Runs

NEVER = """
import sys, types
from medrep.cli import main
def broken(out, console):
    print("a library", file=sys.stderr)
    raise RuntimeError("nobody foresaw token=abcdef")
sys.modules["medrep.workflows.transform"] = merge = types.ModuleType("merge")
merge.merge = broken
main(["merge", "out", "--log", "json"])
"""


def lines(text: str) -> list[dict[str, Any]]:
    """Return the objects; each has what every line has."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert {"time", "level", "command", "message"} <= set(one)
        assert datetime.fromisoformat(one["time"]).utcoffset() is not None
        assert one["level"] in ("info", "warning", "error")
    return found


def run(*words: object) -> int:
    return main([*map(str, words), "--log", "json"])


def test_every_command_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ("demo", "simulate", "check", "train", "export", "counterfactual", "sample", "score", "merge", "audit")
    for command in (*commands, "forecast", "report", "register", "promote"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--log {text,json}" in capsys.readouterr().out, command


def test_a_batch_speaks_in_lines_and_its_result_stays_a_table(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", runs("table"), tmp_path / "out", "--model", runs("table_model") / "model") == OK
    said = capsys.readouterr()
    found = lines(said.err)
    assert {one["command"] for one in found} == {"score"}
    (pace,) = [one for one in found if "per_second" in one]
    assert (pace["message"], pace["done"], pace["total"], pace["unit"]) == ("score: 200/200", 200, 200, "people")
    assert found[-1]["message"] == "finished"
    assert (found[-1]["exit_code"], found[-1]["delivered"], found[-1]["failed"]) == (OK, 200, 0)
    assert "people" in found[-1]["summary"]
    assert said.out.startswith("Scores")


def test_an_error_is_a_line_with_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", tmp_path / "nowhere", "--quiet") == ERROR
    (found,) = lines(capsys.readouterr().err)
    assert (found["level"], found["exit_code"]) == ("error", ERROR)
    assert "nowhere" in found["message"]


def test_json_and_lines_go_together(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", runs("table"), "--json") == OK
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == OK
    found = lines(said.err)
    assert any("rows" in one for one in found), "tables are no result where a document is"
    assert [one for one in found if one["level"] == "warning"] or not json.loads(said.out)["warnings"]


@pytest.mark.parametrize("words", [("--log", "json", "--nothing"), ("--log=json",)])
def test_wrong_usage_is_a_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["score", *words])
    assert ended.value.code == USAGE
    (found,) = lines(capsys.readouterr().err)
    assert (found["command"], found["exit_code"]) == ("score", USAGE)


def test_what_nobody_foresaw_and_what_libraries_say_are_lines() -> None:
    ran = subprocess.run([sys.executable, "-c", NEVER], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    library, error, trace = lines(ran.stderr)
    assert (library["message"], library["source"]) == ("a library", "library")
    assert error["message"] == "RuntimeError: nobody foresaw token=***"
    assert trace["message"].startswith("Traceback")
    assert "abcdef" not in ran.stderr


def test_what_libraries_write_is_held_back_until_it_is_a_line() -> None:
    stream = StringIO()
    captured = CapturedLines(LogLines(stream, "train"))
    for text in ("half ", "a line\nand another\r\n\n", "rest"):
        captured.write(text)
    assert [one["message"] for one in lines(stream.getvalue())] == ["half a line", "and another"]
    captured.end()
    captured.end()
    assert [one["message"] for one in lines(stream.getvalue())][2:] == ["rest"]


def test_warnings_of_libraries_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(log="json", command="audit")
    with console.holding_output(), warnings.catch_warnings():
        warnings.simplefilter("always")
        print("to standard error", file=sys.stderr)  # noqa: T201
    console.warn("look at it")
    assert [(one["level"], one["message"]) for one in lines(capsys.readouterr().err)] == [
        ("info", "to standard error"),
        ("warning", "look at it"),
    ]


@pytest.mark.parametrize("text", ["line\nbreak", "\x1b[2J", "password=hunter2", 'quote " and \\', "Zürich \ud800"])
def test_any_text_is_one_line_without_secrets(text: str) -> None:
    stream = StringIO()
    LogLines(stream, "check").write("info", text, {"rows": [[text]], "n": 1})
    (found,) = lines(stream.getvalue())
    assert "hunter2" not in stream.getvalue()
    assert "\x1b" not in found["message"]
    assert stream.getvalue().isascii()
