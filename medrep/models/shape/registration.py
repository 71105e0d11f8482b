"""Finding a person's own field, which brings what is expected of their covariates onto them: the most probable one, and how sure.

With E what is expected (`mean_shape.py`), F(p) the modes at p, h(p) = F(p) a, and what is predicted of the signed distance at p

    displacement: E(p + h(p)),      distance: E(p) + h(p),

a is the maximum of -1/2 sum_j w_j rho((predicted_j - s_j) / noise) - 1/2 a^T precision a with Cauchy's rho,
found by Gauss-Newton steps that are halved until they gain. The precision of the posterior is that of the last step (Laplace).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from medrep.models.shape.mean_shape import MeanShape, Observations

Moves = Literal["displacement", "distance"]
OUTLIER = 4.0
"""Residuals beyond this many times the noise count less and less."""
STEPS = 12
STILL = 2e-3
"""A step that moves no point by more than this share of the band ends the search."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of a subject's own field: the most probable coefficients, and the inverse of their covariance.

    `error` is the weighted root mean square residual near the surface, mm.
    """

    mean: Float[np.ndarray, " coefficients"]
    precision: Float[np.ndarray, "coefficients coefficients"]
    error: float

    def covariance(self) -> Float[np.ndarray, "coefficients coefficients"]:
        """Return the covariance of the coefficients."""
        return cho_solve(cho_factor(self.precision), np.eye(len(self.mean)))


def register(
    observations: Observations,
    mean_shape: MeanShape,
    precision: Float[np.ndarray, "coefficients coefficients"],
    noise: float,
) -> Posterior:
    """Find a person's own field, given what their covariates make expect.

    `precision` is the inverse of the covariance of the coefficients a, those of one mode side by side (mode-major), and `noise`
    the standard deviation of a signed distance, mm.
    """
    return _Search(observations, mean_shape, mean_shape.modes.at(observations.points), precision, noise).run()


@dataclass(frozen=True, eq=False)
class _Search:
    observations: Observations
    mean_shape: MeanShape
    basis: Float[np.ndarray, "points modes"]
    prior: Float[np.ndarray, "coefficients coefficients"]
    noise: float

    def run(self) -> Posterior:
        """Go from no field to the most probable one nearby."""
        a = np.zeros(len(self.prior))
        now, precision = self.at(a), self.prior
        for _ in range(STEPS):
            step, precision = now.step()
            length = 1.0
            while (then := self.at(a + length * step)).loss > now.loss and length > 0.1:
                length /= 2
            if then.loss > now.loss:
                break
            a, now = a + length * step, then
            transformed = np.abs(self.basis @ (length * step).reshape(self.basis.shape[1], -1)).max(initial=0.0)
            if transformed < STILL * self.observations.band:
                break
        return Posterior(a, precision, now.error())

    def at(self, a: Float[np.ndarray, " coefficients"]) -> "_Point":
        points, band = self.observations.points, self.observations.band
        field = self.basis @ a.reshape(self.basis.shape[1], -1)
        level, slope = self.mean_shape.slopes(points, field)
        residual = np.clip(level, -band, band) - self.observations.distances
        # Beyond the band on both sides nothing can be said about where the surface is.
        seen = (np.abs(level) < band) | (np.abs(self.observations.distances) < band)
        scaled = (residual / (OUTLIER * self.noise)) ** 2
        data = self.observations.weights @ (OUTLIER**2 * np.log1p(scaled))
        return _Point(self, a, residual, slope * seen[:, None], scaled, float(data + a @ self.prior @ a))


@dataclass(frozen=True, eq=False)
class _Point:
    search: _Search
    a: Float[np.ndarray, " coefficients"]
    residual: Float[np.ndarray, " points"]
    slope: Float[np.ndarray, "points outputs"]
    scaled: Float[np.ndarray, " points"]
    loss: float

    def step(self) -> tuple[Float[np.ndarray, " coefficients"], Float[np.ndarray, "coefficients coefficients"]]:
        """Return the Gauss-Newton step and the matrix it was solved with."""
        basis, prior = self.search.basis, self.search.prior
        weight = self.search.observations.weights / self.search.noise**2 / (1 + self.scaled)
        jacobian = (basis[:, :, None] * self.slope[:, None, :]).reshape(len(basis), -1)
        precision = jacobian.T @ (jacobian * weight[:, None]) + prior
        pull = jacobian.T @ (weight * self.residual) + prior @ self.a
        return -cho_solve(cho_factor(precision), pull), precision

    def error(self) -> float:
        """Return the root mean square residual, mm, weighted as in the search."""
        weights = self.search.observations.weights / (1 + self.scaled)
        return float(np.sqrt((weights @ self.residual**2) / weights.sum()))
