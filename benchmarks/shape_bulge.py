"""A second kind of planted effect on organs: one side of the body loses thickness with age, and the ends stay.

It shares nothing with the front's that `medrep simulate` plants but where men's organs are larger all over.
"""

from __future__ import annotations

import numpy as np

from medrep.cohort.nifti import LabelMap
from medrep.simulate.geometry import smoothstep
from medrep.simulate.shape_effects import label_at, organ_axis

THIRTY_YEARS = 0.5
"""What the side loses of its half width in thirty years, where the body is thickest."""
_MALE = 1.04
_MIDDLE, _WIDTH = -0.2, 0.6  # of the bump, in halves of the organ's length
_WIDE = 0.95  # quantile of the distance from the centre line that counts as half the width
_HALVINGS = 40
_ROOM = 3  # voxels


def apply_bulge(labels: LabelMap, *, age: float, sex: str) -> LabelMap:
    """Give an organ, in which nothing is planted, the shape of another age (years) and sex, in a grid with more room.

    With u the distance from the centre line along +x in half widths and t the place along +y in half lengths, u becomes
    u + a(age) exp(-((t + 0.2) / 0.6)^2 / 2) w(u), w = 3 u^2 - 2 u^3 within [0, 1].
    """
    affine = labels.affine.copy()
    affine[:3, 3] -= _ROOM * affine[:3, :3].sum(axis=1)
    labels = LabelMap(np.pad(labels.data, _ROOM), affine)
    axis = organ_axis(labels)

    def place(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = (points[:, 1] - axis.middle) / axis.length
        return t, np.stack([t**2, t, np.ones_like(t)], axis=1) @ axis.line[:, 0]

    inside = _to_world(np.argwhere(labels.data > 0), labels.affine)
    width = np.quantile(np.abs(inside[:, 0] - place(inside)[1]), _WIDE)
    points = _to_world(np.indices(labels.data.shape).reshape(3, -1).T, labels.affine)
    points = axis.centroid + (points - axis.centroid) / (_MALE if sex == "M" else 1.0)
    t, middle = place(points)
    amount = -THIRTY_YEARS * (age - 50) / 30 * np.exp(-(((t - _MIDDLE) / _WIDTH) ** 2) / 2)
    goal = (points[:, 0] - middle) / width
    low, high = goal - 1.2, goal + 1.2
    for _ in range(_HALVINGS):
        u = (low + high) / 2
        short = u + amount * smoothstep(u) < goal
        low, high = np.where(short, u, low), np.where(short, high, u)
    points[:, 0] = middle + width * (low + high) / 2
    planted = label_at(labels.data, _to_world(points, np.linalg.inv(labels.affine)))
    return LabelMap(planted.reshape(labels.data.shape), labels.affine)


def _to_world(indices: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return indices @ affine[:3, :3].T + affine[:3, 3]
