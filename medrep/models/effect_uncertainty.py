"""How well the effects of covariates are known at given people, inside and outside what training had.

In units of each column's residual variance: with m the mean row of the design at the people and C = (X'WX)^-1 of the training
design (W: 1 / variance of each batch), the mean effect has the variance m'Cm. Beyond the outermost knots a natural spline is
straight, whatever the truth does there. If the curve goes on bending as much as it did inside, with a mean squared second
derivative of k^2, a person at the distance d is off by k d^2 / 2, and that is taken as a standard error: inside the knots k^2 is
known from the fit (the part of it that noise alone would have is taken off), its sign outside is not.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.models.design import Design

_PLACES = 41


def effect_covariance(
    design: Design, frame: pd.DataFrame, log_scale: Float[np.ndarray, "levels columns"]
) -> Float[np.ndarray, "effects effects"]:
    """Return the covariance of the intercept and the effects of a column, in units of its residual variance.

    Args:
        design: The design matrix.
        frame: Training people.
        log_scale: Log scales of the batch levels in the columns that vary; their mean over columns weighs the people.
    """
    levels = design.batches(frame)
    reduced = design.full(frame) @ design.contrasts(levels.sum(axis=0) > 0)
    usual = log_scale.mean(axis=1) if log_scale.shape[1] else np.zeros(len(log_scale))
    r = np.linalg.qr(reduced * np.exp(-levels @ usual)[:, None], mode="r")
    inverse = np.linalg.inv(r)
    effects = 1 + sum(len(term.centre) for term in design.terms)
    covariance: np.ndarray = (inverse @ inverse.T)[:effects, :effects]
    return covariance


def effect_variance(
    design: Design,
    covariance: Float[np.ndarray, "effects effects"],
    coefficients: Float[np.ndarray, "effects columns"],
    frame: pd.DataFrame,
) -> float:
    """Return the variance of the mean effect at some people, a mean over columns, in units of their residual variance.

    Args:
        design: The design matrix.
        covariance: `effect_covariance`.
        coefficients: Intercept and effects of the columns that vary, over their residual deviation.
        frame: The people's covariates.
    """
    mean = design.effects(frame).mean(axis=0)
    variance = float(mean @ covariance @ mean)
    for name, knots in design.knots.items():
        values = frame[name].to_numpy(float)
        beyond = [float((np.maximum(over, 0) ** 2).mean()) for over in (knots[0] - values, values - knots[-1])]
        if any(beyond):
            variance += _bend(design, name, covariance, coefficients, frame) * sum(far**2 for far in beyond) / 4
    return variance


def _bend(
    design: Design,
    name: str,
    covariance: Float[np.ndarray, "effects effects"],
    coefficients: Float[np.ndarray, "effects columns"],
    frame: pd.DataFrame,
) -> float:
    """Return the mean squared second derivative between the knots, the other covariates as the people have them."""
    places, step = np.linspace(design.knots[name][0], design.knots[name][-1], _PLACES, retstep=True)
    rows = np.stack([design.effects(frame.assign(**{name: place})).mean(axis=0) for place in places])
    second = np.diff(rows, 2, axis=0) / step**2
    squares = float(((second @ coefficients) ** 2).mean()) if coefficients.shape[1] else 0.0
    return max(squares - float(np.einsum("ij,jk,ik->i", second, covariance, second).mean()), 0.0)
