"""``sample``: new people for given demographics, drawn by a model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medrep import __version__
from medrep._files import output_folder
from medrep.cohort.columns import read_covariates
from medrep.cohort.compositions import composition_form
from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.kinds.features import FeaturesKind
from medrep.cohort.participants import check_ids, keys, read_tsv, refuse_doubles
from medrep.derivatives.bids import MeshFormat
from medrep.derivatives.cohorts import Drawn, write_samples
from medrep.errors import CohortError, ModelError
from medrep.workflows.cohorts import check_output, check_range, load_trained, refuse_forms


@dataclass(frozen=True)
class SampleRequest:
    """Participants to draw.

    Attributes:
        table: Demographics, one row a person; ``participant_id`` is optional.
        people: Without a table: how many people, with covariates drawn one by one from those of training.
        seed: Of every draw.
        mesh: What meshes of organs are written as; GIFTI if None.
        extrapolate: Whether demographics far outside the range of training are taken.
        overwrite: Whether OUT may be replaced.
    """

    table: Path | None = None
    people: int | None = None
    seed: int = 0
    mesh: MeshFormat | None = None
    extrapolate: bool = False
    overwrite: bool = False


def sample(out: Path, model_folder: Path, request: SampleRequest, listener: Listener = SILENT) -> int:
    """Draw people by a model (OUT/model, or ``models:/NAME@ALIAS``) and write them as a cohort; return how many.

    Raises MedrepError for a model that cannot sample, or a table that cannot be read.
    """
    table, seed = request.table, request.seed
    inputs = (model_folder,) if table is None else (model_folder, table)
    check_output(out, overwrite=request.overwrite, inputs=inputs)
    saved = load_trained(model_folder)
    model, wanted = saved.model, saved.input
    if "sample" not in model.capabilities:
        raise ModelError(f"{model_folder}: {model.refusal('sample')}")
    refuse_forms(wanted, request.mesh)
    drawn = _drawn(model.schema, max(request.people or 0, 0), seed) if table is None else _read(table)
    if drawn.empty:
        raise CohortError(f"nobody to draw; give --table or --n above 0 (covariates: {', '.join(model.schema.names)})")
    covariates = read_covariates(drawn, model.schema.declared)
    listener.notes(covariates.notes)
    frame = model.schema.transfer(covariates.frame)
    check_range(model.schema, frame, listener, extrapolate=request.extrapolate)
    content = {
        "Description": "Drawn by a model; not real people.",
        "Model": str(model_folder),
        "ModelKind": model.kind,
        "MedrepVersion": __version__,
        "Seed": seed,
    }
    with output_folder(out) as partial, listener.track("draw", len(frame)) as advance:
        form = composition_form(wanted.section, model.columns.names) if isinstance(wanted, FeaturesKind) else None
        people = Drawn(model, drawn.loc[frame.index], frame, seed, wanted.suffix, content, form)
        if "organs" in model.capabilities:
            from medrep.derivatives.cohorts import write_shape_samples  # libigl, which only shapes need

            write_shape_samples(partial, people, wanted.section, request.mesh or "gifti", advance)
        else:
            write_samples(partial, people, advance)
    return len(frame)


def _drawn(schema: CovariateSchema, people: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, 29])
    columns: dict[str, list[str]] = {"participant_id": _ids(people)}
    for covariate in schema.fitted:
        column = covariate.declared.column or covariate.declared.name
        if isinstance(covariate, Continuous):
            values = np.clip(rng.normal(covariate.mean, covariate.sd, people), covariate.low, covariate.high)
            columns[column] = [f"{value:.4g}" for value in values]
        else:
            shares = np.asarray(covariate.counts, float) / sum(covariate.counts)
            columns[column] = [str(level) for level in rng.choice(covariate.levels, people, p=shares)]
    table = pd.DataFrame(columns, dtype=str)
    table.index = pd.Index(keys(table), name="key")
    return table


def _read(path: Path) -> pd.DataFrame:
    header, rows, _ = read_tsv(path)
    table = pd.DataFrame(rows, columns=header, dtype=str)
    if "participant_id" not in table:
        table.insert(0, "participant_id", _ids(len(table)))
    check_ids(path, table, [f"row {number}" for number in range(1, len(table) + 1)])
    refuse_doubles(path, table)
    table.index = pd.Index(keys(table), name="key")
    return table


def _ids(people: int) -> list[str]:
    return [f"sub-{number:0{max(4, len(str(people)))}d}" for number in range(1, people + 1)]
