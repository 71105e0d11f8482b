"""A newcomer's path on real scans: the README's commands, as they stand, on a BIDS folder of one's own."""

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.documents import read_blocks, run_line

pytestmark = pytest.mark.real_data
MOST_COMMANDS = 5


@pytest.fixture
def my_bids(shared_data: Path, tmp_path: Path) -> Path:
    """Ten whole heads of IXI, all from one scanner, as a BIDS folder."""
    table = pd.read_csv(shared_data / "ixi" / "demographics_n10.csv")
    rows = []
    for scan, age, sex in table.itertuples(index=False):
        who = f"sub-{scan.split('-')[0]}"
        place = tmp_path / "my_bids" / who / "anat" / f"{who}_T1w.nii.gz"
        place.parent.mkdir(parents=True)
        shutil.copyfile(shared_data / "ixi" / "t1w" / f"{scan}-T1_ds.nii.gz", place)
        rows.append((who, age, sex))
    people = pd.DataFrame(rows, columns=["participant_id", "age", "sex"])
    people.to_csv(tmp_path / "my_bids" / "participants.tsv", sep="\t", index=False)
    return tmp_path / "my_bids"


PLAIN = "'input={kind: volume, suffix: T1w}'"


def common_grid(readme: str) -> str:
    """Return the README's way with scans that do not lie alike, as each head does in its scanner."""
    (found,) = re.findall(r"`--set ('input=\{kind: volume, suffix: T1w, spacing: .*?\}')`", readme)
    return found


def test_five_commands_lead_from_a_bids_folder_to_a_clean_one(my_bids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(my_bids.parent)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in read_blocks(readme) if block.name == "volume" for line in block.commands]
    (planted,) = [line for line in lines if line.startswith("medrep simulate")]
    path = [line for line in lines if "my_bids" in line and line != planted and "--config" not in line]
    assert [line.split()[1] for line in path] == ["check", "train", "export"]
    # IXI's ten have one scanner: the README's own way to plant sites comes first.
    grid = common_grid(readme)
    commands = [planted, *(line.replace("my_bids", "planted").replace(PLAIN, grid) for line in path)]
    assert len(commands) <= MOST_COMMANDS
    for line in commands:
        assert run_line(f"{line} --quiet") == 0, line
    for source in sorted(Path("planted").glob("sub-*/anat/*_T1w.nii.gz")):
        before = nib.load(source)
        after = nib.load(
            Path("cleaned")
            / source.parent.relative_to("planted")
            / source.name.replace("_T1w", "_desc-residualized_T1w")
        )
        assert np.allclose(before.affine, after.affine)
        assert before.shape == after.shape == (120, 120, 90)
        assert np.isfinite(after.get_fdata()).all()
    people = pd.read_csv("cleaned/participants.tsv", sep="\t")
    assert len(people) == len(list(Path("cleaned").glob("sub-*"))) == 10
    assert "Move a person: sub-IXI012" in Path("cleaned/report.html").read_text(encoding="utf-8")


def test_what_is_missing_is_said_with_what_mends_it(
    my_bids: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(my_bids.parent)
    assert run_line(f"medrep check my_bids --set {PLAIN}") == 1
    said = capsys.readouterr().err
    assert "leave it out with --set covariates.site=null" in said
    assert "set input.spacing" in said
    grid = common_grid((ROOT / "README.md").read_text(encoding="utf-8"))
    assert run_line(f"medrep check my_bids --set {grid} --set covariates.site=null --quiet") == 0
