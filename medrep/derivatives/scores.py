"""Scores of participants: reconstruction error, deviation and latents, computed and written."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import atomic_file, write_json
from medrep.cohort.dataset import Dataset
from medrep.cohort.features import column_order
from medrep.cohort.image_quality import STATISTICS
from medrep.cohort.kinds import InputKind, imported
from medrep.cohort.samples import Sample, sample_frame, sample_rows
from medrep.cohort.splits import known_rows
from medrep.derivatives.bids import write_latents, write_lines
from medrep.derivatives.deviations import (
    CHANGES,
    DEVIATIONS,
    EXTREME,
    SHARES,
    DeviationsTo,
    about_extremes,
    described,
    extreme_values,
    whole,
)
from medrep.derivatives.tasks import Result, Task, TaskFactory, block_size, in_places, load_accelerated, preloaded
from medrep.models import Model
from medrep.models.base import Scores
from medrep.models.chunks import ChunkSource
from medrep.models.latent_map import LatentMap
from medrep.models.prediction import How, Prediction
from medrep.models.saved import SavedModel
from medrep.models.shift import ShiftDetector, scanner_of

STATUS, SCORED, FAILED = "status", "scored", "failed"
PREDICTED, GAP = "predicted_", "_gap"
OUTSIDE = "outside_training"
GAIN = "gain_z"
SUBTYPE, POSITION = "subtype", "position_"
VOLUME = "volume_mm3"
_UNITS = {
    "sd": "root mean square over columns, in residual standard deviations of training",
    "mm": "mean distance between the surface and the one that the model draws, mm",
}


def write_scores(
    folder: Path,
    results: Iterable[Result],
    lines: Mapping[str, Callable[[], Iterable[str]]],
    ids: pd.DataFrame,
    content: Mapping[str, Any],
    outside: Mapping[str, float] | None = None,
) -> None:
    """Write scores.tsv and scores.json, and tables of latents and deviations of those who could be scored.

    Args:
        folder: Where to.
        results: Everybody's, at least one of them good; gone through several times, a person at a time.
        lines: Names of rows, each with what yields those of everybody who could be scored.
        ids: Key columns, index: key; in the same order.
        content: ``unit``: the model's ``error_unit``; ``unshrink``: how the regression of predicted covariates to the mean was
            undone; ``about``: the model; ``names``: its columns, where deviations of them are lines; ``latent_roles``:
            its `Model.latent_roles`, where there are any.
        outside: Person -> how far outside the range of training, sd; a column of its own where anybody is.
    """
    first = next(one for one in results if not one.error)
    columns = [STATUS, *(name for name in first.figures if name != STATUS)]
    columns += [OUTSIDE] if outside else []
    good = _write_table(folder / "scores.tsv", results, ids, columns, outside or {})
    write_json(folder / "scores.json", {name: _about(name, content["unit"], content["unshrink"]) for name in columns})
    for name in ("latents", "latents_sd"):
        if name in lines:
            write_latents(folder / f"{name}.tsv", ids.loc[good], lines[name](), content.get("latent_roles", ()))
    for name in (DEVIATIONS, CHANGES):
        if name in lines:
            write_lines(folder / f"{name}.tsv", ids.loc[good], content["names"], lines[name]())
            write_json(folder / f"{name}.json", described(name, content["about"]))


def _write_table(
    path: Path, results: Iterable[Result], ids: pd.DataFrame, columns: list[str], outside: Mapping[str, float]
) -> list[str]:
    """Return the keys of those who could be scored."""
    good = []
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join([*ids.columns, *columns]) + "\n")
        for who, one in zip(ids.itertuples(index=False), results, strict=True):
            figures = {STATUS: FAILED if one.error else SCORED, **one.figures, OUTSIDE: outside.get(one.key, 0.0)}
            file.write("\t".join([*map(str, who), *(_cell(figures.get(name)) for name in columns)]) + "\n")
            if not one.error:
                good.append(one.key)
    return good


def _cell(value: float | str | None) -> str:
    if value is None or value != value:
        return "n/a"
    return value if isinstance(value, str) else repr(value)


def _about(name: str, unit: str, unshrink: str) -> dict[str, object]:
    if name.startswith(PREDICTED):
        corrected = {
            "none": "not corrected",
            "linear": "corrected by a line",
            "tweedie": "corrected by Tweedie's formula",
        }
        return {"Description": f"told from the data alone; regression to the mean {corrected[unshrink]}"}
    if name.startswith(VOLUME) and name != VOLUME:
        return {"Description": f"volume of the structure {name.removeprefix(volume_column('') + '_')}", "Units": "mm3"}
    if name.endswith(GAP):
        return {"Description": f"{PREDICTED}{name.removesuffix(GAP)} minus what the table says"}
    if name.startswith(POSITION):
        own = name.removeprefix(POSITION)
        return {
            "Description": f"{own} at which people are expected to lie on the curve of all columns where this one lies"
        }
    if name.startswith(f"{SUBTYPE}_"):
        return {
            "Description": f"how probable subtype {name.removeprefix(f'{SUBTYPE}_')} is; of all subtypes the sum is 1"
        }
    if name == EXTREME or name in SHARES:
        return about_extremes(name)
    about: dict[str, dict[str, object]] = {
        STATUS: {
            "Description": "whether the person could be scored, and is like the people of calibration, if training had any",
            "Levels": {
                SCORED: "scored; the model has no calibration, or was trained on this person",
                "accept": "scored, and like the people of calibration",
                "warn": "scored; hardly like them",
                "reject": "scored; unlike them, so that the scores are not to be relied on",
                FAILED: "not scored; see failures.tsv",
            },
        },
        "in_training": {
            "Description": "whether the model was trained on this row, so that its errors are not compared with others'",
            "Levels": {
                "yes": "it was",
                "no": "it was not",
                "n/a": "the model carries no digests of its training rows, and people.tsv does not lie beside it",
            },
        },
        "shift_p": {"Description": "share of calibration people who are as unusual (conformal p-value)"},
        "shift_reason": {"Description": "the statistic that stands out most, in standard deviations"},
        "reconstruction_error": {"Description": _UNITS[unit], "Units": unit},
        "deviation": {"Description": "how unusual a person is at their covariates; about 1 for a typical one"},
        GAIN: {
            "Description": "how unusual the change since the person's visit before is, given that visit: root mean square over"
            " columns of (z2 - r z1) / sqrt(1 - r^2); about 1 for a typical change, n/a at first visits"
        },
        SUBTYPE: {"Description": "the most probable of the model's subtypes, 1 the commonest in training"},
        OUTSIDE: {
            "Description": "how far beyond the range of training a covariate lies; the farthest of several, 0 inside",
            "Units": "standard deviations of the covariate in training",
        },
        VOLUME: {"Description": "volume of the organ", "Units": "mm3"},
    }
    return about[name]


def volume_column(structure: str) -> str:
    """Return the name of the column of an organ's volume, or of a structure's."""
    return f"{VOLUME}_{structure}" if structure else VOLUME


def _subtype_figures(shares: Float[np.ndarray, " subtypes"]) -> dict[str, float | str]:
    """Return the most probable subtype, by its number from 1, and how probable each is."""
    each = {f"{SUBTYPE}_{number + 1}": float(share) for number, share in enumerate(shares)}
    return {SUBTYPE: str(int(np.argmax(shares)) + 1), **each}


_MOST_ROWS, _MOST_IMAGES = 256, 16
_FIGURES = ("reconstruction_error", "deviation")


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scorer of participants: a model, its shift detector and its predictions.

    Attributes:
        model: The model.
        most: How many people go through it together, where rows are short.
        judge: Who says whether a person is like those of calibration; None where nobody does.
        readouts: What predicts covariates from the data.
        unshrink: How their regression to the mean is undone.
        measure: Whether outcomes hold the statistics that a judge is calibrated with.
        visits: How many one person has at most; 0 where nobody asks how they changed.
        to: Where deviations of single columns go, of a model that tells them; None where nobody asks for them.
        latent_map: What makes latents those of another model; None leaves them as they are.
    """

    model: Model
    most: int = _MOST_IMAGES
    judge: ShiftDetector | None = None
    readouts: tuple[Prediction, ...] = ()
    unshrink: How = "none"
    measure: bool = False
    visits: int = 0
    to: DeviationsTo | None = None
    latent_map: LatentMap | None = None

    @property
    def by_person(self) -> bool:
        """True if visits of a person are scored together."""
        return self.visits > 1 and self._gains

    @property
    def _gains(self) -> bool:
        return self.visits > 0 and self.model.tells_changes

    @property
    def measures(self) -> bool:
        """True if statistics of images are needed."""
        return self.measure or self.judge is not None

    @property
    def block_size(self) -> int:
        """How many people go through the model together."""
        return block_size(self.model.columns.count, self.most, self.visits if self.by_person else 1)

    def results(
        self,
        rows: Float[np.ndarray, "people columns"],
        people: Sequence[Sample],
        images: Sequence[Float[np.ndarray, " statistics"]] = (),
    ) -> list[Result]:
        """Return what the model says of rows in memory.

        Args:
            rows: In the model's columns and units.
            people: At most one for each place of a block of ``block_size``.
            images: `STATISTICS` of each image, where ``measures`` asks for them.
        """
        block, standing, places = in_places(rows, people, self.block_size)
        whose = standing.persons.astype(str).tolist() if self.by_person else None
        dataset = self.model.dataset(block, sample_frame(standing), whose)
        found, deviations = self._scores(dataset)
        if self.latent_map is not None:
            found = replace(found, latents=self.latent_map.apply(found.latents), latents_sd=None)
        statistics = pd.DataFrame({name: getattr(found, name) for name in _FIGURES})
        if len(images):
            position = {one.key: k for k, one in enumerate(people)}
            measured = np.stack([images[position[one.key]] for one in standing])
            statistics = statistics.join(pd.DataFrame(measured, columns=list(STATISTICS)))
        said = [dict[str, float | str]()] * len(standing)
        if self.judge is not None:
            said = self.judge.figures(statistics, standing, block)
        predicted = {readout.name: readout.predict(block, self.unshrink) for readout in self.readouts}
        results = []
        for place, one in zip(places, people, strict=True):
            figures: dict[str, float | str] = {name: float(statistics[name][place]) for name in _FIGURES}
            if DEVIATIONS in deviations:
                figures |= extreme_values(deviations[DEVIATIONS][place])
            if self._gains:
                figures[GAIN] = float("nan") if found.gain is None else float(found.gain[place])
            if found.subtypes is not None:
                figures |= _subtype_figures(found.subtypes[place])
            figures |= {f"{POSITION}{name}": float(values[place]) for name, values in found.positions.items()}
            for name, values in predicted.items():
                figures[f"{PREDICTED}{name}"] = float(values[place])
                figures[f"{name}{GAP}"] = float(values[place]) - float(one.covariates[name])
            arrays = {"latents": found.latents[place], **{name: rows[place] for name, rows in deviations.items()}}
            if found.latents_sd is not None:
                arrays["latents_sd"] = found.latents_sd[place]
            if self.measure:
                arrays["statistics"] = statistics.to_numpy(float)[place]
            results.append(Result(one.key, figures=said[place] | figures, arrays=arrays))
        return results

    def _scores(self, dataset: Dataset) -> tuple[Scores, dict[str, Float[np.ndarray, "people columns"]]]:
        """Return scores, and z of each column, and of changes where people come again; no z where nobody asks."""
        if self.to is None:
            return self.model.scores(dataset), {}
        found = {DEVIATIONS: whole(self.model.deviations(dataset))}
        if self.by_person:
            found[CHANGES] = whole(self.model.change_deviations(dataset))
        return self.model.scores_of(*map(ChunkSource.of, found.values())), found

    def statistics(self, kind: InputKind[Any]) -> list[str]:
        """Return what the columns of statistics are."""
        return [*_FIGURES, *kind.statistics]


class ScoreRows(Task):
    """Scores rows of a feature table.

    Args:
        scorer: What is asked.
        kind: Of the table; not looked at.
        names: Of the table's features, in its order.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[Any], names: Sequence[str]) -> None:
        del kind
        self._scorer = replace(scorer, most=_MOST_ROWS)
        self._order = column_order(scorer.model.columns.names, names)
        self.block_size, self.by_person = self._scorer.block_size, self._scorer.by_person

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Score a few rows; see `Task.work`."""
        scored = self._scorer.results(sample_rows(people)[:, self._order], people)
        return scored if self._scorer.measure else [one.written() for one in scored]


def score_task(scorer: Scorer, kind: InputKind[Any], names: Sequence[str] = ()) -> Task:
    """Return the step that scores people of a kind of input.

    Args:
        scorer: What is asked.
        kind: As in training.
        names: Of the columns of the cohort's table; none for files.
    """
    step: Task = imported(kind.scorer)(scorer, kind, names)
    return step


@dataclass(frozen=True)
class ScoreFactory(TaskFactory):
    """Opens the step that scores people.

    Attributes:
        model: A model folder.
        rate: Of false alarms of the shift gate.
        unshrink: How the regression of predictions to the mean is undone.
        trained: Fingerprints of the rows that the model was trained on, from people.tsv; None without one.
        names: Columns of the cohort's table, in its order; none for files.
        visits: How many one person has at most.
        to: Where deviations of single columns go; None where the model tells none.
        latent_map: What makes latents those of another model; None leaves them as they are.
    """

    model: Path
    rate: float
    unshrink: How
    trained: frozenset[str] | None = None
    names: tuple[str, ...] = ()
    visits: int = 1
    to: DeviationsTo | None = None
    latent_map: LatentMap | None = None

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of tables or of images; see `TaskFactory`."""
        return preloaded(self.names, self.model)

    def open(self) -> Task:
        """Load the model; see `TaskFactory.open`."""
        return self.step(load_accelerated(self.model))

    def step(self, saved: SavedModel) -> Task:
        """Return the step of a model that is at hand: itself, its shift gate and its readouts, as far as it has them."""
        judge = None
        if saved.shift is not None:
            known = known_rows(saved.provenance.rows, self.trained)
            judge = ShiftDetector(saved.shift, scanner_of(saved.model.schema), self.rate, known)
        scorer = Scorer(
            saved.model,
            judge=judge,
            readouts=saved.readouts,
            unshrink=self.unshrink,
            visits=self.visits,
            to=self.to,
            latent_map=self.latent_map,
        )
        return score_task(scorer, saved.input, self.names)
