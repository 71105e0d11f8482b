"""Growth charts of generated people: spread by age, coverage of centiles, planted deviations, and new sites.

Coverage of a centile is the mean, over fresh people, of the truth's distribution function at what a chart says: what 100 000
drawn values would show but for their own noise. One chart of 1000 people is off by more than a point at the median, and its
spread by more than 5% in ten years of age, by chance alone; hence what is judged are means over seeds and features, apart for
features whose spread doubles with age and for those where it halves. Deviations of single charts stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks.chart_methods import AROUND, AT_NEW_SITES, METHODS, OURS, SAMPLED, Answer, Question
from benchmarks.chart_real import NEARER, costs
from benchmarks.chart_scores import LEVELS, plant, scored, separation
from benchmarks.chart_truth import ChartTruth
from benchmarks.peers.run import PeerError
from benchmarks.report import Line, Options, Table, say

SEEDS, SLOW_SEEDS = range(300, 320), 1
PEOPLE, FRESH = 1000, 2000
CENTILES = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
BANDS = np.arange(20, 81, 10)
TRUTH = "truth"

INSIDE, OUTSIDE = (20.0, 60.0), (65.0, 80.0)
NEW = {
    f"{n} people {where}": (n, ages) for where, ages in (("inside", INSIDE), ("outside", OUTSIDE)) for n in (5, 10, 30)
}
TRAINED, NEW_FEATURES, FRESH_OF_SITE = 600, 3, 500
COVERED = (0.93, 0.97)


def measure(seed: int, names: Iterable[str], people: int = PEOPLE) -> tuple[list[dict[str, object]], pd.DataFrame]:
    """Fit methods on generated people and compare with the truth.

    Args:
        seed: Of the truth and the people.
        names: Keys of METHODS.
        people: To fit on.

    Returns:
        One row a method and one for the truth itself; and, by method, direction, age band and centile, what is covered, with the
        spread's relative error.
    """
    truth, rng = ChartTruth(seed), np.random.default_rng([seed, 25])
    table, fresh = truth.people(people, rng), truth.people(FRESH, rng)
    train, test = truth.values(table, rng), truth.values(fresh, rng)
    shapes = truth.shapes(fresh)
    shifted, rows, signs = plant(test, shapes.spread, seed)
    asked = pd.concat([fresh, fresh.iloc[rows].rename(index=lambda name: f"{name}-shifted")])
    levels = np.concatenate([LEVELS, CENTILES, AROUND, [0.99]])
    question = Question(train, table, np.concatenate([test, shifted]), asked, levels=levels)
    found, cells = [], []
    for name in (TRUTH, *names):
        row: dict[str, object] = {"seed": seed, "method": name}
        try:
            answer = _known(truth, question) if name == TRUTH else METHODS[name](question)
        except PeerError as error:
            found.append(row | {"note": str(error)})
            continue
        quantiles, z = answer.quantiles[:, :FRESH], answer.z[:FRESH]
        row |= scored(z, answer.log_density[:FRESH], quantiles[: len(LEVELS)], test, train.std(axis=0))
        row["auc"] = separation(answer.z[FRESH:], z, signs)
        row["z_error"] = float(np.sqrt(np.square(z - shapes.z(test)).mean()))
        best = shapes.quantile(np.full((1, 1), norm.ppf(0.99)))
        row["q99_error"] = float((np.abs(quantiles[-1] - best) / shapes.spread).mean())
        predicted = quantiles[len(LEVELS) : -1]
        around = predicted[-2:] if answer.around is None else answer.around[:, :FRESH]
        own = _cells(truth, fresh, predicted[:-2], around)
        shares = _mean_by(own, ["feature", "centile"], "covered").set_index("feature")
        row["coverage_off"] = float(np.abs(shares.to_numpy(dtype=float) - CENTILES).mean())
        row["spread_off"] = float(own.drop_duplicates(["feature", "band"])["spread"].abs().mean())
        cells.append(own.assign(seed=seed, method=name))
        found.append(row | costs(answer))
    return found, pd.concat(cells)


def truth_tables(options: Options) -> tuple[dict[str, Table], list[Line]]:
    """Measure every seed against the truth."""
    rows, cells = [], []
    for order, seed in enumerate(_seeds(options)):
        say(f"charts: generated people, seed {seed}")
        own, cell = measure(seed, _names(METHODS, options, order))
        rows += own
        cells.append(cell)
    frame, cell = pd.DataFrame(rows), pd.concat(cells)
    figures = [name for name in frame if name not in {"seed", "method", "version", "note"}]
    means = frame.groupby("method", sort=False)[figures].mean().reset_index()
    covered = _mean_by(cell, ["method", "centile"], "covered")
    spread = _mean_by(
        cell.drop_duplicates(["seed", "method", "feature", "band"]), ["method", "direction", "band"], "spread"
    )
    title = f"Generated people, {PEOPLE} to fit on, {frame['seed'].nunique()} seeds"
    tables = {
        "charts_truth": Table(means, tuple(means), f"{title}: means"),
        "charts_coverage": Table(covered, tuple(covered), f"{title}: share below each centile"),
        "charts_spread": Table(spread, tuple(spread), f"{title}: relative error of the spread by age"),
    }
    ours = covered.set_index("method").loc[OURS].astype(float)
    off = float(np.abs(ours.to_numpy() - CENTILES).max())
    worst = float(spread[spread["method"] == OURS].drop(columns=["method", "direction"]).abs().to_numpy().max())
    by_method = means.set_index("method")["auc"]
    lost = float(by_method[TRUTH] - by_method[OURS])
    lines = [
        Line("charts_truth", "spread by age within 5%", f"{worst:.1%}", worst <= 0.05),
        Line("charts_truth", "centiles within 1 point", f"{100 * off:.2f} points", off <= 0.01),
        Line(
            "charts_truth", f"planted deviations: AUC within {NEARER:g} of the truth's z", f"{lost:.4f}", lost <= NEARER
        ),
    ]
    return tables, lines


def new_sites(seed: int, names: Iterable[str]) -> list[dict[str, object]]:
    """Adapt charts to new sites, and count how many fresh people of theirs have z within 1.96.

    Args:
        seed: Of the truth and the people.
        names: Keys of AT_NEW_SITES.

    Returns:
        One row a method and case.
    """
    truth = ChartTruth(seed, ages=INSIDE, new_sites=tuple(NEW), features=NEW_FEATURES)
    rng = np.random.default_rng([seed, 26])
    table = pd.concat(
        [truth.people(TRAINED, rng), *(truth.people_of(name, n, ages, rng) for name, (n, ages) in NEW.items())]
    )
    fresh = pd.concat([truth.people_of(name, FRESH_OF_SITE, ages, rng) for name, (_, ages) in NEW.items()])
    train, test = truth.values(table, rng), truth.values(fresh, rng)
    levels = np.array([0.5])
    question = Question(train, table, test, fresh, adapt=tuple(NEW), levels=levels, sex="covariate")
    found: list[dict[str, object]] = []
    for name in names:
        try:
            answer = AT_NEW_SITES[name](question)
        except (NotImplementedError, PeerError) as error:
            found.append({"seed": seed, "method": name, "note": str(error)})
            continue
        for case in NEW:
            own = answer.z[(fresh["site"] == case).to_numpy()]
            covered = float((np.abs(own) < norm.ppf(0.975)).mean())
            found.append({"seed": seed, "method": name, "case": case, "covered": covered} | costs(answer))
    return found


def new_site_tables(options: Options) -> tuple[dict[str, Table], list[Line]]:
    """Adapt over the seeds."""
    rows: list[dict[str, object]] = []
    for order, seed in enumerate(_seeds(options)):
        say(f"charts: new sites, seed {seed}")
        rows += new_sites(seed, _names(AT_NEW_SITES, options, order))
    frame = pd.DataFrame(rows)
    means = frame.pivot_table("covered", "method", "case", sort=False).reset_index()
    title = f"Share of fresh people of a new site with z within 1.96, mean over {frame['seed'].nunique()} seeds"
    tables = {
        "charts_new_sites": Table(means, tuple(means), title),
        "charts_new_sites_each": Table(frame, ("seed", "method", "case", "covered", "note"), f"{title}; each"),
    }
    ours = means.set_index("method").loc[OURS]
    lines = [
        Line(
            "charts_new_sites",
            f"{case}: 95% of z, within .93 to .97",
            f"{value:.3f}",
            COVERED[0] <= value <= COVERED[1],
        )
        for case in NEW
        for value in [float(ours[case])]
    ]
    return tables, lines


def _known(truth: ChartTruth, question: Question) -> Answer:
    shapes = truth.shapes(question.test_table)
    quantiles = np.stack([shapes.quantile(np.full((1, 1), e)) for e in norm.ppf(question.levels)])
    return Answer(shapes.z(question.test), shapes.log_density(question.test), quantiles, 0.0, 0.0)


def _cells(truth: ChartTruth, fresh: pd.DataFrame, quantiles: np.ndarray, around: np.ndarray) -> pd.DataFrame:
    """Return, by feature, band and centile, the share below what was said, and the relative error of the spread.

    The spread is what lies between the curves one deviation below and above the median: a chart's own (`Answer.around`), since
    predictive quantiles lie further apart by what a chart does not know; of methods that have no others, those.
    """
    shapes = truth.shapes(fresh)
    share = np.stack([norm.cdf(shapes.z(quantile)) for quantile in quantiles])
    low, high = (shapes.quantile(np.full((1, 1), e)) for e in (-1.0, 1.0))
    ratio = np.log((around[1] - around[0]) / (high - low))
    band = np.digitize(fresh["age"], BANDS[1:-1])
    rows = [
        {
            "feature": k,
            "direction": truth.directions[k],
            "band": f"{BANDS[b]}-{BANDS[b + 1]}",
            "people": int((band == b).sum()),
            "centile": centile,
            "covered": float(share[c, band == b, k].mean()),
            "spread": float(np.exp(ratio[band == b, k].mean()) - 1),
        }
        for k in range(truth.features)
        for b in range(len(BANDS) - 1)
        for c, centile in enumerate(CENTILES)
    ]
    return pd.DataFrame(rows)


def _mean_by(cells: pd.DataFrame, keys: list[str], figure: str) -> pd.DataFrame:
    """Return the figure's mean with the last key across: of shares, over people; of the spread, over seeds and features."""
    weight = cells["people"] if figure == "covered" else 1.0
    sums = (
        cells.assign(weight=weight, weighted=cells[figure] * weight)
        .groupby(keys, sort=False)[["weighted", "weight"]]
        .sum()
    )
    return (sums["weighted"] / sums["weight"]).unstack(keys[-1]).reset_index()


def _seeds(options: Options) -> list[int]:
    return list(SEEDS)[:2] if options.quick else list(SEEDS)


def _names(methods: Iterable[str], options: Options, order: int) -> tuple[str, ...]:
    sampled = options.slow and order < SLOW_SEEDS
    return tuple(name for name in methods if sampled or name not in SAMPLED)
