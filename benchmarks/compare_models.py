"""`medrep compare`: verdicts on 20 pairs of models whose answer is known, and how often two others are called interchangeable.

Fifteen pairs are latents of one linear model and what was made of them, so that the right verdict follows from how they were
made. Five are of models that were trained anew: on other people, another model, with site left out of the covariates, on a cohort
with other anatomy, and a network with another seed. Theirs is what the same definitions give on 4,000 further people. Verdicts
are asked of 300 people whom no model saw.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.agreement import SAME, SAME_WORST, TOLD, TOLD_WORST, Verdict, compare_latents
from medrep.audit.latent_maps import FITS
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, LinearModel, LinearSettings, Model, VaeSettings
from medrep.simulate import simulate_features, simulate_participants
from medrep.training.schedule import Schedule

FIRST_SEED = 100
ASKED, FURTHER, TRAINED = 300, 4000, 400
LATENTS = 6
_COVARIATES = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


@dataclass(frozen=True)
class Pair:
    """Latents of the same people by two models, and the right verdict."""

    name: str
    first: np.ndarray
    second: np.ndarray
    truth: Verdict


def run(options: Options) -> Report:
    """Compare all pairs."""
    begun = time.monotonic()
    rows = []
    for seed in (FIRST_SEED + k for k in options.seeds(2)):
        for pair in pairs(seed):
            units = np.arange(len(pair.first)).astype(str)
            found = compare_latents(pair.first, pair.second, units, seed)
            rows.append(
                {
                    "seed": seed,
                    "pair": pair.name,
                    "right": pair.truth,
                    "verdict": found.verdict,
                    "reason": found.reason,
                }
            )
            say(f"  {seed} {pair.name}: {found.verdict}")
    table = pd.DataFrame(rows)
    right = table["verdict"] == table["right"]
    false = (table["verdict"] == "interchangeable") & ~right
    lines = (
        Line(
            "compare_models",
            "right verdicts on 20 of 20 known pairs, each seed",
            f"{right.sum()} of {len(table)}",
            bool(right.all()),
        ),
        Line("compare_models", "0 false interchangeable", str(int(false.sum())), not false.any()),
    )
    say(f"  {time.monotonic() - begun:.0f} s")
    shown = Table(table, ("seed", "pair", "right", "verdict"), "Verdicts on pairs of models whose answer is known")
    return Report({"compare_models": shown}, lines)


def pairs(seed: int) -> Iterator[Pair]:
    """Yield 20 pairs."""
    people = _people(2 * TRAINED + ASKED + FURTHER, seed)
    parts = np.split(np.arange(len(people)), np.cumsum([TRAINED, TRAINED, ASKED]))
    own, others, asked = (people.take(part) for part in parts[:3])
    settings = LinearSettings(components=LATENTS)
    model = LinearModel.fit(own, settings, seed=seed)[0]
    z = model.encode(asked)
    yield from _made(z, np.random.default_rng(seed))
    site_left = _without_site(people)  # one schema for all of them
    without_site = LinearModel.fit(site_left.take(parts[0]), settings, seed=seed)[0]
    foreign = _people(TRAINED, seed + 1, anatomy=seed + 1000, like=people)
    anew: dict[str, Model] = {
        "trained on other people": LinearModel.fit(others, settings, seed=seed)[0],
        "a VAE of the same people": ConditionalVae.fit(own, VaeSettings(latents=LATENTS, body="linear"), seed=seed)[0],
        "site is no covariate": without_site,
        "trained on another anatomy": LinearModel.fit(foreign, settings, seed=seed)[0],
    }
    for name, other in anew.items():
        whole = site_left if other is without_site else people
        both = [(model.encode(people.take(part)), other.encode(whole.take(part))) for part in parts[2:]]
        yield Pair(name, both[0][0], both[0][1], _true_verdict(*both[1]))
    yield _seeds(own, asked, people.take(parts[3]), seed)


def _seeds(own: Dataset, asked: Dataset, further: Dataset, seed: int) -> Pair:
    """Return one network that was trained with two seeds."""
    settings = VaeSettings(latents=LATENTS, body="mlp", strength=1.0, training=Schedule(epochs=20))
    networks = [ConditionalVae.fit(own, settings, seed=seed + k)[0] for k in range(2)]
    first, second = ([one.encode(some) for one in networks] for some in (asked, further))
    return Pair("another seed of a network", first[0], first[1], _true_verdict(second[0], second[1]))


def _made(z: np.ndarray, rng: np.random.Generator) -> Iterator[Pair]:
    people, latents = z.shape
    sd, mean = z.std(axis=0), z.mean(axis=0)
    noise = rng.standard_normal(z.shape) * sd
    rotation = np.linalg.qr(rng.standard_normal((latents, latents)))[0]
    stretched = (
        rotation @ np.diag(np.linspace(0.5, 2, latents)) @ np.linalg.qr(rng.standard_normal((latents, latents)))[0]
    )
    passive = [np.column_stack([z, 1e-3 * rng.standard_normal((people, 4))]) for _ in range(2)]
    one_in_five = np.where((np.arange(people) % 5 == 0)[:, None], 2 * mean - z, z)
    half_lost = np.column_stack([z[:, : latents // 2], noise[:, latents // 2 :]])
    yield Pair("the same model", z, z.copy(), "interchangeable")
    yield Pair("noise of 3 %", z, z + 0.03 * noise, "interchangeable")
    yield Pair("other passive latents", passive[0], passive[1], "interchangeable")
    yield Pair("rotated", z, z @ rotation, "map")
    yield Pair("one latent mirrored", z, z * np.where(np.arange(latents) == 0, -1, 1), "map")
    yield Pair("latents in another order", z, z[:, ::-1].copy(), "map")
    yield Pair("scaled by 1.3", z, 1.3 * z, "map")
    yield Pair("moved by half a deviation", z, z + 0.5 * sd, "map")
    yield Pair("an affine map", z, z @ stretched + 1, "map")
    yield Pair("noise of 20 %", z, z + 0.2 * noise, "map")
    yield Pair("noise of 60 %", z, z + 0.6 * noise, "not")
    yield Pair("one person in five otherwise", z, one_in_five, "not")
    yield Pair("half of the latents others", z, half_lost, "not")
    yield Pair("people exchanged", z, z[rng.permutation(people)], "not")
    yield Pair("constant", z, np.zeros_like(z), "not")


def _true_verdict(first: np.ndarray, second: np.ndarray) -> Verdict:
    """Return the verdict by its definition, on many people: half of them fit maps, the others are told."""

    def shares(errors: np.ndarray, other: np.ndarray) -> tuple[float, float]:
        totals = (other - other.mean(axis=0)) ** 2
        return 1 - errors.sum() / totals.sum(), float((1 - errors.sum(axis=0) / totals.sum(axis=0)).min())

    same, worst = shares((first - second) ** 2, second) if first.shape == second.shape else (0.0, 0.0)
    if same >= SAME and worst >= SAME_WORST:
        return "interchangeable"
    half = len(first) // 2
    for x, y in ((first, second), (second, first)):
        for fit in FITS.values():
            matrix, offset = fit(x[:half], y[:half])
            told, lost = shares((x[half:] @ matrix + offset - y[half:]) ** 2, y[half:])
            if told >= TOLD and lost >= TOLD_WORST:
                return "map"
    return "not"


def _people(count: int, seed: int, anatomy: int | None = None, like: Dataset | None = None) -> Dataset:
    """Return generated people; of the schema of others, and with another anatomy, where these are given."""
    table = simulate_participants(count, n_sites=3, seed=seed).set_index("participant_id", drop=False)
    features = simulate_features(table, n_features=60, seed=seed if anatomy is None else anatomy).features
    schema = CovariateSchema.fit(table, _COVARIATES) if like is None else like.schema
    columns = Columns(tuple(features.columns), features.shape[1], None)
    return Dataset(features.to_numpy(float), schema.transfer(table), schema, columns)


def _without_site(people: Dataset) -> Dataset:
    kept = [one for one in _COVARIATES if one.name != "site"]
    schema = CovariateSchema.fit(people.covariates, kept)
    return Dataset(people.values, schema.transfer(people.covariates), schema, people.columns)
