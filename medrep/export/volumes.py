"""Removal from volumes, a person at a time: every voxel's change is brought back to the input's own grid and added."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medrep.atomic import write_json
from medrep.cohort.dataset import Dataset
from medrep.cohort.inputs import Input
from medrep.cohort.loaders import load_volumes
from medrep.cohort.nifti import write_image
from medrep.cohort.transforms import VolumePipeline
from medrep.cohort.visits import Visit, visit_files, visit_frame
from medrep.errors import ModelError
from medrep.export.derivative import Removal, described_name, sidecar
from medrep.export.mover import Mover
from medrep.export.outcomes import Outcome, Step
from medrep.models import Adaptation, Model


class MoveVolumes(Step):
    """Writes one image and sidecar a person.

    Args:
        folder: Where to; the cohort's own layout is kept below it.
        root: The cohort's folder.
        mover: The model and what to do with it.
        wanted: The ``input`` section of training.
        done: For the sidecars; says how the images are named.
    """

    def __init__(self, folder: Path, root: Path, mover: Mover, wanted: Input, done: Removal) -> None:
        if mover.model.columns.grid is None:
            raise ModelError(
                "the model was trained on a feature table, the cohort has images; set input.kind as in training"
            )
        self._folder, self._root, self._mover, self._wanted, self._done = folder, root, mover, wanted, done
        self._grid = mover.model.columns.grid
        self._pipeline = VolumePipeline(wanted, self._grid)
        self.together = 1

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Move a few people; see `Step.work`."""
        frame, outcomes = visit_frame(people), []
        for loaded in load_volumes(visit_files(people), self._wanted, common=self._grid):
            if loaded.placed is None or loaded.volume is None:
                outcomes.append(Outcome(loaded.key, loaded.error, "read"))
                continue
            own = frame.loc[[loaded.key]]
            row = loaded.placed.values.reshape(1, -1)
            one = self._mover.model.dataset(row, own)
            change = (self._mover.move(one) - row).reshape(loaded.placed.values.shape)
            # Where a voxel is NaN the change is NaN too; the voxel stays what it was.
            moved = loaded.volume.data + self._pipeline.back(np.nan_to_num(change, nan=0.0), loaded.placed)
            source = loaded.path.relative_to(self._root).as_posix()
            place = described_name(source, self._done.desc)
            write_image(self._folder / place, replace(loaded.volume, data=moved))
            said = {**self._done.to_json(), **self._mover.outside(own), "Sources": [source]}
            write_json(self._folder / sidecar(place), said)
            latents = {"latents": self._mover.encode(one)[0]}
            outcomes.append(Outcome(loaded.key, arrays=latents, files=(str(place), str(sidecar(place)))))
        return outcomes


def adapt_volumes(
    model: Model,
    files: pd.Series,
    frame: pd.DataFrame,
    wanted: Input,
    advance: Callable[[int], None] = lambda people: None,
) -> tuple[Model, tuple[Adaptation, ...]]:
    """Estimate unseen batch levels from the volumes of the people who have them; unusable files are left to the export."""

    def people() -> Iterator[Dataset]:
        for loaded in load_volumes(files, wanted, common=model.columns.grid):
            if loaded.placed is not None:
                yield model.dataset(loaded.placed.values.reshape(1, -1), frame.loc[[loaded.key]])
            advance(1)

    return model.adapt(people())
