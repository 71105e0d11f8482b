"""--overwrite replaces folders that medrep wrote, and nothing else, by every command."""

import os
from pathlib import Path

import pytest

from medrep._files import STATE
from medrep.cli import ERROR, OK, main


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--quiet"])


def commands(table: Path, model: Path) -> dict[str, tuple[object, ...]]:
    """Return every command with an OUT, up to OUT and after it."""
    return {
        "simulate": (("simulate",), ("--n", 20)),
        "plant": (("simulate",), ("--from", table, "--effects", "site")),
        "train": (("train", table), ("--tracking", "none")),
        "audit": (("audit", table), ("--model", model)),
        "score": (("score", table), ("--model", model)),
        "export": (("export", table), ("--model", model, "--remove", "site")),
        "counterfactual": (("counterfactual", table), ("--model", model, "--set", "age=50")),
        "demo": (("demo",), ()),
    }


NAMES = ("simulate", "plant", "train", "audit", "score", "export", "counterfactual", "demo")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    folder = tmp_path / "precious"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (folder / "thesis.tex").write_text("years")
    return folder


def everything(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("link", [False, True])
def test_what_medrep_did_not_write_stays(
    name: str,
    link: bool,
    precious: Path,
    tmp_path: Path,
    table_cohort: Path,
    table_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, out = everything(precious), precious
    if link:  # neither a link to such a folder, nor a link that poses as the mark, makes it medrep's
        ours = tmp_path / "ours"
        assert run("simulate", ours, "--n", 20) == OK
        (precious / STATE).symlink_to(ours / STATE)
        out = tmp_path / "link"
        out.symlink_to(precious)
    head, tail = commands(table_cohort, table_model)[name]
    assert run(*head, out, *tail, "--overwrite") == ERROR
    said = capsys.readouterr().err
    assert "holds files that medrep did not write (.git" in said
    assert "thesis.tex" in said
    assert "Traceback" not in said
    assert {key: text for key, text in everything(precious).items() if not key.startswith(STATE)} == before


def test_what_medrep_wrote_is_replaced(table_cohort: Path, table_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("simulate", "train", "score", "export", "train", "export"):
        head, tail = commands(table_cohort, table_model)[name]
        if out.exists():
            assert run(*head, out, *tail) == ERROR, name
        assert run(*head, out, *tail, "--overwrite") == OK, name


def test_everything_that_is_written_can_be_read_by_those_whom_the_umask_lets(
    table_cohort: Path, table_model: Path, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        for name in ("train", "score"):
            head, tail = commands(table_cohort, table_model)[name]
            assert run(*head, tmp_path / name, *tail) == OK
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


def test_a_model_that_may_not_be_read_is_not_called_damaged(
    table_cohort: Path,
    table_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("model.safetensors"))
    assert run("score", table_cohort, tmp_path / "out", "--model", table_model) == ERROR
    said = capsys.readouterr().err
    assert "model.safetensors: you may not read it" in said
    assert "damaged" not in said
