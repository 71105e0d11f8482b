"""Common and salient factors: a factor model of people whose controls lack some of the factors.

For a person of level l of a covariate, h the residual, and controls those at its reference:

    h = mu + W^T z + S^T s + e,    z ~ N(0, I),    e ~ N(0, diag(psi)),    s ~ N(m_l, Phi_l), for controls s = 0

(contrastive latent variable model: Severson, Ghosh and Ng 2019, AAAI; probabilistic contrastive principal components: Li,
Jones and Engelhardt 2020). It is fitted by expectation maximisation (EM), from everybody. With C = W^T W + diag(psi), which is
the covariance of controls, all that h tells of s is read by

    s^ = S C^-1 (h - mu),    S scaled and turned so that S C^-1 S^T = I and sum_l p_l (m_l m_l^T + Phi_l) = diag(q)

so that s^ of controls is N(0, I) and s^ of others N(m_l, I + Phi_l). Nothing of s is left in

    z^ = W C^-1 (h - mu - S^T s^),

the posterior mean of z where s may be anything: nobody's label is needed for either.

How many factors there are: common ones as many as have an eigenvalue above the 95% quantile of the same one where every column's
values were exchanged between people (parallel analysis, Horn 1965), and two more; salient ones one for each mean of a level, and
as many directions beside these as have a variance whose excess over controls' is above the 95% quantile of the largest excess
where labels were exchanged. **Limitations**: what of the covariate's effects lies in directions of common factors is taken from
these, too; directions are known as well as people tell them, so that of few people a trace stays in z^.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from medrep.models.vae.components import FactorModel

Square = Float[np.ndarray, "salient salient"]

_EXCHANGES, _COLUMN_EXCHANGES, _QUANTILE = 200, 10, 0.95
_ROUNDS, _SETTLED = 300, 1e-6
_FLOOR, _START = 1e-3, 0.3
_SPARE, _MOST_SCORES = 2, 200
_TINY = 1e-12


@dataclass(frozen=True)
class Contrast:
    """A fitted model; see the module's docstring for the symbols. Columns that do not vary have neither loadings nor noise.

    Attributes:
        common: W and psi.
        salient: S.
        centre: mu.
        means: m_l; 0 for controls.
        spreads: Phi_l; 0 for controls.
        second: q.
    """

    common: FactorModel
    salient: Float[np.ndarray, "salient columns"]
    centre: Float[np.ndarray, " columns"]
    means: Float[np.ndarray, "levels salient"]
    spreads: Float[np.ndarray, "levels salient salient"]
    second: Float[np.ndarray, " salient"]

    @classmethod
    def fit(
        cls,
        h: Float[np.ndarray, "people columns"],
        codes: Int[np.ndarray, " people"],
        control: int,
        most: tuple[int, int],
        seed: int,
    ) -> "Contrast":
        """Fit it to training people.

        Args:
            h: Residuals.
            codes: The level of each.
            control: The level without salient factors.
            most: How many common and how many salient factors there are at most; 0 salient ones: as many as stand out.
            seed: Of the exchanges.
        """
        rng = np.random.default_rng([seed, 29])
        varies = np.asarray(h.std(axis=0) > _TINY)
        rows = h[:, varies].astype(np.float64)
        levels = [level for level in range(int(codes.max()) + 1) if level != control and bool((codes == level).any())]
        centred = rows.copy()
        for level in (control, *levels):
            centred[codes == level] -= rows[codes == level].mean(axis=0)
        start = _common_start(centred, most[0], rng)
        mean = rows[codes == control].mean(axis=0)
        gaps = np.stack([rows[codes == level].mean(axis=0) - mean for level in levels])
        salient = _salient_start(start, centred, gaps, codes == control, most[1], rng)
        fitted = _Fit.start(rows, codes, (control, *levels), start, salient).settled()
        return fitted.contrast(varies, int(codes.max()) + 1)

    def readings(self) -> Float[np.ndarray, "columns salient"]:
        """Return C^-1 S^T, which read s^ from h - mu."""
        return self.common.solve(self.salient.T)

    def read(self, h: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people salient"]:
        """Return s^."""
        return (h - self.centre) @ self.readings()


def _common_start(centred: Float[np.ndarray, "people columns"], most: int, rng: np.random.Generator) -> FactorModel:
    """Return principal factors, as many as parallel analysis finds, one at least."""
    people = len(centred)
    exchanged = [
        _singular(np.stack([rng.permutation(column) for column in centred.T], axis=1)) for _ in range(_COLUMN_EXCHANGES)
    ]
    beyond = _singular(centred) > np.quantile(exchanged, _QUANTILE, axis=0)
    # A factor too many is harmless; one too few would be taken for a salient one.
    count = min(int(np.cumprod(beyond).sum()) + _SPARE, most, centred.shape[1] - 1)
    _, sizes, right = np.linalg.svd(centred, full_matrices=False)
    variance = (centred**2).mean(axis=0)
    rest = max(float(variance.sum() - (sizes[:count] ** 2).sum() / people), 0.0) / max(centred.shape[1] - count, 1)
    loadings = right[:count] * np.sqrt(np.maximum(sizes[:count] ** 2 / people - rest, _TINY))[:, None]
    return FactorModel(loadings, np.maximum(variance - (loadings**2).sum(axis=0), _FLOOR * variance))


def _singular(rows: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, " values"]:
    return np.sqrt(np.maximum(np.linalg.eigvalsh(rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows), 0))[
        ::-1
    ]


def _salient_start(
    common: FactorModel,
    centred: Float[np.ndarray, "people columns"],
    gaps: Float[np.ndarray, "others columns"],
    control: Bool[np.ndarray, " people"],
    most: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "salient columns"]:
    """Return the levels' mean gaps, and the directions in which others vary more than controls do by more than chance."""
    people = len(centred)
    weights = 1 / np.sqrt(common.noise)
    left, sizes, right = np.linalg.svd(centred * weights, full_matrices=False)
    kept = slice(0, int(min((sizes > _TINY * sizes[0]).sum(), people // 5, _MOST_SCORES)))
    scores, shifts = left[:, kept] * people**0.5, (gaps * weights) @ right[kept].T / sizes[kept] * people**0.5
    basis = np.linalg.svd(shifts, full_matrices=False)[2]
    free = scores - scores @ basis.T @ basis
    excess, turn = _excess(free, control)
    chance = [_excess(free, rng.permutation(control))[0][0] for _ in range(_EXCHANGES)]
    beyond = int((excess > np.quantile(chance, _QUANTILE)).sum())
    loadings = np.concatenate([gaps, turn[:, :beyond].T @ scores.T @ centred / people])
    return loadings[: most or None]


def _excess(
    scores: Float[np.ndarray, "people scores"], control: Bool[np.ndarray, " people"]
) -> tuple[Float[np.ndarray, " scores"], Float[np.ndarray, "scores scores"]]:
    """Return by how much others vary more than controls, the largest first, and the directions."""
    own, others = (part.T @ part / len(part) for part in (scores[control], scores[~control]))
    values, vectors = np.linalg.eigh(others - own)
    return values[::-1], vectors[:, ::-1]


@dataclass
class _Fit:
    """The state of EM; `levels` has the controls first, whose m and Phi stay 0."""

    rows: Float[np.ndarray, "people columns"]
    codes: Int[np.ndarray, " people"]
    levels: tuple[int, ...]
    loadings: Float[np.ndarray, "factors columns"]
    noise: Float[np.ndarray, " columns"]
    centre: Float[np.ndarray, " columns"]
    means: Float[np.ndarray, "levels salient"]
    spreads: Float[np.ndarray, "levels salient salient"]

    @classmethod
    def start(
        cls,
        rows: Float[np.ndarray, "people columns"],
        codes: Int[np.ndarray, " people"],
        levels: tuple[int, ...],
        common: FactorModel,
        salient: Float[np.ndarray, "salient columns"],
    ) -> "_Fit":
        centre, count = rows[codes == levels[0]].mean(axis=0), len(salient)
        readings = common.solve(salient.T)
        inverse = np.linalg.pinv(salient @ readings, hermitian=True)
        means, spreads = np.zeros((len(levels), count)), np.zeros((len(levels), count, count))
        for place, level in enumerate(levels[1:], 1):
            own = (rows[codes == level] - centre) @ readings @ inverse
            means[place] = own.mean(axis=0)
            # Not 0 in any direction: what is 0 stays 0 in EM.
            spreads[place] = _positive(np.cov(own, rowvar=False).reshape(count, count) - inverse) + _START * inverse
        return cls(
            rows, codes, levels, np.concatenate([common.loadings, salient]), common.noise, centre, means, spreads
        )

    @property
    def count(self) -> int:
        """Number of common factors."""
        return len(self.loadings) - self.means.shape[1]

    def settled(self) -> "_Fit":
        """Go on until the noise hardly changes."""
        for _ in range(_ROUNDS):
            before = self.noise
            self._round()
            if float(np.abs(np.log(self.noise / before)).max()) < _SETTLED:
                break
        return self

    def _round(self) -> None:
        """One step: expectations of the factors of everybody, then regressions of the columns on them."""
        factors, salient = self.loadings, slice(self.count, None)
        precise = factors / self.noise
        gram, width = precise @ factors.T, len(factors)
        expected = np.empty((len(self.rows), width))
        second = np.zeros((width + 1, width + 1))
        means, spreads = self.means.copy(), self.spreads.copy()
        for place, level in enumerate(self.levels):
            some = self.codes == level
            prior, middle = np.eye(width), np.zeros(width)
            prior[salient, salient], middle[salient] = self.spreads[place], self.means[place]
            covariance = np.linalg.solve(np.eye(width) + prior @ gram, prior)
            expected[some] = middle + (self.rows[some] - self.centre - middle @ factors) @ precise.T @ covariance
            second[:width, :width] += some.sum() * (covariance + covariance.T) / 2
            if place:
                own = expected[some][:, salient]
                means[place] = own.mean(axis=0)
                left = own - means[place]
                spreads[place] = _positive(left.T @ left / len(left) + covariance[salient, salient])
        design = np.concatenate([expected, np.ones((len(expected), 1))], axis=1)
        second += design.T @ design
        cross = design.T @ self.rows
        solved = np.linalg.solve(second + _TINY * np.trace(second) * np.eye(width + 1), cross)
        squares = (self.rows**2).sum(axis=0)
        variance = self.rows.var(axis=0)
        self.noise = np.maximum((squares - (solved * cross).sum(axis=0)) / len(self.rows), _FLOOR * variance)
        self.loadings, self.centre = solved[:-1], solved[-1]
        self.means, self.spreads = means, spreads

    def contrast(self, varies: Bool[np.ndarray, " columns"], levels: int) -> Contrast:
        """Return the model with common factors in the order of their size, and salient ones scaled and turned."""
        common, salient = self.loadings[: self.count], self.loadings[self.count :]
        _, sizes, right = np.linalg.svd(common / np.sqrt(self.noise), full_matrices=False)
        common = sizes[:, None] * right * np.sqrt(self.noise)
        model = FactorModel(common, self.noise)
        values, vectors = np.linalg.eigh(salient @ model.solve(salient.T))
        kept = values > _TINY * values[-1]
        scale = vectors[:, kept] * np.sqrt(values[kept])  # s of unit S C^-1 S^T is s scale
        salient = (vectors[:, kept] / np.sqrt(values[kept])).T @ salient
        means, spreads = self.means @ scale, scale.T @ self.spreads @ scale
        shares = np.array([(self.codes == level).mean() for level in self.levels])
        whole = np.einsum("l,li,lj->ij", shares, means, means) + np.einsum("l,lij->ij", shares, spreads)
        second, turn = np.linalg.eigh(whole)
        second, turn = second[::-1], turn[:, ::-1]
        turn = turn * np.where((shares @ means) @ turn < 0, -1.0, 1.0)
        places = list(self.levels)
        wide = np.zeros((levels, len(second))), np.zeros((levels, len(second), len(second)))
        wide[0][places], wide[1][places] = means @ turn, turn.T @ spreads @ turn
        return Contrast(
            FactorModel(_widened(common, varies), _widened(self.noise[None], varies)[0]),
            _widened(turn.T @ salient, varies),
            _widened(self.centre[None], varies)[0],
            *wide,
            np.maximum(second, _TINY),
        )


def _widened(
    rows: Float[np.ndarray, "rows some"], varies: Bool[np.ndarray, " columns"]
) -> Float[np.ndarray, "rows columns"]:
    wide = np.zeros((len(rows), len(varies)))
    wide[:, varies] = rows
    return wide


def _positive(matrix: Square) -> Square:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, 0)) @ vectors.T
