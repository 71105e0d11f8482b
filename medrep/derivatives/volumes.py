"""Removal from volumes, a person at a time: every voxel's change is brought back to the input's own grid and added."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medrep._files import write_json
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.base import Visit, visit_files, visit_frame
from medrep.cohort.loaders import load_volumes
from medrep.cohort.nifti import write_image
from medrep.cohort.transforms import VolumePipeline
from medrep.derivatives.bids import Destination, described_name, sidecar
from medrep.derivatives.tasks import Mover, Outcome, Step
from medrep.errors import ModelError


class MoveVolumes(Step):
    """Writes one image and sidecar a person.

    Args:
        mover: The model and what to do with it.
        kind: Volumes, as in training.
        to: Where to write.
    """

    def __init__(self, mover: Mover, kind: InputKind[VolumeInput], to: Destination) -> None:
        if mover.model.columns.grid is None:
            raise ModelError(
                "the model was trained on a feature table, the cohort has images; set input.kind as in training"
            )
        self._mover, self._wanted, self._to = mover, kind.section, to
        self._grid = mover.model.columns.grid
        self._pipeline = VolumePipeline(kind.section, self._grid)
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
            source = loaded.path.relative_to(self._to.root).as_posix()
            place = described_name(source, self._to.done.desc)
            write_image(self._to.folder / place, replace(loaded.volume, data=moved))
            said = {**self._to.done.to_json(), **self._mover.outside(own), "Sources": [source]}
            write_json(self._to.folder / sidecar(place), said)
            latents = {"latents": self._mover.encode(one)[0]}
            outcomes.append(Outcome(loaded.key, arrays=latents, files=(str(place), str(sidecar(place)))))
        return outcomes
