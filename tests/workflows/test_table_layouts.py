"""What people have, of every layout: one command trains, one cleans, with the result of the same people in a tidy folder."""

import csv
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from medrep.cli import main
from tests.documents import DOCS, read_blocks, run_line, unmarked_commands

PEOPLE = 36
FEATURES = ("lh_bankssts_thickness", "rh_insula_thickness", "Left-Caudate", "25010")
_RNG = np.random.default_rng(5)
SITE = np.array(["A", "B", "C"])[np.arange(PEOPLE) % 3]
AGE = _RNG.uniform(20, 80, PEOPLE).round(1)
SEX = np.array(["F", "M"])[np.arange(PEOPLE) // 3 % 2]
VALUES = (_RNG.normal(size=(PEOPLE, 4)) + (SITE == "B")[:, None] + 0.02 * AGE[:, None] + 3).round(4)
IDS = [f"sub-{n:02d}" for n in range(PEOPLE)]
COVARIATES = pd.DataFrame({"age": AGE, "sex": SEX, "site": SITE})

Layout = Callable[[Path], tuple[list[object], list[object]]]


def covariates(ids: Sequence[str] = IDS, name: str = "participant_id") -> pd.DataFrame:
    """Return the covariates in another order than the features."""
    table = COVARIATES.copy()
    table.insert(0, name, list(ids))
    return table.iloc[::-1]


def features(ids: Sequence[str] = IDS, name: str = "participant_id") -> pd.DataFrame:
    table = pd.DataFrame(VALUES, columns=list(FEATURES))
    table.insert(0, name, list(ids))
    return table


def run(*arguments: object) -> int:
    return main([str(one) for one in arguments])


def cleaned(folder: Path, source: Sequence[object], told: Sequence[object] = ()) -> Path:
    """Train on people, and give them back without site."""
    assert run("train", source[0], folder / "trained", *source[1:], *told, "--tracking", "none", "--quiet") == 0
    out = folder / "out"
    assert (
        run("export", source[0], out, *source[1:], "--model", folder / "trained/model", "--remove", "site", "--quiet")
        == 0
    )
    return out


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The same people, cleaned as a tidy folder."""
    folder = tmp_path_factory.mktemp("tidy")
    features().to_csv(folder / "features.tsv", sep="\t", index=False)
    covariates().to_csv(folder / "participants.tsv", sep="\t", index=False)
    table = pd.read_csv(cleaned(folder, [folder]) / "features.tsv", sep="\t", index_col=0)
    return table.loc[IDS].to_numpy()


def csv_beside(folder: Path) -> tuple[list[object], list[object]]:
    features(name="Subject").to_csv(folder / "features.csv", index=False)
    covariates(name="Subject").to_csv(folder / "people.csv", index=False)
    return [folder / "features.csv", "--covariates", folder / "people.csv", "--id", "Subject"], []


def one_csv(folder: Path) -> tuple[list[object], list[object]]:
    features(name="ID").join(COVARIATES).assign(scanned="2020-01-01").to_csv(folder / "one.csv", index=False)
    return [folder / "one.csv"], []


def tabs(folder: Path) -> tuple[list[object], list[object]]:
    features(name="Participant ID").join(COVARIATES).to_csv(folder / "one.txt", sep="\t", index=False)
    return [folder / "one.txt"], []


def decimal_commas(folder: Path) -> tuple[list[object], list[object]]:
    table = features(name="Proband").join(COVARIATES)
    table.to_csv(folder / "tabelle.csv", sep=";", decimal=",", index=False, encoding="cp1252")
    return [folder / "tabelle.csv", "--id", "Proband"], []


def quoted(folder: Path) -> tuple[list[object], list[object]]:
    table = features(name="subject").join(COVARIATES)
    table.to_csv(folder / "quoted.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    return [folder / "quoted.csv"], []


def row_names(folder: Path) -> tuple[list[object], list[object]]:
    """What R's ``write.table`` leaves: blanks, words in quotes, and row names without a name."""
    rows = [[f'"{who}"', *map(str, VALUES[n]), str(AGE[n]), f'"{SEX[n]}"', f'"{SITE[n]}"'] for n, who in enumerate(IDS)]
    header = [f'"{name}"' for name in (*FEATURES, "age", "sex", "site")]
    (folder / "table.dat").write_text("".join(" ".join(row) + "\n" for row in [header, *rows]))
    return [folder / "table.dat"], []


def excel(folder: Path) -> tuple[list[object], list[object]]:
    features(name="Subject").to_excel(folder / "book.xlsx", index=False)
    covariates(name="Subject").to_excel(folder / "people.xlsx", index=False)
    return [folder / "book.xlsx", "--covariates", folder / "people.xlsx"], []


def parquet(folder: Path) -> tuple[list[object], list[object]]:
    features(name="subject_id").join(COVARIATES).to_parquet(folder / "table.parquet")
    return [folder / "table.parquet"], []


def gzipped(folder: Path) -> tuple[list[object], list[object]]:
    features().join(COVARIATES).to_csv(folder / "table.csv.gz", index=False)
    return [folder / "table.csv.gz"], []


def aparcstats2table(folder: Path) -> tuple[list[object], list[object]]:
    """Thickness of both hemispheres, which repeat the size of the head, and volumes."""
    for side, feature in (("lh", 0), ("rh", 1)):
        table = features(name=f"{side}.aparc.thickness").iloc[:, [0, 1 + feature]].assign(eTIV=1.5e6)
        table.to_csv(folder / f"{side}.tsv", sep="\t", index=False)
    features(name="Measure:volume").iloc[:, [0, 3, 4]].to_csv(folder / "aseg.tsv", sep="\t", index=False)
    covariates([one.removeprefix("sub-") for one in IDS]).to_csv(folder / "people.csv", index=False)
    more = ["--also", folder / "rh.tsv", folder / "aseg.tsv", "--covariates", folder / "people.csv", "--drop", "eTIV"]
    return [folder / "lh.tsv", *more], []


def subjects_dir(folder: Path) -> tuple[list[object], list[object]]:
    """FreeSurfer's own folders: regions as ``.stats`` files."""
    for n, who in enumerate(IDS):
        stats = folder / "subjects" / who / "stats"
        stats.mkdir(parents=True)
        heads = "# ColHeaders StructName NumVert SurfArea GrayVol ThickAvg ThickStd MeanCurv GausCurv FoldInd CurvInd\n"
        for side, region, feature in (("lh", "bankssts", 0), ("rh", "insula", 1)):
            line = f"{region} 1000 700 2000 {VALUES[n, feature]} 0.5 0.1 0.02 10 1.2\n"
            measure = "# Measure Cortex, MeanThickness, Mean Thickness, 2.5, mm\n"
            (stats / f"{side}.aparc.stats").write_text(f"# Title\n{measure}{heads}{line}")
        heads = (
            "# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange\n"
        )
        lines = [
            f"{k} {k} 3000 {VALUES[n, 1 + k]} {name} 80 5 60 100 40\n"
            for k, name in ((1, "Left-Caudate"), (2, "25010"))
        ]
        (stats / "aseg.stats").write_text(heads + "".join(lines))
    covariates().to_csv(folder / "people.csv", index=False)
    return [folder / "subjects", "--covariates", folder / "people.csv"], ["--features", *FEATURES]


def cat12(folder: Path) -> tuple[list[object], list[object]]:
    """Regions of CAT12: ids under ``names``."""
    features(name="names").to_csv(folder / "ROI_neuromorphometrics_Vgm.csv", index=False)
    covariates(name="names").to_csv(folder / "people.csv", index=False)
    return [folder / "ROI_neuromorphometrics_Vgm.csv", "--covariates", folder / "people.csv"], []


def uk_biobank(folder: Path) -> tuple[list[object], list[object]]:
    """Fields of the second visit, and ages of the first and the second."""
    eids = [str(1000001 + 7 * n) for n in range(PEOPLE)]
    table = features(eids, "eid").set_axis(["eid", "25001-2.0", "25002-2.0", "25003-2.0", "25004-2.0"], axis=1)
    table.to_csv(folder / "ukb.csv", index=False)
    people = covariates(eids, "eid").rename(columns={"age": "21003-2.0", "sex": "31-0.0", "site": "54-2.0"})
    people.assign(**{"21003-0.0": people["21003-2.0"] - 9, "54-0.0": "X"}).to_csv(folder / "people.csv", index=False)
    columns = [
        f"covariates.{name}.column={column}" for name, column in (("age", "21003"), ("sex", "31-0.0"), ("site", "54"))
    ]
    return [folder / "ukb.csv", "--covariates", folder / "people.csv"], [one for c in columns for one in ("--set", c)]


def enigma(folder: Path) -> tuple[list[object], list[object]]:
    """ENIGMA's two files: SubjID, and covariates as numbers under other names."""
    features(name="SubjID").to_csv(folder / "CorticalMeasuresENIGMA_ThickAvg.csv", index=False)
    people = covariates(name="SubjID").rename(columns={"age": "Age", "sex": "Sex", "site": "Site"})
    people["Sex"] = (people["Sex"] == "F").astype(int) + 1
    people.to_csv(folder / "Covariates.csv", index=False)
    return [folder / "CorticalMeasuresENIGMA_ThickAvg.csv", "--covariates", folder / "Covariates.csv"], []


def visits(folder: Path) -> tuple[list[object], list[object]]:
    """Rows a visit, with ages that differ; one visit is chosen."""
    first = features(name="PTID").join(COVARIATES).assign(VISCODE="bl")
    later = first.assign(VISCODE="m12", age=first["age"] + 1, **{name: first[name] + 9 for name in FEATURES})
    pd.concat([later, first]).to_csv(folder / "adni.csv", index=False)
    return [folder / "adni.csv", "--session-label", "bl"], []


def fractions(folder: Path) -> tuple[list[object], list[object]]:
    """Parts of a whole, which are modelled by log-ratios; one person has none of one."""
    parts = np.exp(VALUES[:, :3])
    parts[4, 2] = 0
    table = pd.DataFrame(parts / parts.sum(axis=1, keepdims=True), columns=["gm", "wm", "csf"])
    table.insert(0, "participant_id", IDS)
    table.assign(thickness=VALUES[:, 3]).join(COVARIATES).to_csv(folder / "fractions.csv", index=False)
    return [folder / "fractions.csv"], ["--set", "input.compositions={tissue: [gm, wm, csf]}"]


LAYOUTS: tuple[Layout, ...] = (
    *(csv_beside, one_csv, tabs, decimal_commas, quoted, row_names, excel, parquet, gzipped),
    *(aparcstats2table, subjects_dir, cat12, uk_biobank, enigma, visits),
)


def values_of(path: Path) -> pd.DataFrame:
    """Return a table as cells of text, in the order of the file."""
    if path.suffix == ".xlsx":
        rows = list(openpyxl.load_workbook(path).active.values)
        return pd.DataFrame(rows[1:], columns=rows[0]).astype(str)
    if path.suffix == ".parquet":
        return pd.read_parquet(path).astype(str)
    if path.suffix == ".dat":
        return pd.read_csv(path, sep=" ", dtype=str).reset_index(names="")
    separator = "\t" if path.suffix in (".tsv", ".txt") else ";" if path.name == "tabelle.csv" else ","
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: one.__name__)
def test_one_command_trains_and_one_cleans(layout: Layout, tmp_path: Path, expected: np.ndarray) -> None:
    source, told = layout(tmp_path)
    out = cleaned(tmp_path, source, told)
    tidy = pd.read_csv(out / "features.tsv", sep="\t", dtype={"participant_id": str})
    assert np.allclose(tidy.iloc[:, -4:].to_numpy(float), expected, rtol=1e-7)
    tables = [Path(str(one)) for one in source if Path(str(one)).is_file() and "people" not in str(one)]
    for path in (one for one in tables if one.name != "Covariates.csv"):
        before, after = values_of(path), values_of(out / "tables" / path.name)
        assert list(after.columns) == list(before.columns)
        if layout is visits:
            before = before[before["VISCODE"] == "bl"].reset_index(drop=True)
        ours = [name for name in before if name in FEATURES or name.startswith("2500")]
        others = [name for name in before if name not in ours]
        pd.testing.assert_frame_equal(after[others], before[others])
        numbers = after[ours].apply(lambda column: column.str.replace(",", ".").astype(float)).to_numpy()
        places = [FEATURES.index(name) if name in FEATURES else int(name[4]) - 1 for name in ours]
        assert np.allclose(numbers, expected[:, places], rtol=1e-7)


def test_a_cleaned_table_is_written_as_it_came(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    table = features(name="ID").join(COVARIATES)
    text = table.to_csv(index=False, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    path.write_bytes(text.encode())
    out = cleaned(tmp_path, [path])
    written = (out / "tables/one.csv").read_bytes().decode()
    assert written.splitlines()[0] == text.splitlines()[0]
    assert written.count("\r\n") == text.count("\r\n")
    assert written.splitlines()[1].startswith('"sub-00","')
    packed = tmp_path / "packed"
    packed.mkdir()
    with gzip.open(packed / "one.csv.gz", "wb") as file:
        file.write(text.encode())
    again = cleaned(packed, [packed / "one.csv.gz"]) / "tables/one.csv.gz"
    assert gzip.decompress(again.read_bytes()).decode() == written


def test_a_table_of_r_keeps_its_quotes(tmp_path: Path) -> None:
    source, _ = row_names(tmp_path)
    before = (tmp_path / "table.dat").read_text().splitlines()
    after = (cleaned(tmp_path, source) / "tables/table.dat").read_text().splitlines()
    assert after[0] == before[0]
    for old, new in zip(before, after, strict=True):
        assert [cell[:1] == '"' for cell in old.split(" ")] == [cell[:1] == '"' for cell in new.split(" ")]


def test_rows_that_were_not_cleaned_are_not_handed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = one_csv(tmp_path)
    assert run("train", *source, tmp_path / "m", "--tracking", "none", "--quiet") == 0
    exported = ("export", *source, tmp_path / "o", "--model", tmp_path / "m/model", "--remove", "site")
    assert run(*exported, "--exclude", "sub-03", "04") == 0
    assert "2 rows are left out" in capsys.readouterr().err
    there = values_of(tmp_path / "o/tables/one.csv")["ID"].tolist()
    assert there == [one for one in IDS if one not in ("sub-03", "sub-04")]


def test_a_cleaned_table_is_known_as_cleaned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = one_csv(tmp_path)
    out = cleaned(tmp_path, source)
    again = (
        "export",
        out / "tables/one.csv",
        tmp_path / "again",
        "--model",
        tmp_path / "trained/model",
        "--remove",
        "site",
    )
    assert run(*again) == 1
    assert "site" in capsys.readouterr().err


def test_a_cleaned_table_that_is_gone_is_written_again(tmp_path: Path) -> None:
    source, _ = one_csv(tmp_path)
    table = cleaned(tmp_path, source) / "tables/one.csv"
    before = table.read_bytes()
    table.unlink()
    again = (
        "export",
        source[0],
        tmp_path / "out",
        "--model",
        tmp_path / "trained/model",
        "--remove",
        "site",
        "--quiet",
    )
    assert run(*again) == 0
    assert table.read_bytes() == before


def test_parts_are_merged_into_the_table(tmp_path: Path, expected: np.ndarray) -> None:
    source, _ = one_csv(tmp_path)
    assert run("train", *source, tmp_path / "m", "--tracking", "none", "--quiet") == 0
    job = ("export", *source, tmp_path / "o", "--model", tmp_path / "m/model", "--remove", "site", "--quiet")
    for part in (0, 1):
        assert run(*job, "--num-parts", 2, "--part-id", part) == 0
    assert run("merge", tmp_path / "o", "--quiet") == 0
    numbers = values_of(tmp_path / "o/tables/one.csv")[list(FEATURES)].astype(float).to_numpy()
    assert np.allclose(numbers, expected, rtol=1e-7)


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run("check", *arguments) == 1
    told = capsys.readouterr()
    return told.out + told.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("who;x\nA;1\nA;2\n", "no column of ids among 'who', 'x'; name it with --id COLUMN"),
        ("id,x\nA,1\nB,2,3\nC\n", "rows that do not have the header's 2 cells"),
        ("id,x,y\nA,1,2\nB,zz,2\nC,3,2\n", "row 2: x 'zz' is no number"),
        ("id,x,x\nA,1,2\n", "columns without a name of their own"),
        ("id,word\nA,b\n", "no column of numbers beside ids and covariates"),
        ("id,x\n", "a header and no people"),
        ("", "the file is empty"),
        ("id,x\na b,1\n", "participant_id that cannot name a file"),
        ("id,x\nA,1\nA,2\n", "rows that stand for the same person or session"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text(text)
    assert said in _refused(capsys, tmp_path / "table.csv")


def test_covariates_that_stand_twice_are_read_from_their_own_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features().join(COVARIATES.assign(age=50)).to_csv(tmp_path / "f.csv", index=False)
    covariates().to_csv(tmp_path / "p.csv", index=False)
    assert run("check", tmp_path / "f.csv", "--covariates", tmp_path / "p.csv") == 0
    told = capsys.readouterr()
    assert "f.csv: age, sex, site stand in a table read before, too" in told.out + told.err
    assert run("check", tmp_path / "f.csv") == 1  # everybody is 50 there


def test_people_without_covariates_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features().to_csv(tmp_path / "f.csv", index=False)
    covariates().iloc[2:].to_csv(tmp_path / "p.csv", index=False)
    told = _refused(capsys, tmp_path / "f.csv", "--covariates", tmp_path / "p.csv")
    assert "people with features and without a row in p.csv (2)" in told
    assert "34" in told
    assert "35" in told
    assert run("check", tmp_path / "f.csv", "--covariates", tmp_path / "p.csv", "--exclude", "34", "35", "--quiet") == 0


def test_what_is_asked_for_and_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features().join(COVARIATES).to_csv(tmp_path / "one.csv", index=False)
    one = tmp_path / "one.csv"
    assert "--id Who: no table has this column" in _refused(capsys, one, "--id", "Who")
    assert "--session-label 2: no such visit" in _refused(capsys, one, "--session-label", "2")
    assert "no column of numbers is called zz_*" in _refused(capsys, one, "--features", "zz_*")
    assert "no such table" in _refused(capsys, one, "--covariates", tmp_path / "none.csv")
    assert "--space: does not go with data of the kind features" in _refused(capsys, one, "--space", "MNI")
    assert "set input.kind=features" in _refused(capsys, one, "--set", "input={kind: volume}")


def test_tables_that_contradict_each_other_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features().join(COVARIATES).to_csv(tmp_path / "one.csv", index=False)
    other = features().assign(**{"Left-Caudate": VALUES[:, 2] + 1})
    other.to_csv(tmp_path / "two.csv", index=False)
    told = _refused(capsys, tmp_path / "one.csv", "--also", tmp_path / "two.csv")
    assert "columns of one name in several tables that say different things: Left-Caudate: 00 has" in told.replace(
        "sub-", ""
    )
    features().iloc[1:, :2].rename(columns={"lh_bankssts_thickness": "more"}).to_csv(
        tmp_path / "three.csv", index=False
    )
    told = _refused(capsys, tmp_path / "one.csv", "--also", tmp_path / "three.csv")
    assert "people without a row in one of the tables: sub-00: not in three.csv" in told


def test_tables_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_csv(tmp_path)
    (tmp_path / "other").mkdir()
    features().iloc[:, :2].to_csv(tmp_path / "other/one.csv", index=False)
    assert "tables of one name" in _refused(capsys, tmp_path / "one.csv", "--also", tmp_path / "other/one.csv")


def test_a_damaged_file_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("book.xlsx", "table.parquet", "table.csv.gz"):
        (tmp_path / name).write_bytes(b"\x00\x01 not at all" * 20)
        assert name in _refused(capsys, tmp_path / name)
        assert "Traceback" not in capsys.readouterr().err


PAGE = (DOCS / "own_tables.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", [one for one in read_blocks(PAGE) if one.mark == "run"], ids=lambda one: one.name)
def test_the_page_of_tables_runs(block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    next(layout for layout in (*LAYOUTS, fractions) if layout.__name__ == block.name)(Path())
    for line in block.commands:
        assert run_line(line) == 0, line
    assert list(Path("cleaned").glob("tables/*")) or block.name == "subjects_dir"


def test_the_page_of_tables_marks_every_command() -> None:
    assert not unmarked_commands(PAGE)
