"""What became of one person: figures, rows and written files, or why there are none; as a line of JSON and back."""

from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from medrep.cohort.visits import Visit
from medrep.export.digits import line


@dataclass(frozen=True, eq=False)
class Outcome:
    """One person's result.

    Attributes:
        key: The person (and session).
        error: One line, empty if all went well.
        stage: Where it went wrong: ``find``, ``read``, ``score``, ``move``, ``work`` (what nobody foresaw), ``quarantine``.
        figures: Named numbers and words, for instance reconstruction_error.
        arrays: Named rows, for instance latents, while they are worked with.
        lines: Named rows as they are written (`medrep.export.digits`).
        files: What was written, relative to OUT.
    """

    key: str
    error: str = ""
    stage: str = ""
    figures: Mapping[str, float | str] = field(default_factory=dict)
    arrays: Mapping[str, Float[np.ndarray, " columns"]] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def written(self) -> "Outcome":
        """Return the outcome with its rows as they are written."""
        return replace(self, arrays={}, lines={name: line(row) for name, row in self.arrays.items()} | {**self.lines})

    def to_json(self) -> dict[str, Any]:
        """Return JSON content, rows as they are written; `from_json` is the inverse of what `written` returns."""
        return {
            "key": self.key,
            "error": self.error,
            "stage": self.stage,
            "figures": {name: None if value != value else value for name, value in self.figures.items()},
            "lines": dict(self.written().lines),
            "files": list(self.files),
        }

    @classmethod
    def of_row(cls, key: str, figures: Mapping[str, float | str | None]) -> "Outcome":
        """Rebuild the figures of a row of a table, whose lines are kept elsewhere."""
        return cls(key, figures={name: float("nan") if value is None else value for name, value in figures.items()})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Outcome":
        """Rebuild from the content of `to_json`."""
        figures = {name: float("nan") if value is None else value for name, value in content["figures"].items()}
        older = {name: line(_unpacked(packed)) for name, packed in content.get("arrays", {}).items()}
        lines = {**older, **content.get("lines", {})}
        return cls(
            content["key"], content["error"], content["stage"], figures, lines=lines, files=tuple(content["files"])
        )


class Step(ABC):
    """What is done to people: opened once in a worker, then handed a few at a time.

    Attributes:
        together: The size of a block of the cohort. Groups never reach over its ends, so that each person has a place of
            their own in a block (`blocks`).
    """

    together: int

    @abstractmethod
    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Return everybody's outcome, in their order.

        What is wrong with a person is that person's outcome, never an exception.
        """


PRELOADED = (
    "medrep.batch.openers",
    "medrep.batch.worker",
    "medrep.cohort.loaders",
    "medrep.export.volumes",
    "medrep.cohort.shapes",  # an extra: passed over where it is not installed
    "medrep.export.shapes",
)
"""Modules that take seconds to import, and that workers on images need."""


class Opener(ABC):
    """How a worker comes by its step; travels to workers, and is small."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules that the server of workers loads once, so that none has to wait for them."""
        return PRELOADED

    @abstractmethod
    def open(self) -> Step:
        """Load what the step needs."""


def _unpacked(packed: Sequence[str]) -> Float[np.ndarray, " columns"]:
    """Return a row of a journal of medrep 0.1."""
    kind, text = packed
    return np.frombuffer(b64decode(text), dtype=np.dtype(kind))
