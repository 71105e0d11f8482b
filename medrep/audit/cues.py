"""Cues: which of several planted ones does a representation keep, and which does a reader follow where they conflict?

A cue has one of two values in a person, and moves some columns by it. It has an availability, the share of columns that it moves,
and a predictivity, how often it is right of a label (Hermann et al. 2024). It moves people by a deviation either way along the
direction in which these columns, neighbours of each other, differ most between people once covariates are accounted for: whoever
knows that direction separates its values by d' = 2, however many columns there are.

Kept: three cues, each a coin, are planted together in the data of people whom the model never saw, and the model hands out and
encodes them. d' of each is what a linear reader tells of people whom it was not taught by; `cue_kept` is that from a table over
that from the data as they are.

Followed: a widespread cue and a focal one that is right more often are planted with a label that is read. `cue_followed` is the
share of people in whom they conflict whom the reader takes for what the widespread one says: the shortcut. Whoever knew both cues
would follow the focal one always; `cue_followed_change` is over a reader of the data as they are.

All of it is planted several times, each with other values, columns and folds. A figure is a mean over plantings of sums over
people, and its variance has what plantings share and what people share (Cameron, Gelbach and Miller 2011): with x_ir what
person i has in planting r, in deviations,

    V = V(sums over people) + V(sums over plantings) - V(x_ir),

with Student's t and the degrees of freedom of Welch and Satterthwaite.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student_t

from medrep.audit.data import AuditData, compact, covariate_design, residual
from medrep.audit.finding import Finding
from medrep.audit.intervals import student
from medrep.audit.learning_paths import folds_of, learning_path, separability
from medrep.audit.shortcuts import audit_shortcuts
from medrep.audit.utility import first_rows
from medrep.cohort.dataset import Dataset
from medrep.errors import MedrepError


@dataclass(frozen=True)
class Cue:
    """A cue that can be planted.

    Attributes:
        name: How it is called.
        share: Of columns that it changes; one column at least.
        predictivity: How often it is right of the label.
    """

    name: str
    share: float
    predictivity: float

    @property
    def where(self) -> str:
        """Columns, in words."""
        return "in all columns" if self.share == 1 else f"in {self.share:.0%} of the columns, one at least"


WIDESPREAD, REGIONAL, FOCAL = Cue("widespread", 1.0, 0.8), Cue("regional", 0.2, 0.85), Cue("focal", 0.02, 0.9)
CUES = (WIDESPREAD, REGIONAL, FOCAL)
METRICS = ("cue_kept", "cue_bias", "cue_followed", "cue_followed_change")
PLANTINGS = 10
_FEWEST, _COLUMNS = 40, 4
_MOST, _CELLS = 400, 50_000_000
_READ = 0.2
"""d' above which a cue has to be, at the lower end, in the data as they are: a share of less is of noise."""
_UNREAD = "one of the two cues is hardly read from the data as they are:"


@dataclass(frozen=True, eq=False)
class Plantable:
    """People in whose data cues can be planted.

    Attributes:
        data: They and the model.
        rows: The first row of each.
        places: Columns without missing cells.
        left: What covariates leave of these columns, in their deviations; it tells the directions of cues.
        sd: These deviations.
    """

    data: AuditData
    rows: Int[np.ndarray, " people"]
    places: Int[np.ndarray, " columns"]
    left: Float[np.ndarray, "some columns"]
    sd: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, data: AuditData, seed: int) -> "Plantable":
        """Return people, some drawn by the seed where there are many."""
        rows = first_rows(data.participants)
        most = min(_MOST, max(_FEWEST, _CELLS // max(data.data.shape[1], 1)))
        rows = np.sort(np.random.default_rng([seed, 97]).permutation(rows)[:most])
        table = np.asarray(data.data[np.ix_(rows, data.whole)], dtype=float)
        left = residual(table, covariate_design(data.frame.iloc[rows], data.schema))
        sd, size = left.std(axis=0), np.abs(table).max(axis=0, initial=0.0)
        varies = sd > 1e-9 * np.maximum(size, 1e-300)
        return cls(data, rows, data.whole[varies], left[:, varies] / sd[varies], sd[varies])

    @property
    def people(self) -> int:
        """How many there are."""
        return len(self.rows)

    def directions(self, cues: tuple[Cue, ...], rng: np.random.Generator) -> Float[np.ndarray, "cues columns"]:
        """Return what each cue adds to the columns, in their units, where its value is 1."""
        columns = self.left.shape[1]
        found = np.zeros((len(cues), columns))
        for own, cue in zip(found, cues, strict=True):
            width = max(1, round(cue.share * columns))
            start = int(rng.integers(columns - width + 1))
            some = slice(start, start + width)
            _, sizes, right = np.linalg.svd(self.left[:, some], full_matrices=False)
            own[some] = sizes[0] / len(self.left) ** 0.5 * right[0] * self.sd[some]
        return found

    def tables(
        self, shifts: Float[np.ndarray, "people columns"], seed: int
    ) -> dict[str, Float[np.ndarray, "people _"]]:
        """Return audited tables of people whose data are changed, as coordinates for a linear reader."""
        data = self.data
        values = np.array(data.data[self.rows])
        values[:, self.places] += shifts.astype(values.dtype)
        planted: Dataset = data.dataset.take(self.rows).with_values(values)
        exported, (latents, _) = data.model.remove_and_encode(planted, data.target)
        tables = {"raw": values[:, self.places], "exported": exported[:, self.places]}
        tables |= {"latents": latents} if latents.shape[1] else {}
        return {name: compact(table, seed) for name, table in tables.items()}


def audit_cues(
    data: AuditData, outcome: "tuple[pd.Series, bool] | None" = None, *, min_n: int = 20, seed: int = 0
) -> list[Finding]:
    """Measure which cues a representation keeps, and whether a target is read from a covariate that goes with it.

    Args:
        data: People whom the model never saw.
        outcome: A value a row, missing where it is not known, and whether it is a number; None: none is named.
        min_n: Fewest people.
        seed: Of everything drawn.

    Returns:
        Those of `planted_cues` and of `medrep.audit.shortcuts.audit_shortcuts`.
    """
    return [*planted_cues(data, min_n=min_n, seed=seed), *audit_shortcuts(data, outcome, min_n=min_n, seed=seed)]


def planted_cues(
    data: AuditData,
    cues: tuple[Cue, ...] = CUES,
    *,
    min_n: int = 20,
    seed: int = 0,
    plantings: int = PLANTINGS,
) -> list[Finding]:
    """Plant cues, and read them from what the model makes of people.

    Args:
        data: People whom the model never saw.
        cues: From the most available to the least; the first and the last conflict.
        min_n: Fewest people.
        seed: Of everything drawn.
        plantings: How often.

    Returns:
        Of each table but ``raw``: ``cue_kept`` of each cue, ``cue_bias`` (of the first over the last) and
        ``cue_followed_change``; and ``cue_followed`` of each table.
    """
    people = len(first_rows(data.participants))
    needed = max(min_n, _FEWEST)
    short = f"{people} people; {needed} are needed" if people < needed else ""
    if not short:
        plantable = Plantable.of(data, seed)
        if len(plantable.places) < _COLUMNS:
            short = f"{len(plantable.places)} columns vary and have no missing cells; {_COLUMNS} are needed"
    if not short:
        try:
            return cue_findings(plantable, cues, seed=seed, plantings=plantings)
        except MedrepError as error:
            short = f"the model does not take data with a cue: {error}".splitlines()[0]
    made = [name for name in data.tables if name != "raw"]
    groups = [
        *(("cue_kept", f"{name}/{cue.name}") for name in made for cue in cues),
        *((metric, name) for metric in METRICS[1:] for name in (data.tables if metric == "cue_followed" else made)),
    ]
    return [Finding(metric, group, people, status="insufficient", note=short) for metric, group in groups]


def cue_findings(
    plantable: Plantable, cues: tuple[Cue, ...] = CUES, *, seed: int = 0, plantings: int = PLANTINGS
) -> list[Finding]:
    """Return findings on people in whose data cues can be planted; see `planted_cues`.

    Args:
        plantable: People and a model.
        cues: From the most available to the least; the first and the last conflict.
        seed: Of everything drawn.
        plantings: How often.

    Raises:
        MedrepError: The model does not take such data.
    """
    planted = [_planting(plantable, cues, [seed, 101, k]) for k in range(plantings)]
    tables = {name: np.stack([one.read[name] for one in planted]) for name in planted[0].read}
    shares = {name: np.stack([one.followed[name] for one in planted]) for name in tables}
    made = [name for name in tables if name != "raw"]
    found = [finding for name in made for finding in _kept(name, tables[name], tables["raw"], cues)]
    if not _readable(tables["raw"])[[0, -1]].all():
        note = f"{_UNREAD} no conflict can be told"
        groups = [*((METRICS[2], name) for name in tables), *((METRICS[3], name) for name in made)]
        return found + [Finding(m, name, plantable.people, status="insufficient", note=note) for m, name in groups]
    found += [_followed(name, shares[name], cues) for name in tables]
    return found + [_changed(name, shares[name] - shares["raw"], cues) for name in made]


def _readable(raw: Float[np.ndarray, "plantings people cues"]) -> Bool[np.ndarray, " cues"]:
    """Return which cues are read from the data as they are."""
    return np.array([_Mean.of(own).low >= _READ for own in np.moveaxis(raw, 2, 0)])


@dataclass(frozen=True, eq=False)
class _Planting:
    """Table -> what each person has in d' of each cue, and in the share of people with a conflict who follow the first one."""

    read: dict[str, Float[np.ndarray, "people cues"]]
    followed: dict[str, Float[np.ndarray, " people"]]


def _planting(plantable: Plantable, cues: tuple[Cue, ...], seed: list[int]) -> _Planting:
    rng = np.random.default_rng(seed)
    people = plantable.people
    adds = plantable.directions(cues, rng)
    coins = np.stack([_halves(people, rng) for _ in cues], axis=1)
    folds = folds_of((coins > 0) @ 2 ** np.arange(len(cues)), rng)
    tables = plantable.tables(coins @ adds, seed[0])
    read = {name: separability(learning_path(rows, coins, folds).last, coins) for name, rows in tables.items()}
    label = _halves(people, rng)
    pair = np.stack([label * _agreement(people, cue.predictivity, rng) for cue in (cues[0], cues[-1])], axis=1)
    conflict = pair[:, 0] != pair[:, 1]
    folds = folds_of((label > 0) + 2 * (pair[:, 0] > 0) + 4 * conflict, rng)
    followed = {}
    for name, rows in plantable.tables(pair @ adds[[0, -1]], seed[0]).items():
        taken = np.sign(learning_path(rows, label[:, None], folds).last[:, 0])
        follows = (1 + taken * pair[:, 0]) / 2
        share = float(follows[conflict].mean())
        followed[name] = np.where(conflict, follows - share, 0.0) / conflict.sum() + share / people
    return _Planting(read, followed)


def _halves(people: int, rng: np.random.Generator) -> Float[np.ndarray, " people"]:
    """Return -1 and 1, each of half of the people."""
    return rng.permutation(np.arange(people) % 2) * 2.0 - 1


def _agreement(people: int, share: float, rng: np.random.Generator) -> Float[np.ndarray, " people"]:
    """Return 1 for a share of people, -1 for the others."""
    return np.where(rng.permutation(people) < round(share * people), 1.0, -1.0)


@dataclass(frozen=True)
class _Mean:
    """A mean over plantings, with its 95% interval and its p-value against 0."""

    at: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, parts: Float[np.ndarray, "plantings people"]) -> "_Mean":
        """Return that of the sums over people."""
        plantings, people = parts.shape
        at = float(parts.sum() / plantings)
        left = (parts - at / people) / plantings
        by_planting = float((left.sum(axis=1) ** 2).sum()) * plantings / (plantings - 1)
        by_person = float((left.sum(axis=0) ** 2).sum()) * people / (people - 1)
        # Below none of the two: the difference is known badly where it is small.
        shared = max(by_person - float((left**2).sum()), 0.0)
        variance = max(by_planting + shared, by_person)
        if variance <= (1e-9 * max(abs(at), 1.0)) ** 2:
            return cls(at, at, at, float(abs(at) <= 1e-9))
        freedom = variance**2 / (by_planting**2 / (plantings - 1) + (variance - by_planting) ** 2 / (people - 1))
        error = variance**0.5
        half = student(freedom) * error
        return cls(at, at - half, at + half, float(2 * student_t.sf(abs(at) / error, freedom)))


def _kept(
    name: str,
    read: Float[np.ndarray, "plantings people cues"],
    raw: Float[np.ndarray, "plantings people cues"],
    cues: tuple[Cue, ...],
) -> list[Finding]:
    """Return the share of each cue's separability that is left, and by how much that of the first is above the last's."""
    people = raw.shape[1]
    before, after = raw.sum(axis=1).mean(axis=0), read.sum(axis=1).mean(axis=0)
    readable = _readable(raw)
    divisor = np.where(readable, before, np.nan)
    shares = after / divisor
    # Parts of the ratio of means, to first order.
    parts = (read - shares * raw) / divisor + shares / people
    order = np.argsort(-np.where(readable, shares, -np.inf), kind="stable")
    rank = {int(k): place + 1 for place, k in enumerate(order)}
    found = []
    for k, cue in enumerate(cues):
        group, note = (
            f"{name}/{cue.name}",
            f"d' {before[k]:.2f} in the data as they are, {after[k]:.2f} here; {cue.where}",
        )
        if not readable[k]:
            found.append(Finding("cue_kept", group, people, status="insufficient", note=f"{note}: hardly read"))
            continue
        own = _Mean.of(parts[:, :, k])
        note = f"rank {rank[k]} of {len(cues)}; {note}; {len(read)} plantings"
        found.append(Finding("cue_kept", group, people, own.at, own.low, own.high, note=note))
    note = f"share kept of the {cues[0].name} cue less that of the {cues[-1].name} one"
    if not (readable[0] and readable[-1]):
        return [
            *found,
            Finding("cue_bias", name, people, status="insufficient", note=f"{_UNREAD} nothing is known of it"),
        ]
    own = _Mean.of(parts[:, :, 0] - parts[:, :, -1])
    return [*found, Finding("cue_bias", name, people, own.at, own.low, own.high, own.p, note=note)]


def _followed(name: str, parts: Float[np.ndarray, "plantings people"], cues: tuple[Cue, ...]) -> Finding:
    first, last = cues[0], cues[-1]
    own = _Mean.of(parts)
    note = (
        f"share of people in whom cues conflict who are taken for what the {first.name} one says (right in"
        f" {first.predictivity:.0%}; the {last.name} one in {last.predictivity:.0%}); of a reader who knew both: 0"
    )
    return Finding("cue_followed", name, parts.shape[1], own.at, max(own.low, 0.0), min(own.high, 1.0), note=note)


def _changed(name: str, parts: Float[np.ndarray, "plantings people"], cues: tuple[Cue, ...]) -> Finding:
    own = _Mean.of(parts)
    note = f"over a reader of the data as they are; above 0: the {cues[0].name} cue is followed more often"
    return Finding("cue_followed_change", name, parts.shape[1], own.at, own.low, own.high, own.p, note=note)
