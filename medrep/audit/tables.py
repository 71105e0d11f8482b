"""Tables of audited people: what every measurement of them takes for granted."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from medrep.errors import CohortError, listed


def refuse_gaps(tables: Mapping[str, Float[np.ndarray, "people _"]], people: int) -> None:
    """Refuse tables with missing cells or of other people.

    Args:
        tables: Name -> table.
        people: How many rows there have to be.

    Raises:
        CohortError: All of them, with how many columns are affected.
    """
    offenders = []
    for name, data in tables.items():
        if len(data) != people:
            offenders.append(f"{name}: {len(data)} rows for {people} people")
        elif gaps := int((~np.isfinite(data)).any(axis=0).sum()):
            offenders.append(f"{name}: {gaps} of {data.shape[1]} columns have missing cells")
    if offenders:
        raise CohortError(listed("tables that cannot be audited", offenders, "audit whole columns of the same people"))
