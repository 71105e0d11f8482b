"""Stress: mechanisms that differ between sites are found as often as asked, and robustness values are what they say.

Mechanisms: 200 people of 4 sites (60, 60, 40, 40), age confounded with site (site means of -.8 to .8 sd), a bent age effect, sex,
12 columns that go together (correlation .3). Size: no interaction, in sites that spread alike, in sites whose deviations are .5,
1, 1 and 2, with errors that have long tails, where the spread grows with age, with two visits of half of the people, and in 60
people.
Power: slopes on age of two sites lie above those of the others. `sd .3`: the deviation of slopes over sites is .3 (sites at +.3
and -.3); `difference .3`: it is half of that (+.15 and -.15). In one column a difference of .3 is beyond any test: with the
halves known, a t test of 200 people has a power of .56. Age is confounded with site where that is said, which takes power.

Robustness: against coefficients of least squares written out in full, and by adding the confounder that a value speaks of.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.mechanisms import Products, mechanism_test, products_of, slope_spread
from medrep.audit.robustness import effects_on
from medrep.cohort.covariates import Covariate, CovariateSchema

SITES, COLUMNS, SLOPE = (60, 60, 40, 40), 12, 0.3
_DECLARED = (Covariate("age", "continuous"), Covariate("sex", "categorical"), Covariate("site", "categorical", "batch"))
_PLACES, _SPREADS = (-0.8, -0.3, 0.3, 0.8), (0.5, 1.0, 1.0, 2.0)
_APART, _FEW = "age not confounded", "60 people"
_SIZE = ("alike", "sites spread unlike", "long tails", "spread grows with age", "two visits", _FEW)
_POWER = {
    "sd .3 in one column": (SLOPE, 1, _APART),
    "sd .3 in one column, confounded": (SLOPE, 1, "alike"),
    "sd .3 in 3 columns, confounded": (SLOPE, 3, "alike"),
    "difference .3 in one column": (SLOPE / 2, 1, _APART),
    "difference .3 in 6 columns": (SLOPE / 2, 6, _APART),
    "difference .3 in all columns": (SLOPE / 2, COLUMNS, _APART),
}
_SEEDS, _OFF, _FLIPS = 400, 90_000, 999


def population(seed: int, case: str = "alike", slope: float = 0.0, columns: int = 0) -> tuple[Products, np.ndarray]:
    """Return people, and columns of which the first have another slope at two of the sites."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(4), (15, 15, 15, 15) if case == _FEW else SITES)
    people = len(site)
    age = rng.normal(size=people) + (np.take(_PLACES, site) if case != _APART else 0)
    age = (age - age.mean()) / age.std()
    sex = rng.integers(2, size=people)
    frame = pd.DataFrame({"age": 50 + 15 * age, "sex": np.take(["F", "M"], sex), "site": [f"S{k}" for k in site]})
    shared, own = (_errors(rng, shape, case) for shape in ((people, 1), (people, COLUMNS)))
    errors = np.sqrt(0.3) * shared + np.sqrt(0.7) * own
    if case == "sites spread unlike":
        errors *= np.take(_SPREADS, site)[:, None]
    if case == "spread grows with age":
        errors *= np.exp(0.4 * age)[:, None]
    fixed = np.stack([0.5 * age, 0.3 * age**2, 0.4 * sex], axis=1) @ rng.normal(size=(3, COLUMNS))
    data = fixed + np.take(rng.normal(size=(4, COLUMNS)), site, axis=0) + errors
    data[:, :columns] += slope * (np.take([1, -1, 1, -1], site) * age)[:, None]
    who = np.arange(people)
    if case == "two visits":
        again = np.flatnonzero(who % 2 == 0)
        frame, who = pd.concat([frame, frame.iloc[again]], ignore_index=True), np.concatenate([who, again])
        data = np.concatenate([data, data[again]]) + 0.3 * rng.normal(size=(len(who), COLUMNS))
    schema = CovariateSchema.fit(frame, _DECLARED)
    return products_of(frame, schema, "site", "age", who.astype(str)), data


def _errors(rng: np.random.Generator, shape: tuple[int, int], case: str) -> np.ndarray:
    return rng.standard_t(4, size=shape) / 2**0.5 if case == "long tails" else rng.normal(size=shape)


def _mechanisms(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows = []
    for case in _SIZE:
        say(f"stress: size, {case}")
        drawn = (population(_OFF + seed, case) for seed in range(seeds))
        tested = [mechanism_test(data, asked, seed, _FLIPS) for seed, (asked, data) in enumerate(drawn)]
        rows.append(_row(case, seeds, [one.p_any for one in tested], [one.p for one in tested], []))
    for case, (slope, columns, of) in _POWER.items():
        say(f"stress: power, {case}")
        any_p, of_columns, held = [], [], []
        for seed in range(max(seeds // 2, 20)):
            asked, data = population(2 * _OFF + seed, of, slope, columns)
            own = mechanism_test(data, asked, seed, _FLIPS)
            any_p.append(own.p_any)
            of_columns.append(own.p[:columns])
            _, low, high = slope_spread(data[:, 0], asked)
            held.append(float(low <= slope <= high))
        rows.append(_row(case, len(any_p), any_p, of_columns, held))
    table = pd.DataFrame(rows)
    by = table.set_index("case")
    lines = []
    for case in _SIZE:
        for test in ("any column", "each column"):
            share = float(by.loc[case, test])
            least, wanted = (0.0, "at most .065") if case == _FEW else (0.035, ".05 +- .015")
            asked_for = f"size of the test of {test}, {case}: {wanted}"
            lines.append(Line("stress", asked_for, f"{share:.3f}", least <= share <= 0.065))
    for case in ("sd .3 in one column", "sd .3 in one column, confounded", "difference .3 in one column"):
        share = float(by.loc[case, "each column"])
        lines.append(Line("stress", f"power at slopes of {case}, n = 200: >= .9", f"{share:.3f}", share >= 0.9))
    fewest = float(by.loc[list(_POWER), "interval holds"].min())
    lines.append(
        Line("stress", "intervals of the deviation of slopes hold it: >= .93", f"{fewest:.3f}", fewest >= 0.93)
    )
    return table, lines


def _row(case: str, seeds: int, any_p: list[float], p: list[np.ndarray], held: list[float]) -> dict[str, object]:
    return {
        "case": case,
        "seeds": seeds,
        "any column": float(np.mean(np.array(any_p) <= 0.05)),
        "each column": float(np.mean(np.concatenate(p) <= 0.05)),
        "interval holds": float(np.mean(held)) if held else float("nan"),
    }


def _robustness(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(3 * _OFF + seed)
        n = int(rng.integers(40, 300))
        others = np.concatenate([np.ones((n, 1)), rng.normal(size=(n, 3))], axis=1)
        covariate = others @ rng.normal(size=4) + rng.normal(size=n)
        column = rng.normal(0, 0.5) * covariate + others @ rng.normal(size=4) + rng.normal(size=n)
        found = effects_on(column[:, None], covariate, others)
        t, freedom = _least_squares(column, covariate, others)
        f = abs(t) / freedom**0.5
        critical = student_t.ppf(0.975, freedom - 1) / (freedom - 1) ** 0.5
        inner = max(f - critical, 0.0)
        value, level = _closed(f), (_closed(inner) if f <= 1 / critical else (f**2 - critical**2) / (1 + f**2))
        planted = explained_away(column, covariate, others, float(found.values[0]), rng)
        rows.append(
            {
                "seed": seed,
                "partial R2": abs(float(found.partial_r2[0]) - t**2 / (t**2 + freedom)),
                "robustness value": abs(float(found.values[0]) - value),
                "at .05": abs(float(found.significant()[0]) - level),
                "coefficient left": abs(planted),
            }
        )
    table = pd.DataFrame(rows)
    names = [name for name in table if name != "seed"]
    worst = pd.DataFrame({"figure": names, "largest difference": [float(table[name].max()) for name in names]})
    lines = [
        Line("stress", f"{row.figure} against its closed form: <= 1e-6", f"{row[1]:.1e}", bool(row[1] <= 1e-6))
        for row in worst.itertuples(index=False)
    ]
    return worst, lines


def _closed(f: float) -> float:
    return 0.5 * ((f**4 + 4 * f**2) ** 0.5 - f**2)


def _least_squares(column: np.ndarray, covariate: np.ndarray, others: np.ndarray) -> tuple[float, int]:
    design = np.concatenate([covariate[:, None], others], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    slopes = inverse @ design.T @ column
    freedom = len(column) - design.shape[1]
    variance = float(((column - design @ slopes) ** 2).sum()) / freedom
    return float(slopes[0] / (variance * inverse[0, 0]) ** 0.5), freedom


def explained_away(
    column: np.ndarray, covariate: np.ndarray, others: np.ndarray, value: float, rng: np.random.Generator
) -> float:
    """Return the coefficient of the covariate beside a confounder with partial R2 ``value`` with it and with the column."""

    def rest(values: np.ndarray, on: np.ndarray) -> np.ndarray:
        return values - on @ np.linalg.lstsq(on, values, rcond=None)[0]

    own = rest(covariate, others)
    own /= np.linalg.norm(own)
    given = np.concatenate([others, covariate[:, None]], axis=1)
    left = rest(column, given)
    left /= np.linalg.norm(left)
    noise = rest(rng.normal(size=len(own)), np.concatenate([given, left[:, None]], axis=1))
    noise /= np.linalg.norm(noise)
    sign = np.sign(own @ column)
    confounder = value**0.5 * own + (1 - value) ** 0.5 * (sign * value**0.5 * left + (1 - value) ** 0.5 * noise)
    design = np.concatenate([covariate[:, None], confounder[:, None], others], axis=1)
    return float(np.linalg.lstsq(design, column, rcond=None)[0][0])


def run(options: Options) -> Report:
    """Measure size, power and robustness values (``--quick``: 100 seeds)."""
    began = time.process_time()
    mechanisms, lines = _mechanisms(100 if options.quick else _SEEDS)
    robust, more = _robustness(50 if options.quick else 200)
    say(f"stress: {time.process_time() - began:.0f} s of processor time")
    title = "Mechanisms: share of p <= .05, and how often intervals of the slopes' deviation hold it"
    tables = {
        "stress_mechanisms": Table(mechanisms, tuple(mechanisms.columns), title),
        "stress_robustness": Table(robust, tuple(robust.columns), "Robustness values: largest difference"),
    }
    return Report(tables, tuple(lines + more))
