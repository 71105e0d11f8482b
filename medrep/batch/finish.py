"""The tables of a whole job: what `medrep merge` writes, and a job of one part writes by itself."""

import pandas as pd

from medrep.batch.job import Job
from medrep.batch.merge import Merged, merged
from medrep.cohort.participants import KEY_COLUMNS
from medrep.export.derivative import OUTSIDE, write_description, write_failures, write_tsv
from medrep.export.moved import write_moved
from medrep.export.scores import write_scores

SCORE = "score"


def finish(job: Job) -> Merged:
    """Write the tables of a job whose people are all done; dataset_description.json comes last.

    Raises:
        MedrepError: People who are not done, or nobody who could be delivered.
    """
    whole, content = merged(job), job.content
    ids = whole.table[[column for column in KEY_COLUMNS if column in whole.table]]
    outside = job.read_outside()
    if job.identity["command"] == SCORE:
        distances = {key: max(one["DistanceSd"] for one in found.values()) for key, found in outside.items()}
        write_scores(job.out, whole.outcomes, ids, content["unit"], content["unshrink"], distances)
        table = whole.table
    else:
        delivered = whole.delivered
        there = {key: found for key, found in outside.items() if key in delivered.index}
        sidecar = content["sidecar"] | ({OUTSIDE: there} if there else {})
        written = job.read_written()
        write_moved(
            job.out,
            whole.outcomes.good,
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
    return whole
