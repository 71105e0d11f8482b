"""How workers come by their steps: what travels to them is a folder and a request, never a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrep.batch.shift_judge import saved_judge
from medrep.cohort.kinds import InputKind, saved_input
from medrep.export.derivative import Destination
from medrep.export.mover import Mover, move_step
from medrep.export.outcomes import Opener, Step
from medrep.export.scoring import Scorer, score_step
from medrep.models import Model, is_vae, restore_model
from medrep.models.readouts import Readout
from medrep.models.unshrinking import How
from medrep.training.checkpoint import Checkpoint, load_checkpoint
from medrep.training.schedule import has_cuda


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
        checkpoint, model, wanted = _loaded(self.model)
        return self.step(checkpoint, model, wanted)

    def step(self, checkpoint: Checkpoint, model: Model, wanted: InputKind[Any]) -> Step:
        """Return the step of a model that is at hand."""
        scorer = self.scorer(checkpoint, model)
        return score_step(scorer, wanted, self.names)

    def scorer(self, checkpoint: Checkpoint, model: Model) -> Scorer:
        """Return what is asked of a model: itself, its shift gate and its readouts, as far as it has them."""
        columns = model.columns.count
        readouts = tuple(Readout.restore(content, arrays, columns) for content, arrays in checkpoint.readouts.values())
        judge = saved_judge(checkpoint, model.schema, self.rate, self.trained)
        return Scorer(model, judge=judge, readouts=readouts, unshrink=self.unshrink)


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
        _, model, wanted = _loaded(self.model)
        return self.step(model, wanted)

    def step(self, model: Model, wanted: InputKind[Any]) -> Step:
        """Return the step of a model that is at hand."""
        return move_step(Mover(model, self.target, self.label_free), wanted, self.to)


def _preload(names: tuple[str, ...]) -> tuple[str, ...]:
    # Tables need little, and what images need takes seconds to load.
    return ("medrep.batch.openers", "medrep.batch.worker") if names else ("medrep.batch.preloaded",)


def _loaded(folder: Path) -> tuple[Checkpoint, Model, InputKind[Any]]:
    checkpoint = load_checkpoint(folder)
    model = restore_model(checkpoint.kind, checkpoint.content, checkpoint.arrays)
    if is_vae(model) and has_cuda():
        model.parts.network.to("cuda")
    return checkpoint, model, saved_input(checkpoint.input, str(folder))
