"""Cues: which of several planted ones does a representation keep, and which does a reader follow where they conflict?

A cue changes some columns by which of two values it has in a person. It has an availability, the share of columns that it changes,
and a predictivity, how often it is right of a label (Hermann et al. 2024). It moves people by a deviation either way along the
direction in which these columns, neighbours of each other, differ most between people once covariates are accounted for: whoever
knows that direction separates its values by d' = 2, however many columns there are.

Kept: three cues, each a coin, are planted together in the data of people whom the model never saw, and the model hands out and
encodes them. d' of each is what a linear reader tells of people whom it was not taught by; `cue_kept` is that from a table over
that from the data as they are.

Followed: a widespread cue and a focal one that is right more often are planted with a label that is read. `cue_followed` is the
share of people in whom they conflict whom the reader takes for what the widespread one says: the shortcut. Whoever knew both cues
would follow the focal one always; `cue_followed_change` is over a reader of the data as they are.

All of it is planted several times, each with other values, columns and folds. Intervals and tests are Student's over plantings,
the people as they are.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
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


WIDESPREAD, REGIONAL, FOCAL = Cue("widespread", 1.0, 0.8), Cue("regional", 0.2, 0.85), Cue("focal", 0.02, 0.9)
CUES = (WIDESPREAD, REGIONAL, FOCAL)
METRICS = ("cue_kept", "cue_bias", "cue_followed", "cue_followed_change")
PLANTINGS = 10
_FEWEST, _COLUMNS = 40, 4
_MOST, _CELLS = 400, 50_000_000
_READ = 0.3
"""d' below which a cue cannot be read from the data as they are."""


@dataclass(frozen=True, eq=False)
class Plantable:
    """People in whose data cues can be planted.

    Attributes:
        audited: They and the model.
        rows: The first row of each.
        places: Columns without missing cells.
        left: What covariates leave of these columns, in their deviations.
        sd: These deviations.
    """

    audited: AuditData
    rows: Int[np.ndarray, " people"]
    places: Int[np.ndarray, " columns"]
    left: Float[np.ndarray, "people columns"]
    sd: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, audited: AuditData, seed: int) -> "Plantable":
        """Return people, some drawn by the seed where there are many."""
        rows = first_rows(audited.participants)
        most = min(_MOST, max(_FEWEST, _CELLS // max(audited.data.shape[1], 1)))
        rows = np.sort(np.random.default_rng([seed, 97]).permutation(rows)[:most])
        table = np.asarray(audited.data[np.ix_(rows, audited.whole)], dtype=float)
        left = residual(table, covariate_design(audited.frame.iloc[rows], audited.schema))
        sd, size = left.std(axis=0), np.abs(table).max(axis=0, initial=0.0)
        varies = sd > 1e-9 * np.maximum(size, 1e-300)
        return cls(audited, rows, audited.whole[varies], left[:, varies] / sd[varies], sd[varies])

    @property
    def people(self) -> int:
        """How many there are."""
        return len(self.rows)

    def directions(
        self, cues: tuple[Cue, ...], rng: np.random.Generator
    ) -> Float[np.ndarray, "cues columns"]:
        """Return what each cue adds to the columns, in their units, where its value is 1."""
        columns = self.left.shape[1]
        found = np.zeros((len(cues), columns))
        for own, cue in zip(found, cues, strict=True):
            width = max(1, round(cue.share * columns))
            start = int(rng.integers(columns - width + 1))
            some = slice(start, start + width)
            _, sizes, right = np.linalg.svd(self.left[:, some], full_matrices=False)
            own[some] = sizes[0] / self.people**0.5 * right[0] * self.sd[some]
        return found

    def tables(
        self, shifts: Float[np.ndarray, "people columns"], seed: int
    ) -> dict[str, Float[np.ndarray, "people _"]]:
        """Return audited tables of people whose data are changed, as coordinates for a linear reader."""
        audited = self.audited
        values = np.array(audited.data[self.rows])
        values[:, self.places] += shifts.astype(values.dtype)
        planted: Dataset = audited.dataset.take(self.rows).with_values(values)
        exported, (latents, _) = audited.model.remove_and_encode(planted, audited.target)
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
    names = [name for name in ("raw", "exported", "latents") if name in data.tables]
    made = names[1:]
    groups = [
        *(("cue_kept", f"{name}/{cue.name}") for name in made for cue in cues),
        *((metric, name) for metric in METRICS[1:] for name in (names if metric == "cue_followed" else made)),
    ]
    people = len(first_rows(data.participants))
    needed = max(min_n, _FEWEST)
    short = f"{people} people; {needed} are needed" if people < needed else ""
    if not short:
        plantable = Plantable.of(data, seed)
        if len(plantable.places) < _COLUMNS:
            short = f"{len(plantable.places)} columns vary and have no missing cells; {_COLUMNS} are needed"
    if not short:
        try:
            planted = [_planting(plantable, cues, [seed, 101, k]) for k in range(plantings)]
        except MedrepError as error:
            short = f"the model does not take data with a cue: {error}".splitlines()[0]
    if short:
        return [Finding(metric, group, people, status="insufficient", note=short) for metric, group in groups]
    read = {name: np.stack([one.read[name] for one in planted]) for name in names}
    followed = {name: np.array([one.followed[name] for one in planted]) for name in names}
    found = [
        finding for name in made for finding in _kept(name, read[name], read["raw"], cues, plantable.people)
    ]
    found += [_followed(name, followed[name], cues, plantable.people) for name in names]
    return found + [_changed(name, followed[name] - followed["raw"], cues, plantable.people) for name in made]


@dataclass(frozen=True, eq=False)
class _Planting:
    """Table -> d' of each cue, and the share of people with a conflict in whom the first one is followed."""

    read: dict[str, Float[np.ndarray, " cues"]]
    followed: dict[str, float]


def _planting(plantable: Plantable, cues: tuple[Cue, ...], seed: list[int]) -> _Planting:
    rng = np.random.default_rng(seed)
    people = plantable.people
    adds = plantable.directions(cues, rng)
    coins = np.stack([_halves(people, rng) for _ in cues], axis=1)
    codes = (coins > 0) @ 2 ** np.arange(len(cues))
    folds = folds_of(codes, rng)
    read = {
        name: np.array(
            [separability(one, z) for one, z in zip(learning_path(rows, coins, folds).last.T, coins.T, strict=True)]
        )
        for name, rows in plantable.tables(coins @ adds, seed[0]).items()
    }
    label = _halves(people, rng)
    pair = np.stack([label * _agreement(people, cue.predictivity, rng) for cue in (cues[0], cues[-1])], axis=1)
    conflict = pair[:, 0] != pair[:, 1]
    folds = folds_of((label > 0) + 2 * (pair[:, 0] > 0) + 4 * conflict, rng)
    followed = {}
    for name, rows in plantable.tables(pair @ adds[[0, -1]], seed[0]).items():
        taken = np.sign(learning_path(rows, label[:, None], folds).last[:, 0])
        follows = (1 + taken[conflict] * pair[conflict, 0]) / 2
        followed[name] = float(follows.mean()) if conflict.any() else 0.5
    return _Planting(read, followed)


def _halves(people: int, rng: np.random.Generator) -> Float[np.ndarray, " people"]:
    """Return -1 and 1, each of half of the people."""
    return rng.permutation(np.arange(people) % 2) * 2.0 - 1


def _agreement(people: int, share: float, rng: np.random.Generator) -> Float[np.ndarray, " people"]:
    """Return 1 for a share of people, -1 for the others."""
    return np.where(rng.permutation(people) < round(share * people), 1.0, -1.0)


def _kept(
    name: str,
    read: Float[np.ndarray, "plantings cues"],
    raw: Float[np.ndarray, "plantings cues"],
    cues: tuple[Cue, ...],
    people: int,
) -> list[Finding]:
    """Return the share of each cue's separability that is left, and by how much that of the first is above the last's."""
    before, after = raw.mean(axis=0), read.mean(axis=0)
    readable = before >= _READ
    shares = after / np.where(readable, before, np.nan)
    # How each planting moves the ratio of means.
    moves = (read - shares * raw) / np.where(readable, before, np.nan)
    half = student(len(read) - 1) / len(read) ** 0.5
    order = np.argsort(-np.where(readable, shares, -np.inf), kind="stable")
    rank = {int(k): place + 1 for place, k in enumerate(order)}
    found = []
    for k, cue in enumerate(cues):
        about = f"d' {before[k]:.2f} in the data as they are, {after[k]:.2f} here; {_available(cue)}"
        if not readable[k]:
            short = f"{about}: hardly read by {people} people"
            found.append(Finding("cue_kept", f"{name}/{cue.name}", people, status="insufficient", note=short))
            continue
        reach = half * float(moves[:, k].std(ddof=1))
        note = f"{about}; kept best but {rank[k] - 1} of {len(cues)}; interval over {len(read)} plantings"
        own = float(shares[k])
        found.append(Finding("cue_kept", f"{name}/{cue.name}", people, own, own - reach, own + reach, note=note))
    note = f"share kept of the {cues[0].name} cue less that of the {cues[-1].name} one"
    if not (readable[0] and readable[-1]):
        return [*found, Finding("cue_bias", name, people, status="insufficient", note=f"{note}: one is hardly read")]
    return [*found, _tested("cue_bias", name, shares[0] - shares[-1] + moves[:, 0] - moves[:, -1], people, note)]


def _followed(name: str, shares: Float[np.ndarray, " plantings"], cues: tuple[Cue, ...], people: int) -> Finding:
    first, last = cues[0], cues[-1]
    half = student(len(shares) - 1) * float(shares.std(ddof=1)) / len(shares) ** 0.5
    at = float(shares.mean())
    note = (
        f"share of people in whom cues conflict who are taken for what the {first.name} one says (right in"
        f" {first.predictivity:.0%}; the {last.name} one in {last.predictivity:.0%}); of a reader who knew both: 0"
    )
    return Finding("cue_followed", name, people, at, max(at - half, 0.0), min(at + half, 1.0), note=note)


def _changed(name: str, changes: Float[np.ndarray, " plantings"], cues: tuple[Cue, ...], people: int) -> Finding:
    note = f"over a reader of the data as they are; above 0: the {cues[0].name} cue is followed more often"
    return _tested("cue_followed_change", name, changes, people, note)


def _tested(metric: str, name: str, values: Float[np.ndarray, " plantings"], people: int, note: str) -> Finding:
    """Return the mean over plantings against 0."""
    at, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    freedom = len(values) - 1
    half = student(freedom) * error
    p = float(2 * student_t.sf(abs(at) / error, freedom)) if error > 1e-12 else float(abs(at) <= 1e-12)
    return Finding(metric, name, people, at, at - half, at + half, p, note=note)


def _available(cue: Cue) -> str:
    return "in all columns" if cue.share == 1 else f"in {cue.share:.0%} of the columns, neighbours, one at least"
