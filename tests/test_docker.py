"""As far as the images can be checked without an engine: what they copy exists, and they start the command line."""

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

FILES = ("Dockerfile.cpu", "Dockerfile.gpu")
ALL = (*FILES, "Dockerfile.server")
INDEX = "https://wheels.example/cpu"


def read(name: str) -> str:
    return (ROOT / "docker" / name).read_text(encoding="utf-8")


def copied(name: str) -> list[str]:
    lines = re.findall(r"^COPY (.+)$", read(name), flags=re.MULTILINE)
    return [one for line in lines for one in line.split()[:-1]]


@pytest.mark.parametrize("name", [*ALL, "compose.yaml"])
def test_images_that_others_make_are_pinned_by_digest(name: str) -> None:
    text = read(name)
    if name == "compose.yaml":
        bases = [service["image"] for service in yaml.safe_load(text)["services"].values() if "image" in service]
    else:
        bases = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", base) for base in bases), bases
    assert "docker buildx imagetools inspect" in text


def ignored(path: str, patterns: list[str]) -> bool:
    """As the builder reads .dockerignore: the last pattern that a path, or a folder that it lies in, fits decides."""
    result = False
    names = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for pattern in patterns:
        plain = pattern.removeprefix("!").removeprefix("**/")
        tails = [name.rpartition("/")[2] if "**/" in pattern else name for name in names]
        if any(fnmatch.fnmatch(tail, plain) and ("/" not in tail or "/" in plain or plain != "*") for tail in tails):
            result = not pattern.startswith("!")
    return result


def test_what_is_copied_goes_to_the_builder_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    wanted = {one for name in ALL for one in copied(name)}
    assert not [one for one in wanted if ignored(one, patterns)]
    assert not ignored("medrep/cohort/cohort.py", patterns)
    kept = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    assert kept == wanted, "the list holds what is copied"
    private = (".git/config", ".venv/bin/python", "cohort/participants.tsv", "mlflow.db", "tests/conftest.py", ".env")
    assert all(ignored(path, patterns) for path in (*private, "medrep/cohort/__pycache__/cohort.pyc"))


@pytest.mark.parametrize(
    ("index", "code", "given"),
    [
        (INDEX, 0, ["install", "--no-cache-dir", "--no-deps", "--index-url", INDEX, "torch=={}"]),
        ("default", 0, []),
        ("", 2, []),
    ],
)
def test_the_torch_of_the_cpu_image_is_the_pinned_one_of_an_index_that_is_given(
    index: str, code: int, given: list[str], tmp_path: Path
) -> None:
    text = read("Dockerfile.cpu")
    step = re.search(r"^ARG TORCH_INDEX.*\nRUN ((?:.*\\\n)*.*)$", text, flags=re.MULTILINE)
    assert step is not None
    assert step.end() < text.index('".${EXTRAS}"'), "what is installed later finds this torch"
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {tmp_path / 'given'}\n")
    pip.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TORCH_INDEX": index}
    done = subprocess.run(["/bin/sh", "-c", step[1].replace("\\\n", "")], cwd=ROOT, env=environment, check=False)
    assert done.returncode == code
    pinned = re.search(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    noted = tmp_path / "given"
    found = noted.read_text().splitlines() if noted.exists() else []
    assert found == [part.format(pinned[1]) for part in given]


def test_no_address_of_an_index_is_written_down() -> None:
    for name in (*ALL, "compose.yaml"):
        assert not re.search(r"index-url[ =]\"?http|TORCH_INDEX=\"?http|/whl/", read(name)), name


@pytest.mark.parametrize("name", FILES)
def test_everything_that_is_copied_exists(name: str) -> None:
    assert "constraints.txt" in copied(name)
    for one in copied(name):
        assert (ROOT / one).exists(), one


@pytest.mark.parametrize("name", FILES)
def test_it_installs_the_pinned_set_and_does_not_run_as_root(name: str) -> None:
    text = read(name)
    assert '-c constraints.txt ".${EXTRAS}"' in text
    assert text.index("USER medrep") < text.index('ENTRYPOINT ["medrep"]')


def test_the_torch_of_the_gpu_image_is_the_pinned_one() -> None:
    base = re.search(r"^FROM \S+:(\S+?)-cuda", read("Dockerfile.gpu"), flags=re.MULTILINE)
    assert base is not None
    assert f"torch=={base[1]}" in (ROOT / "constraints.txt").read_text().splitlines()
