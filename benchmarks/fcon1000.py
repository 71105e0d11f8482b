"""fcon1000: raw data, medrep and its peers on the same halves, everybody probed on people the remover never saw.

Each site is halved; a method is fitted on one half and applied to the other, and the probes see only the other half.
Age and sex are kept, site is removed: a good method has a low site AUC, at the row "age and sex alone" if nothing but
the kept covariates tells the site, with age R2 and sex AUC as in the raw row. Lower means biology lost, higher means
that labels were written into the data. ComBat does that through features that are nearly always zero: where everybody
at a site has the same value, what comes out is a function of age and sex. Hence a second table without the features in
which more than MAX_SHARE of the training people have one value, to tell both apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import medrep
from benchmarks import commands
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.peers.run import PeerError, PeerResult, run_peer
from benchmarks.peers.worker import PEERS
from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.probe_figures import age_r2, sex_auc, site_auc

SEEDS = 3
MIN_SITE = 16  # 20 sites, at least 8 people on either side
MIN_PEOPLE = 5  # one a fold: all 20 sites are probed
MAX_SHARE = 0.9
RIVAL = "combatlearn-gam"
SLOW = ("neuroharmonize-smooth",)
ALONE = "age and sex alone"
SHOWN = (
    *("seed", "method", "n", "features", "site_linear", "site_rbf", "site_boosting", "site", "age_r2", "sex_auc"),
    *("seconds_fit", "seconds_apply", "peak_rss_mb", "note"),
)

Method = Callable[[np.ndarray, pd.DataFrame, np.ndarray, pd.DataFrame], PeerResult]


def raw(train: np.ndarray, train_table: pd.DataFrame, test: np.ndarray, test_table: pd.DataFrame) -> PeerResult:  # noqa: ARG001
    """Return the test people as they are."""
    return PeerResult(test, 0.0, 0.0, float("nan"), "")


def medrep_linear(
    train: np.ndarray, train_table: pd.DataFrame, test: np.ndarray, test_table: pd.DataFrame
) -> PeerResult:
    """Write both halves as cohort folders and run ``medrep train`` and ``medrep export``; seconds include start-up."""
    with tempfile.TemporaryDirectory(prefix="bench-fcon1000-") as name:
        work = Path(name)
        for half, X, table in (("half1", train, train_table), ("half2", test, test_table)):
            features = pd.DataFrame(X, index=table.index, columns=[f"x{k}" for k in range(X.shape[1])])
            commands.write_table(work / half / "participants.tsv", table.reset_index())
            commands.write_table(work / half / "features.tsv", features.reset_index())
        fitting = commands.medrep("train", work / "half1", work / "fitted")
        removal: list[str | Path] = ["--model", work / "fitted" / "model", "--remove", "site", "--keep", "age,sex"]
        applying = commands.medrep("export", work / "half2", work / "cleaned", *removal)
        cleaned = pd.read_csv(work / "cleaned" / "features.tsv", sep="\t", index_col="participant_id")
        history = pd.read_csv(work / "fitted" / "history.tsv", sep="\t")
    passed = int(history.loc[history["metric"] == "columns", "value"].sum())
    output = cleaned.loc[test_table.index].to_numpy()
    return PeerResult(output, fitting, applying, float("nan"), f"medrep {medrep.__version__}", passed)


METHODS: dict[str, Method] = {"raw": raw, "medrep": medrep_linear}
ELSEWHERE = ("demovae", "pcntoolkit")  # see `disentangle` and `charts`
METHODS |= {name: partial(run_peer, name) for name in PEERS if not name.startswith(ELSEWHERE)}


def measure(seed: int, max_share: float, methods: dict[str, Method]) -> list[dict[str, object]]:
    """Run and probe methods on one split.

    Args:
        seed: Of the split, the folds and boosting.
        max_share: Features where more than this share of the training people have the same value are left out.
        methods: What to run.

    Returns:
        One row a method, and one for the kept covariates alone.
    """
    features, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    share = features[train].apply(lambda column: column.value_counts(normalize=True).iloc[0])
    X, people = features.loc[:, share <= max_share].to_numpy(dtype=np.float64), table[test]
    covariates = np.column_stack([people["age"], people["sex"] == "M"])
    rows: list[dict[str, object]] = [{"seed": seed, "method": ALONE, "features": 2} | _site(covariates, people, seed)]
    for name, method in methods.items():
        row: dict[str, object] = {"seed": seed, "method": name, "features": X.shape[1]}
        try:
            result = method(X[train], table[train], X[test], people)
        except PeerError as error:
            rows.append(row | {"note": str(error)})
            continue
        costs = {key: value for key, value in vars(result).items() if key not in {"output", "extras"}}
        note = f"{result.passed_through} features left as they are" if result.passed_through else ""
        rows.append(row | _probe(result.output, people, seed) | costs | {"note": note})
    return rows


def _site(X: np.ndarray, people: pd.DataFrame, seed: int) -> dict[str, object]:
    site = site_auc(X, people["site"].to_numpy(), seed, min_people=MIN_PEOPLE)
    probes = {f"site_{probe}": figure for probe, figure in site.figures.items()}
    return {"n": len(people), "site_n": site.n, "left_out": ", ".join(site.left_out), "site": site.strongest} | probes


def _probe(X: np.ndarray, people: pd.DataFrame, seed: int) -> dict[str, object]:
    age = age_r2(X, people["age"].to_numpy(), seed)
    sex = sex_auc(X, people["sex"].to_numpy(), seed)
    row = _site(X, people, seed) | {"age_r2": age.strongest, "sex_auc": sex.strongest}
    row |= {f"age_r2_{probe}": figure for probe, figure in age.figures.items()}
    return row | {f"sex_auc_{probe}": figure for probe, figure in sex.figures.items()}


def run(options: Options) -> Report:
    """Measure every seed on all features and on those that vary, and compare medrep with raw and with combatlearn's gam."""
    methods = {name: method for name, method in METHODS.items() if options.slow or name not in SLOW}
    tables, lines = {}, []
    for max_share in (1.0, MAX_SHARE):
        rows: list[dict[str, object]] = []
        for seed in options.seeds(SEEDS):
            say(f"fcon1000: seed {seed}, largest share of one value {max_share:g}")
            rows += measure(seed, max_share, methods)
        frame = pd.DataFrame(rows)
        what = "all features" if max_share == 1 else f"no feature with more than {max_share:.0%} equal values"
        title = f"fcon1000, {what}: AUC of site and sex, R2 of age, among people the remover never saw"
        name = "fcon1000" if max_share == 1 else "fcon1000_varying"
        tables[name] = Table(frame, SHOWN, title)
        tables[f"{name}_mean"] = _means(frame, f"{title}; mean over {frame['seed'].nunique()} seeds")
        lines += _judge(frame, name)
    return Report(tables, tuple(lines))


def _means(frame: pd.DataFrame, title: str) -> Table:
    figures = [name for name in SHOWN if name.startswith(("site", "age", "sex", "seconds", "peak"))]
    means = frame.groupby("method", sort=False)[figures].mean().reset_index()
    return Table(means, tuple(means), title)


def _judge(frame: pd.DataFrame, name: str) -> list[Line]:
    by_method = {method: rows.set_index("seed") for method, rows in frame.groupby("method")}
    ours, raw_rows, rival = by_method["medrep"], by_method["raw"], by_method[RIVAL]
    excess = ours["site"] - rival["site"]
    lines = [
        _line(name, f"site AUC <= {RIVAL} + 0.01, every seed", excess, excess.max(), 0.01),
        _line(name, f"site AUC <= {RIVAL} + 0.01, mean", excess, excess.mean(), 0.01),
    ]
    for figure, text in (("age_r2", "age R2"), ("sex_auc", "sex AUC")):
        distance = ours[figure] - raw_rows[figure]
        lines.append(_line(name, f"{text} within 0.03 of raw, every seed", distance, distance.abs().max(), 0.03))
        lines.append(_line(name, f"{text} within 0.03 of raw, mean", distance, abs(distance.mean()), 0.03))
    return lines


def _line(name: str, asked: str, differences: pd.Series, figure: float, most: float) -> Line:
    each = ", ".join(f"{value:+.3f}" for value in differences)
    return Line(name, asked, f"{differences.mean():+.3f} (seeds {each})", bool(figure <= most))
