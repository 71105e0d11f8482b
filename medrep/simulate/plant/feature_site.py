"""What a site does to anybody's feature table: a location and a scale for each column."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medrep.errors import CohortError, listed
from medrep.simulate.plant.site import site_names, untouched_site
from medrep.simulate.seeding import stream


@dataclass(frozen=True)
class FeatureSiteEffect:
    """The effect of one site on the columns of a table.

    Attributes:
        columns: Names of the columns.
        location: Shift of each column, in the column's standard deviations.
        scale: Factor on each column's distance from its mean.
    """

    columns: tuple[str, ...]
    location: tuple[float, ...]
    scale: tuple[float, ...]


def draw_feature_site_effects(
    sites: Iterable[str], columns: Sequence[str], *, seed: int, untouched: str | None = None
) -> dict[str, FeatureSiteEffect]:
    """Draw one effect a site: locations from N(0, 0.6) sd, log scales uniform within 0.35 of zero.

    Args:
        sites: Names; repeats are allowed, so a column of a participants table will do.
        columns: The table's columns.
        seed: Any integer from 0.
        untouched: The site that is left exactly as it is; None stands for the first.

    Returns:
        An effect for every distinct site; it depends on the seed, the name and the number of columns alone.

    Raises:
        CohortError: If there is no site, a name is not text, or the untouched one is not among them.
    """
    names = site_names(sites)
    spared = untouched_site(names, untouched)
    count = len(columns)
    effects = {}
    for name in names:
        rng = stream(seed, "feature site", name)
        location, log_scale = rng.normal(0.0, 0.6, count), rng.uniform(-0.35, 0.35, count)
        if name == spared:
            location, log_scale = np.zeros(count), np.zeros(count)
        effects[name] = FeatureSiteEffect(tuple(columns), tuple(location.tolist()), tuple(np.exp(log_scale).tolist()))
    return effects


def apply_feature_site_effects(
    features: pd.DataFrame, sites: Iterable[str], effects: Mapping[str, FeatureSiteEffect]
) -> pd.DataFrame:
    """Send every row of a table through its site.

    With m and d the mean and the standard deviation of a column over the whole table given::

        x' = x + (scale - 1) (x - m) + location d

    Args:
        features: Numbers, one row a person; missing ones stay missing.
        sites: The site of each row, in the table's order.
        effects: From `draw_feature_site_effects`, for the table's columns in its order.

    Returns:
        A new table with the same rows and columns, in float64. Rows of an untouched site keep their values exactly.

    Raises:
        CohortError: If sites and rows differ in number, a site has no effect, or an effect is for other columns.
    """
    row_sites = list(sites)
    if len(row_sites) != len(features):
        raise CohortError(
            f"{len(row_sites)} sites are given for a table of {len(features)} rows; give one for each row"
        )
    unknown = [repr(name) for name in dict.fromkeys(row_sites) if name not in effects]
    if unknown:
        raise CohortError(listed("sites without an effect", unknown, f"effects are drawn for: {', '.join(effects)}"))
    columns = tuple(map(str, features.columns))
    foreign = [name for name in dict.fromkeys(row_sites) if effects[name].columns != columns]
    if foreign:
        raise CohortError(listed("effects drawn for other columns than the table's", foreign, "draw them anew"))
    values = features.to_numpy(dtype=np.float64)
    if values.size == 0:
        return features.copy()
    # A column of missing values has neither mean nor sd, and stays missing.
    centre = features.astype(np.float64).mean().to_numpy()
    spread = features.astype(np.float64).std(ddof=0).to_numpy()
    location = np.array([effects[name].location for name in row_sites])
    scale = np.array([effects[name].scale for name in row_sites])
    planted = values + (scale - 1) * (values - centre) + location * spread
    return pd.DataFrame(planted, index=features.index, columns=features.columns)
