"""A second kind of planted effect on organs: one side of the body loses thickness with age, and the ends stay.

It shares nothing with the front's that `medrep simulate` plants but where men's organs are larger all over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medrep.cohort.nifti import LabelMap
from medrep.simulate.geometry import smoothstep
from medrep.simulate.shape_effects import OrganAxis, label_at, organ_axis

THIRTY_YEARS = 0.5
"""What the side loses of its half width in thirty years, where the body is thickest."""
_MALE = 1.04
_MIDDLE, _WIDTH = -0.2, 0.6  # of the bump, in halves of the organ's length
_WIDE = 0.95  # quantile of the distance from the centre line that counts as half the width
_HALVINGS = 40
_ROOM = 3  # voxels


@dataclass(frozen=True, eq=False)
class Bulge:
    """How the effect acts on an organ of this axis, `width` half its width along x, mm."""

    axis: OrganAxis
    width: float

    @classmethod
    def of(cls, labels: LabelMap) -> Bulge:
        """Measure the organ of a label map, in which nothing is planted."""
        axis = organ_axis(labels)
        inside = _to_world(np.argwhere(labels.data > 0), labels.affine)
        return cls(axis, float(np.quantile(np.abs(inside[:, 0] - _place(axis, inside)[1]), _WIDE)))

    def moved(self, age: float, sex: str, points: np.ndarray) -> np.ndarray:
        """Move points in mm, of the organ in which nothing is planted."""
        t, middle = _place(self.axis, points)
        u = (points[:, 0] - middle) / self.width
        x = middle + self.width * (u + _amount(age, t) * smoothstep(u))
        moved = np.column_stack([x, points[:, 1:]])
        return np.asarray(self.axis.centroid + (moved - self.axis.centroid) * _larger(sex))

    def back(self, age: float, sex: str, points: np.ndarray) -> np.ndarray:
        """Find where `moved` brought points from."""
        points = self.axis.centroid + (points - self.axis.centroid) / _larger(sex)
        t, middle = _place(self.axis, points)
        amount = _amount(age, t)
        goal = (points[:, 0] - middle) / self.width
        low, high = goal - 1.2, goal + 1.2
        for _ in range(_HALVINGS):
            u = (low + high) / 2
            short = u + amount * smoothstep(u) < goal
            low, high = np.where(short, u, low), np.where(short, high, u)
        return np.column_stack([middle + self.width * (low + high) / 2, points[:, 1:]])


def apply_bulge(labels: LabelMap, *, age: float, sex: str) -> LabelMap:
    """Give an organ, in which nothing is planted, the shape of another age (years) and sex, in a grid with more room.

    With u the distance from the centre line along +x in half widths and t the place along +y in half lengths, u becomes
    u + a(age) exp(-((t + 0.2) / 0.6)^2 / 2) w(u), w = 3 u^2 - 2 u^3 within [0, 1].
    """
    affine = labels.affine.copy()
    affine[:3, 3] -= _ROOM * affine[:3, :3].sum(axis=1)
    labels = LabelMap(np.pad(labels.data, _ROOM), affine)
    points = _to_world(np.indices(labels.data.shape).reshape(3, -1).T, labels.affine)
    points = Bulge.of(labels).back(age, sex, points)
    planted = label_at(labels.data, _to_world(points, np.linalg.inv(labels.affine)))
    return LabelMap(planted.reshape(labels.data.shape), labels.affine)


def _place(axis: OrganAxis, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where points are along the organ, in half lengths, and x of the centre line there, mm."""
    t = (points[:, 1] - axis.middle) / axis.length
    return t, np.stack([t**2, t, np.ones_like(t)], axis=1) @ axis.line[:, 0]


def _amount(age: float, t: np.ndarray) -> np.ndarray:
    return np.asarray(-THIRTY_YEARS * (age - 50) / 30 * np.exp(-(((t - _MIDDLE) / _WIDTH) ** 2) / 2))


def _larger(sex: str) -> float:
    return _MALE if sex == "M" else 1.0


def _to_world(indices: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return indices @ affine[:3, :3].T + affine[:3, 3]
