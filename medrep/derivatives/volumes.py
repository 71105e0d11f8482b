"""Removal from volumes, whose every voxel's change is brought back to the input's own grid and added, and their scores."""

from collections.abc import Mapping, Sequence
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
from medrep.cohort.loaders import load_alike, load_volumes
from medrep.cohort.nifti import Volume, read_image, write_image
from medrep.cohort.samples import Sample, sample_files, sample_frame
from medrep.cohort.transforms import Placed, VolumePipeline, from_log_steps, log_steps
from medrep.derivatives.bids import Destination, described_name, sidecar
from medrep.derivatives.scores import Scorer
from medrep.derivatives.tasks import Result, Task
from medrep.derivatives.transform import Transform
from medrep.errors import ModelError


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
        self.block_size = 1

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Move a few people; see `Task.work`."""
        frame, results = sample_frame(people), []
        for loaded in load_volumes(sample_files(people), self._wanted, common=self._columns.grid):
            if loaded.placed is None or loaded.volume is None:
                results.append(Result(loaded.key, loaded.error, "read"))
                continue
            own = frame.loc[[loaded.key]]
            row = loaded.row(self._columns)[None]
            one = self._transform.model.dataset(row, own)
            # Where a voxel is NaN the change is NaN too; the voxel stays what it was.
            kept = self._columns.box(np.nan_to_num((self._transform.transform(one) - row)[0], nan=0.0))
            landmarks = self._landmarks(loaded.placed, own)
            there = None
            if landmarks is not None and self._columns.mask is not None:
                inside = self._columns.box(np.isfinite(row[0]).astype(np.float32))
                there = self._pipeline.back(inside, loaded.placed) > 0
            said = {**self._to.done.to_json(), **self._transform.outside(own), "Sources": []}
            if landmarks is not None:
                said["Intensities"] = {"Before": loaded.placed.landmarks.tolist(), "After": landmarks.tolist()}
            files, written = runs(loaded.path), list[str]()
            for file in files:  # of several runs each is changed as their mean is
                volume = loaded.volume if len(files) == 1 else read_image(file)
                transformed = self._pipeline.changed(volume.data, kept, loaded.placed, landmarks)
                if there is not None:
                    transformed = np.where(there, transformed, volume.data)
                written += self._write(file, replace(volume, data=transformed), said)
            results.append(Result(loaded.key, arrays={"latents": self._transform.encode(one)[0]}, files=tuple(written)))
        return results

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


class ScoreVolumes(Task):
    """Scores images; several go through the model together.

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
        self.block_size = scorer.block_size

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Score a few images; see `Task.work`."""
        rows: list[np.ndarray] = []
        images: list[np.ndarray] = []
        results: dict[str, Result] = {}
        for loaded in load_alike(sample_files(people), self._wanted, self._columns.grid):
            if loaded.placed is None:
                results[loaded.key] = Result(loaded.key, loaded.error, "read")
            else:
                rows.append(loaded.row(self._columns))
                if self._scorer.measures:
                    images.append(image_statistics(loaded.placed.values))
        good = [one for one in people if one.key not in results]
        if good:
            results |= {one.key: one for one in self._scorer.results(np.stack(rows), good, images=images)}
        return [results[one.key] for one in people]
