"""Two structures that touch, in real people: parts of hippocampi kept apart, beside the same parts as one organ.

The manual label maps have an anterior and a posterior part. Age and sex are planted into the front end, so that what they do is
known of both parts. One model learns the parts as structures, another both together as one organ, whose parts get the numbers of
the nearest voxels; both through the command line. Unseen people are moved to ages 20 years away and more, and compared with
themselves there, part by part.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks.commands import medrep
from benchmarks.data import data_folder
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.nifti import LabelMap, read_labels, write_label_map

NAME = "structures"
SEEDS, TRAIN, TEST, AWAY = 2, 40, 12, 20
AGES, ROOM = (30, 75), 4
PARTS = {"anterior": 1, "posterior": 2}
APART, ONE, NOTHING = "structures", "one organ", "nothing"
INPUTS = {APART: "input.structures={anterior: [1], posterior: [2]}", ONE: "input.labels=[1, 2]"}
QUICK = "settings={rounds: 2, modes: 40, points: 600, careful_points: 1000, bootstrap: 0}"


def write_people(folder: Path, seed: int) -> None:
    """Write label maps of some people, with ages and sexes that have nothing to do with them."""
    rng, rows = np.random.default_rng([seed, 97]), []
    files = sorted((data_folder() / "hippocampus" / "labels").glob("hippocampus_*.nii.gz"))
    for number, k in enumerate(rng.permutation(len(files))[: TRAIN + TEST], 1):
        who, labels = f"sub-{number:02d}", read_labels(files[k])
        affine = labels.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ np.full(3, ROOM)
        padded = LabelMap(np.pad(labels.data, ROOM), affine)
        write_label_map(folder / who / "anat" / f"{who}_desc-organ_mask.nii.gz", padded)
        rows.append({"participant_id": who, "age": round(rng.uniform(25, 80), 1), "sex": rng.choice(["F", "M"])})
    pd.DataFrame(rows).to_csv(folder / "participants.tsv", sep="\t", index=False)


def measure(folder: Path, seed: int, *, quick: bool) -> list[dict[str, object]]:
    """Return a row a method, unseen person, age and part."""
    write_people(folder / "people", seed)
    own = ("--kind", "shape", "--effects", "age,sex", "--set", "input.suffix=mask", "--set", "input.desc=organ")
    medrep("simulate", folder / "planted", "--from", folder / "people", *own, "--seed", str(seed))
    people = pd.read_csv(folder / "planted" / "participants.tsv", sep="\t")["participant_id"].tolist()
    for name, wanted in INPUTS.items():
        asked = ["--config", "additive_shape.yaml", "--set", wanted, "--set", "input.align=centre"]
        asked += ["--set", QUICK] if quick else []
        place = folder / name.replace(" ", "_")
        took = medrep("train", folder / "planted", place, *asked, "--participant-label", *people[:TRAIN])
        say(f"{NAME}: seed {seed}, {name} trained in {took:.0f} s")
        for age in AGES:
            move = ("--model", place / "model", "--set", f"age={age}", "--extrapolate", "--participant-label")
            medrep("counterfactual", folder / "planted", folder / f"{place.name}_{age}", *move, *people[TRAIN:])
    return compared(folder, seed)


def compared(folder: Path, seed: int) -> list[dict[str, object]]:
    """Return Dice and the error of the volume of each part, of people as moved and as they are."""
    table = pd.read_csv(folder / "planted" / "participants.tsv", sep="\t").set_index("participant_id")
    rows: list[dict[str, object]] = []
    for who in table.index[TRAIN:]:
        for age in AGES:
            if abs(table.loc[who, "age"] - age) < AWAY:
                continue
            own = f"{who}/anat/{who}_desc"
            true = _labels(folder / "planted" / "derivatives" / "truth" / f"{own}-age{age}_mask.nii.gz")
            found = {NOTHING: _labels(folder / "planted" / f"{own}-organ_mask.nii.gz")}
            for name in INPUTS:
                moved = folder / f"{name.replace(' ', '_')}_{age}" / f"{own}-counterfactual_mask.nii.gz"
                found[name] = _labels(moved)
            for name, labels in found.items():
                both = {part: (labels == number, true == number) for part, number in PARTS.items()}
                for part, (here, there) in {"whole": (labels > 0, true > 0), **both}.items():
                    dice = 2 * np.count_nonzero(here & there) / (here.sum() + there.sum())
                    error = abs(here.sum() / there.sum() - 1)
                    rows.append({"seed": seed, "method": name, "part": part, "dice": dice, "volume_error": error})
    return rows


def _labels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def run(options: Options) -> Report:
    """Measure over seeds (``--quick``: one, with coarse settings); judge."""
    rows = list[dict[str, object]]()
    for seed in options.seeds(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), seed, quick=options.quick)
    table = pd.DataFrame(rows)
    means = table.groupby(["part", "method"], sort=False)[["dice", "volume_error"]].mean()
    lines = []
    for part in PARTS:
        ours, other = means.loc[part, APART], means.loc[part, ONE]
        lines += [
            _line(f"{part}: Dice at least as of one organ", ours["dice"], other["dice"], ours["dice"] >= other["dice"]),
            _line(
                f"{part}: error of the volume at most as of one organ",
                ours["volume_error"],
                other["volume_error"],
                ours["volume_error"] <= other["volume_error"],
            ),
        ]
    moved, still = means.loc["anterior", APART], means.loc["anterior", NOTHING]
    for figure, better in (
        ("dice", moved["dice"] > still["dice"]),
        ("volume_error", moved["volume_error"] < still["volume_error"]),
    ):
        lines.append(
            _line(f"anterior, where the effect is: {figure} better than nothing", moved[figure], still[figure], better)
        )
    title = "Parts of hippocampi at another age: Dice, and error of the volume"
    return Report({NAME: Table(means.reset_index(), ("part", "method", "dice", "volume_error"), title)}, tuple(lines))


def _line(asked: str, ours: float, other: float, passed: bool | np.bool_) -> Line:
    return Line(NAME, asked, f"{ours:.3f} and {other:.3f}", bool(passed))
