"""People whom a trained model meets: the model as saved, their covariates in its schema, and sites that training did not have."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.earlier import refuse_again
from medrep.cohort.features import in_columns, missing_cells
from medrep.cohort.kinds import InputKind
from medrep.cohort.participants import count_people
from medrep.cohort.support import outside_training, ranges_outside, refuse_far
from medrep.console import Console
from medrep.errors import CohortError, listed
from medrep.models import Adaptation, Model
from medrep.models.left_alone import summed, unmeasured
from medrep.models.saved import SavedModel

REGISTERED = "models:/"


def load_trained(address: Path) -> SavedModel:
    """Load a model and what was saved with it.

    Args:
        address: A model folder, or ``models:/NAME@ALIAS`` (``models:/NAME/VERSION``) of the registry that MLFLOW_TRACKING_URI
            names, or else of mlflow.db in the current folder.

    Raises:
        ModelError: Damaged or foreign.
        RegistryError: No such version, or an alias whose version no gate passed.
    """
    if not str(address).startswith(REGISTERED):
        return SavedModel.load(address)
    from medrep.tracking.fetched import fetched_model  # MLflow takes seconds to import

    with fetched_model(str(address)) as folder:
        return SavedModel.load(folder, str(address))


def read_newcomers(
    root: Path,
    schema: CovariateSchema,
    wanted: InputKind[Any],
    console: Console,
    *,
    unseen_site: Literal["error", "adapt"] = "error",
    extrapolate: bool = False,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tolerant: bool = False,
) -> tuple[Cohort, pd.DataFrame]:
    """Read people and their covariates in the form of a schema.

    Args:
        root: The cohort.
        schema: Of the model.
        wanted: The kind of input, as in training.
        console: Where to speak.
        unseen_site: What sites that training did not have do.
        extrapolate: Whether people far outside the range of training are taken.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        tolerant: Whether people without exactly one usable file are kept, with their problem.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    cohort = read_cohort(root, wanted, only=only, exclude=exclude, tolerant=tolerant)
    console.notes(cohort.notes)
    covariates = read_covariates(cohort.table, schema.declared, cohort.units, cohort.levels)
    cohort = cohort.select(covariates.frame.index)
    console.say(f"{count_people(cohort.table)} from {root}")
    console.notes(covariates.notes)
    frame = schema.transfer(covariates.frame, unseen=unseen_site)
    check_range(schema, frame, console, extrapolate=extrapolate)
    return cohort, frame


def check_range(schema: CovariateSchema, frame: pd.DataFrame, console: Console, *, extrapolate: bool) -> None:
    """Say who lies outside the range of training, and refuse those who are far outside.

    Args:
        schema: Of the model.
        frame: Covariates in its form.
        console: Where to speak.
        extrapolate: Whether people far outside are taken.

    Raises:
        CovariateError: Everybody who is far outside.
    """
    found = outside_training(schema, frame)
    if not extrapolate:
        refuse_far(found)
    far, near = ([one for one in found if one.far is wanted] for wanted in (True, False))
    if near:
        more = f", and {len(near) - 5} more" if len(near) > 5 else ""
        console.notes([f"a little outside the people of training: {'; '.join(one.said for one in near[:5])}{more}"])
    if far:
        console.warn(listed("extrapolated: people far outside those of training", [one.said for one in far]))


def check_earlier(cohort: Cohort, saved: SavedModel, console: Console, moved: Sequence[str] = ()) -> None:
    """Say what medrep has done to the data already, and refuse to take the same away again.

    Args:
        cohort: The people.
        saved: The model: whether it was trained on such data.
        console: Where to speak.
        moved: Covariates that are to be moved.

    Raises:
        CohortError: One of them was moved already, and not in the data of training.
    """
    known = saved.provenance.moved
    refuse_again(cohort.earlier, moved, known)
    done = {name for one in cohort.earlier for name in one.covariates}
    for one in cohort.earlier:
        if not one.covariates or set(one.covariates) - set(known):
            console.warn(f"{one.done}; the model was trained on other data, which had these effects")
    lacking = [name for name in known if name not in done]
    if lacking:
        console.warn(
            f"the model was trained on data that medrep had moved along {', '.join(lacking)}; nothing says so of these data"
        )


def note_unplaced(model: Model, wanted: InputKind[Any], console: Console) -> None:
    """Say that a model of images does not know where in the world its training images lay: models of before that was kept."""
    grid = model.columns.grid
    if wanted.in_world and grid is not None and grid.world is None:
        console.notes(
            [
                "the model does not say where its images lay in the world (it was written by an earlier medrep), so it is not"
                " checked whether these lie there, too; train it again to have that checked"
            ]
        )


def adapted_model(
    model: Model, cohort: Cohort, frame: pd.DataFrame, console: Console
) -> tuple[Model, tuple[Adaptation, ...]]:
    """Return the model with sites that training did not have, estimated from their own people, and what was estimated.

    People who cannot be read are left to whoever writes or scores them.
    """
    keys = strange_people(model, frame.loc[cohort.table.index])
    if not len(keys):
        return model, ()
    people = cohort.input.adapting(cohort.source.select(keys), model.columns, console)
    model, notes = model.adapt(model.dataset(rows, frame.loc[some]) for some, rows in people)
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
    return replace(note, outside="; ".join(ranges_outside(model.schema, own)))


def strange_people(model: Model, frame: pd.DataFrame) -> pd.Index:
    """Return the keys of people with a batch level that training did not have."""
    strange = pd.Series(False, index=frame.index)
    for name in [name for name in model.schema.batches if name in frame]:  # nobody's label is looked at without columns
        strange |= ~frame[name].isin(model.schema.levels(name))
    return frame.index[strange]


def refuse_holes(cohort: Cohort) -> None:
    """Refuse features that are missing, unless the model was trained to leave them out (``input.missing: keep``).

    Raises:
        CohortError: Every person and column.
    """
    holes = missing_cells(cohort.source.features)
    if holes and not cohort.input.keeps_missing:
        cure = "mend them, or leave the people out with --exclude"
        raise CohortError(listed("features that are missing", holes, cure))


def refuse_unmeasured(
    model: Model,
    cohort: Cohort,
    frame: pd.DataFrame,
    console: Console,
    target: "Mapping[str, str | float] | None" = None,
) -> None:
    """Refuse values of which the model knows no effect, since nobody of a level had the column in training.

    With ``input.missing: keep`` they come back missing instead, which is said. Of images nobody is refused.

    Args:
        model: The model.
        cohort: The people.
        frame: Their covariates.
        console: Where to speak.
        target: Where people are moved to; None where they are only scored.

    Raises:
        CohortError: Every person, column and level.
    """
    if not cohort.input.tabular:
        return
    features = in_columns(cohort.source.features.rows(frame.index), model.columns.names)
    cells = unmeasured(model, model.dataset(features.values, frame), target)
    if not cells:
        return
    if not cohort.input.keeps_missing:
        cure = "leave them out with --exclude, or train with people of that level who have the column"
        raise CohortError(listed("features without an effect to remove", [str(cell) for cell in cells], cure))
    what = "are left out of the scores" if target is None else "come back missing"
    console.notes([f"values {what}, since nobody of the level had them in training: {', '.join(summed(cells))}"])
