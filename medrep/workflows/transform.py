"""Export and counterfactuals: a cohort with covariates removed or set, its report, and the merging of parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medrep._persisted import to_json
from medrep.batch.merge import SCORE, Merged, finish, prune
from medrep.batch.run import (
    BatchOptions,
    BatchResult,
    Work,
    batch_result,
    chosen_participants,
    run_batch,
)
from medrep.batch.store import Job, read_job
from medrep.cohort.cohort import Cohort, with_changes
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.files import CohortFiles, Place
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.parsing import shown
from medrep.cohort.support import refuse_extrapolation
from medrep.cohort.table_files import is_table
from medrep.derivatives.bids import Destination, MeshFormat, Removal, parsed, write_tsv
from medrep.derivatives.tables import FOLDER, write_tables
from medrep.derivatives.tasks import Task, TaskFactory
from medrep.derivatives.transform import (
    Purpose,
    Transform,
    TransformFactory,
    checked_target,
    described_removal,
    not_removed,
    parted_names,
)
from medrep.errors import CovariateError, MedrepError, ModelError
from medrep.models import Adaptation, Model
from medrep.models.saved import SavedModel
from medrep.workflows.cohorts import (
    Selection,
    check_beyond,
    check_earlier,
    check_followed,
    check_pose,
    inputs_of,
    later,
    load_trained,
    note_unplaced,
    place_of,
    read_unlabelled,
    read_unseen,
    reference_people,
    refuse_forms,
    refuse_holes,
    refuse_input,
    refuse_unknown,
    refuse_unmeasured,
    report_subject,
)

_COMMANDS = {"removal": "export", "counterfactual": "counterfactual"}


@dataclass(frozen=True)
class ExportRequest:
    """Options of the command.

    Attributes:
        remove: Covariates to remove.
        keep: Covariates named as kept; everything that is not removed is kept, named or not.
        references: Removed covariate -> value to move to, where it is not the model's default.
        unseen_site: ``error``, or ``adapt`` to estimate batch levels that training did not have.
        extrapolate: Whether people far outside the range of training are taken, and references outside it.
        label_free: Whether people come without covariates: the model's guard erases without looking at labels.
        probe: Whether to measure what probes read from what is written; means something for people that training lacked.
        purpose: ``removal`` to the reference, or a ``counterfactual``, which says what it is in names and sidecars.
        years: For a counterfactual: how far each visit is moved along its person's own trajectory, in place of ``references``.
        with_pose: Whether what goes with the covariates of how an organ lies is moved, too: position, beside shape.
        mesh: What meshes of organs are written as; GIFTI if None.
        matrix: Whether edges between regions are written as a matrix a person, too.
        show: Whom the report shows; the first person if empty, ``nobody`` for none.
        only: Participants to export; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
        reference_people: ``COLUMN=VALUE``: whom unseen sites are estimated from; all of their people, if empty.
    """

    remove: tuple[str, ...]
    keep: tuple[str, ...] = ()
    references: Mapping[str, str] | None = None
    unseen_site: Literal["error", "adapt"] = "error"
    extrapolate: bool = False
    label_free: bool = False
    probe: bool = False
    purpose: Purpose = "removal"
    years: float | None = None
    with_pose: bool = False
    mesh: MeshFormat | None = None
    matrix: bool = False
    show: str = ""
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False
    reference_people: str = ""


def export(
    source: Place | Cohort,
    out: Path,
    model: Path | SavedModel,
    request: ExportRequest,
    listener: Listener = SILENT,
    *,
    options: BatchOptions | None = None,
) -> BatchResult | None:
    """Write a BIDS derivative of the cohort with effects removed, or one part of it.

    Args:
        source: The cohort.
        out: Where to write; the same call goes on where an earlier one was ended.
        model: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``, or a model at hand.
        request: What to remove.
        listener: Who is told.
        options: Which part, and how.

    Returns:
        How it went; people who could not be delivered stand in failures.tsv, too. None after a dry run.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    refuse_input(out, inputs_of(source, model))
    options = options or BatchOptions()
    trained = load_trained(model)
    return _transform(source, out, trained, request, options, listener)


def counterfactual(
    source: Place | Cohort,
    out: Path,
    model: Path | SavedModel,
    request: ExportRequest,
    listener: Listener = SILENT,
    *,
    options: BatchOptions | None = None,
) -> BatchResult | None:
    """Write the cohort with covariates moved to other values; everything else of a person stays.

    Args:
        source: The cohort.
        out: Where to write.
        model: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``, or a model at hand.
        request: Covariate -> value in ``references``; what is removed are these. Or ``years``.
        listener: Who is told.
        options: Which part, and how.

    Returns:
        How it went; see `export`.

    Raises:
        CovariateError: Unknown covariates or levels, or values beyond training.
        ModelError: Years, of a model that does not ``forecast``.
    """
    trained = load_trained(model)
    schema, wanted = trained.model.schema, request.references
    if request.years is not None:
        if wanted:
            raise CovariateError(
                f"--years {request.years:g} and --set {', '.join(wanted)}: the one moves each person along their own trajectory,"
                " the other everybody to one value; give one of them, and then the other to what was written"
            )
        check_followed(trained, "--years")
        wanted = {trained.model.followed: f"{request.years:+g}"}
    elif not wanted:
        raise CovariateError(f"nothing to set; name one or more of {', '.join(schema.names)}, e.g. --set age=80")
    else:
        target = schema.references(list(wanted), wanted)
        if not request.extrapolate:
            refuse_extrapolation(schema, target)
    request = replace(request, remove=tuple(wanted), references=wanted, purpose="counterfactual")
    refuse_input(out, inputs_of(source, model))
    return _transform(source, out, trained, request, options or BatchOptions(), listener)


def _transform(
    source: Place | Cohort,
    out: Path,
    trained: SavedModel,
    request: ExportRequest,
    options: BatchOptions,
    listener: Listener,
) -> BatchResult | None:
    model, wanted = trained.model, trained.input
    refuse_forms(wanted, request.mesh, matrix=request.matrix)
    schema = model.schema
    request = replace(request, remove=parted_names(schema, request.remove), keep=parted_names(schema, request.keep))
    own = request.years is not None
    references = {} if own else dict(request.references or {})
    target = checked_target(schema, request.remove, request.keep, references)
    target |= {model.followed: f"{request.years:+g}"} if own else {}
    if references and not request.extrapolate:
        refuse_extrapolation(model.schema, {name: target[name] for name in references if name in target})
    if request.label_free:
        _check_label_free(model, request)
    who = Selection(request.only, request.exclude, request.unseen_site, request.extrapolate, tolerant=True)
    read = read_unlabelled if request.label_free else read_unseen
    cohort, frame = read(source, trained, who, listener)
    check_pose(trained, frame, wanted=request.with_pose, own=request.years is not None)
    place = place_of(source)
    root = place.root
    check_earlier(cohort, trained, listener, request.remove)
    note_unplaced(trained, listener)
    refuse_holes(cohort)
    if request.years is not None:
        there = later(frame, model.followed, [request.years])
        check_beyond(schema, there, model.followed, listener, extrapolate=request.extrapolate)
    if not request.label_free:
        refuse_unmeasured(model, cohort, frame, listener, target)
    _check_probe(request, cohort, options)
    refuse_unknown(request.show, cohort.table)

    visits = cohort.table.loc[frame.index, "participant_id"].astype(str).value_counts()
    people = len(visits)

    def described(adapted: tuple[Adaptation, ...]) -> Removal:
        done = described_removal(
            trained.named,
            trained,
            target,
            people=people,
            purpose=request.purpose,
            adapted=adapted,
            label_free=request.label_free,
        )
        done = replace(done, with_pose=request.with_pose)
        return replace(done, own=True, near=None) if own else done

    features = cohort.source.features

    def moves(folder: Path, done: Removal) -> TransformFactory:
        to = Destination(out, cohort.root, done, request.mesh or "gifti", features.names, request.matrix)
        most = int(visits.max())
        return TransformFactory(folder, to, target, request.label_free, most, request.years, request.with_pose)

    def step(known: Model) -> Task:
        return moves(out, described(())).step(replace(trained, model=known))

    def factory(job: Job) -> TaskFactory:
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
            **({"tables": True} if is_table(root) or place.more else {}),
            **({"latent_roles": list(model.latent_roles)} if model.latent_roles else {}),
        }

    chosen = chosen_participants(place, request.only, request.exclude)
    asked = {**chosen, "references": target, "label_free": request.label_free, "mesh": request.mesh or "gifti"}
    asked |= {"matrix": True} if request.matrix else {}  # jobs that were begun without the key go on
    asked |= {"years": request.years} if own else {}
    asked |= {"with_pose": True} if request.with_pose else {}
    telling = reference_people(model, cohort, frame, request.reference_people) if not request.label_free else None
    command = {"command": _COMMANDS[request.purpose]}
    work = Work(command | asked, content, step, factory, out, request.overwrite, telling)
    whole = run_batch(work, trained, cohort, frame, options, listener)
    if whole is None or isinstance(whole, BatchResult):
        return whole
    if request.probe:
        those = cohort.select(frame.index)
        whose = those.tied if wanted.group in those.table else those.table["participant_id"].astype(str).tolist()
        _probe(out, model.schema, frame, whole, request, listener, whose)
    columnwise = request.purpose == "removal" and not_removed(model, request.remove)
    if columnwise and set(request.remove) - set(model.schema.batches):
        measured = " (--probe measures)" if wanted.tabular else ""
        listener.warn(
            f"a {model.kind} model takes {', '.join(request.remove)} out of each column; combinations of columns may still tell"
            f" them{measured}. Where nothing is kept, a model of --config {wanted.better_configs} takes those out, too"
        )
    adapted = tuple(Adaptation(**one) for one in read_job(out).content["adapted"])
    done = _summary(listener, described(adapted))
    report = {"report": out / "report.html"}
    if not (whole.unchanged and report["report"].is_file() and request.show == read_job(out).content["show"]):
        report = report_transformed(out, whole.delivered.index, listener, request.show, (cohort, frame))
    results = {"cohort": out, **report, **_own_tables(out, trained, whole, listener)}
    return batch_result(out, whole, done, results)


def _own_tables(out: Path, trained: SavedModel, whole: Merged, listener: Listener) -> dict[str, Path]:
    """Write the tables that were given, cleaned; return where they lie, nothing where people came from a folder."""
    job = read_job(out)
    files = CohortFiles.from_json(Path(job.identity["cohort"]), job.identity.get("files", {}))
    if not job.content.get("tables"):
        return {}
    folder = out / FOLDER
    there = all((folder / path.name).is_file() for path in files.tables if path.is_file())
    if not (whole.unchanged and there):
        asked = with_changes(trained.input, files).to_json()
        features, drop = (tuple(asked.get(name, ())) for name in ("features", "drop"))
        section = FeaturesInput(features=features, drop=drop, group=trained.input.group)
        section = replace(section, compositions=asked.get("compositions", {}))
        for line in write_tables(out, files, section, trained.model.schema.declared, job.content["sidecar"]):
            listener.warn(line)
    return {"tables": folder}


def _check_label_free(model: Model, request: ExportRequest) -> None:
    if "unlabelled" not in model.capabilities:
        raise ModelError(f"--label-free: {model.refusal('unlabelled')}")
    if request.references or request.probe:
        raise ModelError(
            "--label-free: erases without a reference and without labels; leave out --reference and --probe"
        )


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
    whole: Merged,
    request: ExportRequest,
    listener: Listener,
    participants: Sequence[str],
) -> None:
    from medrep.audit.data import probe_export  # scikit-learn's probes take seconds to import

    listener.say("measure what probes read (means something for people that training did not have)")
    released = {name: np.stack([parsed(line) for line in whole.lines(name)]) for name in ("features", "latents")}
    measured = probe_export(schema, frame, released, request.remove, participants=participants)
    write_tsv(out / "leakage.tsv", measured)
    rows = [tuple(str(c) if not isinstance(c, float) else f"{c:.3f}" for c in row) for row in measured.to_numpy()]
    listener.table("What probes read from what was written", tuple(measured.columns), rows)


def _summary(listener: Listener, done: Removal) -> str:
    transformed = ", ".join(f"{name} -> {shown(value)}" for name, value in done.references.items())
    if done.near is not None:
        listener.say(f"{done.near} people of training were near these values")
    for certificate in done.certificates:
        listener.say(
            f"  guard: {certificate.rank} directions erased; a linear probe of {certificate.covariate} on the latents of"
            f" {certificate.learners} new people, forecast: {certificate.forecast}"
        )
    return f"moved {transformed}; kept: {', '.join(done.kept) or 'none'}"


def report_transformed(
    out: Path, delivered: pd.Index, listener: Listener, show: str, people: tuple[Cohort, pd.DataFrame] | None = None
) -> dict[str, Path]:
    """Write OUT/report and OUT/report.html; what cannot be shown is one warning, since the cohort is safe in OUT.

    Args:
        out: Where the moved cohort lies.
        delivered: Keys of who is in it.
        listener: Who is told.
        show: Whom the report shows; the first person if empty, ``nobody`` for none.
        people: The cohort as it was, and its covariates; read again if None.

    Returns:
        ``report``: the page, where there is one.
    """
    from medrep.report.build import write_report
    from medrep.report.data_store import write_report_data
    from medrep.report.data_transform import transform_report_data  # scikit-image takes seconds to import

    job = read_job(out)
    try:
        trained = load_trained(job.model)
        model = trained.model
        asked, content = job.identity, job.content
        cohort, frame = people or _people(job, trained)
        if len(delivered) < len(cohort):
            there = cohort.table.index[cohort.table.index.isin(delivered)]
            cohort, frame = cohort.select(there), frame.loc[there]
        transform = Transform(model, asked["references"], asked["label_free"], years=asked.get("years"))
        about = {"command": asked["command"], "title": content["title"], **content["about"]}
        desc = "residualized" if asked["command"] == "export" else "counterfactual"
        exhibits = transform_report_data(
            out,
            transform,
            cohort,
            frame,
            about,
            desc,
            report_subject(show, cohort.table),
        )
        write_report_data(out, exhibits)
        return {"report": write_report(out)}
    except MedrepError as error:
        listener.warn(f"no report: {error}")
        return {}


def _people(job: Job, trained: SavedModel) -> tuple[Cohort, pd.DataFrame]:
    asked = job.identity
    who = Selection(asked["only"], asked["exclude"], "adapt", extrapolate=True, tolerant=True)
    read = read_unlabelled if asked["label_free"] else read_unseen
    return read(CohortFiles.from_json(Path(asked["cohort"]), asked.get("files", {})), trained, who)


@dataclass(frozen=True)
class MergedParts:
    """Result of merging the parts of a job.

    Attributes:
        scored: Whether `score` did the parts.
        result: How it went.
    """

    scored: bool
    result: BatchResult


def merge(out: Path, listener: Listener = SILENT) -> MergedParts:
    """Write the tables of a batch whose parts are all done.

    Args:
        out: OUT of the command that did the parts.
        listener: Who is told.

    Raises:
        MedrepError: No batch, or people who are not done; they are listed.
    """
    job = read_job(out)
    whole = finish(job)
    command = str(job.identity["command"])
    if command == SCORE:
        results = {"scores": out / "scores.tsv"}
    else:
        page = report_transformed(out, whole.delivered.index, listener, job.content.get("show", ""))
        results = {"cohort": out, **page, **_own_tables(out, load_trained(job.model), whole, listener)}
    return MergedParts(command == SCORE, batch_result(out, whole, f"merged the parts of {command}", results))


def remove_state(out: Path) -> tuple[int, Path]:
    """Remove what a whole batch keeps to go on, and nothing that it wrote for others.

    Args:
        out: OUT of the command that did the parts.

    Returns:
        How many bytes were removed, and of which folder.

    Raises:
        MedrepError: No batch, one that is not whole, or one that a process works on.
    """
    job = read_job(out)
    return prune(job), job.folder
