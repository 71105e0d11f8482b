"""Scores of people: how well the model draws each, how unusual they are, and their latents."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.features import column_order
from medrep.cohort.image_statistics import STATISTICS, image_statistics
from medrep.cohort.inputs import ShapeInput, VolumeInput
from medrep.cohort.kinds import InputKind, imported
from medrep.cohort.visits import Visit, visit_files, visit_frame, visit_rows
from medrep.errors import CohortError, ModelError
from medrep.export.blocks import block_size, in_places
from medrep.export.outcomes import Outcome, Step
from medrep.export.scores import GAP, PREDICTED
from medrep.models import Model
from medrep.models.readouts import Readout
from medrep.models.unshrinking import How

_MOST_ROWS, _MOST_IMAGES = 256, 16
_FIGURES = ("reconstruction_error", "deviation")


class Judge(ABC):
    """Whether people are like those whom the model was calibrated with."""

    @abstractmethod
    def figures(
        self, statistics: pd.DataFrame, people: Sequence[Visit], rows: Float[np.ndarray, "people columns"]
    ) -> list[dict[str, float | str]]:
        """Return what is said of each person, for scores.tsv.

        Args:
            statistics: One row a person, a column a statistic.
            people: The same people.
            rows: Their data.
        """


@dataclass(frozen=True, eq=False)
class Scorer:
    """What is asked of a model about each person.

    Attributes:
        model: The model.
        most: How many people go through it together, where rows are short.
        judge: Who says whether a person is like those of calibration; None where nobody does.
        readouts: What predicts covariates from the data.
        unshrink: How their regression to the mean is undone.
        measure: Whether outcomes hold the statistics that a judge is calibrated with.
    """

    model: Model
    most: int = _MOST_IMAGES
    judge: Judge | None = None
    readouts: tuple[Readout, ...] = ()
    unshrink: How = "none"
    measure: bool = False

    @property
    def measures(self) -> bool:
        """Whether statistics of images are needed."""
        return self.measure or self.judge is not None

    @property
    def together(self) -> int:
        """How many people go through the model together."""
        return block_size(self.model.columns.count, self.most)

    def outcomes(
        self,
        rows: Float[np.ndarray, "people columns"],
        people: Sequence[Visit],
        further: Mapping[str, float] | None = None,
        images: Sequence[Float[np.ndarray, " statistics"]] = (),
    ) -> list[Outcome]:
        """Return what the model says of rows in memory.

        Args:
            rows: In the model's columns and units.
            people: At most one for each place of a block of ``together``.
            further: Figures that are known already.
            images: `STATISTICS` of each image, where ``measures`` asks for them.
        """
        block, standing, places = in_places(rows, people, self.together)
        found = self.model.scores(self.model.dataset(block, visit_frame(standing)))
        statistics = pd.DataFrame({name: getattr(found, name) for name in _FIGURES})
        if len(images):
            position = {one.key: k for k, one in enumerate(people)}
            measured = np.stack([images[position[one.key]] for one in standing])
            statistics = statistics.join(pd.DataFrame(measured, columns=list(STATISTICS)))
        said = [dict[str, float | str]()] * len(standing)
        if self.judge is not None:
            said = self.judge.figures(statistics, standing, block)
        predicted = {readout.name: readout.predict(block, self.unshrink) for readout in self.readouts}
        outcomes = []
        for place, one in zip(places, people, strict=True):
            figures = {name: float(statistics[name][place]) for name in _FIGURES}
            for name, values in predicted.items():
                figures[f"{PREDICTED}{name}"] = float(values[place])
                figures[f"{name}{GAP}"] = float(values[place]) - float(one.covariates[name])
            arrays = {"latents": found.latents[place]}
            if found.latents_sd is not None:
                arrays["latents_sd"] = found.latents_sd[place]
            if self.measure:
                arrays["statistics"] = statistics.to_numpy(float)[place]
            outcomes.append(Outcome(one.key, figures=said[place] | figures | dict(further or {}), arrays=arrays))
        return outcomes

    def statistics(self, kind: InputKind[Any]) -> list[str]:
        """Return what the columns of statistics are."""
        return [*_FIGURES, *kind.statistics]


class ScoreRows(Step):
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
        self.together = self._scorer.together

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Score a few rows; see `Step.work`."""
        scored = self._scorer.outcomes(visit_rows(people)[:, self._order], people)
        return scored if self._scorer.measure else [one.written() for one in scored]


class ScoreVolumes(Step):
    """Scores images; several go through the model together.

    Args:
        scorer: What is asked.
        kind: Volumes, as in training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[VolumeInput], names: Sequence[str]) -> None:
        del names
        if scorer.model.columns.grid is None:
            raise ModelError("the model was trained on a feature table; set input.kind as in training")
        self._scorer, self._wanted, self._grid = scorer, kind.section, scorer.model.columns.grid
        self.together = scorer.together

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Score a few images; see `Step.work`."""
        from medrep.cohort.loaders import load_alike  # MONAI takes seconds to import

        rows: list[np.ndarray] = []
        images: list[np.ndarray] = []
        outcomes: dict[str, Outcome] = {}
        for loaded in load_alike(visit_files(people), self._wanted, self._grid):
            if loaded.placed is None:
                outcomes[loaded.key] = Outcome(loaded.key, loaded.error, "read")
            else:
                rows.append(loaded.placed.values.ravel())
                if self._scorer.measures:
                    images.append(image_statistics(loaded.placed.values))
        good = [one for one in people if one.key not in outcomes]
        if good:
            outcomes |= {one.key: one for one in self._scorer.outcomes(np.stack(rows), good, images=images)}
        return [outcomes[one.key] for one in people]


class ScoreShapes(Step):
    """Scores organs, one at a time: each takes seconds.

    Args:
        scorer: What is asked.
        kind: Label maps, as measured by training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[ShapeInput], names: Sequence[str]) -> None:
        del names
        from medrep.cohort.shapes import shape_grid  # libigl and scikit-image, which only shapes need

        if scorer.model.columns.grid != shape_grid(kind.section):
            raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
        self._scorer, self._wanted = replace(scorer, most=1), kind.section
        self.together = 1

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Score a few organs; see `Step.work`."""
        from medrep.cohort.shapes import load_shapes

        outcomes = []
        for one, loaded in zip(people, load_shapes(visit_files(people), self._wanted), strict=True):
            if loaded.placed is None:
                outcomes.append(Outcome(loaded.key, loaded.error, "read"))
                continue
            affine, voxels = loaded.placed.labels.affine, int(loaded.placed.organ.mask.sum())
            volume = round(voxels * abs(float(np.linalg.det(affine[:3, :3]))), 3)
            try:
                outcomes += self._scorer.outcomes(loaded.placed.row[None], [one], {"volume_mm3": volume})
            except (CohortError, ModelError) as error:
                outcomes.append(Outcome(loaded.key, str(error), "score"))
        return outcomes


def score_step(scorer: Scorer, kind: InputKind[Any], names: Sequence[str] = ()) -> Step:
    """Return the step that scores people of a kind of input.

    Args:
        scorer: What is asked.
        kind: As in training.
        names: Of the columns of the cohort's table; none for files.
    """
    step: Step = imported(kind.scorer)(scorer, kind, names)
    return step
