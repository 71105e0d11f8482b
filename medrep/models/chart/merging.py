"""One growth chart from charts of several institutes that never share rows.

Each part has told its people's sums of products (`stand_ins.py`) and its coefficients; with those, its stand-ins have the values
that the part's people have on average at their covariates, and their log scale. The merged chart is what a fit to all stand-ins
gives. With R the stand-ins' rows in the merged design, w their weights and y what their part says of them,

    coefficients = (sum of R'wR)^-1 sum of R'wy,

which, where parts have one design, is the regression on all people: sums of products are what that needs. Levels were shrunk in
each part and are shrunk anew: they are divided by the share that the part kept, told together, and shrunk with the variance that
all levels have. What the merged curve misses of a part's adds to what is left of its people, as people's residuals would have it:
with s the part's scale, h the share of the residual that its curve took, and m what is missed, the merged scale is told
s^2 (1 - h_part) + m^2 over 1 - h_merged. Log scale is told in the same way, with the information 2 R'wR and the prior of levels.
Shapes are averaged, each weighed by its information.

Powers are those that the parts of most people chose. Where a part chose another, or has another unit, its distribution is brought
there by quantiles; with the same power that is exact.

**What is approximated**: knots that the parts do not share lie at quantiles of stand-ins, and a spline is told by another; the
shrinkage of a single level is told from that of all; log scales are averaged where people's squares would be; tempering is a mean
over people; no part's shape changes with what the merged curve misses; the order of components is told by their rank, not by how
much they explain. Missing values count as the charts themselves count them: a column is known or not.
"""

from collections.abc import Sequence

import pandas as pd

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.joining import FittedCovariates, joined_schema
from medrep.cohort.support import Support
from medrep.errors import ModelError, listed
from medrep.models.chart.model import GrowthChart
from medrep.models.chart.parts import Part
from medrep.models.chart.pooling import Pooling
from medrep.models.chart.stand_ins import in_schema


def merged(parts: Sequence[Part]) -> tuple[GrowthChart, Support]:
    """Return the chart of all people, and where they lie among the covariates.

    Raises:
        ModelError: Charts that cannot be merged, and why, all of them.
        CovariateError: Covariates that are not the same, or that cannot be told apart.
    """
    _refuse(parts)
    schema = joined_schema(
        [FittedCovariates(one.name, one.chart.schema, sum(one.support.counts), one.given) for one in parts]
    )
    work = Pooling.of(parts, schema)
    middles = [in_schema(one.support.frame(one.chart.schema).assign(**one.given), schema) for one in parts]
    counts = [count for one in parts for count in one.support.counts]
    return work.chart(), Support.counted(schema, pd.concat(middles, ignore_index=True), counts)


def _refuse(parts: Sequence[Part]) -> None:
    first, problems = parts[0], []
    for one in parts:
        chart, line = one.chart, one.location.line
        if chart.columns != first.chart.columns:
            problems.append(f"{one.name}: has other columns than {first.name}{_differing(chart, first.chart)}")
        if chart.settings != first.chart.settings:
            problems.append(f"{one.name}: has other settings than {first.name}")
        if line.people:
            problems.append(f"{one.name}: knows visits; train it with --set settings.visits=independent")
        new = [f"{name} {level}" for name in chart.schema.batches for level in _without_people(chart.schema, name)]
        if new:
            problems.append(f"{one.name}: was adapted to {', '.join(new)}; give it as it was trained")
    if problems:
        cure = "train them with the same configuration on the same columns"
        raise ModelError(listed("charts that cannot be merged", problems, cure))


def _differing(one: GrowthChart, other: GrowthChart) -> str:
    """Return which columns differ, where they have names."""
    names, others = one.columns.names, other.columns.names
    odd = sorted(set(names) ^ set(others))
    some = f"{', '.join(odd[:5])}{' ...' if len(odd) > 5 else ''}"
    return f" ({some})" if odd else " (their order)" if names else ""


def _without_people(schema: CovariateSchema, name: str) -> list[str]:
    counts = getattr(schema[name], "counts", ())
    return [level for level, count in zip(schema.levels(name), counts, strict=True) if not count]
