"""Known displacement fields: how near the additive shape model comes to the truth, over the number of people.

Starmen (2-D) and organs (3-D) are generated with one known field a covariate and a field of each person's own. The relative L2
error of a covariate's field is taken on the surface of the organ at that covariate value (the others at their reference), over
nine values: sqrt(sum |estimate - truth|^2 / sum |truth|^2), of whole vectors and of their part along the organ's normal. The true
fields displace along the template's normal. Surfaces do not show motion along them: there a model's fields are as smooth as what
is seen allows, and only the part along the normal tells how well the seen was learned. Beside it stands what a regression reaches
that sees everybody's true displacement at the template's surface: the error left is who was drawn. Transfer: unseen people
moved to another covariate value, Chamfer to what they truly are there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from skimage.measure import find_contours

from benchmarks.organs import mesh_row, read_organs, surface_distances
from benchmarks.report import Line, Options, Report, Table, say
from benchmarks.starmen import draw_starmen
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid, grid_lattice
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.shapes import shape_grid
from medrep.models import AdditiveShape, ShapeSettings
from medrep.models.shape.mean_shape import LevelFunction
from medrep.simulate import simulate_participants
from medrep.simulate.displaced import (
    Displaced,
    DisplacedCohort,
    displacement,
    draw_organs,
    identity_displacement,
    level,
    organ_grid,
    render_organ,
)
from medrep.simulate.geometry import outward_normal

PEOPLE = (20, 50, 100, 200, 500)
QUICK = (20, 50, 100)
UNSEEN = 20
ASKED = 0.10
TIMES = 1.2
SETTINGS = ShapeSettings(threads=2, bootstrap=0)
COMPOSITIONS = ("additive", "joint")
VALUES = 9
SHOWN = (
    "kind",
    "n",
    "composition",
    "covariate",
    "field_error",
    "normal_error",
    "true_regression",
    "transfer",
    "reconstruction",
    "seconds",
)
_HALF, _FINE = 29, 0.25


@dataclass(frozen=True, eq=False)
class Family:
    """A generated family as the model sees it.

    Attributes:
        kind: starmen or organs.
        cohort: People with known fields; the last `UNSEEN` are not trained on.
        names: Covariates.
        references: Their values without an effect.
        grid: Of the distances.
        rows: Everybody's signed distance, mm.
        section: Of organs; None for flat figures.
    """

    kind: str
    cohort: DisplacedCohort
    names: tuple[str, ...]
    references: Mapping[str, float | str]
    grid: Grid
    rows: np.ndarray
    section: ShapeInput | None

    def distances(self, people: range, values: pd.DataFrame) -> np.ndarray:
        """Return the signed distances of people at other covariates."""
        some = replace(self.cohort, people=tuple(self.cohort.people[k] for k in people), participants=values)
        return flat_rows(some, self.grid) if self.section is None else organ_rows(some, self.section)[1]


def run(options: Options) -> Report:
    """Fit both compositions to growing numbers of people of both families, and judge."""
    counts = QUICK if options.quick else PEOPLE
    rows: list[dict[str, object]] = []
    for make in (starmen, organs):
        family = make(max(counts) + UNSEEN)
        for n in counts:
            truth = regression_on_truth(family, n)
            for composition in COMPOSITIONS:
                say(f"shape_fields: {family.kind}, {n} people, {composition}")
                found = [
                    {"true_regression": truth[str(row["covariate"])]} | row for row in measure(family, n, composition)
                ]
                rows += found
                for row in found:
                    say("  " + ", ".join(f"{k} {row[k]:.3f}" for k in row if isinstance(row[k], float)))
    table = pd.DataFrame(rows)
    shown = {
        "shape_fields": Table(table, SHOWN, "Relative L2 error of fields, and Chamfer (mm) of unseen people moved")
    }
    return Report(shown, tuple(judge(table, max(counts))))


def starmen(people: int) -> Family:
    """Draw flat figures."""
    cohort = draw_starmen(people, seed=0)
    grid = Grid((2 * _HALF + 1, 2 * _HALF + 1, 1), (1.0, 1.0, 1.0))
    return Family("starmen", cohort, ("arms", "legs"), {"arms": 0.0, "legs": 0.0}, grid, flat_rows(cohort, grid), None)


def organs(people: int) -> Family:
    """Draw organs, render them in voxels of 1 mm and read them as `medrep train` does."""
    cohort = draw_organs(simulate_participants(people, n_sites=1, seed=0), seed=0)
    section, rows = organ_rows(cohort, None)
    return Family("organs", cohort, ("age", "sex"), {"age": 50.0, "sex": "F"}, shape_grid(section), rows, section)


def flat_rows(cohort: DisplacedCohort, grid: Grid) -> np.ndarray:
    """Return signed distances of flat figures: to contours of the level on a fine grid."""
    fine = np.arange(-_HALF, _HALF + _FINE / 2, _FINE)
    places = np.stack(np.meshgrid(fine, fine, indexing="ij"), axis=-1).reshape(-1, 2)
    points, rows = grid_lattice(grid).nodes(), []
    for person, values in zip(cohort.people, cohort.participants.to_dict("records"), strict=True):
        lines = find_contours(level(person, values, places).reshape(len(fine), -1), 0.0)
        dense = [line[:-1] + share * np.diff(line, axis=0) for line in lines for share in (0, 0.25, 0.5, 0.75)]
        distance = cKDTree(np.concatenate(dense) * _FINE - _HALF).query(points)[0]
        rows.append(np.copysign(distance, level(person, values, points)).astype(np.float32))
    return np.stack(rows)


def organ_rows(cohort: DisplacedCohort, section: ShapeInput | None) -> tuple[ShapeInput, np.ndarray]:
    """Return signed distances of rendered organs, and the grid."""
    grid, affine = organ_grid(1.0)
    masks = [
        render_organ(person, values, grid, affine)
        for person, values in zip(cohort.people, cohort.participants.to_dict("records"), strict=True)
    ]
    found = read_organs(masks, section)
    return found.section, found.rows


def measure(family: Family, n: int, composition: str) -> list[dict[str, object]]:
    """Fit the first n people; return one row a covariate."""
    table = family.cohort.participants
    declared = [
        Covariate(
            name,
            "categorical" if isinstance(family.references[name], str) else "continuous",
            reference=family.references[name],
        )
        for name in family.names
    ]
    schema = CovariateSchema.fit(table.iloc[:n], declared)
    frame = schema.transfer(table)
    begun = time.perf_counter()
    settings = replace(SETTINGS, composition="joint" if composition == "joint" else "additive")
    columns = Columns((), family.grid.size, family.grid)
    model, _ = AdditiveShape.fit(Dataset(family.rows[:n], frame.iloc[:n], schema, columns), settings, seed=0)
    seconds = time.perf_counter() - begun
    transformed, made = transfer(family, model, frame)
    shared = {
        "kind": family.kind,
        "n": n,
        "composition": composition,
        "transfer": transformed,
        "reconstruction": made,
        "seconds": seconds,
    }
    return [shared | {"covariate": name} | field_error(family, model, name) for name in family.names]


def values_of(family: Family, name: str) -> list[float | str]:
    """Return the values at which a field is judged: nine quantiles, or the level that is not the reference."""
    column = family.cohort.participants[name]
    if isinstance(family.references[name], str):
        return [str(value) for value in sorted(set(column)) if value != family.references[name]]
    return [float(value) for value in np.quantile(column, np.linspace(0.03, 0.97, VALUES))]


def _template(family: Displaced, name: str, value: object, points: np.ndarray) -> np.ndarray:
    return family.template(points + displacement(family, name, value, points))


def field_error(family: Family, model: AdditiveShape, name: str) -> dict[str, float]:
    """Return the relative L2 error of a covariate's field, on the organ's surface at each value: whole, and along its normal."""
    truth = family.cohort.family
    rng = np.random.default_rng(0)
    half = np.asarray(truth.half_extent) + 5
    points = rng.uniform(-half, half, (100_000 if len(half) == 2 else 400_000, len(half)))
    points = points[np.abs(truth.template(points)) < 6]
    centre = np.zeros(len(half)) if family.section is None else np.asarray(family.section.centre)
    wrong = along = whole = along_whole = 0.0
    for value in values_of(family, name):
        true = displacement(truth, name, value, points)
        on = np.abs(truth.template(points + true)) < 0.3
        fields = model.means(_at(family, {name: value})) - model.means(_at(family, {}))
        modes = model.population.modes
        found = modes.field(points[on] - centre, fields.reshape(modes.count, -1))
        normal = outward_normal(partial(_template, truth, name, value), points[on])
        wrong += float(((found - true[on]) ** 2).sum())
        whole += float((true[on] ** 2).sum())
        along += float((((found - true[on]) * normal).sum(axis=1) ** 2).sum())
        along_whole += float(((true[on] * normal).sum(axis=1) ** 2).sum())
    return {"field_error": float(np.sqrt(wrong / whole)), "normal_error": float(np.sqrt(along / along_whole))}


def regression_on_truth(family: Family, n: int) -> dict[str, float]:
    """Return the field error of a quadratic regression that sees the first n people's true displacements."""
    truth = family.cohort.family
    points, normals = _template_surface(truth)
    table = family.cohort.participants.iloc[:n]
    seen = []
    for person, values in zip(family.cohort.people[:n], table.to_dict("records"), strict=True):
        field = identity_displacement(person, points)
        for name in family.names:
            field = field + displacement(truth, name, values[name], points)
        seen.append((field * normals).sum(axis=1))
    design = np.column_stack([np.ones(n), *[_powers(family, name, table[name]) for name in family.names]])
    slopes = np.linalg.lstsq(design, np.stack(seen), rcond=None)[0]
    found, start = {}, 1
    for name in family.names:
        values = values_of(family, name)
        step = _powers(family, name, pd.Series(values)) - _powers(family, name, pd.Series([family.references[name]]))
        own = slopes[start : start + step.shape[1]]
        start += step.shape[1]
        true = np.stack([(displacement(truth, name, value, points) * normals).sum(axis=1) for value in values])
        found[name] = float(np.linalg.norm(step @ own - true) / np.linalg.norm(true))
    return found


def transfer(family: Family, model: AdditiveShape, frame: pd.DataFrame) -> tuple[float, float]:
    """Move unseen people to another value of the first covariate.

    Returns:
        Mean Chamfer distance, mm, to what they truly are there, and that of their own reconstruction to themselves.
    """
    people = range(len(frame) - UNSEEN, len(frame))
    name = family.names[0]
    low, high = np.quantile(family.cohort.participants[name], [0.1, 0.9])
    middle = float(np.median(family.cohort.participants[name]))
    goals = [float(high) if frame[name].iloc[k] < middle else float(low) for k in people]
    wanted = family.cohort.participants.iloc[list(people)].assign(**{name: goals})
    truth = family.distances(people, wanted)
    nodes = model.population.template.lattice.nodes()
    transformed, made = [], []
    for place, k in enumerate(people):
        own = frame.iloc[[k]]
        person = model.subject(family.rows[k], own)
        carried = family.rows[k] + person.change(nodes, model.mean(own.assign(**{name: [goals[place]]})))
        transformed.append(_chamfer(family, carried, truth[place]))
        made.append(_chamfer(family, person.decoded(nodes, person.mean), family.rows[k]))
    return float(np.mean(transformed)), float(np.mean(made))


def judge(table: pd.DataFrame, most: int) -> list[Line]:
    """Return the acceptance lines."""
    lines = []
    for kind, rows in table.groupby("kind", sort=False):
        large = rows[(rows["n"] == most) & (rows["composition"] == "additive")]
        for row in large.to_dict("records"):
            asked = f"{kind}, n = {most}: field of {row['covariate']} within {ASKED:.0%}"
            lines.append(_line(f"{asked}, whole", f"{row['field_error']:.3f}", row["field_error"] <= ASKED))
            text = f"{row['normal_error']:.3f}; a regression on true displacements {row['true_regression']:.3f}"
            lines.append(_line(f"{asked}, along the normal", text, row["normal_error"] <= ASKED))
        share = float(large["transfer"].iloc[0] / large["reconstruction"].iloc[0])
        text = f"{share:.2f} ({large['transfer'].iloc[0]:.3f} mm)"
        lines.append(_line(f"{kind}, n = {most}: transfer <= {TIMES} x reconstruction", text, share <= TIMES))
        few = rows[rows["n"] == 50].groupby("composition")["transfer"].mean()
        text = f"{few['additive']:.4f} against {few['joint']:.4f} mm"
        lines.append(_line(f"{kind}, n = 50: additive transfer below joint", text, few["additive"] < few["joint"]))
    return lines


def _line(asked: str, measured: str, passed: bool | np.bool_) -> Line:
    return Line("shape_fields", asked, measured, bool(passed))


def _at(family: Family, values: Mapping[str, float | str]) -> pd.DataFrame:
    return pd.DataFrame({name: [value] for name, value in {**family.references, **values}.items()})


def _powers(family: Family, name: str, values: pd.Series) -> np.ndarray:
    if isinstance(family.references[name], str):
        return (values != family.references[name]).to_numpy(float)[:, None]
    column = family.cohort.participants[name]
    scaled = (values.to_numpy(float) - column.mean()) / column.std()
    return np.column_stack([scaled, scaled**2])


def _template_surface(truth: Displaced) -> tuple[np.ndarray, np.ndarray]:
    half = np.asarray(truth.half_extent) + 2
    points = np.random.default_rng(1).uniform(-half, half, (100_000, len(half)))
    points = points[np.abs(truth.template(points)) < 0.3][:2000]
    return points, outward_normal(truth.template, points)


def _chamfer(family: Family, made: np.ndarray, true: np.ndarray) -> float:
    if family.section is not None:
        return surface_distances(mesh_row(true, family.section), mesh_row(made, family.section))[0]
    first, second = (_outline(row, family.grid) for row in (made, true))
    return float((cKDTree(first).query(second)[0].mean() + cKDTree(second).query(first)[0].mean()) / 2)


def _outline(row: np.ndarray, grid: Grid) -> np.ndarray:
    """Return points every twentieth of a millimetre along the zero level."""
    function = LevelFunction.through(grid_lattice(grid), row)
    fine = np.arange(-_HALF + 1, _HALF - 1 + _FINE / 2, _FINE)
    places = np.stack(np.meshgrid(fine, fine, indexing="ij"), axis=-1).reshape(-1, 2)
    lines = find_contours(function.values(places).reshape(len(fine), -1), 0.0)
    dense = [
        line[:-1] + share * np.diff(line, axis=0) for line in lines for share in np.linspace(0, 1, 5, endpoint=False)
    ]
    return np.concatenate(dense) * _FINE + fine[0]
