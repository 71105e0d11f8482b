"""Raw data and every harmoniser on the same halves of fcon1000: ``python -m benchmarks.fcon1000_peers --seeds 0 1 2``.

Each site is halved; a method is fitted on one half and applied to the other, and the probes see only the other half.
Age and sex are kept, site is removed: a good method has a low site AUC, at the row "age and sex alone" if nothing but
the kept covariates tells the site, with age R2 and sex AUC as in the raw row. Lower means biology lost, higher means
that labels were written into the data. ComBat does that through features that are nearly always zero: where everybody
at a site has the same value, what comes out is a function of age and sex. Hence --max-share 0.9, to tell both apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.data import ROOT, fcon1000, split_half_by_site
from benchmarks.peers.run import PeerError, PeerResult, run_peer
from benchmarks.peers.worker import PEERS
from medrep.audit.leakage import age_r2, sex_auc, site_auc

MIN_SITE = 16  # 20 sites, at least 8 people on either side
MIN_PEOPLE = 5  # one a fold: all 20 sites are probed
SHOWN = ["seed", "method", "n", "features", "site_linear", "site_rbf", "site_boosting", "site", "age_r2", "sex_auc"]
SHOWN += ["seconds_fit", "seconds_apply", "peak_rss_mb", "note"]

Table = pd.DataFrame
Remover = Callable[[np.ndarray, Table, np.ndarray, Table], np.ndarray]
Method = Callable[[np.ndarray, Table, np.ndarray, Table], PeerResult]


def raw(train: np.ndarray, train_table: Table, test: np.ndarray, test_table: Table) -> np.ndarray:  # noqa: ARG001
    """Return the test people as they are."""
    return test


def timed(remover: Remover, version: str) -> Method:
    """Make a method of a function that returns only the array; its time is that of the whole call, memory unknown.

    Args:
        remover: Takes train, train_table, test, test_table; returns the harmonised test people.
        version: What to write in the column version.
    """

    def method(train: np.ndarray, train_table: Table, test: np.ndarray, test_table: Table) -> PeerResult:
        start = time.perf_counter()
        output = remover(train, train_table, test, test_table)
        return PeerResult(output, time.perf_counter() - start, float("nan"), float("nan"), version)

    return method


# medrep's row goes here, one line: "medrep-linear": timed(medrep_linear, medrep.__version__)
METHODS: dict[str, Method] = {"raw": timed(raw, "")} | {name: partial(run_peer, name) for name in PEERS}


def measure(seed: int, max_share: float) -> list[dict[str, object]]:
    """Run and probe every method on one split.

    Args:
        seed: Of the split, the folds and boosting.
        max_share: Features where more than this share of the training people have the same value are left out.

    Returns:
        One row a method, and one for the kept covariates alone.
    """
    features, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    share = features[train].apply(lambda column: column.value_counts(normalize=True).iloc[0])
    X, people = features.loc[:, share <= max_share].to_numpy(dtype=np.float32), table[test]
    covariates = np.column_stack([people["age"], people["sex"] == "M"])
    rows: list[dict[str, object]] = [
        {"seed": seed, "method": "age and sex alone", "features": 2} | _site(covariates, people, seed)
    ]
    for name, method in METHODS.items():
        row: dict[str, object] = {"seed": seed, "method": name, "features": X.shape[1]}
        try:
            result = method(X[train], table[train], X[test], people)
        except PeerError as error:
            rows.append(row | {"note": str(error)})
            continue
        costs = {key: value for key, value in vars(result).items() if key != "output"}
        note = f"{result.passed_through} constant features passed through" if result.passed_through else ""
        rows.append(row | _probe(result.output, people, seed) | costs | {"note": note})
    return rows


def _site(X: np.ndarray, people: Table, seed: int) -> dict[str, object]:
    site = site_auc(X, people["site"].to_numpy(), seed, min_people=MIN_PEOPLE)
    probes = {f"site_{probe}": figure for probe, figure in site.figures.items()}
    return {"n": len(people), "site_n": site.n, "left_out": ", ".join(site.left_out), "site": site.strongest} | probes


def _probe(X: np.ndarray, people: Table, seed: int) -> dict[str, object]:
    age = age_r2(X, people["age"].to_numpy(), seed)
    sex = sex_auc(X, people["sex"].to_numpy(), seed)
    row = _site(X, people, seed) | {"age_r2": age.strongest, "sex_auc": sex.strongest}
    row |= {f"age_r2_{probe}": figure for probe, figure in age.figures.items()}
    return row | {f"sex_auc_{probe}": figure for probe, figure in sex.figures.items()}


def main() -> None:
    """Measure each seed, print the table, write every column as TSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one split each")
    parser.add_argument("--max-share", type=float, default=1.0, help="largest share of one value in a kept feature")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "fcon1000_peers.tsv", help="TSV to write")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for seed in arguments.seeds:
        rows += measure(seed, arguments.max_share)
        pd.DataFrame(rows).to_csv(arguments.out, sep="\t", index=False, float_format="%.6g")
    print(pd.DataFrame(rows).reindex(columns=SHOWN).to_string(index=False, float_format="%.3f", na_rep="-"))


if __name__ == "__main__":
    main()
