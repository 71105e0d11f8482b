"""What is not the model's to say when people are moved: point masses stay, and effects never estimated leave no value."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from medrep.models.column_support import FEW, FULL, NEVER, ColumnSupport
from medrep.models.point_masses import NO_MASSES, PointMasses


@dataclass(frozen=True, eq=False)
class Exceptions:
    """What a model leaves as it is or cannot say of single columns.

    Attributes:
        masses: Values that stay.
        support: Levels without an effect in some columns.
        unfitted: Columns without a fit.
    """

    masses: PointMasses
    support: ColumnSupport
    unfitted: Int[np.ndarray, " unfitted"]


NO_EXCEPTIONS = Exceptions(NO_MASSES, FULL, np.zeros(0, int))


@dataclass(frozen=True)
class Settling:
    """Which cells of moved data are not the model's to say.

    Attributes:
        masses: Values that stay.
        support: Levels without an effect in some columns.
        members: Who is moved from or to which of its cells.
        images: Whether cells that nobody had stay as they are; otherwise they are NaN.
    """

    masses: PointMasses
    support: ColumnSupport
    members: Bool[np.ndarray, "people cells"]
    images: bool

    def stays(self, block: Float[np.ndarray, "people block"], part: slice) -> "Bool[np.ndarray, 'people block'] | None":
        """Return the cells that stay as they are; None where none does."""
        codes = (NEVER, FEW) if self.images else (FEW,)
        marks = (self.masses.within(block, part), *(self.support.marked(self.members, part, code) for code in codes))
        return either(marks)

    def without_unknown(
        self, block: Float[np.ndarray, "people block"], part: slice
    ) -> Float[np.ndarray, "people block"]:
        """Put NaN where an effect was never estimated; a point mass stays."""
        unknown = None if self.images else self.support.marked(self.members, part, NEVER)
        if unknown is not None:
            mass = self.masses.within(block, part)
            block[unknown if mass is None else unknown & ~mass] = np.nan
        return block


def either(marks: "Iterable[np.ndarray | None]") -> "np.ndarray | None":
    """Return what any of several masks marks; None where none does."""
    found: np.ndarray | None = None
    for mark in marks:
        if mark is not None:
            found = mark if found is None else found | mark
    return found
