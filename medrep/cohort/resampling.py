"""Voxels of one grid seen on another, by where both lie in the world."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from medrep.cohort.grid import Grid

_BLOCK = 2**20  # points that are looked up at a time
_HALF = 0.5 + 1e-4  # a voxel reaches half an edge beyond its middle; the rest is rounding
_SAMPLES = 24  # points along an axis that a share of a box is counted on


def resampled(
    channels: Float32[torch.Tensor, "channels a b c"], source: Grid, target: Grid, *, outside: Literal["border", "zero"]
) -> Float32[torch.Tensor, "channels x y z"]:
    """Return images on another grid: trilinear between the eight voxels around each point of it.

    Args:
        channels: Images on the grid ``source``.
        source: Where they are, with its place in the world.
        target: Where they are wanted, with its place in the world.
        outside: What points beyond the outermost voxels get: the nearest voxel (``border``), or zero.
    """
    flat = channels.reshape(len(channels), -1)
    found = torch.empty((len(channels), target.size), dtype=torch.float32)
    turn = np.linalg.inv(source.affine()) @ target.affine()
    for start in range(0, target.size, _BLOCK):
        number = np.arange(start, min(start + _BLOCK, target.size))
        index = np.stack(np.unravel_index(number, target.shape), axis=1).astype(np.float64)
        points = index @ turn[:3, :3].T + turn[:3, 3]
        found[:, start : start + len(number)] = _looked_up(flat, points, source.shape)
        if outside == "zero":
            beyond = ~_inside(points, source.shape)
            found[:, start : start + len(number)][:, torch.from_numpy(beyond)] = 0
    return found.reshape(len(channels), *target.shape)


def least_shared(one: Grid, other: Grid) -> float:
    """Return which part of the smaller of two boxes lies in the other one, too, from 0 to 1."""
    axes = [(np.arange(_SAMPLES) + 0.5) / _SAMPLES * length - 0.5 for length in one.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    turn = np.linalg.inv(other.affine()) @ one.affine()
    share = float(_inside(index @ turn[:3, :3].T + turn[:3, 3], other.shape).mean())
    sizes = [abs(float(np.linalg.det(grid.affine()[:3, :3]))) * grid.size for grid in (one, other)]
    return min(share * sizes[0] / min(sizes), 1.0)


def _inside(points: Float[np.ndarray, "points 3"], shape: Sequence[int]) -> Bool[np.ndarray, " points"]:
    within = (points >= -_HALF) & (points <= np.asarray(shape) - 1 + _HALF)
    return np.asarray(within.all(axis=1))


def _looked_up(
    flat: Float32[torch.Tensor, "channels voxels"], points: Float[np.ndarray, "points 3"], shape: Sequence[int]
) -> Float32[torch.Tensor, "channels points"]:
    last = np.asarray(shape) - 1
    held = np.clip(points, 0, last)
    near = np.round(held)
    held = np.where(np.abs(held - near) < 1e-6, near, held)  # a shift by whole voxels mixes no neighbours
    low = np.minimum(np.floor(held).astype(np.int64), np.maximum(last - 1, 0))
    share = held - low
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    found = torch.zeros((len(flat), len(points)), dtype=torch.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, share, 1 - share).prod(axis=1).astype(np.float32)
        used = np.flatnonzero(weight)  # a voxel that is NaN spoils only what it is a part of
        if len(used):
            place = torch.from_numpy(np.minimum(low[used] + corner, last) @ strides)
            found[:, torch.from_numpy(used)] += flat[:, place] * torch.from_numpy(weight[used])
    return found
