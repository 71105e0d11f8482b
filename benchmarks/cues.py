"""Cues and shortcuts: planted ones are ranked as a representation keeps them, and readers that rely on none are not accused.

Planted cues: 200 people, 40 columns with three factors. Ranks: representations that are known to lose cues (the leading
components; all but the leading component; means of eight neighbouring columns; a linear model with six components, fitted to 300
other people) against the order of d' in closed form, from the population's covariance and what was planted; of
cues whose true shares differ by .1 or more. Size: a second scan of everybody, which keeps all cues alike but has noise of its
own, and two cues of one kind in the leading components, neither of which is the more available one. Power: leading components,
which lose the focal cue.

Shortcuts: 200 people of two sites, a diagnosis that goes with site (8 of 10, or 65 of 100), read from three of 40 columns. Size:
sites do not show in the data; the minority is harder to read for another reason (a smaller effect: only the curvature is asked,
as the gap is there). Power: site shifts the leading factor, and the diagnosis shows elsewhere, or nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.cues import CUES, PLANTINGS, Cue, Plantable, cue_findings, planted_cues
from medrep.audit.data import AuditData, compact
from medrep.audit.learning_paths import folds_of, learning_path
from medrep.audit.shortcuts import FEWEST, Reliance, cued_people, reliance
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings

PEOPLE, COLUMNS, FACTORS, TRAINED = 200, 40, 3, 300
_DECLARED = (Covariate("age", "continuous"), Covariate("site", "categorical", "batch"))
_APART = 0.1
"""True shares kept that differ by less have no order."""
_OFF = 60_000
_SAME = (Cue("one", 0.1, 0.85), Cue("other", 0.1, 0.85))


@dataclass(eq=False)
class StandIn:
    """A model whose answers are known: what it hands out, and a linear map to latents."""

    schema: CovariateSchema
    export: Callable[[np.ndarray], np.ndarray] = field(default=lambda values: values)
    latents: np.ndarray | None = None

    def remove(self, dataset: Dataset, target: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG002
        """Return what is handed out."""
        return self.export(dataset.values)

    def encode(self, dataset: Dataset) -> np.ndarray:
        """Return latents."""
        return dataset.values @ (np.zeros((COLUMNS, 0)) if self.latents is None else self.latents)

    def remove_and_encode(
        self, dataset: Dataset, target: Mapping[str, Any]
    ) -> tuple[np.ndarray, tuple[np.ndarray, None]]:
        """Return both."""
        return self.remove(dataset, target), (self.encode(dataset), None)


@dataclass(frozen=True, eq=False)
class Population:
    """A cohort with a known covariance of its columns."""

    covariance: np.ndarray
    loadings: np.ndarray

    @classmethod
    def of(cls, seed: int) -> Population:
        """Draw loadings: a factor of all columns, and two of neighbours."""
        rng = np.random.default_rng([_OFF, seed])
        place = np.arange(COLUMNS) / COLUMNS
        loadings = np.stack(
            [
                0.8 + 0.1 * rng.normal(size=COLUMNS),
                *(0.6 * np.sin(2 * np.pi * (k * place + rng.random())) for k in (1, 2)),
            ]
        )
        return cls(loadings.T @ loadings + 0.5 * np.eye(COLUMNS), loadings)

    def people(self, count: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
        """Draw people of three sites, without site effects."""
        rng = np.random.default_rng([_OFF, seed, count])
        frame = pd.DataFrame({"age": rng.uniform(20, 80, count), "site": [f"S{k % 3}" for k in range(count)]})
        return frame, self.scans(count, rng)

    def scans(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw rows."""
        return rng.multivariate_normal(np.zeros(COLUMNS), self.covariance, size=count, method="cholesky")

    def audited(self, seed: int, model: StandIn | LinearModel | None = None) -> AuditData:
        """Return people whom a model never saw; a stand-in that changes nothing where none is given."""
        frame, values = self.people(PEOPLE, seed)
        frame.index = pd.Index([f"sub-{k}" for k in range(PEOPLE)])
        schema = CovariateSchema.fit(frame, _DECLARED) if model is None else model.schema
        own: Any = StandIn(schema) if model is None else model
        columns = Columns(tuple(f"c{k}" for k in range(COLUMNS)), COLUMNS, None)
        return AuditData(own, Dataset(values, schema.transfer(frame), schema, columns), frame, {"site": "S0"})


def true_shares(population: Population, audited: AuditData, matrix: np.ndarray, seed: int) -> np.ndarray:
    """Return the share of each cue's d' that a linear map keeps, in closed form, mean d' over what was planted."""
    plantable, read = Plantable.of(audited, seed), []
    for k in range(PLANTINGS):
        adds = plantable.directions(CUES, np.random.default_rng([seed, 101, k]))
        for place, own in enumerate(adds):
            others = np.delete(adds, place, axis=0)
            covariance = population.covariance + others.T @ others
            kept, within = own @ matrix, matrix.T @ covariance @ matrix
            read.append(2 * np.sqrt([kept @ np.linalg.pinv(within) @ kept, own @ np.linalg.solve(covariance, own)]))
    means = np.array(read).reshape(PLANTINGS, len(CUES), 2).mean(axis=0)
    shares: np.ndarray = means[:, 0] / means[:, 1]
    return shares


def _representation(name: str, population: Population, seed: int) -> tuple[AuditData, np.ndarray, str]:
    """Return people with a model, the linear map that it is, and the table to look at."""
    schema = population.audited(seed).schema
    vectors = np.linalg.eigh(population.covariance)[1][:, ::-1]
    if name == "leading components":
        matrix = vectors[:, :FACTORS]
        return population.audited(seed, StandIn(schema, latents=matrix)), matrix, "latents"
    if name == "without the leading component":
        matrix = np.eye(COLUMNS) - np.outer(vectors[:, 0], vectors[:, 0])
        return population.audited(seed, StandIn(schema, lambda values: values @ matrix)), matrix, "exported"
    if name == "means of neighbours":
        matrix = np.kron(np.eye(COLUMNS // 8), np.ones((8, 1)))
        return population.audited(seed, StandIn(schema, latents=matrix)), matrix, "latents"
    frame, values = population.people(TRAINED, seed)
    schema = CovariateSchema.fit(frame, _DECLARED)
    columns = Columns(tuple(f"c{k}" for k in range(COLUMNS)), COLUMNS, None)
    people = Dataset(values, schema.transfer(frame), schema, columns)
    model, _ = LinearModel.fit(people, LinearSettings(components=6))
    one = people.take(np.arange(1))
    first = model.encode(one)
    matrix = np.concatenate([model.encode(one.with_values(one.values + row)) - first for row in np.eye(COLUMNS)])
    return population.audited(seed, model), matrix, "latents"


_RANKED = ("leading components", "without the leading component", "means of neighbours", "a linear model")


def _ranks(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows = []
    for name in _RANKED:
        say(f"cues: ranks, {name}")
        for seed in range(seeds):
            population = Population.of(seed)
            audited, matrix, table = _representation(name, population, seed)
            truth = true_shares(population, audited, matrix, seed)
            found = {one.group: one for one in planted_cues(audited, seed=seed) if one.metric == "cue_kept"}
            kept = np.array([found[f"{table}/{cue.name}"].estimate for cue in CUES])
            rows.append(
                {
                    "representation": name,
                    "seed": seed,
                    **{f"true {cue.name}": t for cue, t in zip(CUES, truth, strict=True)},
                    **{f"kept {cue.name}": t for cue, t in zip(CUES, kept, strict=True)},
                    "rank right": float(_ordered(truth, kept)),
                    "error": float(np.abs(truth - kept).mean()),
                }
            )
    table_of = pd.DataFrame(rows).groupby("representation", sort=False).mean().drop(columns="seed").reset_index()
    lines = [
        Line(
            "cues",
            f"rank of three cues right, {row['representation']}: >= .95",
            f"{row['rank right']:.3f}",
            row["rank right"] >= 0.95,
        )
        for row in table_of.to_dict("records")
    ]
    return table_of, lines


def _ordered(truth: np.ndarray, kept: np.ndarray) -> bool:
    """Return whether every two cues of which truly another share is kept come in the right order."""
    differ = truth[:, None] - truth[None, :] >= _APART
    return bool((kept[:, None] > kept[None, :])[differ].all())


def _second_scan(seed: int) -> list[Any]:
    """Directions are those of other people: of these they would be those of the first scan, and the second one's cues clearer."""
    population = Population.of(seed)
    audited = population.audited(seed)
    rng = np.random.default_rng([_OFF, seed, 7])
    first, again = audited.data, population.scans(PEOPLE, rng)
    audited = population.audited(seed, StandIn(audited.schema, lambda values: values - first + again))
    plantable = Plantable.of(audited, seed)
    return cue_findings(replace(plantable, left=population.scans(1000, rng) / plantable.sd), seed=seed)


def _two_alike(seed: int) -> list[Any]:
    audited, _, _ = _representation("leading components", Population.of(seed), seed)
    return planted_cues(audited, _SAME, seed=seed)


def _lost(seed: int) -> list[Any]:
    audited, _, _ = _representation("leading components", Population.of(seed), seed)
    return planted_cues(audited, seed=seed)


_CASES: dict[str, tuple[Callable[[int], list[Any]], str]] = {
    "a second scan": (_second_scan, "exported"),
    "two cues alike": (_two_alike, "latents"),
    "the focal cue is lost": (_lost, "latents"),
}


def _tests(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows, lines = [], []
    for case, (draw, table) in _CASES.items():
        say(f"cues: tests, {case}")
        count = max(seeds // 4, 20) if case in _POWER else seeds
        found = [{one.metric: one for one in draw(_OFF + seed) if one.group == table} for seed in range(count)]
        for metric in ("cue_bias", "cue_followed_change"):
            p = np.array([one[metric].p for one in found])
            share = float((p <= 0.05).mean())
            mean = float(np.mean([one[metric].estimate for one in found]))
            rows.append({"case": case, "test": metric, "seeds": count, "p <= .05": share, "mean": mean})
            lines.append(_judged(f"{metric}, {case}", share))
    return pd.DataFrame(rows), lines


def _judged(what: str, share: float) -> Line:
    if any(what.endswith(case) for case in _POWER):
        return Line("cues", f"power of {what}: >= .9", f"{share:.3f}", share >= 0.9)
    least, wanted = (0.0, "at most .065") if what.endswith(_FEW) else (0.035, ".05 +- .015")
    return Line("cues", f"size of {what}: {wanted}", f"{share:.3f}", least <= share <= 0.065)


_FEW = "no site effect, 100 people"
_POWER = ("the focal cue is lost", "site shifts the leading factor", "site shifts it, no diagnosis")


@dataclass(frozen=True)
class Confounded:
    """How a diagnosis goes with site, and what shows in the columns.

    Attributes:
        people: How many.
        right: How often site suggests the diagnosis rightly.
        shift: Of the leading factor by site, in its deviations.
        effect: Of the diagnosis on three columns, half the distance of its classes.
        harder: That effect in people in whom site and diagnosis conflict, as a share of that in others.
    """

    people: int = PEOPLE
    right: float = 0.8
    shift: float = 0.0
    effect: float = 0.6
    harder: float = 1.0

    def reliance(self, seed: int) -> Reliance | None:
        """Return how a reader relies on site; None where the audit would say that there are too few people."""
        rng = np.random.default_rng([_OFF, seed, 11])
        site = np.arange(self.people) % 2
        diagnosis = np.where(rng.random(self.people) < np.where(site == 1, self.right, 1 - self.right), 1.0, -1.0)
        population = Population.of(seed)
        columns = population.scans(self.people, rng) + self.shift * np.outer(site - 0.5, population.loadings[0])
        shown = self.effect * np.where((2 * site - 1) == diagnosis, 1.0, self.harder) * diagnosis
        columns[:, :3] += shown[:, None] * np.array([1, -1, 1])
        chosen, people = cued_people(diagnosis, pd.Series(site))
        if people.fewest < FEWEST:
            return None
        codes = sum((k * cell for k, cell in enumerate(people.cells)), np.zeros(len(chosen), int))
        folds = folds_of(codes, np.random.default_rng([seed, 89]))
        return reliance(learning_path(compact(columns[chosen], seed), people.classes[:, None], folds), people)


_BOTH = ("gap", "curvature")
_CONFOUNDED: dict[str, tuple[Confounded, tuple[str, ...]]] = {
    "no site effect": (Confounded(), _BOTH),
    "no site effect, 65 of 100": (Confounded(right=0.65), _BOTH),
    _FEW: (Confounded(people=100), _BOTH),
    "a smaller effect in the minority": (Confounded(harder=0.6), ("curvature",)),
    "site shifts it by half a deviation": (Confounded(shift=0.5), ()),
    "site shifts the leading factor": (Confounded(shift=2.0), ("curvature",)),
    "site shifts it, no diagnosis": (Confounded(shift=2.0, effect=0.0), ("gap",)),
}


def _shortcuts(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows, lines = [], []
    for case, (given, asked) in _CONFOUNDED.items():
        say(f"cues: shortcuts, {case}")
        found = [one for one in (given.reliance(_OFF + seed) for seed in range(seeds)) if one is not None]
        row: dict[str, object] = {"case": case, "seeds": len(found)}
        for name in ("majority", "minority"):
            row[name] = float(np.mean([getattr(one, name).estimate for one in found]))
        for name in _BOTH:
            figures = [getattr(one, name) for one in found]
            row[name] = float(np.nanmean([one.estimate for one in figures]))
            row[f"p of {name} <= .05"] = share = float(np.mean([one.p <= 0.05 for one in figures]))
            if name in asked:
                lines.append(_judged(f"minority_{name}, {case}", share))
        rows.append(row)
    return pd.DataFrame(rows), lines


def run(options: Options) -> Report:
    """Measure ranks, size and power (``--quick``: 10 cohorts, 40 seeds)."""
    began = time.process_time()
    ranks, lines = _ranks(10 if options.quick else 100)
    tests, more = _tests(20 if options.quick else 400)
    shortcuts, rest = _shortcuts(40 if options.quick else 800)
    say(f"cues: {time.process_time() - began:.0f} s of processor time")
    tables = {
        "cues_ranks": Table(
            ranks, tuple(ranks.columns), "Share of cues that is kept, true and measured (means over cohorts)"
        ),
        "cues_tests": Table(tests, tuple(tests.columns), "Planted cues: share of p <= .05"),
        "cues_shortcuts": Table(shortcuts, tuple(shortcuts.columns), "Shortcuts: share of p <= .05"),
    }
    return Report(tables, tuple(lines + more + rest))
