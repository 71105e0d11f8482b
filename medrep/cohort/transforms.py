"""The MONAI pipeline that brings a volume to the cohort's grid and a change back to the volume's own grid.

What goes back is the change, not the image: resampling is never applied to the person's own voxels, so the null change
returns the input exactly, and voxels outside the common grid stay as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, ResizeWithPadOrCrop, Spacing
from monai.utils.enums import TraceKeys

from medrep.cohort.grid import Grid
from medrep.cohort.inputs import Input
from medrep.cohort.nifti import Volume
from medrep.errors import CohortError

_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Placed:
    """A volume in the common grid, and the way back.

    Attributes:
        values: Intensities on the common grid, axes RAS, in units of ``unit``.
        spacing: Voxel edges of the common grid in mm.
        unit: What one unit of ``values`` is in the file's own units.
        trace: MONAI's record of the operations; its data are not used.
    """

    values: Float32[np.ndarray, "x y z"]
    spacing: tuple[float, float, float]
    unit: float
    trace: MetaTensor

    @property
    def grid(self) -> Grid:
        """The common grid this volume arrived in."""
        x, y, z = self.values.shape
        return Grid((x, y, z), self.spacing)


class VolumePipeline:
    """Orientation to RAS, then spacing (mm), then cut or pad to a shape, as far as the input asks for them.

    Padding repeats the border voxel, so that every voxel of the common grid has a plausible value.

    Args:
        wanted: The ``input`` section.
    """

    def __init__(self, wanted: Input) -> None:
        for name, length in (("spacing", len(wanted.spacing)), ("shape", len(wanted.shape))):
            if length not in {0, 3}:
                raise CohortError(f"input.{name} has {length} numbers; give three, or leave it empty")
        if not all(0 < number < np.inf for number in (*wanted.spacing, *wanted.shape)):
            raise CohortError(f"input.spacing {wanted.spacing} and shape {wanted.shape} must be above zero")
        steps: list[object] = [Orientation(axcodes="RAS", labels=_RAS)]
        if wanted.spacing:
            steps.append(Spacing(pixdim=wanted.spacing, mode="bilinear", padding_mode="border", dtype=np.float32))
        if wanted.shape:
            steps.append(ResizeWithPadOrCrop(spatial_size=wanted.shape, mode="edge"))
        self._steps = Compose(steps)
        self._intensity = wanted.intensity

    def place(self, volume: Volume) -> Placed:
        """Bring a volume to the common grid."""
        return self.place_alike([volume])[0]

    def place_alike(self, volumes: Sequence[Volume]) -> list[Placed]:
        """Bring volumes of one shape and affine to the common grid, in one pass of the pipeline.

        Each comes out as if it had come alone: they are channels to MONAI, whose own work is then done once for all of them.
        """
        units = [_percentile_99(volume.data) if self._intensity == "p99" else 1.0 for volume in volumes]
        channels = torch.empty((len(volumes), *volumes[0].data.shape), dtype=torch.float32)
        for channel, volume, unit in zip(channels, volumes, units, strict=True):
            torch.div(_turned(volume.data), unit, out=channel)
        moved = self._steps(MetaTensor(channels, affine=torch.from_numpy(volumes[0].affine)))
        x, y, z = (float(edge) for edge in moved.pixdim)
        return [
            Placed(np.ascontiguousarray(values), (x, y, z), unit, moved)
            for values, unit in zip(moved.numpy(), units, strict=True)
        ]

    def back(self, change: Float32[np.ndarray, "x y z"], placed: Placed) -> Float32[np.ndarray, "a b c"]:
        """Bring a change on the common grid to the volume's own grid and units; zero where the grid does not reach."""
        trace = placed.trace
        tensor = MetaTensor(torch.from_numpy(np.ascontiguousarray(change))[None], meta=trace.meta)
        tensor.applied_operations = [_unbound(step) for step in trace.applied_operations]
        own = self._steps.inverse(tensor)
        return np.ascontiguousarray(own[0].numpy()).astype(np.float32) * np.float32(placed.unit)


def _unbound(step: Any) -> Any:
    """Copy one record (MONAI empties the record it inverts) and free it from the pipeline object that made it."""
    if isinstance(step, dict):
        return {key: TraceKeys.NONE if key == TraceKeys.ID else _unbound(value) for key, value in step.items()}
    if isinstance(step, list):
        return [_unbound(entry) for entry in step]
    return step


def _turned(data: Float32[np.ndarray, "x y z"]) -> Float32[torch.Tensor, "x y z"]:
    """Return a volume whose z runs fastest in memory; in files x does.

    Two steps, a matrix transposed and rows moved, are several times as quick as one copy, which goes against the order of memory.
    """
    x, y, z = data.shape
    flat = torch.from_numpy(np.ascontiguousarray(data.T)).reshape(z, y * x)
    return flat.t().contiguous().reshape(y, x, z).transpose(0, 1)


def _percentile_99(data: Float32[np.ndarray, "x y z"]) -> float:
    inside = data[np.isfinite(data) & (data != 0)]
    scale = float(np.percentile(np.abs(inside), 99)) if len(inside) else 1.0
    return scale if scale > 0 else 1.0
