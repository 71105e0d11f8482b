"""A planted diagnosis in latents of its own: is it read there, and only there? And do counterfactual patients help a rare group?

60 columns have eight common factors with noise of their own, a bent effect of age, effects of sex, location and scale of four
sites, and a diagnosis that shifts the mean in one direction and adds variance in two others; older people have it more often.
Latents are fitted on half of each site's people and probed on the other half, strongest of a linear, an RBF and a boosting
probe. ``roles`` has salient latents, ``plain`` is the same VAE without them, which does not know the diagnosis (``told``: which
does, so that it can remove it from the columns). ``contrastive`` is contrastive PCA (Abid et al. 2018) of the columns, and
``contrastive after`` of what a linear model of age, sex and site leaves; its common block is the principal components of what is
orthogonal. ``trained`` goes on from ``roles`` with a network (body mlp), as long as people who judge gain, also in a bent world,
where patients lie along an arc about the controls.

For the rare group the smallest site has six patients in training. A predictor of the diagnosis is taught on training people
alone; with these six as often as weighs them up; or with people of that site's controls who got the salient part of patients
elsewhere (`swapped`), and judged on many unseen people of that site. Seeds from 100 on are those that were tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import t as student_t
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.data import split_half_by_site
from benchmarks.peers.run import run_peer
from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.probe_figures import age_r2, boosting_settings, sex_auc
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, LinearModel, LinearSettings, VaeSettings
from medrep.models.vae.residuals import standardise
from medrep.models.vae.roles import Roles
from medrep.training.schedule import Schedule

SEEDS, RARE_SEEDS = 3, 6
PEOPLE, COLUMNS, SITES, FACTORS, COMPONENTS, RARE = 2400, 60, 4, 8, 3, 6
_CONDITIONS = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)
_DIAGNOSIS = Covariate("diagnosis", "categorical", reference="control")
_SALIENT = VaeSettings(roles=Roles(salient="diagnosis"))
_TRAINED = VaeSettings(
    body="mlp", roles=Roles(salient="diagnosis"), strength=1.0, training=Schedule(epochs=60, threads=1)
)
_SHOWN = ("world", "seed", "method", "block", "latents", "auc", "auc_linear", "auc_rbf", "auc_boosting", "age_r2")


@dataclass(frozen=True)
class World:
    """What data of people are made of; shares of patients by site, and of sites, may be given when they are drawn."""

    factors: np.ndarray
    noise: np.ndarray
    salient: np.ndarray
    age: np.ndarray
    sex: np.ndarray
    location: np.ndarray
    scale: np.ndarray
    bent: bool = False

    @classmethod
    def plant(cls, seed: int, *, bent: bool = False) -> World:
        """Draw a world; in a bent one patients lie along an arc about the controls, by one factor."""
        rng = np.random.default_rng([seed, 71])
        factors = rng.normal(size=(FACTORS, COLUMNS)) * np.linspace(0.6, 0.25, FACTORS)[:, None]
        noise = rng.uniform(0.4, 0.9, COLUMNS)
        covariance = factors.T @ factors + np.diag(noise**2)
        # Directions as long as a deviation of controls in what tells them best.
        salient = rng.normal(size=(3, COLUMNS))
        salient /= np.sqrt((salient * np.linalg.solve(covariance, salient.T).T).sum(axis=1))[:, None]
        return cls(
            factors,
            noise,
            salient,
            rng.normal(size=(2, COLUMNS)) * np.array([[0.35], [0.15]]),
            rng.normal(size=COLUMNS) * 0.3,
            rng.normal(size=(SITES, COLUMNS)) * 0.4,
            np.exp(rng.normal(size=(SITES, COLUMNS)) * 0.1),
            bent,
        )

    def draw(self, people: int, rng: np.random.Generator, sites: np.ndarray | None = None) -> pd.DataFrame:
        """Return covariates of people; older ones have the diagnosis more often."""
        age = rng.uniform(20, 80, people)
        patient = rng.random(people) < 1 / (1 + np.exp(-(age - 50) / 60))
        return pd.DataFrame(
            {
                "age": age,
                "sex": rng.choice(["F", "M"], people),
                "site": [f"S{k % SITES}" for k in range(people)] if sites is None else [f"S{k}" for k in sites],
                "diagnosis": np.where(patient, "patient", "control"),
            },
            index=pd.Index([f"sub-{k:05d}" for k in range(people)], name="key"),
        )

    def measure(self, frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Return their columns."""
        site, people = frame["site"].str[1:].astype(int).to_numpy(), len(frame)
        patient = (frame["diagnosis"] == "patient").to_numpy()[:, None]
        own = rng.normal(size=(people, FACTORS)) @ self.factors + rng.normal(size=(people, COLUMNS)) * self.noise
        drawn = rng.normal(size=(people, 3))
        along = np.array([1.7, 0, 0]) + drawn * [0, 1.5, 1.2]
        if self.bent:
            angle = 1.2 * drawn[:, 1]
            along = 3 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
        own += patient * along @ self.salient
        years = (frame["age"].to_numpy() - 50) / 20
        effects = np.stack([years, years**2], axis=1) @ self.age + np.outer(frame["sex"] == "M", self.sex)
        return effects + own * self.scale[site] + self.location[site]


def _dataset(rows: np.ndarray, frame: pd.DataFrame, schema: CovariateSchema) -> Dataset:
    names = tuple(f"c{k}" for k in range(rows.shape[1]))
    return Dataset(rows, schema.transfer(frame), schema, Columns(names, len(names), None))


@dataclass(frozen=True)
class Half:
    """People and their columns."""

    frame: pd.DataFrame
    rows: np.ndarray

    def told(self, schema: CovariateSchema) -> Dataset:
        """Return them as a model takes them."""
        return _dataset(self.rows, self.frame, schema)


def fitted(train: Half, declared: tuple[Covariate, ...], settings: VaeSettings) -> ConditionalVae:
    """Fit a VAE to training people."""
    schema = CovariateSchema.fit(train.frame, declared)
    return ConditionalVae.fit(train.told(schema), settings)[0]


def salient_blocks(train: Half, test: Half, *, removed: bool) -> list[tuple[str, str, np.ndarray]]:
    """Return tables of salient latents in closed form, and trained on: method, block, people x latents."""
    found = []
    for name, settings in (("roles", _SALIENT), ("trained", _TRAINED)):
        model = fitted(train, (*_CONDITIONS, _DIAGNOSIS), settings)
        people = test.told(model.schema)
        z, count = model.encode(people), len(model.latent_roles)
        found += [(name, "salient", z[:, -count:]), (name, "common", z[:, :-count])]
        if removed:
            found.append((name, "removed", model.remove(people, {"diagnosis": "control"})))
    return found


def blocks(train: Half, test: Half) -> list[tuple[str, str, np.ndarray]]:
    """Return tables of the people who were not trained on: method, block, people x latents."""
    found = [("raw", "all", test.rows), *salient_blocks(train, test, removed=True)]
    told = fitted(train, (*_CONDITIONS, _DIAGNOSIS), VaeSettings(body="linear"))
    found.append(("plain, told", "removed", told.remove(test.told(told.schema), {"diagnosis": "control"})))
    plain = fitted(train, _CONDITIONS, VaeSettings(strength=1.0, training=Schedule(epochs=60, threads=1)))
    found.append(("plain", "all", plain.encode(test.told(plain.schema))))
    schema = CovariateSchema.fit(train.frame, (*_CONDITIONS, _DIAGNOSIS))
    linear = LinearModel.fit(train.told(schema), LinearSettings(components=0))[0]
    names = [one.name for one in _CONDITIONS]
    left = [standardise(linear, own.rows, schema.transfer(own.frame), names) for own in (train, test)]
    for name, (fit_on, apply_to) in (("contrastive", (train.rows, test.rows)), ("contrastive after", tuple(left))):
        made = run_peer("contrastive", fit_on, train.frame, apply_to, test.frame, components=COMPONENTS)
        own = made.extras["latents"]
        found += [(name, "salient", own[:, :COMPONENTS]), (name, "common", own[:, COMPONENTS:])]
    return found


def measure(seed: int, *, bent: bool = False) -> list[dict[str, object]]:
    """Return what probes read of unseen people, by method and block; in a bent world of salient latents alone."""
    world, rng = World.plant(seed, bent=bent), np.random.default_rng([seed, 72])
    frame = world.draw(PEOPLE, rng)
    rows = world.measure(frame, rng)
    chosen, _ = split_half_by_site(frame, seed)
    train, test = Half(frame[chosen], rows[chosen]), Half(frame[~chosen], rows[~chosen])
    raw = [("raw", "all", test.rows)]
    tables = [*raw, *salient_blocks(train, test, removed=False)] if bent else blocks(train, test)
    results: list[dict[str, object]] = []
    for method, block, table in tables:
        auc = sex_auc(table, test.frame["diagnosis"].to_numpy(), seed, jobs=2)
        row: dict[str, object] = {"world": "bent" if bent else "straight", "seed": seed, "method": method}
        row |= {"block": block, "latents": table.shape[1], "auc": auc.strongest}
        row |= {f"auc_{name}": figure for name, figure in auc.figures.items()}
        if block in {"all", "salient"}:
            row["age_r2"] = age_r2(table, test.frame["age"].to_numpy(), seed, jobs=2).strongest
        results.append(row)
    return results


def swaps(seed: int) -> list[dict[str, object]]:
    """Return how exactly salient parts of others are found again, and what a null intervention, and there and back, change."""
    world, rng = World.plant(seed), np.random.default_rng([seed, 73])
    frame = world.draw(PEOPLE // 2 + 200, rng)
    rows = world.measure(frame, rng)
    train, test = Half(frame[:-200], rows[:-200]), Half(frame[-200:], rows[-200:])
    order = rng.permutation(len(test.frame))
    unpaired = replace(_TRAINED, roles=replace(_TRAINED.roles, swap=0.0))
    return [
        {"seed": seed, "method": name, **_exact(fitted(train, (*_CONDITIONS, _DIAGNOSIS), settings), test, order)}
        for name, settings in (("roles", _SALIENT), ("trained", _TRAINED), ("trained, swap 0", unpaired))
    ]


def _exact(model: ConditionalVae, test: Half, order: np.ndarray) -> dict[str, float]:
    people = test.told(model.schema)
    donors, salient, diagnosis = people.take(order), len(model.latent_roles), people.covariates[["diagnosis"]]
    z, swapped = model.posterior(people)[0], model.posterior(people.with_values(model.swapped(people, donors)))[0]
    removed = model.remove(people, {"diagnosis": "control"})
    there = people.with_values(removed).with_covariates(people.covariates.assign(diagnosis="control"))
    controls = (test.frame["diagnosis"] == "control").to_numpy()
    made = people.with_values(model.remove(people, {"diagnosis": "patient"}))
    made = made.with_covariates(people.covariates.assign(diagnosis="patient"))
    return {
        "swap_common": float(np.abs((swapped - z)[:, :-salient]).max()),
        "swap_salient": float(np.abs((swapped - z[order])[:, -salient:]).max()),
        "null": float(np.abs(removed - test.rows)[controls].max()),
        "twice": float(np.abs(model.remove(there, {"diagnosis": "control"}) - removed).max()),
        "back": float(max(np.abs(model.transform(own, diagnosis) - test.rows).max() for own in (there, made))),
        "moved": float(np.abs(removed - test.rows).max()),
    }


def rare_group(seed: int) -> list[dict[str, object]]:
    """Return the AUC of the diagnosis at the site with few patients, and over all sites, for each way of teaching."""
    world, rng = World.plant(seed), np.random.default_rng([seed, 74])
    sites = np.concatenate([np.arange(900) % (SITES - 1), np.full(80, SITES - 1)])
    frame = world.draw(len(sites), rng, sites)
    few = np.flatnonzero((frame["site"] == f"S{SITES - 1}").to_numpy())
    frame.iloc[few, frame.columns.get_loc("diagnosis")] = np.where(np.arange(len(few)) < RARE, "patient", "control")
    train = Half(frame, world.measure(frame, rng))
    frame = world.draw(2000, rng, np.arange(2000) % SITES)
    test = Half(frame, world.measure(frame, rng))
    model = fitted(train, (*_CONDITIONS, _DIAGNOSIS), _SALIENT)
    patient = (train.frame["diagnosis"] == "patient").to_numpy()
    ours = np.zeros(len(patient), dtype=bool)
    ours[few] = True
    people = train.told(model.schema)
    receivers = np.flatnonzero(ours & ~patient)
    donors = rng.choice(np.flatnonzero(patient & ~ours), len(receivers))
    made = model.swapped(people.take(receivers), people.take(donors))
    copies = np.resize(np.flatnonzero(ours & patient), len(receivers))
    more = {"as they are": train.rows[:0], "copies": train.rows[copies], "counterfactual": made}
    truth, there = (test.frame["diagnosis"] == "patient").to_numpy(), (test.frame["site"] == f"S{SITES - 1}").to_numpy()
    found, scores = [], {}
    for name, rows in more.items():
        X, y = np.concatenate([train.rows, rows]), np.concatenate([patient, np.ones(len(rows), dtype=bool)])
        for kind, predictor in _predictors(seed).items():
            own = predictor.fit(X, y).predict_proba(test.rows)[:, 1]
            scores[name, kind] = own
            by_site = [roc_auc_score(truth[at], own[at]) for at in _by_site(test.frame)]
            low, high = _gain(scores["as they are", kind][there], own[there], truth[there], seed)
            found.append(
                {
                    "seed": seed,
                    "taught on": name,
                    "predictor": kind,
                    "auc_rare": by_site[-1],
                    "auc_worst": min(by_site),
                    "auc_all": float(np.mean(by_site)),
                    "gain_low": low,
                    "gain_high": high,
                }
            )
    return found


def _by_site(frame: pd.DataFrame) -> list[np.ndarray]:
    return [(frame["site"] == f"S{k}").to_numpy() for k in range(SITES)]


def _predictors(seed: int) -> dict[str, Pipeline]:
    logistic = GridSearchCV(
        LogisticRegression(max_iter=2000), {"C": [0.001, 0.01, 0.1, 1.0]}, scoring="neg_log_loss", cv=5
    )
    boosting = HistGradientBoostingClassifier(max_iter=200, **boosting_settings(seed))
    return {name: make_pipeline(StandardScaler(), own) for name, own in (("linear", logistic), ("boosting", boosting))}


def _gain(before: np.ndarray, after: np.ndarray, truth: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95% interval of the paired difference of AUCs, over people drawn with replacement."""
    rng, draws = np.random.default_rng(seed), []
    for _ in range(400):
        some = rng.integers(len(truth), size=len(truth))
        draws.append(roc_auc_score(truth[some], after[some]) - roc_auc_score(truth[some], before[some]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _gained(rare: pd.DataFrame, kind: str) -> Line:
    """Return what counterfactual patients add to a predictor, with the interval that cohorts give; a finding, whatever it is."""
    own = rare[rare["predictor"] == kind].pivot(index="seed", columns="taught on", values=["auc_rare", "auc_worst"])
    told = []
    for figure, what in (("auc_rare", "that site"), ("auc_worst", "worst site")):
        table = own[figure]
        gain = table["counterfactual"] - table["as they are"]
        half = (
            student_t.ppf(0.975, max(len(gain) - 1, 1)) * gain.std(ddof=1) / len(gain) ** 0.5
            if len(gain) > 1
            else np.nan
        )
        told.append(
            f"{what} {table['as they are'].mean():.3f}, then {table['counterfactual'].mean():.3f}"
            f" (gain {gain.mean() - half:.3f} to {gain.mean() + half:.3f}; copies {table['copies'].mean():.3f})"
        )
    return Line("roles", f"a finding: AUC where a site has six patients, {kind}", "; ".join(told), True)


def _of_salient(frame: pd.DataFrame, world: str, method: str, title: str) -> list[Line]:
    """Return lines on a method's blocks, beside the others'."""
    mean = frame[frame["world"] == world].groupby(["method", "block"])[["auc", "age_r2"]].mean()
    raw = mean.loc[("raw", "all"), "auc"]
    salient, common = (mean.loc[(method, block)] for block in ("salient", "common"))
    if world == "straight" and method == "roles":
        peer = [mean.loc[("contrastive after", block)] for block in ("salient", "common")]
        beside = (
            f"raw {raw:.3f}, contrastive PCA {peer[0]['auc']:.3f}, plain VAE {mean.loc[('plain', 'all'), 'auc']:.3f}",
            f"contrastive PCA {peer[1]['auc']:.3f}",
            f"contrastive PCA {peer[0]['age_r2']:.3f}",
        )
    else:
        closed, also = mean.loc[("roles", "salient")], mean.loc[("roles", "common"), "auc"]
        told = [f"closed form {own:.3f}" for own in (closed["auc"], also, closed["age_r2"])]
        beside = (f"raw {raw:.3f}, {told[0]}", told[1], told[2])
    return [
        Line(
            "roles",
            f"{title}diagnosis from the salient block, AUC >= raw - .02",
            f"{salient['auc']:.3f} ({beside[0]})",
            bool(salient["auc"] >= raw - 0.02),
        ),
        Line(
            "roles",
            f"{title}diagnosis from the common block, AUC <= .55",
            f"{common['auc']:.3f} ({beside[1]})",
            bool(common["auc"] <= 0.55),
        ),
        Line(
            "roles",
            f"{title}age R2 in the salient block <= .05",
            f"{salient['age_r2']:.3f} ({beside[2]})",
            bool(salient["age_r2"] <= 0.05),
        ),
    ]


def _trained_moves(frame: pd.DataFrame, exact: pd.DataFrame) -> list[Line]:
    """Return what moves by a trained network leave and find again, and whether they are exact."""
    mean = frame[frame["block"] == "removed"].groupby("method")["auc"].mean()
    worst = exact.groupby("method").max()
    found = [f"{worst.loc[name, ['swap_common', 'swap_salient']].max():.1e}" for name in ("trained", "trained, swap 0")]
    own = worst.loc["trained"]
    return [
        Line(
            "roles",
            "a finding: diagnosis in the columns after a removal, trained",
            f"{mean['trained']:.3f} (closed form {mean['roles']:.3f}, without roles {mean['plain, told']:.3f})",
            True,
        ),
        Line(
            "roles",
            "a finding: a network finds swapped parts again, largest error, and without roles.swap",
            f"{found[0]}, {found[1]}",
            True,
        ),
        Line(
            "roles",
            "trained: controls and a second removal exactly, there and back to 1e-5 of the largest move",
            f"{own['null']:.1e}, {own['twice']:.1e}, {own['back']:.1e} of {own['moved']:.1f}",
            bool(own["null"] == 0 and own["twice"] == 0 and own["back"] <= 1e-5 * own["moved"]),
        ),
    ]


def run(options: Options) -> Report:
    """Probe blocks of latents, swap people, and teach predictors with counterfactual ones."""
    seeds = options.seeds(SEEDS)
    rows: list[dict[str, object]] = []
    for bent in (False, True):
        for seed in seeds:
            say(f"roles: seed {seed}{', bent' if bent else ''}")
            rows += measure(seed, bent=bent)
    frame, exact = pd.DataFrame(rows), pd.DataFrame([row for seed in seeds for row in swaps(seed)])
    rare = pd.DataFrame([row for seed in options.seeds(RARE_SEEDS) for row in rare_group(seed)])
    lines = _of_salient(frame, "straight", "roles", "")
    worst = exact[exact["method"] == "roles"][["swap_common", "swap_salient", "null", "twice"]].max()
    found_again = max(worst["swap_common"], worst["swap_salient"])
    lines += [
        Line("roles", "swapped parts are found again, to 1e-4", f"{found_again:.1e}", bool(found_again <= 1e-4)),
        Line(
            "roles",
            "nothing changes for controls, nor by a second removal",
            f"{worst['null']:.1e}, {worst['twice']:.1e}",
            bool(worst["null"] == 0 and worst["twice"] == 0),
        ),
    ]
    lines += _of_salient(frame, "straight", "trained", "trained: ")
    lines += _of_salient(frame, "bent", "trained", "trained, patients on an arc: ")
    lines += _trained_moves(frame, exact)
    lines += [_gained(rare, kind) for kind in ("linear", "boosting")]
    return Report(
        {
            "roles": Table(frame, _SHOWN, "what probes read of unseen people, by block of latents"),
            "roles_exact": Table(exact, tuple(exact.columns), "swaps and removals: largest differences"),
            "roles_rare": Table(rare, tuple(rare.columns), "the diagnosis at the site with six patients in training"),
        },
        tuple(lines),
    )
