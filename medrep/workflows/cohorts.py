"""Helpers of several verbs: output folders, saved models, the participants they meet, and whom a report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medrep._files import is_output, not_ours
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import cell_text, read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.features import in_columns, missing_cells
from medrep.cohort.files import CohortFiles, Place, cohort_files
from medrep.cohort.kinds import SILENT, InputKind, Listener
from medrep.cohort.participants import count_participants, label
from medrep.cohort.sidecars import refuse_again
from medrep.cohort.support import Outside, outside_training, refuse_far
from medrep.errors import CohortError, CovariateError, MedrepError, ModelError, few, listed
from medrep.models import Adaptation, Model
from medrep.models.left_alone import summed, unmeasured
from medrep.models.linear.scales import adapted_model, unknown_participants
from medrep.models.saved import SavedModel, refuse_other_kind

REGISTERED = "models:/"
NOBODY = "nobody"


@dataclass(frozen=True)
class Selection:
    """Which people a model meets, and whom it takes.

    Attributes:
        only: Participants; all if empty.
        exclude: Participants to leave out.
        unseen_site: What sites that training did not have do: ``error``, or ``adapt`` to estimate them from their own people.
        extrapolate: Whether people far outside the range of training are taken.
        tolerant: Whether people without exactly one usable file are kept, with their problem.
    """

    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    unseen_site: Literal["error", "adapt"] = "error"
    extrapolate: bool = False
    tolerant: bool = False


def check_output(out: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse an output folder that holds something already, or that lies in an input.

    Args:
        out: Where the command will write.
        overwrite: Whether the person allowed to replace it.
        inputs: Folders that are read.

    Raises:
        MedrepError: With what to do.
    """
    refuse_input(out, inputs)
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held and not is_output(out):
        raise MedrepError(not_ours(out, held))
    if held and not overwrite:
        raise MedrepError(f"{out}: already holds files; give another OUT, or pass --overwrite to replace the folder")


def refuse_input(out: Path, inputs: tuple[Path, ...]) -> None:
    """Refuse an output folder that is or holds an input, or that is no folder.

    Raises:
        MedrepError: With what to do.
    """
    for source in inputs:
        if out.resolve() == source.resolve() or source.resolve().is_relative_to(out.resolve()):
            raise MedrepError(f"{out}: is or holds the input {source}; give another OUT")
    if out.exists() and not out.is_dir():
        raise MedrepError(f"{out}: is a file; give a folder for OUT")


def inputs_of(source: Place | Cohort, model: Path | SavedModel) -> tuple[Path, ...]:
    """Return the folders that are read; none for what is at hand and lies nowhere."""
    address = model.address if isinstance(model, SavedModel) else str(model)
    return (*input_paths(source), *([Path(address)] if address else []))


def input_paths(source: Place | Cohort) -> tuple[Path, ...]:
    """Return the folder or files that a cohort is read from."""
    files = place_of(source)
    return tuple(path for path in (files.root, files.covariates, *files.more) if path is not None)


def place_of(source: Place | Cohort) -> CohortFiles:
    """Return where people lie, or come from."""
    if isinstance(source, Cohort):
        return source.files or CohortFiles(source.root)
    return cohort_files(source)


def load_trained(model: Path | SavedModel) -> SavedModel:
    """Load a model and what was saved with it.

    Args:
        model: A model folder, or ``models:/NAME@ALIAS`` (``models:/NAME/VERSION``) of the registry that MLFLOW_TRACKING_URI
            names, or else of mlflow.db in the current folder; or one that is at hand, which is returned as it is.

    Raises:
        ModelError: Damaged or foreign.
        RegistryError: No such version, or an alias whose version no gate passed.
    """
    if isinstance(model, SavedModel):
        return model
    if not str(model).startswith(REGISTERED):
        return SavedModel.load(model)
    from medrep.tracking.download import downloaded_model  # MLflow takes seconds to import

    with downloaded_model(str(model)) as folder:
        return SavedModel.load(folder, str(model))


def read_unseen(
    source: Place | Cohort, saved: SavedModel, who: Selection, listener: Listener = SILENT
) -> tuple[Cohort, pd.DataFrame]:
    """Read people and their covariates in the form of a model's schema.

    Args:
        source: A folder or a datalist, or people who were read already.
        saved: The model, with the kind of input it was trained with.
        who: Whom to take.
        listener: Who is told.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    schema = saved.model.schema
    cohort = _read(source, saved, who)
    listener.notes(cohort.notes)
    covariates = read_covariates(cohort.table, schema.declared, cohort.units, cohort.levels)
    cohort = cohort.select(covariates.frame.index)
    listener.say(f"{count_participants(cohort.table)} from {place_of(source).root}")
    listener.notes(covariates.notes)
    frame = schema.transfer(covariates.frame, unseen=who.unseen_site)
    check_range(schema, frame, listener, extrapolate=who.extrapolate)
    return cohort, frame


def reference_people(model: Model, cohort: Cohort, frame: pd.DataFrame, said: str) -> pd.Index | None:
    """Return the keys of people whom sites that training did not have are told from; None where nothing is said.

    Args:
        model: The model.
        cohort: Everybody, with all columns of their table.
        frame: Their covariates.
        said: ``COLUMN=VALUE``.

    Raises:
        CohortError: No such column or value, or a site none of whose people has it.
    """
    if not said:
        return None
    name, _, value = said.partition("=")
    table, option = cohort.table.loc[frame.index], f"--reference-people {said}"
    if not (name and value):
        raise CohortError(f"{option}: give COLUMN=VALUE, for instance diagnosis=TD")
    if name not in table:
        raise CohortError(f"{option}: the table of participants has no column {name}; it has {', '.join(table)}")
    own = table[name].map(cell_text)
    if not (own == value).any():
        raise CohortError(f"{option}: nobody has that; {name} is {few(sorted(set(own)))}")
    without = [
        f"{covariate} {level!r}: {name} of its people is {few(sorted(set(own[frame[covariate] == level])))}"
        for covariate in model.schema.batches
        for level in sorted(set(frame[covariate].astype(str)) - set(model.schema.levels(covariate)))
        if not (own[frame[covariate] == level] == value).any()
    ]
    if without:
        raise CohortError(
            listed(f"{option}: sites that training did not have, and none of whose people has it", without)
        )
    return frame.index[(own == value).to_numpy()]


def adapted_by(
    model: Model, cohort: Cohort, frame: pd.DataFrame, said: str, listener: Listener
) -> tuple[Model, tuple[Adaptation, ...], pd.Index]:
    """Return the model with sites that training did not have, what was estimated, and whom from, where ``said`` names some.

    See `reference_people` for the arguments and errors.
    """
    telling = reference_people(model, cohort, frame, said)
    own = cohort if telling is None else cohort.select(telling)
    known, adapted = adapted_model(model, own, frame, listener)
    return known, adapted, frame.index[:0] if telling is None else unknown_participants(model, frame.loc[telling])


def read_unlabelled(
    source: Place | Cohort, saved: SavedModel, who: Selection, listener: Listener = SILENT
) -> tuple[Cohort, pd.DataFrame]:
    """Read people whose covariates nobody looks at; the frame has no columns. See `read_unseen`."""
    cohort = _read(source, saved, who)
    listener.say(f"{count_participants(cohort.table)} from {place_of(source).root}; their covariates are not looked at")
    listener.notes(cohort.notes)
    return cohort, pd.DataFrame(index=cohort.table.index)


def _read(source: Place | Cohort, saved: SavedModel, who: Selection) -> Cohort:
    if not isinstance(source, Cohort):
        return read_cohort(
            source,
            saved.input,
            declared=saved.model.schema.declared,
            only=who.only,
            exclude=who.exclude,
            tolerant=who.tolerant,
        )
    refuse_other_kind(saved.input, source.input)
    return replace(source, input=saved.input.changed(group=source.input.group or saved.input.group))


def refuse_forms(wanted: InputKind[Any], mesh: str | None, *, matrix: bool = False) -> None:
    """Refuse meshes of what has no surface, and matrices of what are no edges.

    Raises:
        ModelError: Not a model of shapes, or of connectivity.
    """
    trained = f"the model was trained on {wanted.kind} data, which"
    if mesh is not None and not wanted.has_surface:
        raise ModelError(f"--mesh {mesh}: {trained} has no surface; leave it out")
    if matrix and not wanted.has_matrix:
        raise ModelError(f"--matrix: {trained} are no edges between regions; leave it out")


def check_pose(saved: SavedModel, frame: pd.DataFrame, *, wanted: bool, own: bool) -> None:
    """Refuse to move organs as a whole where the model does not say how.

    Args:
        saved: The model.
        frame: Covariates of the people.
        wanted: Whether organs are to be moved as a whole.
        own: Whether people are to be moved along their own trajectories.

    Raises:
        ModelError: No model of organs, or one that says nothing of how they lie, or of how they will.
        CovariateError: People of sites of which it is not known how organs lie there, all of them.
    """
    if not wanted:
        return
    if not saved.input.frames:
        raise ModelError(
            f"--with-pose: the model was trained on {saved.input.kind} data; only of shapes is it known how an organ lies; leave"
            " it out"
        )
    if refused := saved.model.refusal("effects"):
        raise ModelError(f"--with-pose: {refused}")
    if saved.pose is None:
        raise ModelError(
            "--with-pose: the model does not say what covariates do to how organs lie (an earlier medrep wrote it); train it"
            " again, or leave the option out"
        )
    if own:
        raise ModelError("--with-pose: people's own trajectories say nothing of how organs lie; give it with --set")
    unseen = saved.pose.effects.schema.unseen(frame)
    if unseen:
        told = [f"{frame.index[row]}: {name} {level}" for row, (name, level) in unseen]
        cure = "leave out --with-pose, or these people with --exclude"
        raise CovariateError(
            listed("--with-pose: training had nobody of these, and how organs lie there is unknown", told, cure)
        )


def check_range(schema: CovariateSchema, frame: pd.DataFrame, listener: Listener, *, extrapolate: bool) -> None:
    """Say who lies outside the range of training, and refuse those who are far outside.

    Args:
        schema: Of the model.
        frame: Covariates in its form.
        listener: Who is told.
        extrapolate: Whether people far outside are taken.

    Raises:
        CovariateError: Everybody who is far outside.
    """
    found = outside_training(schema, frame)
    if not extrapolate:
        refuse_far(found)
    far, near = ([one for one in found if one.far is wanted] for wanted in (True, False))
    if near:
        listener.notes([f"a little outside the people of training: {few([one.said for one in near], between='; ')}"])
    if far:
        listener.warn(listed("extrapolated: people far outside those of training", [one.said for one in far]))


def check_earlier(cohort: Cohort, saved: SavedModel, listener: Listener, transformed: Sequence[str] = ()) -> None:
    """Say what medrep has done to the data already, and refuse to take the same away again.

    Args:
        cohort: The people.
        saved: The model: whether it was trained on such data.
        listener: Who is told.
        transformed: Covariates that are to be moved.

    Raises:
        CohortError: One of them was moved already, and not in the data of training.
    """
    known = saved.provenance.transformed
    refuse_again(cohort.earlier, transformed, known)
    done = {name for one in cohort.earlier for name in one.covariates}
    for one in cohort.earlier:
        if not one.covariates or set(one.covariates) - set(known):
            listener.warn(f"{one.done}; the model was trained on other data, which had these effects")
    lacking = [name for name in known if name not in done]
    if lacking:
        listener.warn(
            f"the model was trained on data that medrep had moved along {', '.join(lacking)}; nothing says so of these data"
        )


def check_followed(saved: SavedModel, switch: str) -> None:
    """Refuse a model that knows no trajectories of people.

    Raises:
        ModelError: Why, and what can.
    """
    if refused := saved.model.refusal("forecast"):
        raise ModelError(f"{switch}: {refused}")


def later(frame: pd.DataFrame, name: str, years: Sequence[float]) -> pd.DataFrame:
    """Return covariates so many years later: every row once for each, those of a row side by side.

    Args:
        frame: Covariates.
        name: The covariate that people were followed over.
        years: How many.
    """
    repeated = frame.iloc[np.repeat(np.arange(len(frame)), len(years))]
    return repeated.assign(**{name: repeated[name].astype(float) + np.tile(np.asarray(years, float), len(frame))})


def check_beyond(
    schema: CovariateSchema, frame: pd.DataFrame, name: str, listener: Listener, *, extrapolate: bool
) -> list[Outside]:
    """Say who will be beyond the people of training, and refuse those who will be far beyond: by a fifth of their range.

    Args:
        schema: Of the model.
        frame: Covariates to come.
        name: The covariate that people were followed over.
        listener: Who is told.
        extrapolate: Whether people far beyond are taken.

    Returns:
        Everybody who will be beyond.

    Raises:
        CovariateError: Everybody who will be far beyond.
    """
    found = outside_training(schema, frame[[name]])
    far, near = ([one.said for one in found if one.far is wanted] for wanted in (True, False))
    if far and not extrapolate:
        cure = "choose fewer years, leave people out with --exclude, or pass --extrapolate to be told what the model guesses"
        raise CovariateError(listed("people would be far beyond those of training", far, cure))
    if near:
        listener.notes([f"a little beyond the people of training: {few(near, between='; ')}"])
    if far:
        listener.warn(listed("extrapolated: people far beyond those of training", far))
    return found


def note_unplaced(saved: SavedModel, listener: Listener) -> None:
    """Say that a model of images does not know where in the world its training images lay: models of before that was kept."""
    grid = saved.model.columns.grid
    if saved.input.in_world and grid is not None and grid.world is None:
        listener.notes(
            [
                "the model does not say where its images lay in the world (it was written by an earlier medrep), so it is not"
                " checked whether these lie there, too; train it again to have that checked"
            ]
        )


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
    listener: Listener,
    target: "Mapping[str, str | float] | None" = None,
) -> None:
    """Refuse values of which the model knows no effect, since nobody of a level had the column in training.

    With ``input.missing: keep`` they come back missing instead, which is said. Of images nobody is refused.

    Args:
        model: The model.
        cohort: The people.
        frame: Their covariates.
        listener: Who is told.
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
    listener.notes([f"values {what}, since nobody of the level had them in training: {', '.join(summed(cells))}"])


def refuse_unknown(show: str, table: pd.DataFrame) -> None:
    """Refuse somebody who is not in the cohort.

    Args:
        show: What the person asked for; empty for the first.
        table: The people, index: key.

    Raises:
        CohortError: With who can be shown.
    """
    if show and show != NOBODY and report_subject(show, table) is None:
        some = ", ".join(str(key) for key in table.index[:3])
        raise CohortError(f"--show {show}: not among these people ({some}, ...); give one of them, or {NOBODY}")


def report_subject(show: str, table: pd.DataFrame) -> str | None:
    """Return the key of whom the report shows; None for nobody."""
    if show == NOBODY or not len(table):
        return None
    keys = [str(key) for key in table.index]
    if not show:
        return keys[0]
    wanted = label(show, "sub")
    bare = [label(str(who), "sub") for who in table["participant_id"]]
    return next((key for key, who in zip(keys, bare, strict=True) if key == show or who == wanted), None)
