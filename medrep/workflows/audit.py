"""``audit``: what a model leaks, whom it harms and what its counterfactuals are worth, on people it never saw."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from medrep import __version__
from medrep._files import digest_of, output_folder, write_json
from medrep.audit.groups import parse_by, parse_intersect
from medrep.cohort.cohort import Cohort, read_matrix
from medrep.cohort.files import Place
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.participants import KEY_COLUMNS, count_participants
from medrep.cohort.regions import read_regions
from medrep.cohort.splits import TrainingRows, cohort_fingerprint, known_rows, row_fingerprint
from medrep.config import SHIPPED
from medrep.derivatives.bids import write_tsv
from medrep.derivatives.transform import checked_target
from medrep.errors import (
    CohortError,
    CovariateError,
    EvidenceError,
    MedrepError,
    listed,
)
from medrep.models.saved import SavedModel
from medrep.tracking.audits import seal_of, sealed
from medrep.tracking.gates import Decision, read_gates
from medrep.workflows.cohorts import (
    Selection,
    adapted_by,
    check_earlier,
    check_output,
    inputs_of,
    load_trained,
    note_unplaced,
    place_of,
    read_unseen,
    refuse_unmeasured,
)
from medrep.workflows.train import TRAINED

if TYPE_CHECKING:
    from medrep.audit.data import AuditData

FORMAT, GATES, PEOPLE = 1, "gates.yaml", "people.tsv"


@dataclass(frozen=True)
class AuditRequest:
    """Options of the command.

    Attributes:
        by: Columns whose groups are compared, ``sex,age:20/40/60/80,site``; empty: the model's covariates.
        intersect: Intersections, each ``sex,site``.
        remove: Covariates removed from what is handed out; empty: the batches, or all if there are none.
        references: Removed covariate -> value, where it is not the model's default.
        outcome: Column that the data are for, such as diagnosis; empty for none.
        prediction: Column with a predictor's output for ``outcome``; empty for none.
        positive: The class of ``outcome`` that a high score stands for.
        min_n: Fewest participants to say anything.
        margin: Leakage whose excess is shown to be below this counts as none.
        seed: Of every draw.
        trained: people.tsv of the training; by default the one that train wrote beside the model. It adds names to what the
            model itself knows of its training rows.
        sign: Private key that signs what was found; None: nothing is signed.
        against: Another model, such as the champion: do latents agree with its (`medrep.audit.agreement`)? None: nobody asks.
        unseen_site: What sites that training did not have do.
        reference_people: ``COLUMN=VALUE``: whom such sites are estimated from; these are not audited. All of their people, if
            empty, who are.
        extrapolate: Whether people far outside the range of training are taken.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
        stress: Further questions, names of `medrep.audit.stress.STRESSES`.
        regions: Which columns are of which region (`medrep.cohort.regions.read_regions`), for the question of that name; None:
            `medrep.audit.regions.usual_regions`.
    """

    by: str = ""
    intersect: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    references: Mapping[str, str] | None = None
    outcome: str = ""
    prediction: str = ""
    positive: str = ""
    min_n: int = 20
    margin: float = 0.1
    seed: int = 0
    trained: Path | None = None
    sign: Path | None = None
    against: Path | None = None
    unseen_site: Literal["error", "adapt"] = "error"
    reference_people: str = ""
    extrapolate: bool = False
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False
    stress: Sequence[str] = ()
    regions: Path | None = None


@dataclass(frozen=True, eq=False)
class AuditFindings:
    """Result of an audit.

    Attributes:
        findings: A row a figure, as audit.tsv: metric, group, n, estimate, interval, p, q and status.
        latents: What the latents carry, as latent_diagnostics.tsv.
        people: What was found of each person, index: key.
        expected: What the gates that `promote` asks by default would make of it.
        kind: Of the model.
        out: What was written.
        audited: Of how many people, in words, as scans and people where some have several.
        traversals: What becomes of people whose latents are at their extremes, as traversals.tsv; None where nobody asked.
    """

    findings: pd.DataFrame
    latents: pd.DataFrame
    people: pd.DataFrame
    expected: Decision
    kind: str
    out: Path
    audited: str
    traversals: pd.DataFrame | None = None


def audit(
    source: Place | Cohort, out: Path, model: Path | SavedModel, request: AuditRequest, listener: Listener = SILENT
) -> AuditFindings:
    """Write audit.tsv, audit.json, report.html, figures, latent_diagnostics.tsv and people.tsv; audit.sig where it is signed.

    With ``traversals`` among the stresses traversals.tsv, too.

    Args:
        source: The cohort; people of training are left out by themselves.
        out: Where to write; it appears only when it is complete.
        model: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``, or a model at hand.
        request: What to measure.
        listener: Who is told.

    Raises:
        EvidenceError: Too few people whom the model never saw.
        MedrepError: Anything about the input that cannot be used, by name.
    """
    from medrep.audit.data import AuditData  # scikit-learn takes seconds to import
    from medrep.audit.stress import check_stress
    from medrep.audit.suite import AuditOptions, run_suite
    from medrep.derivatives.figures import write_audit_figures
    from medrep.report.build import write_report

    _check_numbers(request)
    key = None
    if request.sign is not None:
        from medrep.tracking.audits import read_signing_key  # before hours of work, and only where somebody signs

        key = read_signing_key(request.sign)
    by = parse_by(request.by) if request.by else ()
    crossed = tuple(parse_intersect(text, by) for text in request.intersect)
    beside = () if request.against is None else (request.against,)
    check_output(out, overwrite=request.overwrite, inputs=(*inputs_of(source, model), *beside))
    saved = load_trained(model)
    other = None if request.against is None else load_trained(request.against)
    root = place_of(source).root
    fitted = saved.model
    removed = request.remove or fitted.schema.batches or fitted.schema.names
    if request.stress or request.regions:
        check_stress(
            request.stress,
            fitted.schema,
            removed,
            regions=request.regions is not None,
            features=len(fitted.columns.names),
            scans=saved.input.kind == "volume",
            without_latents=fitted.refusal("latents"),
        )
    regions = None if request.regions is None else read_regions(request.regions, fitted.columns)
    who = Selection(request.only, request.exclude, request.unseen_site, request.extrapolate)
    cohort, frame = read_unseen(source, saved, who, listener)
    check_earlier(cohort, saved, listener, removed)
    note_unplaced(saved, listener)
    if not by:
        by = parse_by(",".join(fitted.schema.names))
    _check_columns(cohort, request)
    trained = trained_people(request.trained, saved)
    rows = known_rows(saved.provenance.rows, None if trained is None else trained["data"])
    if rows is None:
        listener.warn(
            "the model holds no digests of its training rows (an earlier medrep wrote it), and no people.tsv lies beside it: "
            "that nobody here was in training cannot be checked, and promote will find too little evidence"
        )
    cohort = without_trained(cohort, trained, listener)
    frame = frame.loc[cohort.table.index]
    fitted, adapted, told = adapted_by(fitted, cohort, frame, request.reference_people, listener)
    frame = fitted.schema.transfer(frame.drop(told), unseen=request.unseen_site)
    cohort = cohort.select(frame.index)
    if cohort.table["participant_id"].nunique() < 2 * request.min_n:
        raise EvidenceError(
            f"{cohort.table['participant_id'].nunique()} participants whom the model never saw; an audit needs "
            f"{2 * request.min_n} or more (twice --min-n). Train with --hold-out 0.3, or give other people"
        )
    target = checked_target(fitted.schema, removed, references=request.references)
    options = AuditOptions(
        by,
        crossed,
        request.outcome,
        request.prediction,
        request.positive,
        request.min_n,
        request.margin,
        request.seed,
        tuple(request.stress),
        regions,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent) as scratch:
        refuse_unmeasured(fitted, cohort, frame, listener, target)
        data, columns = read_matrix(cohort, scratch, listener, like=fitted.columns)
        if columns != fitted.columns:
            raise CohortError("the people's data are not of the grid or the columns that the model was fitted on")
        marks = [row_fingerprint(row) for row in data]
        refuse_trained(cohort, data, rows)
        counted = count_participants(cohort.table)
        listener.say(f"audit {counted} whom the model never saw ({', '.join(removed)} removed)")
        people = cohort.table["participant_id"].astype(str).tolist()
        dataset = replace(fitted.dataset(data, frame, people), groups=cohort.groups)
        of_others = adapted if len(told) else ()
        material = AuditData(fitted, dataset, cohort.table, target, saved.provenance.people, of_others)
        result = run_suite(material, options, lambda line: listener.say(f"  {line}"))
        if other is not None:
            listener.say("  whether latents agree with those of the other model")
            agreement = _agreement(other, cohort, material, request, listener)
            result = replace(result, findings=pd.concat([result.findings, agreement], ignore_index=True))
    # Half of the people teach the probes, the other half is read.
    certificates = fitted.certificates(removed, material.kept, learners=dataset.people // 2)
    about = {
        "format": FORMAT,
        "medrep": __version__,
        "model": {"kind": fitted.kind, "digest": saved.provenance.digest},
        "cohort": {"name": root.resolve().name, "fingerprint": cohort_fingerprint(marks), "people": dataset.people},
        "options": {
            "by": request.by,
            "intersect": list(request.intersect),
            "removed": {name: target[name] for name in removed},
            "kept": list(material.kept),
            "outcome": request.outcome,
            "prediction": request.prediction,
            "positive": request.positive,
            "min_n": request.min_n,
            "margin": request.margin,
            "adapted": [adaptation.level for adaptation in adapted],
            "training_known": rows is not None,
            **({} if other is None else {"against": {"kind": other.model.kind, "digest": other.provenance.digest}}),
            **({"reference_people": request.reference_people} if len(told) else {}),
            **({"stress": list(request.stress)} if request.stress else {}),
            **(
                {}
                if request.regions is None
                else {"regions": {"file": request.regions.name, "sha256": digest_of(request.regions)}}
            ),
            **({"group": cohort.input.group} if cohort.input.group else {}),
        },
        "certificates": [asdict(one) for one in certificates],
        "seed": request.seed,
    }
    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    with output_folder(out) as partial:
        write_tsv(partial / "audit.tsv", result.findings)
        if len(result.latents):
            write_tsv(partial / "latent_diagnostics.tsv", result.latents)
        if result.traversals is not None:
            write_tsv(partial / "traversals.tsv", result.traversals)
        write_tsv(partial / PEOPLE, pd.concat([ids, result.people], axis=1))
        write_audit_figures(partial / "figures", result.findings)
        about = sealed(about, partial / "audit.tsv")
        write_json(partial / "audit.json", about)
        if key is not None:
            from medrep.tracking.audits import write_signature

            write_signature(partial, seal_of(about), key)
        write_report(partial)
    expected = read_gates(SHIPPED / GATES).judge(result.findings)
    return AuditFindings(
        result.findings, result.latents, result.people, expected, fitted.kind, out, counted, result.traversals
    )


def _agreement(
    other: SavedModel, cohort: Cohort, audited: "AuditData", request: AuditRequest, listener: Listener
) -> pd.DataFrame:
    """Return findings on how far latents agree with those of another model."""
    from medrep.audit.finding import findings_table
    from medrep.workflows.compare import CompareRequest, agreement_with

    latents = audited.model.scores(audited.dataset).latents
    asked = CompareRequest(seed=request.seed, unseen_site=request.unseen_site, extrapolate=request.extrapolate)
    return findings_table(agreement_with(other, cohort, latents, asked, listener).findings)


def _check_numbers(request: AuditRequest) -> None:
    wrong = [] if request.min_n >= 2 else [f"--min-n {request.min_n}: give 2 or more; 20 is usual"]
    if not 0 < request.margin < 1:
        wrong.append(f"--margin {request.margin:g}: give more than 0 and less than 1, in AUC or R2; 0.1 is usual")
    if wrong:
        raise MedrepError(listed("numbers that cannot be", wrong))


def _check_columns(cohort: Cohort, request: AuditRequest) -> None:
    named = {"--outcome": request.outcome, "--prediction": request.prediction}
    absent = [f"{switch} {name}" for switch, name in named.items() if name and name not in cohort.table]
    if absent:
        raise CovariateError(
            listed("columns that participants.tsv does not have", absent, f"it has {', '.join(cohort.table)}")
        )
    if request.prediction and not request.outcome:
        raise MedrepError("--prediction needs --outcome: the column that was predicted")


def trained_people(given: Path | None, saved: SavedModel) -> pd.DataFrame | None:
    """Return who was trained on, by name; None where no people.tsv is at hand.

    Args:
        given: --trained.
        saved: The model.

    Raises:
        CohortError: No such file, or one of another training.
    """
    beside = Path(saved.address).parent / PEOPLE
    path, fingerprint = given or beside, saved.provenance.fingerprint
    if not path.is_file() or (given is None and not saved.address):
        if given is not None:
            raise CohortError(f"--trained {path}: no such file; give the people.tsv that train wrote")
        return None
    people = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    wanted = ["participant_id", "part", "data"]
    if lacking := [column for column in wanted if column not in people]:
        raise CohortError(f"{path}: has no column {', '.join(lacking)}; give the people.tsv that train wrote")
    people = people[people["part"] == TRAINED]
    if fingerprint and cohort_fingerprint(people["data"]) != fingerprint:
        cure = "the people.tsv that train wrote with this model" if given else "the one of this model with --trained"
        raise CohortError(f"{path}: is of another training than the model; give {cure}")
    return people


def without_trained(cohort: Cohort, trained: pd.DataFrame | None, listener: Listener) -> Cohort:
    """Return the people who were not trained on: of the cohort of training, those of other names."""
    if trained is None:
        return cohort
    known = set(trained["participant_id"])
    own = cohort.table["participant_id"].astype(str)
    # Another cohort may use the same names for other people: only where all are there is it the same one.
    if not known <= set(own):
        return cohort
    listener.say(f"{own.isin(known).sum()} of training left out")
    return cohort.select(cohort.table.index[~own.isin(known)])


def refuse_trained(cohort: Cohort, data: np.ndarray, rows: TrainingRows | None) -> None:
    """Refuse people whose data were trained on, whatever their names and wherever the model lies.

    Args:
        cohort: Those to be audited.
        data: Their rows.
        rows: What the model was trained on; None where nobody says.

    Raises:
        CohortError: All of them.
    """
    if rows is None:
        return
    known = np.array([rows.holds(row) for row in data])
    if known.any():
        raise CohortError(
            listed(
                "people whose data the model was trained on",
                [str(key) for key in cohort.table.index[known]],
                "leave them out with --exclude, or give the people.tsv of training with --trained, by whose names people of "
                "its own cohort are left out by themselves: a model passes vacuously on its own people",
                most=int(known.sum()),
            )
        )
