"""Hippocampus images with planted sites: how near removal brings people it never saw to their untouched originals.

The images are T1w crops in arbitrary units: some run to 255, some beyond 10 000. Each is divided by its own 99th
percentile of nonzero voxels before sites are planted, since a site's gain cannot be told from a unit that differs
between people. ``medrep simulate --from`` then plants four sites, of which S0 stays untouched and is the reference.
Everybody is measured in their own grid, against the original, with the original's maximum as the peak of PSNR.

Peers and simple baselines get the matrix that medrep fits on (48 x 64 x 48 voxels a person) and their changes go back
to each person's own grid the same way.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter

from benchmarks.commands import medrep, write_table
from benchmarks.data import data_folder
from benchmarks.peers.run import PeerError, run_peer
from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.probe_figures import site_auc
from medrep.cohort.cohort import read_cohort
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.kinds.volume import VolumeKind
from medrep.cohort.loaders import Loaded, load_volumes
from medrep.cohort.nifti import Volume
from medrep.cohort.splits import split_participants
from medrep.cohort.transforms import Placed, VolumePipeline

SEEDS = 4
AGE_SEEDS = 2
REFERENCE = "S0"
SHAPE = (48, 64, 48)
PEERS = ("combatlearn", "neuroharmonize")
ASKED_DB = 7.0
SHOWN = ("psnr_before", "psnr_after", "gain", "worst_gain", "ssim", "site", "seconds")
BLOCK = 4  # voxels along an edge of the blocks whose means the site probe reads
BEYOND_DB = 1.5
SMALLEST_SD = 1e-3  # of the per-voxel baseline, in units of the 99th percentile: where a site does not vary

Matrix = np.ndarray
Corrector = Callable[[Matrix, pd.DataFrame, Matrix, pd.DataFrame], Matrix]


def prepare_cohort(folder: Path) -> dict[str, np.ndarray]:
    """Write the images as a BIDS cohort in units of their own 99th percentile, float32.

    Returns:
        Participant id to the voxels written.
    """
    files = sorted((data_folder() / "hippocampus" / "images").glob("hippocampus_*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"no hippocampus/images in {data_folder()}; set MEDREP_DATA to the folder of the data")
    originals = {}
    for file in files:
        image = nib.load(file)
        data = np.asarray(image.dataobj, dtype=np.float32)
        person = f"sub-{file.name.removesuffix('.nii.gz').rpartition('_')[2]}"
        originals[person] = data / np.float32(np.percentile(data[data != 0], 99))
        place = folder / person / "anat" / f"{person}_T1w.nii.gz"
        place.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(originals[person], image.affine), place)
    write_table(folder / "participants.tsv", pd.DataFrame({"participant_id": list(originals)}))
    return originals


def psnr(image: np.ndarray, original: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB; the peak is the original's maximum."""
    error = float(np.mean((image.astype(np.float64) - original) ** 2))
    return float(10 * np.log10(float(original.max()) ** 2 / error)) if error else float("inf")


def ssim(image: np.ndarray, original: np.ndarray, width: int = 7) -> float:
    """Return the mean structural similarity (Wang 2004) in cubes of 7 voxels; the dynamic range is the original's."""
    a, b = image.astype(np.float64), original.astype(np.float64)
    small, large = ((k * np.ptp(b)) ** 2 for k in (0.01, 0.03))
    mean_a, mean_b = uniform_filter(a, width), uniform_filter(b, width)
    unbiased = width**3 / (width**3 - 1)
    var_a, var_b = (unbiased * (uniform_filter(x * x, width) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    shared = unbiased * (uniform_filter(a * b, width) - mean_a * mean_b)
    similarity = (2 * mean_a * mean_b + small) * (2 * shared + large)
    similarity /= (mean_a**2 + mean_b**2 + small) * (var_a + var_b + large)
    inside = slice(width // 2, -(width // 2))
    return float(similarity[inside, inside, inside].mean())


def read_site(outputs: dict[str, np.ndarray], site: pd.Series, wanted: VolumeInput, seed: int) -> float:
    """Return the AUC of the strongest probe for site on block means of the unseen people's images."""
    pipeline = VolumePipeline(wanted)
    rows = []
    for person in site.index:
        placed = pipeline.place(Volume(outputs[person].astype(np.float32), np.eye(4))).values
        x, y, z = (edge // BLOCK for edge in placed.shape)
        cut = placed[: x * BLOCK, : y * BLOCK, : z * BLOCK]
        rows.append(cut.reshape(x, BLOCK, y, BLOCK, z, BLOCK).mean(axis=(1, 3, 5)).ravel())
    return site_auc(np.stack(rows), site.to_numpy(str), seed, min_people=5).strongest


def one_gain_and_offset(train: Matrix, train_table: pd.DataFrame, test: Matrix, test_table: pd.DataFrame) -> Matrix:
    """Regress each site's mean image on the reference site's, and undo that one gain and offset."""
    reference = train[train_table["site"] == REFERENCE].mean(axis=0)
    transformed = test.copy()
    for site in sorted(set(test_table["site"]) - {REFERENCE}):
        gain, offset = np.polyfit(reference, train[train_table["site"] == site].mean(axis=0), 1)
        rows = (test_table["site"] == site).to_numpy()
        transformed[rows] = (test[rows] - offset) / gain
    return transformed


def voxel_means_and_deviations(
    train: Matrix, train_table: pd.DataFrame, test: Matrix, test_table: pd.DataFrame
) -> Matrix:
    """Give every voxel of a site the reference site's mean and standard deviation at that voxel."""

    def moments(site: str) -> tuple[np.ndarray, np.ndarray]:
        own = train[train_table["site"] == site]
        return own.mean(axis=0), np.maximum(own.std(axis=0, ddof=1), SMALLEST_SD)

    wanted_mean, wanted_sd = moments(REFERENCE)
    transformed = test.copy()
    for site in sorted(set(test_table["site"]) - {REFERENCE}):
        mean, sd = moments(site)
        rows = (test_table["site"] == site).to_numpy()
        transformed[rows] = (test[rows] - mean) / sd * wanted_sd + wanted_mean
    return transformed


def _peer(name: str, train: Matrix, train_table: pd.DataFrame, test: Matrix, test_table: pd.DataFrame) -> Matrix:
    return run_peer(name, train, train_table, test, test_table, reference=REFERENCE).output


CORRECTORS: dict[str, Corrector] = {
    "one gain and offset a site": one_gain_and_offset,
    "voxel means and deviations": voxel_means_and_deviations,
    **{name: partial(_peer, name) for name in PEERS},
}
VAE = "medrep vae"
VARIANTS: dict[str, tuple[str, ...]] = {
    "medrep": (),
    "medrep borrow=columns": ("--set", "settings.borrow=columns"),
    VAE: ("--config", "vae_volume.yaml"),
}


def run(options: Options) -> Report:
    """Plant, split, train, export and compare for every seed."""
    rows: list[dict[str, object]] = []
    checks: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="bench-hippocampus-") as name:
        originals = prepare_cohort(Path(name) / "cohort")
        for seed in options.seeds(SEEDS):
            say(f"hippocampus: seed {seed}")
            found, checked = _measure(Path(name), originals, seed)
            rows, checks = rows + found, checks + checked
        say("hippocampus: age kept")
        ages = pd.DataFrame([age_slope(Path(name), seed) for seed in options.seeds(AGE_SEEDS)])
    frame, checked_frame = pd.DataFrame(rows), pd.DataFrame(checks)
    means = frame.groupby("method", sort=False)[list(SHOWN)].mean()
    means = means.reset_index().assign(note=frame.groupby("method", sort=False)["note"].first().to_list())
    title = "Hippocampus, planted sites: PSNR (dB) of unseen people of the touched sites to their originals"
    tables = {
        "hippocampus": Table(frame, tuple(frame), title),
        "hippocampus_age": Table(
            ages, tuple(ages), "Planted age effect: its slope in exported over its slope in clean images"
        ),
        "hippocampus_mean": Table(means, tuple(means), f"{title}; mean over {frame['seed'].nunique()} seeds"),
    }
    gains = frame.loc[frame["method"] == "medrep", "gain"]
    each = ", ".join(f"{gain:.2f}" for gain in gains)
    mean = float(gains.mean())
    lines = [
        Line("hippocampus", f"gain of PSNR >= {ASKED_DB:g} dB, mean", f"{mean:.2f} (seeds {each})", mean >= ASKED_DB)
    ]
    lines += _vae_lines(frame)
    lines.append(_age_line(ages))
    for column, asked in (
        ("unchanged", f"unseen people of {REFERENCE} come back exactly"),
        ("geometry", "outputs open in nibabel with the input's affine and shape"),
        ("float32", "outputs are float32"),
    ):
        counted = checked_frame[column].dropna()
        held = int(counted.sum())
        lines.append(Line("hippocampus", asked, f"{held} of {len(counted)} images", held == len(counted)))
    return Report(tables, tuple(lines))


def age_slope(work: Path, seed: int) -> dict[str, object]:
    """Plant site and age, remove site, and compare the age effect of unseen people with that in their clean images.

    The planted map is the regression of the clean training images on age; a person's share of it is the projection on it.
    """
    planted = work / f"aged-{seed}"
    medrep("simulate", planted, "--from", work / "cohort", "--effects", "site,age", "--seed", str(seed))
    wanted = VolumeInput(suffix="T1w", shape=SHAPE)
    cohort, truth = (read_cohort(folder, VolumeKind(wanted)) for folder in (planted, planted / "derivatives" / "truth"))
    part = split_participants(cohort.table, (0.8, 0.2), stratify="site", seed=seed)
    people = list(cohort.table.index[part == 0])
    row: dict[str, object] = {"seed": seed}
    age = cohort.table["age"].astype(float)
    clean = {entry.key: _placed(entry).values.ravel() for entry in load_volumes(truth.source.files, wanted)}
    centred = (age[people] - age[people].mean()).to_numpy()
    effect = sum(a * clean[person].astype(np.float64) for a, person in zip(centred, people, strict=True))
    effect /= (centred**2).sum()
    unseen = [p for p in cohort.table.index[part == 1] if cohort.table.loc[p, "site"] != REFERENCE]
    for method in ("medrep", VAE):
        cleaned, _ = _by_command_line(
            work / f"aged-{method}-{seed}", planted, people, VARIANTS[method], ("--set", "covariates.sex=null")
        )
        out = read_cohort(cleaned, VolumeKind(VolumeInput(suffix="T1w", desc="residualized", shape=SHAPE)))
        transformed = {
            entry.key: _placed(entry).values.ravel() for entry in load_volumes(out.source.files.loc[unseen], wanted)
        }
        slopes = [
            np.polyfit(age[unseen], [float(rows[p] @ effect) for p in unseen], 1)[0] for rows in (transformed, clean)
        ]
        row[method] = slopes[0] / slopes[1]
    return row


def _vae_lines(frame: pd.DataFrame) -> list[Line]:
    by_method = {method: rows.set_index("seed") for method, rows in frame.groupby("method")}
    vae, linear, originals = by_method[VAE], by_method["medrep"], by_method["originals"]
    gain, similar = vae["psnr_after"] - linear["psnr_after"], vae["ssim"] - linear["ssim"]
    site = vae["site"] - originals["site"]

    def line(asked: str, differences: pd.Series, passed: bool, digits: int) -> Line:
        each = ", ".join(f"{value:+.{digits}f}" for value in differences)
        return Line("hippocampus", asked, f"{differences.mean():+.{digits}f} (seeds {each})", passed)

    return [
        line(f"VAE: PSNR >= the linear model's + {BEYOND_DB:g} dB, mean", gain, bool(gain.mean() >= BEYOND_DB), 2),
        line("VAE: SSIM above the linear model's, every seed", similar, bool((similar > 0).all()), 4),
        line("VAE: site AUC within 0.05 of the originals', mean", site, bool(abs(site.mean()) <= 0.05), 3),
    ]


def _age_line(ages: pd.DataFrame) -> Line:
    each = ", ".join(f"{value:.3f}" for value in ages[VAE])
    passed = bool((ages[VAE] - 1).abs().max() <= 0.1)
    return Line("hippocampus", "VAE: planted age slope kept within 10%, every seed", each, passed)


def _measure(
    work: Path, originals: dict[str, np.ndarray], seed: int
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    planted = work / f"planted-{seed}"
    medrep("simulate", planted, "--from", work / "cohort", "--seed", str(seed))
    cohort = read_cohort(planted, VolumeKind(VolumeInput(suffix="T1w", shape=SHAPE)))
    part = split_participants(cohort.table, (0.8, 0.2), stratify="site", seed=seed)
    train_table, test_table = cohort.table[part == 0], cohort.table[part == 1]
    touched = test_table.index[test_table["site"] != REFERENCE]
    wanted = VolumeInput(suffix="T1w", shape=SHAPE)
    loaded = {entry.key: entry for entry in load_volumes(cohort.source.files, wanted)}
    inputs = {person: _volume(entry).data for person, entry in loaded.items()}
    before = np.array([psnr(inputs[person], originals[person]) for person in touched])
    rows: list[dict[str, object]] = []

    def add(method: str, outputs: dict[str, np.ndarray], seconds: float) -> None:
        after = np.array([psnr(outputs[person], originals[person]) for person in touched])
        row = {"seed": seed, "method": method, "n": len(touched), "psnr_before": before.mean()}
        row |= {"psnr_after": after.mean(), "gain": (after - before).mean(), "worst_gain": (after - before).min()}
        row |= {"ssim": float(np.mean([ssim(outputs[person], originals[person]) for person in touched]))}
        row |= {"site": read_site(outputs, test_table["site"], wanted, seed)}
        rows.append(row | {"seconds": seconds, "note": ""})

    add("originals", {person: originals[person] for person in test_table.index}, 0.0)
    checks: list[dict[str, object]] = []
    for method, settings in VARIANTS.items():
        cleaned, seconds = _by_command_line(work / f"{method}-{seed}", planted, list(train_table.index), settings)
        outputs = {person: _output(cleaned, person) for person in test_table.index}
        add(method, {person: np.asarray(image.dataobj) for person, image in outputs.items()}, seconds)
        checks += [
            _check(image, planted, inputs[person], originals[person], test_table.loc[person, "site"] == REFERENCE)
            for person, image in outputs.items()
        ]
    train, test = (_matrix(loaded, table.index) for table in (train_table, test_table))
    for method, correct in CORRECTORS.items():
        start = time.perf_counter()
        try:
            transformed = correct(train, train_table[["site"]], test, test_table[["site"]])
        except PeerError as error:
            rows.append({"seed": seed, "method": method, "note": str(error)[-300:]})
            continue
        seconds = time.perf_counter() - start
        add(method, _back(loaded, test_table.index, transformed - test, VolumePipeline(wanted)), seconds)
    return rows, checks


def _by_command_line(
    work: Path,
    planted: Path,
    people: list[str],
    settings: tuple[str, ...],
    drop: tuple[str, ...] = ("--set", "covariates.age=null", "--set", "covariates.sex=null"),
) -> tuple[Path, float]:
    volume = f"input={{kind: volume, suffix: T1w, shape: {list(SHAPE)}}}"
    seconds = medrep(
        "train", planted, work / "fitted", "--set", volume, *drop, *settings, "--participant-label", *people
    )
    target = ("--model", work / "fitted" / "model", "--remove", "site", "--reference", f"site={REFERENCE}")
    seconds += medrep("export", planted, work / "cleaned", *target, "--exclude", *people)
    return work / "cleaned", seconds


def _output(folder: Path, person: str) -> nib.Nifti1Image:
    return nib.load(folder / person / "anat" / f"{person}_desc-residualized_T1w.nii.gz")


def _check(
    image: nib.Nifti1Image, planted: Path, before: np.ndarray, original: np.ndarray, untouched: bool
) -> dict[str, object]:
    name = Path(image.get_filename()).name.replace("_desc-residualized", "")
    source = nib.load(planted / name.split("_")[0] / "anat" / name)
    data = np.asarray(image.dataobj)
    same = np.array_equal(data, before) and np.array_equal(data, original)
    return {
        "unchanged": same if untouched else None,
        "geometry": image.shape == source.shape and np.array_equal(image.affine, source.affine),
        "float32": image.get_data_dtype() == np.float32 and bool(np.isfinite(data).all()),
    }


def _placed(entry: Loaded) -> Placed:
    if entry.placed is None:
        raise RuntimeError(f"{entry.key}: {entry.error}")
    return entry.placed


def _volume(entry: Loaded) -> Volume:
    if entry.volume is None:
        raise RuntimeError(f"{entry.key}: {entry.error}")
    return entry.volume


def _matrix(loaded: dict[str, Loaded], people: pd.Index) -> Matrix:
    return np.stack([_placed(loaded[person]).values.ravel() for person in people])


def _back(
    loaded: dict[str, Loaded], people: pd.Index, changes: Matrix, pipeline: VolumePipeline
) -> dict[str, np.ndarray]:
    outputs = {}
    for person, change in zip(people, changes, strict=True):
        entry = loaded[person]
        own = pipeline.back(change.astype(np.float32).reshape(SHAPE), _placed(entry))
        outputs[person] = _volume(entry).data + own
    return outputs
