"""All parts of a job -> one cohort: everybody's outcome in the cohort's order, and who is not done yet."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

from medrep.batch.job import COMPLETE, Job
from medrep.batch.ledger import Ended, History, read_history
from medrep.errors import CohortError, MedrepError, listed
from medrep.export.derivative import Failure
from medrep.export.outcomes import Outcome


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of people, read from the journals one at a time, as often as they are gone through.

    Attributes:
        ended: Where they stand, in the cohort's order.
    """

    ended: tuple[Ended, ...]

    def __iter__(self) -> Iterator[Outcome]:
        for one in self.ended:
            yield one.outcome()

    def __len__(self) -> int:
        return len(self.ended)

    @property
    def good(self) -> "Outcomes":
        """Those without an error."""
        return Outcomes(tuple(one for one in self.ended if not one.failed))


@dataclass(frozen=True)
class Merged:
    """A whole job.

    Attributes:
        table: The cohort's table, index: key.
        outcomes: Everybody's, in that order.
        failures: Those who could not be delivered.
    """

    table: pd.DataFrame
    outcomes: Outcomes
    failures: tuple[Failure, ...]

    @property
    def delivered(self) -> pd.DataFrame:
        """The table of those who could be delivered."""
        return self.table[[not one.failed for one in self.outcomes.ended]]


def merged(job: Job) -> Merged:
    """Read all parts of a job, and remove what earlier states of the cohort and dying processes left in OUT.

    Raises:
        MedrepError: People who are not done.
        CohortError: Nobody could be delivered.
    """
    table, known = job.read_people()
    history = read_history(job.folder)
    ended, absent = [], []
    for key, fingerprint in zip(known["key"], known["fingerprint"], strict=True):
        found = history.current(key, fingerprint)
        if found is None:
            absent.append(key)
        else:
            ended.append(found)
    if absent:
        raise MedrepError(
            listed(f"{job.out}: people who are not done", absent, "call the command again for each part, then merge")
        )
    files = dict(zip(known["key"], known["file"], strict=True))
    failures = []
    for key, one in zip(known["key"], ended, strict=True):
        if one.failed:
            outcome = one.outcome()
            failures.append(Failure(key, files[key], outcome.stage, outcome.error, one.attempts))
    if len(failures) == len(ended):
        cure = "mend the files and call again; --retry-failed tries the same files once more"
        raise CohortError(listed("nobody could be delivered", [f"{f.participant}: {f.error}" for f in failures], cure))
    (job.out / COMPLETE).unlink(missing_ok=True)
    outcomes = Outcomes(tuple(ended))
    _sweep(job, history, ended)
    return Merged(table, outcomes, tuple(failures))


def _sweep(job: Job, history: History, ended: Iterable[Ended]) -> None:
    """Remove what replaced outcomes, people who have left the cohort, and killed processes left in OUT."""
    named = {file for one in ended for file in one.files}
    left = {file for one in history.ended.values() for file in one.files} | history.superseded
    home = job.out.resolve()
    for file in sorted(left - named):
        if (job.out / file).parent.resolve().is_relative_to(home):  # a journal can name anything
            (job.out / file).unlink(missing_ok=True)
    for partial in job.out.rglob(".partial-*"):
        partial.unlink(missing_ok=True)
