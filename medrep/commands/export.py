"""``medrep export``: cohort + model -> the same cohort without the effects of chosen covariates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medrep._persisted import to_json
from medrep.batch.job import Job, read_job
from medrep.batch.merge import Finished, Merged
from medrep.batch.openers import OpenMoves
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.kinds import InputKind
from medrep.cohort.participants import count_people
from medrep.cohort.support import refuse_extrapolation
from medrep.cohort.values import shown
from medrep.commands.batch import BatchOptions, Work, chosen_people, go_through, tell_failures
from medrep.commands.folders import refuse_input
from medrep.commands.moved_report import report_moved
from medrep.commands.newcomers import (
    check_earlier,
    load_trained,
    note_unplaced,
    read_newcomers,
    refuse_holes,
    refuse_unmeasured,
)
from medrep.commands.showing import refuse_strangers
from medrep.console import Console
from medrep.errors import MedrepError, ModelError
from medrep.export.derivative import Destination, MeshFormat, Removal, write_tsv
from medrep.export.digits import parsed
from medrep.export.outcomes import Opener, Step
from medrep.export.removal import Purpose, checked_target, described_removal, not_removed, parted_names
from medrep.models import Adaptation, Model
from medrep.models.saved import SavedModel

_COMMANDS = {"removal": "export", "counterfactual": "counterfactual"}


@dataclass(frozen=True)
class ExportRequest:
    """What the person asked for.

    Attributes:
        remove: Covariates to remove.
        keep: Covariates named as kept; everything that is not removed is kept, named or not.
        references: Removed covariate -> value to move to, where it is not the model's default.
        unseen_site: ``error``, or ``adapt`` to estimate batch levels that training did not have.
        extrapolate: Whether people far outside the range of training are taken, and references outside it.
        label_free: Whether people come without covariates: the model's guard erases without looking at labels.
        probe: Whether to measure what probes read from what is written; means something for people that training lacked.
        purpose: ``removal`` to the reference, or a ``counterfactual``, which says what it is in names and sidecars.
        mesh: What meshes of organs are written as; GIFTI if None.
        show: Whom the report shows; the first person if empty, ``nobody`` for none.
        only: Participants to export; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
    """

    remove: tuple[str, ...]
    keep: tuple[str, ...] = ()
    references: Mapping[str, str] | None = None
    unseen_site: Literal["error", "adapt"] = "error"
    extrapolate: bool = False
    label_free: bool = False
    probe: bool = False
    purpose: Purpose = "removal"
    mesh: MeshFormat | None = None
    show: str = ""
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
    options: BatchOptions | None = None,
    trained: SavedModel | None = None,
) -> int:
    """Write a BIDS derivative of the cohort with effects removed, or one part of it.

    Args:
        root: The cohort.
        out: Where to write; the same call goes on where an earlier one was ended.
        model_folder: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``.
        request: What to remove.
        console: Where to speak.
        options: Which part, and how.
        trained: The model, where it was loaded already.

    Returns:
        How many people could not be delivered; they stand in failures.tsv. After one part of several: 0.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    refuse_input(out, (root, model_folder))
    options = options or BatchOptions()
    trained = trained or load_trained(model_folder)
    model, wanted = trained.model, trained.input
    refuse_mesh(request.mesh, wanted)
    schema = model.schema
    request = replace(request, remove=parted_names(schema, request.remove), keep=parted_names(schema, request.keep))
    target = checked_target(schema, request.remove, request.keep, request.references)
    if request.references and not request.extrapolate:
        refuse_extrapolation(model.schema, {name: target[name] for name in request.references if name in target})
    if request.label_free:
        _check_label_free(model, request)
    cohort, frame = _people(root, model.schema, wanted, request, console)
    check_earlier(cohort, trained, console, request.remove)
    note_unplaced(model, wanted, console)
    refuse_holes(cohort)
    if not request.label_free:
        refuse_unmeasured(model, cohort, frame, console, target)
    _check_probe(request, cohort, options)
    refuse_strangers(request.show, cohort.table)

    people = cohort.table["participant_id"].astype(str).nunique()

    def described(adapted: tuple[Adaptation, ...]) -> Removal:
        return described_removal(
            str(model_folder),
            trained,
            target,
            people=people,
            purpose=request.purpose,
            adapted=adapted,
            label_free=request.label_free,
        )

    features = cohort.source.features

    def moves(folder: Path, done: Removal) -> OpenMoves:
        to = Destination(out, cohort.root, done, request.mesh or "gifti", features.names)
        return OpenMoves(folder, to, target, request.label_free)

    def step(known: Model) -> Step:
        return moves(out, described(())).step(replace(trained, model=known))

    def opener(job: Job) -> Opener:
        return moves(job.model, described(tuple(Adaptation(**one) for one in job.content["adapted"])))

    joined = ", ".join(request.remove)
    title = f"without {joined}" if request.purpose == "removal" else f"with other {joined}"

    def content(adapted: tuple[Adaptation, ...]) -> dict[str, Any]:
        about = described(adapted).to_json()
        grid = {} if features.grid is None else {"Grid": to_json(features.grid)}
        return {
            "names": list(features.names),
            "header": list(features.header),
            "sidecar": {**about, **grid},
            "title": f"{root.resolve().name} {title}",
            "source": root.name,
            "about": about,
            "show": request.show,
        }

    chosen = chosen_people(root, request.only, request.exclude)
    asked = {**chosen, "references": target, "label_free": request.label_free, "mesh": request.mesh or "gifti"}
    work = Work({"command": _COMMANDS[request.purpose], **asked}, content, step, opener)
    whole = go_through(work, trained, cohort, frame, out, options, console, overwrite=request.overwrite)
    if whole is None:
        return 0
    if request.probe:
        whose = cohort.table.loc[frame.index, "participant_id"].astype(str).tolist()
        _probe(out, model.schema, frame, whole, request, console, whose)
    columnwise = request.purpose == "removal" and not_removed(model, request.remove)
    if columnwise and set(request.remove) - set(model.schema.batches):
        measured = " (--probe measures)" if wanted.tabular else ""
        console.warn(
            f"a {model.kind} model takes {', '.join(request.remove)} out of each column; combinations of columns may still tell"
            f" them{measured}. Where nothing is kept, a model of --config {wanted.better_configs} takes those out, too"
        )
    adapted = tuple(Adaptation(**one) for one in read_job(out).content["adapted"])
    done = _summary(console, described(adapted))
    report = {"report": out / "report.html"}
    if not (whole.unchanged and report["report"].is_file() and request.show == read_job(out).content["show"]):
        report = report_moved(out, whole.delivered.index, console, request.show, (cohort, frame))
    results = {"cohort": out, **report}
    return tell_failures(console, out, whole, done, results)


def _check_label_free(model: Model, request: ExportRequest) -> None:
    if "unlabelled" not in model.capabilities:
        raise ModelError(f"--label-free: {model.refusal('unlabelled')}")
    if request.references or request.probe:
        raise ModelError(
            "--label-free: erases without a reference and without labels; leave out --reference and --probe"
        )


def refuse_mesh(form: MeshFormat | None, wanted: InputKind[Any]) -> None:
    """Refuse a choice of mesh for what has none.

    Raises:
        ModelError: Not a model of shapes.
    """
    if form is not None and not wanted.has_surface:
        raise ModelError(
            f"--mesh {form}: the model was trained on {wanted.kind} data, which has no surface; leave it out"
        )


def _people(
    root: Path, schema: CovariateSchema, wanted: InputKind[Any], request: ExportRequest, console: Console
) -> tuple[Cohort, pd.DataFrame]:
    only, exclude = request.only, request.exclude
    if not request.label_free:
        return read_newcomers(
            root,
            schema,
            wanted,
            console,
            unseen_site=request.unseen_site,
            extrapolate=request.extrapolate,
            only=only,
            exclude=exclude,
            tolerant=True,
        )
    cohort = read_cohort(root, wanted, only=only, exclude=exclude, tolerant=True)
    console.say(f"{count_people(cohort.table)} from {root}; their covariates are not looked at")
    console.notes(cohort.notes)
    return cohort, pd.DataFrame(index=cohort.table.index)


def _check_probe(request: ExportRequest, cohort: Cohort, options: BatchOptions) -> None:
    if request.probe and not cohort.input.tabular:
        raise MedrepError(
            "--probe measures feature tables; for images compare latents.tsv with medrep's probes in Python"
        )
    if request.probe and options.part.count > 1:
        raise MedrepError("--probe judges the whole table; leave out --num-parts, or leave out --probe")


def _probe(
    out: Path,
    schema: CovariateSchema,
    frame: pd.DataFrame,
    whole: Merged | Finished,
    request: ExportRequest,
    console: Console,
    participants: Sequence[str],
) -> None:
    from medrep.audit.exported import probe_export  # scikit-learn's probes take seconds to import

    console.say("measure what probes read (means something for people that training did not have)")
    handed_out = {name: np.stack([parsed(line) for line in whole.lines(name)]) for name in ("features", "latents")}
    measured = probe_export(schema, frame, handed_out, request.remove, participants=participants)
    write_tsv(out / "leakage.tsv", measured)
    rows = [tuple(str(c) if not isinstance(c, float) else f"{c:.3f}" for c in row) for row in measured.to_numpy()]
    console.table("What probes read from what was written", tuple(measured.columns), rows)


def _summary(console: Console, done: Removal) -> str:
    moved = ", ".join(f"{name} -> {shown(value)}" for name, value in done.references.items())
    if done.near is not None:
        console.say(f"{done.near} people of training were near these values")
    for certificate in done.certificates:
        console.say(
            f"  guard: {certificate.rank} directions erased; a linear probe of {certificate.covariate} on the latents of"
            f" {certificate.learners} new people, forecast: {certificate.forecast}"
        )
    return f"moved {moved}; kept: {', '.join(done.kept) or 'none'}"
