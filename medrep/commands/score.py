"""``medrep score``: how well a model draws each person, and how unusual they are at their covariates."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd

from medrep.batch.finish import SCORE
from medrep.batch.openers import OpenScores
from medrep.commands.batch import BatchOptions, Work, chosen_people, go_through, tell_failures
from medrep.commands.folders import refuse_input
from medrep.commands.newcomers import (
    REGISTERED,
    check_earlier,
    load_trained,
    note_unplaced,
    read_newcomers,
    refuse_holes,
    refuse_unmeasured,
)
from medrep.commands.train import TRAINED
from medrep.console import Console
from medrep.errors import MedrepError, ModelError
from medrep.export.outcomes import Step
from medrep.export.scores import FAILED, STATUS
from medrep.models import Model
from medrep.models.unshrinking import How


def score(
    root: Path,
    out: Path,
    model_folder: Path,
    console: Console,
    *,
    options: BatchOptions | None = None,
    false_alarms: float = 0.05,
    unshrink: How = "none",
    unseen_site: Literal["error", "adapt"] = "error",
    extrapolate: bool = False,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> int:
    """Write scores.tsv and latents.tsv of a cohort, or one part of it.

    Args:
        root: The cohort.
        out: Where to write; the same call goes on where an earlier one was ended.
        model_folder: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``.
        console: Where to speak.
        options: Which part, and how.
        false_alarms: Rate at which the shift gate rejects people who are like those of calibration.
        unshrink: How the regression of predicted covariates to the mean is undone.
        unseen_site: What sites that training did not have do.
        extrapolate: Whether people far outside the range of training are taken; scores.tsv says how far they are.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.

    Returns:
        How many people could not be scored; they stand in failures.tsv, too. After one part of several: 0.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    refuse_input(out, (root, model_folder))
    if not 0 < false_alarms < 1:
        raise MedrepError(f"--false-alarms {false_alarms:g}: give a rate between 0 and 1, for instance 0.05")
    trained = load_trained(model_folder)
    model, wanted = trained.model, trained.input
    if unshrink != "none" and not trained.readouts:
        raise ModelError(f"--unshrink {unshrink}: the model predicts no covariate; train with --set 'predict=[age]'")
    cohort, frame = read_newcomers(
        root,
        model.schema,
        wanted,
        console,
        unseen_site=unseen_site,
        extrapolate=extrapolate,
        only=only,
        exclude=exclude,
        tolerant=True,
    )
    check_earlier(cohort, trained, console)
    note_unplaced(model, wanted, console)
    refuse_holes(cohort)
    refuse_unmeasured(model, cohort, frame, console)

    marks = _trained_rows(model_folder)

    names = cohort.source.features.names

    def step(known: Model) -> Step:
        return OpenScores(model_folder, false_alarms, unshrink, marks, names).step(replace(trained, model=known))

    about = {"Description": "scores of people by a model", "Model": str(model_folder), "ModelKind": model.kind}
    content = {
        "unit": model.error_unit,
        "unshrink": unshrink,
        "title": f"{root.resolve().name} scored",
        "source": root.name,
        "about": about,
    }
    work = Work(
        identity={
            **chosen_people(root, only, exclude),
            "command": SCORE,
            "false alarms": false_alarms,
            "unshrink": unshrink,
        },
        content=lambda adapted: content,
        step=step,
        opener=lambda job: OpenScores(job.model, false_alarms, unshrink, marks, names),
    )
    whole = go_through(work, trained, cohort, frame, out, options or BatchOptions(), console, overwrite=overwrite)
    if whole is None:
        return 0
    summarise(console, out)
    return tell_failures(console, out, whole, "scored", {"scores": out / "scores.tsv"})


def _trained_rows(model_folder: Path) -> frozenset[str] | None:
    """Return the fingerprints of the rows that a model was trained on; None where people.tsv is not beside it."""
    path = model_folder.parent / "people.tsv"
    if str(model_folder).startswith(REGISTERED) or not path.is_file():
        return None
    people = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if not {"part", "data"} <= set(people):
        return None
    return frozenset(people.loc[people["part"] == TRAINED, "data"])


def summarise(console: Console, out: Path) -> None:
    """Show how the scores of OUT are spread."""
    table = pd.read_csv(out / "scores.tsv", sep="\t")
    scored = table[table[STATUS] != FAILED]
    if "shift_p" in table:
        counts = scored[STATUS].value_counts()
        said = ", ".join(f"{status} {counts.get(status, 0)}" for status in ("accept", "warn", "reject"))
        console.say(f"like the people of calibration: {said}")
        known = int((scored["in_training"] == "yes").sum()) if "in_training" in scored else 0
        if known:
            console.say(f"  {known} of them were in training: their errors are not compared with those of others")
    figures = [name for name in scored.select_dtypes("number") if name != "shift_p"]
    found = scored[figures].quantile([0.05, 0.5, 0.95])
    rows = [(name, *(f"{value:.3g}" for value in found[name])) for name in figures]
    console.table("Scores", ("score", "5%", "median", "95%"), rows)
