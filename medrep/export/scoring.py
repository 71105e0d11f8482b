"""Scores of people: how well the model draws each, how unusual they are, and their latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.cohort.features import FeatureTable
from medrep.cohort.inputs import Input
from medrep.cohort.visits import Visit, visit_files, visit_frame
from medrep.errors import CohortError, ModelError
from medrep.export.blocks import block_size, in_places
from medrep.export.features import align_features
from medrep.export.outcomes import Outcome, Step
from medrep.models import Model

_MOST_ROWS, _MOST_IMAGES = 256, 16


@dataclass(frozen=True, eq=False)
class Scorer:
    """What is asked of a model about each person.

    Attributes:
        model: The model.
        most: How many people go through it together, where rows are short.
    """

    model: Model
    most: int = _MOST_IMAGES

    @property
    def together(self) -> int:
        """How many people go through the model together."""
        return block_size(self.model.columns.count, self.most)

    def outcomes(
        self,
        rows: Float[np.ndarray, "people columns"],
        people: Sequence[Visit],
        further: Mapping[str, float] | None = None,
    ) -> list[Outcome]:
        """Return what the model says of rows in memory.

        Args:
            rows: In the model's columns and units.
            people: At most one for each place of a block of ``together``.
            further: Figures that are known already.
        """
        block, standing, places = in_places(rows, people, self.together)
        found = self.model.scores(block, visit_frame(standing))
        outcomes = []
        for place, one in zip(places, people, strict=True):
            figures = {
                "reconstruction_error": float(found.reconstruction_error[place]),
                "deviation": float(found.deviation[place]),
            }
            arrays = {"latents": found.latents[place]}
            if found.latents_sd is not None:
                arrays["latents_sd"] = found.latents_sd[place]
            outcomes.append(Outcome(one.key, figures=figures | dict(further or {}), arrays=arrays))
        return outcomes


class ScoreRows(Step):
    """Scores rows of a feature table.

    Args:
        model: The model.
        features: Of everybody who will be asked for, in any column order.
    """

    def __init__(self, model: Model, features: FeatureTable) -> None:
        self._scorer = Scorer(model, _MOST_ROWS)
        self._features = align_features(model, features)
        self.together = self._scorer.together

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Score a few rows; see `Step.work`."""
        return self._scorer.outcomes(self._features.rows(visit_frame(people).index).values, people)


class ScoreVolumes(Step):
    """Scores images; several go through the model together.

    Args:
        scorer: What is asked.
        wanted: The ``input`` section of training.
    """

    def __init__(self, scorer: Scorer, wanted: Input) -> None:
        if scorer.model.columns.grid is None:
            raise ModelError("the model was trained on a feature table; set input.kind as in training")
        self._scorer, self._wanted, self._grid = scorer, wanted, scorer.model.columns.grid
        self.together = scorer.together

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Score a few images; see `Step.work`."""
        from medrep.cohort.loaders import grid_problem, load_alike  # MONAI takes seconds to import

        rows: list[np.ndarray] = []
        outcomes: dict[str, Outcome] = {}
        for loaded in load_alike(visit_files(people), self._wanted):
            problem = loaded.error if loaded.placed is None else grid_problem(loaded.placed.grid, self._grid)
            if problem or loaded.placed is None:
                outcomes[loaded.key] = Outcome(loaded.key, problem, "read")
            else:
                rows.append(loaded.placed.values.ravel())
        good = [one for one in people if one.key not in outcomes]
        if good:
            outcomes |= {one.key: one for one in self._scorer.outcomes(np.stack(rows), good)}
        return [outcomes[one.key] for one in people]


class ScoreShapes(Step):
    """Scores organs, one at a time: each takes seconds.

    Args:
        scorer: What is asked.
        wanted: The measured ``input`` section of training.
    """

    def __init__(self, scorer: Scorer, wanted: Input) -> None:
        from medrep.cohort.shapes import shape_grid  # libigl and scikit-image, which only shapes need

        if scorer.model.columns.grid != shape_grid(wanted):
            raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
        self._scorer, self._wanted = scorer, wanted
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


def image_scores(model: Model, wanted: Input) -> Step:
    """Return the step that scores images of the kind a model was trained on."""
    if wanted.kind == "shape":
        return ScoreShapes(Scorer(model, 1), wanted)
    return ScoreVolumes(Scorer(model), wanted)
