"""What a package says of itself outside the repository."""

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import medrep
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "https://host.example/group/medrep"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what hatch_readme.py defines; hatchling is only where packages are built."""
    known = ModuleType("hatchling.metadata.plugin.interface")
    known.MetadataHookInterface = type("Hook", (), {"__init__": lambda self, root: setattr(self, "root", root)})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, known.__name__, known)
    return runpy.run_path(str(ROOT / "hatch_readme.py"))


def described(hook: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    hook["AddressedReadme"](str(ROOT)).update(metadata)
    return metadata


def test_pictures_and_links_of_the_readme_lead_to_the_release(
    hook: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDREP_REPOSITORY", f"{ADDRESS}/")
    made = described(hook)
    text, tag = made["readme"]["text"], f"v{medrep.__version__}"
    assert text.count("![") == README.count("![") > 0
    assert f"]({ADDRESS}/raw/{tag}/docs/before_after.png)" in text
    assert f"]({ADDRESS}/blob/{tag}/docs/batch.md)" in text
    assert not [target for target in text.split("](")[1:] if not target.startswith("https://")]
    assert set(made["urls"]) == {"Repository", "Documentation", "Changelog", "Issues"}
    assert all(address.startswith(ADDRESS) for address in made["urls"].values())


def test_without_an_address_nothing_leads_nowhere(hook: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDREP_REPOSITORY", raising=False)
    made = described(hook)
    assert "](" not in made["readme"]["text"]
    assert "*(One unseen person a site, before and after site removal" in made["readme"]["text"]
    assert made["urls"] == {}


@pytest.mark.parametrize(
    "address", ["group/medrep", "http://host/a", "https://user:word@host/a", "https://host", "file:///a"]
)
def test_what_is_no_address_is_refused(address: str, hook: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDREP_REPOSITORY", address)
    with pytest.raises(ValueError, match="not like https://HOST/OWNER/NAME"):
        described(hook)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("see [a](docs/a.md#b), [c](https://d/e)", f"see [a]({ADDRESS}/blob/v1/docs/a.md#b), [c](https://d/e)"),
        ("[here](#words)", "[here](#words)"),
        ("[`a.py`](a.py)![p](p.png)", f"[`a.py`]({ADDRESS}/blob/v1/a.py)![p]({ADDRESS}/raw/v1/p.png)"),
    ],
)
def test_targets_are_replaced(before: str, after: str, hook: dict[str, Any]) -> None:
    assert hook["addressed"](before, ADDRESS, "v1") == after


def test_types_pythons_and_the_version_are_declared() -> None:
    project = PROJECT["project"]
    assert (Path(medrep.__file__).parent / "py.typed").is_file()
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(project["classifiers"])
    assert "Typing :: Typed" in project["classifiers"]
    assert "version" in project["dynamic"], "the version stands in medrep/__init__.py, once"
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\n## {medrep.__version__} (" in changes


def test_what_the_images_and_the_readme_of_the_package_need_is_copied() -> None:
    needed = {"hatch_readme.py", "README.md", "LICENSE", "pyproject.toml"}
    for name in ("Dockerfile.cpu", "Dockerfile.gpu"):
        lines = (ROOT / "docker" / name).read_text("utf-8").splitlines()
        assert needed <= {word for line in lines if line.startswith("COPY") for word in line.split()}
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {f"!{name}" for name in needed} <= set(ignored)


def test_the_script_of_installing_says_how() -> None:
    ran = subprocess.run([str(ROOT / ".ci" / "installed")], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.strip()) == (2, "name one or more interpreters")
