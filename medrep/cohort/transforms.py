"""The MONAI pipeline that brings a volume to the cohort's grid and a change back to the volume's own grid.

A volume whose own place in the world is not that of the common grid is resampled onto it in world space, where the input
section names a common grid.

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

from medrep.cohort.grid import Grid, grid_problem, spacing_problem, world_rows
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.nifti import Volume
from medrep.cohort.resampling import least_shared, resampled
from medrep.errors import CohortError

LEAST_SHARED = 0.5
"""A volume is resampled onto the common grid where they share at least this part of the smaller of the two boxes."""

_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Placed:
    """A volume in the common grid, and the way back.

    Attributes:
        values: Intensities on the common grid, axes RAS, in units of ``unit``.
        grid: The grid this volume arrived in.
        unit: What one unit of ``values`` is in the file's own units.
        way: MONAI's record of the operations (its data are not used), or the volume's own grid if it was resampled in the world.
    """

    values: Float32[np.ndarray, "x y z"]
    grid: Grid
    unit: float
    way: MetaTensor | Grid

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges of the common grid in mm."""
        return self.grid.spacing


class VolumePipeline:
    """Orientation to RAS, then spacing (mm), then cut or pad to a shape, as far as the input asks for them.

    Padding repeats the border voxel, so that every voxel of the common grid has a plausible value.

    Args:
        wanted: The ``input`` section.
        common: The grid to arrive in. A volume that these steps bring elsewhere is resampled onto it in world space, in one
            step out of its own voxels, if the input section asks for a spacing or a shape, and is left where it arrived
            otherwise. None: each volume stays where these steps bring it.
    """

    def __init__(self, wanted: VolumeInput, common: Grid | None = None) -> None:
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
        self._steps, self._common = Compose(steps), common
        self._resamples, self._respaces = bool(wanted.spacing or wanted.shape), bool(wanted.spacing)
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
        a, b, c = moved.shape[1:]
        grid = Grid((a, b, c), (x, y, z), world_rows(moved.affine.numpy()))
        if self._common is not None and self._moves(grid, self._common):
            return _in_world(channels, volumes[0], units, self._common)
        return [
            Placed(np.ascontiguousarray(values), grid, unit, moved)
            for values, unit in zip(moved.numpy(), units, strict=True)
        ]

    def back(self, change: Float32[np.ndarray, "x y z"], placed: Placed) -> Float32[np.ndarray, "a b c"]:
        """Bring a change on the common grid to the volume's own grid and units; zero where the grid does not reach."""
        if isinstance(placed.way, Grid):
            own = resampled(
                torch.from_numpy(np.ascontiguousarray(change))[None], placed.grid, placed.way, outside="zero"
            )
        else:
            tensor = MetaTensor(torch.from_numpy(np.ascontiguousarray(change))[None], meta=placed.way.meta)
            tensor.applied_operations = [_unbound(step) for step in placed.way.applied_operations]
            own = self._steps.inverse(tensor)
        return np.ascontiguousarray(own[0].numpy()).astype(np.float32) * np.float32(placed.unit)

    def _moves(self, own: Grid, common: Grid) -> bool:
        """Return whether a volume that arrived in a grid of its own is to be resampled onto the common one."""
        if not self._resamples or common.world is None or (not self._respaces and spacing_problem(own, common)):
            return False
        return bool(grid_problem(own, common))


def _in_world(
    channels: Float32[torch.Tensor, "volumes a b c"], volume: Volume, units: Sequence[float], common: Grid
) -> list[Placed]:
    x, y, z = volume.data.shape
    own = Grid((x, y, z), volume.spacing, world_rows(volume.affine))
    shared = least_shared(own, common)
    if shared < LEAST_SHARED:
        raise CohortError(
            f"the image lies beside the common grid: {shared:.0%} of the smaller of the two are in both, by their places in"
            " the world; register it to the others first, or mend its affine"
        )
    values = resampled(channels, own, common, outside="border").numpy()
    return [Placed(np.ascontiguousarray(one), common, unit, own) for one, unit in zip(values, units, strict=True)]


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
