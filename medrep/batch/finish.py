"""The tables of a whole job: what `medrep merge` writes, and a job of one part writes by itself."""

from dataclasses import replace
from functools import partial

import pandas as pd

from medrep.batch.job import COMPLETE, Job
from medrep.batch.ledger import History
from medrep.batch.merge import Merged, merged, sweep
from medrep.cohort.participants import KEY_COLUMNS
from medrep.export.derivative import OUTSIDE, write_description, write_failures, write_tsv
from medrep.export.moved import write_moved
from medrep.export.scores import write_scores

SCORE = "score"


def finish(job: Job, history: History | None = None) -> Merged:
    """Write the tables of a job whose people are all done; dataset_description.json comes last.

    Args:
        job: The job.
        history: What its journals say, where they were read already.

    Raises:
        MedrepError: People who are not done, or nobody who could be delivered.
    """
    whole, content, state = merged(job, history), job.content, job.state()
    if (job.out / COMPLETE).exists() and whole.outcomes.folded(state):
        return replace(whole, unchanged=True)  # some failed, else `finished` had known
    (job.out / COMPLETE).unlink(missing_ok=True)
    sweep(job, whole)
    ids = whole.table[[column for column in KEY_COLUMNS if column in whole.table]]
    outside = job.read_outside()
    lines = {name: partial(whole.outcomes.lines, name) for name in whole.outcomes.names}
    if job.identity["command"] == SCORE:
        distances = {key: max(one["DistanceSd"] for one in found.values()) for key, found in outside.items()}
        write_scores(job.out, whole.outcomes, lines, ids, content["unit"], content["unshrink"], distances)
        table = whole.table
    else:
        delivered = whole.delivered
        there = {key: found for key, found in outside.items() if key in delivered.index}
        sidecar = content["sidecar"] | ({OUTSIDE: there} if there else {})
        written = job.read_written()
        write_moved(
            job.out,
            lines,
            ids.loc[delivered.index],
            tuple(content["names"]),
            sidecar,
            None if written is None else written.loc[delivered.index],
            () if written is None else tuple(content.get("header", ())),
        )
        table = delivered
    write_tsv(job.out / "participants.tsv", table)
    if content["adapted"]:
        write_tsv(job.out / "adapted.tsv", pd.DataFrame(content["adapted"]))
    write_failures(job.out / "failures.tsv", whole.failures)
    write_description(job.out, content["title"], [content["source"]], content["about"])
    return replace(whole, outcomes=whole.outcomes.fold(state))
