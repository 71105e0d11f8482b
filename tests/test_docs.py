"""Every command of the README and the documentation runs, every link leads somewhere, and the pages say what the code does."""

import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import medrep.models.chart.model
import medrep.models.linear.model
import medrep.models.shape.model
import medrep.models.vae.model
from medrep.cli import _COMMANDS
from medrep.models.chart.settings import ChartSettings
from medrep.models.linear.settings import LinearSettings
from medrep.models.shape.settings import ShapeSettings
from medrep.models.vae.roles import Roles
from medrep.models.vae.settings import VaeSettings
from medrep.training.schedule import Schedule
from tests.conftest import ROOT
from tests.documents import DOCS, Block, links, make_cohort, read_blocks, run_line, unmarked_commands

ELSEWHERE = {"batch.md", "troubleshooting.md", "python.md", "own_tables.md", "visits.md"}
"""Pages whose commands need a cluster, or whose own tests run them; links to them may come before they do."""

# In the order in which they are run: later pages use what earlier ones trained.
FIRST = ["getting_started.md", "remove_site.md", "counterfactual.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    (path for path in DOCS.rglob("*.md") if path.name not in ELSEWHERE),
    key=lambda path: (FIRST.index(path.name) if path.name in FIRST else len(FIRST), path.as_posix()),
)
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
PEOPLE = {"features": 200, "volume": 16, "shape": 8, "connectivity": 24, "surface": 24, "points": 40}
SETTINGS = {
    "linear.md": (medrep.models.linear.model, {"": LinearSettings}),
    "conditional_vae.md": (medrep.models.vae.model, {"": VaeSettings, "roles.": Roles, "training.": Schedule}),
    "additive_shape.md": (medrep.models.shape.model, {"": ShapeSettings}),
    "growth_chart.md": (medrep.models.chart.model, {"": ChartSettings}),
}
REFUSED = {4, 5}


def _blocks(kind: str) -> list[Block]:
    blocks = [block for text in (README, *TEXTS.values()) for block in read_blocks(text) if block.mark == "run"]
    names = {kind, "audit"} if kind == "features" else {kind}
    return [block for block in blocks if block.name.split()[0] in names]


@pytest.mark.shortened
@pytest.mark.parametrize("kind", PEOPLE)
def test_commands_run_in_order(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_cohort(tmp_path, kind, PEOPLE[kind])
    run: set[str] = set()
    for block in _blocks(kind):
        for line in block.commands:
            if line in run:  # two pages may have the same line
                continue
            code = run_line(line)
            assert code in (REFUSED if block.name.endswith(" refused") else {0}), f"{line}: exit code {code}"
            run.add(line)
    if kind == "volume":
        assert len(list(tmp_path.glob("cleaned/sub-*/anat/sub-*_desc-residualized_T1w.nii.gz"))) == PEOPLE[kind]
    _check_formats(tmp_path)


def _check_formats(folder: Path) -> None:
    """What was written is what the page of file formats lists: names of files, and columns of tables."""
    text = TEXTS["file_formats.md"] + TEXTS["shapes.md"]
    named = set(re.findall(r"`([^`\n]+)`", text))
    for path in sorted(folder.glob("*/*")):
        if path.is_file():
            assert path.name in named, path
    for path in sorted({*folder.glob("*/*.tsv"), *folder.glob("*/effects/effects.tsv")}):
        if path.name in {"features.tsv", "participants.tsv", "latents.tsv", "latents_sd.tsv", "deviations.tsv"}:
            continue
        columns = path.read_text(encoding="utf-8").partition("\n")[0].split("\t")
        assert not set(columns) - named, path


def test_every_command_is_run_or_says_why_not() -> None:
    for page, text in TEXTS.items():
        assert not unmarked_commands(text), page
        for block in read_blocks(text):
            assert block.mark == "shown" or block.name.split()[0] in PEOPLE, f"{page}: {block.name}"


def test_every_subcommand_is_documented() -> None:
    text = "".join(TEXTS.values())
    for add in _COMMANDS:
        name = add.__name__.removeprefix("add_")
        assert re.search(rf"\b(medrep )?{name}\b", text), name
        assert name in TEXTS["file_formats.md"], name
        assert f"`{name}`" in TEXTS["index.md"] + TEXTS["getting_started.md"] + TEXTS["remove_site.md"], name


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path.read_text(encoding="utf-8")):
        name, _, place = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            assert there.name in ELSEWHERE, target
        elif place:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert place in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_index_names_every_page() -> None:
    named = {target.partition("#")[0] for target in links(TEXTS["index.md"])}
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"index.md"} <= named


@pytest.mark.parametrize("name", SETTINGS)
def test_model_pages_have_the_sheet_and_every_setting(name: str) -> None:
    module, sections = SETTINGS[name]
    text = TEXTS[f"models/{name}"]
    (sheet,) = re.findall(r"<!-- sheet -->\n(.*?)\n<!-- /sheet -->", text, flags=re.DOTALL)
    assert sheet == inspect.getdoc(module)
    assert "not a causal fact" in sheet.replace("\n", " ")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", text, flags=re.MULTILINE))
    wanted = {
        f"{prefix}{field.name}": _shown(getattr(section(), field.name))
        for prefix, section in sections.items()
        for field in fields(section)
    }
    assert {setting: rows.get(setting) for setting in wanted} == wanted


def _shown(default: object) -> str:
    if is_dataclass(default):
        return "see below"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{list(default)}`" if isinstance(default, tuple) else f"`{default}`"


def test_no_page_names_a_place_of_one_machine() -> None:
    for page, text in TEXTS.items():
        assert str(ROOT) not in text, page
        assert not re.search(r"(^|[\s`(])/(work|tmp|home)/", text), page
