import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medrep._files import model_folder
from medrep.cli import _parsed, main


def test_help_does_not_import_what_takes_seconds() -> None:
    heavy = "torch monai nibabel sklearn pandas numpy matplotlib rich yaml"
    script = (
        "import sys\nfrom medrep.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]")
    for command in ("demo", "simulate", "check", "train", "export"):
        assert command in result.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["train"], ["export", "a", "b"], ["simulate", "o", "--kind", "x"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: medrep" in capsys.readouterr().err


EXPORT = ["export", "c", "o", "--model", "m"]


@pytest.mark.parametrize(
    ("arguments", "remove", "keep"),
    [
        ([*EXPORT, "--remove", "site", "--keep", "age", "sex"], "site", "age,sex"),
        ([*EXPORT, "--remove", "site", "age", "sex", "--keep", "iq"], "site,age,sex", "iq"),
        (["export", "--remove", "site", "age", "c", "o", "--model", "m"], "site,age", ""),
        (["export", "--remove", "site", "c", "o", "--model", "m"], "site", ""),
        ([*EXPORT, "--keep", "age,", "sex", "--remove=site"], "site", "age,,sex"),
    ],
)
def test_names_may_be_separated_by_blanks(arguments: list[str], remove: str, keep: str) -> None:
    found = _parsed(arguments)
    assert (str(found.cohort), str(found.out), found.remove, found.keep) == ("c", "o", remove, keep)


@pytest.mark.parametrize(
    "extra", [["extra", "--remove", "site"], ["--remove", "site", "--kepe", "age"], ["--remove", "s", "--quiet", "x"]]
)
def test_words_that_belong_to_no_switch_are_wrong_usage(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _parsed([*EXPORT, *extra])
    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_folder_of_a_training_is_read_as_its_model(tmp_path: Path) -> None:
    (tmp_path / "trained" / "model").mkdir(parents=True)
    (tmp_path / "trained" / "model" / "model.json").touch()
    assert model_folder(str(tmp_path / "trained")) == tmp_path / "trained" / "model"
    assert model_folder(str(tmp_path / "trained" / "model")) == tmp_path / "trained" / "model"
    assert model_folder(str(tmp_path)) == tmp_path
    assert str(model_folder("models:/name@champion")) == "models:/name@champion"


def test_no_such_cohort_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no such folder" in said


def test_no_such_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c").mkdir()
    assert main(["export", str(tmp_path / "c"), str(tmp_path / "o"), "--model", str(tmp_path), "--remove", "site"]) == 1
    assert "no model.json" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_work_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medrep", "simulate", str(out), "--kind", "volume", "--n", "5000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.nii.gz")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "interrupted" in said
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_a_cohort_reaches_the_terminal_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    escape = "\x1b[31m"
    rows = "".join(f"sub-{n:02d}\t{20 + n}\t{'AB'[n % 2]}{escape}\n" for n in range(30))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\tsi{escape}te\n{rows}sub-{escape}\t3\tC\n")
    (tmp_path / "features.tsv").write_text(
        "participant_id\ta\x9b\n" + "".join(f"sub-{n:02d}\t{n}\n" for n in range(30))
    )
    table = (tmp_path / "participants.tsv").read_text()
    for text in (table, table.replace(f"sub-{escape}\t3\tC\n", "")):
        (tmp_path / "participants.tsv").write_text(text)
        main(["check", str(tmp_path), "--set", f"covariates.site.column=si{escape}te"])
        main(["check", str(tmp_path), "--config", f"{escape}.yaml"])
        main(["score", str(tmp_path), str(tmp_path / "o"), "--model", f"models:/{escape}@x"])
    shown = "".join(capsys.readouterr())
    assert r"\x1b[31m" in shown
    assert not {"\x1b", "\x9b"} & set(shown)
