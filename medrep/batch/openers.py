"""How workers come by their steps: what travels to them is a folder and a request, never a model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medrep.batch.shift_judge import saved_judge
from medrep.export.derivative import Destination
from medrep.export.mover import Mover, move_step
from medrep.export.outcomes import PRELOADED, Opener, Step
from medrep.export.scoring import Scorer, score_step
from medrep.models.saved import SavedModel
from medrep.models.unshrinking import How


@dataclass(frozen=True)
class OpenScores(Opener):
    """Opens the step that scores people.

    Attributes:
        model: A model folder.
        rate: Of false alarms of the shift gate.
        unshrink: How the regression of predictions to the mean is undone.
        trained: Fingerprints of the rows that the model was trained on, from people.tsv; None without one.
        names: Columns of the cohort's table, in its order; none for files.
    """

    model: Path
    rate: float
    unshrink: How
    trained: frozenset[str] | None = None
    names: tuple[str, ...] = ()

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of tables or of images; see `Opener`."""
        return _preload(self.names)

    def open(self) -> Step:
        """Load the model; see `Opener.open`."""
        return self.step(_loaded(self.model))

    def step(self, saved: SavedModel) -> Step:
        """Return the step of a model that is at hand: itself, its shift gate and its readouts, as far as it has them."""
        judge = saved_judge(saved, self.rate, self.trained)
        scorer = Scorer(saved.model, judge=judge, readouts=saved.readouts, unshrink=self.unshrink)
        return score_step(scorer, saved.input, self.names)


@dataclass(frozen=True)
class OpenMoves(Opener):
    """Opens the step that moves people.

    Attributes:
        model: A model folder.
        to: Where to write.
        target: Removed covariate -> reference.
        label_free: Whether nobody's covariates are looked at.
    """

    model: Path
    to: Destination
    target: Mapping[str, str | float]
    label_free: bool = False

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of tables or of images; see `Opener`."""
        return _preload(self.to.names)

    def open(self) -> Step:
        """Load the model; see `Opener.open`."""
        return self.step(_loaded(self.model))

    def step(self, saved: SavedModel) -> Step:
        """Return the step of a model that is at hand."""
        return move_step(Mover(saved.model, self.target, self.label_free), saved.input, self.to)


def _preload(names: tuple[str, ...]) -> tuple[str, ...]:
    # Tables need little, and what images need takes seconds to load.
    return PRELOADED[:2] if names else PRELOADED


def _loaded(folder: Path) -> SavedModel:
    saved = SavedModel.load(folder)
    return replace(saved, model=saved.model.accelerated())
