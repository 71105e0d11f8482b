"""Cleaning by a served model: covariates removed or set in rows of the answer, or in images of a folder.

The work is that of `medrep export` and `medrep counterfactual`, so that the numbers are theirs. Images are written below the
folder that MEDREP_OUTPUT_ROOT names, each request's in a new folder of its own that appears when all of them are there: nothing
is replaced, and no link is followed, since nothing is written where something lay before.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from medrep.cohort.kinds.base import RowForm
from medrep.cohort.samples import Samples, Source
from medrep.cohort.sidecars import earlier_work, refuse_again
from medrep.cohort.support import refuse_extrapolation
from medrep.derivatives.bids import Destination, parsed
from medrep.derivatives.tasks import Result, Task
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
    form: RowForm | None = None,
    whose: Sequence[str] | None = None,
    given: Float[np.ndarray, "people columns"] | None = None,
) -> pd.DataFrame:
    """Return rows of features with the effects taken out: those that `medrep export` writes for the same people in this order.

    ``form`` is that in which rows are answered, where it is not the model's; ``whose`` names each row's person; ``given`` are
    the rows as they were sent, where that form needs them.
    """
    names = tuple(model.columns.names)
    step = TransformRows(Transform(model, cleaning.target, visits=most_visits(whose)), names, form)
    table = FeatureTable(pd.DataFrame(index=frame.index), data, names, None, given=given)
    people = worked(Source.of_table(table).samples(frame), step, whose)
    blocks = [people[block.start : block.stop] for block in people.blocks(step.block_size)]
    rows = {one.key: parsed(one.lines["features"]) for block in blocks for one in step.work(block)}
    return pd.DataFrame(np.stack([rows[str(key)] for key in frame.index]), index=frame.index, columns=list(names))


def most_visits(whose: Sequence[str] | None) -> int:
    """Return how many rows one person has at most; 1 where each row is a person."""
    return 1 if whose is None else max(Counter(whose).values(), default=1)


def worked(people: Samples, step: Task, whose: Sequence[str] | None) -> Samples:
    """Return samples in the order in which a step works on them: those of a person together where it asks for that."""
    return people.together(whose, step.block_size) if step.by_person and whose is not None else people


def cleaned_images(
    saved: SavedModel,
    cleaning: Cleaning,
    frame: pd.DataFrame,
    files: pd.Series,
    sent: pd.Series,
    root: Path,
    whose: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Write images below ``root`` with the effects taken out, as `medrep export` writes them.

    Returns ``path`` of each image and ``sidecar`` of its JSON (of an organ also ``mesh``, of structures one each,
    ``mesh_left`` and so on), below the folder that MEDREP_OUTPUT_ROOT names; where a person's are moved together, they lie side
    by side in the folder of the first. Raises CohortError for no such folder, images that were cleaned before or stand there
    twice for one person, or images that cannot be used; nothing is written then.
    """
    output = _output_root()
    refuse_again(earlier_work(root, files), tuple(cleaning.target), saved.provenance.transformed)
    name, purpose = f"model sha256:{saved.provenance.digest}", cleaning.purpose
    done = described_removal(name, saved, cleaning.target, people=len(frame), purpose=purpose)
    made = PurePosixPath(f"{done.desc}-{uuid4().hex}")
    transform = Transform(saved.model, cleaning.target, unit=saved.unit, visits=most_visits(whose))
    people = Source.of_files(files).samples(frame)
    together = list(zip(whose or (), files, strict=True)) if transform.by_person else []
    if twice := [str(key) for key, one in zip(frame.index, together, strict=bool(together)) if together.count(one) > 1]:
        raise CohortError(listed("images that stand there twice for one participant", twice, "send each visit once"))
    places = pd.Series(range(len(people))).groupby(list(whose) if together and whose else list(people.keys), sort=False)
    results: dict[str, tuple[str, Result]] = {}
    with atomic_folder(output / made) as partial:
        for _, own in places:
            some = people.take(own.tolist())
            # Two rows may name one file, or files whose results would have one name.
            folder = f"row-{own.iloc[0] + 1}"
            step = transform_task(transform, saved.input, Destination(partial / folder, root, done))
            some = replace(some, persons=np.zeros(len(some), int)) if together else some
            results |= {one.key: (folder, one) for one in step.work(some)}
        refuse_failed([results[key][1] for key in people.keys], files, sent)
    written = [
        [str(made / folder / file) for file in one.files] for folder, one in (results[key] for key in people.keys)
    ]
    return pd.DataFrame(written, index=frame.index, columns=list(saved.input.outputs[: len(written[0])]))


def refuse_failed(results: Sequence[Result], files: pd.Series, sent: pd.Series) -> None:
    """Refuse images that could not be used, as the request names them; where a file lies on the server is nobody's business."""
    failed = [f"{one.key}: {_as_sent(one.error, files[one.key], sent[one.key])}" for one in results if one.error]
    if failed:
        raise CohortError(listed("images that cannot be used", failed))


def _as_sent(error: str, file: Path, sent: str) -> str:
    for part in hemispheres(file):
        error = error.replace(str(part), sent if part == file else str(Path(sent).with_name(part.name)))
    return error


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
