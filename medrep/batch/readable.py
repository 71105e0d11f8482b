"""Whether a file can be read at all, found out in a worker before anything reads it where a death would cost more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrep.cohort.kinds import InputKind
from medrep.cohort.visits import Visit, visit_files
from medrep.export.outcomes import Opener, Outcome, Step
from medrep.models.saved import load_input


@dataclass(frozen=True)
class OpenReader(Opener):
    """Opens the step that reads images and keeps nothing.

    Attributes:
        model: A model folder, for its ``input`` section.
    """

    model: Path

    def open(self) -> Step:
        """See `Opener.open`."""
        return _Read(load_input(self.model))


class _Read(Step):
    def __init__(self, kind: InputKind[Any]) -> None:
        self._kind, self.together = kind, 1

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        return [Outcome(key, error, "read") for key, error in self._kind.errors(visit_files(people))]
