"""As far as the images can be checked without an engine: what they copy exists, and they start the command line."""

import re

import pytest

from tests.conftest import ROOT

FILES = ("Dockerfile.cpu", "Dockerfile.gpu")


@pytest.mark.parametrize("name", FILES)
def test_everything_that_is_copied_exists(name: str) -> None:
    text = (ROOT / "docker" / name).read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.+)$", text, flags=re.MULTILINE) for name in line.split()[:-1]]
    assert "constraints.txt" in copied
    for one in copied:
        assert (ROOT / one).exists(), one


@pytest.mark.parametrize("name", FILES)
def test_it_installs_the_pinned_set_and_does_not_run_as_root(name: str) -> None:
    text = (ROOT / "docker" / name).read_text(encoding="utf-8")
    assert '-c constraints.txt ".${EXTRAS}"' in text
    assert text.index("USER medrep") < text.index('ENTRYPOINT ["medrep"]')


def test_the_torch_of_the_gpu_image_is_the_pinned_one() -> None:
    base = re.search(r"^FROM \S+:(\S+?)-cuda", (ROOT / "docker" / "Dockerfile.gpu").read_text(), flags=re.MULTILINE)
    assert base is not None
    assert f"torch=={base[1]}" in (ROOT / "constraints.txt").read_text().splitlines()
