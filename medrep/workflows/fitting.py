"""Fit what a configuration says to people who were read: the schema, the model, what predicts covariates, and the shift gate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from medrep._files import release_pages
from medrep.audit.confounding import sample_columns
from medrep.cohort.cohort import Cohort
from medrep.cohort.columns import CovariateTable
from medrep.cohort.covariates import Categorical, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import SILENT, Listener, imported
from medrep.cohort.plausibility import feature_slips, refuse_codes, repeated_scans, same_data, transformed_before
from medrep.cohort.splits import TrainingRows, cohort_fingerprint, row_fingerprint, row_trace
from medrep.cohort.support import Support
from medrep.config import Config
from medrep.derivatives.scores import Scorer, score_task
from medrep.models import MODELS, FitContext, LinearModel, LinearSettings, Model
from medrep.models.linear.scales import measured_units
from medrep.models.prediction import FEW, Prediction
from medrep.models.saved import Provenance, SavedModel
from medrep.models.shape.pose import PoseModel
from medrep.models.shift import ANYBODY, MIN_N, ShiftGate, scanner_of
from medrep.training.schedule import process_group
from medrep.workflows.check import knows_visits, warn_of_interactions


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model as it was fitted, before anything is written.

    Attributes:
        model: The model.
        history: What was found.
        marks: Fingerprint of each row's data, index: key.
        rows: Keyed digests of the rows.
    """

    model: Model
    history: pd.DataFrame
    marks: pd.Series
    rows: TrainingRows


def warn_of_slips(cohort: Cohort, covariates: CovariateTable, config: Config, listener: Listener) -> None:
    """Warn of what is doubtful in a cohort before anything is fitted, and refuse codes in the place of values.

    Raises:
        CovariateError: Codes such as 999, of everybody.
    """
    doubts = refuse_codes(covariates.frame, covariates.declared)
    for line in (*doubts, *transformed_before(cohort.earlier, covariates.declared)):
        listener.warn(line)
    for line in [] if knows_visits(config) else repeated_scans(cohort.table):
        listener.warn(line)


def fit_schema(
    cohort: Cohort, known: pd.DataFrame, declared: Sequence[Covariate], listener: Listener
) -> tuple[pd.DataFrame, CovariateSchema]:
    """Fit the schema to the people of training.

    Args:
        cohort: Those people.
        known: Checked covariates, of them and perhaps of others.
        declared: What the covariates are.
        listener: Who is told of slips in features.

    Returns:
        Their covariates in the schema's form, and the schema.

    Raises:
        CovariateError: Covariates that cannot be used.
    """
    known = known.loc[cohort.table.index]
    schema = CovariateSchema.fit(known, declared)
    frame = schema.transfer(known)
    for line in feature_slips(cohort.source.features, frame, schema):
        listener.warn(line)
    return frame, schema


def fit(
    dataset: Dataset,
    config: Config,
    listener: Listener = SILENT,
    *,
    state: Path | None = None,
    resume: bool = False,
    tabular: bool = True,
) -> Fitted:
    """Fit the configured model to people, and keep what tells their rows again.

    Args:
        dataset: The people of training.
        config: What to fit.
        listener: Who is told.
        state: Where an interrupted training keeps its state; None: nowhere.
        resume: Whether to go on from there.
        tabular: Whether rows are of a table; of images, copies are told.

    Raises:
        MedrepError: Covariates that cannot be told apart, or settings that do not fit the data.
    """
    data = dataset.values
    picked = sample_columns(dataset.columns.count)
    # Images lie on the disk: all is taken of a row while it is at hand.
    some, taken = np.empty((len(data), len(picked)), data.dtype), []
    for place, row in enumerate(data):
        some[place] = row[picked]
        taken.append((row_fingerprint(row), row_trace(row)))
        release_pages(data)
    warn_of_interactions(some, dataset.covariates, dataset.schema, config, listener, dataset.units.tolist())
    marks = pd.Series([mark for mark, _ in taken], index=dataset.keys)
    for line in [] if tabular else same_data(marks.to_dict()):
        listener.warn(line)
    with process_group(), listener.track("fit", dataset.columns.count, "columns") as advance:
        work = FitContext(advance, listener.say, state, resume, listener.phase)
        model, history = MODELS[config.model].fit(dataset, config.settings, seed=config.seed, work=work)
    rows = TrainingRows.of([trace for _, trace in taken], cohort_fingerprint(marks), config.seed)
    return Fitted(model, history, marks, rows)


def described(
    fitted: Fitted,
    dataset: Dataset,
    cohort: Cohort,
    readouts: tuple[Prediction, ...],
    shift: ShiftGate | None,
    *,
    units: pd.DataFrame | None = None,
) -> SavedModel:
    """Return a fitted model with all that is saved with it.

    Args:
        fitted: The model.
        dataset: What it was fitted to.
        cohort: The same people as they were read.
        readouts: What predicts covariates.
        shift: Its shift gate.
        units: What `measured_units` says of these people, where that is known; else they are measured.
    """
    transformed = tuple(sorted({name for one in cohort.earlier for name in one.covariates}))
    whose = dataset.whose.tolist()
    provenance = Provenance(dataset.people, cohort_fingerprint(fitted.marks), fitted.rows, transformed)
    support = Support.fit(dataset.schema, dataset.covariates, whose)
    units = measured_units(cohort.input, cohort.source.files) if units is None else units
    unit = None if units is None else _unit_model(dataset, units)
    pose = _pose_model(fitted.model, dataset, cohort)
    return SavedModel(fitted.model, cohort.input, support, provenance, readouts, shift, unit, pose)


def _pose_model(model: Model, dataset: Dataset, cohort: Cohort) -> PoseModel | None:
    """Return what covariates do to how organs lie in their images; None of a model or a kind of input without that."""
    kind = cohort.input
    if not kind.frames or "effects" not in model.capabilities:
        return None
    frames = imported(kind.frames)(kind.section, cohort.source.files.loc[dataset.keys])
    poses = model.poses(dataset)
    return None if poses is None else PoseModel.fit(poses, frames, dataset, model.settings.spline_degrees)


def _unit_model(dataset: Dataset, units: pd.DataFrame) -> LinearModel:
    """Return what moves the logarithms of each image's own units, as if they were further columns."""
    names = tuple(f"log_unit_{number + 1}" for number in range(units.shape[1]))
    values = units.loc[dataset.keys].to_numpy()
    further = replace(dataset, values=values, columns=Columns(names, len(names), None), origin=None)
    return LinearModel.fit(further, LinearSettings(), seed=0, work=FitContext())[0]


def fit_readouts(dataset: Dataset, config: Config, listener: Listener = SILENT) -> tuple[Prediction, ...]:
    """Fit what predicts covariates from the data, and say how well."""
    return tuple(_readout(name, dataset, config, listener) for name in config.predict)


def _readout(name: str, dataset: Dataset, config: Config, listener: Listener) -> Prediction:
    known = dataset.covariates[name].to_numpy(float)
    readout = Prediction.fit(name, dataset.values, known, seed=config.seed, participants=dataset.units.tolist())
    few = f"; fewer than {FEW} people, so that its correction is uncertain" if dataset.people < FEW else ""
    listener.say(f"predict {name}: people left out of the fit, mean error {readout.mae:.3g}, R2 {readout.r2:.2f}{few}")
    return readout


def calibrated(model: Model, cohort: Cohort, frame: pd.DataFrame, listener: Listener) -> ShiftGate | None:
    """Return the shift gate of a model; None, with a word, where too few people were held out.

    Args:
        model: The model.
        cohort: The people who were held out, with what training measured in its ``input``.
        frame: Their checked covariates.
        listener: Who is told.
    """
    frame = _known(model.schema, frame)
    # Scans of one person, and of relatives, are alike, and several would make everybody else's p too small: the first counts.
    alike = pd.Series(list(cohort.tied), cohort.table.index)
    frame = frame[~alike.loc[frame.index].duplicated().to_numpy()]
    if len(frame) < MIN_N:
        if len(frame):
            listener.say(f"  {len(frame)} people held out: {MIN_N} are needed to tell scans that are unlike them")
        return None
    cohort = cohort.select(frame.index)
    scorer = Scorer(model, measure=True)
    step = score_task(scorer, cohort.input, cohort.source.features.names)
    people = list(cohort.source.samples(model.schema.transfer(frame)))
    rows: dict[str, np.ndarray] = {}
    with listener.track("calibrate", len(people)) as advance:
        for start in range(0, len(people), step.block_size):
            some = people[start : start + step.block_size]
            rows |= {one.key: one.arrays["statistics"] for one in step.work(some) if not one.error}
            advance(len(some))
    if len(rows) < MIN_N:
        return None
    statistics = pd.DataFrame.from_dict(rows, orient="index", columns=scorer.statistics(cohort.input))
    scanner = scanner_of(model.schema)
    labels = frame[scanner].astype(str) if scanner else pd.Series(ANYBODY, index=frame.index)
    return ShiftGate.fit(statistics, labels.loc[statistics.index])


def _known(schema: CovariateSchema, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the people all of whose levels training had: rare ones may have been held out whole."""
    known = pd.Series(True, index=frame.index)
    for fitted in schema.fitted:
        if isinstance(fitted, Categorical):
            known &= frame[fitted.declared.name].isin(fitted.levels)
    return frame[known]
