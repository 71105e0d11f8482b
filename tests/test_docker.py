"""As far as the image can be checked without an engine: what it copies exists, and it starts the command line."""

import re

from tests.conftest import ROOT

TEXT = (ROOT / "docker" / "Dockerfile.cpu").read_text(encoding="utf-8")


def test_everything_that_is_copied_exists() -> None:
    copied = [name for line in re.findall(r"^COPY (.+)$", TEXT, flags=re.MULTILINE) for name in line.split()[:-1]]
    assert "constraints.txt" in copied
    for name in copied:
        assert (ROOT / name).exists(), name


def test_it_installs_the_pinned_set_and_does_not_run_as_root() -> None:
    assert "-c constraints.txt ." in TEXT
    assert TEXT.index("USER medrep") < TEXT.index('ENTRYPOINT ["medrep"]')
