"""Agreement of two models' latents of the same people: may embeddings of two versions, seeds or sites be used together?

Every figure is of people who neither fitted a map nor matched latents, and stands beside what exchanged people give (its floor).
The verdict follows from lower ends of intervals, so that what few people cannot show is not said:

- ``interchangeable``: B's latents are A's as they are. R2 of B's latents from A's same latents, no map fitted, is at least
  `SAME`, of the worst latent at least `SAME_WORST`, and at most `DIFFERING` of people have latents of which that does not hold;
- ``map``: an orthogonal or an affine map of A's latents tells at least `TOLD` of the variance of B's, or the other way round, and
  at least `TOLD_WORST` of each one's;
- ``not``: else.

Latents that hardly vary (`active_latents`) count in no figure of single latents and do not decide.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from medrep.audit.finding import Finding
from medrep.audit.intervals import (
    expanded_interval,
    jackknife_error,
    participant_codes,
    permutation_p,
    sample_weights,
    share_interval,
    student,
)
from medrep.audit.latent_maps import Form, cross_fitted, folds_of
from medrep.audit.similarity import (
    NEIGHBOURS,
    active_latents,
    anchor_similarity,
    correlations,
    debiased_cka,
    held_out_matching,
    matched_latents,
    mutual_neighbours,
)

First = Float[np.ndarray, "people first"]
Second = Float[np.ndarray, "people second"]
Verdict = Literal["interchangeable", "map", "not"]
Direction = Literal["a_to_b", "b_to_a"]

SAME, SAME_WORST, DIFFERING = 0.99, 0.95, 0.1
TOLD, TOLD_WORST = 0.9, 0.5
MIN_N, PEOPLE_A_LATENT = 50, 2
LEVELS: Mapping[Verdict, int] = {"not": 0, "map": 1, "interchangeable": 2}
LATENT_COLUMNS = ("model", "latent", "sd", "active", "partner", "correlation", "r2_orthogonal", "r2_affine")
_DIRECTIONS: tuple[Direction, Direction] = ("a_to_b", "b_to_a")
_FORMS: tuple[Form, Form] = ("orthogonal", "affine")
FIGURES: tuple[tuple[str, str], ...] = (
    *(("agreement_identity", group) for group in ("all", "worst")),
    ("agreement_differing", "all"),
    *((f"agreement_{form}", group) for form in _FORMS for where in _DIRECTIONS for group in (where, f"{where}/worst")),
    *((f"agreement_{name}", "all") for name in ("cka", "anchors", "neighbours", "matching")),
)
"""Metric and group of every figure."""
_AS_GOOD = 0.01  # an orthogonal map that tells so little less is taken: it keeps distances
_DRAWS, _EXCHANGED, _GROUPS, _ANCHORS, _MOST = 1000, 49, 20, 100, 1000
_OWN = 0.1  # share of a typical person's squared distance from the mean


@dataclass(frozen=True, eq=False)
class Agreement:
    """Findings on two models' latents.

    Attributes:
        findings: Every figure.
        verdict: None where there are too few people.
        reason: Why, a sentence.
        forms: Direction -> form of the map that is good enough, where the verdict is ``map``.
        latents: A row a latent of either model: model, latent, sd, active, partner, correlation, r2_orthogonal, r2_affine.
    """

    findings: tuple[Finding, ...]
    verdict: Verdict | None
    reason: str
    forms: Mapping[Direction, Form] = field(default_factory=dict)
    latents: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LATENT_COLUMNS)))


@dataclass(frozen=True, eq=False)
class _Told:
    """How well one model's latents are told from the other's: people x latents."""

    errors: Float[np.ndarray, "people latents"]
    totals: Float[np.ndarray, "people latents"]
    judged: Bool[np.ndarray, " latents"]

    def pooled(self, weights: Float[np.ndarray, "draws people"]) -> Float[np.ndarray, " draws"]:
        errors, totals = (weights @ part[:, self.judged].sum(axis=1) for part in (self.errors, self.totals))
        return _r2(errors, totals)

    def single(self, weights: Float[np.ndarray, "draws people"]) -> Float[np.ndarray, "draws judged"]:
        return _r2(weights @ self.errors[:, self.judged], weights @ self.totals[:, self.judged])

    def worst(self, weights: Float[np.ndarray, "draws people"]) -> Float[np.ndarray, " draws"]:
        return self.single(weights).min(axis=1)


def _r2(errors: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return 1 - np.divide(errors, totals, out=np.full_like(errors, np.inf), where=totals > 0)


def fewest_people(first: int, second: int, min_n: int = MIN_N) -> int:
    """Return how many people two models with so many latents take."""
    return max(min_n, PEOPLE_A_LATENT * max(first, second))


def insufficient_agreement(people: int, note: str) -> Agreement:
    """Return findings that say nothing, with why."""
    names = (("agreement_verdict", "all"), *FIGURES)
    return Agreement(
        tuple(Finding(metric, group, people, status="insufficient", note=note) for metric, group in names), None, note
    )


def compare_latents(
    first: First, second: Second, units: Shaped[np.ndarray, " people"], seed: int = 0, *, min_n: int = MIN_N
) -> Agreement:
    """Return how far two models' latents of the same people agree.

    Args:
        first: Latents by model A, a row a person.
        second: Latents by model B, the same people in the same order.
        units: Family of each, or the person: rows of one unit are drawn, folded and left out together.
        seed: Of every draw.
        min_n: Fewest people to say anything; twice as many as latents are wanted, too.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    people = len(np.unique(units))
    fewest = fewest_people(a.shape[1], b.shape[1], min_n)
    if people < fewest:
        return insufficient_agreement(people, f"{people} people, wanted: {fewest}")
    active = active_latents(a), active_latents(b)
    still = [name for name, varies in zip("AB", active, strict=True) if not varies.any()]
    if still:
        return _without_variance(people, still)
    data = _Data(a, b, active, participant_codes(np.asarray(units)), people, seed)
    told = {(form, where): data.told(form, where) for form in _FORMS for where in _DIRECTIONS}
    found = [*data.identity(), *(one for key in told for one in data.told_findings(key, told[key])), *data.alike()]
    figures = {(one.metric, one.group): one for one in found}
    forms = {where: form for where in _DIRECTIONS if (form := _good_form(figures, where)) is not None}
    verdict, reason = _verdict(figures, forms)
    head = Finding("agreement_verdict", "all", people, float(LEVELS[verdict]), note=f"{verdict}: {reason}")
    forms = forms if verdict == "map" else {}
    return Agreement((head, *found), verdict, reason, forms, data.described(told))


def _without_variance(people: int, still: list[str]) -> Agreement:
    reason = f"latents of {' and '.join(still)} do not vary between people, so that there is nothing to agree on"
    figures = {one: 1.0 if one[0] == "agreement_differing" else 0.0 for one in FIGURES}
    found = [
        Finding(metric, group, people, value, value, value, note=reason) for (metric, group), value in figures.items()
    ]
    head = Finding("agreement_verdict", "all", people, 0.0, note=f"not: {reason}")
    return Agreement((head, *found), "not", reason)


@dataclass(frozen=True, eq=False)
class _Data:
    """Latents of both models, which of them vary, the unit of each row, how many units there are, and the seed of draws."""

    a: First
    b: Second
    active: tuple[Bool[np.ndarray, " first"], Bool[np.ndarray, " second"]]
    units: Int[np.ndarray, " people"]
    people: int
    seed: int

    def pair(self, where: Direction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what is mapped, what it is to become, and which latents of that vary."""
        return (self.a, self.b, self.active[1]) if where == "a_to_b" else (self.b, self.a, self.active[0])

    def told(self, form: Form, where: Direction) -> _Told:
        source, target, judged = self.pair(where)
        folds = folds_of(self.units, np.random.default_rng(self.seed))
        return _Told(*cross_fitted(source, target, form, folds), judged)

    def interval(self, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        rng = np.random.default_rng(self.seed)
        drawn = [statistic(weights) for weights in sample_weights(self.units, _DRAWS, rng)]
        values = np.concatenate(drawn)
        return expanded_interval(values[np.isfinite(values)], self.people)

    def once(self) -> Float[np.ndarray, "1 people"]:
        return np.ones((1, len(self.a)))

    def exchanged(self) -> list[Int[np.ndarray, " people"]]:
        rng = np.random.default_rng(self.seed + 1)
        return [rng.permutation(len(self.a)) for _ in range(_EXCHANGED)]

    def identity(self) -> list[Finding]:
        """Return whether B's latents are A's, no map fitted; nothing is, where their numbers differ."""
        counts = self.a.shape[1], self.b.shape[1]
        if counts[0] != counts[1]:
            note = f"{counts[0]} latents against {counts[1]}"
            return [
                Finding(metric, group, self.people, value, value, value, note=note)
                for (metric, group), value in zip(FIGURES[:3], (0.0, 0.0, 1.0), strict=True)
            ]
        judged = self.active[0] | self.active[1]
        totals = (self.b - self.b.mean(axis=0)) ** 2
        same = _Told((self.a - self.b) ** 2, totals, judged)
        null = []
        for order in self.exchanged():
            mixed = _Told((self.a[order] - self.b) ** 2, totals, judged)
            null.append(mixed.pooled(self.once())[0])
        found = self._r2_findings("identity", "", same, np.array(null), "R2 of B's latents from A's as they are")
        own = same.errors[:, judged].sum(axis=1) > _OWN * same.totals[:, judged].sum(axis=1).mean()
        share = float(own.mean())
        error = float(np.sqrt(share * (1 - share) / len(own)))
        low, high = share_interval(share, error, self.people, len(own))
        note = "share of people whose latents differ by more than a third of a typical distance from the mean"
        return [*found, Finding("agreement_differing", "all", self.people, share, low, high, note=note)]

    def told_findings(self, key: tuple[Form, Direction], told: _Told) -> list[Finding]:
        """Return how well a map tells people who did not fit it, and what it tells of exchanged people."""
        form, where = key
        source, target, judged = self.pair(where)
        folds = folds_of(self.units, np.random.default_rng(self.seed))
        null = [
            _Told(*cross_fitted(source[order], target, form, folds), judged).pooled(self.once())[0]
            for order in self.exchanged()
        ]
        note = f"R2 of {where[-1].upper()}'s latents from {where[0].upper()}'s by an {form} map, out of fold"
        return self._r2_findings(form, where, told, np.array(null), note)

    def _r2_findings(self, metric: str, where: str, told: _Told, null: np.ndarray, note: str) -> list[Finding]:
        found = []
        for group, statistic in (("all", told.pooled), ("worst", told.worst)):
            estimate = float(statistic(self.once())[0])
            low, high = self.interval(statistic)
            name = group if not where else where if group == "all" else f"{where}/worst"
            p = permutation_p(estimate, null) if group == "all" else float("nan")
            text = f"{note}; exchanged people: {null.mean():.3f}" if group == "all" else f"{note}; the worst latent"
            found.append(Finding(f"agreement_{metric}", name, self.people, estimate, low, high, p, note=text))
        return found

    def alike(self) -> list[Finding]:
        """Return figures that no axes matter to, and how well latents match one another."""
        rng = np.random.default_rng(self.seed + 2)
        rows = np.sort(rng.permutation(len(self.a))[:_MOST])
        a, b = self.a[rows], self.b[rows]
        groups = folds_of(self.units[rows], rng, _GROUPS)
        anchors = rng.permutation(len(rows))[: min(_ANCHORS, len(rows) // 4)]
        is_anchor = np.isin(np.arange(len(rows)), anchors)
        half = folds_of(self.units[rows], rng, 2) == 0

        def anchored(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> float:
            return anchor_similarity(x, y, np.flatnonzero(is_anchor[kept]))

        def matching(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> float:
            x, y, first = x[:, self.active[0]], y[:, self.active[1]], half[kept]
            return (held_out_matching(x, y, first, ~first) + held_out_matching(x, y, ~first, first)) / 2

        statistics: dict[str, tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], float], str]] = {
            "cka": (lambda x, y, _: debiased_cka(x, y), "linear CKA, debiased"),
            "anchors": (anchored, f"correlation of cosines to {len(anchors)} anchors"),
            "neighbours": (
                lambda x, y, _: mutual_neighbours(x, y),
                f"share of {NEIGHBOURS} nearest neighbours in common, beyond chance",
            ),
            "matching": (matching, "correlation of matched latents, on people who did not match them"),
        }
        everybody = np.arange(len(rows))
        orders = [rng.permutation(len(rows)) for _ in range(_EXCHANGED)]
        found = []
        for name, (statistic, what) in statistics.items():
            estimate = statistic(a, b, everybody)
            null = np.array([statistic(a[order], b, everybody) for order in orders])
            without = [kept for group in range(_GROUPS) if len(kept := np.flatnonzero(groups != group))]
            error = jackknife_error(np.array([statistic(a[kept], b[kept], kept) for kept in without]))
            half_width = student(_GROUPS - 1) * error
            p, note = permutation_p(estimate, null), f"{what}; exchanged people: {null.mean():.3f}"
            ends = (max(estimate - half_width, -1.0), min(estimate + half_width, 1.0))
            found.append(Finding(f"agreement_{name}", "all", self.people, estimate, *ends, p, note=note))
        return found

    def described(self, told: Mapping[tuple[Form, Direction], _Told]) -> pd.DataFrame:
        """Return a row a latent of either model; see `Agreement.latents`."""
        pairs = matched_latents(self.a, self.b)
        related = correlations(self.a, self.b)
        partner = {"A": dict(zip(*pairs, strict=True)), "B": dict(zip(*reversed(pairs), strict=True))}
        rows = []
        for side, latents, active, where in (
            ("A", self.a, self.active[0], _DIRECTIONS[1]),
            ("B", self.b, self.active[1], _DIRECTIONS[0]),
        ):
            single = {
                form: replace(told[form, where], judged=np.ones_like(active)).single(self.once())[0] for form in _FORMS
            }
            for k in range(latents.shape[1]):
                other = partner[side].get(k)
                row = {
                    "model": side,
                    "latent": f"z{k + 1}",
                    "sd": float(latents[:, k].std()),
                    "active": "yes" if active[k] else "no",
                    "partner": None if other is None else f"z{other + 1}",
                    "correlation": None if other is None else float(related[(k, other) if side == "A" else (other, k)]),
                }
                shares = {f"r2_{form}": float(own[k]) if active[k] else None for form, own in single.items()}
                rows.append(row | shares)
        return pd.DataFrame(rows)


_Figures = Mapping[tuple[str, str], Finding]


def _good_form(figures: _Figures, where: Direction) -> Form | None:
    """Return the form of a map that tells enough of people who did not fit it; orthogonal where that is as good."""
    good = [
        form
        for form in _FORMS
        if figures[f"agreement_{form}", where].ci_low >= TOLD
        and figures[f"agreement_{form}", f"{where}/worst"].estimate >= TOLD_WORST
    ]
    if len(good) < len(_FORMS):
        return good[0] if good else None
    orthogonal, affine = (figures[f"agreement_{form}", where].estimate for form in _FORMS)
    return "orthogonal" if orthogonal >= affine - _AS_GOOD else "affine"


def _verdict(figures: _Figures, forms: Mapping[Direction, Form]) -> tuple[Verdict, str]:
    same, worst = (figures["agreement_identity", group] for group in ("all", "worst"))
    differing = figures["agreement_differing", "all"]
    if same.ci_low >= SAME and worst.ci_low >= SAME_WORST and differing.ci_high <= DIFFERING:
        return (
            "interchangeable",
            f"B's latents are A's as they are: R2 {_with_ends(same)}, the worst latent's {_with_ends(worst)}",
        )
    if forms:
        told = [
            f"an {form} map of {where[0].upper()}'s latents tells {_with_ends(figures[f'agreement_{form}', where])} of the"
            f" variance of {where[-1].upper()}'s"
            for where, form in forms.items()
        ]
        return "map", ", and ".join(told)
    return "not", "; ".join(_why_not(figures, where) for where in _DIRECTIONS)


def _why_not(figures: _Figures, where: Direction) -> str:
    best = max((figures[f"agreement_{form}", where] for form in _FORMS), key=lambda one: one.estimate)
    worst = max((figures[f"agreement_{form}", f"{where}/worst"] for form in _FORMS), key=lambda one: one.estimate)
    source, target = where[0].upper(), where[-1].upper()
    said = f"{source} tells {_with_ends(best)} of the variance of {target}'s latents"
    said += f", {max(worst.estimate, 0.0):.2f} of the worst one's"
    if best.ci_low >= TOLD:
        return f"{said} (asked: {TOLD_WORST})"
    shown = "" if best.ci_high < TOLD else "; more people may show it"
    return f"{said} (asked: {TOLD}{shown})"


def _with_ends(one: Finding) -> str:
    digits = 3 if one.estimate > 0.97 else 2
    figures = (max(value, 0.0) for value in (one.estimate, one.ci_low, one.ci_high))
    estimate, low, high = (f"{value:.{digits}f}" for value in figures)
    return f"{estimate} ({low} to {high})"
