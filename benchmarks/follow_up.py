"""Slopes of real people whose follow-ups are planted: recovered by the linear model, beside mixed models by statsmodels.

People of fcon1000 get three visits two years apart by ``medrep simulate --from``, half of them changing site, with slopes
of their own that are known. Every site is halved: the linear model is trained on one half and removes site from the other,
which it never saw; the mixed models are fitted to those whom they clean. ``cleaned``: correlation of the planted slopes with
those of least squares of a person's cleaned visits on age; ``own``: with what the model itself expects of a person's slope
beside everybody's; over people, in the mean over columns, since columns have units of their own. ``nothing``: least squares
of visits as they came.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import commands
from benchmarks.data import constant_features, fcon1000, split_half_by_site
from benchmarks.peers.run import run_peer
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import POOLED, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings

NAME = "follow_up"
SEEDS, MIN_SITE, COLUMNS, VISITS = 2, 16, 10, 3
SHARE = 0.9
MAX_TIED = 0.05
DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


def planted(seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Plant follow-ups into columns drawn at random; return covariates and values of visits, and people's slopes a year."""
    features, table = fcon1000(min_site=MIN_SITE)
    tied = features.apply(lambda column: column.value_counts(normalize=True).iloc[0])
    varied = features.columns[tied <= MAX_TIED].difference(constant_features(features), sort=False)
    names = np.random.default_rng(seed).permutation(varied)[:COLUMNS]
    with tempfile.TemporaryDirectory(prefix="bench-follow-up-") as folder:
        work = Path(folder)
        commands.write_table(work / "people" / "participants.tsv", table.reset_index())
        commands.write_table(work / "people" / "features.tsv", features[names].reset_index())
        commands.medrep(
            *("simulate", work / "visits", "--from", work / "people", "--visits", str(VISITS), "--seed", str(seed))
        )
        paths = [
            work / "visits" / name for name in ("participants.tsv", "features.tsv", "derivatives/truth/slopes.tsv")
        ]
        frame, values, slopes = (pd.read_csv(path, sep="\t", dtype={"participant_id": str}) for path in paths)
    keys = ["participant_id", "session_id"]
    order = pd.MultiIndex.from_frame(frame[keys])
    frame = frame.rename(columns={"participant_id": "participant"})
    return frame, values.set_index(keys).loc[order, list(names)], slopes.set_index("participant_id")[list(names)]


def dataset(frame: pd.DataFrame, values: pd.DataFrame, schema: CovariateSchema | None = None) -> Dataset:
    """Return visits as medrep takes them."""
    own = frame[[one.name for one in DECLARED]].set_axis([f"v{k}" for k in frame.index])
    schema = schema or CovariateSchema.fit(own, DECLARED)
    columns = Columns(tuple(values.columns), values.shape[1], None)
    return Dataset(values.to_numpy(), schema.transfer(own), schema, columns, tuple(frame["participant"]))


def measure(seed: int) -> dict[str, float]:
    """Return how well each recovers the slopes of people whom the linear model never saw."""
    frame, values, slopes = planted(seed)
    first = frame.drop_duplicates("participant")
    train = frame["participant"].isin(first["participant"][split_half_by_site(first, seed)[0]]).to_numpy()
    taught = dataset(frame[train], values[train])
    people, visits = frame[~train].reset_index(drop=True), values[~train]
    model, _ = LinearModel.fit(taught, LinearSettings(), seed=seed)
    others = dataset(people, visits, taught.schema)
    truth = slopes.loc[people["participant"].unique()].to_numpy()
    peer = run_peer("mixedlm", others.values, people, others.values, people)
    # A year on, a person has moved by everybody's change, which is a function of age, and by the own slope.
    own = model.follow(others, 1.0) - model.transform(others, {"age": people["age"].to_numpy() + 1})
    cleaned = {"nothing": others.values, "medrep": model.remove(others, {"site": POOLED}), "mixedlm": peer.output}
    found = {f"{name}: cleaned": _agreement(_slopes(people, table), truth) for name, table in cleaned.items()}
    for name, table in {"medrep": own, "mixedlm": peer.extras["slopes"]}.items():
        found[f"{name}: own"] = _agreement(_per_person(people, table), truth)
    return found


def _slopes(people: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Return least squares of each person's visits on age, a year."""
    who = people["participant"]
    away = (people["age"] - people.groupby("participant")["age"].transform("mean")).to_numpy()[:, None]
    sums, squares = (pd.DataFrame(table).groupby(who, sort=False).sum() for table in (away * values, away**2))
    return sums.to_numpy() / squares.to_numpy()


def _per_person(people: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    return pd.DataFrame(values).groupby(people["participant"], sort=False).mean().to_numpy()


def _agreement(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the correlation over people, in the mean over columns; a column where nothing is found counts 0."""
    pairs = zip(found.T, truth.T, strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] if np.ptp(a) > 0 else 0.0 for a, b in pairs]))


def run(options: Options) -> Report:
    """Measure over seeds (``--quick``: one)."""
    rows = []
    for seed in options.seeds(SEEDS):
        say(f"{NAME}: seed {seed}")
        rows += [{"seed": seed, "figure": figure, "correlation": value} for figure, value in measure(seed).items()]
    table = pd.DataFrame(rows)
    means = table.groupby("figure", sort=False)["correlation"].mean()
    lines = []
    for kind, said in (("cleaned", "slopes of cleaned visits"), ("own", "the model's own slopes")):
        ratio = means[f"medrep: {kind}"] / means[f"mixedlm: {kind}"]
        asked = f"{said}: correlation with the planted ones >= {SHARE:g} of the mixed model's"
        measured = f"{ratio:.3f} ({means[f'medrep: {kind}']:.3f} and {means[f'mixedlm: {kind}']:.3f})"
        lines.append(Line(NAME, asked, measured, bool(ratio >= SHARE)))
    return Report({NAME: Table(table, tuple(table.columns), "Planted slopes of real people, recovered")}, tuple(lines))
