"""Connectomes: are they correlation matrices still once site was removed, and what do probes read from them?

People are those of fcon1000 (age, sex, 20 sites, half of each unseen); their time series are generated, since that cohort has
thickness and volumes only: networks that regions share, with a fingerprint a person, effects of age and sex on chosen networks,
and sites that differ in noise, in one more signal of all regions and in how long they scan. ``edges`` moves Fisher z edge by
edge, ``tangent`` moves the logarithm of the matrix, with the mean Ledoit-Wolf share of training, as `read_connectivity` takes it.
Probes see the exported edges of the unseen half: the suite their leading components, a linear one all of them. Age is tied to the
site in this cohort, so that a probe of age gains from what is left of the site; ``age_within`` is of what age and edges have
beyond their site's mean.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import OneHotEncoder

from benchmarks import commands
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.probe_figures import age_r2, sex_auc, site_auc
from medrep.cohort.connectivity import edge_values
from medrep.cohort.kinds.connectivity import regions_of

SEEDS = {100: 3, 200: 1}
MIN_SITE, MIN_PEOPLE = 16, 5
NETWORKS, COMPONENTS = 15, 60
VOLUMES = (120, 160, 200, 240)
METHODS = {
    "edges": "{kind: features}",
    "tangent": "{kind: connectivity, measure: tangent, shrinkage: SHARE}",
}
SHOWN = (
    *("regions", "seed", "method", "people", "spd", "smallest", "site", "age_r2", "sex_auc"),
    *("site_all", "age_all", "sex_all", "age_within", "seconds_fit", "seconds_apply"),
)


def connectomes(regions: int, table: pd.DataFrame, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Fisher z of everybody's edges, people x edges, and everybody's Ledoit-Wolf share.

    Args:
        regions: How many.
        table: Age in years, sex, site.
        seed: Of the draw.
    """
    rng = np.random.default_rng([seed, regions])
    shared = rng.normal(size=(regions, NETWORKS)) * (rng.random((regions, NETWORKS)) < 0.25)
    with_age, with_sex = (rng.normal(size=(regions, NETWORKS)) * (shared != 0) for _ in range(2))
    sites = {
        site: (rng.uniform(0.6, 1.4), rng.normal(scale=0.35, size=regions), rng.choice(VOLUMES))
        for site in np.unique(table["site"])
    }
    age = ((table["age"] - table["age"].mean()) / table["age"].std()).to_numpy()
    rows, shares = [], []
    for years, sex, site in zip(age, table["sex"] == "M", table["site"], strict=True):
        noise, extra, volumes = sites[site]
        own = 0.25 * rng.normal(size=shared.shape) * (shared != 0)
        loadings = shared + 0.03 * years * with_age + 0.05 * (sex - 0.5) * with_sex + own
        signals = rng.normal(size=(volumes, NETWORKS)) @ loadings.T + np.outer(rng.normal(size=volumes), extra)
        signals += noise * rng.normal(size=(volumes, regions))
        rows.append(edge_values(signals, "correlation"))
        shares.append(ledoit_wolf_shrinkage((signals - signals.mean(axis=0)) / signals.std(axis=0)))
    return np.stack(rows), np.array(shares)


def cleaned(
    kind: str, parts: dict[str, tuple[np.ndarray, pd.DataFrame]], names: list[str]
) -> tuple[np.ndarray, float, float]:
    """Train on one half and export the other, by the command line; return the edges and the seconds."""
    with tempfile.TemporaryDirectory(prefix="bench-connectomes-") as folder:
        work = Path(folder)
        for half, (edges, table) in parts.items():
            commands.write_table(work / half / "participants.tsv", table.reset_index())
            frame = pd.DataFrame(edges, index=table.index, columns=names)
            commands.write_table(work / half / "features.tsv", frame.reset_index())
        fitting = commands.medrep("train", work / "train", work / "fitted", "--set", f"input={kind}")
        options = ("--model", work / "fitted" / "model", "--remove", "site", "--keep", "age,sex")
        applying = commands.medrep("export", work / "test", work / "cleaned", *options)
        found = pd.read_csv(work / "cleaned" / "features.tsv", sep="\t", index_col="participant_id")
    return found.loc[parts["test"][1].index, names].to_numpy(), fitting, applying


def measure(regions: int, seed: int) -> list[dict[str, object]]:
    """Return a row for each method, and one for the edges as they were."""
    _, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    edges, shares = connectomes(regions, table, seed)
    names = [f"r{a}~r{b}" for a in range(regions) for b in range(a + 1, regions)]
    people = table[test]
    parts = {"train": (edges[train], table[train]), "test": (edges[test], people)}
    rows = [{"method": "raw", **_probed(edges[test], people, names, seed)}]
    for method, kind in METHODS.items():
        say(f"connectomes: {regions} regions, seed {seed}, {method}")
        section = kind.replace("SHARE", f"{shares[train].mean():.4f}")
        found, fitting, applying = cleaned(section, parts, names)
        costs = {"seconds_fit": fitting, "seconds_apply": applying}
        rows.append({"method": method, **_probed(found, people, names, seed), **costs})
    return [{"regions": regions, "seed": seed, "people": len(people), **row} for row in rows]


def _probed(edges: np.ndarray, people: pd.DataFrame, names: list[str], seed: int) -> dict[str, float]:
    regions = regions_of(tuple(names))
    smallest = np.array([np.linalg.eigvalsh(regions.matrix(np.tanh(row), 1.0))[0] for row in edges])
    leading = PCA(COMPONENTS, random_state=seed).fit_transform(edges)
    sex, site, age = people["sex"].to_numpy(), people["site"].to_numpy(), people["age"].to_numpy(float)
    figures = {
        "spd": float((smallest > 0).mean()),
        "smallest": float(smallest.min()),
        "site": site_auc(leading, site, seed, min_people=MIN_PEOPLE).strongest,
        "age_r2": age_r2(leading, age, seed).strongest,
        "sex_auc": sex_auc(leading, sex, seed).strongest,
    }
    ones = OneHotEncoder(sparse_output=False).fit_transform(np.column_stack([site, sex]))
    told = _ridge(edges, np.column_stack([ones, age]), seed)
    aucs = [float(roc_auc_score(ones[:, k], told[:, k])) for k in range(ones.shape[1])]
    own_edges, own_age = (
        frame.sub(frame.groupby(site).transform("mean")).to_numpy() for frame in map(pd.DataFrame, (edges, age))
    )
    return figures | {
        "site_all": float(np.mean(aucs[:-2])),
        "sex_all": aucs[-1],
        "age_all": float(r2_score(age, told[:, -1])),
        "age_within": float(r2_score(own_age, _ridge(own_edges, own_age, seed))),
    }


def _ridge(edges: np.ndarray, targets: np.ndarray, seed: int) -> np.ndarray:
    folds = KFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(RidgeCV(np.logspace(0, 6, 7)), edges - edges.mean(axis=0), targets, cv=folds)


def run(options: Options) -> Report:
    """Measure 100 and 200 regions; judge that all are correlation matrices and that probes read no less, and of site no more."""
    rows: list[dict[str, object]] = []
    for regions, seeds in SEEDS.items():
        for seed in options.seeds(seeds):
            rows += measure(regions, seed)
    frame = pd.DataFrame(rows)
    lines = [line for regions, own in frame.groupby("regions") for line in _lines(int(str(regions)), own)]
    title = "connectomes of unseen people, site removed: share of correlation matrices, probes of edges"
    return Report({"connectomes": Table(frame, SHOWN, title)}, tuple(lines))


def _lines(regions: int, rows: pd.DataFrame) -> list[Line]:
    by_method = {method: own.set_index("seed") for method, own in rows.groupby("method")}
    ours, rival = by_method["tangent"], by_method["edges"]
    spd = float(ours["spd"].min())
    name = f"connectomes {regions}"
    lines = [
        Line(
            name, "correlation matrices after removal = 100%", f"{spd:.1%} (edges {rival['spd'].mean():.0%})", spd == 1
        )
    ]
    asked = {"site": 1, "site_all": 1, "sex_auc": -1, "sex_all": -1, "age_r2": -1, "age_all": -1, "age_within": -1}
    for figure, sign in asked.items():
        worse = float((sign * (ours[figure] - rival[figure])).mean())
        text = f"{figure} no worse than edge by edge by more than 0.01"
        lines.append(Line(name, text, f"{ours[figure].mean():.3f} against {rival[figure].mean():.3f}", worse <= 0.01))
    return lines
