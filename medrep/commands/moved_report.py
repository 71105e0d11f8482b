"""The report of an export or of counterfactuals, once everybody is done."""

from pathlib import Path

import pandas as pd

from medrep.batch.job import Job, read_job
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.commands.newcomers import load_trained, read_newcomers
from medrep.commands.showing import shown_key
from medrep.console import Console
from medrep.errors import MedrepError
from medrep.models.saved import SavedModel


def report_moved(
    out: Path, delivered: pd.Index, console: Console, show: str, people: tuple[Cohort, pd.DataFrame] | None = None
) -> dict[str, Path]:
    """Write OUT/report and OUT/report.html; what cannot be shown is one warning, since the cohort is safe in OUT.

    Args:
        out: Where the moved cohort lies.
        delivered: Keys of who is in it.
        console: Where to speak.
        show: Whom the report shows; the first person if empty, ``nobody`` for none.
        people: The cohort as it was, and its covariates; read again if None.

    Returns:
        ``report``: the page, where there is one.
    """
    from medrep.exhibits.moved import moved_exhibits  # scikit-image takes seconds to import
    from medrep.exhibits.store import write_exhibits
    from medrep.export.mover import Mover
    from medrep.report.build import write_report

    job = read_job(out)
    try:
        trained = load_trained(job.model)
        model = trained.model
        asked, content = job.identity, job.content
        cohort, frame = people or _people(job, trained)
        there = cohort.table.index[cohort.table.index.isin(delivered)]
        cohort, frame = cohort.select(there), frame.loc[there]
        mover = Mover(model, asked["references"], asked["label_free"])
        about = {"command": asked["command"], "title": content["title"], **content["about"]}
        desc = "residualized" if asked["command"] == "export" else "counterfactual"
        exhibits = moved_exhibits(
            out,
            mover,
            cohort,
            frame,
            about,
            desc,
            shown_key(show, cohort.table),
        )
        write_exhibits(out, exhibits)
        return {"report": write_report(out)}
    except MedrepError as error:
        console.warn(f"no report: {error}")
        return {}


def _people(job: Job, trained: SavedModel) -> tuple[Cohort, pd.DataFrame]:
    asked, model, wanted = job.identity, trained.model, trained.input
    root, only, exclude = Path(asked["cohort"]), asked["only"], asked["exclude"]
    if asked["label_free"]:
        cohort = read_cohort(root, wanted, only=only, exclude=exclude, tolerant=True)
        return cohort, pd.DataFrame(index=cohort.table.index)
    quiet = Console(quiet=True)
    return read_newcomers(
        root,
        model.schema,
        wanted,
        quiet,
        unseen_site="adapt",
        extrapolate=True,
        only=only,
        exclude=exclude,
        tolerant=True,
    )
