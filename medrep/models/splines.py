"""Natural cubic splines: smooth in between, straight outside the outermost knots."""

import numpy as np
from jaxtyping import Float


def spline_knots(values: Float[np.ndarray, " people"], degrees: int) -> tuple[float, ...]:
    """Place knots at quantiles of the training values.

    Args:
        values: The covariate, any unit.
        degrees: Degrees of freedom wanted, the intercept not counted; 1 is a straight line.

    Returns:
        ``degrees + 1`` knots, or fewer where the values repeat too much to support them; two knots are a straight line.
    """
    distinct = np.unique(values)
    wanted = max(1, min(degrees, len(distinct) - 1))
    knots = np.unique(np.quantile(values, np.linspace(0.02, 0.98, wanted + 1)))
    if len(knots) < 2:
        knots = np.array([distinct[0], distinct[-1]])
    return tuple(float(knot) for knot in knots)


def natural_spline(
    values: Float[np.ndarray, " people"], knots: tuple[float, ...]
) -> Float[np.ndarray, "people degrees"]:
    """Evaluate the natural cubic spline basis without its constant.

    With K knots xi_k scaled to [0, 1]: N_1 = x, N_{k+1} = d_k - d_{K-1}, d_k = ((x - xi_k)^3_+ - (x - xi_K)^3_+)/(xi_K - xi_k)
    (Hastie, Tibshirani, Friedman, Elements of Statistical Learning, eq. 5.4-5.5).

    Args:
        values: Where to evaluate.
        knots: At least two, increasing.

    Returns:
        One column a degree of freedom: ``len(knots) - 1``.
    """
    low, high = knots[0], knots[-1]
    x = (values - low) / (high - low)
    xi = (np.asarray(knots) - low) / (high - low)

    def hinge(knot: float) -> np.ndarray:
        cubes: np.ndarray = (np.maximum(x - knot, 0) ** 3 - np.maximum(x - 1, 0) ** 3) / (1 - knot)
        return cubes

    last = hinge(xi[-2])
    return np.stack([x, *(hinge(knot) - last for knot in xi[:-2])], axis=1)
