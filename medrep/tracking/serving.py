"""Answers of a registered model to a request, and what one request may ask for.

What is larger is answered with 413 before anything is unpacked or computed, so that nobody holds a worker with a small file.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server

from medrep._texts import refuse_deep
from medrep.cohort.bids import hemispheres
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.image_files import open_header
from medrep.cohort.kinds import imported
from medrep.cohort.kinds.base import RowForm
from medrep.cohort.participants import KEY_COLUMNS, labels
from medrep.cohort.samples import Source, no_table
from medrep.cohort.support import outside_training, refuse_far
from medrep.derivatives.bids import latent_names
from medrep.derivatives.deviations import DEVIATIONS, whole
from medrep.derivatives.scores import GAIN, Scorer, score_task
from medrep.derivatives.tasks import Result
from medrep.errors import CohortError, ConfigError, CovariateError, MedrepError, ModelError, listed
from medrep.models import Model
from medrep.models.left_alone import unmeasured
from medrep.models.saved import SavedModel
from medrep.tracking.cleaning import (
    Cleaning,
    cleaned_images,
    cleaned_rows,
    most_visits,
    read_cleaning,
    refuse_failed,
    worked,
)

MAX_VOXELS, MAX_BYTES = "MEDREP_MAX_VOXELS", "MEDREP_MAX_REQUEST_BYTES"
_DEFAULTS = {MAX_VOXELS: 512**3, MAX_BYTES: 2**26}
_TOO_LARGE = 413
_DECODER = "_decode_json_input"


class LimitError(MedrepError):
    """A request for more than this server does at once."""


class _TooLarge(MlflowException):  # type: ignore[misc]  # MLflow is untyped here
    """Answered with 413."""

    def get_http_status_code(self) -> int:
        """Return 413, which MLflow has no code for."""
        return _TOO_LARGE


def refusal(error: MedrepError) -> MlflowException:
    """Return what MLflow answers a request with: 413 if it asks for too much, else 400."""
    kind = _TooLarge if isinstance(error, LimitError) else MlflowException
    return kind(str(error), INVALID_PARAMETER_VALUE)


def limit(name: str) -> int:
    """Return a limit; ConfigError if the environment variable is no whole number from 1."""
    text = os.environ.get(name, "").strip()
    if not text:
        return _DEFAULTS[name]
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ConfigError(f"{name} is {text[:40]!r}; give a whole number from 1 (default: {_DEFAULTS[name]})")
    return int(text)


def refuse_many_voxels(files: Iterable[tuple[str, str, Path]]) -> None:
    """Refuse scans (row, path as given, file) that together claim more voxels than `MAX_VOXELS`; only beginnings are read."""
    most, claimed = limit(MAX_VOXELS), {}
    for row, given, file in files:
        try:
            shape = open_header(file).shape
        except CohortError:
            continue  # whoever reads it says what is wrong with it
        claimed[f"{row}: {given!r} claims {' x '.join(map(str, shape))} voxels"] = prod(int(n) for n in shape)
    if sum(claimed.values()) > most:
        largest = sorted(claimed, key=lambda one: -claimed[one])
        cure = f"send fewer or smaller scans, or start the server with a higher {MAX_VOXELS}"
        raise LimitError(listed(f"more than {most} voxels in one request", largest, cure))


def guard_requests() -> None:
    """Let MLflow's server answer 4xx to JSON that is too large or too deep, where it would answer 500; once a process."""
    limit(MAX_VOXELS)
    limit(MAX_BYTES)
    before = getattr(scoring_server, _DECODER, None)
    if before is None or getattr(before, "guarded", False):
        return

    @wraps(before)
    def decoded(request: Any) -> Any:
        most = limit(MAX_BYTES)
        if isinstance(request, str | bytes) and len(request) > most:
            raise _TooLarge(f"a request of {len(request)} bytes; at most {most} ({MAX_BYTES})", BAD_REQUEST)
        try:
            found = before(request)
            refuse_deep(found)
        except (RecursionError, ValueError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise MlflowException(f"the JSON of the request cannot be read: {reason}", BAD_REQUEST) from None
        return found

    decoded.guarded = True  # type: ignore[attr-defined]
    setattr(scoring_server, _DECODER, decoded)


ALLOWED_ROOT = "MEDREP_ALLOWED_ROOT"
PATH, PARTICIPANT = "path", KEY_COLUMNS[0]
_FIGURES = ("reconstruction_error", "deviation")
OUTPUTS = ("scores", "latents", "removed", "counterfactual", DEVIATIONS)
_CLEANED = {"removal": "removed", "counterfactual": "counterfactual"}


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that answers requests."""

    saved: SavedModel

    @classmethod
    def load(cls, folder: Path, expected: str = "") -> "ServedModel":
        """Load a model folder.

        Raises ModelError if it is damaged or foreign, or another model than was registered; without an expected digest any
        will do.
        """
        guard_requests()
        saved = SavedModel.load(folder)
        if expected and saved.provenance.digest != expected:
            raise ModelError(f"{folder}: not the model that was registered; fetch or register it again")
        return cls(saved)

    @property
    def model(self) -> Model:
        """The model."""
        return self.saved.model

    def answer(
        self,
        request: pd.DataFrame,
        output: str = "",
        remove: str = "",
        extrapolate: bool = False,
        keep: str = "",
        references: str = "",
        set: str = "",  # noqa: A002 (the name that requests have for it)
    ) -> pd.DataFrame:
        """Answer a request.

        Args:
            request: One row a person: the model's covariates, and either ``path`` (a NIfTI file under the folder that
                MEDREP_ALLOWED_ROOT names) or the model's feature columns. Rows of one ``participant_id`` are visits of one
                person, as in a cohort; without it each row is a person. Further columns are not looked at.
            output: ``scores`` (reconstruction_error, deviation, then latents z1, z2, ...; ``gain_z`` before these where visits
                are told and the model forecasts), ``latents``, ``deviations`` (z of each feature, of a growth chart of a
                table), ``removed`` (people without the effects of ``remove``) or ``counterfactual`` (people with what ``set``
                sets): the feature columns, or for images the paths of what was written (see `cleaned_images`). Empty: what the
                other parameters ask for, or else scores.
            remove: Covariates to remove; moved to the model's references. See `read_cleaning` for how this and the following
                are written.
            extrapolate: Whether people far outside the range of training are answered for, and values outside it taken.
            keep: Covariates named as kept; whatever is not removed is kept.
            references: Where removed covariates are moved to instead.
            set: Covariates and the values everybody gets.

        Returns:
            One row a person, index as ``request``.

        Raises:
            MedrepError: Anything about the request that cannot be used, by row.
        """
        if output and output not in OUTPUTS:
            raise ModelError(f"output {output!r} is not allowed; allowed: {', '.join(OUTPUTS)}")
        cleaning = read_cleaning(self.model.schema, remove, keep, references, set, extrapolate=extrapolate)
        asked = _CLEANED[cleaning.purpose] if cleaning else ""
        if output and asked != (output if output in _CLEANED.values() else ""):
            raise ModelError(
                f"output {output!r} does not go with the other parameters: 'removed' and remove belong together, for instance"
                " {output: removed, remove: site}, and so do 'counterfactual' and set"
            )
        rows = request.set_axis([f"row {number + 1}" for number in range(len(request))])
        if rows.empty:
            raise CohortError("the request holds no row")
        frame = _covariates(rows, self.model.schema)
        if not extrapolate:
            refuse_far(outside_training(self.model.schema, frame), "send the parameter extrapolate: true for a guess")
        whose = _participants(rows)
        if output == DEVIATIONS:
            return self._deviations(rows, frame).set_axis(request.index)
        answer = self._images if PATH in rows.columns else self._rows
        found = answer(rows, frame, cleaning, whose)
        if output == "latents":
            found = found[[name for name in found if name not in (*_FIGURES, GAIN)]]
        return found.set_axis(request.index)

    def _rows(
        self, rows: pd.DataFrame, frame: pd.DataFrame, cleaning: Cleaning | None, whose: Sequence[str] | None
    ) -> pd.DataFrame:
        data = self._checked(rows, frame, cleaning.target if cleaning else None)
        if cleaning:
            form = self._form
            own = self._numbers(rows) if form is not None and form.needs_given else None
            return cleaned_rows(self.model, cleaning, data, frame, form, whose, own)
        scorer = Scorer(self.model, visits=0 if whose is None else most_visits(whose))
        people = Source.of_table(no_table(frame.index)).samples(frame)
        if scorer.by_person and whose is not None:
            people = people.together(whose, scorer.block_size)
        at = pd.Index(frame.index.astype(str))
        scored = [
            one
            for block in people.blocks(scorer.block_size)
            for some in [people[block.start : block.stop]]
            for one in scorer.results(data[at.get_indexer(pd.Index(some.keys))], some)
        ]
        return _table(scored, rows.index, self.model.latent_roles)

    def _checked(
        self, rows: pd.DataFrame, frame: pd.DataFrame, target: Mapping[str, str | float] | None = None
    ) -> Float[np.ndarray, "people columns"]:
        """Return the features of a request; refuse what the model knows no effect of."""
        data = self._features(rows)
        if not self.saved.input.keeps_missing:
            cells = unmeasured(self.model, self.model.dataset(data, frame), target)
            if cells:
                raise CohortError(listed("features without an effect to remove", [str(cell) for cell in cells]))
        return data

    def _deviations(self, rows: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
        if refused := self.model.refusal("deviations"):
            raise ModelError(f"output '{DEVIATIONS}': {refused}")
        if not self.saved.input.tabular:
            raise ModelError(f"output '{DEVIATIONS}': of images they are maps; medrep score writes them")
        z = whole(self.model.deviations(self.model.dataset(self._checked(rows, frame), frame)))
        return pd.DataFrame(z, columns=list(self.model.columns.names))

    def _features(self, rows: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        names = list(self.model.columns.names)
        if not names:
            raise CohortError(f"column {PATH!r} is absent: the model reads images")
        absent = [name for name in names if name not in rows.columns]
        if absent:
            raise CohortError(listed("feature columns that are absent", absent, "give the columns of training"))
        keep = self.saved.input.keeps_missing
        values = self._numbers(rows)
        bad = ~np.isfinite(values) & ~(rows.loc[:, names].isna().to_numpy() if keep else False)
        offenders = [f"{rows.index[row]}: {names[column]}" for row, column in np.argwhere(bad)]
        if offenders:
            raise CohortError(listed("features that are no numbers, or missing", offenders, "fill them in"))
        return values if self._form is None else self._form.received(values, list(map(str, rows.index)))

    def _numbers(self, rows: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        cells = rows.loc[:, list(self.model.columns.names)].apply(pd.to_numeric, errors="coerce")
        return np.asarray(cells.to_numpy(float))

    @property
    def _form(self) -> RowForm | None:
        kind = self.saved.input
        form: RowForm | None = imported(kind.form)(kind.section, self.model.columns.names) if kind.form else None
        return form

    def _images(
        self, rows: pd.DataFrame, frame: pd.DataFrame, cleaning: Cleaning | None, whose: Sequence[str] | None
    ) -> pd.DataFrame:
        if self.saved.input.tabular:
            raise CohortError(f"column {PATH!r} is of no use: the model reads columns of features")
        root = _allowed_root()
        files = _allowed(rows[PATH], root)
        refuse_many_voxels(zip(map(str, rows.index), rows[PATH], files, strict=True))
        if cleaning:
            return cleaned_images(self.saved, cleaning, frame, files, rows[PATH], root, whose)
        step = score_task(Scorer(self.model, visits=0 if whose is None else most_visits(whose)), self.saved.input)
        people = worked(Source.of_files(files).samples(frame), step, whose)
        blocks = (people[block.start : block.stop] for block in people.blocks(step.block_size))
        scored = [one for some in blocks for one in step.work(some)]
        refuse_failed(scored, files, rows[PATH])
        return _table(scored, rows.index, self.model.latent_roles)


def _table(scored: Sequence[Result], index: pd.Index, roles: Sequence[str]) -> pd.DataFrame:
    by_key = {one.key: one for one in scored}
    scored = [by_key[str(key)] for key in index]
    names = [*_FIGURES, *([GAIN] if all(GAIN in one.figures for one in scored) else [])]
    figures = pd.DataFrame([[one.figures[name] for name in names] for one in scored], index=index, columns=names)
    latents = np.stack([one.arrays["latents"] for one in scored])
    return figures.join(pd.DataFrame(latents, index=index, columns=latent_names(latents.shape[1], roles)))


def _covariates(rows: pd.DataFrame, schema: CovariateSchema) -> pd.DataFrame:
    """Read covariates as a participants table is read; a person who would be left out there is refused here."""
    cells = rows.drop(columns=[column for column in rows if column == PATH]).map(_text)
    frame = read_covariates(cells, schema.declared).frame
    lost = [str(key) for key in rows.index.difference(frame.index, sort=False)]
    if lost:
        raise CovariateError(listed("people without a covariate", lost, "fill it in, or leave them out"))
    return schema.transfer(frame)


def _participants(rows: pd.DataFrame) -> list[str] | None:
    """Return whose each row is; None where the request does not say. A row without a name is a person by itself.

    Raises CohortError for rows that stand for the same visit.
    """
    if PARTICIPANT not in rows.columns:
        return None
    who, visits = (
        labels([_text(cell) for cell in rows[name]], prefix) if name in rows.columns else [""] * len(rows)
        for name, prefix in zip(KEY_COLUMNS, ("sub", "ses"), strict=True)
    )
    named = [(one, visit) if one and visit else None for one, visit in zip(who, visits, strict=True)]
    counts = Counter(named)
    twice = [f"{key}: {one[0]} {one[1]}" for key, one in zip(rows.index, named, strict=True) if one and counts[one] > 1]
    if twice:
        raise CohortError(listed("rows that stand for the same visit", twice, "send each visit once"))
    return [one or str(key) for one, key in zip(who, rows.index, strict=True)]


def _text(cell: object) -> str:
    """Return a cell as a participants table would hold it: JSON turns 1 into 1.0 where another row has nothing."""
    if cell is None or (isinstance(cell, float) and cell != cell) or cell is pd.NA:
        return ""
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(int(cell))
    return str(cell)


def _allowed_root() -> Path:
    named = os.environ.get(ALLOWED_ROOT, "").strip()
    if not named:
        raise CohortError(f"paths are refused: {ALLOWED_ROOT} names no folder on this server; give columns of features")
    return Path(named).resolve()


def _allowed(paths: pd.Series, root: Path) -> pd.Series:
    """Return the files behind paths, links followed; refuse whatever is not a file under the allowed folder."""
    found, offenders = [], []
    for key, text in paths.items():
        if not isinstance(text, str) or not text or "\0" in text:
            offenders.append(f"{key}: {text!r} is no path")
            continue
        try:
            file = (root / text).resolve()
            inside = all(part.resolve().is_relative_to(root) for part in hemispheres(file))
            present = file.is_file()
        except (OSError, RuntimeError) as error:
            offenders.append(f"{key}: {text!r} cannot be followed ({type(error).__name__})")
            continue
        # Said first: whether something lies outside is not to be learned here.
        if not inside:
            offenders.append(f"{key}: {text!r} leads out of the allowed folder")
        elif not present:
            offenders.append(f"{key}: {text!r}: no such file")
        found.append(file)
    if offenders:
        raise CohortError(listed("paths that cannot be used", offenders))
    return pd.Series(found, index=paths.index, dtype=object)
