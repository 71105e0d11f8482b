"""What became of one person: figures, arrays and written files, or why there are none; as a line of JSON and back."""

from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from medrep.cohort.visits import Visit


@dataclass(frozen=True, eq=False)
class Outcome:
    """One person's result.

    Attributes:
        key: The person (and session).
        error: One line, empty if all went well.
        stage: Where it went wrong: ``find``, ``read``, ``score``, ``move``, ``work`` (what nobody foresaw), ``quarantine``.
        figures: Named numbers and words, for instance reconstruction_error.
        arrays: Named rows, for instance latents.
        files: What was written, relative to OUT.
    """

    key: str
    error: str = ""
    stage: str = ""
    figures: Mapping[str, float | str] = field(default_factory=dict)
    arrays: Mapping[str, Float[np.ndarray, " columns"]] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON content, arrays in base64; `from_json` is the inverse, to the last bit."""
        return {
            "key": self.key,
            "error": self.error,
            "stage": self.stage,
            "figures": {name: None if value != value else value for name, value in self.figures.items()},
            "arrays": {name: _packed(row) for name, row in self.arrays.items()},
            "files": list(self.files),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Outcome":
        """Rebuild from the content of `to_json`."""
        figures = {name: float("nan") if value is None else value for name, value in content["figures"].items()}
        arrays = {name: _unpacked(packed) for name, packed in content["arrays"].items()}
        return cls(content["key"], content["error"], content["stage"], figures, arrays, tuple(content["files"]))


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


class Opener(ABC):
    """How a worker comes by its step; travels to workers, and is small."""

    @abstractmethod
    def open(self) -> Step:
        """Load what the step needs."""


def _packed(row: Float[np.ndarray, " columns"]) -> list[str]:
    return [row.dtype.str, b64encode(np.ascontiguousarray(row).tobytes()).decode("ascii")]


def _unpacked(packed: Sequence[str]) -> Float[np.ndarray, " columns"]:
    kind, text = packed
    return np.frombuffer(b64decode(text), dtype=np.dtype(kind))
