"""What calibration people look like: location and spread of statistics in each scanner, and their correlation in all of them."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from medrep._persisted import persisted

ONE_SIDED = ("reconstruction_error", "deviation")
"""Statistics of which only too much is odd: nobody is unlike others for fitting well."""

_LEAST = 1e-9  # of a statistic's size: what varies less does not vary

Deviations = tuple[Float[np.ndarray, "people statistics"], Float[np.ndarray, "people statistics"]]


@persisted(sizes={"scanners": lambda read: len(read["scanners"]), "statistics": lambda read: len(read["names"])})
@dataclass(frozen=True, eq=False)
class ShiftReference:
    """Statistics of calibration people, as normal distributions that share one correlation within scanners.

    In statistics whitened by it, scanner b's location on an axis is that of all plus w (its own mean - that of all), with
    w = t / (t + 1 / n_b) for a variance t between scanners and 1 within: empirical Bayes. What stays unknown of it, t (1 - w),
    adds to the variance that its people are judged by. Log deviations are shrunk towards the common one in the same way.

    Attributes:
        names: Of the statistics.
        scanners: Labels.
        location: Of each scanner.
        scale: Standard deviations within each scanner.
        whitening: Statistics in these deviations @ whitening have the covariance I within scanners.
        variance: Of the whitened statistics of a newcomer, 1 + what is unknown of the scanner's location.
    """

    names: tuple[str, ...]
    scanners: tuple[str, ...]
    location: Float[np.ndarray, "scanners statistics"]
    scale: Float[np.ndarray, "scanners statistics"]
    whitening: Float[np.ndarray, "statistics statistics"]
    variance: Float[np.ndarray, "scanners statistics"]

    @classmethod
    def fit(
        cls,
        values: Float[np.ndarray, "people statistics"],
        codes: Int[np.ndarray, " people"],
        scanners: tuple[str, ...],
        names: tuple[str, ...],
    ) -> "ShiftReference":
        """Fit on people.

        Args:
            values: Their statistics.
            codes: The number of each one's scanner; a scanner may have nobody, and is then at the location of all.
            scanners: Labels.
            names: Of the statistics.
        """
        member = np.eye(len(scanners))[codes]
        n = member.sum(axis=0)[:, None]
        means = np.divide(member.T @ values, n, out=np.zeros((len(n), values.shape[1])), where=n > 0)
        residual = values - means[codes]
        floor = _LEAST * np.maximum(np.abs(values).max(axis=0), _LEAST)
        freedom = np.maximum(n - 1, 0)
        common = np.maximum((residual**2).sum(axis=0) / max(1.0, float(freedom.sum())), floor**2)
        scale = _scale(member.T @ residual**2, freedom, common)
        # A scanner's own mean takes one of its n degrees of freedom.
        whitening = _whitening(residual / scale[codes] * np.sqrt(n / np.maximum(freedom, 1))[codes])
        location, unknown = _locate(means / np.sqrt(common) @ whitening, n)
        back = np.linalg.inv(whitening) * np.sqrt(common)
        return cls(names, scanners, location @ back, scale, whitening, 1 + unknown)

    def distances(self, values: Float[np.ndarray, "people statistics"]) -> Float[np.ndarray, "people scanners"]:
        """Return the squared Mahalanobis distance of each person from each scanner.

        Of `ONE_SIDED` statistics the least odd value counts that is no lower than the person's: what is below what the others let
        expect adds nothing.
        """
        return np.stack([self.distance(values, code) for code in range(len(self.scanners))], axis=1)

    def distance(self, values: Float[np.ndarray, "people statistics"], code: int) -> Float[np.ndarray, " people"]:
        """Return `distances` from one scanner."""
        whitened = self._raised(values, code) @ self.whitening
        squared: np.ndarray = (whitened**2 / self.variance[code]).sum(axis=1)
        return squared

    def deviations(self, values: Float[np.ndarray, "people statistics"], code: int) -> Deviations:
        """Return how far each statistic is from the location of a scanner, and from what the others let expect, in sd."""
        plain = self._raised(values, code)
        covariance = (np.linalg.inv(self.whitening) ** 2 * self.variance[code][:, None]).sum(axis=0)
        precision = self._precision(code)
        return plain / np.sqrt(covariance), plain @ precision / np.sqrt(np.diag(precision))

    def _precision(self, code: int) -> Float[np.ndarray, "statistics statistics"]:
        return self.whitening / self.variance[code] @ self.whitening.T

    def _raised(
        self, values: Float[np.ndarray, "people statistics"], code: int
    ) -> Float[np.ndarray, "people statistics"]:
        """Return deviations from a scanner, those of one-sided statistics raised to where the distance is least."""
        plain = (values - self.location[code]) / self.scale[code]
        sided = [k for k, name in enumerate(self.names) if name in ONE_SIDED]
        precision = self._precision(code)
        best, least = plain, ((plain @ precision) * plain).sum(axis=1)
        for count in range(1, len(sided) + 1):
            for free in map(list, combinations(sided, count)):
                rest = [k for k in range(len(self.names)) if k not in free]
                expected = (
                    -plain[:, rest] @ np.linalg.solve(precision[np.ix_(free, free)], precision[np.ix_(free, rest)]).T
                )
                moved = plain.copy()
                moved[:, free] = expected
                distance = ((moved @ precision) * moved).sum(axis=1)
                better = (expected >= plain[:, free]).all(axis=1) & (distance < least)
                best, least = np.where(better[:, None], moved, best), np.where(better, distance, least)
        return best


def _locate(
    means: Float[np.ndarray, "scanners axes"], n: Float[np.ndarray, "scanners 1"]
) -> tuple[Float[np.ndarray, "scanners axes"], Float[np.ndarray, "scanners axes"]]:
    """Return shrunk locations on whitened axes, and the variance that they leave unknown; moments give t."""
    present = n[:, 0] > 0
    seen, errors = means[present], 1 / n[present]
    between = np.maximum(seen.var(axis=0, ddof=1) - errors.mean(), 0) if len(seen) > 1 else np.zeros(means.shape[1])
    weights = 1 / (between + errors)
    middle = (weights * seen).sum(axis=0) / weights.sum(axis=0)
    kept = between / (between + 1 / np.maximum(n, 1)) * (n > 0)
    return middle + kept * (means - middle), between * (1 - kept)


def _scale(
    squares: Float[np.ndarray, "scanners statistics"],
    freedom: Float[np.ndarray, "scanners 1"],
    common: Float[np.ndarray, " statistics"],
) -> Float[np.ndarray, "scanners statistics"]:
    """Return deviations, their logs shrunk towards the common one; the variance of such a log is 1 / (2 freedom)."""
    known = freedom[:, 0] > 0
    variance = np.divide(squares, freedom, out=np.broadcast_to(common, squares.shape).copy(), where=freedom > 0)
    log_ratio = 0.5 * np.log(np.maximum(variance, 1e-6 * common) / common)
    error = 0.5 / np.maximum(freedom, 1)
    between = max(0.0, float((log_ratio**2 - error)[known].mean())) if known.sum() > 1 else 0.0
    scale: np.ndarray = np.sqrt(common) * np.exp(between / (between + error) * known[:, None] * log_ratio)
    return scale


def _whitening(deviation: Float[np.ndarray, "people statistics"]) -> Float[np.ndarray, "statistics statistics"]:
    """Return w with w^T c w = I for the covariance c, shrunk so that it has full rank."""
    from sklearn.covariance import ledoit_wolf  # half a second, which only calibration needs

    values, vectors = np.linalg.eigh(ledoit_wolf(deviation, assume_centered=True)[0])
    whitening: np.ndarray = vectors / np.sqrt(np.maximum(values, _LEAST))
    return whitening
