"""What a terminal, a log and a script are given; what commands give each of them is tested in tests/test_cli.py."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from medrep.cli import console as spoken
from medrep.cli.console import LOG_EVERY_S, Console, Pulse
from tests.terminal import CTRL_C, SEQUENCE, on_terminal, screen

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-9]|9[0-7]|38;[0-9;]+)m")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
WORK = """
import time
from medrep.cli.console import Console
console = Console()
console.say("begun [bold]not markup[/bold]")
with console.track("score", 40) as advance:
    for _ in range(40):
        time.sleep(0.04)
        advance(1)
    console.say("between")
console.table("Scores", ("score", "median"), [("reconstruction_error", "0.81"), ("Zürich", "1")])
console.summary("scored", "38 delivered, 2 failed", {"scores": "/a/path/that/is/longer/than/forty/columns/scores.tsv"})
console.finish(0)
"""
ENDLESS = """
import sys, time, types
from medrep.cli import main
def endless(out, console):
    with console.track("merge", 1000) as advance:
        while True:
            time.sleep(0.02)
            advance(1)
sys.modules["medrep.workflows.transform"] = merge = types.ModuleType("merge")  # the real one takes seconds to import
merge.merge = endless
raise SystemExit(main(["merge", "out"]))
"""


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_a_terminal_shows_how_fast_and_how_long(columns: int) -> None:
    code, sent = on_terminal(["-c", WORK], columns=columns)
    assert code == 0
    assert re.search(r"\d+/40, [\d.]+( people)?/s, \d:\d\d:\d\d left", sent)
    assert max(len(SEQUENCE.sub("", line)) for line in re.split(r"\x1b\[2K|\r\n", sent) if "/s," in line) < columns
    left = screen(sent, columns)
    assert max(map(len, left)) <= columns
    assert "begun [bold]not markup[/bold]" in left
    assert "between" in left
    assert not [line for line in left if "/s," in line], "the bar is gone when the work is done"
    assert "Summary" in left
    for text in ("38 delivered, 2 failed", "scores.tsv"):
        assert text in "".join(re.sub(r"[^\w./, ]|  +", "", line) for line in left)


def test_no_more_is_drawn_than_the_eye_sees() -> None:
    busy = "with Console().track('fit', 10**5) as advance:\n    for _ in range(10**5):\n        advance(1)\n"
    _, sent = on_terminal(["-c", f"from medrep.cli.console import Console\n{busy}"])
    assert sent.count("/100000") < 60


def test_a_terminal_of_few_letters_and_one_without_colours() -> None:
    code, sent = on_terminal(["-c", WORK], columns=40, environment={"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"})
    assert code == 0
    assert sent.isascii()
    assert r"Z\xfcrich" in sent
    assert not COLOUR.search(sent)
    _, colourful = on_terminal(["-c", WORK])
    assert COLOUR.search(colourful)


def test_a_dumb_terminal_gets_plain_progress() -> None:
    code, sent = on_terminal(["-c", WORK], environment={"TERM": "dumb"})
    assert code == 0
    assert "\x1b" not in sent


@pytest.mark.parametrize("columns", [100, 40])
def test_ctrl_c_leaves_a_clean_line(columns: int) -> None:
    code, sent = on_terminal(["-c", ENDLESS], columns=columns, press=CTRL_C, after=b"/s,")
    assert code == 130
    said = "medrep merge: interrupted; nothing half-written is left"
    folded = [said[start : start + columns].rstrip() for start in range(0, len(said), columns)]
    assert [line for line in screen(sent, columns) if line] == folded
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l"), "the cursor is back"


def test_a_log_has_plain_lines_whatever_the_environment_says() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from medrep.cli import console\nconsole.LOG_EVERY_S = 0.5\n{WORK}"],
        capture_output=True,
        text=True,
        check=True,
        env={"FORCE_COLOR": "1", "PATH": "", "PYTHONPATH": str(Path(spoken.__file__).parents[1])},
    )
    assert not CONTROL.search(done.stdout + done.stderr)
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("score: ")] == ["begun [bold]not markup[/bold]", "between"]
    assert len(lines) >= 4
    assert all(re.fullmatch(r"score: \d+/40, [\d.]+ people/s, 0:00:0\d left", line) for line in lines[1:-1])
    assert done.stdout == (
        "Scores\n"
        "  score                 median\n"
        "  reconstruction_error    0.81\n"
        "  Zürich                     1\n"
        "Summary\n"
        "  done    scored\n"
        "  people  38 delivered, 2 failed\n"
        "  scores  /a/path/that/is/longer/than/forty/columns/scores.tsv\n"
    )


def test_log_lines_are_ten_seconds_apart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("medrep.cli.console.time.monotonic", lambda: now[0])
    with Console().track("score", 300) as advance:
        for _ in range(30):
            now[0] += 1
            advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "score: 100/300, 10 people/s, 0:00:20 left",
        "score: 200/300, 10 people/s, 0:00:10 left",
        "score: 300/300, 10 people/s, 0:00:00 left",
    ]


def test_quiet_says_nothing_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("a")
    console.warn("b")
    console.notes(["c"])
    console.table("d", ("e",), [("f",)])
    console.summary("g", "h", {})
    console.finish(0)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    console.fail("train", "no such folder", 1)
    assert capsys.readouterr().err == "medrep train: no such folder\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_script_gets_one_document(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=quiet, json=True)
    with console.holding_output():
        sys.stdout.write("a library's own words\n")
        console.warn("Zürich has 2 people")
        console.notes([f"note {number}" for number in range(12)])
        console.table("t", ("a", "b"), [("c", "d")])
    console.summary("checked", "3", {})
    figures = [{"n": np.int64(3), "estimate": np.float64("nan"), "ci_low": -np.inf, "group": "site", "q": 0.5}]
    console.result(figures=figures, paths={"table": Path("a") / "b"}, none=None, shown=(True, np.bool_(False)))
    console.finish(3)
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert json.loads(said.out, parse_constant=pytest.fail) == {
        "figures": [{"n": 3, "estimate": None, "ci_low": None, "group": "site", "q": 0.5}],
        "paths": {"table": str(Path("a") / "b")},
        "none": None,
        "shown": [True, False],
        "warnings": ["Zürich has 2 people"],
        "notes": [f"note {number}" for number in range(12)],
        "exit_code": 3,
    }
    assert ("Summary" in said.err) == (not quiet)
    assert "a library's own words" in said.err


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def beating() -> tuple[Clock, Pulse, list[str]]:
    clock, said = Clock(), list[str]()

    def say(line: str) -> None:
        said.append(line)
        pulse.spoke()

    pulse = Pulse(say, clock)
    return clock, pulse, said


def test_a_long_step_is_said_to_go_on() -> None:
    clock, pulse, said = beating()
    pulse.enter("fit the scanners")
    waited = []
    for _ in range(4):
        waited.append(pulse.beat())
        clock.now += waited[-1]
    assert waited == [LOG_EVERY_S] * 4
    assert said == [f"fit the scanners ... {k * LOG_EVERY_S:.0f} s" for k in (1, 2, 3)]


def test_nothing_is_said_where_something_was_said_just_now() -> None:
    clock, pulse, said = beating()
    pulse.enter("fit")
    for _ in range(20):
        clock.now += 0.7 * LOG_EVERY_S
        assert 0 < pulse.beat() <= LOG_EVERY_S
        pulse.spoke()
    assert not said


def test_another_step_counts_from_its_own_begin() -> None:
    clock, pulse, said = beating()
    pulse.enter("fit")
    clock.now += 0.9 * LOG_EVERY_S
    pulse.enter("write")
    clock.now += 0.9 * LOG_EVERY_S
    pulse.beat()
    assert said == [f"write ... {0.9 * LOG_EVERY_S:.0f} s"]


def test_a_console_that_is_alive_says_what_it_is_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spoken, "LOG_EVERY_S", 0.01)
    console, quiet = Console(), Console(quiet=True)
    for one in (console, quiet):
        with one.alive("read the cohort"), one.track("fit", 3):
            heard = ""
            while one is console and heard.count("fit ... 0 s") < 2:
                heard += capsys.readouterr().err
    assert "pulse" not in {thread.name for thread in threading.enumerate()}
    assert not capsys.readouterr().err.replace("fit ... 0 s\n", "")


def test_a_console_that_fails_is_no_longer_alive() -> None:
    with pytest.raises(ValueError, match="broken"), Console(quiet=True).alive("fit"):
        raise ValueError("broken")
    assert "pulse" not in {thread.name for thread in threading.enumerate()}


STEERING = ("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\x08", "\u202e", "\x7f")


@pytest.mark.parametrize("text", STEERING)
def test_names_cannot_steer_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say(f"site {text}A")
    console.warn(f"site {text}A")
    console.notes([f"site {text}A"])
    with console.track(f"fit {text}", 1) as advance:
        advance(1)
    console.table(f"Levels {text}", ("level", text), [(f"{text}A", "a\nb")])
    console.summary("done", f"{text}", {"model": f"{text}A"})
    console.finish(0)
    console.fail("check", f"site {text}A", 1)
    shown = "".join(capsys.readouterr())
    assert text[0] not in shown
    assert repr(text[0])[1:-1] in shown
    assert r"a\nb" in shown


def test_a_terminal_is_not_steered_either() -> None:
    script = (
        "from medrep.cli.console import Console\nconsole = Console()\nconsole.say('site \\x1b[2Jx')\n"
        "with console.track('fit \\x1b[2Jx', 9) as advance:\n    advance(9)\nconsole.table('t', ('a',), [('\\x1b[2Jx',)])\n"
    )
    code, sent = on_terminal(["-c", script])
    assert code == 0
    assert "\x1b[2J" not in sent
    assert r"\x1b[2Jx" in sent
