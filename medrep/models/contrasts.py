"""Two values of one covariate: what a map of its effect is drawn for."""

from dataclasses import dataclass

from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.values import shown


@dataclass(frozen=True)
class Contrast:
    """Two values of one covariate; the others are at their reference.

    Attributes:
        covariate: Which.
        before: From this value.
        after: To this one.
    """

    covariate: str
    before: float | str
    after: float | str

    @property
    def name(self) -> str:
        """Short text: ``age 38 -> 66``."""
        return f"{self.covariate} {shown(self.before)} -> {shown(self.after)}"


def contrasts(schema: CovariateSchema) -> tuple[Contrast, ...]:
    """Return one contrast for a continuous covariate, a deviation either side of its mean, and one for each further level."""
    found: list[Contrast] = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        if isinstance(covariate, Continuous):
            low = max(covariate.mean - covariate.sd, covariate.low)
            found.append(Contrast(name, low, min(covariate.mean + covariate.sd, covariate.high)))
            continue
        levels = [level for level in covariate.levels if level != covariate.reference]
        found += [Contrast(name, covariate.reference, level) for level in levels]
    return tuple(found)
