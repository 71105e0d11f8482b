"""How ``score``, ``export`` and ``counterfactual`` go through a cohort: part by part, losing nobody, going on where they were."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from joblib import cpu_count

from medrep.batch.finish import finish
from medrep.batch.job import Job, fingerprint, open_job
from medrep.batch.ledger import ALONE, TOGETHER, History, Ledger, Trial, read_history
from medrep.batch.local_pool import LocalPool
from medrep.batch.merge import Finished, Merged, finished
from medrep.batch.parts import Part
from medrep.batch.pools import InlinePool, Pool
from medrep.batch.readable import OpenReader
from medrep.batch.scheduler import QUARANTINE, Scheduler
from medrep.cohort.cohort import Cohort
from medrep.cohort.support import outside_training
from medrep.cohort.visits import Visit
from medrep.commands.newcomers import adapted_model, load_trained, strange_people
from medrep.console import Console
from medrep.errors import listed
from medrep.export.outcomes import Opener, Step
from medrep.models import Adaptation, Model
from medrep.models.saved import SavedModel
from medrep.outputs import STATE

_ADAPTING = "adapting.jsonl"
_MANY_CELLS = 2_000_000


@dataclass(frozen=True)
class BatchOptions:
    """How to go through the cohort.

    Attributes:
        part: Which share of it.
        workers: Processes; 0 takes one a processor.
        engine: ``local``, or ``ray``.
        ray_address: Of a Ray cluster; empty starts one on this machine.
        timeout: Seconds that one person may take.
        dry_run: Whether to say only what would be done.
        retry_failed: Whether people who failed are tried again.
    """

    part: Part = field(default_factory=Part)
    workers: int = 0
    engine: Literal["local", "ray"] = "local"
    ray_address: str = ""
    timeout: float = 1800.0
    dry_run: bool = False
    retry_failed: bool = False


@dataclass(frozen=True)
class Work:
    """What a command does to everybody.

    Attributes:
        identity: Command and request; what must be the same for an unfinished job to be gone on with.
        content: What merging needs to know, from how unseen levels were adapted.
        step: What is done to rows of a table, or tells how many images are worked on together.
        opener: How workers come by their step, for images.
    """

    identity: Mapping[str, Any]
    content: Callable[[tuple[Adaptation, ...]], Mapping[str, Any]]
    step: Callable[[Model], Step]
    opener: Callable[[Job], Opener]


def go_through(
    work: Work,
    trained: SavedModel,
    cohort: Cohort,
    frame: pd.DataFrame,
    out: Path,
    options: BatchOptions,
    console: Console,
    *,
    overwrite: bool,
) -> Merged | Finished | None:
    """Do one part of a batch; merge where there is only one.

    Args:
        work: What is done.
        trained: The model.
        cohort: The people.
        frame: Their covariates.
        out: Where results go.
        options: How.
        console: Where to speak.
        overwrite: Whether what OUT holds may be replaced.

    Returns:
        Everybody's outcome, where the batch is whole; None after one part of several, and after a dry run.

    Raises:
        MedrepError: OUT holds something else, or nobody could be delivered.
    """
    model = trained.model
    step = work.step(model)
    people = list(cohort.source.visits(frame))
    blocks = [people[start : start + step.together] for start in range(0, len(people), step.together)]
    mine = [one for block in options.part.of(blocks) for one in block]
    if options.dry_run:
        _forecast(console, out, people, mine, options)
        return None
    strangers = strange_people(model, frame)
    adapting = _digest([one for one in people if one.key in strangers]) if len(strangers) else ""
    identity = {**work.identity, "model": trained.provenance.digest, "adapted to": adapting}

    def prepare(folder: Path) -> Mapping[str, Any]:
        trained.save(folder)
        known, adapted = model, tuple[Adaptation, ...]()
        if len(strangers):
            readable = _readable(cohort, people, strangers, folder, options, console)
            known, adapted = adapted_model(model, readable, frame, console)
            replace(trained, model=known).save(folder)
        return {**work.content(adapted), "adapted": [asdict(one) for one in adapted]}

    job = open_job(out, identity, prepare, options.part, overwrite=overwrite)
    if options.part.count > 1:
        console.say(f"{options.part.name}: {len(mine)} of {len(people)} people")
    with job.working(options.part):
        written = cohort.source.features.ids if cohort.source.features.header else None
        outside = outside_training(model.schema, frame)
        prints = job.write_people(cohort.table, people, cohort.root, outside, written)
        if options.part.count == 1 and (done := finished(job, cohort.table)) is not None:
            console.say(f"{len(people)} people are done already")
            return done
        if cohort.input.tabular and not _worth_workers(len(mine) * model.columns.count, options):
            # What was adapted stands in the job's model; it is the same object where nothing was.
            pool: Pool = InlinePool(work.step(load_trained(job.model).model if len(strangers) else model))
        else:
            pool = _pool(work.opener(job), options, len(mine))
        history = _work_off(job, mine, prints, pool, step.together, options, console)
        if options.part.count > 1:
            _summarise_part(console, job, mine, prints, options.part)
    return finish(job, history) if options.part.count == 1 else None


def chosen_people(root: Path, only: Sequence[str], exclude: Sequence[str]) -> dict[str, Any]:
    """Return what must be the same about the people: a cohort may grow, but results of another one are not mixed in."""
    return {"cohort": str(root.resolve()), "only": sorted(only), "exclude": sorted(exclude)}


def tell_failures(console: Console, out: Path, whole: Merged | Finished, done: str, results: Mapping[str, Path]) -> int:
    """Say who could not be delivered; return how many.

    Args:
        console: Where to speak.
        out: OUT.
        whole: Everybody's outcome.
        done: What was done, for the summary.
        results: What -> where it lies.
    """
    failed = [f"{failure.participant}: {failure.error}" for failure in whole.failures]
    if failed:
        console.say(listed("failed", failed, f"see {out / 'failures.tsv'}; --retry-failed tries them again"))
    places = {**results, "failures": out / "failures.tsv"} if failed else results
    good = len(whole.table) - len(failed)
    console.count(good, len(failed))
    console.summary(done, _delivered(good, len(failed)), places)
    return len(failed)


def _summarise_part(console: Console, job: Job, mine: Sequence[Visit], prints: Mapping[str, str], part: Part) -> None:
    history = read_history(job.folder)
    ended = [found for one in mine if (found := history.current(one.key, prints[one.key])) is not None]
    failed = sum(found.failed for found in ended)
    done = f"{job.identity['command']} of {part.name}; medrep merge {job.out} joins the parts"
    console.count(len(ended) - failed, failed)
    console.summary(done, _delivered(len(ended) - failed, failed), {"part": job.journal(part)})


def _delivered(good: int, failed: int) -> str:
    return f"{good} delivered, {failed} failed"


def _work_off(
    job: Job,
    mine: Sequence[Visit],
    prints: Mapping[str, str],
    pool: Pool,
    together: int,
    options: BatchOptions,
    console: Console,
) -> History | None:
    """Work on whoever is not done; return what the journals say if that was nobody."""
    history = read_history(job.folder)
    current = {one.key: history.current(one.key, prints[one.key]) for one in mine}
    failed = {key: found for key, found in current.items() if found is not None and found.failed}
    again = failed if options.retry_failed else {}
    left = [one for one in mine if current[one.key] is None or one.key in again]
    if len(left) < len(mine):
        console.say(f"{len(mine) - len(left)} people are done already")
    if not left:
        return history
    ledger = Ledger(job.journal(options.part), history, prints)
    try:
        suspects = [key for key, found in again.items() if found.outcome().stage == QUARANTINE]
        ledger.again([key for key in again if key not in suspects], TOGETHER)
        ledger.again(suspects, ALONE)
        trials = {key: trial for key, trial in history.trials.items() if key not in again}
        trials |= {key: Trial(ALONE) for key in suspects}
        with pool, console.track(str(job.identity["command"]), len(left)) as advance:
            for _ in Scheduler(pool, ledger, together, console.say).run(left, trials):
                advance(1)
    finally:
        ledger.close()
    return None


def _worth_workers(cells: int, options: BatchOptions) -> bool:
    """Say whether a table is so large that workers, who take a second to start, are the sooner."""
    return cells >= _MANY_CELLS and (options.workers or cpu_count()) > 1


def _pool(opener: Opener, options: BatchOptions, people: int) -> Pool:
    workers = max(1, min(options.workers or cpu_count(), people))
    if options.engine == "ray":
        from medrep.batch.ray_pool import RayPool  # an extra, and seconds to import

        return RayPool(opener, options.workers, options.timeout, options.ray_address)
    return LocalPool(opener, workers, options.timeout)


def _readable(
    cohort: Cohort, people: Sequence[Visit], strangers: pd.Index, model: Path, options: BatchOptions, console: Console
) -> Cohort:
    """Return the cohort of those strangers whose files can be read: found out in workers, since this process has to go on."""
    if cohort.input.tabular:
        return cohort.select(strangers)
    wanted = [one for one in people if one.key in strangers]
    history = read_history(model.parent, _ADAPTING)
    left = [one for one in wanted if one.key not in history.ended]
    ledger = Ledger(model.parent / _ADAPTING, history, dict.fromkeys((one.key for one in wanted), ""))
    try:
        with _pool(OpenReader(model), options, len(wanted)) as pool:
            for _ in Scheduler(pool, ledger, 1, console.say).run(left, history.trials):
                pass
    finally:
        ledger.close()
    ended = read_history(model.parent, _ADAPTING).ended
    return cohort.select(pd.Index([one.key for one in wanted if not ended[one.key].failed]))


def _digest(people: Sequence[Visit]) -> str:
    return sha256("\n".join(f"{one.key} {fingerprint(one)}" for one in people).encode()).hexdigest()[:16]


def _forecast(
    console: Console, out: Path, people: Sequence[Visit], mine: Sequence[Visit], options: BatchOptions
) -> None:
    history = read_history(out / STATE)
    done = [found for one in mine if (found := history.current(one.key, fingerprint(one))) is not None]
    failed = sum(found.failed for found in done)
    absent = [f"{one.key}: {one.problem}" for one in mine if one.problem]
    left = len(mine) - len(done) + (failed if options.retry_failed else 0)
    rows = [
        ("people in the cohort", str(len(people))),
        (f"in {options.part.name}", str(len(mine))),
        ("done", str(len(done) - failed)),
        ("failed before", str(failed)),
        ("without a usable file", str(len(absent))),
        ("would be worked on", str(left)),
    ]
    console.table("Dry run: nothing is written", ("", "people"), rows)
    if absent:
        console.say(listed("without a usable file", absent))
