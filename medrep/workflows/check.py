"""``check``: lint a cohort before anything is fitted; every problem is listed, nothing is written."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.audit.confounding import (
    Interaction,
    confounding,
    probe_interactions,
    sample_columns,
    small_levels,
    suggestion,
)
from medrep.cohort import kinds
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import CovariateTable, read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.files import Place
from medrep.cohort.grid import Columns
from medrep.cohort.grouping import are_sessions, count_groups
from medrep.cohort.image_quality import thinned
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.participants import count_participants
from medrep.cohort.plausibility import doubtful_values, feature_slips, refusal, repeated_scans, transformed_before
from medrep.config import Config
from medrep.errors import CohortError, CovariateError, MedrepError
from medrep.models import MODELS
from medrep.models.base import EffectTerms
from medrep.models.left_alone import image_notes, table_notes
from medrep.models.linear.design import Design
from medrep.models.linear.random_effects import changing_covariates, separations, time_of
from medrep.models.linear.visit_cells import Cell
from medrep.models.linear.visit_design import Ratios, VisitDesign
from medrep.models.requirements import Images, Requirements
from medrep.workflows.cohorts import place_of

_Result = TypeVar("_Result")
_LOOKED_AT, _AXES = 16, 3
_FEW_GROUPS = 20
_USUAL_LEVEL = 4.0  # variance of people's levels over that of their visits: twice the deviation


@dataclass(frozen=True)
class Checked:
    """Findings of an audit.

    Attributes:
        problems: What would stop a training.
        people: How many participants there are; 0 where the cohort cannot be read.
        scans: How many rows or images.
        confounding: Which covariates tell which, a row a pair.
        interactions: Pairs of covariates that were tested.
    """

    problems: tuple[str, ...]
    people: int = 0
    scans: int = 0
    confounding: pd.DataFrame = field(default_factory=pd.DataFrame)
    interactions: tuple[Interaction, ...] = ()


def check(
    source: Place, config: Config, listener: Listener = SILENT, *, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Checked:
    """Report on the table, the data and the confounding of a cohort.

    Args:
        source: The cohort.
        config: What would be fitted.
        listener: Who is told.
        only: Participants to look at; all if empty.
        exclude: Participants to leave out.

    Returns:
        What was found, the problems that would stop a training first of all.
    """
    problems: list[str] = []
    cohort = _attempt(
        problems, lambda: read_cohort(source, config.input, declared=config.covariates, only=only, exclude=exclude)
    )
    if cohort is None:
        return Checked(tuple(problems))
    listener.say(f"{count_participants(cohort.table)} in {place_of(source).root}")
    listener.notes(cohort.notes)
    for line in transformed_before(cohort.earlier, config.covariates):
        listener.warn(line)
    for line in [] if knows_visits(config) else repeated_scans(cohort.table):
        listener.warn(line)
    covariates = _attempt(problems, lambda: _covariates(cohort, config))
    schema, pairs, found = None, pd.DataFrame(), tuple[Interaction, ...]()
    if covariates is not None:
        listener.notes(covariates.notes)
        doubts = doubtful_values(covariates.frame, covariates.declared)
        problems += [refusal(doubts.refused)] if doubts.refused else []
        for line in doubts.named:
            listener.warn(line)
        schema = _attempt(problems, lambda: CovariateSchema.fit(covariates.frame, covariates.declared))
        if schema is not None:
            frame = schema.transfer(covariates.frame)
            rows = cohort.select(frame.index)
            groups = _attempt(problems, lambda: rows.groups)
            whose = rows.table["participant_id"].astype(str).tolist()
            if groups is not None:
                _relatives(listener, rows.input.group, groups, whose)
            described = Dataset(np.zeros((len(frame), 0)), frame, schema, Columns((), 0, None), whose, groups=groups)
            pairs = _confounding(listener, described, config, problems)
            _point_masses(listener, cohort, schema, frame)
            for line in feature_slips(cohort.source.features, frame, schema):
                listener.warn(line)
    samples: dict[str, np.ndarray] = {}
    data = _looked_through(cohort, listener, samples)
    problems += data.problems
    if covariates is not None and schema is not None:
        found = _interactions(listener, cohort, covariates.frame, schema, config, samples)
        if data.columns:
            images = Images(len(cohort), data.voxels, data.columns, data.seconds)
            needed = requirements(config, schema, schema.transfer(covariates.frame), images)
            for line in [] if needed is None else needed.lines(data.columns < data.voxels):
                listener.say(line)
    people = int(cohort.table["participant_id"].nunique())
    return Checked(tuple(problems), people, len(cohort), pairs, found)


def requirements(config: Config, schema: CovariateSchema, frame: pd.DataFrame, images: Images) -> Requirements | None:
    """Estimate what training takes; None of data or models of which that is not known.

    Args:
        config: What is fitted.
        schema: The covariates.
        frame: Those of the people.
        images: Size of their images.
    """
    if not config.input.in_world:
        return None
    section = config.input.to_json()
    resampled = bool(section["spacing"] or section["shape"])
    images = replace(images, first=config.input.read_first(images.people), resampled=resampled)
    return MODELS[config.model].requirements(config.settings, schema, frame, images)


def _attempt(problems: list[str], step: Callable[[], _Result]) -> _Result | None:
    try:
        return step()
    except MedrepError as error:
        problems.append(str(error))
        return None


def _covariates(cohort: Cohort, config: Config) -> CovariateTable:
    return read_covariates(cohort.table, config.covariates, cohort.units, cohort.levels)


def _confounding(listener: Listener, dataset: Dataset, config: Config, problems: list[str]) -> pd.DataFrame:
    schema, frame = dataset.schema, dataset.covariates
    units = dataset.units.tolist()
    table = confounding(frame, schema, units if len(set(units)) >= _FEW_GROUPS else dataset.whose.tolist())
    rows = [
        (f"{r.first} - {r.second}", str(r.measure), f"{r.estimate:.2f}", str(r.verdict)) for r in table.itertuples()
    ]
    if rows:
        listener.table(
            "Which covariates tell which (0 nothing, 1 everything)", ("pair", "measure", "estimate", "verdict"), rows
        )
    for line in small_levels(schema, frame=frame, participants=dataset.whose.tolist()):
        listener.warn(f"{line}; its effect is estimated from few people")
    own = effect_terms(config)
    degrees, interactions = (1, ()) if own is None else (own.degrees, own.interactions)
    try:
        design = Design.fit(schema, frame, degrees, interactions)
        design.check_aliases(frame)
        if knows_visits(config) and dataset.people < len(frame):
            _visits(listener, design, dataset)
    except CovariateError as error:
        problems.append(str(error))
    return table


def _relatives(listener: Listener, group: str, units: Sequence[str], participants: Sequence[str]) -> None:
    """Show how many people belong with how many others, or how many scans were made in one session."""
    if are_sessions(units, participants):
        scans = _counted(pd.Series(units).value_counts())
        listener.table(
            f"Scans that belong to one session ({group})",
            ("", ""),
            [(f"sessions of {size} scan{'s' * (size > 1)}", str(number)) for size, number in scans],
        )
        return
    sizes = count_groups(units, participants)
    rows = [
        (f"groups of {size} people" if size > 1 else "people by themselves", str(number))
        for size, number in _counted(sizes)
    ]
    rows.append(("largest group", f"{sizes.index[0]}: {sizes.iloc[0]} people"))
    listener.table(f"Who belongs together ({group})", ("", ""), rows)
    if len(sizes) < _FEW_GROUPS:
        listener.warn(
            f"{group} has {len(sizes)} groups: with fewer than {_FEW_GROUPS} neither a split nor an interval holds; is it a site?"
        )


def _visits(listener: Listener, design: Design, dataset: Dataset) -> None:
    """Show how often and how long people came, who changed batches, and how well that tells batches apart.

    Raises:
        CovariateError: Batches that cannot be told from time.
    """
    frame, participants = dataset.covariates, dataset.whose
    counts = pd.Series(participants).value_counts()
    several = counts.index[counts > 1]
    rows = [(f"people with {count} visit{'s' * (count > 1)}", str(number)) for count, number in _counted(counts)]
    time = time_of(changing_covariates(design.schema, frame, participants))
    if time:
        spans = frame[time].astype(float).groupby(participants).agg(lambda own: own.max() - own.min())[several]
        rows.append((f"follow-up in {time}, median and longest", f"{spans.median():.3g}, {spans.max():.3g}"))
    for one in separations(design, frame, participants, time):
        rows.append((f"people who changed {one.batch}", f"{one.changed} of {one.several}"))
        rows.append((f"change in {time or 'time'} that goes with {one.batch}", f"{100 * one.share:.0f} %"))
    listener.table("Several visits", ("", ""), rows)
    visits = VisitDesign.planned(frame, participants, design)
    if visits is None or not design.schema.batches:
        return
    errors = np.sqrt(Cell.of(visits, Ratios(_USUAL_LEVEL, 0.0)).leverage)
    shown = []
    for name, part in design.batch_slices().items():
        for level, error in zip(design.schema.levels(name), errors[part], strict=True):
            own = pd.unique(participants[(frame[name].astype(str) == level).to_numpy()])
            elsewhere = frame[name].astype(str).groupby(participants).nunique()[own]
            shown.append((f"{name}={level}", str(len(own)), str(int((elsewhere > 1).sum())), f"{error:.2f}"))
    listener.table(
        "How well batches are known (error in deviations within people, were people's levels to vary twice as much)",
        ("batch", "people", "of them seen elsewhere", "error"),
        shown,
    )


def _counted(counts: pd.Series) -> list[tuple[int, int]]:
    """Return how many people have each number of visits."""
    return [(int(count), int(number)) for count, number in counts.value_counts().sort_index().items()]


def _point_masses(listener: Listener, cohort: Cohort, schema: CovariateSchema, frame: pd.DataFrame) -> None:
    features = cohort.source.features.rows(frame.index)
    listener.notes(table_notes(features.values, features.names, frame, schema))


def _interactions(
    listener: Listener,
    cohort: Cohort,
    frame: pd.DataFrame,
    schema: CovariateSchema,
    config: Config,
    samples: dict[str, np.ndarray],
) -> tuple[Interaction, ...]:
    """Test whether covariates interact, on the people of whom there are samples of as many columns as of most."""
    width = max(Counter(len(row) for row in samples.values()).items(), key=lambda item: item[1], default=(0, 0))[0]
    rows = [key for key in frame.index if len(samples.get(str(key), ())) == width]
    if not width or not rows:
        return ()
    data = np.stack([samples[str(key)] for key in rows])
    try:
        units = cohort.tied
    except CohortError:  # which is said already
        units = cohort.table["participant_id"].astype(str).tolist()
    whose = pd.Series(list(units), cohort.table.index).loc[rows].tolist()
    return warn_of_interactions(data, schema.transfer(frame.loc[rows]), schema, config, listener, whose)


def _looked_through(cohort: Cohort, listener: Listener, samples: dict[str, np.ndarray]) -> kinds.Checked:
    """Look through the data; ``samples`` takes some columns of everybody who can be read."""
    images: list[np.ndarray] = []
    picked: dict[int, np.ndarray] = {}

    def look(key: str, values: np.ndarray) -> None:
        if values.size not in picked:
            picked[values.size] = sample_columns(values.size)
        samples[key] = np.ravel(values)[picked[values.size]]
        if values.ndim == _AXES and len(images) < _LOOKED_AT:
            images.append(thinned(values))

    found = cohort.input.check(cohort.source, listener, look)
    if len({len(image) for image in images}) == 1:
        listener.notes(image_notes(images))
    if found.said:
        listener.say(found.said)
    return found


def knows_visits(config: Config) -> bool:
    """Return whether the configured model tells several visits of a person from as many people."""
    return MODELS[config.model].knows_visits(config.settings)


def effect_terms(config: Config) -> EffectTerms | None:
    """Return what is configured of effects on single columns; None of a model without such."""
    return MODELS[config.model].effect_terms(config.settings)


def warn_of_interactions(
    data: Float[np.ndarray, "rows some"],
    frame: pd.DataFrame,
    schema: CovariateSchema,
    config: Config,
    listener: Listener,
    participants: Sequence[str],
) -> tuple[Interaction, ...]:
    """Test the pairs of effect covariates that the configuration does not declare to interact, and warn of those that do.

    Args:
        data: Some columns (`sample_columns`).
        frame: Covariates of the rows.
        schema: The covariates.
        config: What would be fitted.
        listener: Who is told.
        participants: Whose each row is.
    """
    own = effect_terms(config)
    if own is None:
        return ()
    found = probe_interactions(
        data,
        frame,
        schema,
        degrees=own.degrees,
        declared=own.interactions,
        participants=participants,
        seed=config.seed,
    )
    for result in found:
        if result.found:
            first, second = result.covariates
            cure = suggestion(found, own.interactions, f"{own.section}.interactions")
            listener.warn(
                f"what {first} does depends on {second} (p {result.p:.3f}, {result.share:.1%} of what is left of the data's"
                f" variance), and the model takes them to add up: {cure}"
            )
    return found
