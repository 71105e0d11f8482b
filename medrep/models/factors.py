"""A factor model of residuals: few directions in common, and noise of each column's own.

    Cov(h) = L^T L + diag(psi),    L: factors x columns

It is the closed-form start of the autoencoder (probabilistic principal components, Tipping & Bishop 1999), the metric in which
kept covariates are read, and what samples draw from.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.models.blocks import BlockSource, principal_components

_FLOOR = 1e-3


@dataclass(frozen=True)
class FactorModel:
    """A fitted factor model; columns that never vary have neither loadings nor noise.

    Attributes:
        loadings: L, strongest factor first.
        noise: psi, variance of each column that no factor explains; 0 where the column never varies.
    """

    loadings: Float[np.ndarray, "factors columns"]
    noise: Float[np.ndarray, " columns"]

    @classmethod
    def fit(cls, h: BlockSource, freedom: float, count: int, *, seed: int, noise: float = 0.0) -> "FactorModel":
        """Take the leading components and leave the rest to the columns.

        A component with eigenvalue l carries signal l - e, with e the mean eigenvalue of the components that are not taken;
        components at or below e are noise and are not taken.

        Args:
            h: Residuals of mean zero.
            freedom: Degrees of freedom of the residuals, the divisor of their squares.
            count: Factors at most.
            seed: Seed of the search for components.
            noise: Standard deviation of all columns' own noise, where it is given instead of fitted.
        """
        count = min(count, max(1, int(freedom) // 2))
        components, scores = principal_components(h, count, seed)
        squares = np.zeros(h.shape[1])
        for part, block in h.map(lambda part, block: block):
            squares[part] = (block.astype(np.float64) ** 2).sum(axis=0)
        variance = squares / freedom
        varies = variance > 0
        values = (scores**2).sum(axis=0) / freedom
        rest = max(float(variance.sum() - values.sum()), 0.0) / max(int(varies.sum()) - len(values), 1)
        floor = noise**2 if noise > 0 else rest
        taken = values > floor * (1 + 1e-9)
        loadings = components[taken] * np.sqrt(values[taken] - floor)[:, None]
        own = np.maximum(variance - (loadings**2).sum(axis=0), _FLOOR * variance)
        return cls(loadings, np.where(varies, noise**2 if noise > 0 else own, 0.0))

    def solve(
        self, columns: Float[np.ndarray, "columns some"], ridge: float = 0.0
    ) -> Float[np.ndarray, "columns some"]:
        """Return (Cov(h) + ridge * mean variance * I)^-1 times the columns, by Woodbury's identity; 0 where nothing varies."""
        variance = (self.loadings**2).sum(axis=0) + self.noise
        added = ridge * float(variance.sum()) / max(int((variance > 0).sum()), 1)
        noise = np.where(self.noise > 0, self.noise + added, 0.0)
        precision = _inverse(noise)
        scaled = precision[:, None] * columns
        inner = np.eye(len(self.loadings)) + (self.loadings * precision) @ self.loadings.T
        return scaled - precision[:, None] * (self.loadings.T @ np.linalg.solve(inner, self.loadings @ scaled))

    def times(self, columns: Float[np.ndarray, "columns some"]) -> Float[np.ndarray, "columns some"]:
        """Return Cov(h) times the columns."""
        return self.loadings.T @ (self.loadings @ columns) + self.noise[:, None] * columns

    def posterior(
        self, latents: int, beta: float
    ) -> tuple[Float[np.ndarray, "latents columns"], Float[np.ndarray, " latents"]]:
        """Return the map h -> E[z | h] for h = L^T z + noise, z ~ N(0, I), and each latent's posterior variance.

        Args:
            latents: How many of the factors are latents; the variance of the others counts as noise.
            beta: Weight of the prior.
        """
        loadings = self.loadings[:latents]
        noise = self.noise + (self.loadings[latents:] ** 2).sum(axis=0)
        precision = _inverse(noise)
        covariance = np.linalg.inv(np.eye(len(loadings)) + (loadings * precision) @ loadings.T / max(beta, 1e-6))
        return covariance @ (loadings * precision) / max(beta, 1e-6), np.diag(covariance)

    def precision(self) -> Float[np.ndarray, " columns"]:
        """Return 1 / psi; 0 where a column never varies."""
        return _inverse(self.noise)

    def active(self, beta: float) -> int:
        """Forecast how many latents training will use: conditional eigenvalues above beta times the decoder's variance.

        In units of each column's own noise the variance is 1, so a factor is used where 1 + |L_j|^2 exceeds beta.
        """
        gains = np.linalg.svd(self.loadings * np.sqrt(self.precision()), compute_uv=False)
        return int((1 + gains**2 > beta + 1e-9).sum())


def _inverse(variances: Float[np.ndarray, " columns"]) -> Float[np.ndarray, " columns"]:
    return np.divide(1, variances, out=np.zeros_like(variances), where=variances > 0)
