"""Growth charts of fcon1000: fitted on half of each of 23 sites, judged on the people nobody has seen.

Log score and CRPS are in units of each feature's deviation in training. Deviations are planted in the same people: z of those
who are shifted are compared with everybody's z as they are. ``site`` is what probes read of the site from z; ``site_excess`` is
what they read from z, age and sex together, above what age and sex alone tell. How much that is of a chart without any fault is
measured beside it: the same people, dealt to sites anew, so that sites do nothing to anybody, less the mean of each site as half
of its people tell it. FEW features are asked of all methods, the
hierarchical one needing a minute for each; all that vary of the others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.chart_methods import METHODS, OURS, SAMPLED, Answer, Question
from benchmarks.chart_scores import pit_errors, plant, scored, separation
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.peers.run import PeerError
from benchmarks.report import Line, Options, Table, say
from benchmarks.simple_charts import HomoscedasticGaussian
from medrep.audit.probe_figures import site_auc

SEEDS = 3
MIN_SITE = 3  # all 23 sites
MIN_PROBED = 5  # one a fold
MAX_SHARE = 0.9
FEW = ("Right-Lateral-Ventricle", "WM-hypointensities", "Right-Amygdala", "CortexVol", "lh_MeanThickness_thickness")
ALONE, FAULTLESS = "age and sex alone", "sites that do nothing, means told by as many"
PEERS = ("pcntoolkit-blr", "pcntoolkit-hbr")
FASTER, NEARER = 10.0, 0.01
VAE_EXCESS = -0.002
"""Of site-removed features of the VAE, by `benchmarks.disentangle` (docs/methods.md)."""
READ = VAE_EXCESS + 0.02
SHOWN = (
    *("seed", "method", "n", "features", "log_score", "crps", "beyond", "coverage", "pit", "pit_floor"),
    *("pit_site", "pit_age", "pit_sex", "auc", "site", "site_excess", "seconds_fit", "seconds_apply", "note"),
)


def measure(seed: int, few: bool, names: tuple[str, ...]) -> list[dict[str, object]]:
    """Ask methods about one split.

    Args:
        seed: Of the split, of what is planted and of the probes.
        few: FEW features, or all that vary.
        names: Keys of METHODS.

    Returns:
        One row a method, and one for what age and sex alone tell of the site.
    """
    features, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    share = features[train].apply(lambda column: column.value_counts(normalize=True).iloc[0])
    chosen = list(FEW) if few else list(features.columns[share <= MAX_SHARE])
    X, people = features[chosen].to_numpy(dtype=np.float64), table[test]
    shifted, rows, signs = plant(X[test], residual_sd(X[train], table[train]), seed)
    asked = pd.concat([people, people.iloc[rows].rename(index=lambda name: f"{name}-shifted")])
    question = Question(X[train], table[train], np.concatenate([X[test], shifted]), asked)
    covariates = np.column_stack([people["age"], people["sex"] == "M"])
    alone = _site(covariates, people, seed)
    found: list[dict[str, object]] = [{"seed": seed, "method": ALONE, "site": alone}]
    for name in names:
        say(f"charts: fcon1000, seed {seed}, {len(chosen)} features, {name}")
        row: dict[str, object] = {"seed": seed, "method": name, "n": len(people), "features": len(chosen)}
        try:
            answer = METHODS[name](question)
        except PeerError as error:
            found.append(row | {"note": str(error)})
            continue
        n, unit = len(people), X[train].std(axis=0)
        row |= scored(answer.z[:n], answer.log_density[:n], answer.quantiles[:, :n], X[test], unit)
        together = np.column_stack([answer.z[:n], covariates])
        row |= pit_errors(answer.z[:n], people) | {"auc": separation(answer.z[n:], answer.z[:n], signs)}
        row |= {"site": _site(answer.z[:n], people, seed), "site_excess": _site(together, people, seed) - alone}
        found.append(row | costs(answer))
    nothing = without_sites(X[train], table[train], X[test], people, seed)
    excess = _site(np.column_stack([nothing, covariates]), people, seed) - alone
    return [*found, {"seed": seed, "method": FAULTLESS, "site": _site(nothing, people, seed), "site_excess": excess}]


def without_sites(
    train: np.ndarray, train_table: pd.DataFrame, test: np.ndarray, test_table: pd.DataFrame, seed: int
) -> np.ndarray:
    """Return what a chart without fault leaves where sites do nothing: the error of their means, told by people of training.

    z of everybody, each site at its own mean, are dealt to people at random.

    Returns:
        Test people x features.
    """
    homes = train_table["site"].to_numpy(), test_table["site"].to_numpy()
    question = Question(train, train_table, np.concatenate([train, test]), pd.concat([train_table, test_table]))
    z = METHODS[OURS](replace(question, levels=np.array([0.5]))).z
    pool = np.concatenate(
        [_centred(own, site) for own, site in zip((z[: len(train)], z[len(train) :]), homes, strict=True)]
    )
    dealt = pool[np.random.default_rng([seed, 27]).permutation(len(pool))]
    means = pd.DataFrame(dealt[: len(train)]).groupby(homes[0]).mean()
    return np.asarray(dealt[len(train) :] - means.loc[homes[1]].to_numpy())


def _centred(z: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Return z less the mean of each site, with the variance that it would have around the true one."""
    groups = pd.DataFrame(z).groupby(sites)
    counts = groups[0].transform("size").to_numpy()[:, None]
    centred = z - groups.transform("mean").to_numpy()
    return np.where(counts > 1, centred * np.sqrt(counts / np.maximum(counts - 1, 1)), z)


def tables_and_lines(options: Options) -> tuple[dict[str, Table], list[Line]]:
    """Measure every seed on FEW features and on all."""
    tables, lines = {}, []
    for few in (True, False):
        rows: list[dict[str, object]] = []
        for seed in options.seeds(SEEDS):
            sampled = few and (options.slow or seed == 0)
            rows += measure(seed, few, tuple(name for name in METHODS if sampled or name not in SAMPLED))
        frame = pd.DataFrame(rows)
        name = "charts_fcon1000_few" if few else "charts_fcon1000"
        title = f"fcon1000, {'few' if few else 'all'} features: scores of people that no method has seen"
        tables[name] = Table(frame, SHOWN, title)
        figures = [column for column in frame if column not in {"seed", "method", "note", "version"}]
        means = frame.groupby("method", sort=False)[figures].mean().reset_index()
        tables[f"{name}_mean"] = Table(means, tuple(c for c in SHOWN if c in means), f"{title}; mean over seeds")
        lines += _judge(frame, name)
    return tables, lines


def residual_sd(train: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Deviation of each feature around age, sex and site."""
    chart = HomoscedasticGaussian()
    chart.fit(train, table)
    middle, above = chart.quantiles(table, np.array([0.5, 0.8413447]))
    return (above - middle).mean(axis=0)


def costs(answer: Answer) -> dict[str, object]:
    """Seconds and version as a table has them."""
    return {name: getattr(answer, name) for name in ("seconds_fit", "seconds_apply", "version")}


def _site(X: np.ndarray, people: pd.DataFrame, seed: int) -> float:
    return float(site_auc(X, people["site"].to_numpy(), seed, min_people=MIN_PROBED).strongest)


def _judge(frame: pd.DataFrame, name: str) -> list[Line]:
    by_method = {method: rows.set_index("seed") for method, rows in frame.groupby("method")}
    ours, lines = by_method[OURS], []
    for peer in PEERS:
        if peer not in by_method or "log_score" not in by_method[peer] or by_method[peer]["log_score"].isna().all():
            continue
        rival = by_method[peer].dropna(subset="log_score")
        own = ours.loc[rival.index]
        for figure, sign, text in (("log_score", -1, "log score"), ("crps", 1, "CRPS"), ("pit", 1, "PIT error")):
            worse = sign * (own[figure] - rival[figure])
            measured = f"{own[figure].mean():.4f} against {rival[figure].mean():.4f}"
            lines.append(Line(name, f"{text} at least as good as {peer}", measured, bool(worse.mean() <= 0)))
        ratio = float((rival["seconds_fit"] / own["seconds_fit"]).median())
        lines.append(Line(name, f"fit {FASTER:g} times faster than {peer}", f"{ratio:.1f} times", ratio >= FASTER))
    excess = float(ours["site_excess"].mean())
    asked = f"site from z, age and sex: excess over age and sex within .02 of the VAE's ({READ:g})"
    lines.append(Line(name, asked, f"{excess:+.3f}", excess <= READ))
    least = float(by_method[FAULTLESS]["site_excess"].mean())
    asked = "site from z: no more than of sites that do nothing, whose means as many people tell"
    return [*lines, Line(name, asked, f"{excess:+.3f}, {least:+.3f}", excess <= max(least + NEARER, READ))]
