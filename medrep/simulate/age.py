"""The age curve that every simulator shares: a line, and a quadratic that sets in at fifty."""

import numpy as np
from jaxtyping import Float

CENTRE_YEARS = 50.0


def age_terms(age: Float[np.ndarray, " people"]) -> Float[np.ndarray, "people 2"]:
    """Compute the two terms of the curve ``a * t + b * max(0, t)^2`` with ``t = (age - 50) / 10``.

    Args:
        age: Years.

    Returns:
        The columns t (decades from fifty) and max(0, t)^2 (decades squared); both are zero at fifty.
    """
    decades = (age - CENTRE_YEARS) / 10.0
    return np.stack([decades, np.maximum(decades, 0.0) ** 2], axis=1)


def age_curve(age: float, linear: float, quadratic: float) -> float:
    """Evaluate the age curve for one person.

    Args:
        age: Years.
        linear: Change a decade.
        quadratic: Further change a squared decade, after fifty only.

    Returns:
        The change from age fifty, in the unit of the coefficients.
    """
    decades = (age - CENTRE_YEARS) / 10.0
    return linear * decades + quadratic * max(0.0, decades) ** 2
