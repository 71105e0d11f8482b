"""Statistics that grow where a table tells a label: association, kernels, spreads, tails and products.

With r what is left of a label once kept covariates are known, and z the standardised columns, readers are

- quadratic forms r' M r / r' r, M over pairs of people: `linear`, the hat matrix of a ridge regression; `broad`, inner products,
  which look at columns that go together; `near` and `nearer`, Gaussian kernels of two widths; `products`, squared inner products,
  which see covariances; `spread`, the hat matrix of a ridge regression on |z| and z^2; `length`, a person's overall size;
- the largest, and the five largest, squared correlations of r with single `columns`, with their `squares`, and with products of
  `pairs`, which see what few of many columns tell.

A form is what a kernel machine of that kernel is trained on, without the noise of training: on people whose labels have been
exchanged it says what chance gives. Forms need n^2 numbers for n people, whatever the number of columns.

Means are taken out first, of every level (of a number: the line through it), as the labels at hand have them: what a model left
of them is another reader's to find, and would be seen in products and squares, too, where it is large or columns are many. The
same is done for exchanged labels, so that comparing the two stays exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve

from medrep.audit.data import design_basis
from medrep.audit.probes import standardised_chunks

DEGREES, DEGREES_TAUGHT = 8, 16
"""People per degree of freedom of a ridge regression: fewer degrees read less of a leak, more read more noise."""
_MOST_COLUMNS, MOST_PAIRED = 2000, 60
_SOME = 5
_FARTHEST = 4.0  # standard deviations: beyond, a square says more of one person than of a group


@dataclass(frozen=True, eq=False)
class TableStatistics:
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
    def of(cls, table: Float[np.ndarray, "people columns"]) -> "TableStatistics":
        """Prepare them; the table is read a few columns at a time.

        Args:
            table: Rows of people, without missing cells.
        """
        people = len(table)
        inner, used, blocks = np.zeros((people, people)), 0, []
        for _, block in standardised_chunks(table, np.arange(people), people):
            inner += block @ block.T
            used += block.shape[1]
            if used <= _MOST_COLUMNS:
                blocks.append(block)
        inner /= max(used, 1)
        few = used <= _MOST_COLUMNS
        z = np.concatenate([np.zeros((people, 0)), *blocks], axis=1) if few else _standardised(_components(inner))
        length = np.diag(inner)
        apart = np.maximum(length[:, None] + length - 2 * inner, 0.0)
        usual = max(float(np.median(apart[np.triu_indices(people, 1)])), _SMALL)
        bent = _standardised(_bend(z))
        size = _standardised(np.sqrt(length)[:, None])
        forms = {
            "linear": _hat(inner, people / DEGREES),
            "broad": _centred(inner),
            "near": _centred(np.exp(-apart / usual)),
            "nearer": _centred(np.exp(-4 * apart / usual)),
            "products": _centred(inner**2),
            "spread": _hat(bent @ bent.T / max(bent.shape[1], 1), people / DEGREES),
            "length": size @ size.T,
        }
        paired = z if z.shape[1] <= MOST_PAIRED else _standardised(_components(inner)[:, :MOST_PAIRED])
        one, other = np.triu_indices(paired.shape[1], 1)
        columns = {
            "columns": z,
            "squares": bent[:, bent.shape[1] // 2 :],
            "pairs": _standardised(paired[:, one] * paired[:, other]),
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
            found += _strongest(columns, rest, whole)
        return np.stack(found)

    def among(self, rows: Int[np.ndarray, " some"]) -> "TableStatistics":
        """Return some of the people for `taught`, in the same units, without the other readers."""
        return TableStatistics(self.inner[np.ix_(rows, rows)], {}, {})

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
                values, vectors, penalty = _ridge(among, len(train) / DEGREES_TAUGHT)
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
        transformed = inner + across + across.T + steps @ (directions @ inner @ directions.T) @ steps.T
        told, penalty = np.zeros(rest.shape), 0.0
        for part in parts:
            for number in np.unique(part):
                train, test = np.flatnonzero(part != number), np.flatnonzero(part == number)
                among, to = _centred(transformed[np.ix_(train, train)]), transformed[np.ix_(test, train)]
                if not penalty:  # parts are of one size: what leaves one so many degrees leaves them to all
                    penalty = _penalty(_spectrum(np.linalg.eigvalsh(among)), len(train) / DEGREES_TAUGHT)
                among[np.diag_indices_from(among)] += penalty
                solved = cho_solve(cho_factor(among, lower=True), rest[train] - rest[train].mean(axis=0))
                told[test] += (to - to.mean(axis=1, keepdims=True)) @ solved
        return told / len(parts)


def _bend(columns: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people bent"]:
    """Return sizes of standardised values and their squares, side by side."""
    return np.concatenate([np.abs(columns), _clipped_squares(columns)], axis=1)


def _clipped_squares(columns: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
    """Return squares of standardised values, those far out no larger than a few standard deviations'."""
    squares: np.ndarray = np.clip(columns, -_FARTHEST, _FARTHEST) ** 2
    return squares


def _strongest(
    columns: Float[np.ndarray, "people columns"],
    rest: Float[np.ndarray, "people draws"],
    whole: Float[np.ndarray, " draws"],
) -> list[Float[np.ndarray, " draws"]]:
    """Return the largest, and the sum of the five largest, squared correlations of standardised columns with each of ``rest``."""
    return _largest((columns.T @ rest) ** 2 / (len(rest) * whole))


def _largest(squared: Float[np.ndarray, "columns draws"]) -> list[Float[np.ndarray, " draws"]]:
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
    values, vectors, penalty = _ridge(inner, degrees)
    hat: np.ndarray = (vectors * (values / (values + penalty))) @ vectors.T
    return hat


def _ridge(inner: Float[np.ndarray, "people people"], degrees: float) -> tuple[np.ndarray, np.ndarray, float]:
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


def _components(inner: Float[np.ndarray, "people people"]) -> Float[np.ndarray, "people components"]:
    """Return the principal component scores of people, those of largest variance first."""
    values, vectors = np.linalg.eigh(_centred(inner))
    kept = np.flatnonzero(values > 1e-9 * max(float(values.max(initial=0.0)), _SMALL))[::-1]
    scores: np.ndarray = vectors[:, kept] * np.sqrt(values[kept])
    return scores


def _standardised(columns: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people varying"]:
    """Return the columns that vary, with mean 0 and standard deviation 1."""
    spread = columns.std(axis=0)
    varies = spread > 1e-9 * np.maximum(np.abs(columns).max(axis=0, initial=0.0), _SMALL)
    standard: np.ndarray = (columns[:, varies] - columns[:, varies].mean(axis=0)) / spread[varies]
    return standard


_MOST_TOGETHER = 300
_SMALL = 1e-12


@dataclass(frozen=True, eq=False)
class ShapeStatistics:
    """The readers of one table.

    Attributes:
        columns: Standardised columns, or principal components of very many.
        inner: Inner products of people, over the number of columns.
        paired: The columns, or the first principal components, whose products are looked at.
        together: The columns, or the first principal components, whose spreads are looked at together.
    """

    columns: Float[np.ndarray, "people columns"]
    inner: Float[np.ndarray, "people people"]
    paired: Float[np.ndarray, "people paired"]
    together: Float[np.ndarray, "people together"]

    names = (
        "products",
        "length",
        "spread",
        "strongest of the squares",
        "5 strongest of the squares",
        "strongest of the pairs",
        "5 strongest of the pairs",
    )

    @classmethod
    def of(cls, predictors: TableStatistics) -> "ShapeStatistics":
        """Take over what was prepared."""
        columns, inner = predictors.columns["columns"], predictors.inner
        first = _components(inner) if columns.shape[1] > MOST_PAIRED else columns
        few = columns.shape[1] <= _MOST_TOGETHER
        together = columns if few else _standardised(first[:, :_MOST_TOGETHER])
        return cls(columns, inner, _standardised(first[:, :MOST_PAIRED]), together)

    def read(
        self, rest: Float[np.ndarray, "people outputs"], labels: Float[np.ndarray, "people width"]
    ) -> Float[np.ndarray, "readers outputs"]:
        """Return every reader's statistic for every column of ``rest``, which has to sum to 0.

        Args:
            rest: What is to be told.
            labels: Whose effect on means is taken out: one column a level, or a number.
        """
        base = design_basis(np.column_stack([np.ones(len(labels)), labels]))
        half = self.inner - base @ (base.T @ self.inner)
        inner = half - (half @ base) @ base.T
        whole = np.maximum((rest**2).sum(axis=0), _SMALL)
        size = _standardised(np.sqrt(np.maximum(np.diag(inner), 0))[:, None])
        spread = self._whitening.T @ (self._bent(_without(self.together, base), self._bends).T @ rest)
        found = [
            (rest * (inner**2 @ rest)).sum(axis=0) / whole,
            ((size.T @ rest) ** 2).sum(axis=0) / whole,
            (spread**2).sum(axis=0) / whole,
        ]
        squares = _clipped_squares(_without(self.columns, base))
        found += _strongest(_standardised(squares), rest, whole)
        return np.stack([*found, *_strongest_pairs(_without(self.paired, base), rest, whole)])

    @cached_property
    def _bends(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the bent columns, by which they are standardised whoever has what label."""
        bent = _bend(self.together)
        return bent.mean(axis=0), np.maximum(bent.std(axis=0), _SMALL)

    @staticmethod
    def _bent(columns: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return (_bend(columns) - scale[0]) / scale[1]

    @cached_property
    def _whitening(self) -> Float[np.ndarray, "bent directions"]:
        """Coefficients that make a ridge regression on the bent columns of a sum of squares."""
        bent = self._bent(self.together, self._bends)
        width = max(bent.shape[1], 1)
        values, vectors, penalty = _ridge(bent @ bent.T / width, len(bent) / DEGREES)
        used = values > 0
        axes = bent.T @ vectors[:, used] / np.sqrt(values[used] * width)
        directions: np.ndarray = axes / np.sqrt((values[used] + penalty) * width)
        return directions


def _strongest_pairs(
    columns: Float[np.ndarray, "people paired"],
    rest: Float[np.ndarray, "people outputs"],
    whole: Float[np.ndarray, " outputs"],
) -> list[Float[np.ndarray, " outputs"]]:
    """Return what `_strongest` returns of products of two columns, without making them."""
    one, other = np.triu_indices(columns.shape[1], 1)
    people, square = len(columns), columns**2
    spread = (square.T @ square / people - (columns.T @ columns / people) ** 2)[one, other]
    varies = spread > 1e-12 * max(float(spread.max(initial=0.0)), _SMALL)
    told = np.stack([(columns.T @ (columns * own[:, None]))[one, other][varies] for own in rest.T], axis=1)
    return _largest(told**2 / (people * spread[varies, None] * whole))


def _without(columns: np.ndarray, base: np.ndarray) -> np.ndarray:
    left: np.ndarray = columns - base @ (base.T @ columns)
    return left
