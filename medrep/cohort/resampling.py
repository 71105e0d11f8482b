"""Voxels of one grid seen on another, by where both lie in the world."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from medrep.cohort.grid import Grid

_BLOCK = 2**16  # points that are looked up at a time, so that all about them stays in cache
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
        points = np.ascontiguousarray((index @ turn[:3, :3].T + turn[:3, 3]).T)
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
    share = float(_inside((index @ turn[:3, :3].T + turn[:3, 3]).T, other.shape).mean())
    sizes = [abs(float(np.linalg.det(grid.affine()[:3, :3]))) * grid.size for grid in (one, other)]
    return min(share * sizes[0] / min(sizes), 1.0)


def _inside(points: Float[np.ndarray, "3 points"], shape: Sequence[int]) -> Bool[np.ndarray, " points"]:
    last = np.asarray(shape)[:, None] - 1
    return np.asarray(((points >= -_HALF) & (points <= last + _HALF)).all(axis=0))


def _looked_up(
    flat: Float32[torch.Tensor, "channels voxels"], points: Float[np.ndarray, "3 points"], shape: Sequence[int]
) -> Float32[torch.Tensor, "channels points"]:
    shares, steps = [], []
    first = np.zeros(points.shape[1], dtype=np.int64)  # the lowest of the eight voxels around each point
    for own, length, stride in zip(points, shape, (shape[1] * shape[2], shape[2], 1), strict=True):
        held = np.clip(own, 0, length - 1)
        near = np.round(held)
        held = np.where(np.abs(held - near) < 1e-6, near, held)  # a shift by whole voxels mixes no neighbours
        low = np.minimum(np.floor(held).astype(np.int64), max(length - 2, 0))
        shares.append((1 - (held - low), held - low))
        steps.append(stride if length > 1 else 0)
        first += low * stride
    found = torch.zeros((len(flat), points.shape[1]), dtype=torch.float32)
    for corner in np.ndindex(2, 2, 2):
        along = [pair[side] for pair, side in zip(shares, corner, strict=True)]
        weight = (along[0] * along[1] * along[2]).astype(np.float32)
        used = np.flatnonzero(weight)  # a voxel that is NaN spoils only what it is a part of
        place = torch.from_numpy(first[used] + int(np.dot(corner, steps)))
        found[:, torch.from_numpy(used)] += flat[:, place] * torch.from_numpy(weight[used])
    return found
