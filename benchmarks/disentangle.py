"""Features: what medrep's conditional VAE removes, keeps and makes, beside its peers, on people nobody was fitted on.

fcon1000, sites of 20 or more, each site halved; a method is fitted on one half and everything is judged on the other, by
the strongest of three probes. Every method gives up to three tables: the features without site, the features without
age, sex and site, and the latents. In each, site, age and sex are probed, and what is no covariate's: a diagnosis that
was planted before a second fit and that no method is told, and whether a person is recognised when measured again with
noise. The diagnosis is skipped for demovae, which takes minutes a fit, unless --slow is given. Shuffled labels that are
exported as if they were the people's own must not become readable. The lines at the end judge medrep-vae.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.contenders import (
    ALL_REMOVED,
    AS_MEASURED,
    LATENTS,
    METHODS,
    RECONSTRUCTION,
    SAMPLED,
    SITE_REMOVED,
    Made,
    Method,
    RetryState,
    trials,
)
from benchmarks.data import ROOT
from benchmarks.disentangle_lines import ALONE, OTHER_HALF, Measured, judge
from benchmarks.fidelity import effects_agree, reconstruction_r2, told_apart
from benchmarks.frontier import draw, sweep
from benchmarks.identity import recognised
from benchmarks.peers.run import PeerError
from benchmarks.report import Options, Report, Table, say
from medrep.audit.probe_figures import age_r2, sex_auc, site_auc

SEEDS = 3
MIN_PEOPLE = 5  # one a fold
PERMUTATIONS = 20
FLOOR = 0.95
SLOW = ("demovae", "demovae-scaled")
FIGURE = Path("bench-out") / "disentangle_frontier.png"
TITLES = {
    "disentangle": "fcon1000: site AUC, age R2, sex AUC, AUC of a planted diagnosis, and share of people recognised",
    "disentangle_injection": f"Shuffled age and sex, read from what was exported; floor: {FLOOR:.0%} quantile of "
    f"{PERMUTATIONS} permutations on the raw features",
    "disentangle_decoder": "Reconstruction R2 (mean of columns, pooled), AUC real against sampled, correlation of "
    "covariate effects real and sampled, seconds of the fit",
}
SHOWN = {
    "disentangle": ("seed", "method", "output", "columns", "site", "age", "sex", "diagnosis", "recognised", "note"),
    "disentangle_injection": ("seed", "method", "age", "sex", "age_floor", "sex_floor"),
    "disentangle_decoder": (
        "seed", "method", "r2", "r2_pooled", "told_apart", "effect_age", "effect_sex", "effect_site", "seconds_fit",
    ),
}  # fmt: skip


def run(options: Options) -> Report:
    """Measure every method on every seed, draw the frontier of the first, and judge."""
    measured = Measured([], [], [])
    skipped = () if options.slow else SLOW
    for seed in options.seeds(SEEDS):
        measure(seed, METHODS, measured, no_diagnosis=skipped)
    frames = measured.frames()
    tables: dict[str, Table] = {}
    for name, frame in frames.items():
        tables[name] = Table(frame, SHOWN[name], TITLES[name])
        if not options.quick:
            tables[f"{name}_mean"] = _means(frame, SHOWN[name], f"{TITLES[name]}; mean over seeds")
    say("disentangle: frontier")
    frontier = sweep(*trials(0), probes)
    draw(ROOT / FIGURE, frontier, frames["disentangle"].query("seed == 0"))
    tables["disentangle_frontier"] = Table(frontier, tuple(frontier), f"Frontier, seed 0; drawn in {FIGURE}")
    return Report(tables, tuple(judge(frames)))


def measure(seed: int, methods: dict[str, Method], measured: Measured, no_diagnosis: Iterable[str] = ()) -> None:
    """Run methods on the split of one seed and add their rows.

    Args:
        seed: Of the split and everything else.
        methods: What to run.
        measured: Where the rows go.
        no_diagnosis: Methods that are not fitted a second time, with the diagnosis.
    """
    plain, planted = trials(seed)
    people = plain.test_table
    alone = np.column_stack([people["age"], people["sex"] == "M"])
    measured.outputs.append({"seed": seed, "method": ALONE, "columns": 2, "site": _site(alone, people, seed)})
    floor = permutation_floor(plain)
    measured.decoders.append({"seed": seed, "method": OTHER_HALF} | _sampled(plain, plain.train.to_numpy(), True))
    for name, method in methods.items():
        say(f"disentangle: seed {seed}, {name}")
        row: dict[str, object] = {"seed": seed, "method": name}
        try:
            made = method(plain)
            ill = None if name in no_diagnosis else method(planted)
        except PeerError as error:
            measured.outputs.append(row | {"note": str(error)})
            continue
        found = probes(plain, made, planted, ill)
        measured.outputs.extend(row | own for own in found)
        say(pd.DataFrame(found).to_string(index=False, header=False, float_format="%.3f"))
        measured.injections.append(row | _injected(plain, made) | floor)
        measured.decoders.append(row | _decoded(plain, made) | {"seconds_fit": made.seconds_fit})


def probes(plain: RetryState, made: Made, planted: RetryState, ill: Made | None) -> list[dict[str, object]]:
    """Probe each table that a method made.

    Args:
        plain: The cohort.
        made: What was made of it.
        planted: The cohort with a planted diagnosis.
        ill: What the method made of that; None if it was not asked.

    Returns:
        One row a table: output, columns, site, age, sex, diagnosis, recognised.
    """
    rows = []
    people, seed = plain.test_table, plain.seed
    for part in (AS_MEASURED, SITE_REMOVED, ALL_REMOVED, LATENTS):
        if part not in made.parts:
            continue
        X = made.block(part, "as they are")
        row: dict[str, object] = {"output": part, "columns": X.shape[1], "site": _site(X, people, seed)}
        row["age"] = age_r2(X, people["age"].to_numpy(), seed).strongest
        row["sex"] = sex_auc(X, people["sex"].to_numpy(), seed).strongest
        row["recognised"] = recognised(X, made.block(part, "again"))
        if ill is not None and planted.diagnosis is not None:
            diagnosis = planted.diagnosis.to_numpy()
            row["diagnosis"] = sex_auc(ill.block(part, "as they are"), diagnosis, seed).strongest
        rows.append(row)
    return rows


def permutation_floor(trial: RetryState) -> dict[str, float]:
    """Return the FLOOR quantile of age R2 and sex AUC on the raw features, over random permutations of both labels."""
    X, people = trial.test.to_numpy(dtype=float), trial.test_table
    rng = np.random.default_rng([trial.seed, 4])
    found: dict[str, list[float]] = {"age": [], "sex": []}
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(X))
        found["age"].append(age_r2(X, people["age"].to_numpy()[order], trial.seed).strongest)
        found["sex"].append(sex_auc(X, people["sex"].to_numpy()[order], trial.seed).strongest)
    return {f"{name}_floor": float(np.quantile(values, FLOOR)) for name, values in found.items()}


def _site(X: np.ndarray, people: pd.DataFrame, seed: int) -> float:
    return site_auc(X, people["site"].to_numpy(), seed, min_people=MIN_PEOPLE).strongest


def _injected(trial: RetryState, made: Made) -> dict[str, float]:
    part = SITE_REMOVED if SITE_REMOVED in made.parts else AS_MEASURED
    X, labels = made.block(part, "shuffled"), trial.shuffled_table
    age = age_r2(X, labels["age"].to_numpy(), trial.seed).strongest
    return {"age": age, "sex": sex_auc(X, labels["sex"].to_numpy(), trial.seed).strongest}


def _decoded(trial: RetryState, made: Made) -> dict[str, float]:
    row: dict[str, float] = {}
    if RECONSTRUCTION in made.parts:
        X, train = trial.test.to_numpy(dtype=float), trial.train.to_numpy(dtype=float)
        row["r2"], row["r2_pooled"] = reconstruction_r2(X, made.parts[RECONSTRUCTION], train)
    return row | _sampled(trial, made.parts[SAMPLED], False) if SAMPLED in made.parts else row


def _sampled(trial: RetryState, others: np.ndarray, real: bool) -> dict[str, float]:
    X, table = trial.test.to_numpy(dtype=float), trial.test_table
    varies = X.std(axis=0) > 0
    effects = effects_agree(X, table, others, trial.train_table if real else table)
    row = {f"effect_{name}": value for name, value in effects.items()}
    return row | {"told_apart": told_apart(X[:, varies], others[:, varies], trial.seed)}


def _means(frame: pd.DataFrame, shown: tuple[str, ...], title: str) -> Table:
    by = [name for name in ("method", "output") if name in frame]
    figures = [name for name in shown if name in frame and name not in (*by, "seed", "note")]
    means = frame.groupby(by, sort=False, dropna=False)[figures].mean().reset_index()
    return Table(means, tuple(means), title)
