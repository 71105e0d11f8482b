"""Real hippocampi that come again, their follow-ups planted: a person's own future against the truth.

Manual masks get age and sex as in ``shapes``, and two further visits four years apart, at which a person is 4 (1 + r) years
older in the planted effect, r ~ N(0, 1) being their own. Every visit is voxelised anew, shifted by part of a voxel, and
centred, as ``input.align: centre`` does. A model learns from the three visits of some; of the others it sees the first two, or
the second alone, and is asked for the third: moved along the person's own path, beside the second scan as it is, and moved by
what the model itself says age does to everybody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.organs import Organs, dice, read_organs, transferred
from benchmarks.report import Line, Options, Report, Table, say
from benchmarks.shapes import DECLARED, real_masks
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.nifti import LabelMap
from medrep.cohort.shapes import shape_grid
from medrep.cohort.surfaces import organ_mask
from medrep.models import AdditiveShape, ShapeSettings
from medrep.models.base import Forecast
from medrep.simulate.shape_effects import SHAPE_EFFECT, apply_shape_effect, label_at, pad_for_shape_effect

NAME = "follow_up_organs"
SEEDS, TRAIN, TEST = 2, 40, 20
SHARE = 0.9
YEARS, OWN = (0.0, 4.0, 8.0), 1.0
YOUNGEST, OLDEST = 50.0, 72.0
EXTREMES = (30.0, 88.0)
SETTINGS = ShapeSettings(threads=2, bootstrap=0, rounds=3, points=500, careful_points=1000, modes=80)
OURS, ONE = "own path, two visits", "own path, one visit"
CARRIED, EVERYBODY = "carried forward", "everybody's effect"


@dataclass(frozen=True, eq=False)
class Visits:
    """Organs of all visits, a person's in a row, and what is known of them."""

    organs: Organs
    table: pd.DataFrame

    def dataset(self, rows: np.ndarray, schema: CovariateSchema | None = None) -> Dataset:
        """Return some visits as medrep takes them."""
        own = self.table.iloc[rows]
        schema = schema or CovariateSchema.fit(own, DECLARED)
        grid = shape_grid(self.organs.section)
        whose = own["person"].astype(str).tolist()
        return Dataset(self.organs.rows[rows], transferred(own, schema), schema, Columns((), grid.size, grid), whose)


def planted(masks: list[LabelMap], seed: int) -> Visits:
    """Plant age, sex and people's own rates into some people, and let them come three times."""
    rng = np.random.default_rng([seed, 81])
    rows, organs = [], []
    for person, k in enumerate(rng.permutation(len(masks))[: TRAIN + TEST]):
        age, sex, own = rng.uniform(YOUNGEST, OLDEST), str(rng.choice(["F", "M"])), OWN * rng.standard_normal()
        years = np.array(YEARS) + rng.uniform(-0.5, 0.5, len(YEARS)) * (np.array(YEARS) > 0)
        lived = np.clip(age + (1 + own) * years, *EXTREMES)
        padded = pad_for_shape_effect(masks[k], SHAPE_EFFECT, [EXTREMES[0], *lived])
        for visit, (year, there) in enumerate(zip(years, lived, strict=True)):
            rows.append({"person": person, "visit": visit, "age": age + year, "sex": sex, "own": own})
            organs.append(scanned(apply_shape_effect(padded, SHAPE_EFFECT, age=float(there), sex=sex), rng))
    return Visits(read_organs(organs), pd.DataFrame(rows))


def scanned(organ: LabelMap, rng: np.random.Generator) -> LabelMap:
    """Voxelise an organ anew, shifted by part of a voxel, and put its centroid at the origin."""
    shift = rng.uniform(-0.5, 0.5, 3)
    index = np.indices(organ.data.shape).reshape(3, -1).T + shift
    found = organ_mask(LabelMap(label_at(organ.data, index).reshape(organ.data.shape), organ.affine), (), Path("again"))
    mask, affine = found.mask.astype(np.int32), found.affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ np.argwhere(mask).mean(axis=0)
    return LabelMap(mask, affine)


def measure(masks: list[LabelMap], seed: int) -> list[dict[str, object]]:
    """Return a row a method and unseen person."""
    visits = planted(masks, seed)
    table = visits.table
    train = np.flatnonzero((table["person"] < TRAIN).to_numpy())
    first, last, goal = (np.flatnonzero((table["person"] >= TRAIN) & (table["visit"] == k)) for k in range(len(YEARS)))
    taught = visits.dataset(train)
    begun = time.perf_counter()
    model, _ = AdditiveShape.fit(taught, SETTINGS, seed=seed)
    say(f"{NAME}: seed {seed}, fitted in {time.perf_counter() - begun:.0f} s")
    seen, second, future = (visits.dataset(rows, model.schema) for rows in (np.sort(np.r_[first, last]), last, goal))
    to, whose = future.covariates, future.whose.tolist()
    own, one = (model.forecast(known, to, whose) for known in (seen, second))
    at_last = to[["age"]].set_index(second.covariates.index)
    made = {
        CARRIED: second.values,
        EVERYBODY: model.transform(second, at_last),
        ONE: one.estimate,
        OURS: own.estimate,
    }
    near = np.abs(future.values) < 1
    held = {
        name: {share: np.less(*_away(found, future.values, share)) for share in (0.5, 0.95)}
        for name, found in {ONE: one, OURS: own}.items()
    }
    rows: list[dict[str, object]] = []
    organs, age = visits.organs, table["age"].to_numpy()
    before, now, then = (_volumes(organs.rows[some], organs.section) for some in (first, last, goal))
    for name, levels in made.items():
        volumes = _volumes(levels, organs.section)
        for k, there in enumerate(goal):
            rows.append(
                {
                    "seed": seed,
                    "method": name,
                    "dice": dice(levels[k], organs.masks[there], organs.section),
                    "volume_error": abs(volumes[k] / then[k] - 1),
                    "slope": np.log(volumes[k] / now[k]) / (age[there] - age[last[k]]),
                    "truth": np.log(then[k] / now[k]) / (age[there] - age[last[k]]),
                    "before": np.log(now[k] / before[k]) / (age[last[k]] - age[first[k]]),
                    **{f"held_{100 * share:g}": one[k][near[k]].mean() for share, one in held.get(name, {}).items()},
                }
            )
    return rows


def _volumes(levels: np.ndarray, section: ShapeInput) -> np.ndarray:
    """Return volumes in voxels; one through which the surface goes counts by how far it lies inside."""
    return np.clip(0.5 - levels / section.spacing[0], 0, 1).sum(axis=1)


def _away(found: Forecast, true: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the truth is from what was forecast, and how far the ends of an interval are."""
    return np.abs(true - found.estimate), found.interval(share)[1] - found.estimate


def run(options: Options) -> Report:
    """Measure over seeds (``--quick``: one); judge."""
    masks, rows = real_masks(), list[dict[str, object]]()
    for seed in options.seeds(SEEDS):
        say(f"{NAME}: seed {seed}")
        rows += measure(masks, seed)
    return report(pd.DataFrame(rows))


def report(table: pd.DataFrame) -> Report:
    """Return the tables, and what was asked."""
    grouped = table.groupby(["seed", "method"], sort=False)
    means = grouped[["dice", "volume_error", "held_50", "held_95"]].mean()
    means["slope"] = [one["slope"].corr(one["truth"]) for _, one in grouped]
    scans = pd.Series({seed: one["before"].corr(one["truth"]) for (seed, name), one in grouped if name == OURS})
    means = means.reset_index()
    whole = means.drop(columns="seed").groupby("method", sort=False).mean()
    lines = []
    for name in (OURS, ONE):
        for other in (CARRIED, EVERYBODY):
            each = means.pivot(index="seed", columns="method", values="dice")
            gained = each[name] - each[other]
            lines.append(_line(f"{name}: Dice above {other}, every seed", _each(gained, "+.4f"), (gained > 0).all()))
    for other in (CARRIED, EVERYBODY):
        errors = whole["volume_error"]
        measured = f"{errors[OURS]:.4f} and {errors[other]:.4f}"
        lines.append(_line(f"{OURS}: volume error below {other}", measured, errors[OURS] < errors[other]))
    found, best = whole["slope"][OURS], float(scans.mean())
    asked = f"{OURS}: slope of volume to come correlates with the truth >= {SHARE:g} of what the two scans' volumes do"
    measured = f"{found / best:.3f} ({found:.3f} and {best:.3f}; {EVERYBODY} {whole['slope'][EVERYBODY]:.3f})"
    lines.append(_line(asked, measured, found >= SHARE * best))
    title = (
        "Hippocampi of unseen people four years on: Dice, error of volume, correlation of its slope, share in intervals"
    )
    shown = ("method", "dice", "volume_error", "slope", "held_50", "held_95")
    people = Table(table, ("seed", "method", "dice", "volume_error", "slope", "truth"), "Every person")
    return Report({f"{NAME}_people": people, NAME: Table(whole.reset_index(), shown, title)}, tuple(lines))


def _each(values: pd.Series, form: str) -> str:
    return f"{values.mean():{form}} (seeds {', '.join(f'{value:{form}}' for value in values)})"


def _line(asked: str, measured: str, passed: bool | np.bool_) -> Line:
    return Line(NAME, asked, measured, bool(passed))
