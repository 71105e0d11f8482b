"""What pages say and hold, without a browser: texts escaped, figures as measured, the same bytes from the files alone."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import main
from medrep.report.data_store import FOLDER, read_report_data
from medrep.report.html import ChartRow, Spread, curve, facts, histograms, intervals, table
from tests.small_runs import Runs, run

MOST_BYTES = 15_000_000
PAGES = ("table_model", "table_clean", "table_audit", "scans_model", "scans_clean", "organs_model", "organs_moved")
WANTED = {
    "table_model": (
        "Share of variance",
        "Which covariates tell which",
        "spline_degrees: 4",
        "Limitations",
        "Move a person",
        "How to cite",
    ),
    "table_clean": ("Before and after", "site to (pooled)", "Latents", "Model sheet", "Not measured here"),
    "table_audit": ("What probes read", "insufficient", "Counterfactuals", "By group: reconstruction error", "checked"),
    "scans_model": ("What each covariate does", "Cohort of training", "mean anatomy"),
    "scans_clean": ("three slices before, after", "colours end at", "Move a person: sub-0001"),
    "organs_model": ("Mean outward motion of the surface", "effects on the organ", "mesh"),
    "organs_moved": ("age to 55", "Move a person: sub-0001"),
}


class Tags(HTMLParser):
    """Counts tags that are open, and keeps what was fetched from elsewhere."""

    EMPTY = frozenset({"meta", "img", "line", "rect", "circle", "polyline", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elsewhere: list[str] = []
        self.without_alt = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("src", "href"):
            if not (given.get(name) or "#").startswith(("#", "data:")):
                self.elsewhere.append(str(given[name]))
        if tag == "img" and not given.get("alt"):
            self.without_alt += 1
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_was_done_and_needs_nothing_else(runs: Runs, name: str) -> None:
    page = (runs(name) / "report.html").read_text(encoding="utf-8")
    for text in WANTED[name]:
        assert text.lower() in page.lower(), text
    tags = Tags()
    tags.feed(page)
    assert (tags.open, tags.elsewhere, tags.without_alt) == ([], [], 0)
    assert "default-src 'none'" in page
    assert len(page.encode()) < MOST_BYTES


@pytest.mark.parametrize("name", PAGES)
def test_the_files_alone_give_the_same_page(runs: Runs, name: str, tmp_path: Path) -> None:
    copy = shutil.copytree(runs(name), tmp_path / "copied")
    (copy / "report.html").unlink()
    assert run("report", copy) == 0
    assert (copy / "report.html").read_bytes() == (runs(name) / "report.html").read_bytes()


def test_the_slider_holds_what_the_model_says(runs: Runs) -> None:
    from medrep.cohort.loaders import fill_matrix
    from medrep.workflows.cohorts import load_trained

    exhibit = read_report_data(runs("scans_model"), "person")
    assert exhibit is not None
    axes = exhibit.content["axes"]
    shape, counts = exhibit.content["coarse"], [len(axis["values"]) for axis in axes]
    changes = exhibit.arrays["changes"].reshape(*counts, *shape) * exhibit.content["step"]
    own = tuple(axis["own"] for axis in axes)
    assert not changes[own].any(), "as the person is, nothing changes"
    saved = load_trained(runs("scans_model") / "model")
    model, wanted = saved.model, saved.input
    people = pd.read_csv(runs("scans") / "participants.tsv", sep="\t").set_index("participant_id", drop=False)
    frame = people.loc[["sub-0001"], list(model.schema.names)]
    image = runs("scans") / "sub-0001" / "anat" / "sub-0001_T1w.nii.gz"
    files = pd.Series([image], index=["sub-0001"])
    row = fill_matrix(files, wanted.section, lambda n, v: np.empty((n, v), np.float32), lambda _: None).rows
    place = (axes[0]["values"].index(axes[0]["values"][-1]), *own[1:])
    expected = model.remove(model.dataset(row, frame), {axes[0]["name"]: axes[0]["values"][-1]}) - row
    assert axes[0]["name"] == "age"
    assert axes[0]["high"] < axes[0]["values"][-1]
    # Coarser and in whole steps: the means agree, and nothing is further off than smoothing and rounding make it.
    assert changes[place].mean() == pytest.approx(expected.mean(), abs=exhibit.content["step"])
    assert np.abs(changes[place]).max() <= np.abs(expected).max() + exhibit.content["step"]


def test_a_mesh_moves_as_the_counterfactual_does(runs: Runs) -> None:
    exhibit = read_report_data(runs("organs_model"), "person")
    assert exhibit is not None
    axes, step = exhibit.content["axes"], exhibit.content["step"]
    counts = [len(axis["values"]) for axis in axes]
    moves = exhibit.arrays["changes"].reshape(*counts, -1, 3) * step
    own = tuple(axis["own"] for axis in axes)
    assert np.abs(moves[own]).max() <= 1e-3
    base, faces = exhibit.arrays["base"].astype(float), exhibit.arrays["faces"]

    def volume(points: np.ndarray) -> float:
        a, b, c = (points[faces[:, k]] for k in range(3))
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)

    age = next(k for k, axis in enumerate(axes) if axis["name"] == "age")
    inside = [k for k, value in enumerate(axes[age]["values"]) if axes[age]["low"] <= value <= axes[age]["high"]]
    young, old = ((*own[:age], inside[end], *own[age + 1 :]) for end in (0, -1))
    assert volume(base + moves[young]) > volume(base + moves[old]) > 0, "the planted organ shrinks with age"


def test_nobody_is_shown_where_nobody_may_be(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = runs("scans_model") / "model"
    assert (
        run("export", runs("scans"), out, "--model", model, "--remove", "site", "--show", "nobody", "--workers", 1) == 0
    )
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "sub-" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)
    assert "data:image" not in page
    assert not (out / FOLDER / "person.json").exists()


def test_whom_the_report_shows_is_chosen_or_refused_by_name(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who = pd.read_csv(runs("table") / "participants.tsv", sep="\t")["participant_id"][5]
    assert run("train", runs("table"), tmp_path / "a", "--show", who.removeprefix("sub-")) == 0
    assert f"Move a person: {who}" in (tmp_path / "a" / "report.html").read_text()
    assert run("train", runs("table"), tmp_path / "b", "--show", "ghost") == 1
    assert "--show ghost: not among these people (sub-0001, " in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_parts_that_are_merged_have_the_report_of_an_undivided_run(runs: Runs, tmp_path: Path) -> None:
    for part in (0, 1):
        asked = ("--model", runs("table_model") / "model", "--remove", "site", "--num-parts", 2, "--part-id", part)
        assert run("export", runs("table"), tmp_path / "out", *asked) == 0
        assert not (tmp_path / "out" / "report.html").exists()
    assert run("merge", tmp_path / "out") == 0
    assert (tmp_path / "out" / "report.html").read_bytes() == (runs("table_clean") / "report.html").read_bytes()


def test_runs_stand_side_by_side(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "both.html"
    assert run("report", runs("table_audit"), runs("straight_audit"), "--to", page) == 0
    said = page.read_text(encoding="utf-8")
    for text in ("table_audit", "straight_audit", "All were made on the same people", "leakage excess"):
        assert text in said
    assert run("report", runs("table_audit"), runs("straight_audit"), "--to", page) == 1
    assert "is there already" in capsys.readouterr().err
    assert run("report", runs("table_model"), runs("straight_model"), "--to", page, "--overwrite") == 0
    assert "settings.spline_degrees" in page.read_text(encoding="utf-8")
    assert run("report", runs("scans_clean"), runs("organs_moved"), "--to", page, "--overwrite") == 0
    assert run("report", runs("table_model"), runs("table_audit"), "--to", page, "--overwrite") == 1
    error = capsys.readouterr().err
    assert "runs of different kinds (2)" in error
    assert "table_model: train" in error
    assert run("report", runs("table_model"), runs("table_model"), "--to", page, "--overwrite") == 1
    assert "given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda out: (out / FOLDER / "about.json").write_text("{"), "about.json: damaged"),
        (lambda out: (out / FOLDER / "person.safetensors").write_bytes(b"no"), "person.json: damaged"),
        (lambda out: (out / "history.tsv").unlink(), "its files cannot be read"),
        (lambda out: (out / "config.yaml").write_text("a: [", encoding="utf-8"), "its files cannot be read"),
        (lambda out: shutil.rmtree(out / FOLDER), "nothing to report on"),
    ],
)
def test_damaged_runs_are_refused_in_one_line(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object, said: str
) -> None:
    copy = shutil.copytree(runs("table_model"), tmp_path / "copied")
    damage(copy)
    assert run("report", copy) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_one_run_has_no_other_page(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs("table_model")), "--to", str(tmp_path / "x.html")]) == 1
    assert "one run's page is its report.html" in capsys.readouterr().err


def test_what_a_cohort_holds_never_becomes_markup(runs: Runs, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>&\"'"
    cohort = shutil.copytree(runs("table"), tmp_path / "c")
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")
    people["site"] = people["site"].replace("S1", bad.replace('"', ""))
    people.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    assert run("train", cohort, tmp_path / "m") == 0
    page = (tmp_path / "m" / "report.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert bad not in table(pd.DataFrame({bad: [bad]}), bad) + facts({bad: bad}) + intervals([ChartRow(bad, 1.0)], bad)


def test_marks_lie_where_figures_say() -> None:
    chart = intervals([ChartRow("a", 1.0, 0.5, 1.5), ChartRow("b", 3.0), ChartRow("c", float("nan"))], "x", base=0.0)
    places = [float(x) for x in re.findall(r'class="dot" cx="([\d.]+)%"', chart)]
    zero = float(re.search(r'class="zero" x1="([\d.]+)%"', chart).group(1))
    assert places[1] - zero == pytest.approx(3 * (places[0] - zero), abs=0.01)
    assert "insufficient" in chart
    assert "1 (0.5 to 1.5)" in chart
    counts = histograms([Spread("g", [1, 0, 3], "n 4")], 0.0, 3.0, "h")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"/>', counts)]
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.01)
    assert "loss: 4 at 0, 1 at 3" in curve([(0.0, 4.0), (3.0, 1.0)], "loss")


def test_notes_and_counts_of_the_cohort_are_kept(runs: Runs) -> None:
    content = json.loads((runs("table_model") / FOLDER / "cohort.json").read_text())
    trained = (pd.read_csv(runs("table_model") / "people.tsv", sep="\t")["part"] == "train").sum()
    assert content["people"] == trained
    assert sum(n for _, n in content["levels"][-1]["levels"]) == trained
    (age,) = content["numbers"]
    assert sum(sum(group["counts"]) for group in age["groups"]) == trained


def test_missing_cells_and_people_without_labels_have_reports_too(runs: Runs, tmp_path: Path) -> None:
    cohort = shutil.copytree(runs("table"), tmp_path / "c")
    features = pd.read_csv(cohort / "features.tsv", sep="\t")
    features.iloc[3, 1:4] = np.nan
    features.to_csv(cohort / "features.tsv", sep="\t", index=False, na_rep="n/a")
    assert run("train", cohort, tmp_path / "m", "--set", "input.missing=keep") == 0
    assert run("export", cohort, tmp_path / "x", "--model", tmp_path / "m" / "model", "--remove", "site") == 0
    assert "Before and after" in (tmp_path / "x" / "report.html").read_text(encoding="utf-8")
    settings = ("--config", "linear_latents.yaml")
    assert run("train", runs("table"), tmp_path / "v", *settings) == 0
    asked = ("--model", tmp_path / "v" / "model", "--remove", "site", "--label-free")
    assert run("export", runs("table"), tmp_path / "blind", *asked) == 0
    page = (tmp_path / "blind" / "report.html").read_text(encoding="utf-8")
    assert "Certificate" in page
    assert "Move a person" not in page


def test_a_page_of_many_runs_stays_small(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medrep.report.build._MOST_CHARACTERS", 10_000)
    page = tmp_path / "both.html"
    assert run("report", runs("table_model"), runs("straight_model"), "--to", page) == 0
    assert "Left out to keep this file small" in page.read_text(encoding="utf-8")
