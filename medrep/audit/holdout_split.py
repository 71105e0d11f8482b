"""Audited people in two halves, one to train probes on and one to judge them by, and how a table is judged.

The remover never saw either (a split in three). Once trained, probes are fixed functions of a test person's row, so that
exchanging the test half's labels between participants is an exact test of "the table does not tell the label": participants of
as many rows exchange, their labels as one series. The statistic is the largest of the probes' figures, so that choosing the
strongest costs nothing (Westfall and Young's max-statistic). The same exchanges and bootstrap samples serve every table.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from medrep.audit.intervals import (
    Z,
    jackknife_error,
    participant_codes,
    percentile_interval,
    permutation_p,
    permuted,
    sample_weights,
    student,
)
from medrep.audit.probe_figures import (
    AUC,
    CHANCE,
    NUMBER,
    permuted_figures,
    recentred,
    stratified_group_split,
    weighted_figures,
)
from medrep.audit.probes import PROBES, TrainingHalf, predict_unseen

MIN_N, DRAWS, PERMUTATIONS = 20, 1000, 999
FEWEST = 5
"""Participants that a level needs in each half."""
MOST = 1500
"""Participants in a half at most; more are left out at random."""
_ONE = 1 - 1e-9  # where Fisher's scale ends


@dataclass(frozen=True, eq=False)
class Judged:
    """Figures of the probes on the test half.

    Attributes:
        probes: Their names.
        figures: Of each probe.
        resampled: The same on bootstrap samples of participants.
        floor: Mean of the largest figure under exchanged labels.
        p: Of the largest figure.
        chosen: The probe that the folds of the training half found strongest.
        of_folds: Figures of each probe as it was taught without each fold of the training half.
        measure: `AUC` or `NUMBER`.
    """

    probes: tuple[str, ...]
    figures: Float[np.ndarray, " probes"]
    resampled: Float[np.ndarray, "draws probes"]
    floor: float
    p: float
    chosen: int
    of_folds: Float[np.ndarray, "folds probes"]
    measure: str

    @property
    def strongest(self) -> float:
        """The largest figure."""
        return float(self.figures.max())

    @property
    def strongest_probe(self) -> str:
        """The probe that has it."""
        return self.probes[int(self.figures.argmax())]

    @property
    def strongest_draws(self) -> Float[np.ndarray, " draws"]:
        """The largest figure of each sample."""
        return self.resampled.max(axis=1)

    @property
    def strongest_of_folds(self) -> Float[np.ndarray, " folds"]:
        """The largest figure of the probes that each fold left to teach."""
        return self.of_folds.max(axis=1, initial=-np.inf)

    def interval(self) -> tuple[float, float]:
        """Return the 95% interval of the largest figure."""
        return figure_interval(self.measure, self.strongest, self.strongest_draws, self.strongest_of_folds)


def figure_interval(
    measure: str, estimate: float, draws: Float[np.ndarray, " draws"], of_folds: Float[np.ndarray, " folds"]
) -> tuple[float, float]:
    """Return the `taught_interval` of an AUC, or, made on Fisher's scale, of a signed squared correlation."""
    if measure != NUMBER:
        low, high = taught_interval(estimate, draws, of_folds)
        return max(low, 0.0), min(high, 1.0)
    ends = taught_interval(float(_fisher(np.array([estimate]))[0]), _fisher(draws), _fisher(of_folds))
    low, high = (float(np.tanh(end) * abs(np.tanh(end))) for end in ends)
    return low, high


def _fisher(figures: np.ndarray) -> np.ndarray:
    """Return Fisher's z of signed squared correlations."""
    z: np.ndarray = np.arctanh(np.clip(np.sign(figures) * np.sqrt(np.abs(figures)), -_ONE, _ONE))
    return z


def taught_interval(
    estimate: float, draws: Float[np.ndarray, " draws"], of_folds: Float[np.ndarray, " folds"], people: int = 0
) -> tuple[float, float]:
    """Return the 95% interval of a figure of the strongest probe: people who judge, and people who taught.

    The first is that of resampled people, probes as they are, the bias of choosing the strongest taken off (`recentred`). It is
    made longer by who taught them: by the jackknife over the folds in which they were tuned, and taught without one of them, so
    that it costs nothing (otherwise 95% intervals of few people held 79 to 98%).

    Args:
        estimate: The figure.
        draws: On samples of the people who judge.
        of_folds: By probes taught without each fold.
        people: Participants who judge, where the figure is a difference of numbers without an end: longer as Student's t, with
            the degrees of freedom of both errors together (Satterthwaite 1946). Three folds alone have two.
    """
    low, high = percentile_interval(recentred(draws, estimate))
    spread, taught = float(np.nanstd(draws)), jackknife_error(of_folds)
    longer = float(np.hypot(1.0, taught / spread)) if spread > 0 else 1.0
    if people > 1 and taught > 0:
        freedom = (spread**2 + taught**2) ** 2 / (spread**4 / (people - 1) + taught**4 / (len(of_folds) - 1))
        longer *= student(freedom) / Z
    return estimate - longer * (estimate - low), estimate + longer * (high - estimate)


@dataclass(frozen=True)
class Probing:
    """How thoroughly halves are probed.

    Attributes:
        min_n: Fewest participants in the test half, and fewest that can exchange labels there.
        permutations: Number of exchanges.
        draws: Number of bootstrap samples.
        probes: Which of `PROBES` judge.
    """

    min_n: int = MIN_N
    permutations: int = PERMUTATIONS
    draws: int = DRAWS
    probes: tuple[str, ...] = PROBES


PROBING = Probing()


@dataclass(frozen=True, eq=False)
class HoldoutSplit:
    """One label's halves.

    Attributes:
        measure: `AUC` for levels, `NUMBER` for a number.
        levels: The levels probed, in order; none for a number.
        labels: Of the rows: the number, or the place in ``levels``.
        participants: Code of the participant of each row.
        train: Rows to train on.
        test: Rows to judge by.
        people: Participants in the test half.
        left_out: Levels with too few participants, and how many each has.
        too_few: Why nothing can be said; empty where it can.
        sources: Exchanges of labels within the test half.
        weights: Bootstrap samples of the test half.
        seed: Of probes.
        note: What a reader has to know of the halves.
        probes: Which of `PROBES` judge.
    """

    measure: str
    levels: tuple[str, ...]
    labels: Float[np.ndarray, " people"]
    participants: Int[np.ndarray, " people"]
    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]
    people: int
    left_out: dict[str, int]
    too_few: str
    sources: Int[np.ndarray, "permutations test"]
    weights: Float[np.ndarray, "draws test"]
    seed: int
    note: str
    probes: tuple[str, ...] = PROBES

    @classmethod
    def of(
        cls,
        values: pd.Series,
        participants: Shaped[np.ndarray, " people"],
        seed: int,
        *,
        continuous: bool,
        probing: Probing = PROBING,
    ) -> "HoldoutSplit":
        """Divide people.

        Args:
            values: The label of each row; rows without one are left out.
            participants: Whose each row is.
            seed: Of every random step, here and in the probes.
            continuous: Whether the label is a number.
            probing: How thoroughly.
        """
        rng = np.random.default_rng(seed)
        who = participant_codes(participants)
        known = values.notna().to_numpy().copy()
        levels: tuple[str, ...] = ()
        left_out: dict[str, int] = {}
        if continuous:
            labels = values.to_numpy(float, na_value=np.nan)
            half = _split(who, labels, known, rng)
        else:
            text = values.astype(str).to_numpy(object)
            counts = pd.Series(who[known]).groupby(text[known]).nunique()
            left_out = {str(level): int(count) for level, count in counts.items() if count < 2 * FEWEST}
            known &= ~np.isin(text, list(left_out))
            half = _split(who, text, known, rng)
            few = [
                str(level)
                for level in counts.index.difference(list(left_out))
                if min(len(np.unique(who[(half == side) & (text == level)])) for side in (0, 1)) < FEWEST
            ]
            left_out |= {level: int(counts[level]) for level in few}
            half[np.isin(text, few)] = -1
            levels = tuple(str(level) for level in counts.index if level not in left_out)
            labels = np.array([levels.index(own) if own in levels else -1 for own in text], dtype=float)
        train, test = np.flatnonzero(half == 0), np.flatnonzero(half == 1)
        people, free = len(np.unique(who[test])), exchangeable(who[test])
        sides = (labels[train], labels[test])
        flat = continuous and any(len(side) > 0 and float(np.ptp(side)) == 0 for side in sides)
        too_few = _too_few(people, free, probing.min_n, None if continuous else len(levels), flat=flat)
        sources, weights = np.zeros((0, len(test)), dtype=int), np.zeros((0, len(test)))
        if not too_few:
            rows = rows_each(who[test])
            sources = np.concatenate(list(permuted(who[test], labels[test], rows, probing.permutations, rng)))
            weights = np.concatenate(list(sample_weights(who[test], probing.draws, rng)))
        note = f"{len(np.unique(who[train]))} people to train probes and {people} to judge them"
        if people > free:
            note += (
                f", {people - free} of these with a number of sessions of their own, whose labels are never exchanged"
            )
        measure = NUMBER if continuous else AUC
        return cls(
            measure,
            levels,
            labels,
            who,
            train,
            test,
            people,
            left_out,
            too_few,
            sources,
            weights,
            seed,
            note,
            probing.probes,
        )

    @property
    def chance(self) -> float:
        """The figure of a probe that tells nothing."""
        return CHANCE[self.measure]

    def judge(self, table: Float[np.ndarray, "people _"]) -> Judged:
        """Train the probes on the training half of a table, and judge them by its test half.

        Args:
            table: Rows as those of the labels, without missing cells; without columns nothing is told.
        """
        labels = self.labels[self.test]
        told = predict_unseen(
            table,
            TrainingHalf(self.train, self.labels[self.train], self.participants[self.train]),
            self.test,
            len(self.levels),
            self.seed,
            self.probes,
        )
        figures, *of_folds = (
            weighted_figures(scores, labels, np.ones((1, len(labels))), self.measure)[0]
            for scores in (told.scores, *told.of_folds)
        )
        exchanged = permuted_figures(told.scores, labels, self.sources, self.measure).max(axis=1)
        return Judged(
            self.probes,
            figures,
            weighted_figures(told.scores, labels, self.weights, self.measure),
            float(exchanged.mean()),
            permutation_p(float(figures.max()), exchanged),
            int(np.argmax(np.nan_to_num(told.inner, nan=-np.inf))),
            np.array(of_folds).reshape(len(of_folds), len(figures)),
            self.measure,
        )


def _split(who: np.ndarray, labels: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return 0 and 1 for the halves and -1 for rows that are left out."""
    half = np.full(len(who), -1)
    if known.any():
        half[known] = stratified_group_split(who[known], labels[known], 2, rng)
    for side in (0, 1):
        own = np.unique(who[half == side])
        if len(own) > MOST:
            half[np.isin(who, rng.permutation(own)[MOST:]) & (half == side)] = -1
    return half


def rows_each(who: np.ndarray) -> Int[np.ndarray, " rows"]:
    """Return for each row how many rows its participant has."""
    return np.bincount(who, minlength=1)[who] if len(who) else np.zeros(0, dtype=int)


def exchangeable(who: np.ndarray) -> int:
    """Return how many participants have another one of as many rows."""
    _, sizes = np.unique(who, return_counts=True)
    _, counts = np.unique(sizes, return_counts=True)
    return int(counts[counts > 1].sum())


def _too_few(people: int, free: int, min_n: int, levels: int | None, *, flat: bool) -> str:
    """Return why nothing can be said; empty where it can. ``levels`` is None of a number."""
    if people < max(min_n, FEWEST):
        return f"{people} people in the half that judges, {max(min_n, FEWEST)} are needed"
    if free < max(min_n, FEWEST):
        return (
            f"only {free} people have as many sessions as others, so that labels can be exchanged; {min_n} are needed"
        )
    if levels is not None and levels < 2:
        return f"fewer than two levels have {FEWEST} people in each half"
    return "everybody has the same value" if flat else ""
