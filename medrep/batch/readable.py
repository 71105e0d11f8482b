"""Whether a file can be read at all, found out in a worker before anything reads it where a death would cost more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medrep.cohort.inputs import Input
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
    def __init__(self, wanted: Input) -> None:
        self._wanted, self.together = wanted, 1

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        # MONAI takes seconds to import and only volumes need it, as only shapes need libigl.
        if self._wanted.kind == "shape":
            from medrep.cohort.shapes import load_shapes

            return [Outcome(one.key, one.error, "read") for one in load_shapes(visit_files(people), self._wanted)]
        from medrep.cohort.loaders import load_volumes

        return [Outcome(one.key, one.error, "read") for one in load_volumes(visit_files(people), self._wanted)]
