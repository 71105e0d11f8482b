"""Factors of residuals and marginals of columns: closed-form parts of the conditional VAE.

    Cov(h) = L^T L + diag(psi),    L: factors x columns

It is the closed-form start of the autoencoder (probabilistic principal components, Tipping & Bishop 1999), the metric in which
kept covariates are read, and what samples draw from.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from medrep.models.chunks import ChunkSource, column_chunks, principal_components, read_chunk

_FLOOR = 1e-3


@dataclass(frozen=True)
class FactorModel:
    """A fitted factor model; columns that never vary have neither loadings nor noise.

    The rows of L have the strongest factor first; `noise` is psi, the variance of each column that no factor explains.
    """

    loadings: Float[np.ndarray, "factors columns"]
    noise: Float[np.ndarray, " columns"]

    @classmethod
    def fit(cls, h: ChunkSource, freedom: float, count: int, *, seed: int, noise: float = 0.0) -> "FactorModel":
        """Take the leading components of residuals of mean zero, and leave the rest to the columns.

        A component with eigenvalue l carries signal l - e, with e the mean eigenvalue of the components that are not taken;
        components at or below e are noise and are not taken. `freedom` is the divisor of the residuals' squares, `count` the
        most factors, and `noise` the standard deviation of all columns' own noise, where it is given instead of fitted.
        """
        count = min(count, max(1, int(freedom) // 2))
        components, scores = principal_components(h, count, seed)
        squares = np.zeros(h.shape[1])
        for part, chunk in h.map(lambda part, chunk: chunk):
            squares[part] = (chunk.astype(np.float64) ** 2).sum(axis=0)
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

        The variance of factors beyond the latents counts as noise; `beta` is the weight of the prior.
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


KNOTS = 129
FEWEST_KNOTS = 3
_STEPS = (1.0, 0.5, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Marginals:
    """Quantiles of training people and of the model's draws for the same covariates; no person's own row.

    Attributes:
        drawn: Quantiles of the draws, at the midpoints of equal steps of probability and the two ends; no row where draws
            are left as they are.
        real: The same quantiles of the data.
        step: The largest of 1, 0.5, 0.1, 0.01, 0.001 of which all values of a column are multiples; 0 for none, and
            for a column of one value.
    """

    drawn: Float[np.ndarray, "drawn columns"]
    real: Float[np.ndarray, "knots columns"]
    step: Float[np.ndarray, " columns"]

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "people columns"],
        draws: "Float[np.ndarray, 'draws columns'] | None",
        plain: "Bool[np.ndarray, ' columns'] | None" = None,
    ) -> "Marginals":
        """Learn the marginals of training people in their own units, NaN left out.

        Without draws, draws stay as they are, and only ends and median of the data are kept. `plain` columns are those that
        `draw` draws: they have training's marginals already, and stay as they are.
        """
        knots = FEWEST_KNOTS if draws is None else KNOTS
        probabilities = _probabilities(knots)
        real = np.zeros((knots, data.shape[1]))
        for part in column_chunks(*data.shape):
            own = read_chunk(data, part, data.dtype)
            finite = np.isfinite(own)
            some = finite.any(axis=0)
            # nanquantile goes column by column, a hundred times as slow.
            quantile = np.quantile if finite.all() else np.nanquantile
            real[:, part][:, some] = quantile(own[:, some], probabilities, axis=0)
        if draws is None:
            return cls(np.zeros((0, data.shape[1])), real, np.zeros(data.shape[1]))
        drawn = np.quantile(draws, probabilities, axis=0)
        if plain is not None:
            drawn[:, plain] = real[:, plain]
        return cls(drawn, real, np.array([_step(column) for column in data.T]))

    def bend(self, draws: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        """Give draws the marginals of training, keeping ranks; where none were learnt they stay as they are."""
        if not len(self.drawn):
            return draws
        knots, bent = np.arange(len(self.real), dtype=np.float64), np.empty(draws.shape)
        for column, (own, drawn, real) in enumerate(zip(draws.T, self.drawn.T, self.real.T, strict=True)):
            # A value that many draws share has many quantiles: the middle one, since either end may lie beyond training's.
            last, first = np.interp(own, drawn, knots), knots[-1] - np.interp(-own, -drawn[::-1], knots)
            bent[:, column] = np.interp((first + last) / 2, knots, real)
        return self._stepped(bent)

    def draw(
        self, rng: np.random.Generator, people: int, columns: Bool[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "people columns"]:
        """Draw some columns, each on its own, from training's quantiles; 0 in the others."""
        drawn = np.zeros((people, len(columns)))
        uniform = rng.uniform(size=(people, int(columns.sum())))
        for own, column in enumerate(np.flatnonzero(columns)):
            drawn[:, column] = np.interp(uniform[:, own], _probabilities(len(self.real)), self.real[:, column])
        return self._stepped(drawn)

    def usual(self) -> Float[np.ndarray, " columns"]:
        """Return the median of each column in training."""
        return self.real[len(self.real) // 2]

    def _stepped(self, values: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        per_unit = np.round(
            1 / np.where(self.step > 0, self.step, 1.0)
        )  # dividing by 10 gives 0.7, multiplying by 0.1 does not
        return np.where(self.step > 0, np.round(values * per_unit) / per_unit, values)


def _probabilities(knots: int) -> Float[np.ndarray, " knots"]:
    return np.concatenate([[0.0], (np.arange(knots - 2) + 0.5) / (knots - 2), [1.0]])


def _step(column: Float[np.ndarray, " people"]) -> float:
    finite = column[np.isfinite(column)]
    for step in _STEPS:
        multiples = finite / step
        # What differs by less than a step is in a smaller unit, not whole.
        varies = np.ptp(multiples) >= 0.5 if len(multiples) else False
        if varies and np.allclose(multiples, np.round(multiples), rtol=1e-9, atol=1e-6):
            return step
    return 0.0
