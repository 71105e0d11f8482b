"""Removal and scores of people whose rows are read from files of their own, a person at a time, and written back into copies."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import atomic_file, write_json
from medrep.cohort.samples import Sample, Samples, sample_files
from medrep.derivatives.bids import Destination, described_name, sidecar
from medrep.derivatives.scores import Scorer
from medrep.derivatives.tasks import Result, Task, block_size
from medrep.derivatives.transform import Transform

_MOST_LISTED = 20  # of a person's columns in a sidecar; of more, how many there are


PersonT = TypeVar("PersonT")
Loaded: TypeAlias = Iterator[tuple[str, PersonT | None, str]]
"""Key, and what was read of the person with its ``row`` and ``names``; or None and why not."""


class TransformFiles(Task):
    """Writes copies of people's files with other values, each with a sidecar; of several files of a person all or none.

    Args:
        transform: The model and what to do with it.
        to: Where to write.
        missing: As ``input.missing``.
    """

    def __init__(self, transform: Transform, to: Destination, missing: str) -> None:
        self._transform, self._to, self._missing = transform, to, missing
        self.by_person = transform.by_person
        self.block_size = block_size(transform.model.columns.count, 1, transform.visits if self.by_person else 1)

    @abstractmethod
    def load(self, files: pd.Series, names: tuple[str, ...]) -> Loaded[Any]:
        """Read people's files; see `medrep.cohort.kinds.surface.load_surfaces`."""

    @abstractmethod
    def copies(self, person: Any, change: Float[np.ndarray, " columns"]) -> list[list[tuple[Path, bytes]]]:
        """Return a person's files with a change of the row added: those that are written together, or not at all."""

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Move a few people; see `Task.work`."""
        model, own = self._transform.model, Samples.of(people)
        results: dict[str, Result] = {}
        found: dict[int, Any] = {}
        for place, (key, person, error) in enumerate(self.load(sample_files(own), model.columns.names)):
            if person is None:
                results[key] = Result(key, error, "read")
            else:
                found[place] = person
        if found:
            there = own.take(list(found))
            rows = np.stack([person.row for person in found.values()]).astype(np.float64)
            visits = model.dataset(rows, there.covariates, there.persons.astype(str).tolist())
            changes = np.where(np.isnan(rows), 0.0, self._transform.transform(visits) - rows)
            latents = self._transform.encode(visits)
            for place, (key, person) in enumerate(zip(there.keys, found.values(), strict=True)):
                results[key] = self._moved(key, person, changes[place], latents[place], there.covariates.iloc[[place]])
        return [results[key] for key in own.keys]

    def _moved(
        self,
        key: str,
        person: Any,
        change: Float[np.ndarray, " columns"],
        latents: Float[np.ndarray, " latents"],
        frame: pd.DataFrame,
    ) -> Result:
        lost = np.flatnonzero(np.isnan(change))
        if len(lost) and self._missing == "error":
            told = f"{len(lost)} values without an effect to remove, {person.names[lost[0]]} for one"
            cure = "nobody of the level had them in training; leave the person out with --exclude"
            return Result(key, f"{told}: {cure}", "transform")
        outside = self._transform.outside(frame)
        written = [self._write(together, outside) for together in self.copies(person, change)]
        return Result(key, arrays={"latents": latents}, files=tuple(file for some in written for file in some))

    def _write(self, together: list[tuple[Path, bytes]], outside: Mapping[str, Any]) -> tuple[str, ...]:
        sources = [path.relative_to(self._to.root).as_posix() for path, _ in together]
        places = [described_name(source, self._to.done.desc) for source in sources]
        try:
            with ExitStack() as stack:  # everything is there before anything gets its name
                for place, (_, content) in zip(places, together, strict=True):
                    partial = stack.enter_context(atomic_file(self._to.folder / place))
                    partial.write_bytes(content)
            said = {**_shortened(self._to.done.to_json(), self._to.done.left), **outside}
            for place, source in zip(places, sources, strict=True):
                write_json(self._to.folder / sidecar(place), {**said, "Sources": [source]})
        except BaseException:
            for place in places:
                (self._to.folder / place).unlink(missing_ok=True)
            raise
        return tuple(str(file) for place in places for file in (place, sidecar(place)))


class ScoreFiles(Task):
    """Scores people's files; several people go through the model together.

    Args:
        scorer: What is asked.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.block_size, self.by_person = scorer.block_size, scorer.by_person

    @abstractmethod
    def load(self, files: pd.Series, names: tuple[str, ...]) -> Loaded[Any]:
        """Read people's files; see `medrep.cohort.kinds.surface.load_surfaces`."""

    def mapped(self, one: Result, person: Any) -> Result:  # noqa: ARG002
        """Write maps of a person's deviations; by default they are rows of a table, a column a name."""
        return one

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Score a few people; see `Task.work`."""
        rows: list[np.ndarray] = []
        results: dict[str, Result] = {}
        there: dict[str, Any] = {}
        for key, person, error in self.load(sample_files(people), self._scorer.model.columns.names):
            if person is None:
                results[key] = Result(key, error, "read")
            else:
                rows.append(np.asarray(person.row, np.float64))
                if self._scorer.to is not None:
                    there[key] = person
        good = [one for one in people if one.key not in results]
        if good:
            scored = self._scorer.results(np.stack(rows), good)
            results |= {one.key: self.mapped(one, there[one.key]) if there else one for one in scored}
        return [results[one.key] for one in people]


def _shortened(content: Mapping[str, Any], left: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sidecar says, with the number of columns where it would list many: a medial wall has thousands."""

    def short(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: short(entry) for key, entry in value.items()}
        return len(value) if isinstance(value, list) and len(value) > _MOST_LISTED else value

    return {key: short(value) if key in left else value for key, value in content.items()}
