"""Shift from the calibration sample: reference statistics of each scanner, and a split-conformal p-value.

Each calibration person is judged by a reference that was fitted without them, so that nobody has to be set aside for it; a
newcomer is judged by the reference of all. Their nonconformity then comes from the same distribution, but for one person more
in the newcomer's reference, and with n calibration people

    p = (1 + number of them who are no less unusual) / (n + 1)

is uniform, or somewhat large (Vovk 2012, cross-conformal; Barber 2021, jackknife+). The n people are those of the own scanner
(Mondrian) if it has enough of them for p to reach the rate. Otherwise they are everybody, each judged by their own scanner; for
a scanner of few people, whose location is little known, by as few of their own scanner. A person of a scanner that calibration
did not have (or had too few of, with too few others) is judged by the nearest one, against everybody judged by their nearest one.

The model's errors count to one side: that the model draws a person well is no sign of another scanner. People of its training are
drawn too well for their errors to be compared with those of others; give 0 for their errors, and the image alone decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep._persisted import persisted
from medrep._structuring import from_json
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.samples import Sample
from medrep.cohort.splits import TrainingRows
from medrep.errors import EvidenceError, ModelError, listed

Statistics = Float[np.ndarray, "people statistics"]
Codes = Int[np.ndarray, " people"]

ONE_SIDED = ("reconstruction_error", "deviation")
"""Statistics of which only too much is odd: nobody is unlike others for fitting well."""

_LEAST = 1e-9  # of a statistic's size: what varies less does not vary

Deviations = tuple[Statistics, Statistics]


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
        cls, values: Statistics, codes: Codes, scanners: tuple[str, ...], names: tuple[str, ...]
    ) -> "ShiftReference":
        """Fit on people's statistics and the number of each one's scanner.

        A scanner may have nobody, and is then at the location of all.
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

    def distances(self, values: Statistics) -> Float[np.ndarray, "people scanners"]:
        """Return the squared Mahalanobis distance of each person from each scanner.

        Of `ONE_SIDED` statistics the least odd value counts that is no lower than the person's: what is below what the others let
        expect adds nothing.
        """
        return np.stack([self.distance(values, code) for code in range(len(self.scanners))], axis=1)

    def distance(self, values: Statistics, code: int) -> Float[np.ndarray, " people"]:
        """Return `distances` from one scanner."""
        whitened = self._raised(values, code) @ self.whitening
        return (whitened**2 / self.variance[code]).sum(axis=1)

    def deviations(self, values: Statistics, code: int) -> Deviations:
        """Return how far each statistic is from the location of a scanner, and from what the others let expect, in sd."""
        plain = self._raised(values, code)
        covariance = (np.linalg.inv(self.whitening) ** 2 * self.variance[code][:, None]).sum(axis=0)
        precision = self._precision(code)
        return plain / np.sqrt(covariance), plain @ precision / np.sqrt(np.diag(precision))

    def _precision(self, code: int) -> Float[np.ndarray, "statistics statistics"]:
        return self.whitening / self.variance[code] @ self.whitening.T

    def _raised(self, values: Statistics, code: int) -> Statistics:
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
                transformed = plain.copy()
                transformed[:, free] = expected
                distance = ((transformed @ precision) * transformed).sum(axis=1)
                better = (expected >= plain[:, free]).all(axis=1) & (distance < least)
                best, least = np.where(better[:, None], transformed, best), np.where(better, distance, least)
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
    return np.sqrt(common) * np.exp(between / (between + error) * known[:, None] * log_ratio)


def _whitening(deviation: Statistics) -> Float[np.ndarray, "statistics statistics"]:
    """Return w with w^T c w = I for the covariance c, shrunk so that it has full rank."""
    from sklearn.covariance import ledoit_wolf  # half a second, which only calibration needs

    values, vectors = np.linalg.eigh(ledoit_wolf(deviation, assume_centered=True)[0])
    return vectors / np.sqrt(np.maximum(values, _LEAST))


MIN_N = 20
RATE = 0.05
LOGGED = ONE_SIDED
"""What a model adds to the statistics of the image; errors multiply, so that their logarithms are compared."""

_FEW = 20  # people of a scanner, from which on its location is known well enough
_FREEDOM = 10  # within scanners, which a reference has to have
_FOLDS = 200
_JUDGED = 400  # people who stand for all where each takes a fit
_TINY = 1e-12

Status = Literal["accept", "warn", "reject"]


def _refuse_parts(gate: "ShiftGate") -> None:
    if len(gate.own) != len(gate.reference.scanners) or len(gate.nearest) != sum(map(len, gate.own)):
        raise ModelError("a saved shift gate whose parts do not belong together; calibrate again")


@persisted(check=_refuse_parts)
@dataclass(frozen=True, eq=False)
class ShiftGate:
    """Gate of distribution shift: the calibration sample's statistics; no ids, and no participant's row.

    Attributes:
        reference: Location and spread of the statistics, scanner by scanner.
        own: For each scanner the nonconformity (squared Mahalanobis distance) of its calibration people by it, ascending.
        few: People of a small scanner -> nonconformity of people of larger ones, judged by as few, ascending.
        nearest: Of all calibration people by their nearest scanner, ascending.
    """

    reference: ShiftReference
    own: tuple[Float[np.ndarray, " _"], ...]
    few: Mapping[int, Float[np.ndarray, " _"]]
    nearest: Float[np.ndarray, " people"]

    @classmethod
    def fit(cls, statistics: pd.DataFrame, scanners: pd.Series) -> "ShiftGate":
        """Calibrate.

        Args:
            statistics: One row a person whom the model never saw (anybody, where no statistic comes from a model); columns:
                statistics of the image, and `LOGGED` as the model gives them. Several scans of a person count as several people,
                which makes p too small where they are alike: give one.
            scanners: The batch covariate of each, or one label for everybody; same index.

        Raises:
            EvidenceError: Fewer than 20 people.
            ModelError: Statistics or labels that are missing.
        """
        names = tuple(str(name) for name in statistics.columns)
        if len(statistics) < MIN_N:
            raise EvidenceError(
                f"a shift gate needs {MIN_N} calibration people or more, here: {len(statistics)}; hold more people back"
            )
        values = _logged(statistics, names)
        absent = statistics.index.difference(scanners.index[scanners.notna()])
        offenders = [f"{key}: no scanner" for key in absent]
        rows, columns = np.nonzero(~np.isfinite(values))
        offenders += [f"{statistics.index[row]}: {names[column]}" for row, column in zip(rows, columns, strict=True)]
        if offenders or not names:
            cure = "measure them, or leave these people out"
            raise ModelError(listed("calibration people without a statistic", offenders or ["no columns"], cure))
        labels, codes = np.unique(scanners.loc[statistics.index].astype(str).to_numpy(), return_inverse=True)
        reference = ShiftReference.fit(values, codes, tuple(labels.tolist()), names)
        apart = _unseen_distances(values, codes, reference)
        mine = apart[np.arange(len(values)), codes]
        small = sorted({count for count in np.bincount(codes).tolist() if count < _FEW})
        few = {count: np.sort(_distances_of_few(values, codes, reference, count)) for count in small}
        return cls(
            reference,
            tuple(np.sort(mine[codes == code]) for code in range(len(labels))),
            {count: scores for count, scores in few.items() if len(scores)},
            np.sort(apart.min(axis=1)),
        )

    def p_value(
        self, statistics: pd.DataFrame, scanners: pd.Series, rate: float = RATE
    ) -> Float[np.ndarray, " people"]:
        """Return each person's p-value, of the statistics of calibration.

        One that is not finite makes a person as unusual as can be; missing and unknown labels are those of an unseen scanner.
        `rate` of false alarms, which p is to be compared with, decides which scanners have enough calibration people. Raises
        ModelError for statistics of other names than at calibration.
        """
        values, codes = self._rows(statistics, scanners)
        scores = self.reference.distances(np.nan_to_num(values))
        scores[~np.isfinite(values).all(axis=1)] = np.inf
        p = np.empty(len(values))
        for code in np.unique(codes).tolist():
            rows = codes == code
            scanner, calibration = self._compared(code, rate)
            given = scores[rows].min(axis=1) if scanner < 0 else scores[rows, scanner]
            unusual = len(calibration) - np.searchsorted(calibration, given, side="left")
            p[rows] = (1 + unusual) / (len(calibration) + 1)
        return p

    def status(self, p: float, rate: float = RATE) -> Status:
        """Say what a p-value means at a rate of false alarms, the one that `p_value` was given.

        Reject from the rate down, warn up to twice the rate. Where calibration people are too few for any p to reach the rate,
        a person beyond all of them is warned of.
        """
        if p <= rate:
            return "reject"
        fewest = min(len(self._compared(code, rate)[1]) for code in range(-1, len(self.own)))
        return "warn" if p <= max(2 * rate, 1 / (fewest + 1)) else "accept"

    def reason(self, statistics: pd.DataFrame, scanners: pd.Series) -> list[str]:
        """Say of each person which statistic stands out most, and by how many standard deviations.

        ``noise +5.1 sd``, or ``power_8 -4.0 sd given the others`` where it is the relation to the other statistics that is
        odd.
        """
        values, codes = self._rows(statistics, scanners)
        known = np.isfinite(values)
        codes = np.where(codes < 0, self.reference.distances(np.nan_to_num(values)).argmin(axis=1), codes)
        said = []
        for row, code in enumerate(codes.tolist()):
            if not known[row].all():
                said.append(f"{self.reference.names[int(np.argmin(known[row]))]} is not finite")
                continue
            alone, given = (found[0] for found in self.reference.deviations(values[[row]], code))
            single, joint = int(np.abs(alone).argmax()), int(np.abs(given).argmax())
            if abs(alone[single]) >= abs(given[joint]):
                said.append(f"{self.reference.names[single]} {alone[single]:+.1f} sd")
            else:
                said.append(f"{self.reference.names[joint]} {given[joint]:+.1f} sd given the others")
        return said

    def _compared(self, code: int, rate: float) -> tuple[int, Float[np.ndarray, " _"]]:
        """Return the scanner (-1: the nearest) that people of a scanner are judged by, and the scores that theirs join."""
        count = len(self.own[code]) if code >= 0 else 0
        if code >= 0 and 1 / (count + 1) <= rate:
            return code, self.own[code]
        if count >= _FEW:
            return code, np.sort(np.concatenate([scores for scores in self.own if len(scores) >= _FEW]))
        if count in self.few:
            return code, np.sort(np.concatenate([self.own[code], self.few[count]]))
        return -1, self.nearest

    def _rows(self, statistics: pd.DataFrame, scanners: pd.Series) -> tuple[Statistics, Codes]:
        """Return statistics in calibration's order, and the number of each person's scanner (-1: unseen)."""
        names = self.reference.names
        given = {str(name) for name in statistics.columns}
        offenders = [f"{name} is absent" for name in names if name not in given]
        offenders += [f"{name} was not calibrated" for name in sorted(given - set(names))]
        if offenders:
            cure = f"measure {', '.join(names)}, or calibrate again"
            raise ModelError(listed("statistics that the shift gate does not fit", offenders, cure))
        number = {label: code for code, label in enumerate(self.reference.scanners)}
        labels = scanners.reindex(statistics.index)
        codes = [number.get(str(label), -1) if pd.notna(label) else -1 for label in labels]
        return _logged(statistics, names), np.array(codes, dtype=np.int64)


def saved_gate(content: object) -> ShiftGate:
    """Read what a model folder says of its gate; ModelError if that is no gate."""
    try:
        return from_json(ShiftGate, content)
    except ValueError as error:
        raise ModelError(f"not a saved shift gate ({error}); calibrate again") from None


def _logged(statistics: pd.DataFrame, names: tuple[str, ...]) -> Statistics:
    values = statistics.loc[:, list(names)].to_numpy(float, copy=True)
    for column in (k for k, name in enumerate(names) if name in LOGGED):
        values[:, column] = np.log(np.maximum(values[:, column], _TINY))
    return values


def _unseen_distances(
    values: Statistics, codes: Codes, reference: ShiftReference
) -> Float[np.ndarray, "people scanners"]:
    """Return each person's distances from a reference fitted without them: them alone, or with few others if there are many."""
    found = np.empty((len(values), len(reference.scanners)))
    # People next to each other in scanner go to different folds, so that a small scanner keeps all but one.
    folds = np.empty(len(values), dtype=np.int64)
    folds[np.argsort(codes, kind="stable")] = np.arange(len(values)) % _FOLDS
    for fold in range(min(_FOLDS, len(values))):
        rest = folds != fold
        others = ShiftReference.fit(values[rest], codes[rest], reference.scanners, reference.names)
        found[~rest] = others.distances(values[~rest])
    return found


def _distances_of_few(
    values: Statistics, codes: Codes, reference: ShiftReference, count: int
) -> Float[np.ndarray, " judged"]:
    """Return the distances of people of larger scanners from a reference without them that has `count` of their own scanner."""
    counts = np.bincount(codes)
    # With too little left of the others, nothing would be known of the spread within scanners.
    freedom = (counts - 1).sum() - (counts - count)
    people = np.flatnonzero(((counts > count) & (freedom >= _FREEDOM))[codes])
    people = people[:: max(1, -(-len(people) // _JUDGED))]
    rng = np.random.default_rng(count)
    found = np.empty(len(people))
    for row, person in enumerate(people):
        mine = np.flatnonzero(codes == codes[person])
        chosen = rng.choice(mine[mine != person], count, replace=False)
        rest = np.concatenate([np.flatnonzero(codes != codes[person]), chosen])
        others = ShiftReference.fit(values[rest], codes[rest], reference.scanners, reference.names)
        found[row] = others.distance(values[[person]], int(codes[person]))[0]
    return found


ANYBODY = "all"
"""The scanner of everybody where no covariate has the role of a batch."""


@dataclass(frozen=True, eq=False)
class ShiftDetector:
    """Detector of participants unlike those the model was calibrated with: says accept, warn or reject of each.

    Attributes:
        gate: As calibrated with people whom the model never saw.
        scanner: The covariate that names the scanner; empty where none does.
        rate: Of false alarms.
        trained: The rows that the model was trained on; None where nobody says.
    """

    gate: ShiftGate
    scanner: str
    rate: float
    trained: TrainingRows | None = None

    def figures(
        self, statistics: pd.DataFrame, people: Sequence[Sample], rows: Float[np.ndarray, "people columns"]
    ) -> list[dict[str, float | str]]:
        """Return what is said of each person, for scores.tsv: status, p-value, and what stands out most where it is no accept.

        Args:
            statistics: One row a person, a column a statistic.
            people: The same people.
            rows: Their data.
        """
        statistics = statistics.set_axis(range(len(statistics)))  # one person can stand for several
        known = np.array([self.trained is not None and self.trained.holds(row) for row in rows])
        errors = [name for name in LOGGED if name in statistics]
        statistics.loc[known, errors] = 0.0  # fitted to them, so not to be compared with those of others
        if len(errors) == statistics.shape[1] and known.any():
            judged = self._judged(statistics[~known], [one for one, own in zip(people, known, strict=True) if not own])
            rest = iter(judged)
            unjudged: dict[str, float | str] = {"status": "scored", "shift_p": "n/a", "shift_reason": "in training"}
            said = [dict(unjudged) if own else next(rest) for own in known]
        else:
            said = self._judged(statistics, people)
        told = ["n/a" if self.trained is None else "yes" if own else "no" for own in known]
        return [figures | {"in_training": own} for figures, own in zip(said, told, strict=True)]

    def _judged(self, statistics: pd.DataFrame, people: Sequence[Sample]) -> list[dict[str, float | str]]:
        if not len(statistics):
            return []
        statistics = statistics.set_axis(range(len(statistics)))
        scanners = pd.Series([str(one.covariates.get(self.scanner, ANYBODY)) for one in people])
        p = self.gate.p_value(statistics, scanners, self.rate)
        statuses = [self.gate.status(float(value), self.rate) for value in p]
        odd = [row for row, status in enumerate(statuses) if status != "accept"]
        reasons = dict(zip(odd, self.gate.reason(statistics.loc[odd], scanners.loc[odd]), strict=True)) if odd else {}
        return [
            {"status": statuses[row], "shift_p": float(p[row]), "shift_reason": reasons.get(row, "n/a")}
            for row in range(len(people))
        ]


def scanner_of(schema: CovariateSchema) -> str:
    """Return the covariate that names the scanner: the first batch; empty where there is none."""
    return next(iter(schema.batches), "")
