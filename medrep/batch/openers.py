"""How workers come by their steps: what travels to them is a folder and a request, never a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medrep.batch.shift_judge import saved_judge
from medrep.export.derivative import MeshFormat, Removal
from medrep.export.features import MoveRows
from medrep.export.mover import Mover
from medrep.export.outcomes import Opener, Step
from medrep.export.scoring import Scorer, ScoreRows, image_scores
from medrep.models.saved import SavedModel
from medrep.models.unshrinking import How


@dataclass(frozen=True)
class OpenScores(Opener):
    """Opens the step that scores images, or rows of a table.

    Attributes:
        model: A model folder.
        rate: Of false alarms of the shift gate.
        unshrink: How the regression of predictions to the mean is undone.
        trained: Fingerprints of the rows that the model was trained on, from people.tsv; None without one.
        names: Of the table's features, in its order; none for images.
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
        return ScoreRows(scorer, self.names) if self.names else image_scores(scorer, saved.input)


@dataclass(frozen=True)
class OpenMoves(Opener):
    """Opens the step that moves images, or rows of a table.

    Attributes:
        model: A model folder.
        folder: Where to write.
        root: The cohort's folder.
        target: Removed covariate -> reference.
        label_free: Whether nobody's covariates are looked at.
        done: For the sidecars.
        mesh: What meshes of organs are written as.
        names: Of the table's features, in its order; none for images.
    """

    model: Path
    folder: Path
    root: Path
    target: Mapping[str, str | float]
    label_free: bool
    done: Removal
    mesh: MeshFormat
    names: tuple[str, ...] = ()

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of tables or of images; see `Opener`."""
        return _preload(self.names)

    def open(self) -> Step:
        """Load the model; see `Opener.open`."""
        return self.step(_loaded(self.model))

    def step(self, saved: SavedModel) -> Step:
        """Return the step of a model that is at hand."""
        mover, wanted = Mover(saved.model, self.target, self.label_free), saved.input
        if self.names:
            return MoveRows(mover, self.names)
        # MONAI takes seconds to import and only volumes need it, as only shapes need libigl.
        if wanted.kind == "shape":
            from medrep.export.shapes import MoveShapes

            return MoveShapes(self.folder, self.root, mover, wanted, self.done, self.mesh)
        from medrep.export.volumes import MoveVolumes

        return MoveVolumes(self.folder, self.root, mover, wanted, self.done)


def _preload(names: Sequence[str]) -> tuple[str, ...]:
    # Tables need little, and what images need takes seconds to load.
    return ("medrep.batch.openers", "medrep.batch.worker") if names else ("medrep.batch.preloaded",)


def _loaded(folder: Path) -> SavedModel:
    saved = SavedModel.load(folder)
    return replace(saved, model=saved.model.accelerated())
