"""What each method makes of the same people it has never seen: medrep through its command line, peers in their own Python.

A method is fitted on one half of a cohort and then asked for the other half three times over: as they are, with age and
sex of other people in their place (does it write labels into the data?), and measured again, with noise (are they
recognised?). No method looks at more than one person when it is applied, so all of them are asked for in one go.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from benchmarks import commands
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.identity import measure_again, plant_diagnosis
from benchmarks.peers.run import run_peer
from medrep.models import ConditionalVae
from medrep.workflows.cohorts import load_trained

MIN_SITE = 20
BLOCKS = ("as they are", "shuffled", "again")
AS_MEASURED, SITE_REMOVED, ALL_REMOVED, LATENTS = "as measured", "site removed", "all removed", "latents"
RECONSTRUCTION, SAMPLED = "reconstruction", "sampled"


@dataclass(frozen=True)
class RetryState:
    """One cohort in two halves, and what is asked about the second.

    Attributes:
        seed: Of the split and of every draw.
        train: Features of the half to fit on.
        train_table: Their age in years, sex (F or M) and site.
        test: Features of the half that no method sees.
        test_table: Their covariates.
        diagnosis: A planted diagnosis of the second half that no method is told; None where none is planted.
    """

    seed: int
    train: pd.DataFrame
    train_table: pd.DataFrame
    test: pd.DataFrame
    test_table: pd.DataFrame
    diagnosis: pd.Series | None = None

    @property
    def shuffled_table(self) -> pd.DataFrame:
        """The second half, everybody with age and sex of somebody and their own site."""
        order = np.random.default_rng([self.seed, 1]).permutation(len(self.test_table))
        return self.test_table.assign(**{name: self.test_table[name].to_numpy()[order] for name in ("age", "sex")})

    def asked(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return features and covariates of BLOCKS, one below the other, with ids of their own."""
        again = measure_again(self.test.to_numpy(dtype=float), self.train.to_numpy(dtype=float).std(axis=0), self.seed)
        features = [self.test, self.test, pd.DataFrame(again, columns=self.test.columns)]
        tables = [self.test_table, self.shuffled_table, self.test_table]
        ids = pd.Index([f"sub-{k}x{row:04d}" for k in range(len(BLOCKS)) for row in range(len(self.test))])
        ids = ids.rename("participant_id")
        return pd.concat(features).set_axis(ids), pd.concat(tables).set_axis(ids)


@dataclass(frozen=True)
class Made:
    """What a method made.

    Attributes:
        parts: SITE_REMOVED (with raw AS_MEASURED), ALL_REMOVED and LATENTS as far as the method has them, for all BLOCKS;
            RECONSTRUCTION and SAMPLED for the people as they are.
        seconds_fit: Wall time of the fit alone.
        version: Package and version.
    """

    parts: dict[str, np.ndarray]
    seconds_fit: float = float("nan")
    version: str = ""

    def block(self, part: str, block: str) -> np.ndarray:
        """Return one block of a part."""
        return np.split(self.parts[part], len(BLOCKS))[BLOCKS.index(block)]


Method = Callable[[RetryState], Made]


def trials(seed: int) -> tuple[RetryState, RetryState]:
    """Return the trial of a seed, and the same people with a planted diagnosis."""
    features, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    plain = RetryState(seed, features[train], table[train], features[test], table[test])
    transformed, diagnosis = plant_diagnosis(features, table["site"], plain.train.to_numpy().std(axis=0), seed)
    return plain, replace(plain, train=transformed[train], test=transformed[test], diagnosis=diagnosis[test])


def raw(trial: RetryState) -> Made:
    """Return everybody as they are."""
    return Made({AS_MEASURED: trial.asked()[0].to_numpy(dtype=float)})


def peer(name: str, trial: RetryState, **settings: Any) -> Made:
    """Run a peer of benchmarks.peers; the settings are its adapter's."""
    features, table = trial.asked()
    train = trial.train.to_numpy(dtype=float)
    result = run_peer(
        name, train, trial.train_table, features.to_numpy(dtype=float), table, seed=trial.seed, **settings
    )
    parts = {extra.replace("_", " "): values for extra, values in result.extras.items()} | {SITE_REMOVED: result.output}
    for part in {RECONSTRUCTION, SAMPLED} & set(parts):
        parts[part] = parts[part][: len(trial.test)]
    return Made(parts, result.seconds_fit, result.version)


def medrep(config: str, decodes: bool, trial: RetryState, settings: tuple[str, ...] = ()) -> Made:
    """Run medrep train, export and sample.

    Args:
        config: A shipped configuration.
        decodes: Whether the model reconstructs and samples.
        trial: The cohort.
        settings: KEY=VALUE over those of the configuration.
    """
    features, table = trial.asked()
    with tempfile.TemporaryDirectory(prefix="bench-disentangle-") as name:
        work = Path(name)
        _write_cohort(work / "train", trial.train, trial.train_table)
        _write_cohort(work / "asked", features, table)
        overrides = [part for setting in settings for part in ("--set", setting)]
        seconds = commands.medrep("train", work / "train", work / "fitted", "--config", config, *overrides)
        folder = work / "fitted" / "model"
        removals = {SITE_REMOVED: ("--remove", "site", "--keep", "age,sex"), ALL_REMOVED: ("--remove", "age,sex,site")}
        parts: dict[str, np.ndarray] = {}
        for part, removal in removals.items():
            commands.medrep("export", work / "asked", work / part, "--model", folder, *removal)
            parts[part] = _read(work / part / "features.tsv").loc[features.index, features.columns].to_numpy()
        parts[LATENTS] = _read(work / ALL_REMOVED / "latents.tsv").loc[features.index].to_numpy()
        if decodes:
            commands.write_table(work / "table.tsv", trial.test_table.reset_index())
            wanted = ("--table", work / "table.tsv", "--seed", str(trial.seed))
            commands.medrep("sample", work / "sampled", "--model", folder, *wanted)
            parts[SAMPLED] = _sampled(work / "sampled", trial)
            parts[RECONSTRUCTION] = _reconstructed(folder, trial)
        history = pd.read_csv(work / "fitted" / "history.tsv", sep="\t").set_index(["metric", "name"])["value"]
    return Made(parts, float(history.get(("seconds", "fit"), seconds)), "medrep")


METHODS: dict[str, Method] = {"raw": raw}
METHODS |= {
    name: partial(peer, name) for name in ("combatlearn-gam", "combatlearn-covbat-gam", "demovae", "demovae-scaled")
}
METHODS |= {
    "medrep-linear": partial(medrep, "linear.yaml", False),
    "medrep-linear-latents": partial(medrep, "linear_latents.yaml", True),
    "medrep-vae": partial(medrep, "vae_features.yaml", True),
}


def _write_cohort(folder: Path, features: pd.DataFrame, table: pd.DataFrame) -> None:
    commands.write_table(folder / "participants.tsv", table.reset_index())
    commands.write_table(folder / "features.tsv", features.copy().reset_index())


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", index_col="participant_id")


def _sampled(folder: Path, trial: RetryState) -> np.ndarray:
    people = pd.read_csv(folder / "participants.tsv", sep="\t")
    if not np.array_equal(people["site"].to_numpy(dtype=str), trial.test_table["site"].to_numpy(dtype=str)):
        raise RuntimeError("medrep sample: the people are not those of the table, in its order")
    return _read(folder / "features.tsv")[trial.test.columns].to_numpy()


def _reconstructed(folder: Path, trial: RetryState) -> np.ndarray:
    model = cast(ConditionalVae, load_trained(folder).model)
    names = list(model.columns.names)
    X = trial.test[names].to_numpy(dtype=float)
    decoded = model.reconstruct(model.dataset(X, model.schema.transfer(trial.test_table)))
    return pd.DataFrame(decoded, columns=names)[trial.test.columns].to_numpy()
