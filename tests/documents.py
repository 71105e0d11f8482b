"""Blocks of the documentation that are run, the cohorts they name, and the links between pages."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from medrep.cli import main
from tests.bold_cohorts import save_atlas, write_bold_cohort
from tests.conftest import ROOT
from tests.point_cohorts import write_points_cohort
from tests.shortened import whole
from tests.surface_cohorts import write_surface_cohort

DOCS = ROOT / "docs"
_BLOCK = re.compile(r"<!-- (run|shown): ([^\n]*?) -->\n```(\w+)\n(.*?)```", flags=re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")

CHEAPER = {
    "vae_features.yaml": "settings.training.epochs=3 settings.strength=1",
    "additive_shape.yaml": "input.spacing=[2,2,2] settings.modes=12 settings.rounds=1 settings.points=200"
    " settings.careful_points=300 settings.bootstrap=20",
}
"""Settings with which the same commands take seconds; those that a page names itself win."""


@dataclass(frozen=True)
class Block:
    """A marked block: ``<!-- run: NAME -->`` or ``<!-- shown: WHY -->``, then a fence."""

    mark: str
    name: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("medrep ")]


def read_blocks(text: str) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(text)]


def unmarked_commands(text: str) -> set[str]:
    """Lines that look like a command of medrep and stand in no marked block."""
    marked = {line for block in read_blocks(text) for line in block.commands}
    return set(re.findall(r"^medrep .*$", text, flags=re.MULTILINE)) - marked


def links(text: str) -> list[str]:
    """Targets of relative links."""
    return [target for target in _LINK.findall(text) if not re.match(r"\w+:", target)]


def run_line(line: str) -> int:
    """Run a line as it stands, but with cheaper settings right after a configuration that it names."""
    words = shlex.split(line)[1:]
    for config, settings in () if whole() else CHEAPER.items():
        if words[0] == "train" and config in words:
            place = words.index(config) + 1
            words[place:place] = [word for setting in settings.split() for word in ("--set", setting)]
    return main(words)


def make_cohort(folder: Path, kind: str, people: int) -> None:
    """Generate one of the cohorts that the documentation names, where it looks for it."""
    if kind == "connectivity":
        write_bold_cohort(folder / "my_rest", people=people)
        save_atlas(folder / "atlas.nii.gz")
        return
    if kind == "surface":
        write_surface_cohort(folder / "my_surfaces", people=people)
        return
    if kind == "points":
        write_points_cohort(folder / "my_landmarks", people=people)
        return
    name, sites = {"features": ("my_table", "4"), "volume": ("my_bids", "4"), "shape": ("my_shapes", "1")}[kind]
    words = ["simulate", str(folder / name), "--kind", kind, "--n", str(people), "--sites", sites, "--quiet"]
    assert main(words) == 0
