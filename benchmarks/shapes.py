"""Real hippocampi: reconstruction, counterfactuals with known truth, and what it costs.

200 manual masks (160 to train on, 40 unseen). For counterfactuals age and sex are planted, in two ways: the anterior half
shrinks with age (12% per 30 years and more after 50), or one side of the body loses thickness (`shape_bulge.py`); men are 4%
larger in every direction. Everybody unseen who is more than 20 years from 30 or 75 is moved there and compared with what the
effect makes of the same person, by models of 20, 40, 80 and 160 people. Every model is fitted to the same signed distances with
the same modes, rounds and points, so that what differs is what a model says. The crops share no space: models of shape see organs
that are centred, as `input.align: centre` does; regression on distances does better where they lie, and sees them there.

DeepSDF-style: the identity moves the signed distance itself, and knows of no covariates; to move somebody, the fitted codes are
regressed on covariates afterwards. A-SDF-style: the signed distance is moved by covariates and identity. Both decode, as the
published ones do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from benchmarks.data import data_folder
from benchmarks.organs import Organs, quality, read_organs, transferred
from benchmarks.report import Line, Options, Report, Table, say
from benchmarks.shape_bulge import apply_bulge
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, grid_lattice
from medrep.cohort.meshing import mesh_field
from medrep.cohort.nifti import LabelMap, read_labels
from medrep.cohort.shapes import shape_grid
from medrep.cohort.surfaces import extract_surface, organ_mask
from medrep.models import AdditiveShape, LinearModel, LinearSettings, ShapeSettings
from medrep.models.shape.mean_shape import LevelFunction
from medrep.simulate.shape_effects import SHAPE_EFFECT, apply_shape_effect, pad_for_shape_effect

TRAIN = 160
PEOPLE = (20, 40, 80, 160)
EFFECTS = ("front", "side")
ASKED = {40: (0.89, 0.06), 160: (0.92, 0.04)}
GOALS = (30.0, 75.0)
FAR_YEARS = 20.0
YOUNGEST, OLDEST = 20.0, 85.0
OURS = "medrep, carried"
SETTINGS = ShapeSettings(threads=2, bootstrap=0)
DECLARED = (Covariate("age", "continuous", unit="year"), Covariate("sex", "categorical"))
SHOWN = ("seed", "effect", "people", "method", "n", "dice", "volume_error", "chamfer", "hd95")


def run(options: Options) -> Report:
    """Measure reconstruction, counterfactuals, and time; judge."""
    masks = real_masks()
    reconstructed, transformed, costs = [], [], []
    for seed in options.seeds(2):
        people = np.random.default_rng([seed, 51]).permutation(len(masks))
        train, test = people[:TRAIN], people[TRAIN:]
        say(f"shapes: seed {seed}, reconstruction")
        rows, cost = reconstruction(masks, train, test, threads=2 - seed % 2)
        reconstructed += [{"seed": seed} | row for row in rows]
        costs.append({"seed": seed} | cost)
        say(f"shapes: seed {seed}, counterfactuals")
        for effect in EFFECTS:
            methods = METHODS | ({"neural additive": neural_additive} if options.slow else {})
            people_moved = counterfactuals(masks, train, test, seed, effect, methods)
            transformed += [{"seed": seed} | row for row in people_moved]
    tables = {"shapes_reconstruction": pd.DataFrame(reconstructed), "shapes_counterfactual": pd.DataFrame(transformed)}
    tables["shapes_cost"] = pd.DataFrame(costs)
    shown = {
        "shapes_reconstruction": ("seed", "chamfer", "hd95", "dice", "volume_error"),
        "shapes_counterfactual": SHOWN,
        "shapes_cost": tuple(tables["shapes_cost"]),
    }
    titles = {
        "shapes_reconstruction": "40 unseen hippocampi, encoded and decoded: Chamfer and HD95 in mm",
        "shapes_counterfactual": "Planted age: unseen people more than 20 years away, moved to 30 and 75, against the truth",
        "shapes_cost": "Seconds, and evaluations of a mesh with 256 cells",
    }
    means = {
        "shapes_reconstruction": ["seed"],
        "shapes_counterfactual": ["seed", "effect", "people", "method", "n"],
    }
    found = {
        name: Table(
            frame.groupby(means[name], sort=False).mean().reset_index() if name in means else frame,
            shown[name],
            titles[name],
        )
        for name, frame in tables.items()
    }
    return Report(found, tuple(judge(*(tables[name] for name in shown))))


def real_masks() -> list[LabelMap]:
    """Read the manual masks, both parts together; specks are dropped and cavities filled."""
    files = sorted((data_folder() / "hippocampus" / "labels").glob("hippocampus_*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"no hippocampus/labels in {data_folder()}; set MEDREP_DATA to the folder of the data")
    organs = [organ_mask(read_labels(path), (), Path(path)) for path in files]
    return [LabelMap(organ.mask.astype(np.int32), organ.affine) for organ in organs]


def fit(organs: Organs, frame: pd.DataFrame | None, settings: ShapeSettings, seed: int) -> AdditiveShape:
    """Fit a shape model; without a table one covariate stands in that the settings leave out."""
    grid = shape_grid(organs.section)
    declared = DECLARED if frame is not None else DECLARED[:1]
    table = frame if frame is not None else pd.DataFrame({"age": np.arange(len(organs.rows), dtype=float)})
    schema = CovariateSchema.fit(table, declared)
    columns = Columns((), grid.size, grid)
    return AdditiveShape.fit(Dataset(organs.rows, transferred(table, schema), schema, columns), settings, seed=seed)[0]


def reconstruction(
    masks: list[LabelMap], train: np.ndarray, test: np.ndarray, threads: int
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Fit without covariates and reconstruct unseen people.

    Returns:
        One row a person, and what it cost.
    """
    organs = read_organs(masks)
    begun = time.perf_counter()
    model = fit(organs.some(train), None, replace(SETTINGS, conditioned=False, threads=threads), 0)
    seconds = time.perf_counter() - begun
    home = pd.DataFrame({"age": [float(model.schema["age"].reference)]})
    nodes = model.population.template.lattice.nodes()
    rows, encode = [], []
    for k in test:
        begun = time.perf_counter()
        person = model.subject(organs.rows[k], home)
        encode.append(time.perf_counter() - begun)
        level = person.decoded(nodes, person.mean)
        rows.append(quality(level, organs.masks[k], organs.surfaces[k], organs.section))
    sparse, dense = (
        mesh_field(lambda p: person.decoded(p, person.mean), nodes[0], nodes[-1], cells=256, slope=1.5, dense=dense)
        for dense in (False, True)
    )
    cost = {
        "threads": float(threads), "fit_seconds": seconds, "encode_seconds": float(np.max(encode)),
        "evaluations": float(sparse.evaluations), "dense_over_sparse": dense.evaluations / sparse.evaluations,
        "mesh_difference_mm": _difference(sparse.surface.vertices, dense.surface.vertices),
    }  # fmt: skip
    return rows, cost


@dataclass(frozen=True, eq=False)
class RetryState:
    """Unseen people, whom to move where, and where they truly come to lie."""

    train: Organs
    train_table: pd.DataFrame
    test: Organs
    test_table: pd.DataFrame
    truth: dict[float, Organs]
    transformed: dict[float, np.ndarray]

    def first(self, people: int) -> RetryState:
        """Return the same with fewer people to learn from."""
        table = self.train_table.iloc[:people].reset_index(drop=True)
        return replace(self, train=self.train.some(np.arange(people)), train_table=table)


def trial(
    masks: list[LabelMap], train: np.ndarray, test: np.ndarray, seed: int, effect: str = "front"
) -> tuple[RetryState, RetryState]:
    """Plant age and sex in everybody, and in those who are moved also the age they are moved to.

    Returns:
        Organs where they lie, and centred each on itself; the moved ones as the organ that they were made of.
    """
    rng = np.random.default_rng([seed, 52])
    table = pd.DataFrame({"age": rng.uniform(YOUNGEST, OLDEST, len(masks)), "sex": rng.choice(["F", "M"], len(masks))})
    padded = [
        pad_for_shape_effect(mask, SHAPE_EFFECT, [YOUNGEST, *GOALS, age])
        for mask, age in zip(masks, table["age"], strict=True)
    ]

    def planted(people: np.ndarray, ages: np.ndarray) -> list[LabelMap]:
        made = []
        for k, age in zip(people, ages, strict=True):
            years, sex = float(age), str(table["sex"][k])
            if effect == EFFECTS[0]:
                made.append(_piece(apply_shape_effect(padded[k], SHAPE_EFFECT, age=years, sex=sex)))
            else:
                made.append(_piece(apply_bulge(padded[k], age=years, sex=sex)))
        return made

    everybody = np.concatenate([train, test])
    ages = table["age"].to_numpy()[test]
    transformed = {goal: np.flatnonzero(np.abs(ages - goal) > FAR_YEARS) for goal in GOALS}
    before = planted(everybody, table["age"].to_numpy()[everybody])
    after = {goal: planted(test[who], np.full(len(who), goal)) for goal, who in transformed.items()}
    tables = [table.iloc[people].reset_index(drop=True) for people in (train, test)]

    def state(shifts: np.ndarray) -> RetryState:
        organs = read_organs([_shifted(mask, by) for mask, by in zip(before, shifts, strict=True)])
        own = organs.some(np.arange(len(train), len(everybody)))
        truth = {
            goal: read_organs(
                [_shifted(mask, shifts[len(train) + k]) for mask, k in zip(after[goal], who, strict=True)],
                organs.section,
            )
            for goal, who in transformed.items()
        }
        return RetryState(organs.some(np.arange(len(train))), tables[0], own, tables[1], truth, transformed)

    centres = np.stack([extract_surface(mask.data > 0, mask.affine).centroid for mask in before])
    return state(np.zeros_like(centres)), state(-centres)


def counterfactuals(
    masks: list[LabelMap],
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
    effect: str,
    methods: dict[str, Callable[[RetryState, int], Levels]],
) -> list[dict[str, object]]:
    """Move unseen people by every method, by models of different numbers of people.

    Returns:
        One row a number of people, method, goal and person.
    """
    lying, centred = trial(masks, train, test, seed, effect)
    rows: list[dict[str, object]] = []
    for people in PEOPLE:
        for name, method in methods.items():
            if name not in ALWAYS and (people < TRAIN or effect != EFFECTS[0]):
                continue
            say(f"shapes: seed {seed}, {effect}, {people} people, {name}")
            case = (lying if name == "regression on distances" else centred).first(people)
            if method is nothing and rows:
                # Nothing is the same whoever teaches.
                rows += [
                    row | {"people": people} for row in rows if row["method"] == name and row["people"] == PEOPLE[0]
                ]
                continue
            for goal, levels in method(case, seed).items():
                true = case.truth[goal]
                for k, level in enumerate(levels):
                    found = quality(level, true.masks[k], true.surfaces[k], true.section)
                    row = {"effect": effect, "people": people, "method": name, "goal": goal}
                    rows.append(row | {"n": sum(map(len, case.transformed.values()))} | found)
    return rows


Levels = dict[float, list[np.ndarray]]


def nothing(case: RetryState, _seed: int) -> Levels:
    """Leave people as they are."""
    return {goal: [case.test.rows[k] for k in who] for goal, who in case.transformed.items()}


def distance_regression(case: RetryState, seed: int) -> Levels:
    """Regress the signed distance at each point on covariates and move everybody's."""
    grid = shape_grid(case.train.section)
    schema = CovariateSchema.fit(case.train_table, DECLARED)
    frame = transferred(case.train_table, schema)
    settings = LinearSettings(spline_degrees=3, components=0)
    model, _ = LinearModel.fit(
        Dataset(case.train.rows, frame, schema, Columns((), grid.size, grid)), settings, seed=seed
    )
    there = transferred(case.test_table, schema)
    return {
        goal: list(model.remove(model.dataset(case.test.rows[who].copy(), there.iloc[who]), {"age": goal}))
        for goal, who in case.transformed.items()
    }


def scaling(case: RetryState, _seed: int) -> Levels:
    """Scale people about their centre to the volume that a regression of log volume on covariates expects."""

    def design(table: pd.DataFrame) -> np.ndarray:
        age = (table["age"].to_numpy() - 50) / 30
        return np.column_stack([np.ones(len(age)), age, age**2, table["sex"] == "M"]).astype(float)

    volumes = np.log([surface.volume for surface in case.train.surfaces])
    slope = np.linalg.lstsq(design(case.train_table), volumes, rcond=None)[0]
    nodes, found = _nodes(case), {}
    for goal, who in case.transformed.items():
        table = case.test_table.iloc[who]
        change = (design(table.assign(age=goal)) - design(table)) @ slope
        found[goal] = [_scaled(case, k, np.exp(own / 3), nodes) for k, own in zip(who, change, strict=True)]
    return found


@lru_cache(maxsize=1)
def _fitted(case: RetryState, settings: ShapeSettings, seed: int) -> AdditiveShape:
    return fit(case.train, case.train_table, settings, seed)


def shape_model(settings: ShapeSettings, *, decode: bool = False) -> Callable[[RetryState, int], Levels]:
    """Return a method: fit a shape model, and carry people along or decode them."""

    def method(case: RetryState, seed: int) -> Levels:
        model = _fitted(case, settings, seed)
        frame = transferred(case.test_table, model.schema)
        if not decode:
            return {
                goal: list(model.remove(model.dataset(case.test.rows[who].copy(), frame.iloc[who]), {"age": goal}))
                for goal, who in case.transformed.items()
            }
        nodes = model.population.template.lattice.nodes()
        found: Levels = {goal: [] for goal in case.transformed}
        for goal, who in case.transformed.items():
            for k in who:
                own = frame.iloc[[k]]
                person = model.subject(case.test.rows[k], own)
                found[goal].append(person.decoded(nodes, model.mean(model.schema.transformed(own, {"age": goal}))))
        return found

    return method


def deep_sdf_style(case: RetryState, seed: int) -> Levels:
    """Fit codes of the signed distance without covariates, regress them on covariates, move the codes and decode."""
    model = fit(case.train, case.train_table, replace(SETTINGS, field="distance", conditioned=False), seed)
    nodes = model.population.template.lattice.nodes()

    def design(table: pd.DataFrame) -> np.ndarray:
        age = (table["age"].to_numpy() - 50) / 30
        return np.column_stack([np.ones(len(age)), age, age**2, table["sex"] == "M"]).astype(float)

    blank = transferred(case.train_table.iloc[:1], model.schema)
    codes = np.stack([model.subject(row, blank).posterior.mean for row in case.train.rows])
    slope = np.linalg.lstsq(design(case.train_table), codes, rcond=None)[0]
    found: Levels = {}
    for goal, who in case.transformed.items():
        table = case.test_table.iloc[who]
        changes = (design(table.assign(age=goal)) - design(table)) @ slope
        found[goal] = [
            (person := model.subject(case.test.rows[k], blank)).decoded(nodes, person.mean + change)
            for k, change in zip(who, changes, strict=True)
        ]
    return found


def neural_additive(case: RetryState, _seed: int) -> Levels:
    """Train the published network for forty minutes of a core, find codes of unseen people, and decode them elsewhere."""
    from benchmarks.neural_shape import Net, code_of, decoded, train  # torch takes seconds to import

    def values(table: pd.DataFrame) -> np.ndarray:
        age = (table["age"].to_numpy() - (YOUNGEST + OLDEST) / 2) / ((OLDEST - YOUNGEST) / 2)
        return np.column_stack([age, table["sex"] == "M"]).astype(float)

    net = Net()
    model = train(case.train, values(case.train_table), net, 0)
    found: Levels = {}
    for goal, who in case.transformed.items():
        own, there = (values(table.iloc[who]) for table in (case.test_table, case.test_table.assign(age=goal)))
        codes = [code_of(model, case.test, int(k), here, net) for k, here in zip(who, own, strict=True)]
        found[goal] = [decoded(model, case.test, away, z) for away, z in zip(there, codes, strict=True)]
    return found


METHODS: dict[str, Callable[[RetryState, int], Levels]] = {
    "nothing": nothing,
    "regression on distances": distance_regression,
    "scaling by volume": scaling,
    "DeepSDF-style": deep_sdf_style,
    "A-SDF-style": shape_model(replace(SETTINGS, field="distance"), decode=True),
    "medrep, no identity": shape_model(replace(SETTINGS, identity=False)),
    "medrep, joint field": shape_model(replace(SETTINGS, composition="joint")),
    # One fit serves both.
    "medrep, decoded": shape_model(SETTINGS, decode=True),
    OURS: shape_model(SETTINGS),
}


ALWAYS = ("nothing", "regression on distances", "scaling by volume", OURS)
"""Methods at every number of people and for both effects; the others are seen once."""


def judge(reconstructed: pd.DataFrame, transformed: pd.DataFrame, costs: pd.DataFrame) -> list[Line]:
    """Return the acceptance lines."""
    lines = []
    for name, asked, limit in (
        ("chamfer", "mean symmetric Chamfer <= 0.35 mm", 0.35),
        ("hd95", "HD95 <= 1.2 mm", 1.2),
        ("volume_error", "volume error <= 2%", 0.02),
    ):
        value = reconstructed[name].mean()
        lines.append(_line(f"unseen hippocampi: {asked}", f"{value:.3f}", value <= limit))
    value = reconstructed["dice"].mean()
    lines.append(_line("unseen hippocampi: Dice >= 0.93", f"{value:.3f}", value >= 0.93))
    lines += _against_simple(transformed)
    front = transformed[(transformed["effect"] == EFFECTS[0]) & (transformed["people"] == TRAIN)]
    by_method = front.groupby("method", sort=False)[["dice", "volume_error"]].mean()
    ours, others = by_method.loc[OURS], by_method.drop(OURS)
    best = f"best other: {others['dice'].idxmax()} {others['dice'].max():.3f}"
    lines.append(_line("counterfactual: Dice >= 0.92", f"{ours['dice']:.3f}; {best}", ours["dice"] >= 0.92))
    best = f"best other: {others['volume_error'].idxmin()} {others['volume_error'].min():.3f}"
    lines.append(
        _line("counterfactual: volume error <= 5%", f"{ours['volume_error']:.3f}; {best}", ours["volume_error"] <= 0.05)
    )
    slowest, encode = costs["fit_seconds"].max(), costs["encode_seconds"].max()
    lines.append(_line("training on 160 in <= 20 minutes", f"{slowest / 60:.1f} min", slowest <= 1200))
    lines.append(_line("encoding an unseen shape in <= 10 s", f"{encode:.1f} s", encode <= 10))
    fewer = costs["dense_over_sparse"].min()
    lines.append(_line("mesh of 256 cells: >= 30x fewer evaluations", f"{fewer:.1f}x", fewer >= 30))
    apart = costs["mesh_difference_mm"].max()
    lines.append(_line("mesh of 256 cells: <= 0.01 mm from dense", f"{apart:.4f} mm", apart <= 0.01))
    return lines


def _against_simple(transformed: pd.DataFrame) -> list[Line]:
    """Compare with every simple answer on both figures, and with what is asked of 40 and 160 people."""
    lines = []
    for (effect, people), part in transformed.groupby(["effect", "people"], sort=False):
        means = part[part["method"].isin(ALWAYS)].groupby("method")[["dice", "volume_error"]].mean()
        ours, others = means.loc[OURS], means.drop(OURS)
        dice, volume = others["dice"].max(), others["volume_error"].min()
        lines.append(
            _line(
                f"{effect}, {people} people: Dice and volume error no worse than any simple answer",
                f"{ours['dice']:.3f}, {ours['volume_error']:.3f}; best {dice:.3f}, {volume:.3f}",
                ours["dice"] >= dice - 0.005 and ours["volume_error"] <= volume + 0.005,
            )
        )
        if people in ASKED:
            least, most = ASKED[int(people)]
            passed = ours["dice"] >= least and ours["volume_error"] <= most
            found = f"{ours['dice']:.3f}, {ours['volume_error']:.3f}"
            lines.append(
                _line(f"{effect}, {people} people: Dice >= {least}, volume error <= {most:.0%}", found, passed)
            )
    return lines


def _shifted(mask: LabelMap, by: np.ndarray) -> LabelMap:
    affine = mask.affine.copy()
    affine[:3, 3] += by
    return LabelMap(mask.data, affine)


def _line(asked: str, measured: str, passed: bool | np.bool_) -> Line:
    return Line("shapes", asked, measured, bool(passed))


def _piece(labels: LabelMap) -> LabelMap:
    organ = organ_mask(labels, (), Path("planted"))
    return LabelMap(organ.mask.astype(np.int32), organ.affine)


def _nodes(case: RetryState) -> np.ndarray:
    return grid_lattice(shape_grid(case.train.section)).nodes()


def _scaled(case: RetryState, k: int, factor: float, nodes: np.ndarray) -> np.ndarray:
    own = LevelFunction.through(grid_lattice(shape_grid(case.train.section)), case.test.rows[k])
    centre = case.test.surfaces[k].centroid
    return factor * own.values(centre + (nodes - centre) / factor)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    return float((cKDTree(first).query(second)[0].mean() + cKDTree(second).query(first)[0].mean()) / 2)
