"""Removal of effects: what is asked of a model, and how rows of tables and matrices of edges are transformed and written."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import write_json, write_text
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.features import column_order
from medrep.cohort.inputs import ConnectivityInput
from medrep.cohort.kinds import InputKind, imported
from medrep.cohort.kinds.base import RowForm
from medrep.cohort.kinds.connectivity import MATRIX, edge_form, regions_of
from medrep.cohort.participants import label
from medrep.cohort.samples import Sample, Samples
from medrep.cohort.support import outside_json, outside_training
from medrep.derivatives.bids import OUTSIDE, Destination, Removal, line, parsed, rows_text, write_latents, write_lines
from medrep.derivatives.tasks import (
    Result,
    RowResults,
    Task,
    TaskFactory,
    block_size,
    in_places,
    load_accelerated,
    preloaded,
)
from medrep.erasure import Certificate
from medrep.errors import CovariateError
from medrep.models import Adaptation, Model
from medrep.models.base import Posterior
from medrep.models.left_alone import left_alone
from medrep.models.saved import SavedModel
from medrep.models.shape.pose import PoseModel

_ROUNDING = 1e-9
_MOST_ROWS = 256
_MANY_COLUMNS = 20
"""From here on columns together tell what each of them alone does not."""

Purpose = Literal["removal", "counterfactual"]


def parted_names(schema: CovariateSchema, names: Sequence[str]) -> tuple[str, ...]:
    """Return names apart that were separated by blanks, unless a covariate has blanks in its name."""
    return tuple(part for name in names for part in ([name] if name in schema.names else name.split() or [name]))


def checked_target(
    schema: CovariateSchema,
    remove: Sequence[str],
    keep: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
    *,
    switch: str = "--",
) -> dict[str, str | float]:
    """Return removed covariate -> reference.

    Args:
        schema: Of the model.
        remove: Covariates to remove.
        keep: Covariates named as kept.
        references: Removed covariate -> value to move to, where it is not the model's default.
        switch: What stands before the names of options in messages; nothing where they are parameters of a request.

    Raises:
        CovariateError: Names that the model does not know, both removed and kept, or nothing to remove.
    """
    unknown = [name for name in (*remove, *keep) if name not in schema.names]
    if unknown:
        raise CovariateError(
            f"the model does not know {', '.join(unknown)}; it was trained with {', '.join(schema.names)}"
        )
    both = sorted(set(remove) & set(keep))
    if both:
        raise CovariateError(f"{', '.join(both)}: both in {switch}remove and in {switch}keep; name each once")
    if not remove:
        raise CovariateError(f"nothing to remove; name one or more of {', '.join(schema.names)}")
    return schema.references(remove, references)


def described_removal(
    name: str,
    saved: SavedModel,
    target: dict[str, str | float],
    *,
    people: int,
    purpose: Purpose = "removal",
    adapted: tuple[Adaptation, ...] = (),
    label_free: bool = False,
) -> Removal:
    """Return what sidecars say of a removal or a counterfactual.

    Args:
        name: Of the model, as the user gave it.
        saved: The model, and where its training people lie.
        target: Removed covariate -> reference.
        people: How many are moved.
        purpose: ``removal``, or a ``counterfactual``.
        adapted: Batch levels that training did not have and how they were estimated.
        label_free: Whether nobody's covariates were looked at.
    """
    removed, model, support = tuple(target), saved.model, saved.support
    kept = tuple(covariate for covariate in model.schema.names if covariate not in removed)
    near = None
    if purpose == "counterfactual" and support is not None:
        near = support.near(model.schema, target)
    certificates: tuple[Certificate, ...] = ()
    if purpose == "removal":
        learners = people * 4 // 5  # in the five folds of `--probe`
        certificates = model.certificates(removed, kept, learners=learners, label_free=label_free)
    return Removal(
        name,
        model.kind,
        removed,
        kept,
        target,
        adapted,
        purpose,
        near,
        label_free,
        certificates,
        left_alone(model),
        not_removed(model, removed) if purpose == "removal" else "",
    )


def not_removed(model: Model, removed: Sequence[str]) -> str:
    """Return what a model column by column leaves: combinations of many columns (benchmarks/linear_left.py); empty for others."""
    if "joint" in model.capabilities or model.columns.count < _MANY_COLUMNS:
        return ""
    names = ", ".join(removed)
    return f"Combinations of columns: each column alone tells nothing of {names} any more, all together may."


@dataclass(frozen=True)
class Transform:
    """A model and what to do with it.

    Attributes:
        model: The fitted model.
        target: Removed covariate -> reference.
        label_free: Whether nobody's covariates are looked at; needs a model that is ``unlabelled``.
        unit: What moves the logarithms of each image's own units; None where these stay.
        visits: How many one person has at most.
        years: How far each visit is moved along its person's own trajectory, in place of values that everybody gets; ``target``
            names the covariate.
        pose: What moves organs as a whole; None where they stay where they lie.
    """

    model: Model
    target: Mapping[str, str | float]
    label_free: bool = False
    unit: Model | None = None
    visits: int = 1
    years: float | None = None
    pose: PoseModel | None = None

    @property
    def by_person(self) -> bool:
        """True if visits of a person are moved together."""
        own = self.model.by_person or self.years is not None
        return self.visits > 1 and own and not self.label_free

    def units(self, own: Float[np.ndarray, " units"], frame: pd.DataFrame) -> Float[np.ndarray, " units"] | None:
        """Return the logarithms of the units that a person gets; None where they stay.

        Args:
            own: Those that the person has.
            frame: The person's covariates, one row.
        """
        if self.unit is None or self.label_free:
            return None
        found = self.unit.remove(self.unit.dataset(own[None], frame), self.target)[0]
        return found if np.abs(found - own).max() > _ROUNDING else None

    def pose_change(self, frame: pd.DataFrame) -> Float[np.ndarray, " columns"] | None:
        """Return by how much a person's organ moves as a whole, mm and degrees (`PoseModel`); None where that is left alone.

        Args:
            frame: The person's covariates, one row.
        """
        return None if self.pose is None else self.pose.change(frame, self.target)[0]

    def transform(self, dataset: Dataset) -> Float[np.ndarray, "people columns"]:
        """Return the rows without the removed effects."""
        if self.label_free:
            return self.model.remove_unlabelled(dataset, list(self.target))
        if self.years is not None:
            return self.model.follow(dataset, self.years)
        return self.model.remove(dataset, self.target)

    def outside(self, frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
        """Return what a sidecar says of one person who lies outside the range of training; nothing of others."""
        found = outside_json(outside_training(self.model.schema, frame))
        return {OUTSIDE: next(iter(found.values()))} if found else {}

    def encode(self, dataset: Dataset) -> Float[np.ndarray, "people latents"]:
        """Return the latents."""
        if self.label_free:
            return self.model.encode_unlabelled(dataset)
        return self.model.encode(dataset)

    def move_and_encode(self, dataset: Dataset) -> tuple[Float[np.ndarray, "people columns"], Posterior]:
        """Return both, with the deviations of latents where the model hands them out."""
        if self.label_free or self.years is not None:
            return self.transform(dataset), (self.encode(dataset), None)
        return self.model.remove_and_encode(dataset, self.target)


class TransformRows(Task):
    """Moves rows of a feature table; the moved row is part of each outcome, in the input's order of columns.

    Args:
        transform: The model and what to do with it.
        names: Of the table's features, in its order.
        form: The form in which rows in that order are written, where it is not the model's.
    """

    def __init__(self, transform: Transform, names: Sequence[str], form: RowForm | None = None) -> None:
        self._form = form
        self._transform, self._order = transform, column_order(transform.model.columns.names, names)
        place = {name: position for position, name in enumerate(transform.model.columns.names)}
        self._back = [place[name] for name in names]
        self.by_person = transform.by_person
        self.block_size = block_size(len(names), _MOST_ROWS, transform.visits if self.by_person else 1)

    def work(self, people: Sequence[Sample]) -> RowResults:
        """Move a few rows; see `Task.work`."""
        own = Samples.of(people)
        block, standing, places = in_places(own.rows[:, self._order], own, self.block_size)
        transformed, (latents, _) = self._transform.move_and_encode(
            self._transform.model.dataset(block, standing.covariates, standing.persons.astype(str).tolist())
        )
        found, before = transformed[places][:, self._back], block[places][:, self._back]
        if self._form is None:
            rows = rows_text(found, before)
        else:
            # Parts are given behind what the model sees of them; in all their digits they sum to what they summed to.
            given = own.rows[:, len(self._back) :] if own.rows.shape[1] > len(self._back) else None
            written = self._form.released(found, before, given)
            rows = rows_text(written, None if given is None else np.where(found == written, before, written))
        return RowResults(own.keys, (), {"features": rows, "latents": rows_text(latents[places])})


def transform_rows(transform: Transform, kind: InputKind[Any], to: Destination) -> Task:
    """Return the step that moves rows of a cohort's table."""
    form = imported(kind.form)(kind.section, to.names) if kind.form else None
    return TransformRows(transform, to.names, form)


_MEASURES = {"partial": "PartialCorrelation", "covariance": "Covariance"}


class TransformEdges(Task):
    """Moves rows of edges, which come out in the form in which they were given, and writes a matrix a person on request.

    Args:
        transform: The model and what to do with it.
        kind: Says what the edges are.
        to: Where to.
    """

    def __init__(self, transform: Transform, kind: InputKind[ConnectivityInput], to: Destination) -> None:
        self._section, self._to = kind.section, to
        self._rows = TransformRows(transform, to.names, edge_form(kind.section, to.names))
        self.block_size, self.by_person = self._rows.block_size, self._rows.by_person

    def work(self, people: Sequence[Sample]) -> Sequence[Result]:
        """Move a few rows; see `Task.work`."""
        results = self._rows.work(people)
        return [replace(one, files=self._write(one)) for one in results] if self._to.matrix else results

    def _write(self, one: Result) -> tuple[str, ...]:
        """Write a person's matrix, its sidecar and the regions; return the files relative to OUT."""
        section, regions = self._section, regions_of(self._to.names)
        values, ones = parsed(one.lines["features"]), section.measure != "covariance"
        fisher = section.edges != "r" and section.measure not in _MEASURES
        matrix = regions.matrix(np.tanh(values) if fisher else values, 1.0 if ones else np.nan)
        who, _, session = one.key.partition("_ses-")
        entities = [f"sub-{label(who, 'sub')}", *([f"ses-{session}"] if session else [])]
        measured = _MEASURES.get(section.measure, "PearsonCorrelation")
        task = [f"task-{section.entities['task']}"] if "task" in section.entities else []
        stem = "_".join([*entities, *task, f"meas-{measured}", f"desc-{self._to.done.desc}"])
        place = Path(*entities, "func")
        files = [place / f"{stem}_{ending}" for ending in (f"{MATRIX}.dense.tsv", f"{MATRIX}.json", "nodeindices.tsv")]
        about = {"RelationshipMeasure": measured, "Directed": False, "Weighted": True, "ValidDiagonal": ones}
        nodes = [f"{number}\t{name}" for number, name in enumerate(regions.names)]
        write_text(self._to.folder / files[0], "".join(f"{line(row)}\n" for row in matrix))
        write_json(self._to.folder / files[1], {**self._to.done.to_json(), **about, "NonNegative": False})
        write_text(self._to.folder / files[2], "\n".join(["matrix_index\tlabel", *nodes]) + "\n")
        return tuple(file.as_posix() for file in files)


def write_transformed(
    folder: Path,
    rows: Mapping[str, Callable[[], Iterable[str]]],
    ids: pd.DataFrame,
    names: tuple[str, ...],
    content: Mapping[str, Any],
    written: "pd.DataFrame | None" = None,
    header: tuple[str, ...] = (),
) -> None:
    """Write features.tsv with features.json, where the data are a table.

    Args:
        folder: Where to.
        rows: Names of rows, each with what yields everybody's who could be moved, a person at a time.
        ids: Key columns, index: key; in the same order.
        names: Of the features; none for images, which are written already.
        content: For the sidecar of the table.
        written: Key columns as they stand in the table of features, in the same order; by default ``ids``.
        header: All columns of the table of features in their order; by default the ids, then the features.
    """
    if names:
        own = ids if written is None else written
        write_lines(folder / "features.tsv", own, names, rows["features"](), header)
        write_json(folder / "features.json", content)


def write_latent_tables(
    folder: Path, rows: Mapping[str, Callable[[], Iterable[str]]], ids: pd.DataFrame, roles: Sequence[str]
) -> None:
    """Write latents.tsv (latents_sd.tsv) of those among ``rows``; ``roles`` are the model's `latent_roles`."""
    for name in ("latents", "latents_sd"):
        if name in rows:
            write_latents(folder / f"{name}.tsv", ids, rows[name](), roles)


def transform_task(transform: Transform, kind: InputKind[Any], to: Destination) -> Task:
    """Return the step that writes people of a kind of input without the removed effects."""
    step: Task = imported(kind.transform)(transform, kind, to)
    return step


@dataclass(frozen=True)
class TransformFactory(TaskFactory):
    """Opens the step that moves people.

    Attributes:
        model: A model folder.
        to: Where to write.
        target: Removed covariate -> reference.
        label_free: Whether nobody's covariates are looked at.
        visits: How many one person has at most.
        years: How far people are moved along their own trajectories; None where ``target`` has values for everybody.
        with_pose: Whether organs are moved as a whole, too.
    """

    model: Path
    to: Destination
    target: Mapping[str, str | float]
    label_free: bool = False
    visits: int = 1
    years: float | None = None
    with_pose: bool = False

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of tables or of images; see `TaskFactory`."""
        return preloaded(self.to.names, self.model)

    def open(self) -> Task:
        """Load the model; see `TaskFactory.open`."""
        return self.step(load_accelerated(self.model))

    def step(self, saved: SavedModel) -> Task:
        """Return the step of a model that is at hand."""
        pose = saved.pose if self.with_pose else None
        transform = Transform(saved.model, self.target, self.label_free, saved.unit, self.visits, self.years, pose)
        return transform_task(transform, saved.input, self.to)
