"""Batch levels that training did not have, estimated from their own people: sums over them, and the model that knows them."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.cohort import Cohort
from medrep.cohort.kinds import Listener
from medrep.cohort.support import ranges_outside
from medrep.models.base import Adaptation, Model


@dataclass
class LevelSums:
    """What is known of one unseen level.

    Attributes:
        width: Number of columns.
        people: How many people it has.
        effects: Sum of their rows of the design matrix.
        rows: Their covariates, a frame of one row each.
        known: In how many of them each column has a value.
        residual: Sum of standardised residuals.
        squares: Sum of their squares.
    """

    width: int
    people: int = 0
    effects: Float[np.ndarray, " effects"] | float = 0.0
    rows: list[pd.DataFrame] = field(default_factory=list)
    known: Float[np.ndarray, " columns"] = field(init=False)
    residual: Float[np.ndarray, " columns"] = field(init=False)
    squares: Float[np.ndarray, " columns"] = field(init=False)

    def __post_init__(self) -> None:
        self.known, self.residual, self.squares = np.zeros((3, self.width))

    def add(
        self,
        data: Float[np.ndarray, " columns"],
        residual: Float[np.ndarray, " columns"],
        effects: Float[np.ndarray, " effects"],
        frame: pd.DataFrame,
    ) -> None:
        """Add one person: data (NaN where missing), standardised residual (0 there), row of the design matrix, covariates."""
        self.people += 1
        self.rows.append(frame)
        self.effects = self.effects + effects
        self.known += np.isfinite(data)
        self.residual += residual
        self.squares += residual**2

    def mean(self) -> Float[np.ndarray, " columns"]:
        """Return the mean residual of each column; 0 where nobody has a value."""
        mean: np.ndarray = self.residual / np.maximum(self.known, 1)
        return mean

    def variance(self) -> Float[np.ndarray, " columns"]:
        """Return the variance of each column, divisor n - 1; 1 where it cannot be told."""
        spread = np.maximum(self.squares - self.known * self.mean() ** 2, 0) / np.maximum(self.known - 1, 1)
        return np.where(self.known > 1, spread, 1.0)

    def frame(self) -> pd.DataFrame:
        """Return the people's covariates."""
        return pd.concat(self.rows)

    def mean_effects(self) -> Float[np.ndarray, " effects"]:
        """Return the mean row of the design matrix."""
        return np.asarray(self.effects) / max(self.people, 1)


def adapted_model(
    model: Model, cohort: Cohort, frame: pd.DataFrame, listener: Listener
) -> tuple[Model, tuple[Adaptation, ...]]:
    """Return the model with sites that training did not have, estimated from their own people, and what was estimated.

    People who cannot be read are left to whoever writes or scores them.
    """
    keys = strange_people(model, frame.loc[cohort.table.index])
    if not len(keys):
        return model, ()
    people = cohort.input.adapting(cohort.source.select(keys), model.columns, listener)
    model, notes = model.adapt(model.dataset(rows, frame.loc[some]) for some, rows in people)
    told = tuple(_placed(note, model, frame.loc[keys]) for note in notes)
    for note in told:
        effects = "covariates' effects taken as known" if note.effect_se is None else f"{note.effect_se:.2f} by effects"
        error = f"location known to {note.location_se:.2f} sd, {effects}"
        listener.say(f"  adapted: {note.covariate} {note.level!r} from {note.people} of its people ({error})")
        if note.outside:
            listener.warn(
                f"{note.covariate} {note.level!r}: its people leave the range of training ({note.outside}); what covariates do"
                " there is extrapolated, and what that misses is taken for the site's"
            )
    return model, told


def _placed(note: Adaptation, model: Model, frame: pd.DataFrame) -> Adaptation:
    """Add in which covariates the level's people leave the range of training."""
    own = frame[frame[note.covariate].astype(str) == note.level]
    return replace(note, outside="; ".join(ranges_outside(model.schema, own)))


def strange_people(model: Model, frame: pd.DataFrame) -> pd.Index:
    """Return the keys of people with a batch level that training did not have."""
    strange = pd.Series(False, index=frame.index)
    for name in [name for name in model.schema.batches if name in frame]:  # nobody's label is looked at without columns
        strange |= ~frame[name].isin(model.schema.levels(name))
    return frame.index[strange]
