"""``medrep counterfactual``: the cohort as the model expects it with other covariates, within the people it has seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from medrep.cohort.support import refuse_extrapolation
from medrep.commands.batch import BatchOptions
from medrep.commands.export import ExportRequest, export
from medrep.commands.newcomers import load_trained
from medrep.console import Console
from medrep.errors import CovariateError
from medrep.export.derivative import MeshFormat


def counterfactual(
    root: Path,
    out: Path,
    model_folder: Path,
    wanted: Mapping[str, str],
    console: Console,
    *,
    options: BatchOptions | None = None,
    extrapolate: bool = False,
    unseen_site: Literal["error", "adapt"] = "error",
    mesh: MeshFormat | None = None,
    show: str = "",
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> int:
    """Write the cohort with covariates moved to other values; everything else of a person stays.

    Args:
        root: The cohort.
        out: Where to write.
        model_folder: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``.
        wanted: Covariate -> value.
        console: Where to speak.
        options: Which part, and how.
        extrapolate: Whether values outside the range of training, and people far outside it, are allowed.
        unseen_site: What sites that training did not have do.
        mesh: What meshes of organs are written as; GIFTI if None.
        show: Whom the report shows; the first person if empty, ``nobody`` for none.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.

    Returns:
        How many people could not be delivered.

    Raises:
        CovariateError: Unknown covariates or levels, or values beyond training.
    """
    trained = load_trained(model_folder)
    schema = trained.model.schema
    if not wanted:
        raise CovariateError(f"nothing to set; name one or more of {', '.join(schema.names)}, e.g. --set age=80")
    target = schema.references(list(wanted), wanted)
    if not extrapolate:
        refuse_extrapolation(schema, target)
    request = ExportRequest(
        remove=tuple(wanted),
        references=wanted,
        unseen_site=unseen_site,
        extrapolate=extrapolate,
        mesh=mesh,
        show=show,
        only=only,
        exclude=exclude,
        overwrite=overwrite,
        purpose="counterfactual",
    )
    return export(root, out, model_folder, request, console, options=options, trained=trained)
