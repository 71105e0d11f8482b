"""``train``: cohort + configuration -> a model folder, and what MLflow is told of it."""

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
from medrep._files import output_folder, write_text
from medrep.cohort.cohort import Cohort, read_cohort, read_matrix, with_changes
from medrep.cohort.columns import CovariateTable, read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.files import Place
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import SILENT, InputKind, Listener
from medrep.cohort.parsing import shown
from medrep.cohort.participants import KEY_COLUMNS, count_participants
from medrep.cohort.splits import split_participants
from medrep.config import Config
from medrep.derivatives.bids import write_tsv
from medrep.errors import CohortError
from medrep.models.left_alone import left_alone, notes_on
from medrep.models.requirements import Images, refuse_beyond, usual_memory
from medrep.models.saved import SavedModel, digest
from medrep.tracking.store import Store, find_store
from medrep.training.schedule import rank
from medrep.workflows.check import requirements
from medrep.workflows.cohorts import check_output, input_paths, place_of, refuse_unknown, report_subject
from medrep.workflows.fitting import calibrated, described, fit, fit_readouts, fit_schema, warn_of_slips

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
        held_out: How many people were kept from it.
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
        source, others = kind.as_measured(self.cohort.source), kind.as_measured(self.others.source)
        cohort = replace(self.cohort, input=kind, source=source, notes=(*self.cohort.notes, *notes))
        return replace(self, cohort=cohort, others=replace(self.others, input=kind, source=others))


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
    dataset = Dataset(data, training.frame, training.schema, columns, whose, groups=cohort.groups)
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
    if "effects" in fitted.model.capabilities:
        listener.phase("measure how organs lie")
    saved = described(fitted, dataset, cohort, readouts, shift, units=training.units)
    listener.phase("write")
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
            from medrep.derivatives.effects import write_effects, write_pose  # libigl and scikit-image: only of shapes

            effects = write_effects(partial / "effects", model, np.asarray(cohort.input.centre))
            _show_effects(listener, effects)
            if saved.pose is not None:
                _show_pose(listener, write_pose(partial / "effects", saved.pose), shared=saved.pose.shared_space)
        listener.phase("write the report")
        write_report_data(partial, exhibits)
        write_report(partial)
    shutil.rmtree(state, ignore_errors=True)
    listener.notes(notes_on(left_alone(model)))
    _show_shares(listener, history)
    trained_on = (
        count_participants(cohort.table) if len(cohort) > cohort.table["participant_id"].nunique() else len(cohort)
    )
    kept = int(training.others.table["participant_id"].nunique())
    return Trained(saved, history, str(trained_on), len(cohort), kept, out, config)


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


def _held_out(cohort: Cohort, frame: pd.DataFrame, config: Config, share: float, listener: Listener) -> pd.Index:
    """Return the keys of people who are kept from training."""
    if not share:
        return cohort.table.index[:0]
    if not 0 < share < 1:
        raise CohortError(f"--hold-out {share:g}: give a share between 0 and 1, for instance 0.3")
    batches = [covariate.name for covariate in config.covariates if covariate.role == "batch"]
    table = pd.DataFrame({"participant_id": list(cohort.tied)}, cohort.table.index)
    table = table.assign(**{name: frame[name].astype(str) for name in batches[:1]})
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
    apart = ["structure"] if "structure" in effects else []
    rows = [
        (
            *(str(row[name]) for name in apart),
            f"{row['covariate']} {shown(row['before'])} -> {shown(row['after'])}",
            f"{row['mean_mm']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})",
            f"{row['volume_change_percent']:+.1f} %",
            f"{100 * row['surface_share_not_zero']:.0f} %",
        )
        for row in effects.to_dict("records")
    ]
    headings = (*apart, "covariate", "mean mm outward (95 %)", "volume", "surface that moves for sure")
    listener.table("What covariates do to the organ", headings, rows)


def _show_pose(listener: Listener, poses: pd.DataFrame, *, shared: bool) -> None:
    clear = poses[(poses["ci_low"] > 0) | (poses["ci_high"] < 0)]
    rows = [
        (
            f"{row['covariate']} {shown(row['before'])} -> {shown(row['after'])}",
            row["pose"],
            f"{row['estimate']:+.2f} ({row['ci_low']:+.2f} to {row['ci_high']:+.2f}) {row['unit']}",
        )
        for row in clear.to_dict("records")
    ]
    if rows:
        title = "Position, not shape: what goes with how organs lie"
        title += "" if shared else " (people share no space: it is how images were cut, and no anatomy)"
        listener.table(title, ("covariate", "", "95 %"), rows)


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

        cohort = {"people": trained.saved.provenance.people, "columns": trained.saved.model.columns.count}
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
