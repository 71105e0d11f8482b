"""The core works where no extra is installed, and what needs one says which, in a line."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medrep.cli import ERROR, OK
from medrep.errors import EXTRAS, ExtraError, lacking
from tests.bold_cohorts import bold_path, draw_bold, save, save_atlas
from tests.conftest import ROOT
from tests.small_runs import Runs

HIDDEN = ("openpyxl", "pyspark", "statsmodels", *(module for extra in EXTRAS.values() for module in extra.packages))
CALLED = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "mpl_toolkits": "matplotlib",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_CODE = """
import sys
from medrep.cli import main
sys.exit(max(main(words.split("\\t")) for words in sys.argv[1:]))
"""
Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Return a function that runs commands in one process where modules cannot be imported, nor in what it starts."""

    def ran(modules: tuple[str, ...], *commands: tuple[object, ...]) -> Ran:
        hidden = tmp_path_factory.mktemp("hidden")
        for module in modules:
            (hidden / f"{module}.py").write_text(f"raise ModuleNotFoundError('hidden', name={module!r})\n")
        words = ["\t".join([*map(str, command), "--quiet"]) for command in commands]
        paths = os.pathsep.join([str(hidden), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-c", _CODE, *words],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )

    return ran


def test_the_core_needs_no_extra(runs: Runs, without: Callable[..., Ran], tmp_path: Path) -> None:
    table, scans = runs("table"), runs("scans")
    commands = (
        ("check", table),
        ("train", table, tmp_path / "a"),
        ("export", table, tmp_path / "b", "--model", tmp_path / "a" / "model", "--remove", "site"),
        ("train", scans, tmp_path / "c", "--set", "input.kind=volume"),
        ("export", scans, tmp_path / "d", "--model", tmp_path / "c" / "model", "--remove", "site", "--workers", 2),
    )
    done = without(HIDDEN, *commands)
    assert (done.returncode, done.stderr) == (OK, "")
    assert (tmp_path / "d" / "report.html").is_file()


def test_no_file_imports_what_is_not_installed_with_it() -> None:
    known = {canonical(line) for line in PROJECT["dependencies"]} | {"medrep", *sys.stdlib_module_names}
    extra = {module: name for name, one in EXTRAS.items() for module in one.packages}
    unknown, unguarded = [], []
    for path in sorted((ROOT / "medrep").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        guarded = {
            id(inner)
            for one in ast.walk(tree)
            if isinstance(one, ast.Try) and any("lacking" in ast.unparse(handler) for handler in one.handlers)
            for inner in ast.walk(one)
        }
        for node in ast.walk(tree):
            for module in imported(node):
                place = f"{path.relative_to(ROOT)}: {module}"
                if module in extra:
                    unguarded += [] if id(node) in guarded else [place]
                elif CALLED.get(module, module) not in known:
                    unknown.append(place)
    assert not unknown
    assert not unguarded


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [str(node.module).partition(".")[0]] if not node.level else []
    return [name.name.partition(".")[0] for name in node.names] if isinstance(node, ast.Import) else []


def canonical(line: str) -> str:
    return re.split(r"[<>=]", line)[0].casefold()


@pytest.mark.parametrize("module", ["igl", "skimage", "trimesh"])
def test_organs_name_theirs(module: str, without: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = without((module,), ("simulate", out, "--kind", "shape", "--n", 4))
    assert_named(done, "shapes", "libigl, scikit-image, trimesh")
    assert not out.exists()


def test_a_model_of_organs_names_them_once_and_not_for_everybody(
    runs: Runs, without: Callable[..., Ran], tmp_path: Path
) -> None:
    cohort, model = runs("organs"), ("--model", runs("organs_model") / "model")
    commands = (
        ("train", cohort, tmp_path / "a", "--config", "additive_shape.yaml"),
        ("score", cohort, tmp_path / "b", *model),
        ("export", cohort, tmp_path / "c", *model, "--remove", "age"),
        ("sample", tmp_path / "d", *model, "--n", 1),
    )
    assert_named(without(("igl",), *commands), "shapes", "libigl, scikit-image, trimesh", times=len(commands))
    assert not list(tmp_path.iterdir())


def test_connectivity_names_its_own(without: Callable[..., Ran], tmp_path: Path) -> None:
    people = [f"sub-{k}" for k in range(3)]
    for who in people:
        save(bold_path(tmp_path, who), draw_bold(np.random.default_rng(0)))
    save_atlas(tmp_path / "atlas.nii.gz")
    rows = "".join(f"{who}\t{20 + k}\n" for k, who in enumerate(people))
    (tmp_path / "participants.tsv").write_text("participant_id\tage\n" + rows)
    wanted = "input={kind: connectivity, suffix: bold, desc: preproc, atlas: atlas.nii.gz}"
    command = ("train", tmp_path, tmp_path / "out", "--set", wanted)
    assert_named(without(("nilearn",), command), "connectivity", "nilearn")


def test_ray_names_its_own(runs: Runs, without: Callable[..., Ran], tmp_path: Path) -> None:
    model = runs("scans_model") / "model"
    command = ("score", runs("scans"), tmp_path / "out", "--model", model, "--engine", "ray")
    assert_named(without(("ray",), command), "ray", "Ray")


def assert_named(ran: Ran, extra: str, packages: str, times: int = 1) -> None:
    line = f"needs {packages}; install it with: pip install 'medrep[{extra}]'"
    assert (ran.returncode, ran.stdout) == (ERROR, "")
    assert " ".join(ran.stderr.split()).count(line) == times
    assert "Traceback" not in ran.stderr


def test_what_is_there_and_broken_is_not_called_absent() -> None:
    error = lacking("ray", ImportError("libz.so: cannot open", name="other.part"))
    assert isinstance(error, ExtraError | ImportError)
    assert "of which something cannot be imported (libz.so: cannot open)" in str(error)


def test_what_pip_knows_is_what_messages_name() -> None:
    offered, core = PROJECT["optional-dependencies"], {canonical(line) for line in PROJECT["dependencies"]}
    for name, extra in EXTRAS.items():
        wanted = sorted(package.casefold() for package in extra.packages.values())
        assert sorted(map(canonical, offered[name])) == wanted
        assert not core & set(wanted)
    assert set(offered) == {*EXTRAS, "tables", "spark", "all", "bench", "dev"}
    assert offered["all"] == ["medrep[connectivity,shapes,tables,ray,spark]"]
    assert {"monai", "torch", "nibabel", "scikit-learn", "mlflow"} <= core


def test_the_demo_and_the_readme_get_theirs() -> None:
    plan = (ROOT / "Makefile").read_text("utf-8")
    assert "constraints.txt -e '.[connectivity,shapes]'" in plan
