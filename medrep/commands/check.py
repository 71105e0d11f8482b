"""``medrep check``: lint a cohort before anything is fitted; every problem is listed, nothing is written."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from medrep.audit.confounding import confounding, small_levels
from medrep.audit.interactions import sample_columns
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import CovariateTable, read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.participants import count_people
from medrep.cohort.plausibility import doubtful_values, refusal
from medrep.cohort.slips import feature_slips, moved_already, repeated_scans
from medrep.commands.interacting import effect_terms, warn_of_interactions
from medrep.config import Config
from medrep.console import Console
from medrep.errors import CovariateError, MedrepError
from medrep.models.design import Design
from medrep.models.left_alone import image_notes, table_notes
from medrep.models.point_masses import thinned

_Result = TypeVar("_Result")
_LOOKED_AT, _AXES = 16, 3


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
    console.result(people=0, scans=0, confounding=[], interactions=[])
    cohort = _attempt(problems, lambda: read_cohort(root, config.input, only=only, exclude=exclude))
    if cohort is None:
        return _report(root, console, problems, 0)
    console.say(f"{count_people(cohort.table)} in {root}")
    console.result(people=int(cohort.table["participant_id"].nunique()), scans=len(cohort))
    console.notes(cohort.notes)
    for line in (*moved_already(cohort.earlier, config.covariates), *repeated_scans(cohort.table)):
        console.warn(line)
    covariates = _attempt(problems, lambda: _covariates(cohort, config))
    schema = None
    if covariates is not None:
        console.notes(covariates.notes)
        doubts = doubtful_values(covariates.frame, covariates.declared)
        problems += [refusal(doubts.refused)] if doubts.refused else []
        for line in doubts.named:
            console.warn(line)
        schema = _attempt(problems, lambda: CovariateSchema.fit(covariates.frame, covariates.declared))
        if schema is not None:
            whose = cohort.table.loc[covariates.frame.index, "participant_id"].astype(str).tolist()
            frame = schema.transfer(covariates.frame)
            _confounding(console, schema, frame, config, problems, whose)
            _point_masses(console, cohort, schema, frame)
            for line in feature_slips(cohort.source.features, frame, schema):
                console.warn(line)
    samples: dict[str, np.ndarray] = {}
    problems += _data_problems(cohort, console, samples)
    if covariates is not None and schema is not None:
        _interactions(console, cohort, covariates.frame, schema, config, samples)
    return _report(root, console, problems, len(cohort))


def _attempt(problems: list[str], step: Callable[[], _Result]) -> _Result | None:
    try:
        return step()
    except MedrepError as error:
        problems.append(str(error))
        return None


def _covariates(cohort: Cohort, config: Config) -> CovariateTable:
    return read_covariates(cohort.table, config.covariates, cohort.units, cohort.levels)


def _confounding(
    console: Console,
    schema: CovariateSchema,
    frame: pd.DataFrame,
    config: Config,
    problems: list[str],
    participants: Sequence[str],
) -> None:
    table = confounding(frame, schema, participants)
    console.result(confounding=table.to_dict("records"))
    rows = [
        (f"{r.first} - {r.second}", str(r.measure), f"{r.estimate:.2f}", str(r.verdict)) for r in table.itertuples()
    ]
    if rows:
        console.table(
            "Which covariates tell which (0 nothing, 1 everything)", ("pair", "measure", "estimate", "verdict"), rows
        )
    for line in small_levels(schema, frame=frame, participants=participants):
        console.warn(f"{line}; its effect is estimated from few people")
    own = effect_terms(config)
    degrees, interactions = (1, ()) if own is None else (own.degrees, own.interactions)
    try:
        Design.fit(schema, frame, degrees, interactions).check_aliases(frame)
    except CovariateError as error:
        problems.append(str(error))


def _point_masses(console: Console, cohort: Cohort, schema: CovariateSchema, frame: pd.DataFrame) -> None:
    features = cohort.source.features.rows(frame.index)
    console.notes(table_notes(features.values, features.names, frame, schema))


def _interactions(
    console: Console,
    cohort: Cohort,
    frame: pd.DataFrame,
    schema: CovariateSchema,
    config: Config,
    samples: dict[str, np.ndarray],
) -> None:
    """Test whether covariates interact, on the people of whom there are samples of as many columns as of most."""
    width = max(Counter(len(row) for row in samples.values()).items(), key=lambda item: item[1], default=(0, 0))[0]
    rows = [key for key in frame.index if len(samples.get(str(key), ())) == width]
    if not width or not rows:
        return
    data = np.stack([samples[str(key)] for key in rows])
    whose = cohort.table.loc[rows, "participant_id"].astype(str).tolist()
    found = warn_of_interactions(data, schema.transfer(frame.loc[rows]), schema, config, console, whose)
    console.result(interactions=[asdict(result) for result in found])


def _data_problems(cohort: Cohort, console: Console, samples: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Return what is wrong with the data; ``samples`` takes some columns of everybody who can be read."""
    images: list[np.ndarray] = []
    picked: dict[int, np.ndarray] = {}

    def look(key: str, values: np.ndarray) -> None:
        if values.size not in picked:
            picked[values.size] = sample_columns(values.size)
        samples[key] = np.ravel(values)[picked[values.size]]
        if values.ndim == _AXES and len(images) < _LOOKED_AT:
            images.append(thinned(values))

    found = cohort.input.check(cohort.source, console, look)
    if len({len(image) for image in images}) == 1:
        console.notes(image_notes(images))
    if found.said:
        console.say(found.said)
    return found.problems


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
