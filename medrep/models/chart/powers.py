"""Powers of columns, in which location and scale are more nearly additive (Box and Cox 1964).

With u a typical value: T(x) = u ((x / u)^p - 1) / p, and u log(x / u) for p = 0, so that T is in units of the data and of slope 1
at u. Below a floor, which lies beneath all values of training, T goes on as a straight line: every number has a place.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from medrep.cohort.dataset import Dataset

Block = Float[np.ndarray, "people columns"]

CHOICES = (1.0, 0.5, 0.0)
"""As it is, square root, logarithm."""
_FLOOR = 0.5  # of the least value of training


@dataclass(frozen=True)
class Powers:
    """Powers of columns.

    Attributes:
        exponents: p of each column; 1 leaves it as it is.
        units: u, in data units.
        floors: In data units.
    """

    exponents: Float[np.ndarray, " columns"]
    units: Float[np.ndarray, " columns"]
    floors: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, values: Block, exponents: Float[np.ndarray, " columns"]) -> "Powers":
        """Prepare for people of training; columns with values that are not positive stay as they are."""
        with np.errstate(invalid="ignore"):
            low = np.nanmin(np.where(np.isfinite(values), values, np.nan), axis=0)
            units = np.nanmedian(np.where(np.isfinite(values), values, np.nan), axis=0)
        usable = (low > 0) & (exponents != 1)
        ones = np.ones(values.shape[1])
        return cls(
            np.where(usable, exponents, 1.0), np.where(usable, units, ones), np.where(usable, low * _FLOOR, ones)
        )

    @classmethod
    def none(cls, columns: int) -> "Powers":
        """Return that columns stay as they are."""
        return cls(*np.ones((3, columns), np.float32))  # exact, and as small as what else is kept of large images

    def dataset(self, dataset: Dataset) -> Dataset:
        """Return the same people with T of their data."""
        return dataset.with_values(self.there(dataset.values)) if self.used else dataset

    @property
    def used(self) -> bool:
        """True if any column is not left as it is."""
        return bool((self.exponents != 1).any())

    def some(self, part: "slice | Int[np.ndarray, ' some']") -> "Powers":
        """Return those of some columns."""
        return Powers(self.exponents[part], self.units[part], self.floors[part])

    def there(self, values: Block) -> Block:
        """Return T of data."""
        found = np.array(values, dtype=np.float64)
        for k in np.flatnonzero(self.exponents != 1):
            found[:, k] = self._curve(k, found[:, k])
        return found

    def back(self, values: Block) -> Block:
        """Return the data of which these are T."""
        found = np.array(values, dtype=np.float64)
        for k in np.flatnonzero(self.exponents != 1):
            found[:, k] = self._inverse(k, found[:, k])
        return found

    def log_slopes(self, values: Block) -> Block:
        """Return the logarithm of T's derivative at data."""
        found = np.zeros(values.shape)
        for k in np.flatnonzero(self.exponents != 1):
            share = np.maximum(values[:, k], self.floors[k]) / self.units[k]
            found[:, k] = (self.exponents[k] - 1) * np.log(share)
        return found

    def _curve(self, k: np.integer, x: Float[np.ndarray, " people"]) -> Float[np.ndarray, " people"]:
        power, unit, floor = self.exponents[k], self.units[k], self.floors[k]
        share = np.maximum(x, floor) / unit
        above = unit * (np.log(share) if power == 0 else (share**power - 1) / power)
        return np.asarray(above + np.minimum(x - floor, 0) * (floor / unit) ** (power - 1))

    def _inverse(self, k: np.integer, y: Float[np.ndarray, " people"]) -> Float[np.ndarray, " people"]:
        power, unit, floor = self.exponents[k], self.units[k], self.floors[k]
        low = self._curve(k, np.array([floor]))[0]
        inside = np.maximum(y, low) / unit
        above = unit * (np.exp(inside) if power == 0 else np.maximum(1 + power * inside, 0) ** (1 / power))
        return np.asarray(above + np.minimum(y - low, 0) * (floor / unit) ** (1 - power))
