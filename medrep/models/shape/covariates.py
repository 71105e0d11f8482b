"""Covariates as columns that are zero at the reference, so that every effect is exactly zero there.

The columns of a smooth effect are turned into its straight line and what bends it, of unit variance each.
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import stored
from medrep.cohort.covariates import CovariateSchema
from medrep.models.design import Design
from medrep.models.shape.effects import Group


@dataclass(frozen=True, eq=False)
class EffectColumns:
    """The design of covariate effects.

    Attributes:
        design: Smooth and level columns, and batches.
        turns: For each term of the design, what its columns are multiplied with: unit variance, orthogonal, the line first.
    """

    design: Design = field(metadata=stored(""))
    turns: tuple[Float[np.ndarray, "_ _"], ...]

    @classmethod
    def fit(cls, schema: CovariateSchema, frame: pd.DataFrame, degrees: int, *, joint: bool) -> "EffectColumns":
        """Place knots on training people.

        Args:
            schema: The covariates.
            frame: Training people's.
            degrees: Of a continuous effect.
            joint: Whether all products enter, too: one field for all values together.

        Raises:
            CovariateError: Covariates that these people cannot tell apart.
        """
        effects = [name for name in schema.names if name not in schema.batches]
        products = [g for size in range(2, len(effects) + 1) for g in combinations(effects, size)] if joint else []
        design = Design.fit(schema, frame, degrees, products)
        design.check_aliases(frame)
        raw = design.effects(frame)[:, 1:]
        turns, start = [], 0
        for term in design.terms:
            own = raw[:, start : start + len(term.centre)]
            start += len(term.centre)
            triangle = np.linalg.qr(own - own.mean(axis=0), mode="r")
            turns.append(np.linalg.inv(triangle * np.sign(np.diag(triangle))[:, None]) * np.sqrt(len(frame)))
        return cls(design, tuple(turns))

    def of(self, frame: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        """Return the columns of people, zero at the reference of every covariate."""
        schema = self.design.schema
        home = pd.DataFrame({name: [value] for name, value in schema.references(schema.names).items()})
        raw = (self.design.full(frame) - self.design.full(home))[:, 1:]
        blocks, start = [], 0
        for turn in self.turns:
            blocks.append(raw[:, start : start + len(turn)] @ turn)
            start += len(turn)
        return np.concatenate([*blocks, raw[:, start:]], axis=1)

    def groups(self) -> list[Group]:
        """Return which columns belong to a covariate, to a batch, or to a joint field."""
        if any(len(names) > 1 for names in self.slices()):
            return [Group(slice(0, self.width))]
        batches = self.design.schema.batches
        return [Group(part, exchangeable=names[0] in batches) for names, part in self.slices().items()]

    @property
    def width(self) -> int:
        """Number of columns."""
        return max((part.stop for part in self.slices().values()), default=0)

    def slices(self) -> dict[tuple[str, ...], slice]:
        """Return which columns belong to which covariate, or to which covariates together."""
        found: dict[tuple[str, ...], slice] = {}
        start = 0
        for term in self.design.terms:
            found[term.covariates] = slice(start, start + len(term.centre))
            start += len(term.centre)
        return found | {
            (name,): slice(start + part.start, start + part.stop) for name, part in self.design.batch_slices().items()
        }
