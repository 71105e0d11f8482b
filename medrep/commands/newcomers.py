"""People whom a trained model meets: the model as saved, their covariates in its schema, and sites that training did not have."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import pandas as pd

from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.features import FeatureTable, missing_cells
from medrep.cohort.inputs import Input, saved_input
from medrep.cohort.support import outside_training
from medrep.console import Console
from medrep.errors import CohortError, MedrepError, listed
from medrep.export.features import align_features
from medrep.models import Adaptation, Model, restore_model
from medrep.training.checkpoint import Checkpoint, load_checkpoint

REGISTERED = "models:/"
Trained: TypeAlias = tuple[Checkpoint, Model, Input]
"""What was saved, the model, and the input section it was trained with."""


def load_trained(address: Path) -> Trained:
    """Load a model: what was saved, the model, and the input section it was trained with.

    Args:
        address: A model folder, or ``models:/NAME@ALIAS`` (``models:/NAME/VERSION``) of the registry that MLFLOW_TRACKING_URI
            names, or else of mlflow.db in the current folder.

    Raises:
        ModelError: Damaged or foreign.
        RegistryError: No such version, or an alias whose version no gate passed.
    """
    if str(address).startswith(REGISTERED):
        from medrep.tracking.fetched import fetched_model  # MLflow takes seconds to import

        with fetched_model(str(address)) as folder:
            checkpoint = load_checkpoint(folder)
    else:
        checkpoint = load_checkpoint(address)
    model = restore_model(checkpoint.kind, checkpoint.content, checkpoint.arrays)
    return checkpoint, model, saved_input(checkpoint.input, str(address))


def read_newcomers(
    root: Path,
    schema: CovariateSchema,
    wanted: Input,
    console: Console,
    *,
    unseen_site: Literal["error", "adapt"] = "error",
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tolerant: bool = False,
) -> tuple[Cohort, pd.DataFrame]:
    """Read people and their covariates in the form of a schema.

    Args:
        root: The cohort.
        schema: Of the model.
        wanted: The ``input`` section of training.
        console: Where to speak.
        unseen_site: What sites that training did not have do.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        tolerant: Whether people without exactly one usable file are kept, with their problem.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    cohort = read_cohort(root, wanted, only=only, exclude=exclude, tolerant=tolerant)
    covariates = read_covariates(cohort.table, [fitted.declared for fitted in schema.fitted], cohort.units)
    cohort = cohort.select(covariates.frame.index)
    console.say(f"{len(cohort)} people from {root}")
    console.notes((*cohort.notes, *covariates.notes))
    return cohort, schema.transfer(covariates.frame, unseen=unseen_site)


def adapted_model(
    model: Model, cohort: Cohort, frame: pd.DataFrame, wanted: Input, console: Console
) -> tuple[Model, tuple[Adaptation, ...]]:
    """Return the model with sites that training did not have, estimated from their own people, and what was estimated."""
    keys = strange_people(model, frame.loc[cohort.table.index])
    if not len(keys):
        return model, ()
    if cohort.features is not None:
        aligned = align_features(model, cohort.features).rows(keys)
        model, notes = model.adapt([(aligned.values, frame.loc[keys])])
    else:
        with console.track("adapt to unseen sites", len(keys)) as advance:
            model, notes = _adapt_images(model, image_files(cohort).loc[keys], frame, wanted, advance)
    told = tuple(_placed(note, model, frame.loc[keys]) for note in notes)
    for note in told:
        effects = "covariates' effects taken as known" if note.effect_se is None else f"{note.effect_se:.2f} by effects"
        error = f"location known to {note.location_se:.2f} sd, {effects}"
        console.say(f"  adapted: {note.covariate} {note.level!r} from {note.people} of its people ({error})")
        if note.outside:
            console.warn(
                f"{note.covariate} {note.level!r}: its people leave the range of training ({note.outside}); what covariates do"
                " there is extrapolated, and what that misses is taken for the site's"
            )
    return model, told


def _placed(note: Adaptation, model: Model, frame: pd.DataFrame) -> Adaptation:
    """Add in which covariates the level's people leave the range of training."""
    own = frame[frame[note.covariate].astype(str) == note.level]
    return replace(note, outside="; ".join(outside_training(model.schema, own)))


def strange_people(model: Model, frame: pd.DataFrame) -> pd.Index:
    """Return the keys of people with a batch level that training did not have."""
    strange = pd.Series(False, index=frame.index)
    for name in [name for name in model.schema.batches if name in frame]:  # nobody's label is looked at without columns
        strange |= ~frame[name].isin(model.schema.levels(name))
    return frame.index[strange]


def refuse_holes(features: FeatureTable, wanted: Input) -> None:
    """Refuse features that are missing, unless the model was trained to leave them out (``input.missing: keep``).

    Raises:
        CohortError: Every person and column.
    """
    holes = missing_cells(features)
    if holes and wanted.missing == "error":
        cure = "mend them, or leave the people out with --exclude"
        raise CohortError(listed("features that are missing", holes, cure))


def image_files(cohort: Cohort) -> pd.Series:
    """Return the paths of a cohort of images, index: key.

    Raises:
        MedrepError: A cohort of features.
    """
    if cohort.files is None:
        raise MedrepError("the cohort has no images; set input.kind as in training")
    return cohort.files


def _adapt_images(
    model: Model, files: pd.Series, frame: pd.DataFrame, wanted: Input, advance: Callable[[int], None]
) -> tuple[Model, tuple[Adaptation, ...]]:
    if wanted.kind == "shape":
        from medrep.export.shapes import adapt_shapes

        return adapt_shapes(model, files, frame, wanted, advance)
    from medrep.export.volumes import adapt_volumes

    return adapt_volumes(model, files, frame, wanted, advance)
