"""The shift gate: false alarms on unseen people, and what it sees of other acquisitions, on generated and on real images.

Generated heads (voxels of 3 mm; age, sex and diagnosis differ) and real hippocampus crops (1 mm, in units of their own 99th
percentile) go through the planted scanners of ``medrep simulate``. Three scanners are known: a linear model is fitted to a
part of their people, the gate calibrated on others, and the rest are unseen. A fourth scanner is held out. Each unseen person is
also acquired otherwise: by the own scanner with more blur (before its noise), more noise, another gamma, or in larger voxels.
Strengths are those of another protocol on the same scanner; half of each is shown beside, and not asked.

The crops come from two acquisitions: those stored as uint8 (one in six) are smoother and less noisy by themselves than those
stored as float32, and nothing but the data type tells. So every planted scanner holds two real ones, and its usual people
differ by as much as the changes that are asked for; the float32 crops are judged by themselves as well. Gamma 1.2 is within what
real crops differ by: a gate that sees nothing but the two statistics that it moves most has an AUROC of about 0.9.

The bound on false alarms holds in 97.5 of 100 such experiments. With n people for calibration the rate itself is a draw (beta),
so the count is beta-binomial; of the worst scanner it is asked that none of the three is beyond what that would be in 97.5 of
100. AUROCs are those of p as it is handed out, with its ties.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import stats
from scipy.ndimage import zoom
from sklearn.metrics import roc_auc_score

from benchmarks.data import data_folder
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.image_quality import STATISTICS, image_statistics
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.nifti import Volume
from medrep.cohort.splits import split_participants
from medrep.cohort.transforms import VolumePipeline
from medrep.models import LinearModel, LinearSettings
from medrep.models.shift import RATE, ShiftGate
from medrep.simulate.brains import draw_brains, render_brain
from medrep.simulate.participants import simulate_participants
from medrep.simulate.planted_effects import SiteEffect, apply_site_effect, draw_site_effects

SEEDS = 3
ASKED = 0.95
SITES, HELD_OUT = ("S0", "S1", "S2", "S3"), "S3"
BRAINS, BRAIN_SHAPE, BRAIN_MM = 480, (54, 66, 54), 3.0
CROP_SHAPE = (48, 64, 48)
PARTS = (0.25, 0.5, 0.25)  # model, calibration, unseen
NATIVE_NOISE = 0.015  # of the 99th percentile: what a generated head has without a site
MODEL = ("reconstruction_error", "deviation")
JUDGES = {"all": (*STATISTICS, *MODEL), "image only": STATISTICS, "model only": MODEL}
FWHM = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True)
class Change:
    """Another protocol on the same scanner.

    Attributes:
        blur_mm: Full width at half maximum of the blur that is added.
        noise: Deviation of the noise that is added, of the 99th percentile of the signal.
        gamma: What the scanner's exponent is multiplied by.
        voxel_mm: Edge of the voxels acquired; 0 for the common ones.
    """

    blur_mm: float = 0.0
    noise: float = 0.0
    gamma: float = 1.0
    voxel_mm: float = 0.0

    def of(self, scanner: SiteEffect) -> SiteEffect:
        """Return what a scanner becomes."""
        return replace(
            scanner,
            blur_mm=float(np.hypot(scanner.blur_mm, self.blur_mm / FWHM)),
            noise=float(np.hypot(scanner.noise, self.noise)),
            gamma=scanner.gamma * self.gamma,
        )


Changes = dict[str, tuple[Change, bool]]
"""What is done -> the change, and whether it is asked."""


def changes(voxel_mm: float) -> Changes:
    """Return what is done to images of a voxel size: blur of 1.5 voxels, 3% noise, gamma 1.2, voxels larger by half."""
    found: Changes = {}
    for share, asked in ((1.0, True), (0.5, False)):
        blur, noise = 1.5 * voxel_mm * share, 0.03 * share
        gamma, coarse = 1 + 0.2 * share, voxel_mm * (1 + 0.5 * share)
        found |= {
            f"blur, FWHM {blur:g} mm": (Change(blur_mm=blur), asked),
            f"noise, sd {noise:.1%}": (Change(noise=noise), asked),
            f"gamma {gamma:g}": (Change(gamma=gamma), asked),
            f"resampled from {coarse:g} mm": (Change(voxel_mm=coarse), asked),
        }
    return found


@dataclass(frozen=True, eq=False)
class Cohort:
    """People before any scanner.

    Attributes:
        name: Of the family.
        table: participant_id, site and covariates; index: participant_id.
        images: By participant.
        voxel_mm: Edge of their voxels.
        native_noise: That every scanner has besides its own, of the 99th percentile.
        declared: Covariates of the model.
        pipeline: To the common grid.
    """

    name: str
    table: pd.DataFrame
    images: dict[str, np.ndarray]
    voxel_mm: float
    native_noise: float
    declared: tuple[Covariate, ...]
    pipeline: VolumePipeline


def brains(seed: int) -> Cohort:
    """Draw heads; their noise is the scanner's, and comes after its blur."""
    table = simulate_participants(BRAINS, n_sites=len(SITES), seed=seed).set_index("participant_id", drop=False)
    drawn = (replace(brain, noise_sd=0.0) for brain in draw_brains(table, seed=seed))
    images = {brain.participant_id: render_brain(brain, BRAIN_SHAPE, BRAIN_MM) for brain in drawn}
    declared = (
        Covariate("age", "continuous"),
        Covariate("sex", "categorical"),
        Covariate("diagnosis", "categorical"),
        Covariate("site", "categorical", role="batch"),
    )
    pipeline = VolumePipeline(VolumeInput(intensity="p99"))
    return Cohort("brains", table, images, BRAIN_MM, NATIVE_NOISE, declared, pipeline)


def hippocampi(seed: int, stored: tuple[str, ...] = ("uint8", "float32"), name: str = "hippocampus") -> Cohort:
    """Read the crops and share them out to the scanners; ``stored``: data types of the files."""
    images = {}
    for file in sorted((data_folder() / "hippocampus" / "images").glob("hippocampus_*.nii.gz")):
        image = nib.load(file)
        if image.get_data_dtype().name in stored:
            person = f"sub-{file.name.removesuffix('.nii.gz').rpartition('_')[2]}"
            images[person] = np.asarray(image.dataobj, np.float32)
    if not images:
        raise FileNotFoundError(f"no hippocampus/images in {data_folder()}; set MEDREP_DATA to the folder of the data")
    sites = np.random.default_rng(seed).permutation(np.resize(SITES, len(images)))
    table = pd.DataFrame({"participant_id": list(images), "site": sites}, index=list(images))
    pipeline = VolumePipeline(VolumeInput(shape=CROP_SHAPE, intensity="p99"))
    return Cohort(name, table, images, 1.0, 0.0, (Covariate("site", "categorical", role="batch"),), pipeline)


FAMILIES: dict[str, Callable[[int], Cohort]] = {
    "brains": brains,
    "hippocampus": hippocampi,
    "hippocampus float32": partial(hippocampi, stored=("float32",), name="hippocampus float32"),
}


def acquire(image: np.ndarray, voxel_mm: float, scanner: SiteEffect, change: Change, seed: int) -> np.ndarray:
    """Send an image through a scanner; larger voxels are sampled, and brought back, linearly."""
    effect, edge = change.of(scanner), change.voxel_mm or voxel_mm
    if edge == voxel_mm:
        return apply_site_effect(image, (edge,) * 3, effect, seed=seed)
    seen = zoom(image, voxel_mm / edge, order=1, mode="nearest", grid_mode=True)
    seen = apply_site_effect(seen, (edge,) * 3, effect, seed=seed)
    return zoom(seen, np.divide(image.shape, seen.shape), order=1, mode="nearest", grid_mode=True).astype(np.float32)


def run(options: Options) -> Report:
    """Judge both families over the seeds."""
    rows: list[dict[str, object]] = []
    for name, draw in FAMILIES.items():
        for seed in options.seeds(SEEDS):
            say(f"shift_gate: {name}, seed {seed}")
            rows += measure(draw(seed), seed)
    table = pd.DataFrame(rows)
    by = ["family", "judge", "acquisition", "asked"]
    means = table.groupby(by, sort=False)[["n", "alarms", "detected", "auroc"]]
    means = means.agg({"n": "sum", "alarms": "sum", "detected": "mean", "auroc": "mean"}).reset_index()
    shown = ("family", "judge", "acquisition", "n", "alarms", "detected", "auroc")
    tables = {
        "shift_gate": Table(table, ("seed", *shown), "Shift gate at 5%, each seed"),
        "shift_gate_mean": Table(means, shown, "Shift gate at 5%: all seeds"),
    }
    return Report(tables, tuple(line for name in FAMILIES for line in judge(table[table["family"] == name], name)))


def measure(cohort: Cohort, seed: int) -> list[dict[str, object]]:
    """Fit, calibrate and judge; one row a judge and acquisition, and for people as they are one a scanner too."""
    native = cohort.native_noise
    drawn = draw_site_effects(SITES, seed=seed)
    scanners = {site: replace(effect, noise=float(np.hypot(effect.noise, native))) for site, effect in drawn.items()}
    known = cohort.table[cohort.table["site"] != HELD_OUT]
    part = split_participants(known, PARTS, stratify="site", seed=seed)
    people = {name: known[part == k] for k, name in enumerate(("model", "calibration", "unseen"))}
    people["held out"] = cohort.table[cohort.table["site"] == HELD_OUT]
    seconds: list[float] = []

    def look(table: pd.DataFrame, change: Change, again: int) -> tuple[pd.DataFrame, np.ndarray]:
        """Acquire people; return the statistics of their images, and the voxels."""
        rows, statistics = [], []
        for number, (person, site) in enumerate(zip(table.index, table["site"], strict=True)):
            draw = 10**6 * again + 1000 * seed + number
            image = acquire(cohort.images[person], cohort.voxel_mm, scanners[site], change, draw)
            placed = cohort.pipeline.place(Volume(image, np.diag([*(cohort.voxel_mm,) * 3, 1.0])))
            start = time.perf_counter()
            statistics.append(image_statistics(placed.values))
            seconds.append(time.perf_counter() - start)
            rows.append(placed.values.ravel())
        return pd.DataFrame(statistics, table.index, STATISTICS), np.stack(rows)

    data = look(people["model"], Change(), 0)[1]
    schema = CovariateSchema.fit(people["model"], cohort.declared)
    shape = BRAIN_SHAPE if cohort.name == "brains" else CROP_SHAPE
    grid = Grid(shape, (cohort.voxel_mm,) * 3)
    frame = schema.transfer(people["model"])
    model = LinearModel.fit(Dataset(data, frame, schema, Columns((), grid.size, grid)), LinearSettings(components=16))[
        0
    ]

    def score(table: pd.DataFrame, change: Change, again: int) -> pd.DataFrame:
        """Return all statistics of people."""
        statistics, voxels = look(table, change, again)
        scores = model.scores(model.dataset(voxels, schema.transfer(table, unseen="adapt")))
        return statistics.assign(**{name: getattr(scores, name) for name in MODEL})

    calibration = score(people["calibration"], Change(), 1)
    unseen = score(people["unseen"], Change(), 2)
    shifted = {
        name: (score(people["unseen"], change, 3 + k), people["unseen"]["site"], asked)
        for k, (name, (change, asked)) in enumerate(changes(cohort.voxel_mm).items())
    }
    shifted["held-out scanner"] = (score(people["held out"], Change(), 99), people["held out"]["site"], True)
    site, rows = people["unseen"]["site"], []
    for name, columns in JUDGES.items():
        wanted = list(columns)
        gate = ShiftGate.fit(calibration.loc[:, wanted], people["calibration"]["site"])
        usual = gate.p_value(unseen.loc[:, wanted], site)
        found = [_row("as it is", usual)]
        for level, count in people["calibration"]["site"].value_counts().sort_index().items():
            found.append(_row(f"as it is, {level}", usual[site == level]) | {"calibration": count})
        for acquisition, (statistics, labels, asked) in shifted.items():
            p = gate.p_value(statistics.loc[:, wanted], labels)
            area = roc_auc_score(np.repeat([0, 1], [len(usual), len(p)]), -np.concatenate([usual, p]))
            found.append(_row(acquisition, p) | {"asked": asked, "auroc": float(area)})
        same = {"seed": seed, "family": cohort.name, "judge": name, "milliseconds": 1000 * float(np.median(seconds))}
        rows += [same | row for row in found]
    return rows


def _row(acquisition: str, p: np.ndarray) -> dict[str, object]:
    alarms = p <= RATE
    counted = {"n": len(p), "alarms": int(alarms.sum()), "detected": float(alarms.mean())}
    return {"acquisition": acquisition, "asked": False, **counted}


def judge(table: pd.DataFrame, family: str) -> list[Line]:
    """Return the acceptance lines of a family."""
    own = table[table["judge"] == "all"]
    usual = own[own["acquisition"] == "as it is"]
    name, lines = "shift_gate", []
    # A person of a scanner is compared with that scanner's calibration people: three independent draws of a rate.
    each = own[own["acquisition"].str.startswith("as it is, ")]
    most = _bound(each, 0.975)
    seen, n = int(usual["alarms"].sum()), int(usual["n"].sum())
    asked = f"{family}: false alarms at 5% on {n} unseen people <= {most}"
    lines.append(Line(name, asked, f"{seen} ({seen / n:.1%})", seen <= most))
    sites = {str(k): rows for k, rows in each.groupby("acquisition")}
    worst = max(sites, key=lambda k: sites[k]["alarms"].sum() / sites[k]["n"].sum())
    bounds = {k: _bound(rows, 1 - 0.025 / len(sites)) for k, rows in sites.items()}
    passed = all(rows["alarms"].sum() <= bounds[k] for k, rows in sites.items())
    rows = sites[worst]
    asked = f"{family}: false alarms of the worst scanner, {rows['n'].sum()} people, <= {bounds[worst]}"
    seen, n = int(rows["alarms"].sum()), int(rows["n"].sum())
    lines.append(Line(name, asked, f"{seen} ({seen / n:.1%}; {worst[-2:]})", passed))
    for acquisition, found in own[own["asked"]].groupby("acquisition", sort=False):
        area, rate = float(found["auroc"].mean()), float(found["detected"].mean())
        areas = ", ".join(f"{value:.3f}" for value in found["auroc"])
        asked = f"{family}: {acquisition}: AUROC >= {ASKED:g}, mean"
        lines.append(Line(name, asked, f"{area:.3f} (seeds {areas}); {rate:.0%} detected at 5%", area >= ASKED))
    milliseconds = float(table["milliseconds"].median())
    lines.append(Line(name, f"{family}: statistics of a scan in 10 ms", f"{milliseconds:.1f} ms", milliseconds <= 10))
    return lines


def _bound(rows: pd.DataFrame, level: float) -> int:
    """Return a quantile of the number of false alarms over independent calibrations."""
    total = np.ones(1)
    for n, calibration in zip(rows["n"].astype(int), rows["calibration"].astype(int), strict=True):
        rank = int(np.floor(RATE * (calibration + 1)))
        total = np.convolve(total, stats.betabinom.pmf(np.arange(n + 1), n, rank, calibration + 1 - rank))
    return int(np.searchsorted(total.cumsum(), level))
