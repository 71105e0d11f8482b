"""``medrep train``: cohort + configuration -> a model folder."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medrep.atomic import write_text
from medrep.audit.interactions import sample_columns
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.fingerprints import cohort_fingerprint, row_fingerprint
from medrep.cohort.participants import KEY_COLUMNS, count_people
from medrep.cohort.plausibility import refuse_codes
from medrep.cohort.slips import feature_slips, moved_already, repeated_scans, same_data
from medrep.cohort.splits import split_people
from medrep.cohort.support import Support
from medrep.cohort.training_rows import TrainingRows, row_trace
from medrep.cohort.values import shown
from medrep.commands.calibration import calibrated
from medrep.commands.folders import check_output
from medrep.commands.interacting import warn_of_interactions
from medrep.commands.matrix import cohort_matrix
from medrep.commands.showing import refuse_strangers, shown_key
from medrep.commands.tracked import track_training
from medrep.config import Config
from medrep.console import Console
from medrep.errors import CohortError
from medrep.export.derivative import write_tsv
from medrep.models import MODELS, Model, Workplace
from medrep.models.left_alone import left_alone, notes_on
from medrep.models.readouts import Readout
from medrep.models.saved import Provenance, SavedModel
from medrep.models.unshrinking import FEW
from medrep.outputs import output_folder
from medrep.tracking.stores import find_store
from medrep.training.processes import rank, together

TRAINED, HELD_OUT = "train", "held-out"


def train(
    root: Path,
    out: Path,
    config: Config,
    console: Console,
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    workers: int = 0,
    resume: bool = False,
    hold_out: float = 0.0,
    tracking: str | None = None,
    experiment: str = "medrep",
    show: str = "",
) -> Model:
    """Fit the configured model and write OUT/model, history.tsv, config.yaml, people.tsv and report.html.

    Args:
        root: The cohort.
        out: Where to write; replaced as a whole.
        config: What to fit.
        console: Where to speak.
        only: Participants to use; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
        workers: Processes that read volumes ahead.
        resume: Whether to go on from the state that an interrupted training left beside OUT.
        hold_out: Share of participants who are kept from training, for an audit; the same share of every batch level.
        tracking: Where the run is logged once OUT is written: ``auto``, ``none`` or a URI, see `find_store`; None: nowhere.
        experiment: The MLflow experiment it is logged to.
        show: Whom the report shows; the first person if empty, ``nobody`` for none.

    Returns:
        The model.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    from medrep.exhibits.store import write_exhibits  # scikit-image takes seconds to import
    from medrep.exhibits.trained import training_exhibits
    from medrep.report.build import write_report

    check_output(out, overwrite=overwrite, inputs=(root,))
    store = find_store(tracking, out)
    cohort = read_cohort(root, config.input, only=only, exclude=exclude)
    console.notes(cohort.notes)
    covariates = read_covariates(cohort.table, config.covariates, cohort.units, cohort.levels)
    cohort = cohort.select(covariates.frame.index)
    console.say(f"{count_people(cohort.table)} from {root}")
    console.notes(covariates.notes)
    doubts = refuse_codes(covariates.frame, covariates.declared)
    for line in (*doubts, *moved_already(cohort.earlier, config.covariates), *repeated_scans(cohort.table)):
        console.warn(line)
    held_out = _held_out(cohort, covariates.frame, config, hold_out, console)
    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    others = cohort.select(held_out)
    cohort = cohort.select(cohort.table.index.difference(held_out, sort=False))
    refuse_strangers(show, cohort.table)
    known = covariates.frame.loc[cohort.table.index]
    schema = CovariateSchema.fit(known, covariates.declared)
    frame = schema.transfer(known)
    for line in feature_slips(cohort.source.features, frame, schema):
        console.warn(line)
    kind, found = cohort.input.measured(cohort.source, console)
    cohort = replace(cohort, input=kind, notes=(*cohort.notes, *found))
    out.parent.mkdir(parents=True, exist_ok=True)
    # A file without a name, beside OUT: it is gone with the process, however that ends.
    with tempfile.TemporaryFile(dir=out.parent) as scratch:
        data, columns = cohort_matrix(cohort, console, scratch, workers)
        some = np.asarray(data[:, sample_columns(columns.count)])
        whose = cohort.table["participant_id"].astype(str).tolist()
        dataset = Dataset(data, frame, schema, columns, whose)
        warn_of_interactions(some, frame, schema, config, console, whose)
        # Images lie on the disk: both are taken of a row while it is at hand.
        taken = [(row_fingerprint(row), row_trace(row)) for row in data]
        marks = pd.Series([mark for mark, _ in taken], index=cohort.table.index)
        for line in [] if cohort.input.tabular else same_data(marks.to_dict()):
            console.warn(line)
        state = state_folder(out)
        if not resume:
            shutil.rmtree(state, ignore_errors=True)
        with together(), console.track("fit", columns.count, "columns") as advance:
            work = Workplace(advance, console.say, state, resume, console.phase)
            model, history = MODELS[config.model].fit(dataset, config.settings, seed=config.seed, work=work)
        if rank() > 0:
            return model
        console.phase("fit what predicts covariates")
        readouts = tuple(_readout(name, data, frame, config, console, whose) for name in config.predict)
        notes = (*cohort.notes, *covariates.notes)
        person = shown_key(show, cohort.table)
        console.phase("draw what the report shows")
        exhibits = training_exhibits(model, dataset, root.resolve().name, notes, person)
    shift = calibrated(model, replace(others, input=cohort.input), covariates.frame.loc[held_out], console)
    console.phase("write")
    fingerprint = cohort_fingerprint(marks)
    rows = TrainingRows.of([trace for _, trace in taken], fingerprint, config.seed)
    with output_folder(out) as partial:
        moved = tuple(sorted({name for one in cohort.earlier for name in one.covariates}))
        provenance = Provenance(len(set(whose)), fingerprint, rows, moved)
        support = Support.fit(schema, frame, whose)
        SavedModel(model, cohort.input, support, provenance, readouts, shift).save(partial / "model")
        write_tsv(
            partial / "people.tsv", ids.assign(part=np.where(ids.index.isin(held_out), HELD_OUT, TRAINED), data=marks)
        )
        write_tsv(partial / "history.tsv", history)
        write_text(partial / "config.yaml", config.to_yaml())
        if "effects" in model.capabilities:
            from medrep.export.effects import write_effects  # libigl and scikit-image, which only shapes need

            effects = write_effects(partial / "effects", model, np.asarray(cohort.input.centre))
            _effect_summary(console, effects)
        console.phase("write the report")
        write_exhibits(partial, exhibits)
        write_report(partial)
    shutil.rmtree(state, ignore_errors=True)
    console.notes(notes_on(left_alone(model)))
    _summary(console, history)
    results = {"model": out / "model", "report": out / "report.html"}
    trained_on = count_people(cohort.table) if len(cohort) > cohort.table["participant_id"].nunique() else len(cohort)
    console.summary(f"trained a {config.model} model", f"{trained_on} trained on, {len(held_out)} held out", results)
    if store is not None:
        console.phase("log the run")
        track_training(store, experiment, out, config, history, len(cohort), model.columns.count, console)
    return model


def _readout(
    name: str, data: np.ndarray, frame: pd.DataFrame, config: Config, console: Console, whose: Sequence[str]
) -> Readout:
    """Fit what predicts a covariate from the data, and say how well."""
    readout = Readout.fit(name, data, frame[name].to_numpy(float), seed=config.seed, participants=whose)
    few = f"; fewer than {FEW} people, so that its correction is uncertain" if len(set(whose)) < FEW else ""
    console.say(f"predict {name}: people left out of the fit, mean error {readout.mae:.3g}, R2 {readout.r2:.2f}{few}")
    return readout


def _held_out(cohort: Cohort, frame: pd.DataFrame, config: Config, share: float, console: Console) -> pd.Index:
    """Return the keys of people who are kept from training."""
    if not share:
        return cohort.table.index[:0]
    if not 0 < share < 1:
        raise CohortError(f"--hold-out {share:g}: give a share between 0 and 1, for instance 0.3")
    batches = [covariate.name for covariate in config.covariates if covariate.role == "batch"]
    table = cohort.table[["participant_id"]].assign(**{name: frame[name].astype(str) for name in batches[:1]})
    stratify = batches[0] if batches else None
    part = split_people(table, (1 - share, share), stratify=stratify, seed=config.seed)
    console.say(
        f"{count_people(cohort.table[part == 1]).removesuffix(' people')} of them held out; audit takes these by itself"
    )
    return cohort.table.index[part == 1]


def state_folder(out: Path) -> Path:
    """Return where a training keeps its state until it is done: hidden, beside OUT."""
    return out.parent / f".{out.name}.training"


def _summary(console: Console, history: pd.DataFrame) -> None:
    shares = history[history["metric"] == "variance_share"]
    rows = [(str(name), f"{100 * value:.1f} %") for name, value in zip(shares["name"], shares["value"], strict=True)]
    if rows:
        console.table("Variance explained (mean over columns)", ("covariate", "share"), rows)


def _effect_summary(console: Console, effects: pd.DataFrame) -> None:
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
    console.table("What covariates do to the organ", headings, rows)
