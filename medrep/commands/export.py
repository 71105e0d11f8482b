"""``medrep export``: cohort + model -> the same cohort without the effects of chosen covariates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from medrep.atomic import atomic_folder
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.features import missing_cells
from medrep.cohort.inputs import Input
from medrep.cohort.participants import KEY_COLUMNS
from medrep.commands.folders import check_output
from medrep.config import parse_input
from medrep.console import Console
from medrep.errors import CohortError, CovariateError, MedrepError, listed
from medrep.export.derivative import Failure, Removal, write_description, write_failures, write_tsv
from medrep.export.features import align_features, export_features
from medrep.models import Adaptation, Model, restore_model
from medrep.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class ExportRequest:
    """What the person asked for.

    Attributes:
        remove: Covariates to remove.
        keep: Covariates named as kept; everything that is not removed is kept, named or not.
        references: Removed covariate -> value to move to, where it is not the model's default.
        unseen_site: ``error``, or ``adapt`` to estimate batch levels that training did not have.
        only: Participants to export; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
    """

    remove: tuple[str, ...]
    keep: tuple[str, ...] = ()
    references: Mapping[str, str] | None = None
    unseen_site: Literal["error", "adapt"] = "error"
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False


def export(root: Path, out: Path, model_folder: Path, request: ExportRequest, console: Console) -> int:
    """Write a BIDS derivative of the cohort with effects removed.

    Args:
        root: The cohort.
        out: Where to write; it appears only when it is complete.
        model_folder: What `train` wrote to OUT/model.
        request: What to remove.
        console: Where to speak.

    Returns:
        How many people could not be delivered; they stand in failures.tsv.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    check_output(out, overwrite=request.overwrite, inputs=(root, model_folder))
    model, wanted = load_model(model_folder)
    target = checked_target(model.schema, request)
    cohort, frame = _people(root, model.schema, wanted, request, console)
    model, adapted = _adapted(model, cohort, frame, wanted, console)
    # A level nobody of whom could be read stays unknown; those people stand in failures.tsv.
    frame = model.schema.transfer(frame, unseen=request.unseen_site)
    kept = tuple(name for name in model.schema.names if name not in request.remove)
    done = Removal(str(model_folder), model.kind, request.remove, kept, target, adapted)
    with atomic_folder(out) as partial:
        failures = _write_data(partial, model, cohort, frame, target, wanted, done, console)
        if len(failures) == len(cohort):
            raise CohortError(listed("nobody could be delivered", [f"{f.participant}: {f.error}" for f in failures]))
        lost = {failure.participant for failure in failures}
        write_tsv(partial / "participants.tsv", cohort.table[[str(key) not in lost for key in cohort.table.index]])
        if adapted:
            write_tsv(partial / "adapted.tsv", pd.DataFrame([vars(adaptation) for adaptation in adapted]))
        write_failures(partial / "failures.tsv", failures)
        write_description(
            partial, f"{root.resolve().name} without {', '.join(request.remove)}", [root.name], done.to_json()
        )
    _summary(console, out, len(cohort), failures, done)
    return len(failures)


def load_model(folder: Path) -> tuple[Model, Input]:
    """Load a model folder and the input section it was trained with.

    Raises:
        ModelError: Damaged or foreign.
    """
    checkpoint = load_checkpoint(folder)
    return restore_model(checkpoint.kind, checkpoint.content, checkpoint.arrays), parse_input(
        checkpoint.input, str(folder)
    )


def checked_target(schema: CovariateSchema, request: ExportRequest) -> dict[str, str | float]:
    """Return removed covariate -> reference.

    Raises:
        CovariateError: Names that the model does not know, both removed and kept, or nothing to remove.
    """
    unknown = [name for name in (*request.remove, *request.keep) if name not in schema.names]
    if unknown:
        raise CovariateError(
            f"the model does not know {', '.join(unknown)}; it was trained with {', '.join(schema.names)}"
        )
    both = sorted(set(request.remove) & set(request.keep))
    if both:
        raise CovariateError(f"{', '.join(both)}: both in --remove and in --keep; name each once")
    if not request.remove:
        raise CovariateError(f"nothing to remove; name one or more of {', '.join(schema.names)}")
    return schema.references(request.remove, request.references)


def _people(
    root: Path, schema: CovariateSchema, wanted: Input, request: ExportRequest, console: Console
) -> tuple[Cohort, pd.DataFrame]:
    cohort = read_cohort(root, wanted, only=request.only, exclude=request.exclude)
    covariates = read_covariates(cohort.table, [fitted.declared for fitted in schema.fitted], cohort.units)
    cohort = cohort.select(covariates.frame.index)
    console.say(f"{len(cohort)} people from {root}")
    console.notes((*cohort.notes, *covariates.notes))
    return cohort, schema.transfer(covariates.frame, unseen=request.unseen_site)


def _adapted(
    model: Model, cohort: Cohort, frame: pd.DataFrame, wanted: Input, console: Console
) -> tuple[Model, tuple[Adaptation, ...]]:
    strange = pd.Series(False, index=frame.index)
    for name in model.schema.batches:
        strange |= ~frame[name].isin(model.schema.levels(name))
    if not strange.any():
        return model, ()
    keys = frame.index[strange]
    if cohort.features is not None:
        aligned = align_features(model, cohort.features).rows(keys)
        model, notes = model.adapt([(aligned.values, frame.loc[keys])])
    else:
        from medrep.export.volumes import adapt_volumes  # MONAI takes seconds to import and only volumes need it

        with console.track("adapt to unseen sites", len(keys)) as advance:
            model, notes = adapt_volumes(model, _files(cohort).loc[keys], frame, wanted, advance)
    for note in notes:
        error = f"location known to {note.location_se:.2f} sd"
        console.say(f"  adapted: {note.covariate} {note.level!r} from {note.people} of its people ({error})")
    return model, notes


def _write_data(
    folder: Path,
    model: Model,
    cohort: Cohort,
    frame: pd.DataFrame,
    target: Mapping[str, str | float],
    wanted: Input,
    done: Removal,
    console: Console,
) -> list[Failure]:
    if cohort.features is not None:
        holes = missing_cells(cohort.features)
        if holes and wanted.missing == "error":
            raise CohortError(
                listed("features that are missing", holes, "mend them, or leave the people out with --exclude")
            )
        export_features(folder, model, cohort.features, frame, target, done)
        return []
    from medrep.export.volumes import export_volumes  # MONAI takes seconds to import and only volumes need it

    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    with console.track("export", len(cohort)) as advance:
        return export_volumes(
            folder, cohort.root, model, _files(cohort), frame, target, wanted, done, ids, advance=advance
        )


def _files(cohort: Cohort) -> pd.Series:
    if cohort.files is None:
        raise MedrepError("the cohort has no images; set input.kind as in training")
    return cohort.files


def _summary(console: Console, out: Path, people: int, failures: list[Failure], done: Removal) -> None:
    moved = ", ".join(
        f"{name} -> {value:.4g}" if isinstance(value, float) else f"{name} -> {value}"
        for name, value in done.references.items()
    )
    console.say(
        f"{people - len(failures)} of {people} people written to {out} ({moved}; kept: {', '.join(done.kept) or 'none'})"
    )
    if failures:
        console.say(listed("failed", [f"{f.participant}: {f.error}" for f in failures], f"see {out / 'failures.tsv'}"))
