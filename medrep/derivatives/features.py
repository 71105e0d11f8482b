"""Transformed feature tables: the input's columns, order and ids; and matrices of what are edges."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep._files import write_json, write_text
from medrep.cohort.features import column_order
from medrep.cohort.inputs import ConnectivityInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.base import Sample, Samples
from medrep.cohort.kinds.connectivity import MATRIX, EdgeForm, edge_form, regions_of
from medrep.cohort.participants import label
from medrep.derivatives.bids import Destination, line, parsed, rows_text, write_latents, write_lines
from medrep.derivatives.tasks import Result, RowResults, Task, Transform, block_size, in_places

_MOST_ROWS = 256


class TransformRows(Task):
    """Moves rows of a feature table; the moved row is part of each outcome, in the input's order of columns.

    Args:
        transform: The model and what to do with it.
        names: Of the table's features, in its order.
        form: The form in which rows in that order are written, where it is not the model's.
    """

    def __init__(self, transform: Transform, names: Sequence[str], form: EdgeForm | None = None) -> None:
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
        if self._form is None:
            rows = rows_text(transformed[places][:, self._back], block[places][:, self._back])
        else:
            rows = rows_text(self._form.released(transformed[places]))
        return RowResults(own.keys, (), {"features": rows, "latents": rows_text(latents[places])})


def transform_rows(transform: Transform, kind: InputKind[Any], to: Destination) -> Task:
    """Return the step that moves rows of a cohort's table."""
    del kind
    return TransformRows(transform, to.names)


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
    """Write latents.tsv (latents_sd.tsv), and features.tsv with features.json where the data are a table.

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
    for name in ("latents", "latents_sd"):
        if name in rows:
            write_latents(folder / f"{name}.tsv", ids, rows[name]())
