"""Settings of the linear model, and what follows from them for given columns."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from medrep._persisted import stored
from medrep.cohort.grid import Columns, Grid, Mesh
from medrep.errors import ModelError
from medrep.models.linear.bands import Bands, column_bands, mesh_bands, scanner_bands
from medrep.models.linear.batch_effects import Borrowing


@dataclass(frozen=True)
class LinearSettings:
    """Settings of the linear model.

    Attributes:
        spline_degrees: Degrees of freedom of a continuous effect; 1 is a straight line.
        interactions: Groups of effect covariates whose product enters too, for instance ``[[age, sex]]``.
        scale: Whether batches differ in scale.
        gain: Whether a batch's scale multiplies covariate effects too, as a scanner's gain does; ``no`` is ComBat's
            assumption, that only the residual is scaled. ``auto`` takes yes where the columns have a grid.
        covariance: Whether the leading components of the residual are aligned between batches.
        components: How many components are kept for ``latents.tsv`` and for ``covariance``.
        borrow: ``space`` expects a slowly varying offset and gain and shrinks the rest by spatial frequency, ``columns``
            shrinks towards the mean over columns; ``auto`` takes space where the columns have a grid, or a
            mesh (of surfaces), where the rest is shrunk by how smooth it is over neighbours.
        visits: ``auto`` gives people with several visits levels and slopes of their own; ``independent`` takes each visit for
            a person.
    """

    spline_degrees: int = 4
    interactions: tuple[tuple[str, ...], ...] = ()
    scale: bool = True
    gain: Literal["auto", "yes", "no"] = "auto"
    covariance: bool = False
    components: int = 16
    borrow: Literal["auto", "space", "columns"] = "auto"
    visits: Literal["auto", "independent"] = field(
        default="auto", metadata=stored(omitted=lambda settings: settings.visits == "auto")
    )

    def check(self, columns: Columns) -> None:
        """Refuse settings that cannot be, or that do not fit the columns.

        Raises:
            ModelError: The setting, its value and what is allowed.
        """
        if self.spline_degrees < 1:
            raise ModelError(f"settings.spline_degrees is {self.spline_degrees}; give 1 (a straight line) or more")
        if self.components < 0:
            raise ModelError(f"settings.components is {self.components}; give 0 (none) or more")
        if self.borrow == "space" and columns.grid is None and columns.mesh is None:
            raise ModelError(
                "settings.borrow is space, but the columns have no grid; use columns, or a features.json with Grid"
            )

    def grid(self, columns: Columns) -> Grid | None:
        """Return the grid over which strength is borrowed, if any."""
        return None if self.borrow == "columns" else columns.grid

    def mesh(self, columns: Columns) -> Mesh | None:
        """Return the mesh over which strength is borrowed, if any."""
        return None if self.borrow == "columns" or columns.grid is not None else columns.mesh

    def has_gain(self, columns: Columns) -> bool:
        """Return whether a batch's scale multiplies covariate effects too."""
        return self.gain == "yes" or (self.gain == "auto" and columns.grid is not None)

    def band_count(self, columns: Columns) -> int:
        """Return the number of bands of `borrowing`."""
        if self.grid(columns) is not None:
            return Bands(np.zeros((0, 0)), columns).count
        return Bands(np.zeros((0, 0)), None, None if self.mesh(columns) is None else csr_array((0, 0))).count

    def borrowing(
        self, columns: Columns, mean: Float[np.ndarray, " columns"], sd: Float[np.ndarray, " columns"]
    ) -> Borrowing:
        """Return how batch effects share strength.

        Args:
            columns: What the columns are.
            mean: Pooled mean of each column.
            sd: Residual deviation of each column.
        """
        if self.grid(columns) is None:
            mesh = self.mesh(columns)
            plain = column_bands(sd > 0) if mesh is None else mesh_bands(sd > 0, mesh)
            return Borrowing(lambda: plain, lambda: plain)
        return Borrowing(
            lambda: scanner_bands(columns, mean, sd), lambda: scanner_bands(columns, mean, (sd > 0).astype(sd.dtype))
        )
