"""``medrep score``: how well a model draws each person, and how unusual they are at their covariates."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from medrep.atomic import atomic_folder
from medrep.cohort.cohort import Cohort
from medrep.cohort.inputs import Input
from medrep.cohort.participants import KEY_COLUMNS
from medrep.commands.folders import check_output
from medrep.commands.newcomers import adapted_model, image_files, load_trained, read_newcomers, refuse_holes
from medrep.console import Console
from medrep.errors import CohortError, listed
from medrep.export.derivative import write_description, write_failures, write_tsv
from medrep.export.scores import SCORED, write_scores
from medrep.export.scoring import Scored, score_features, score_images
from medrep.models import Model


def score(
    root: Path,
    out: Path,
    model_folder: Path,
    console: Console,
    *,
    unseen_site: Literal["error", "adapt"] = "error",
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> int:
    """Write scores.tsv and latents.tsv of a cohort.

    Args:
        root: The cohort.
        out: Where to write; it appears only when it is complete.
        model_folder: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``.
        console: Where to speak.
        unseen_site: What sites that training did not have do.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.

    Returns:
        How many people could not be scored; they stand in failures.tsv, too.

    Raises:
        MedrepError: Anything about the input that cannot be used, by name.
    """
    check_output(out, overwrite=overwrite, inputs=(root, model_folder))
    _, model, wanted = load_trained(model_folder)
    chosen = {"only": only, "exclude": exclude}
    cohort, frame = read_newcomers(root, model.schema, wanted, console, unseen_site=unseen_site, **chosen)
    known, adapted = adapted_model(model, cohort, frame, wanted, console)
    frame = known.schema.transfer(frame, unseen=unseen_site)
    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    with atomic_folder(out) as partial:
        with console.track("score", len(cohort)) as advance:
            scored = list(_each(known, cohort, frame, wanted, advance))
        table, failures = write_scores(partial, scored, ids, model.error_unit, cohort.root)
        if len(failures) == len(cohort):
            raise CohortError(listed("nobody could be scored", [f"{f.participant}: {f.error}" for f in failures]))
        write_tsv(partial / "participants.tsv", cohort.table)
        if adapted:
            write_tsv(partial / "adapted.tsv", pd.DataFrame([vars(adaptation) for adaptation in adapted]))
        write_failures(partial / "failures.tsv", failures)
        content = {"Description": "scores of people by a model", "Model": str(model_folder), "ModelKind": model.kind}
        write_description(partial, f"{root.resolve().name} scored", [root.name], content)
    _summary(console, out, table)
    if failures:
        console.say(listed("failed", [f"{f.participant}: {f.error}" for f in failures], f"see {out / 'failures.tsv'}"))
    return len(failures)


def _each(
    model: Model, cohort: Cohort, frame: pd.DataFrame, wanted: Input, advance: Callable[[int], None]
) -> Iterator[Scored]:
    if cohort.features is not None:
        refuse_holes(cohort.features, wanted)
        found = score_features(model, cohort.features, frame)
    else:
        found = score_images(model, image_files(cohort), frame, wanted)
    for one in found:
        yield one
        advance(1)


def _summary(console: Console, out: Path, table: pd.DataFrame) -> None:
    scored = table[table["status"] == SCORED]
    console.say(f"{len(scored)} of {len(table)} people scored in {out / 'scores.tsv'}")
    figures = [name for name in ("reconstruction_error", "deviation", "volume_mm3") if name in scored]
    found = scored[figures].quantile([0.05, 0.5, 0.95])
    rows = [(name, *(f"{value:.3g}" for value in found[name])) for name in figures]
    console.table("Scores", ("score", "5%", "median", "95%"), rows)
