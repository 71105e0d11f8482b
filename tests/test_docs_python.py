"""docs/python.md runs as it stands, and the example notebook holds what its cells give."""

import base64
import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from medrep.cli import main
from medrep.simulate import simulate_features, simulate_participants
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
NOTEBOOK = ROOT / "docs" / "example.ipynb"
MOST_BYTES = 300_000
NUMBER = re.compile(r"\d+\.\d+")


def test_every_block_of_the_page_is_run() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS)


def test_the_page_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table()
    assert main(["simulate", "my_bids", "--kind", "volume", "--n", "12", "--sites", "2", "--quiet"]) == 0
    names: dict[str, object] = {}
    for _, language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "python.md", "exec"), names)  # noqa: S102
    for _, language, block in BLOCKS:
        for line in block.splitlines() if language == "bash" else ():
            assert main([*shlex.split(line)[1:], "--quiet"]) == 0, line
    assert Path("cleaned_table/features.tsv").is_file()
    assert names["cleaned"].shape == names["features"].shape
    assert set(names["forecast"]) == {"age", "sex", "site"}


def write_table() -> None:
    folder = Path("my_table")
    folder.mkdir()
    participants = simulate_participants(200, seed=0)
    simulate_features(participants, n_features=20).features.to_csv(folder / "features.tsv", sep="\t")
    participants.to_csv(folder / "participants.tsv", sep="\t", index=False)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def cells() -> list[dict[str, object]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def test_the_notebook_runs_to_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict[str, object] = {}
    for cell in cells():
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile("".join(cell["source"]), "example.ipynb", "exec"), names)  # noqa: S102
        shown = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
        assert NUMBER.sub("#", said.getvalue()) == NUMBER.sub("#", shown)
        # Another processor may round the last digit otherwise.
        assert numbers(said.getvalue()) == pytest.approx(numbers(shown), abs=0.02)
    plt.close("all")


def test_the_notebook_holds_its_outputs_and_nothing_of_a_machine() -> None:
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    whole = cells()
    assert [cell["execution_count"] for cell in whole] == list(range(1, len(whole) + 1))
    kinds = [kind for cell in whole for out in cell["outputs"] for kind in out.get("data", {"text": ""})]
    assert "text/html" in kinds
    for out in (out for cell in whole for out in cell["outputs"]):
        assert out["output_type"] in {"stream", "display_data", "execute_result"}, out
        if picture := out.get("data", {}).get("image/png"):
            assert base64.b64decode(picture).startswith(b"\x89PNG")
    pictures = [kind for kind in kinds if kind == "image/png"]
    assert pictures
    assert not re.search(r"/(home|tmp|work|Users|root)/", NOTEBOOK.read_text(encoding="utf-8"))
