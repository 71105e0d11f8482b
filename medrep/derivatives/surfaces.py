"""Removal from surfaces and their scores, a person at a time: both hemispheres are written or neither.

A file that is written is the one that was read, byte for byte, but for the values of the map (of a mean, of all maps) that moved.
"""

import base64
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep._files import atomic_file, write_json
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.surface import PersonSurface, SurfaceInput, load_surfaces
from medrep.cohort.samples import Sample, Samples, sample_files
from medrep.cohort.surface_files import StoredValues, SurfaceFile
from medrep.derivatives.bids import Destination, described_name, sidecar
from medrep.derivatives.forecasts import SD, ImageForecaster, Written
from medrep.derivatives.scores import Scorer
from medrep.derivatives.tasks import Result, Task, block_size
from medrep.derivatives.transform import Transform

_MOST_LISTED = 20  # of a surface's columns in a sidecar; of more, how many there are


class TransformSurfaces(Task):
    """Writes a person's files, each with a sidecar.

    Args:
        transform: The model and what to do with it.
        kind: Surfaces, as in training.
        to: Where to write.
    """

    def __init__(self, transform: Transform, kind: InputKind[SurfaceInput], to: Destination) -> None:
        self._transform, self._wanted, self._to = transform, kind.section, to
        self.by_person = transform.by_person
        self.block_size = block_size(transform.model.columns.count, 1, transform.visits if self.by_person else 1)

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Move a few people; see `Task.work`."""
        model, own = self._transform.model, Samples.of(people)
        results: dict[str, Result] = {}
        found: dict[int, PersonSurface] = {}
        loaded = load_surfaces(sample_files(own), self._wanted, model.columns.names)
        for place, (key, surface, error) in enumerate(loaded):
            if surface is None:
                results[key] = Result(key, error, "read")
            else:
                found[place] = surface
        if found:
            there = own.take(list(found))
            rows = np.stack([surface.row for surface in found.values()]).astype(np.float64)
            visits = model.dataset(rows, there.covariates, there.persons.astype(str).tolist())
            changes = np.where(np.isnan(rows), 0.0, self._transform.transform(visits) - rows)
            latents = self._transform.encode(visits)
            for place, (key, surface) in enumerate(zip(there.keys, found.values(), strict=True)):
                results[key] = self._moved(key, surface, changes[place], latents[place], there.covariates.iloc[[place]])
        return [results[key] for key in own.keys]

    def _moved(
        self,
        key: str,
        surface: PersonSurface,
        change: Float[np.ndarray, " columns"],
        latents: Float[np.ndarray, " latents"],
        frame: pd.DataFrame,
    ) -> Result:
        lost = np.flatnonzero(np.isnan(change))
        if len(lost) and self._wanted.missing == "error":
            told = f"{len(lost)} values without an effect to remove, {surface.names[lost[0]]} for one"
            cure = "nobody of the level had them in training; leave the person out with --exclude"
            return Result(key, f"{told}: {cure}", "transform")
        outside = self._transform.outside(frame)
        written = [self._write(run, change, outside) for run in surface.runs or (surface,)]
        return Result(key, arrays={"latents": latents}, files=tuple(file for some in written for file in some))

    def _write(
        self, surface: PersonSurface, change: Float[np.ndarray, " columns"], outside: Mapping[str, Any]
    ) -> tuple[str, ...]:
        ends = np.cumsum([len(file.names) for file in surface.files])
        sources = [file.path.relative_to(self._to.root).as_posix() for file in surface.files]
        places = [described_name(source, self._to.done.desc) for source in sources]
        try:
            with ExitStack() as stack:  # everything is there before anything gets its name
                for place, file, maps, own in zip(
                    places, surface.files, surface.maps, np.split(change, ends[:-1]), strict=True
                ):
                    partial = stack.enter_context(atomic_file(self._to.folder / place))
                    partial.write_bytes(rewritten(file, own, maps))
            said = {**_shortened(self._to.done.to_json(), self._to.done.left), **outside}
            for place, source in zip(places, sources, strict=True):
                write_json(self._to.folder / sidecar(place), {**said, "Sources": [source]})
        except BaseException:
            for place in places:
                (self._to.folder / place).unlink(missing_ok=True)
            raise
        return tuple(str(file) for place in places for file in (place, sidecar(place)))


class ForecastSurfaces(ImageForecaster[SurfaceInput, PersonSurface]):
    """Writes a file of what is expected, and one of its standard deviation, for each that a person has."""

    def read(self, files: pd.Series) -> Iterator[tuple[str, PersonSurface | None, str]]:
        """Read surfaces; see `ImageForecaster.read`."""
        return load_surfaces(files, self.wanted, self.model.columns.names)

    def row(self, visit: PersonSurface) -> Float[np.ndarray, " columns"]:
        """Return the values, hemisphere by hemisphere."""
        return np.asarray(visit.row, np.float64)

    def write(
        self,
        last: PersonSurface,
        estimate: Float[np.ndarray, " columns"],
        sd: Float[np.ndarray, " columns"],
        years: float,
    ) -> Written:
        """Write two files a hemisphere; see `ImageForecaster.write`."""
        own = (last.runs or (last,))[0]
        ends, files = np.cumsum([len(file.names) for file in own.files]), list[str]()
        for more, values, about in (("", estimate, {}), ("sd", sd, {"Description": SD})):
            with np.errstate(invalid="ignore"):
                change = np.nan_to_num(values - np.asarray(own.row, np.float64), nan=0.0)
            for file, maps, one in zip(own.files, own.maps, np.split(change, ends[:-1]), strict=True):
                place = self.name(file.path, years, more)
                with atomic_file(self.to.folder / place) as partial:
                    partial.write_bytes(rewritten(file, one, maps))
                files += [str(place), self.describe(place, file.path, years, **about)]
        return Written(tuple(files), files[0], files[len(files) // 2])


class ScoreSurfaces(Task):
    """Scores surfaces; several go through the model together.

    Args:
        scorer: What is asked.
        kind: Surfaces, as in training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[SurfaceInput], names: Sequence[str]) -> None:
        del names
        self._scorer, self._wanted = scorer, kind.section
        self.block_size, self.by_person = scorer.block_size, scorer.by_person

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Score a few people; see `Task.work`."""
        rows: list[np.ndarray] = []
        results: dict[str, Result] = {}
        for key, surface, error in load_surfaces(sample_files(people), self._wanted, self._scorer.model.columns.names):
            if surface is None:
                results[key] = Result(key, error, "read")
            else:
                rows.append(np.asarray(surface.row, np.float64))
        own = Samples.of(people)
        good = own.take([place for place, key in enumerate(own.keys) if key not in results])
        if len(good):
            results |= {one.key: one for one in self._scorer.results(np.stack(rows), good)}
        return [results[one.key] for one in people]


def rewritten(file: SurfaceFile, change: Float[np.ndarray, " values"], maps: slice) -> bytes:
    """Return a file's bytes with a change added to some of its maps; a value whose change is 0 stays bit for bit.

    Args:
        file: As it was read.
        change: What is added to each value of each of these maps.
        maps: Which.
    """
    pieces, end, first = list[bytes](), 0, 0
    for stored in file.arrays:
        own = range(first, first := first + stored.data.shape[1])
        data = stored.data.copy()
        for place, number in enumerate(own):
            if number in range(maps.start, maps.stop):
                column = data[:, place]
                with np.errstate(all="ignore"):  # a value that float32 cannot hold becomes infinite
                    data[:, place] = np.where(change == 0, column, column + change)
        changed = data.tobytes() != stored.data.tobytes()
        text = file.content[stored.start : stored.stop]
        pieces += [file.content[end : stored.start], _encoded(stored, data, text) if changed else text]
        end = stored.stop
    return b"".join([*pieces, file.content[end:]])


def _encoded(stored: StoredValues, data: Shaped[np.ndarray, "values maps"], text: bytes) -> bytes:
    """Return values in the encoding and byte order of an array, with the white space around it."""
    if not stored.encoding:
        return data.tobytes()  # a row of CIFTI's matrix is a value's maps
    if stored.encoding == "ASCII":
        new, old = data[:, 0], stored.data[:, 0]
        words = iter(
            np.where((new == old) | np.isnan(old), "", new.astype(new.dtype.newbyteorder("=")).astype(str)).tolist()
        )
        return re.sub(rb"\S+", lambda found: next(words).encode() or found[0], text)
    raw = data.tobytes()
    body = base64.b64encode(raw if stored.encoding == "Base64Binary" else zlib.compress(raw))
    return text[: len(text) - len(text.lstrip())] + body + text[len(text.rstrip()) :]


def _shortened(content: Mapping[str, Any], left: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sidecar says, with the number of columns where it would list many: a medial wall has thousands."""

    def short(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: short(entry) for key, entry in value.items()}
        return len(value) if isinstance(value, list) and len(value) > _MOST_LISTED else value

    return {key: short(value) if key in left else value for key, value in content.items()}
