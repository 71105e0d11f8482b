"""Compositions: columns of a table that are parts of a whole, such as tissue fractions, as given and as a model has them.

A model sees centred log-ratios, ``log x_k - mean_j log x_j`` (Aitchison 1986), a column a part. They are isometric, as the D - 1
coordinates of Egozcue et al. (2003) are, which are these in some orthonormal basis. But location and scale are moved column by
column: in pivot coordinates a removal would depend on the order of the parts, and here it does not.

What is done to a person is a perturbation: each part is multiplied by ``exp`` of the change of its column, and the parts are
brought back to the person's own sum. So they stay positive, keep their sum, and nobody whose columns do not change is changed.
Zeros are replaced for the model, by 0.65 of the smallest share of that column in training, the other parts being made smaller
together (Martin-Fernandez et al. 2003); a zero that was given is a zero in what is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from medrep.cohort.features import FeatureTable, by_column
from medrep.cohort.inputs import FeaturesInput
from medrep.errors import CohortError, few, listed

Rows = Float[np.ndarray, "people columns"]

OF_LIMIT = 0.65
"""Share of the smallest share that was measured which stands for a zero."""

WILDLY = 10.0
"""Sums that are this many times larger or smaller than the middle one are of another unit, or of no composition."""

_ROUNDING = 0.01
_UNMOVED = 1e-12
_FEWEST, _MOST = 10, 200


def group_places(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, Int[np.ndarray, " parts"]]:
    """Return where the parts of each composition stand.

    Args:
        names: Of the columns of a table.
        groups: Name of a composition -> its columns, with ``*`` for anything.

    Raises:
        CohortError: Columns that are not there, compositions of fewer than two parts, and parts of several; all of them.
    """
    problems: list[str] = []
    found: dict[str, np.ndarray] = {}
    for name, patterns in groups.items():
        problems += [f"{name}: no column is called {pattern}" for pattern in patterns if not _any_named(names, pattern)]
        own = [k for k, column in enumerate(names) if any(fnmatchcase(column, pattern) for pattern in patterns)]
        problems += [f"{name}: {len(own)} column(s); a composition has two parts or more"] if len(own) < 2 else []
        found[name] = np.array(own, int)
    for k, column in enumerate(names):
        of = [name for name, own in found.items() if k in own]
        problems += [f"{column}: part of {' and of '.join(of)}"] if len(of) > 1 else []
    if problems:
        cure = f"name each part once, of the columns {few(names, 8)}"
        raise CohortError(listed("input.compositions that the table does not have", problems, cure))
    return found


def _any_named(names: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def log_ratios(parts: Float[np.ndarray, "people parts"]) -> Float[np.ndarray, "people parts"]:
    """Return centred log-ratios of positive parts; they do not depend on the unit, and sum to 0."""
    logs = np.log(parts)
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


def closed(logs: Float[np.ndarray, "*rows parts"]) -> Float[np.ndarray, "*rows parts"]:
    """Return the shares, which sum to 1, whose logarithms are these up to one number for all: the inverse of `log_ratios`."""
    shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def replaced(
    parts: Float[np.ndarray, "people parts"], limits: Float[np.ndarray, " parts"]
) -> Float[np.ndarray, "people parts"]:
    """Return shares without zeros: a zero becomes its column's number, and the other shares give that off in proportion.

    Args:
        parts: In any unit, not negative; ratios of parts that are not 0 stay what they are.
        limits: What stands for a zero of each column, a share.
    """
    shares = parts / parts.sum(axis=1, keepdims=True)
    put = np.where(shares == 0, limits, 0.0)
    return np.asarray(np.where(shares == 0, limits, shares * (1 - put.sum(axis=1, keepdims=True))))


def partial_correlations(parts: Float[np.ndarray, "people parts"]) -> Float[np.ndarray, "parts parts"]:
    """Return partial correlations between positive parts, given all others.

    They are those of log-ratios, by the pseudo-inverse of the covariance of centred ones (Erb 2020): neither the unit nor a
    common factor matters, and that parts sum to a constant makes none of them negative.
    """
    precision = np.linalg.pinv(np.cov(log_ratios(parts).T), hermitian=True)
    scale = np.sqrt(np.diag(precision))
    found = -precision / np.outer(scale, scale)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


@dataclass(frozen=True)
class CompositionForm:
    """Parts of compositions as they are given and written; a model has their log-ratios.

    Attributes:
        section: Says which columns are parts, and what training measured of them.
        columns: Names of all columns.
    """

    section: FeaturesInput
    columns: tuple[str, ...]

    needs_given: ClassVar[bool] = True

    @property
    def groups(self) -> dict[str, Int[np.ndarray, " parts"]]:
        """Where the parts of each composition stand."""
        return group_places(self.columns, self.section.compositions)

    def measured(self, given: Rows) -> "CompositionForm":
        """Return the form with what people of training tell, where the section does not say it: see `FeaturesInput`."""
        section = self.section
        limits, sums = dict(section.composition_limits), dict(section.composition_sums)
        for name, own in self.groups.items():
            parts = _whole(given[:, own])
            total = parts.sum(axis=1)
            shares = parts[total > 0] / total[total > 0, None]
            if not len(shares):
                continue
            least = np.where(shares > 0, shares, np.inf).min(axis=0)
            # A column that nobody has stands at the smallest of the others; all replaced at once leave room for one that is not.
            least = OF_LIMIT * np.minimum(np.where(np.isfinite(least), least, least.min()), 1 / len(own))
            for place, limit in zip(own.tolist(), least.tolist(), strict=True):
                limits.setdefault(self.columns[place], limit)
            sums.setdefault(name, _round(float(np.median(total[total > 0]))))
        return replace(self, section=replace(section, composition_limits=limits, composition_sums=sums))

    def received(self, given: Rows, people: Sequence[str]) -> Rows:
        """Return the columns of a model; log-ratios are missing where one part of theirs is.

        Args:
            given: As they were given.
            people: Who they belong to, for what is said.

        Raises:
            CohortError: Negative parts, people whose parts are all 0, and sums of another unit; everybody is named.
        """
        self._refuse(given, people)
        rows = np.array(given, dtype=np.float64)
        known = self.measured(given).section.composition_limits
        for own in self.groups.values():
            whole = np.isfinite(given[:, own]).all(axis=1)
            limits = np.array([known.get(self.columns[place], np.nan) for place in own])
            rows[np.ix_(~whole, own)] = np.nan
            rows[np.ix_(whole, own)] = log_ratios(replaced(given[np.ix_(whole, own)], limits))
        return rows

    def released(self, rows: Rows, before: Rows | None = None, given: Rows | None = None) -> Rows:
        """Return a model's columns as parts.

        Args:
            rows: The model's.
            before: Those of the same people as they were received; with ``given`` each person's own parts are changed.
            given: Their parts; without, sums are those of training.
        """
        written = np.array(rows, dtype=np.float64)
        for name, own in self.groups.items():
            if before is None or given is None:
                written[:, own] = closed(rows[:, own]) * self.section.composition_sums.get(name, 1.0)
            else:
                written[:, own] = perturbed(given[:, own], rows[:, own] - before[:, own])
        return written

    def against_rest(self, rows: Rows, middle: Rows) -> Rows:
        """Return each part as if it alone were at a model's column, and the others to one another as in the middle.

        Args:
            rows: Centiles of the model's columns, say.
            middle: Their medians, in the same order.
        """
        written = np.array(rows, dtype=np.float64)
        for name, own in self.groups.items():
            centred = middle[:, own] - middle[:, own].mean(axis=1, keepdims=True)
            for k, place in enumerate(own):
                part = rows[:, [place]] - middle[:, [place]] + centred[:, [k]]
                rest = np.delete(centred, k, axis=1)
                rest = rest - rest.mean(axis=1, keepdims=True) - part / rest.shape[1]
                share = closed(np.concatenate([part, rest], axis=1))[:, 0]
                written[:, place] = share * self.section.composition_sums.get(name, 1.0)
        return written

    @property
    def parts(self) -> Int[np.ndarray, " parts"]:
        """Where all parts stand."""
        return np.concatenate([np.zeros(0, int), *self.groups.values()])

    def unequal_sums(self, given: Rows) -> list[str]:
        """Return a line for each composition whose sums differ between people."""
        lines = []
        for name, own in self.groups.items():
            total = _whole(given[:, own]).sum(axis=1)
            if len(total) and total.max() - total.min() > _ROUNDING * np.median(total):
                lines.append(
                    f"sums of {name} differ between people ({total.min():.4g} to {total.max():.4g}): everybody keeps their own,"
                    " and what covariates do to it; only shares are modelled"
                )
        return lines

    def _refuse(self, given: Rows, people: Sequence[str]) -> None:
        negative = [
            (self.columns[k], str(people[row]), f"is {given[row, k]:g}")
            for k in self.parts
            for row in np.flatnonzero(given[:, k] < 0).tolist()
        ]
        problems = by_column(negative, len(given))
        for name, own in self.groups.items():
            total = np.where((given[:, own] < 0).any(axis=1), np.nan, given[:, own].sum(axis=1))
            known = total[np.isfinite(total) & (total > 0)]
            usual = self.section.composition_sums.get(name, float(np.median(known)) if len(known) else 1.0)
            stand_in = sum(self.section.composition_limits.get(self.columns[place], 0.0) for place in own)
            problems += [f"input.composition_limits of {name} sum to {stand_in:g}; keep them below 1"] * (stand_in >= 1)
            problems += [f"{people[row]}: all parts of {name} are 0" for row in np.flatnonzero(total == 0).tolist()]
            apart = np.flatnonzero((total > WILDLY * usual) | ((total > 0) & (total < usual / WILDLY)))
            problems += [
                f"{people[row]}: {name} sums to {total[row]:g}, others to about {usual:g}" for row in apart.tolist()
            ]
        if problems:
            cure = "mend them, leave the people out with --exclude, or take the columns out of input.compositions"
            raise CohortError(listed("parts that are no composition", problems, cure))


def perturbed(
    given: Float[np.ndarray, "people parts"], change: Float[np.ndarray, "people parts"]
) -> Float[np.ndarray, "people parts"]:
    """Return parts multiplied by ``exp(change)`` and brought back to each person's own sum.

    Zeros stay, whoever is not changed or misses a part comes back to the last bit, and where a change is missing the other parts
    are.
    """
    zero = given == 0
    pushed = np.where(zero, 0.0, change)
    largest = np.where(zero, -np.inf, change).max(axis=1, keepdims=True)
    factors = np.exp(np.where(zero, -np.inf, change) - np.where(np.isfinite(largest), largest, 0.0))
    made = given * factors
    sums = given.sum(axis=1, keepdims=True) / made.sum(axis=1, keepdims=True)
    stays = (np.ptp(pushed, axis=1) <= _UNMOVED) & (np.abs(pushed).max(axis=1) <= _UNMOVED)
    stays |= ~np.isfinite(given).all(axis=1)
    return np.where(stays[:, None] | zero, given, made * sums)


def composition_form(section: FeaturesInput, columns: tuple[str, ...]) -> CompositionForm | None:
    """Return the form of a table's rows; None where no columns are parts of a whole."""
    return CompositionForm(section, columns) if section.compositions else None


def as_received(features: FeatureTable, section: FeaturesInput) -> FeatureTable:
    """Return features with log-ratios in the place of parts, and with the parts beside them; as they are without compositions.

    Raises:
        CohortError: Compositions that the table does not have, or parts that are none.
    """
    form = composition_form(section, features.names)
    if form is None:
        return features
    given = features.values if features.given is None else features.given
    rows = form.received(given, [str(key) for key in features.ids.index])
    return replace(features, values=rows, given=given)


def constant_sums(names: Sequence[str], values: Rows) -> list[tuple[tuple[str, ...], float]]:
    """Return columns that look like compositions: without negative numbers, and with the same sum in everybody, to 0.1 %.

    Columns that begin or end alike are looked at together; then the others, where there are more people than columns: if a number
    is a weighted sum of columns in everybody, the weights say which columns it is that sum to it.

    Args:
        names: Of the columns.
        values: A row a person.

    Returns:
        Columns and their sum.
    """
    rows = values[np.isfinite(values).all(axis=1)]
    if len(rows) < _FEWEST:
        return []
    left = [k for k in range(len(names)) if rows[:, k].min() >= 0 and np.ptp(rows[:, k]) > 0]
    found: list[list[int]] = []
    alike: dict[tuple[str, str], list[int]] = {}
    for k in left:
        for mark in "_-. ":
            first, _, _ = names[k].partition(mark)
            _, _, last = names[k].rpartition(mark)
            for key in (("^" + mark, first), ("$" + mark, last)):
                alike.setdefault(key, []).append(k)
    for own in sorted([left, *alike.values()], key=len, reverse=True):
        if set(own) <= set(left) and _sums(rows[:, own]):
            found.append(own)
            left = [k for k in left if k not in own]
    if 2 <= len(left) <= min(_MOST, len(rows) // 2):
        weights = np.linalg.lstsq(rows[:, left], np.ones(len(rows)), rcond=None)[0]
        own = [k for k, weight in zip(left, weights, strict=True) if weight > weights.max() / 2]
        found += [own] if _sums(rows[:, own]) else []
    return [(tuple(names[k] for k in own), float(np.median(rows[:, own].sum(axis=1)))) for own in found]


def _sums(parts: Float[np.ndarray, "people parts"]) -> bool:
    total = parts.sum(axis=1)
    return parts.shape[1] > 1 and bool(np.ptp(total) <= 1e-3 * total.mean() < 0.1 * np.ptp(parts, axis=0).max())


def _whole(parts: Float[np.ndarray, "people parts"]) -> Float[np.ndarray, "some parts"]:
    return parts[np.isfinite(parts).all(axis=1)]


def _round(total: float) -> float:
    """Return 1 or 100 where a sum is that but for rounding."""
    return next((whole for whole in (1.0, 100.0) if abs(total / whole - 1) <= _ROUNDING), total)
