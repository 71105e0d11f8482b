"""``medrep check``: lint a cohort before anything is fitted; every problem is listed, nothing is written."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from medrep.audit.confounding import confounding, small_levels
from medrep.cohort.brightness import mean_level, uneven_brightness
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.features import FeatureTable, missing_cells
from medrep.cohort.fingerprints import row_fingerprint
from medrep.cohort.inputs import Input
from medrep.cohort.participants import count_people
from medrep.cohort.slips import feature_slips, moved_already, repeated_scans, same_data
from medrep.config import Config
from medrep.console import Console
from medrep.errors import CovariateError, MedrepError
from medrep.models.design import Design

_Result = TypeVar("_Result")


def check(
    root: Path, config: Config, console: Console, *, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> int:
    """Report on the table, the data and the confounding of a cohort.

    Args:
        root: The cohort.
        config: What would be fitted.
        console: Where to speak.
        only: Participants to look at; all if empty.
        exclude: Participants to leave out.

    Returns:
        The number of problems that would stop a training.
    """
    problems: list[str] = []
    console.result(people=0, scans=0, confounding=[])
    cohort = _attempt(problems, lambda: read_cohort(root, config.input, only=only, exclude=exclude))
    if cohort is None:
        return _report(root, console, problems, 0)
    console.say(f"{count_people(cohort.table)} in {root}")
    console.result(people=int(cohort.table["participant_id"].nunique()), scans=len(cohort))
    console.notes(cohort.notes)
    for line in (*moved_already(cohort.earlier, config.covariates), *repeated_scans(cohort.table)):
        console.warn(line)
    covariates = _attempt(problems, lambda: read_covariates(cohort.table, config.covariates, cohort.units))
    if covariates is not None:
        console.notes(covariates.notes)
        schema = _attempt(problems, lambda: CovariateSchema.fit(covariates.frame, config.covariates))
        if schema is not None:
            frame = schema.transfer(covariates.frame)
            _confounding(console, schema, frame, config, problems)
            if cohort.features is not None:
                for line in feature_slips(cohort.features, frame, schema):
                    console.warn(line)
    problems += _data_problems(cohort, config.input, console)
    return _report(root, console, problems, len(cohort))


def _attempt(problems: list[str], step: Callable[[], _Result]) -> _Result | None:
    try:
        return step()
    except MedrepError as error:
        problems.append(str(error))
        return None


def _confounding(
    console: Console, schema: CovariateSchema, frame: pd.DataFrame, config: Config, problems: list[str]
) -> None:
    table = confounding(frame, schema)
    console.result(confounding=table.to_dict("records"))
    rows = [
        (f"{r.first} - {r.second}", str(r.measure), f"{r.estimate:.2f}", str(r.verdict)) for r in table.itertuples()
    ]
    if rows:
        console.table(
            "Which covariates tell which (0 nothing, 1 everything)", ("pair", "measure", "estimate", "verdict"), rows
        )
    for line in small_levels(schema):
        console.warn(f"{line}; its effect is estimated from few people")
    degrees = getattr(config.settings, "spline_degrees", 1)
    try:
        Design.fit(schema, frame, degrees, getattr(config.settings, "interactions", ())).check_aliases(frame)
    except CovariateError as error:
        problems.append(str(error))


def _data_problems(cohort: Cohort, wanted: Input, console: Console) -> list[str]:
    if cohort.features is not None:
        return _feature_problems(cohort.features, wanted, console)
    if wanted.kind == "shape":
        return _shape_problems(cohort, console)
    from medrep.cohort.loaders import grid_problem, load_volumes  # MONAI takes seconds to import

    problems, grid = [], None
    levels: dict[str, float] = {}
    marks: dict[str, str] = {}
    files = cohort.files if cohort.files is not None else pd.Series(dtype=object)
    with console.track("read volumes", len(files)) as advance:
        for loaded in load_volumes(files, wanted):
            if loaded.placed is None:
                problems.append(f"{loaded.key}: {loaded.error}")
            else:
                levels[loaded.key] = mean_level(loaded.placed.values)
                marks[loaded.key] = row_fingerprint(loaded.placed.values.ravel())
                grid = grid or loaded.placed.grid
                difference = grid_problem(loaded.placed.grid, grid)
                problems += [f"{loaded.key}: {difference}"] if difference else []
            advance(1)
    warning = uneven_brightness(levels)
    for line in [*([warning] if warning else []), *same_data(marks)]:
        console.warn(line)
    if grid is not None:
        edges = " x ".join(f"{edge:.3g}" for edge in grid.spacing)
        console.say(
            f"{len(files) - len(problems)} images on a grid of {' x '.join(map(str, grid.shape))} voxels of {edges} mm"
        )
    return problems


def _shape_problems(cohort: Cohort, console: Console) -> list[str]:
    from medrep.cohort.shapes import measure_shapes  # libigl and scikit-image, which only shapes need

    files = cohort.files if cohort.files is not None else pd.Series(dtype=object)
    with console.track("measure organs", len(files)) as advance:
        found = measure_shapes(files, cohort.input, advance)
    console.notes(found.notes)
    if found.measured is not None:
        size = found.measured.size
        edges, shape = found.measured.spacing, found.measured.shape
        console.say(
            f"{len(files) - len(found.problems)} organs of {size:.1f} mm (root mean square distance of the surface from its"
            f" centre), to be looked at on {' x '.join(map(str, shape))} points {edges[0]:.3g} mm apart"
        )
    return list(found.problems)


def _feature_problems(features: FeatureTable, wanted: Input, console: Console) -> list[str]:
    console.say(f"{len(features.names)} features")
    constant = [n for n, c in zip(features.names, features.values.T, strict=True) if np.nanmax(c) == np.nanmin(c)]
    if constant:
        console.notes([f"constant and left as they are: {', '.join(constant)}"])
    holes = missing_cells(features)
    if holes and wanted.missing == "keep":
        count = int((~np.isfinite(features.values)).sum())
        console.notes([f"{count} missing cells are left out of the fit and stay missing"])
        return []
    return [f"{hole}; mend it, or pass --set input.missing=keep" for hole in holes]


def _report(root: Path, console: Console, problems: list[str], people: int) -> int:
    console.result(problems=problems)
    for problem in problems:
        console.say(f"problem: {problem}")
    console.say(
        f"{len(problems)} problem(s) to mend before training" if problems else "nothing stands in the way of training"
    )
    told = {"problems": len(problems), "cohort": root}
    console.summary("checked; nothing is written", f"{people} looked at", told)
    return len(problems)
