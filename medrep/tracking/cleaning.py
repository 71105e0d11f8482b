"""Cleaning by a served model: covariates removed or set in rows of the answer, or in images of a folder.

The work is that of `medrep export` and `medrep counterfactual`, so that the numbers are theirs. Images are written below the
folder that MEDREP_OUTPUT_ROOT names, each request's in a new folder of its own that appears when all of them are there: nothing
is replaced, and no link is followed, since nothing is written where something lay before.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import uuid4

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import atomic_folder
from medrep._texts import read_json
from medrep.cohort.bids import hemispheres
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.features import FeatureTable
from medrep.cohort.kinds.connectivity import EdgeForm
from medrep.cohort.samples import Sample, Source
from medrep.cohort.sidecars import earlier_work, refuse_again
from medrep.cohort.support import refuse_extrapolation
from medrep.derivatives.bids import Destination, parsed
from medrep.derivatives.tasks import Result
from medrep.derivatives.transform import (
    Purpose,
    Transform,
    TransformRows,
    checked_target,
    described_removal,
    parted_names,
    transform_task,
)
from medrep.errors import CohortError, ModelError, listed
from medrep.models import Model
from medrep.models.saved import SavedModel

OUTPUT_ROOT = "MEDREP_OUTPUT_ROOT"
_SHOWN = 200  # characters of a parameter that are repeated in a message


@dataclass(frozen=True)
class Cleaning:
    """Cleaning that a request asks for: the value that everybody is moved to, of each covariate."""

    purpose: Purpose
    target: dict[str, str | float]


def read_cleaning(
    schema: CovariateSchema, remove: str, keep: str, references: str, wanted: str, *, extrapolate: bool
) -> Cleaning | None:
    """Read what is to be removed or set; None where nothing is.

    Covariates to remove and to keep are separated by commas, or a JSON list; whatever is not removed is kept. References of
    removed covariates, and the values wanted for a counterfactual, are ``NAME=VALUE``, separated by commas, or a JSON object.
    Raises MedrepError for parameters that do not go together, or that the model cannot answer.
    """
    removed, kept = (parted_names(schema, _names(*given)) for given in (("remove", remove), ("keep", keep)))
    transformed, values = _values("references", references), _values("set", wanted)
    if values and (removed or kept or transformed):
        raise ModelError(
            "set asks for a counterfactual and goes without remove, keep and references; send one of the two"
        )
    if not removed and (kept or transformed):
        raise ModelError("keep and references go with remove; send what is to be removed, too")
    if not (removed or values):
        return None
    target = checked_target(schema, removed or tuple(values), kept, transformed or values, switch="")
    if not extrapolate:
        chosen = {name: target[name] for name in transformed or values}
        refuse_extrapolation(schema, chosen, "choose a value inside, or send extrapolate: true for a guess")
    return Cleaning("removal" if removed else "counterfactual", target)


def cleaned_rows(
    model: Model,
    cleaning: Cleaning,
    data: Float[np.ndarray, "people columns"],
    frame: pd.DataFrame,
    form: EdgeForm | None = None,
) -> pd.DataFrame:
    """Return rows of features with the effects taken out: those that `medrep export` writes for the same people in this order.

    ``form`` is that in which rows are answered, where it is not the model's.
    """
    names = tuple(model.columns.names)
    step = TransformRows(Transform(model, cleaning.target), names, form)
    table = FeatureTable(pd.DataFrame(index=frame.index), data, names, None)
    people = list(Source.of_table(table).samples(frame))
    blocks = (people[start : start + step.block_size] for start in range(0, len(people), step.block_size))
    rows = [parsed(one.lines["features"]) for block in blocks for one in step.work(block)]
    return pd.DataFrame(np.stack(rows), index=frame.index, columns=list(names))


def cleaned_images(
    saved: SavedModel,
    cleaning: Cleaning,
    frame: pd.DataFrame,
    files: pd.Series,
    sent: pd.Series,
    root: Path,
) -> pd.DataFrame:
    """Write images below ``root`` with the effects taken out, as `medrep export` writes them.

    Returns ``path`` of each image and ``sidecar`` of its JSON (of an organ also ``mesh``), below the folder that
    MEDREP_OUTPUT_ROOT names. Raises CohortError for no such folder, images that were cleaned before, or images that cannot be
    used; nothing is written then.
    """
    output = _output_root()
    refuse_again(earlier_work(root, files), tuple(cleaning.target), saved.provenance.transformed)
    name, purpose = f"model sha256:{saved.provenance.digest}", cleaning.purpose
    done = described_removal(name, saved, cleaning.target, people=len(frame), purpose=purpose)
    made = PurePosixPath(f"{done.desc}-{uuid4().hex}")
    results: list[Result] = []
    people = list(Source.of_files(files).samples(frame))
    with atomic_folder(output / made) as partial:
        for one in people:
            # Two rows may name one file, or files whose results would have one name.
            to = Destination(partial / _own(one), root, done)
            results += transform_task(Transform(saved.model, cleaning.target, unit=saved.unit), saved.input, to).work(
                [one]
            )
        refuse_failed(results, files, sent)
    written = [
        [str(made / _own(one) / file) for file in result.files] for one, result in zip(people, results, strict=True)
    ]
    return pd.DataFrame(written, index=frame.index, columns=list(saved.input.written[: len(written[0])]))


def refuse_failed(results: Sequence[Result], files: pd.Series, sent: pd.Series) -> None:
    """Refuse images that could not be used, as the request names them; where a file lies on the server is nobody's business."""
    failed = [f"{one.key}: {_as_sent(one.error, files[one.key], sent[one.key])}" for one in results if one.error]
    if failed:
        raise CohortError(listed("images that cannot be used", failed))


def _as_sent(error: str, file: Path, sent: str) -> str:
    for part in hemispheres(file):
        error = error.replace(str(part), sent if part == file else str(Path(sent).with_name(part.name)))
    return error


def _own(one: Sample) -> str:
    return f"row-{one.place + 1}"


def _output_root() -> Path:
    named = os.environ.get(OUTPUT_ROOT, "").strip()
    if not named or not Path(named).is_dir():
        raise CohortError(
            f"images are not cleaned here: {OUTPUT_ROOT} names no folder on this server; use medrep export, or have it set"
        )
    return Path(named).resolve()


def _names(parameter: str, text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith("["):
        return tuple(name.strip() for name in text.split(",") if name.strip())
    content = _json(parameter, text)
    if not isinstance(content, list) or not all(isinstance(name, str) and name for name in content):
        raise _unreadable(parameter, text)
    return tuple(content)


def _values(parameter: str, text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        content = _json(parameter, text)
        if not isinstance(content, Mapping) or not all(_is_value(value) for value in content.values()):
            raise _unreadable(parameter, text)
        return {str(name): str(value) for name, value in content.items()}
    entries = [entry.partition("=") for entry in text.split(",") if entry.strip()]
    if not all(name.strip() and sign and value.strip() for name, sign, value in entries):
        raise _unreadable(parameter, text)
    return {name.strip(): value.strip() for name, _, value in entries}


def _is_value(value: object) -> bool:
    return (isinstance(value, str) and bool(value)) or (isinstance(value, int | float) and not isinstance(value, bool))


def _json(parameter: str, text: str) -> object:
    try:
        return read_json(text)
    except ValueError:
        raise _unreadable(parameter, text) from None


def _unreadable(parameter: str, text: str) -> ModelError:
    forms: dict[str, Sequence[str]] = {
        "remove": ("site,age", '["site", "age"]'),
        "references": ("site=S0,age=50", '{"site": "S0", "age": 50}'),
    }
    plain, as_json = forms["remove" if parameter in ("remove", "keep") else "references"]
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return ModelError(
        f"{parameter} {shown!r} cannot be read; write it as {plain}, or as text that holds JSON: {as_json}"
    )
