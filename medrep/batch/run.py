"""How ``score``, ``export`` and ``counterfactual`` go through a cohort: part by part, losing nobody, going on where they were."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from joblib import cpu_count

from medrep._files import STATE
from medrep.batch.local_pool import LocalPool, start_server
from medrep.batch.merge import Merged, finish, finished
from medrep.batch.pool import QUARANTINE, InlinePool, Pool, Scheduler
from medrep.batch.progress import ALONE, TOGETHER, History, Progress, RetryState, read_history
from medrep.batch.store import COMPLETE, Job, Part, fingerprints, open_job
from medrep.cohort.cohort import Cohort
from medrep.cohort.files import CohortFiles
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.participants import labels
from medrep.cohort.samples import Samples
from medrep.cohort.support import outside_training
from medrep.derivatives.bids import Failure
from medrep.derivatives.tasks import TABLES, PreflightFactory, Task, TaskFactory
from medrep.errors import listed
from medrep.models import Adaptation, Model
from medrep.models.linear.scales import adapted_model, adapted_unit, unknown_participants
from medrep.models.saved import SavedModel

_ADAPTING = "adapting.jsonl"
_MANY_CELLS = 2_000_000


@dataclass(frozen=True)
class BatchOptions:
    """How to go through the cohort.

    Attributes:
        part: Which share of it.
        workers: Processes; 0 takes one a processor.
        engine: ``local``, ``ray``, or ``inline`` for this process alone, which a file that kills it takes along.
        ray_address: Of a Ray cluster; empty starts one on this machine.
        timeout: Seconds that one person may take.
        dry_run: Whether to say only what would be done.
        retry_failed: Whether people who failed are tried again.
    """

    part: Part = field(default_factory=Part)
    workers: int = 0
    engine: Literal["local", "ray", "inline"] = "local"
    ray_address: str = ""
    timeout: float = 1800.0
    dry_run: bool = False
    retry_failed: bool = False


@dataclass(frozen=True)
class Work:
    """Work of a command on every sample.

    Attributes:
        identity: Command and request; what must be the same for an unfinished job to be gone on with.
        content: What merging needs to know, from how unseen levels were adapted.
        step: What is done to rows of a table, or tells how many images are worked on together.
        factory: How workers come by their step, for images.
        out: Where results go.
        overwrite: Whether what OUT holds may be replaced.
        reference: Whom levels that training did not have are told from; all of their people, if None.
    """

    identity: Mapping[str, Any]
    content: Callable[[tuple[Adaptation, ...]], Mapping[str, Any]]
    step: Callable[[Model], Task]
    factory: Callable[[Job], TaskFactory]
    out: Path
    overwrite: bool = False
    reference: pd.Index | None = None


@dataclass(frozen=True)
class BatchResult:
    """How a command went, or one part of it.

    Attributes:
        done: What was done, in words.
        delivered: How many people have a result.
        failures: Those who could not be delivered.
        results: What -> where it lies.
        failed: How many could not be delivered.
        whole: Whether all parts are done.
        people: Of how many people the delivered visits are, where somebody has several; else 0.
    """

    done: str
    delivered: int
    failed: int
    results: Mapping[str, Path]
    failures: tuple[Failure, ...] = ()
    whole: bool = True
    people: int = 0


def run_batch(
    work: Work,
    trained: SavedModel,
    cohort: Cohort,
    frame: pd.DataFrame,
    options: BatchOptions,
    listener: Listener = SILENT,
) -> Merged | BatchResult | None:
    """Do one part of a batch; merge where there is only one.

    Args:
        work: What is done.
        trained: The model.
        cohort: The people.
        frame: Their covariates.
        options: How.
        listener: Who is told.

    Returns:
        Everybody's outcome, where the batch is whole; how it went, after one part of several; None after a dry run.

    Raises:
        MedrepError: OUT holds something else, or nobody could be delivered.
    """
    found = _worked(work, trained, cohort, frame, options, listener)
    return finish(*found) if isinstance(found, tuple) else found


def _worked(
    work: Work, trained: SavedModel, cohort: Cohort, frame: pd.DataFrame, options: BatchOptions, listener: Listener
) -> tuple[Job, History | None] | Merged | BatchResult | None:
    """Do what is to be done; return the job, and what its journals say where they were read, if it is to be finished."""
    model = trained.model
    inline = cohort.input.tabular and not _worth_workers(
        len(cohort) // options.part.count * model.columns.count, options
    )
    if cohort.input.tabular and not (inline or options.dry_run or (work.out / COMPLETE).exists()):
        start_server(TABLES)
    step = work.step(model)
    people = cohort.source.samples(frame)
    worked = people
    if step.by_person:
        whose = cohort.table.loc[frame.index, "participant_id"].astype(str).tolist()
        worked = people.together(whose, step.block_size)
    mine = worked.take([place for block in options.part.of(worked.blocks(step.block_size)) for place in block])
    if options.dry_run:
        _forecast(listener, work.out, people, mine, options)
        return None
    unknown = unknown_participants(model, frame)
    telling = unknown if work.reference is None else unknown.intersection(work.reference)
    strangers = people.take(np.flatnonzero(frame.index.isin(telling)) if len(unknown) else ())
    adapting = _digest(strangers) if len(unknown) else ""
    identity = {**work.identity, "model": trained.provenance.digest, "adapted to": adapting}

    def prepare(folder: Path) -> Mapping[str, Any]:
        trained.save(folder)
        known, adapted = model, tuple[Adaptation, ...]()
        if len(unknown):
            readable = _readable(cohort, strangers, folder, options, listener)
            known, adapted = adapted_model(model, readable, frame, listener)
            replace(trained, model=known, unit=adapted_unit(trained.unit, readable, frame)).save(folder)
        return {**work.content(adapted), "adapted": [asdict(one) for one in adapted]}

    job = open_job(work.out, identity, prepare, options.part, overwrite=work.overwrite)
    if options.part.count > 1:
        listener.say(f"{options.part.name}: {len(mine)} of {len(people)} people")
    with job.working(options.part):
        written = cohort.source.features.ids if cohort.source.features.header else None
        outside = outside_training(model.schema, frame)
        prints = job.write_people(cohort.table, people, cohort.root, outside, written)
        if options.part.count == 1 and (done := finished(job, cohort.table)) is not None:
            listener.say(f"{len(people)} people are done already")
            return done
        if inline:
            # What was adapted stands in the job's model; it is the same object where nothing was.
            pool: Pool = InlinePool(work.step(SavedModel.load(job.model).model if len(unknown) else model))
        elif options.engine == "inline":
            pool = InlinePool(work.factory(job).open())
        else:
            pool = _pool(work.factory(job), options, len(mine))
        history = _work_off(job, mine, prints, pool, step.block_size, options, listener)
        if options.part.count > 1:
            return _part_result(job, mine, prints, options.part)
    return job, history


def chosen_participants(files: CohortFiles, only: Sequence[str], exclude: Sequence[str]) -> dict[str, Any]:
    """Return what must be the same about the people: a cohort may grow, but results of another one are not mixed in."""
    chosen = {"cohort": str(files.root.resolve()), "only": sorted(only), "exclude": sorted(exclude)}
    said = files.to_json()
    return {**chosen, "files": said} if said else chosen


def batch_result(out: Path, whole: Merged, done: str, results: Mapping[str, Path]) -> BatchResult:
    """Return how a whole batch went.

    Args:
        out: OUT.
        whole: Everybody's outcome.
        done: What was done, in words.
        results: What -> where it lies; failures.tsv is added where there are any.
    """
    failed = len(whole.failures)
    places = {**results, "failures": out / "failures.tsv"} if failed else results
    delivered = whole.delivered
    people = len(set(labels(delivered["participant_id"].astype(str).tolist(), "sub")))
    several = people if people < len(delivered) else 0
    return BatchResult(done, len(delivered), failed, places, whole.failures, people=several)


def _part_result(job: Job, mine: Samples, prints: Mapping[str, str], part: Part) -> BatchResult:
    history = read_history(job.folder)
    ended = [found for key in mine.keys if (found := history.current(key, prints[key])) is not None]
    failed = sum(found.failed for found in ended)
    done = f"{job.identity['command']} of {part.name}; medrep merge {job.out} joins the parts"
    return BatchResult(done, len(ended) - failed, failed, {"part": job.journal(part)}, whole=False)


def _work_off(
    job: Job,
    mine: Samples,
    prints: Mapping[str, str],
    pool: Pool,
    block_size: int,
    options: BatchOptions,
    listener: Listener,
) -> History | None:
    """Work on whoever is not done; return what the journals say if that was nobody."""
    history = read_history(job.folder)
    current = [history.current(key, prints[key]) for key in mine.keys]
    failed = {key: one for key, one in zip(mine.keys, current, strict=True) if one is not None and one.failed}
    again = failed if options.retry_failed else {}
    open_persons = mine.persons[[k for k, one in enumerate(current) if one is None or mine.keys[k] in again]]
    left = mine.take(np.flatnonzero(np.isin(mine.persons, open_persons)))
    del current
    if len(left) < len(mine):
        listener.say(f"{len(mine) - len(left)} people are done already")
    if not left:
        return history
    progress = Progress(job.journal(options.part), history, prints)
    try:
        suspects = [key for key, found in again.items() if found.result().stage == QUARANTINE]
        progress.again([key for key in again if key not in suspects], TOGETHER)
        progress.again(suspects, ALONE)
        retries = {key: retry for key, retry in history.retries.items() if key not in again}
        retries |= {key: RetryState(ALONE) for key in suspects}
        with pool, listener.track(str(job.identity["command"]), len(left)) as advance:
            for results in Scheduler(pool, progress, block_size, listener.say).run(left, retries):
                advance(len(results))
    finally:
        progress.close()
    return None


def _worth_workers(cells: int, options: BatchOptions) -> bool:
    """Say whether a table is so large that workers, who take a second to start, are the sooner."""
    return options.engine != "inline" and cells >= _MANY_CELLS and (options.workers or cpu_count()) > 1


def _pool(factory: TaskFactory, options: BatchOptions, people: int) -> Pool:
    workers = max(1, min(options.workers or cpu_count(), people))
    if options.engine == "ray":
        from medrep.batch.ray_pool import RayPool  # an extra, and seconds to import

        return RayPool(factory, options.workers, options.timeout, options.ray_address)
    return LocalPool(factory, workers, options.timeout)


def _readable(cohort: Cohort, wanted: Samples, model: Path, options: BatchOptions, listener: Listener) -> Cohort:
    """Return the cohort of those strangers whose files can be read: found out in workers, since this process has to go on."""
    if cohort.input.tabular:
        return cohort.select(wanted.covariates.index)
    history = read_history(model.parent, _ADAPTING)
    left = wanted.take([k for k, key in enumerate(wanted.keys) if key not in history.ended])
    progress = Progress(model.parent / _ADAPTING, history, dict.fromkeys(wanted.keys, ""))
    try:
        reader = PreflightFactory(model)
        with InlinePool(reader.open()) if options.engine == "inline" else _pool(reader, options, len(wanted)) as pool:
            for _ in Scheduler(pool, progress, 1, listener.say).run(left, history.retries):
                pass
    finally:
        progress.close()
    ended = read_history(model.parent, _ADAPTING).ended
    return cohort.select(pd.Index([key for key in wanted.keys if not ended[key].failed]))


def _digest(people: Samples) -> str:
    prints = zip(people.keys, fingerprints(people), strict=True)
    return sha256("\n".join(f"{key} {own}" for key, own in prints).encode()).hexdigest()[:16]


def _forecast(listener: Listener, out: Path, people: Samples, mine: Samples, options: BatchOptions) -> None:
    history = read_history(out / STATE)
    prints = zip(mine.keys, fingerprints(mine), strict=True)
    done = [found for key, own in prints if (found := history.current(key, own)) is not None]
    failed = sum(found.failed for found in done)
    absent = [f"{key}: {mine.problems[key]}" for key in mine.keys if key in mine.problems]
    left = len(mine) - len(done) + (failed if options.retry_failed else 0)
    rows = [
        ("people in the cohort", str(len(people))),
        (f"in {options.part.name}", str(len(mine))),
        ("done", str(len(done) - failed)),
        ("failed before", str(failed)),
        ("without a usable file", str(len(absent))),
        ("would be worked on", str(left)),
    ]
    listener.table("Dry run: nothing is written", ("", "people"), rows)
    if absent:
        listener.say(listed("without a usable file", absent))
