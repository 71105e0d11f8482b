"""Real hippocampi: how often the intervals of effect maps hold a planted motion.

In each draw new ages and sexes are planted in a random 160 of 200 manual masks, in two ways (`shapes.py`), and organs centred.
The model is fitted to the first 40 and to all, with fewer modes and points than by default, and what the map of age says from the
reference to 30 and to 75 is compared with the planted motion of the template's own surface along its normal, at each point. The
planted motion keeps the organ where the planting leaves it; the same is judged with the best rigid motion of the error taken out,
which tells what placement costs. Sex is shown beside: men's organs are larger about their centre.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from benchmarks.organs import Organs, read_organs
from benchmarks.report import Line, Options, Report, Table, say
from benchmarks.shape_bulge import Bulge, apply_bulge
from benchmarks.shapes import EFFECTS, GOALS, OLDEST, YOUNGEST, fit, real_masks
from medrep.cohort.nifti import LabelMap
from medrep.cohort.surfaces import extract_surface, organ_mask
from medrep.models import AdditiveShape, ShapeSettings
from medrep.models.linear.design import Contrast
from medrep.models.shape.mean_shape import LevelFunction
from medrep.models.shape.placement import rigid_motions
from medrep.simulate.shape_effects import (
    SHAPE_EFFECT,
    OrganAxis,
    age_factor,
    apply_shape_effect,
    organ_axis,
    pad_for_shape_effect,
    scale_front,
    unscale_front,
)

PEOPLE = (40, 160)
DRAWS = 20
SETTINGS = ShapeSettings(modes=60, points=700, careful_points=1200, threads=1, bootstrap=100)
ASKED = (0.90, 0.97)
_MOST = 1000  # points of the template's surface
_SHOWN = (
    "effect",
    "people",
    "contrast",
    "n",
    "covered",
    "covered_placed",
    "moved",
    "error",
    "bias",
    "sd",
    "width",
    "oracle",
)
_ROUNDS = 3

Moving = Callable[[float, str, np.ndarray], np.ndarray]


def run(options: Options) -> Report:
    """Plant, fit, and count; judge."""
    maps: list[SeenMap] = []
    masks = real_masks()
    for seed in options.seeds(DRAWS):
        for effect in EFFECTS:
            organs, table = cohort(masks, seed, effect)
            for people in PEOPLE:
                say(f"shape_coverage: draw {seed}, {effect}, {people} people")
                chosen = table.iloc[:people].reset_index(drop=True)
                model = fit(organs.some(np.arange(people)), chosen, SETTINGS, seed)
                new = seen_maps(model, effect, people)
                say("  " + ", ".join(f"{one.contrast} {one.covered(one.found - one.truth):.3f}" for one in new))
                maps += new
    table = summary(maps)
    title = f"Intervals of effect maps against the planted motion along the normal, mm; {DRAWS} draws"
    return Report({"shape_coverage": Table(table, _SHOWN, title)}, tuple(judge(table)))


def cohort(masks: list[LabelMap], seed: int, effect: str) -> tuple[Organs, pd.DataFrame]:
    """Plant ages and sexes in some organs, as many as are fitted at most, and centre each on itself."""
    rng = np.random.default_rng([seed, 53])
    people = rng.permutation(len(masks))[: max(PEOPLE)]
    table = pd.DataFrame(
        {"age": rng.uniform(YOUNGEST, OLDEST, len(people)), "sex": rng.choice(["F", "M"], len(people))}
    )
    made = []
    for k, age, sex in zip(people, table["age"], table["sex"], strict=True):
        padded = pad_for_shape_effect(masks[k], SHAPE_EFFECT, [age])
        if effect == EFFECTS[0]:
            planted = apply_shape_effect(padded, SHAPE_EFFECT, age=age, sex=sex)
        else:
            planted = apply_bulge(padded, age=age, sex=sex)
        organ = organ_mask(planted, (), Path("planted"))
        affine = organ.affine.copy()
        affine[:3, 3] -= extract_surface(organ.mask, organ.affine).centroid
        made.append(LabelMap(organ.mask.astype(np.int32), affine))
    return read_organs(made), table


@dataclass(frozen=True, eq=False)
class SeenMap:
    """One effect map: at points of the template, mm, the planted motion along the normal, the model's, and its interval."""

    effect: str
    people: int
    contrast: str
    points: np.ndarray
    normals: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def placed(self) -> np.ndarray:
        """Return the error with the rigid motion taken out that explains most of it."""
        error = self.found - self.truth
        ways = np.einsum("rpd,pd->pr", rigid_motions(self.points), self.normals)
        return np.asarray(error - ways @ np.linalg.lstsq(ways, error, rcond=None)[0])

    def covered(self, error: np.ndarray) -> float:
        """Return the share of points whose interval holds the truth, were this the error."""
        return float(((self.low <= self.found - error) & (self.found - error <= self.high)).mean())


def seen_maps(model: AdditiveShape, effect: str, people: int) -> list[SeenMap]:
    """Return what the model says of each contrast, beside what was planted."""
    template = model.population.template
    surface = template.surface(_MOST)
    points, normals = surface.points, surface.normals
    age, sex = float(model.schema["age"].reference), str(model.schema["sex"].reference)
    other = "F" if sex == "M" else "M"
    forward, back = planting(template, effect, age, sex)
    start = back(age, sex, points)
    contrasts = {f"age {goal:g}": (Contrast("age", age, goal), forward(goal, sex, start)) for goal in GOALS}
    contrasts["sex"] = (Contrast("sex", sex, other), forward(age, other, start))
    maps = []
    for name, (contrast, moved) in contrasts.items():
        motion = model.surface_displacement(contrast, points, normals)
        truth = ((moved - points) * normals).sum(axis=1)
        maps.append(SeenMap(effect, people, name, points, normals, truth, motion.millimetres, *motion.interval()))
    return maps


def planting(template: LevelFunction, effect: str, age: float, sex: str) -> tuple[Moving, Moving]:
    """Return how the planting moves points of an organ, and back, if that of this age and sex is the template.

    The planting goes by the axis of the organ before; that is looked for by turns with what the organ was.
    """
    nodes = template.lattice.nodes()
    home = template.values(nodes)
    for _ in range(_ROUNDS):
        mask = _mask(home, template)
        if effect == EFFECTS[0]:
            axis = organ_axis(mask)
            forward, back = _front(axis, scale_front), _front(axis, unscale_front)
        else:
            bulge = Bulge.of(mask)
            forward, back = bulge.moved, bulge.back
        home = template.values(forward(age, sex, nodes))
    return forward, back


def _mask(level: np.ndarray, template: LevelFunction) -> LabelMap:
    lattice = template.lattice
    affine = np.diag([*lattice.spacing, 1.0])
    affine[:3, 3] = lattice.origin
    return LabelMap((level < 0).reshape(lattice.shape).astype(np.int32), affine)


def _front(axis: OrganAxis, move: Callable[[OrganAxis, float, float, np.ndarray], np.ndarray]) -> Moving:
    def moved(age: float, sex: str, points: np.ndarray) -> np.ndarray:
        return move(axis, age_factor(SHAPE_EFFECT, age), SHAPE_EFFECT.male if sex == "M" else 1.0, points)

    return moved


def summary(maps: Iterable[SeenMap]) -> pd.DataFrame:
    """Return coverage and what it is made of, a row an effect, number of people and contrast.

    Columns: n (maps), covered, covered_placed (with the rigid part of the error taken out), covered_least (of one map), moved
    (mean planted motion), error (mean absolute), error_placed, bias (mean absolute over points of the mean error over draws), sd
    (over draws), width (of intervals), oracle (width of those that know the mean squared error at each point), all mm. Points of
    a draw are those of the first that lie next. Men's and women's effects are told as one.
    """
    rows = []
    kinds: dict[tuple[str, int, str], list[SeenMap]] = {}
    for one in maps:
        kinds.setdefault((one.effect, one.people, one.contrast), []).append(one)
    for (effect, people, contrast), own in kinds.items():
        first = own[0].points
        errors = np.stack([(one.found - one.truth)[cKDTree(one.points).query(first)[1]] for one in own])
        if contrast == "sex":
            errors *= [[np.sign(one.truth.mean())] for one in own]
        row = {"effect": effect, "people": people, "contrast": contrast, "n": len(own)}
        row |= {
            "covered": np.mean([one.covered(one.found - one.truth) for one in own]),
            "covered_placed": np.mean([one.covered(one.placed) for one in own]),
            "covered_least": np.min([one.covered(one.found - one.truth) for one in own]),
            "moved": np.mean([np.abs(one.truth).mean() for one in own]),
            "error": np.abs(errors).mean(),
            "error_placed": np.mean([np.abs(one.placed).mean() for one in own]),
            "bias": np.abs(errors.mean(axis=0)).mean(),
            "sd": errors.std(axis=0, ddof=min(1, len(own) - 1)).mean(),
            "width": np.mean([(one.high - one.low).mean() for one in own]),
            "oracle": 2 * NormalDist().inv_cdf(0.975) * np.sqrt((errors**2).mean(axis=0)).mean(),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def judge(table: pd.DataFrame) -> list[Line]:
    """Return the acceptance lines: of the maps of age, both goals together."""
    lines = []
    ages = table[table["contrast"] != "sex"]
    for (effect, people), part in ages.groupby(["effect", "people"], sort=False):
        value, low, high = part["covered"].mean(), *ASKED
        asked = f"{effect}, {people} people: intervals hold {low:.0%} to {high:.0%} of the planted motion"
        lines.append(Line("shape_coverage", asked, f"{value:.3f}", bool(low <= value <= high)))
    return lines
