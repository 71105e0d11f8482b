"""``medrep export``: cohort + model -> the same cohort without the effects of chosen covariates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from medrep.atomic import atomic_folder
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.inputs import Input
from medrep.cohort.participants import KEY_COLUMNS
from medrep.cohort.support import Support
from medrep.commands.folders import check_output
from medrep.commands.newcomers import Trained, adapted_model, image_files, load_trained, read_newcomers, refuse_holes
from medrep.console import Console
from medrep.erasure import Certificate
from medrep.errors import CohortError, CovariateError, MedrepError, ModelError, listed
from medrep.export.derivative import Failure, MeshFormat, Removal, write_description, write_failures, write_tsv
from medrep.export.features import export_features
from medrep.export.mover import Mover
from medrep.models import Adaptation, ConditionalVae, Model
from medrep.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class ExportRequest:
    """What the person asked for.

    Attributes:
        remove: Covariates to remove.
        keep: Covariates named as kept; everything that is not removed is kept, named or not.
        references: Removed covariate -> value to move to, where it is not the model's default.
        unseen_site: ``error``, or ``adapt`` to estimate batch levels that training did not have.
        label_free: Whether people come without covariates: the model's guard erases without looking at labels.
        probe: Whether to measure what probes read from what is written; means something for people that training lacked.
        purpose: ``removal`` to the reference, or a ``counterfactual``, which says what it is in names and sidecars.
        mesh: What meshes of organs are written as; GIFTI if None.
        only: Participants to export; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
    """

    remove: tuple[str, ...]
    keep: tuple[str, ...] = ()
    references: Mapping[str, str] | None = None
    unseen_site: Literal["error", "adapt"] = "error"
    label_free: bool = False
    probe: bool = False
    purpose: Literal["removal", "counterfactual"] = "removal"
    mesh: MeshFormat | None = None
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False


def export(
    root: Path,
    out: Path,
    model_folder: Path,
    request: ExportRequest,
    console: Console,
    *,
    trained: Trained | None = None,
) -> int:
    """Write a BIDS derivative of the cohort with effects removed.

    Args:
        root: The cohort.
        out: Where to write; it appears only when it is complete.
        model_folder: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``.
        request: What to remove.
        console: Where to speak.
        trained: The model, where it was loaded already.

    Returns:
        How many people could not be delivered; they stand in failures.tsv.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    check_output(out, overwrite=request.overwrite, inputs=(root, model_folder))
    checkpoint, model, wanted = trained or load_trained(model_folder)
    refuse_mesh(request.mesh, wanted)
    target = checked_target(model.schema, request)
    if request.label_free:
        _check_label_free(model, request)
    cohort, frame = _people(root, model.schema, wanted, request, console)
    adapted: tuple[Adaptation, ...] = ()
    if not request.label_free:
        model, adapted = adapted_model(model, cohort, frame, wanted, console)
        # A level nobody of whom could be read stays unknown; those people stand in failures.tsv.
        frame = model.schema.transfer(frame, unseen=request.unseen_site)
    done = _described(model_folder, model, checkpoint, request, target, adapted)
    with atomic_folder(out) as partial:
        failures = _write_data(
            partial, Mover(model, target, request.label_free), cohort, frame, wanted, done, request, console
        )
        if len(failures) == len(cohort):
            raise CohortError(listed("nobody could be delivered", [f"{f.participant}: {f.error}" for f in failures]))
        lost = {failure.participant for failure in failures}
        write_tsv(partial / "participants.tsv", cohort.table[[str(key) not in lost for key in cohort.table.index]])
        if adapted:
            write_tsv(partial / "adapted.tsv", pd.DataFrame([vars(adaptation) for adaptation in adapted]))
        write_failures(partial / "failures.tsv", failures)
        joined = ", ".join(request.remove)
        title = f"without {joined}" if done.purpose == "removal" else f"with other {joined}"
        write_description(partial, f"{root.resolve().name} {title}", [root.name], done.to_json())
    _summary(console, out, len(cohort), failures, done)
    return len(failures)


def _check_label_free(model: Model, request: ExportRequest) -> None:
    if not isinstance(model, ConditionalVae):
        raise ModelError(
            f"--label-free: a {model.kind} model needs everybody's covariates; train with --config vae_features.yaml"
        )
    if model.parts.scanner.harmoniser is not None:
        raise ModelError(
            "--label-free: this model undoes each scanner by its own name; give the site,"
            " or train with --set settings.scanner=no"
        )
    if request.references or request.probe:
        raise ModelError(
            "--label-free: erases without a reference and without labels; leave out --reference and --probe"
        )


def _described(
    folder: Path,
    model: Model,
    checkpoint: Checkpoint,
    request: ExportRequest,
    target: dict[str, str | float],
    adapted: tuple[Adaptation, ...],
) -> Removal:
    kept = tuple(name for name in model.schema.names if name not in request.remove)
    near = None
    if request.purpose == "counterfactual" and checkpoint.support:
        near = Support.from_json(checkpoint.support).near(model.schema, target)
    certificates: tuple[Certificate, ...] = ()
    if isinstance(model, ConditionalVae) and request.purpose == "removal":
        # Without labels the guard is all there is; with them it depends on the settings whether it is used.
        source = model.parts.latents if request.label_free else model
        certificates = source.certificates(request.remove, kept)
    return Removal(
        str(folder),
        model.kind,
        request.remove,
        kept,
        target,
        adapted,
        request.purpose,
        near,
        request.label_free,
        certificates,
    )


def refuse_mesh(form: MeshFormat | None, wanted: Input) -> None:
    """Refuse a choice of mesh for what has none.

    Raises:
        ModelError: Not a model of shapes.
    """
    if form is not None and wanted.kind != "shape":
        raise ModelError(
            f"--mesh {form}: the model was trained on {wanted.kind} data, which has no surface; leave it out"
        )


def checked_target(schema: CovariateSchema, request: ExportRequest) -> dict[str, str | float]:
    """Return removed covariate -> reference.

    Raises:
        CovariateError: Names that the model does not know, both removed and kept, or nothing to remove.
    """
    unknown = [name for name in (*request.remove, *request.keep) if name not in schema.names]
    if unknown:
        raise CovariateError(
            f"the model does not know {', '.join(unknown)}; it was trained with {', '.join(schema.names)}"
        )
    both = sorted(set(request.remove) & set(request.keep))
    if both:
        raise CovariateError(f"{', '.join(both)}: both in --remove and in --keep; name each once")
    if not request.remove:
        raise CovariateError(f"nothing to remove; name one or more of {', '.join(schema.names)}")
    return schema.references(request.remove, request.references)


def _people(
    root: Path, schema: CovariateSchema, wanted: Input, request: ExportRequest, console: Console
) -> tuple[Cohort, pd.DataFrame]:
    chosen = {"only": request.only, "exclude": request.exclude}
    if not request.label_free:
        return read_newcomers(root, schema, wanted, console, unseen_site=request.unseen_site, **chosen)
    cohort = read_cohort(root, wanted, **chosen)
    console.say(f"{len(cohort)} people from {root}; their covariates are not looked at")
    console.notes(cohort.notes)
    return cohort, pd.DataFrame(index=cohort.table.index)


def _write_data(
    folder: Path,
    mover: Mover,
    cohort: Cohort,
    frame: pd.DataFrame,
    wanted: Input,
    done: Removal,
    request: ExportRequest,
    console: Console,
) -> list[Failure]:
    if cohort.features is not None:
        refuse_holes(cohort.features, wanted)
        moved, latents = export_features(folder, mover, cohort.features, frame, done)
        if request.probe:
            from medrep.audit.exported import probe_export  # scikit-learn's probes take seconds to import

            console.say("measure what probes read (means something for people that training did not have)")
            measured = probe_export(mover.model.schema, frame, {"features": moved, "latents": latents}, request.remove)
            write_tsv(folder / "leakage.tsv", measured)
            rows = [
                tuple(str(c) if not isinstance(c, float) else f"{c:.3f}" for c in row) for row in measured.to_numpy()
            ]
            console.table("What probes read from what was written", tuple(measured.columns), rows)
        return []
    if request.probe:
        raise MedrepError(
            "--probe measures feature tables; for images compare latents.tsv with medrep's probes in Python"
        )
    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    images = (folder, cohort.root, mover, image_files(cohort), frame, wanted, done, ids)
    with console.track("export", len(cohort)) as advance:
        # MONAI takes seconds to import and only volumes need it, as only shapes need libigl.
        if wanted.kind == "shape":
            from medrep.export.shapes import export_shapes

            return export_shapes(*images, mesh=request.mesh or "gifti", advance=advance)
        from medrep.export.volumes import export_volumes

        return export_volumes(*images, advance=advance)


def _summary(console: Console, out: Path, people: int, failures: list[Failure], done: Removal) -> None:
    moved = ", ".join(
        f"{name} -> {value:.4g}" if isinstance(value, float) else f"{name} -> {value}"
        for name, value in done.references.items()
    )
    console.say(
        f"{people - len(failures)} of {people} people written to {out} ({moved}; kept: {', '.join(done.kept) or 'none'})"
    )
    if done.near is not None:
        console.say(f"{done.near} people of training were near these values")
    for certificate in done.certificates:
        auc, r2 = certificate.predicted_auc, certificate.predicted_r2
        forecast = f"AUC {auc:.2f}" if auc is not None else f"R2 {r2:.2f}" if r2 is not None else "not to be told"
        console.say(
            f"  guard: {certificate.rank} directions erased; a linear probe of {certificate.covariate} on the latents of new"
            f" people, forecast: {forecast}"
        )
    if failures:
        console.say(listed("failed", [f"{f.participant}: {f.error}" for f in failures], f"see {out / 'failures.tsv'}"))
