"""Settings of growth charts."""

from dataclasses import dataclass
from typing import Literal

from medrep.errors import ModelError
from medrep.models.linear.settings import LinearSettings

Shape = Literal["gaussian", "sinh-arcsinh"]


@dataclass(frozen=True)
class ChartSettings:
    """Settings of growth charts.

    Attributes:
        spline_degrees: Degrees of freedom of a continuous covariate's effect on location; 1 is a straight line.
        scale_degrees: The same of its effect on log scale.
        interactions: Groups of effect covariates whose product enters location and scale too, for instance ``[[age, sex]]``.
        shape: What is left at given covariates: ``sinh-arcsinh`` may be skewed and have heavier or lighter tails than
            ``gaussian``.
        power: Power of each column that is modelled: ``auto`` chooses among the column as it is, its square root and its
            logarithm by the log score of people who are left out, where all values are positive; ``none`` takes columns as
            they are. Images are.
        components: How many components of z are kept for ``latents.tsv``.
        visits: ``auto`` gives people with several visits levels and slopes of their own, which tell how unusual a change is.
    """

    spline_degrees: int = 4
    scale_degrees: int = 4
    interactions: tuple[tuple[str, ...], ...] = ()
    shape: Shape = "sinh-arcsinh"
    power: Literal["auto", "none"] = "auto"
    components: int = 16
    visits: Literal["auto", "independent"] = "auto"

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ModelError: The setting, its value and what is allowed.
        """
        if self.scale_degrees < 1:
            raise ModelError(f"settings.scale_degrees is {self.scale_degrees}; give 1 (a straight line) or more")

    @property
    def location(self) -> LinearSettings:
        """Settings of the linear model that says where a chart lies."""
        return LinearSettings(self.spline_degrees, self.interactions, gain="no", components=0, visits=self.visits)
