"""``train``: cohort + configuration -> a model folder; what MLflow is told of it, and the calibration of its shift gate."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from medrep import __version__
from medrep._files import output_folder, release_pages, write_text
from medrep.audit.confounding import sample_columns
from medrep.cohort.cohort import Cohort, read_cohort, read_matrix, with_changes
from medrep.cohort.columns import CovariateTable, read_covariates
from medrep.cohort.covariates import Categorical, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.files import Place
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import SILENT, InputKind, Listener
from medrep.cohort.parsing import shown
from medrep.cohort.participants import KEY_COLUMNS, count_participants
from medrep.cohort.plausibility import feature_slips, refuse_codes, repeated_scans, same_data, transformed_before
from medrep.cohort.splits import TrainingRows, cohort_fingerprint, row_fingerprint, row_trace, split_participants
from medrep.cohort.support import Support
from medrep.config import Config
from medrep.derivatives.bids import write_tsv
from medrep.derivatives.scores import Scorer, score_task
from medrep.errors import CohortError
from medrep.models import MODELS, FitContext, LinearModel, LinearSettings, Model
from medrep.models.left_alone import left_alone, notes_on
from medrep.models.linear.scales import measured_units
from medrep.models.prediction import FEW, Prediction
from medrep.models.requirements import Images, refuse_beyond, usual_memory
from medrep.models.saved import Provenance, SavedModel, digest
from medrep.models.shift import ANYBODY, MIN_N, ShiftGate, scanner_of
from medrep.tracking.store import Store, find_store
from medrep.training.schedule import process_group, rank
from medrep.workflows.check import knows_visits, requirements, warn_of_interactions
from medrep.workflows.cohorts import check_output, input_paths, place_of, refuse_unknown, report_subject

TRAINED, HELD_OUT = "train", "held-out"
# Not report.html: its notes name participants.
_LOGGED = ("config.yaml", "history.tsv")


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        only: Participants to use; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
        workers: Processes that read volumes ahead.
        resume: Whether to go on from the state that an interrupted training left beside OUT.
        hold_out: Share of participants who are kept from training, for an audit; the same share of every batch level.
        tracking: Where the run is to be logged (`log_run`) once OUT is written: ``auto``, ``none`` or a URI, see `find_store`;
            None: nowhere.
        show: Whom the report shows; the first person if empty, ``nobody`` for none.
        memory: Bytes that training on volumes may take; 0: what it takes, which is said where it is much.
    """

    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False
    workers: int = 0
    resume: bool = False
    hold_out: float = 0.0
    tracking: str | None = None
    show: str = ""
    memory: float = 0.0


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of a training.

    Attributes:
        saved: The model and what is saved with it.
        history: Tidy: metric, name, value; what changes over epochs has an epoch too.
        trained_on: Of how many people, in words, as scans and people where some have several.
        rows: How many rows or images it was fitted on.
        held_out: How many were kept from it.
        out: What was written.
        config: What was fitted.
        store: Where the run is to be logged; None: nowhere.
    """

    saved: SavedModel
    history: pd.DataFrame
    trained_on: str
    rows: int
    held_out: int
    out: Path
    config: Config
    store: Store | None = None


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


def train(
    source: Place, out: Path, config: Config, listener: Listener = SILENT, options: TrainOptions | None = None
) -> Trained | None:
    """Fit the configured model and write OUT/model, history.tsv, config.yaml, people.tsv and report.html.

    Args:
        source: The cohort.
        out: Where to write; replaced as a whole.
        config: What to fit.
        listener: Who is told.
        options: How.

    Returns:
        What was trained; None of a process that only helps another one.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    options = options or TrainOptions()
    check_output(out, overwrite=options.overwrite, inputs=input_paths(source))
    store = find_store(options.tracking, out)
    training = prepared(source, config, listener, options)
    training = training.measured(*training.cohort.input.measured(training.cohort.source, listener))
    out.parent.mkdir(parents=True, exist_ok=True)
    # A file without a name, beside OUT: it is gone with the process, however that ends.
    with tempfile.TemporaryFile(dir=out.parent) as scratch:
        data, columns = read_matrix(training.cohort, scratch, listener, workers=options.workers)
        refuse_much(training, columns, options.memory, listener)
        trained = complete(training, data, columns, out, listener, resume=options.resume)
    return None if trained is None else replace(trained, store=store)


@dataclass(frozen=True, eq=False)
class Training:
    """A training before its data are read: what is fitted, and to whom.

    Attributes:
        config: What is fitted.
        root: Where the cohort lies.
        cohort: The people of training.
        others: Those who are held out.
        ids: Key columns of both.
        covariates: Of both, as they were checked.
        frame: Of the people of training, in the schema's form.
        schema: The covariates, as fitted on them.
        person: Whom the report shows.
        units: The logarithms of what images' values are in units of (`measured_units`), where they are known already.
    """

    config: Config
    root: Path
    cohort: Cohort
    others: Cohort
    ids: pd.DataFrame
    covariates: CovariateTable
    frame: pd.DataFrame
    schema: CovariateSchema
    person: str | None
    units: pd.DataFrame | None = None

    def measured(self, kind: InputKind[Any], notes: Sequence[str]) -> "Training":
        """Return the same with what training measured of the data."""
        cohort = replace(self.cohort, input=kind, notes=(*self.cohort.notes, *notes))
        return replace(self, cohort=cohort, others=replace(self.others, input=kind))


def prepared(source: Place, config: Config, listener: Listener, options: TrainOptions) -> Training:
    """Read all of a cohort but its images, choose who is held out, and fit the schema.

    Args:
        source: The cohort.
        config: What to fit.
        listener: Who is told.
        options: How; ``only``, ``exclude``, ``hold_out`` and ``show`` are looked at.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    place = place_of(source)
    config = replace(config, input=with_changes(config.input, place))
    cohort = read_cohort(source, config.input, declared=config.covariates, only=options.only, exclude=options.exclude)
    listener.notes(cohort.notes)
    covariates = read_covariates(cohort.table, config.covariates, cohort.units, cohort.levels)
    cohort = cohort.select(covariates.frame.index)
    listener.say(f"{count_participants(cohort.table)} from {place.root}")
    listener.notes(covariates.notes)
    warn_of_slips(cohort, covariates, config, listener)
    held_out = _held_out(cohort, covariates.frame, config, options.hold_out, listener)
    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    others = cohort.select(held_out)
    cohort = cohort.select(cohort.table.index.difference(held_out, sort=False))
    refuse_unknown(options.show, cohort.table)
    frame, schema = fit_schema(cohort, covariates.frame, covariates.declared, listener)
    person = report_subject(options.show, cohort.table)
    return Training(config, place.root, cohort, others, ids, covariates, frame, schema, person)


def complete(
    training: Training, data: np.ndarray, columns: Columns, out: Path, listener: Listener, *, resume: bool = False
) -> Trained | None:
    """Fit the model to data that were read, and write all that belongs to it.

    Args:
        training: What is fitted, and to whom.
        data: A row a person of training, in memory or memory-mapped.
        columns: What its columns are.
        out: Where to write; replaced as a whole.
        listener: Who is told.
        resume: Whether to go on from the state that an interrupted training left beside OUT.

    Returns:
        What was trained; None of a process that only helps another one.
    """
    from medrep.report.build import write_report
    from medrep.report.data_store import write_report_data  # scikit-image takes seconds to import
    from medrep.report.data_training import training_report_data

    cohort, config, state = training.cohort, training.config, state_folder(out)
    whose = cohort.table["participant_id"].astype(str).tolist()
    dataset = Dataset(data, training.frame, training.schema, columns, whose)
    if not resume:
        shutil.rmtree(state, ignore_errors=True)
    fitted = fit(dataset, config, listener, state=state, resume=resume, tabular=cohort.input.tabular)
    if rank() > 0:
        return None
    listener.phase("fit what predicts covariates")
    readouts = fit_readouts(dataset, config, listener)
    notes = (*cohort.notes, *training.covariates.notes)
    listener.phase("draw what the report shows")
    exhibits = training_report_data(fitted.model, dataset, training.root.resolve().name, notes, training.person)
    held_out = training.others.table.index
    shift = calibrated(fitted.model, training.others, training.covariates.frame.loc[held_out], listener)
    listener.phase("write")
    saved = described(fitted, dataset, cohort, readouts, shift, units=training.units)
    model, history = fitted.model, fitted.history
    with output_folder(out) as partial:
        saved.save(partial / "model")
        part = np.where(training.ids.index.isin(held_out), HELD_OUT, TRAINED)
        write_tsv(partial / "people.tsv", training.ids.assign(part=part, data=fitted.marks))
        write_tsv(partial / "history.tsv", history)
        write_text(partial / "config.yaml", config.to_yaml())
        if (within := model.within_effects()) is not None:
            write_tsv(partial / "within_effects.tsv", within)
        if "effects" in model.capabilities:
            from medrep.derivatives.effects import write_effects  # libigl and scikit-image, which only shapes need

            effects = write_effects(partial / "effects", model, np.asarray(cohort.input.centre))
            _show_effects(listener, effects)
        listener.phase("write the report")
        write_report_data(partial, exhibits)
        write_report(partial)
    shutil.rmtree(state, ignore_errors=True)
    listener.notes(notes_on(left_alone(model)))
    _show_shares(listener, history)
    trained_on = (
        count_participants(cohort.table) if len(cohort) > cohort.table["participant_id"].nunique() else len(cohort)
    )
    return Trained(saved, history, str(trained_on), len(cohort), len(held_out), out, config)


def refuse_much(training: Training, columns: Columns, memory: float, listener: Listener) -> None:
    """Refuse whole images that take more memory than they may, and say of much what would make it less.

    Args:
        training: What is fitted, and to whom.
        columns: Of the data.
        memory: Bytes; 0: nobody has said.
        listener: Who is told.
    """
    if columns.grid is None:
        return
    images = Images(len(training.cohort), columns.grid.size, columns.count)
    needed = requirements(training.config, training.schema, training.frame, images)
    refuse_beyond(needed, memory, columns.mask is not None)
    if needed is not None and not memory and needed.train_memory > usual_memory():
        listener.warn(needed.much(columns.mask is not None))


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
    warn_of_interactions(some, dataset.covariates, dataset.schema, config, listener, dataset.whose.tolist())
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
    return SavedModel(fitted.model, cohort.input, support, provenance, readouts, shift, unit)


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
    readout = Prediction.fit(name, dataset.values, known, seed=config.seed, participants=dataset.whose.tolist())
    few = f"; fewer than {FEW} people, so that its correction is uncertain" if dataset.people < FEW else ""
    listener.say(f"predict {name}: people left out of the fit, mean error {readout.mae:.3g}, R2 {readout.r2:.2f}{few}")
    return readout


def _held_out(cohort: Cohort, frame: pd.DataFrame, config: Config, share: float, listener: Listener) -> pd.Index:
    """Return the keys of people who are kept from training."""
    if not share:
        return cohort.table.index[:0]
    if not 0 < share < 1:
        raise CohortError(f"--hold-out {share:g}: give a share between 0 and 1, for instance 0.3")
    batches = [covariate.name for covariate in config.covariates if covariate.role == "batch"]
    table = cohort.table[["participant_id"]].assign(**{name: frame[name].astype(str) for name in batches[:1]})
    stratify = batches[0] if batches else None
    part = split_participants(table, (1 - share, share), stratify=stratify, seed=config.seed)
    listener.say(
        f"{count_participants(cohort.table[part == 1]).removesuffix(' people')} of them held out; audit takes these by itself"
    )
    return cohort.table.index[part == 1]


def state_folder(out: Path) -> Path:
    """Return where a training keeps its state until it is done: hidden, beside OUT."""
    return out.parent / f".{out.name}.training"


def _show_shares(listener: Listener, history: pd.DataFrame) -> None:
    shares = history[history["metric"] == "variance_share"]
    rows = [(str(name), f"{100 * value:.1f} %") for name, value in zip(shares["name"], shares["value"], strict=True)]
    if rows:
        listener.table("Variance explained (mean over columns)", ("covariate", "share"), rows)


def _show_effects(listener: Listener, effects: pd.DataFrame) -> None:
    rows = [
        (
            f"{row['covariate']} {shown(row['before'])} -> {shown(row['after'])}",
            f"{row['mean_mm']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})",
            f"{row['volume_change_percent']:+.1f} %",
            f"{100 * row['surface_share_not_zero']:.0f} %",
        )
        for row in effects.to_dict("records")
    ]
    headings = ("covariate", "mean mm outward (95 %)", "volume", "surface that moves for sure")
    listener.table("What covariates do to the organ", headings, rows)


def calibrated(model: Model, cohort: Cohort, frame: pd.DataFrame, listener: Listener) -> ShiftGate | None:
    """Return the shift gate of a model; None, with a word, where too few people were held out.

    Args:
        model: The model.
        cohort: The people who were held out, with what training measured in its ``input``.
        frame: Their checked covariates.
        listener: Who is told.
    """
    frame = _known(model.schema, frame)
    # Scans of one person are alike, and several would make everybody else's p too small: the first counts.
    frame = frame[~cohort.table.loc[frame.index, "participant_id"].astype(str).duplicated().to_numpy()]
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


def log_run(trained: Trained, experiment: str = "medrep", listener: Listener = SILENT) -> None:
    """Tell MLflow configuration, history and which model it was, and no person's data; nothing where no store was asked for.

    A store that is away is one warning, since the model is safe in OUT, whose name is the run's name.

    Args:
        trained: What `train` returned.
        experiment: The MLflow experiment.
        listener: Who is told.
    """
    store, out, config = trained.store, trained.out, trained.config
    if store is None:
        return
    listener.phase("log the run")
    try:
        from medrep.tracking.download import DIGEST
        from medrep.tracking.runs import log_training  # MLflow takes seconds to import

        cohort = {"people": trained.rows, "columns": trained.saved.model.columns.count}
        tags = {
            "medrep.version": __version__,
            "medrep.model": config.model,
            DIGEST: digest(out / "model"),
        }
        run = log_training(
            store,
            experiment,
            out.resolve().name,
            parameters={**yaml.safe_load(config.to_yaml()), "cohort": cohort},
            history=trained.history,
            artifacts=[out / name for name in _LOGGED],
            tags=tags,
        )
    except Exception as error:
        reason = " ".join(store.hide(str(error)).split())
        listener.warn(f"not logged to {store.hide(store.uri)}: {reason[:300] or type(error).__name__}")
    else:
        listener.say(f"run:   {run} of experiment {experiment} in {store.hide(store.uri)}")
