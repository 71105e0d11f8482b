"""Transforms of volumes to and from a cohort's grid: axes, MONAI's pipeline, resampling, and the grid images share.

MONAI and torch take seconds to import, and are used where a spacing or a shape is asked for; axes alone are turned without it.

A volume whose own place in the world is not that of the common grid is resampled onto it in world space, where the input
section names a common grid.

What goes back is the change, not the image: resampling is never applied to the person's own voxels, so the null change
returns the input exactly, and voxels outside the common grid stay as they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Shaped
from nibabel.orientations import inv_ornt_aff, io_orientation

from medrep.cohort.grid import Grid, corner_distance, grid_problem, spacing_problem, world_rows
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.nifti import Place, Volume, form_notes, named_images, read_place
from medrep.errors import CohortError

_BLOCK = 2**16  # points that are looked up at a time, so that all about them stays in cache
_HALF = 0.5 + 1e-4  # a voxel reaches half an edge beyond its middle; the rest is rounding
_ON_A_VOXEL = 1e-6  # of an edge: the rest is rounding
_SAMPLES = 24  # points along an axis that a share of a box is counted on


def resampled(
    channels: Float32[np.ndarray, "channels a b c"], source: Grid, target: Grid, *, outside: Literal["border", "zero"]
) -> Float32[np.ndarray, "channels x y z"]:
    """Return images on another grid: trilinear between the eight voxels around each point of it.

    Args:
        channels: Images on the grid ``source``.
        source: Where they are, with its place in the world.
        target: Where they are wanted, with its place in the world.
        outside: What points beyond the outermost voxels get: the nearest voxel (``border``), or zero.
    """
    turn = np.linalg.inv(source.affine()) @ target.affine()
    if source.shape == target.shape and corner_distance(turn, np.eye(4), target.shape) < _ON_A_VOXEL:
        return channels
    flat = channels.reshape(len(channels), -1)
    found = np.empty((len(channels), target.size), np.float32)
    for start in range(0, target.size, _BLOCK):
        number = np.arange(start, min(start + _BLOCK, target.size))
        index = np.stack(np.unravel_index(number, target.shape), axis=1).astype(np.float64)
        points = np.ascontiguousarray((index @ turn[:3, :3].T + turn[:3, 3]).T)
        found[:, start : start + len(number)] = _looked_up(flat, points, source.shape)
        if outside == "zero":
            beyond = ~_inside(points, source.shape)
            found[:, start : start + len(number)][:, beyond] = 0
    return found.reshape(len(channels), *target.shape)


def least_shared(one: Grid, other: Grid) -> float:
    """Return which part of the smaller of two boxes lies in the other one, too, from 0 to 1."""
    axes = [(np.arange(_SAMPLES) + 0.5) / _SAMPLES * length - 0.5 for length in one.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    turn = np.linalg.inv(other.affine()) @ one.affine()
    share = float(_inside((index @ turn[:3, :3].T + turn[:3, 3]).T, other.shape).mean())
    sizes = [abs(float(np.linalg.det(grid.affine()[:3, :3]))) * grid.size for grid in (one, other)]
    return min(share * sizes[0] / min(sizes), 1.0)


def _inside(points: Float[np.ndarray, "3 points"], shape: Sequence[int]) -> Bool[np.ndarray, " points"]:
    last = np.asarray(shape)[:, None] - 1
    return np.asarray(((points >= -_HALF) & (points <= last + _HALF)).all(axis=0))


def _looked_up(
    flat: Float32[np.ndarray, "channels voxels"], points: Float[np.ndarray, "3 points"], shape: Sequence[int]
) -> Float32[np.ndarray, "channels points"]:
    shares, steps = [], []
    first = np.zeros(points.shape[1], dtype=np.int64)  # the lowest of the eight voxels around each point
    for own, length, stride in zip(points, shape, (shape[1] * shape[2], shape[2], 1), strict=True):
        held = np.clip(own, 0, length - 1)
        near = np.round(held)
        held = np.where(np.abs(held - near) < _ON_A_VOXEL, near, held)  # a shift by whole voxels mixes no neighbours
        low = np.minimum(np.floor(held).astype(np.int64), max(length - 2, 0))
        shares.append((1 - (held - low), held - low))
        steps.append(stride if length > 1 else 0)
        first += low * stride
    found = np.zeros((len(flat), points.shape[1]), np.float32)
    for corner in np.ndindex(2, 2, 2):
        along = [pair[side] for pair, side in zip(shares, corner, strict=True)]
        weight = (along[0] * along[1] * along[2]).astype(np.float32)
        used = np.flatnonzero(weight)  # a voxel that is NaN spoils only what it is a part of
        found[:, used] += flat[:, first[used] + int(np.dot(corner, steps))] * weight[used]
    return found


LEAST_SHARED = 0.5
"""A volume is resampled onto the common grid where they share at least this part of the smaller of the two boxes."""

_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Placed:
    """A volume in the common grid, and the way back.

    Attributes:
        values: Intensities on the common grid, axes RAS, in units of ``unit``.
        grid: The grid this volume arrived in.
        unit: What one unit of ``values`` is in the file's own units; 1 where there is a curve.
        curve: What made ``values`` of intensities, where it was no division by a unit.
        way: How its axes were turned; or MONAI's record of the operations (its data are not used); or the volume's own grid if it
            was resampled in the world.
    """

    values: Float32[np.ndarray, "x y z"]
    grid: Grid
    unit: float
    way: "Turn | Grid | Any"
    curve: "Curve | None" = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges of the common grid in mm."""
        return self.grid.spacing

    @property
    def landmarks(self) -> Float[np.ndarray, " landmarks"]:
        """The landmarks of the image's intensities that were taken out of it; its unit where it has no others."""
        return np.array([self.unit]) if self.curve is None else self.curve.own

    @property
    def intensities(self) -> Float32[np.ndarray, "x y z"]:
        """The values in the file's own units."""
        if self.curve is None:
            return np.asarray(self.values * np.float32(self.unit), np.float32)
        return np.where(self.values == 0, 0, self.curve.inverse(self.values)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Curve:
    """Map of an image's intensities to those of training: a line between landmarks, continued beyond them.

    Attributes:
        own: Landmarks of the image, strictly ascending.
        common: What they are mapped to, strictly ascending.
    """

    own: Float[np.ndarray, " landmarks"]
    common: Float[np.ndarray, " landmarks"]

    def apply(self, data: Float32[np.ndarray, "x y z"]) -> Float32[np.ndarray, "x y z"]:
        """Return values for a model; voxels that are zero stay zero, so that an empty background is the same in everybody."""
        return np.where(data == 0, 0, _lines(data, self.own, self.common)).astype(np.float32)

    def inverse(self, values: Shaped[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
        """Return intensities of values."""
        return _lines(values, self.common, self.own)

    def changed(
        self,
        data: Float32[np.ndarray, "x y z"],
        change: Float32[np.ndarray, "x y z"],
        own: Float[np.ndarray, " landmarks"] | None,
    ) -> Float32[np.ndarray, "x y z"]:
        """Return an image whose values are changed.

        Args:
            data: The image.
            change: Of its values.
            own: The landmarks that it gets; None: its own, so that voxels whose values do not change stay as they are.
        """
        to = self if own is None else Curve(own, self.common)
        kept = (change == 0) & ((data == 0) if own is not None else True)
        return np.where(kept, data, to.inverse(_lines(data, self.own, self.common) + change)).astype(np.float32)


def _lines(
    x: Shaped[np.ndarray, "..."], at: Float[np.ndarray, " landmarks"], to: Float[np.ndarray, " landmarks"]
) -> Float[np.ndarray, "..."]:
    x = np.asarray(x, np.float64)
    slopes = np.diff(to) / np.diff(at)
    part = np.clip(np.searchsorted(at, x, side="right") - 1, 0, len(slopes) - 1)
    return np.asarray(to[part] + slopes[part] * (x - at[part]))


CURVES: Mapping[str, tuple[float, ...]] = {"zscore": (), "nyul": (1, *range(10, 91, 10), 99)}
"""Kinds of intensity that have a curve: the percentiles that are its landmarks; for ``zscore`` mean and deviation are."""

_LEAST_STEP = 1e-6  # of the highest landmark, between two that are one


def intensity_landmarks(data: Float32[np.ndarray, "x y z"], intensity: str) -> Float[np.ndarray, " landmarks"]:
    """Return an image's landmarks, strictly ascending.

    They are of the foreground: voxels that are not zero and above the mean of these.

    Args:
        data: The image.
        intensity: ``p99``: the 99th percentile of absolute values other than zero; ``zscore``: the foreground's mean, and that
            plus the standard deviation; ``nyul``: its percentiles (Nyul 2000).

    Returns:
        The landmarks; of an image without a foreground 1, 2, ...
    """
    if intensity == "p99":
        return np.array([_percentile_99(data)])
    inside = data[np.isfinite(data) & (data != 0)].astype(np.float64)
    bright = inside[inside >= inside.mean()] if len(inside) else inside
    percentiles = CURVES[intensity]
    if not len(bright) or np.ptp(bright) == 0:
        return np.arange(1.0, 1 + (len(percentiles) or 2))
    found = (
        np.percentile(bright, percentiles) if percentiles else np.array([bright.mean(), bright.mean() + bright.std()])
    )
    step = _LEAST_STEP * np.abs(found).max() * np.arange(len(found))
    return np.asarray(np.maximum.accumulate(found) + step)


def landmark_unit(landmarks: Float[np.ndarray, " landmarks"]) -> float:
    """Return the unit that an image's landmarks are in: its standard deviation of two, else the highest of them."""
    if len(landmarks) == 2:
        return float(landmarks[1] - landmarks[0])
    return float(np.abs(landmarks[-1])) or 1.0


def log_steps(landmarks: Float[np.ndarray, " landmarks"]) -> Float[np.ndarray, " landmarks"]:
    """Return the logarithms of the steps from zero to the first landmark, and from each to the next.

    Whatever a model makes of them is ascending landmarks again (`from_log_steps`), and a gain is one number added to all.

    Raises:
        CohortError: Landmarks below zero.
    """
    if landmarks[0] <= 0:
        raise CohortError(
            "the foreground is not above zero, and has no unit to harmonise; set input.harmonize_unit=false"
        )
    return np.log(np.diff(landmarks, prepend=0.0))


def from_log_steps(steps: Float[np.ndarray, " landmarks"]) -> Float[np.ndarray, " landmarks"]:
    """Return landmarks; the inverse of `log_steps`."""
    return np.cumsum(np.exp(steps))


@dataclass(frozen=True)
class Turn:
    """Turn of a volume's axes to RAS, which moves no voxel by a part of its edge.

    Attributes:
        order: The volume's own axis that each axis of RAS is.
        flipped: Its own axes that run the other way.
    """

    order: tuple[int, ...]
    flipped: tuple[int, ...]

    @classmethod
    def of(cls, affine: Float[np.ndarray, "4 4"], shape: Sequence[int]) -> "tuple[Turn, Float[np.ndarray, '4 4']]":
        """Return the turn of a volume, and the affine that it has then."""
        found = io_orientation(affine)
        turn = cls(tuple(np.argsort(found[:, 0]).tolist()), tuple(np.flatnonzero(found[:, 1] == -1).tolist()))
        return turn, affine @ inv_ornt_aff(found, shape)

    def apply(self, volume: Shaped[np.ndarray, "a b c"]) -> Shaped[np.ndarray, "x y z"]:
        """Return a volume with its axes turned."""
        return np.flip(volume, self.flipped).transpose(self.order)

    def inverse(self, volume: Float32[np.ndarray, "x y z"]) -> Float32[np.ndarray, "a b c"]:
        """Return a volume with the axes that it had."""
        return np.flip(volume.transpose(np.argsort(self.order)), self.flipped)


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
        self._wanted, self._common = wanted, common
        self._resamples, self._respaces = bool(wanted.spacing or wanted.shape), bool(wanted.spacing)
        self._intensity, self._landmarks = wanted.intensity, np.array(wanted.landmarks, np.float64)
        if wanted.harmonize_unit and wanted.intensity == "raw":
            raise CohortError(
                "input.harmonize_unit: with intensity raw a gain is in the voxels, and goes with them; choose p99, zscore or nyul"
            )
        expected = len(CURVES.get(wanted.intensity, ())) or 2
        wrong = len(wanted.landmarks) not in {0, expected} or (np.diff(wanted.landmarks) <= 0).any()
        if wanted.intensity in CURVES and wrong:
            raise CohortError(
                f"input.landmarks {wanted.landmarks}: {wanted.intensity} has {expected} ascending ones; leave them to training"
            )

    @cached_property
    def _steps(self) -> Any:
        from monai.transforms import Compose, Orientation, ResizeWithPadOrCrop, Spacing  # takes seconds

        steps: list[object] = [Orientation(axcodes="RAS", labels=_RAS)]
        if self._wanted.spacing:
            steps.append(Spacing(pixdim=self._wanted.spacing, mode="bilinear", padding_mode="border", dtype=np.float32))
        if self._wanted.shape:
            steps.append(ResizeWithPadOrCrop(spatial_size=self._wanted.shape, mode="edge"))
        return Compose(steps)

    def place(self, volume: Volume) -> Placed:
        """Bring a volume to the common grid."""
        return self.place_alike([volume])[0]

    def place_alike(self, volumes: Sequence[Volume]) -> list[Placed]:
        """Bring volumes of one shape and affine to the common grid, in one pass of the pipeline.

        Each comes out as if it had come alone: they are channels to MONAI, whose own work is then done once for all of them.
        """
        units = [_percentile_99(volume.data) if self._intensity == "p99" else 1.0 for volume in volumes]
        curves = [self._curve(volume.data) if self._intensity in CURVES else None for volume in volumes]
        channels = np.empty((len(volumes), *volumes[0].data.shape), np.float32)
        for channel, volume, unit, curve in zip(channels, volumes, units, curves, strict=True):
            np.divide(volume.data if curve is None else curve.apply(volume.data), np.float32(unit), out=channel)
        transformed, affine, way = self._stepped(channels, volumes[0].affine)
        x, y, z = (float(edge) for edge in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
        a, b, c = transformed[0].shape
        grid = Grid((a, b, c), (x, y, z), world_rows(affine))
        if self._common is not None and self._moves(grid, self._common):
            placed = _in_world(channels, volumes[0], units, self._common)
        else:
            placed = [
                Placed(np.ascontiguousarray(values), grid, unit, way)
                for values, unit in zip(transformed, units, strict=True)
            ]
        return [replace(one, curve=curve) for one, curve in zip(placed, curves, strict=True)]

    def _stepped(
        self, channels: Float32[np.ndarray, "volumes a b c"], affine: Float[np.ndarray, "4 4"]
    ) -> "tuple[list[Float32[np.ndarray, 'x y z']], Float[np.ndarray, '4 4'], Turn | Any]":
        """Return volumes after the steps, their affine, and the way back."""
        if not self._resamples:
            turn, turned = Turn.of(affine, channels.shape[1:])
            return [turn.apply(volume) for volume in channels], turned, turn
        import torch
        from monai.data import MetaTensor

        found = self._steps(MetaTensor(torch.from_numpy(channels), affine=torch.from_numpy(affine)))
        return [*found.numpy()], found.affine.numpy(), found

    def changed(
        self,
        data: Float32[np.ndarray, "a b c"],
        change: Float32[np.ndarray, "x y z"],
        placed: Placed,
        landmarks: Float[np.ndarray, " landmarks"] | None = None,
    ) -> Float32[np.ndarray, "a b c"]:
        """Return a volume with a change of its values on the common grid; where nothing changes it stays what it was.

        Args:
            data: The volume on its own grid, in its own units.
            change: Of its values.
            placed: The same volume on the common grid.
            landmarks: Those of its intensities that it gets; None: its own.
        """
        own = self.back(change, placed)
        if placed.curve is not None:
            return placed.curve.changed(data, own, landmarks)
        return data + own if landmarks is None else (data + own) * np.float32(landmarks[0] / placed.unit)

    def _curve(self, data: Float32[np.ndarray, "x y z"]) -> Curve:
        own = intensity_landmarks(data, self._intensity)
        return Curve(own, self._landmarks if len(self._landmarks) else own / landmark_unit(own))

    def back(self, change: Float32[np.ndarray, "x y z"], placed: Placed) -> Float32[np.ndarray, "a b c"]:
        """Bring a change on the common grid to the volume's own grid and unit; zero where the grid does not reach."""
        if isinstance(placed.way, Grid):
            own = resampled(np.ascontiguousarray(change)[None], placed.grid, placed.way, outside="zero")[0]
        elif isinstance(placed.way, Turn):
            own = placed.way.inverse(change)
        else:
            import torch
            from monai.data import MetaTensor

            tensor = MetaTensor(torch.from_numpy(np.ascontiguousarray(change))[None], meta=placed.way.meta)
            tensor.applied_operations = [_unbound(step) for step in placed.way.applied_operations]
            own = self._steps.inverse(tensor)[0].numpy()
        return np.ascontiguousarray(own).astype(np.float32) * np.float32(placed.unit)

    def _moves(self, own: Grid, common: Grid) -> bool:
        """Return whether a volume that arrived in a grid of its own is to be resampled onto the common one."""
        if not self._resamples or common.world is None or (not self._respaces and spacing_problem(own, common)):
            return False
        return bool(grid_problem(own, common))


def _in_world(
    channels: Float32[np.ndarray, "volumes a b c"], volume: Volume, units: Sequence[float], common: Grid
) -> list[Placed]:
    x, y, z = volume.data.shape
    own = Grid((x, y, z), volume.spacing, world_rows(volume.affine))
    shared = least_shared(own, common)
    if shared < LEAST_SHARED:
        raise CohortError(
            f"the image lies beside the common grid: {shared:.0%} of the smaller of the two are in both, by their places in"
            " the world; register it to the others first, or mend its affine"
        )
    values = resampled(channels, own, common, outside="border")
    return [Placed(np.ascontiguousarray(one), common, unit, own) for one, unit in zip(values, units, strict=True)]


def _unbound(step: Any) -> Any:
    """Copy one record (MONAI empties the record it inverts) and free it from the pipeline object that made it."""
    from monai.utils.enums import TraceKeys

    if isinstance(step, dict):
        return {key: TraceKeys.NONE if key == TraceKeys.ID else _unbound(value) for key, value in step.items()}
    if isinstance(step, list):
        return [_unbound(entry) for entry in step]
    return step


def _percentile_99(data: Float32[np.ndarray, "x y z"]) -> float:
    inside = data[np.isfinite(data) & (data != 0)]
    scale = float(np.percentile(np.abs(inside), 99)) if len(inside) else 1.0
    return scale if scale > 0 else 1.0


_DIGITS = 3  # of mm, to which affines are compared when they are counted


def read_places(files: pd.Series) -> dict[str, Place]:
    """Return where each image lies; files that cannot be opened are left to whoever reads them.

    Args:
        files: Index: key; values: paths.
    """
    found: dict[str, Place] = {}
    for key, path in files.items():
        try:
            found[str(key)] = read_place(Path(str(path)))
        except CohortError:
            continue
    return found


def common_grid(places: Mapping[str, Place], wanted: VolumeInput) -> Grid | None:
    """Return the grid in which most images arrive, the first of them where several are as frequent; None if there is none.

    Args:
        places: From `read_places`, in the order of the table.
        wanted: The ``input`` section.
    """
    count: dict[tuple[object, ...], int] = {}
    first: dict[tuple[object, ...], Place] = {}
    for place in places.values():
        kind = (place.shape, (np.round(place.affine, _DIGITS) + 0.0).tobytes())
        count[kind] = count.get(kind, 0) + 1
        first.setdefault(kind, place)
    if not count:
        return None
    place = first[max(count, key=lambda kind: count[kind])]
    try:
        return VolumePipeline(wanted).place(Volume(np.zeros(place.shape, np.float32), place.affine)).grid
    except CohortError:
        return None


def place_notes(places: Mapping[str, Place]) -> list[str]:
    """Return a line where sform and qform of images disagree, or none."""
    return form_notes({key: (place.forms_apart, place.shortest_edge) for key, place in places.items()})


def resampled_notes(transformed: Sequence[str]) -> list[str]:
    """Return a line about people whose images were resampled in the world, or none."""
    if not transformed:
        return []
    return [f"{named_images(transformed)}: not on the common grid of the world as they are, and resampled onto it"]
