"""``score``: how well a model draws each person, and how unusual they are at their covariates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from medrep.batch.merge import SCORE
from medrep.batch.run import (
    BatchOptions,
    BatchResult,
    Work,
    batch_result,
    chosen_participants,
    run_batch,
)
from medrep.cohort.cohort import Cohort
from medrep.cohort.files import Place
from medrep.cohort.kinds import SILENT, Listener
from medrep.derivatives.deviations import DEVIATIONS, DeviationsTo
from medrep.derivatives.scores import ScoreFactory
from medrep.derivatives.tasks import Task
from medrep.errors import MedrepError, ModelError
from medrep.models import Model
from medrep.models.latent_map import LatentMap
from medrep.models.prediction import How
from medrep.models.saved import SavedModel
from medrep.workflows.cohorts import (
    REGISTERED,
    Selection,
    check_earlier,
    inputs_of,
    load_trained,
    note_unplaced,
    place_of,
    read_unseen,
    reference_people,
    refuse_holes,
    refuse_input,
    refuse_unmeasured,
)
from medrep.workflows.train import TRAINED


@dataclass(frozen=True)
class ScoreRequest:
    """Options of the command.

    Attributes:
        false_alarms: Rate at which the shift gate rejects people who are like those of calibration.
        unshrink: How the regression of predicted covariates to the mean is undone.
        unseen_site: What sites that training did not have do.
        extrapolate: Whether people far outside the range of training are taken; scores.tsv says how far they are.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
        reference_people: ``COLUMN=VALUE``: whom unseen sites are estimated from; all of their people, if empty.
        latent_map: A map that `compare` wrote: latents are written in the space of the other model. None: as they are.
    """

    false_alarms: float = 0.05
    unshrink: How = "none"
    unseen_site: Literal["error", "adapt"] = "error"
    extrapolate: bool = False
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False
    reference_people: str = ""
    latent_map: Path | None = None


def score(
    source: Place | Cohort,
    out: Path,
    model: Path | SavedModel,
    request: ScoreRequest | None = None,
    listener: Listener = SILENT,
    *,
    options: BatchOptions | None = None,
) -> BatchResult | None:
    """Write scores.tsv and latents.tsv of a cohort, or one part of it; of a growth chart deviations of single columns, too.

    Args:
        source: The cohort.
        out: Where to write; the same call goes on where an earlier one was ended.
        model: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``, or a model at hand.
        request: What to say of people.
        listener: Who is told.
        options: Which part, and how.

    Returns:
        How it went; people who could not be scored stand in failures.tsv, too. None after a dry run.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    request = request or ScoreRequest()
    refuse_input(out, inputs_of(source, model))
    rate, unshrink = request.false_alarms, request.unshrink
    if not 0 < rate < 1:
        raise MedrepError(f"--false-alarms {rate:g}: give a rate between 0 and 1, for instance 0.05")
    trained = load_trained(model)
    if unshrink != "none" and not trained.readouts:
        raise ModelError(f"--unshrink {unshrink}: the model predicts no covariate; train with --set 'predict=[age]'")
    mapped = None
    if request.latent_map is not None:
        mapped = LatentMap.load(request.latent_map).of_model(trained.named, trained.provenance.digest)
    who = Selection(request.only, request.exclude, request.unseen_site, request.extrapolate, tolerant=True)
    cohort, frame = read_unseen(source, trained, who, listener)
    check_earlier(cohort, trained, listener)
    note_unplaced(trained, listener)
    refuse_holes(cohort)
    refuse_unmeasured(trained.model, cohort, frame, listener)

    marks = _trained_rows(trained.address)
    names = cohort.source.features.names
    visits = int(cohort.table.loc[frame.index, "participant_id"].astype(str).value_counts().max())

    about = {
        "Description": "scores of people by a model"
        + ("" if mapped is None else f"; latents mapped to those of {mapped.target.model}"),
        "Model": trained.named,
        "ModelKind": trained.model.kind,
    }
    place = place_of(source)
    root = place.root
    told = "deviations" in trained.model.capabilities
    to = DeviationsTo(out, cohort.root, about) if told else None

    def step(known: Model) -> Task:
        return ScoreFactory(out, rate, unshrink, marks, names, visits, to, mapped).step(replace(trained, model=known))

    content = {
        "unit": trained.model.error_unit,
        "unshrink": unshrink,
        "title": f"{root.resolve().name} scored",
        "source": root.name,
        "about": about,
        **({"names": list(trained.model.columns.names)} if told else {}),
        **({"latent_roles": list(roles)} if (roles := trained.model.latent_roles) and mapped is None else {}),
    }
    work = Work(
        identity={
            **chosen_participants(place, request.only, request.exclude),
            "command": SCORE,
            "false alarms": rate,
            "unshrink": unshrink,
            **({} if mapped is None else {"map": mapped.digest}),
        },
        content=lambda adapted: content,
        step=step,
        factory=lambda job: ScoreFactory(job.model, rate, unshrink, marks, names, visits, to, mapped),
        out=out,
        overwrite=request.overwrite,
        reference=reference_people(trained.model, cohort, frame, request.reference_people),
    )
    whole = run_batch(work, trained, cohort, frame, options or BatchOptions(), listener)
    if whole is None or isinstance(whole, BatchResult):
        return whole
    tables = {name: out / f"{name}.tsv" for name in ("scores", DEVIATIONS)}
    return batch_result(out, whole, "scored", {name: path for name, path in tables.items() if path.is_file()})


def _trained_rows(address: str) -> frozenset[str] | None:
    """Return the fingerprints of the rows that a model was trained on; None where people.tsv is not beside it."""
    path = Path(address).parent / "people.tsv"
    if not address or address.startswith(REGISTERED) or not path.is_file():
        return None
    people = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if not {"part", "data"} <= set(people):
        return None
    return frozenset(people.loc[people["part"] == TRAINED, "data"])
