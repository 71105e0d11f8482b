"""Readers of a table: statistics that grow where it tells a label, each of a kind of its own, none of which looks at labels.

With r what is left of a label once kept covariates are known, and z the standardised columns, readers are

- quadratic forms r' M r / r' r, M over pairs of people: `linear`, the hat matrix of a ridge regression; `broad`, inner products,
  which look at columns that go together; `near` and `nearer`, Gaussian kernels of two widths; `products`, squared inner products,
  which see covariances; `spread`, the hat matrix of a ridge regression on |z| and z^2; `length`, a person's overall size;
- the largest, and the five largest, squared correlations of r with single `columns`, with their `squares`, and with products of
  `pairs`, which see what few of many columns tell.

A form is what a kernel machine of that kernel is trained on, without the noise of training: on people whose labels have been
exchanged it says what chance gives. Forms need n^2 numbers for n people, whatever the number of columns.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve

from medrep.audit.probing.coordinates import standardised_blocks

DEGREES, DEGREES_TAUGHT = 8, 16
"""People per degree of freedom of a ridge regression: fewer degrees read less of a leak, more read more noise."""
_MOST_COLUMNS, MOST_PAIRED = 2000, 60
_FEW, _SOME = 1, 5
_FARTHEST = 4.0  # standard deviations: beyond, a square says more of one person than of a group
_SMALL = 1e-12


@dataclass(frozen=True, eq=False)
class TableReaders:
    """The readers of one table.

    Attributes:
        inner: Inner products of people, over the number of columns.
        forms: Name -> symmetric matrix, of which rows and columns sum to 0; `linear` is the first.
        columns: Name -> standardised columns.
    """

    inner: Float[np.ndarray, "people people"]
    forms: dict[str, Float[np.ndarray, "people people"]]
    columns: dict[str, Float[np.ndarray, "people _"]]

    @classmethod
    def of(cls, table: Float[np.ndarray, "people columns"]) -> "TableReaders":
        """Prepare them; the table is read a few columns at a time.

        Args:
            table: Rows of people, without missing cells.
        """
        people = len(table)
        inner, used, blocks = np.zeros((people, people)), 0, []
        for _, block in standardised_blocks(table, np.arange(people), people):
            inner += block @ block.T
            used += block.shape[1]
            if used <= _MOST_COLUMNS:
                blocks.append(block)
        inner /= max(used, 1)
        few = used <= _MOST_COLUMNS
        z = np.concatenate([np.zeros((people, 0)), *blocks], axis=1) if few else standardised(components(inner))
        length = np.diag(inner)
        apart = np.maximum(length[:, None] + length - 2 * inner, 0.0)
        usual = max(float(np.median(apart[np.triu_indices(people, 1)])), _SMALL)
        bent = standardised(bends(z))
        size = standardised(np.sqrt(length)[:, None])
        forms = {
            "linear": _hat(inner, people / DEGREES),
            "broad": _centred(inner),
            "near": _centred(np.exp(-apart / usual)),
            "nearer": _centred(np.exp(-4 * apart / usual)),
            "products": _centred(inner**2),
            "spread": _hat(bent @ bent.T / max(bent.shape[1], 1), people / DEGREES),
            "length": size @ size.T,
        }
        paired = z if z.shape[1] <= MOST_PAIRED else standardised(components(inner)[:, :MOST_PAIRED])
        one, other = np.triu_indices(paired.shape[1], 1)
        columns = {
            "columns": z,
            "squares": bent[:, bent.shape[1] // 2 :],
            "pairs": standardised(paired[:, one] * paired[:, other]),
        }
        return cls(inner, forms, columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The readers, in the order of `read`."""
        single = (f"{count} of the {name}" for name in self.columns for count in ("strongest", f"{_SOME} strongest"))
        return (*self.forms, *single)

    def read(self, rest: Float[np.ndarray, "people draws"]) -> Float[np.ndarray, "readers draws"]:
        """Return every reader's statistic for every column of ``rest``, which has to sum to 0."""
        whole = np.maximum((rest**2).sum(axis=0), _SMALL)
        found = [(rest * (form @ rest)).sum(axis=0) / whole for form in self.forms.values()]
        for columns in self.columns.values():
            found += strongest(columns, rest, whole)
        return np.stack(found)

    def among(self, rows: Int[np.ndarray, " some"]) -> "TableReaders":
        """Return some of the people for `taught`, in the same units, without the other readers."""
        return TableReaders(self.inner[np.ix_(rows, rows)], {}, {})

    def taught(
        self, rest: Float[np.ndarray, "people draws"], parts: Int[np.ndarray, "repeats people"]
    ) -> Float[np.ndarray, "people draws"]:
        """Return what a ridge regression, taught by the people of all other parts, predicts for each; the mean of the repeats.

        Args:
            rest: What is to be predicted, for each draw.
            parts: The part of each person, for each repeat.
        """
        told = np.zeros(rest.shape)
        for part in parts:
            for number in np.unique(part):
                train, test = np.flatnonzero(part != number), np.flatnonzero(part == number)
                among, to = self.inner[np.ix_(train, train)], self.inner[np.ix_(test, train)]
                values, vectors, penalty = ridge(among, len(train) / DEGREES_TAUGHT)
                mean = among.mean(axis=0)
                to = to - to.mean(axis=1, keepdims=True) - mean + mean.mean()
                told[test] += ((to @ vectors) / (values + penalty)) @ (
                    vectors.T @ (rest[train] - rest[train].mean(axis=0))
                )
        return told / len(parts)

    def taught_moved(
        self,
        steps: Float[np.ndarray, "people directions"],
        directions: Float[np.ndarray, "directions people"],
        rest: Float[np.ndarray, "people outputs"],
        parts: Int[np.ndarray, "repeats people"],
    ) -> Float[np.ndarray, "people outputs"]:
        """Return what `taught` would predict if people were moved along directions.

        Args:
            steps: How far each person is moved along each direction.
            directions: Each a weighted sum of all people about their mean.
            rest: What is to be predicted.
            parts: The part of each person, for each repeat.
        """
        inner = _centred(self.inner)
        across = steps @ (directions @ inner)
        moved = inner + across + across.T + steps @ (directions @ inner @ directions.T) @ steps.T
        told, penalty = np.zeros(rest.shape), 0.0
        for part in parts:
            for number in np.unique(part):
                train, test = np.flatnonzero(part != number), np.flatnonzero(part == number)
                among, to = _centred(moved[np.ix_(train, train)]), moved[np.ix_(test, train)]
                if not penalty:  # parts are of one size: what leaves one so many degrees leaves them to all
                    penalty = _penalty(_spectrum(np.linalg.eigvalsh(among)), len(train) / DEGREES_TAUGHT)
                among[np.diag_indices_from(among)] += penalty
                solved = cho_solve(cho_factor(among, lower=True), rest[train] - rest[train].mean(axis=0))
                told[test] += (to - to.mean(axis=1, keepdims=True)) @ solved
        return told / len(parts)


def bends(columns: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people bent"]:
    """Return sizes of standardised values and their squares, side by side."""
    return np.concatenate([np.abs(columns), clipped_squares(columns)], axis=1)


def clipped_squares(columns: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
    """Return squares of standardised values, those far out no larger than a few standard deviations'."""
    squares: np.ndarray = np.clip(columns, -_FARTHEST, _FARTHEST) ** 2
    return squares


def strongest(
    columns: Float[np.ndarray, "people columns"],
    rest: Float[np.ndarray, "people draws"],
    whole: Float[np.ndarray, " draws"],
) -> list[Float[np.ndarray, " draws"]]:
    """Return the largest, and the sum of the five largest, squared correlations of standardised columns with each of ``rest``."""
    return largest((columns.T @ rest) ** 2 / (len(rest) * whole))


def largest(squared: Float[np.ndarray, "columns draws"]) -> list[Float[np.ndarray, " draws"]]:
    """Return the largest figure, and the sum of the five largest, of each draw."""
    squared = np.concatenate([squared, np.zeros((_SOME, squared.shape[1]))])
    ends = np.partition(squared, len(squared) - _SOME, axis=0)[-_SOME:]
    return [ends.max(axis=0), ends.sum(axis=0)]


def _centred(form: np.ndarray) -> np.ndarray:
    mean = form.mean(axis=0)
    centred: np.ndarray = form - mean - mean[:, None] + mean.mean()
    return centred


def _hat(inner: np.ndarray, degrees: float) -> np.ndarray:
    """Return the hat matrix of a ridge regression on columns of these inner products, its degrees of freedom at most so many."""
    values, vectors, penalty = ridge(inner, degrees)
    hat: np.ndarray = (vectors * (values / (values + penalty))) @ vectors.T
    return hat


def ridge(inner: Float[np.ndarray, "people people"], degrees: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return eigenvalues and vectors of centred inner products, and the penalty that leaves a ridge so many degrees at most."""
    values, vectors = np.linalg.eigh(_centred(inner))
    values = _spectrum(values)
    return values, vectors, _penalty(values, degrees)


def _spectrum(values: np.ndarray) -> np.ndarray:
    """Return eigenvalues with those that are but rounding set to 0."""
    return np.where(values > 1e-9 * max(float(values.max(initial=0.0)), _SMALL), values, 0.0)


def _penalty(values: np.ndarray, degrees: float) -> float:
    if not values.any():
        return 1.0
    low, high = np.log(1e-3 * values[values > 0].mean()), np.log(1e6 * values.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (values / (values + np.exp(middle))).sum() > degrees else (low, middle)
    return float(np.exp(high))


def components(inner: Float[np.ndarray, "people people"]) -> Float[np.ndarray, "people components"]:
    """Return the principal component scores of people, those of largest variance first."""
    values, vectors = np.linalg.eigh(_centred(inner))
    kept = np.flatnonzero(values > 1e-9 * max(float(values.max(initial=0.0)), _SMALL))[::-1]
    scores: np.ndarray = vectors[:, kept] * np.sqrt(values[kept])
    return scores


def standardised(columns: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people varying"]:
    """Return the columns that vary, with mean 0 and standard deviation 1."""
    spread = columns.std(axis=0)
    varies = spread > 1e-9 * np.maximum(np.abs(columns).max(axis=0, initial=0.0), _SMALL)
    standard: np.ndarray = (columns[:, varies] - columns[:, varies].mean(axis=0)) / spread[varies]
    return standard
