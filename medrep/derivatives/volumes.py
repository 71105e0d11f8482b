"""Removal from volumes, whose every voxel's change is brought back to the input's own grid and added, and their scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import write_json
from medrep.cohort.bids import runs
from medrep.cohort.image_quality import image_statistics
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.loaders import Loaded, load_alike, load_volumes
from medrep.cohort.nifti import Volume, read_image, write_image
from medrep.cohort.samples import Sample, Samples, sample_files
from medrep.cohort.transforms import Placed, VolumePipeline, from_log_steps, log_steps
from medrep.derivatives.bids import Destination, described_name, sidecar
from medrep.derivatives.deviations import CHANGES, DEVIATIONS
from medrep.derivatives.forecasts import SD, ImageForecaster, Written
from medrep.derivatives.scores import Scorer
from medrep.derivatives.tasks import Result, Task, block_size
from medrep.derivatives.transform import Transform
from medrep.errors import CohortError, ModelError


class TransformVolumes(Task):
    """Writes one image and sidecar a person."""

    def __init__(self, transform: Transform, kind: InputKind[VolumeInput], to: Destination) -> None:
        if transform.model.columns.grid is None:
            raise ModelError(
                "the model was trained on a feature table, the cohort has images; set input.kind as in training"
            )
        self._transform, self._wanted, self._to = transform, kind.section, to
        self._columns = transform.model.columns
        self._pipeline = VolumePipeline(kind.section, self._columns.grid)
        self.by_person = transform.by_person
        self.block_size = block_size(self._columns.count, 1, transform.visits if self.by_person else 1)

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Move a few people; see `Task.work`."""
        own, results = Samples.of(people), dict[str, Result]()
        for person in dict.fromkeys(own.persons.tolist()):
            some = own.take(np.flatnonzero(own.persons == person))
            results |= {one.key: one for one in self._move(some)}
        return [results[key] for key in own.keys]

    def _move(self, visits: Samples) -> Iterator[Result]:
        """Move the visits of one person, or one visit."""
        good, rows = list[Loaded](), list[np.ndarray]()
        for loaded in load_volumes(sample_files(visits), self._wanted, common=self._columns.grid):
            if loaded.placed is None or loaded.volume is None:
                yield Result(loaded.key, loaded.error, "read")
            else:
                good.append(loaded)
                rows.append(loaded.row(self._columns))
        if not good:
            return
        frame, model = visits.covariates.loc[[loaded.key for loaded in good]], self._transform.model
        before = np.stack(rows)
        whose = ["own"] * len(good) if self.by_person else None
        dataset = model.dataset(before, frame, whose)
        # Where a voxel is NaN the change is NaN too; the voxel stays what it was.
        changes = np.nan_to_num(self._transform.transform(dataset) - before, nan=0.0)
        latents = self._transform.encode(dataset)
        for place, loaded in enumerate(good):
            files = self._moved(loaded, before[place], changes[place], frame.iloc[[place]])
            yield Result(loaded.key, arrays={"latents": latents[place]}, files=files)

    def _moved(
        self,
        loaded: Loaded,
        row: Float[np.ndarray, " columns"],
        change: Float[np.ndarray, " columns"],
        own: pd.DataFrame,
    ) -> tuple[str, ...]:
        """Write a visit whose voxels change; return the files."""
        placed, whole = _both(loaded)
        kept, landmarks = self._columns.box(change), self._landmarks(placed, own)
        there = None
        if landmarks is not None and self._columns.mask is not None:
            inside = self._columns.box(np.isfinite(row).astype(np.float32))
            there = self._pipeline.back(inside, placed) > 0
        said = {**self._to.done.to_json(), **self._transform.outside(own), "Sources": []}
        if landmarks is not None:
            said["Intensities"] = {"Before": placed.landmarks.tolist(), "After": landmarks.tolist()}
        files, written = runs(loaded.path), list[str]()
        for file in files:  # of several runs each is changed as their mean is
            volume = whole if len(files) == 1 else read_image(file)
            transformed = self._pipeline.changed(volume.data, kept, placed, landmarks)
            if there is not None:
                transformed = np.where(there, transformed, volume.data)
            written += self._write(file, replace(volume, data=transformed), said)
        return tuple(written)

    def _write(self, file: Path, volume: Volume, said: Mapping[str, Any]) -> list[str]:
        source = file.relative_to(self._to.root).as_posix()
        place = described_name(source, self._to.done.desc)
        write_image(self._to.folder / place, volume)
        write_json(self._to.folder / sidecar(place), {**said, "Sources": [source]})
        return [str(place), str(sidecar(place))]

    def _landmarks(self, placed: Placed, frame: pd.DataFrame) -> Float[np.ndarray, " landmarks"] | None:
        """Return the landmarks of intensities that a person gets; None where they keep their own."""
        if self._transform.unit is None:
            return None
        units = self._transform.units(log_steps(placed.landmarks), frame)
        return None if units is None else from_log_steps(units)


class ForecastVolumes(ImageForecaster[VolumeInput, Loaded]):
    """Writes an image of what is expected, and one of its standard deviation, with a sidecar each."""

    def read(self, files: pd.Series) -> Iterator[tuple[str, Loaded | None, str]]:
        """Read volumes; see `ImageForecaster.read`."""
        for loaded in load_volumes(files, self.wanted, common=self.model.columns.grid):
            yield loaded.key, None if loaded.error else loaded, loaded.error

    def row(self, visit: Loaded) -> Float[np.ndarray, " columns"]:
        """Return the voxels of the model."""
        return visit.row(self.model.columns)

    def write(
        self, last: Loaded, estimate: Float[np.ndarray, " columns"], sd: Float[np.ndarray, " columns"], years: float
    ) -> Written:
        """Write two images; see `ImageForecaster.write`."""
        columns, (placed, volume) = self.model.columns, _both(last)
        pipeline = VolumePipeline(self.wanted, columns.grid)
        change = np.nan_to_num(estimate - self.row(last), nan=0.0).astype(np.float32)
        expected = pipeline.changed(volume.data, columns.box(change), placed)
        deviation = columns.box(sd.astype(np.float32))
        if placed.curve is None:
            spread = pipeline.back(deviation, placed)
        else:  # in the image's own units it is what the curve makes of it
            spread = pipeline.changed(volume.data, columns.box(change) + deviation, placed) - expected
        source, files = runs(last.path)[0], list[str]()
        for more, data, about in (("", expected, {}), ("sd", spread, {"Description": SD})):
            place = self.name(source, years, more)
            write_image(self.to.folder / place, replace(volume, data=data))
            files += [str(place), self.describe(place, source, years, **about)]
        return Written(tuple(files), files[0], files[2])


def _both(loaded: Loaded) -> tuple[Placed, Volume]:
    """Return a volume that could be read on the common grid, and in its own."""
    if loaded.placed is None or loaded.volume is None:
        raise CohortError(loaded.error)
    return loaded.placed, loaded.volume


class ScoreVolumes(Task):
    """Scores images, and writes maps of deviations where they are asked for; several go through the model together.

    Args:
        scorer: What is asked.
        kind: Volumes, as in training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[VolumeInput], names: Sequence[str]) -> None:
        del names
        if scorer.model.columns.grid is None:
            raise ModelError("the model was trained on a feature table; set input.kind as in training")
        self._scorer, self._wanted, self._columns = scorer, kind.section, scorer.model.columns
        self._pipeline = VolumePipeline(kind.section, self._columns.grid)
        self.block_size, self.by_person = scorer.block_size, scorer.by_person

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Score a few images; see `Task.work`."""
        rows: list[np.ndarray] = []
        images: list[np.ndarray] = []
        results: dict[str, Result] = {}
        there = dict[str, tuple[Path, Placed]]()
        for loaded in load_alike(sample_files(people), self._wanted, self._columns.grid):
            if loaded.placed is None:
                results[loaded.key] = Result(loaded.key, loaded.error, "read")
            else:
                rows.append(loaded.row(self._columns))
                if self._scorer.to is not None:
                    # The way back needs no voxels.
                    there[loaded.key] = loaded.path, replace(loaded.placed, values=loaded.placed.values[:0])
                if self._scorer.measures:
                    images.append(image_statistics(loaded.placed.values))
        own = Samples.of(people)
        good = own.take([place for place, key in enumerate(own.keys) if key not in results])
        if len(good):
            scored = self._scorer.results(np.stack(rows), good, images=images)
            results |= {one.key: self._mapped(one, *there[one.key]) if there else one for one in scored}
        return [results[one.key] for one in people]

    def _mapped(self, one: Result, path: Path, placed: Placed) -> Result:
        """Write maps of a person's deviations in the image's own grid; 0 where nothing is said, and outside a mask."""
        to, arrays, files = self._scorer.to, dict(one.arrays), list[str]()
        source = runs(path)[0]
        for name in (DEVIATIONS, CHANGES):
            row = arrays.pop(name, None)
            if to is None or row is None or not np.isfinite(row).any():
                continue
            z = self._columns.box(np.nan_to_num(row, nan=0.0).astype(np.float32))
            place = to.place(source, name)
            # z has no unit that would go with the image's.
            own = self._pipeline.back(z, replace(placed, unit=1.0))
            write_image(to.folder / place, replace(read_image(source), data=own))
            files += [str(place), to.describe(place, source, name)]
        return replace(one, arrays=arrays, files=(*one.files, *files))
