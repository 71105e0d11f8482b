"""Families: people who are alike, told by ``--group`` or taken for unrelated, beside mixed models of statsmodels.

60 families of two to four people, most of one site, with a level of their own; people come once, or one to three times and then
have levels, too. ``location``: error of what is taken for a site's location. ``family`` and ``person``: variance of levels over
the residual variance, 1 where it is that planted. ``between`` and ``within``: how often 95 % intervals of ``within_effects.tsv``
hold what age does, siblings being of about one age. Sessions: people come one to three times, and each time are scanned one to
three times, scans of a session being alike; told by a column that names the session of each. Audit: families share site, which
does nothing; how often its test of leakage finds it all the same, and how often the interval of a mean holds the truth.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.data import Question
from medrep.audit.finding import Finding
from medrep.audit.leakage import audit_leakage
from medrep.audit.means import Sampling, mean_finding
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings
from medrep.models.linear.mixed import Visits

NAME = "families"
SEEDS, COVERED, AUDITED = range(900, 920), range(1000, 1200), range(2000, 2200)
FAMILIES, COLUMNS, SITES = 60, 3, 4
SHARED, OWN, NOISE, DAY = 0.7, 0.7, 0.35, 0.5  # deviations: of families, people, scans and sessions
BETWEEN, WITHIN = -0.02, -0.03  # of a year
SETTINGS = LinearSettings(components=0, spline_degrees=1)
DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


class World:
    """Visits of relatives with known effects.

    Attributes:
        told: Column that ``--group`` names.
        table: family, participant, age, sex and site of each visit.
        location: Of each site.
        data: Visits x columns.
    """

    told = "family"

    def __init__(self, seed: int, *, visits: int) -> None:
        rng = np.random.default_rng(seed)
        rows = []
        for family in range(FAMILIES):
            home, about = int(rng.integers(SITES)), rng.uniform(20, 70)
            for member in range(int(rng.integers(2, 5))):
                first = home if rng.random() < 0.7 else int(rng.integers(SITES))
                age, changes, sex = about + rng.normal(0, 3), rng.random() < 0.5, "FM"[int(rng.integers(2))]
                for visit in range(int(rng.integers(1, visits + 1))):
                    site = (first + 1) % SITES if changes and visit else first
                    who = f"f{family:02d}p{member}"
                    rows.append((f"f{family:02d}", who, age + 2 * visit + rng.normal(0, 0.3), sex, f"S{site}"))
        self.table = pd.DataFrame(rows, columns=["family", "participant", "age", "sex", "site"])
        family, who = (pd.factorize(self.table[name])[0] for name in ("family", "participant"))
        age = self.table["age"].to_numpy()[:, None]
        mean = self.table.groupby("participant")["age"].transform("mean").to_numpy()[:, None]
        self.location = rng.normal(0, 0.4, (SITES, COLUMNS))
        levels = rng.normal(0, SHARED, (FAMILIES, COLUMNS))[family] + rng.normal(0, OWN, (who.max() + 1, COLUMNS))[who]
        effects = BETWEEN * mean + WITHIN * (age - mean) + 0.3 * (self.table["sex"] == "M").to_numpy()[:, None]
        self.data = levels + effects + self.location[self.site] + rng.normal(0, NOISE, (len(self.table), COLUMNS))

    @property
    def site(self) -> np.ndarray:
        """Number of each visit's site."""
        return self.table["site"].str[1:].astype(int).to_numpy()

    def dataset(self, *, told: bool) -> Dataset:
        """Return the visits as medrep takes them; families told or not."""
        keys = pd.Index([f"v{k}" for k in range(len(self.table))], name="key")
        frame = self.table[[one.name for one in DECLARED]].set_axis(keys)
        schema = CovariateSchema.fit(frame, DECLARED)
        columns = Columns(tuple(f"x{k}" for k in range(COLUMNS)), COLUMNS, None)
        groups = tuple(self.table[self.told]) if told else None
        return Dataset(
            self.data, schema.transfer(frame), schema, columns, tuple(self.table["participant"]), groups=groups
        )

    def location_error(self, found: np.ndarray) -> float:
        """Return the mean error of locations, sites counting by their visits."""
        share = np.bincount(self.site, minlength=SITES) / len(self.site)
        return float(np.abs((found - share @ found) - (self.location - share @ self.location)).mean())


class Scans(World):
    """Scans of people's sessions, which are alike; people are unrelated."""

    told = "session"

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = []
        for person in range(2 * FAMILIES):
            first, age, changes = int(rng.integers(SITES)), rng.uniform(20, 70), rng.random() < 0.5
            for visit in range(int(rng.integers(1, 4))):
                site = f"S{(first + 1) % SITES if changes and visit else first}"
                named = f"p{person:03d}", f"p{person:03d}_{visit}"
                rows += [(*named, age + 2 * visit, "FM"[person % 2], site)] * int(rng.integers(1, 4))
        self.table = pd.DataFrame(rows, columns=["participant", "session", "age", "sex", "site"])
        who, session = (pd.factorize(self.table[name])[0] for name in ("participant", "session"))
        age = self.table["age"].to_numpy()[:, None]
        mean = self.table.groupby("participant")["age"].transform("mean").to_numpy()[:, None]
        self.location = rng.normal(0, 0.4, (SITES, COLUMNS))
        levels = (
            rng.normal(0, OWN, (who.max() + 1, COLUMNS))[who]
            + rng.normal(0, DAY, (session.max() + 1, COLUMNS))[session]
        )
        effects = BETWEEN * mean + WITHIN * (age - mean) + 0.3 * (self.table["sex"] == "M").to_numpy()[:, None]
        self.data = levels + effects + self.location[self.site] + rng.normal(0, NOISE, (len(self.table), COLUMNS))


def scanned(seed: int, *, slow: bool) -> dict[str, float]:
    """Return errors of locations, where ``slow``, and coverage of effects where people were scanned several times a session."""
    world, found = Scans(seed), dict[str, float]()
    for name, told in (("medrep", True), ("unrelated", False)):
        model, _ = LinearModel.fit(world.dataset(told=told), SETTINGS)
        found |= {f"{name}: location": world.location_error(model.batches.location)} if slow else {}
        found |= _coverage(name, model)
        if told:
            found[f"{name}: noise"] = float((model.sd**2).mean()) / (NOISE**2 + DAY**2)
            found[f"{name}: person"] = float(model.people.level.mean()) / (OWN**2 / (NOISE**2 + DAY**2))
    return found | (
        {"mixedlm: location": world.location_error(_mixed(world, "participant", "session")[0])} if slow else {}
    )


def measure(seed: int, visits: int) -> dict[str, float]:
    """Return errors of locations and ratios of variances, of all contenders on one cohort."""
    world, found = World(seed, visits=visits), dict[str, float]()
    own = OWN**2 / NOISE**2 if visits > 1 else 0.0
    noise = NOISE**2 if visits > 1 else NOISE**2 + OWN**2
    for name, told in (("medrep", True), ("unrelated", False)):
        model, _ = LinearModel.fit(world.dataset(told=told), SETTINGS)
        found[f"{name}: location"] = world.location_error(model.batches.location)
        if told:
            planned = Visits.of(world.dataset(told=True), model.design)
            if planned is None:
                raise RuntimeError("families are not known")
            fit = planned.fit(world.data)
            family, person = (
                (fit.level, 0.0) if planned.plan.unrelated else (fit.group, float((fit.level - fit.group).mean()))
            )
            found[f"{name}: family"] = float(family.mean()) / (SHARED**2 / noise)
            found |= {f"{name}: person": person / own} if own else {}
    slow = _mixed(world, "family", "participant" if visits > 1 else "")
    found["mixedlm: location"] = world.location_error(slow[0])
    found["mixedlm: family"] = slow[1] / (SHARED**2 / noise)
    return found | ({"mixedlm: person": slow[2] / own} if own else {})


def _mixed(world: World, outer: str, inner: str) -> tuple[np.ndarray, float, float]:
    """Return locations and mean ratios of variances of statsmodels' MixedLM, a column at a time; of levels of two columns."""
    import statsmodels.formula.api as smf

    table, location, ratios = world.table.copy(), np.zeros((SITES, COLUMNS)), []
    formula = "y ~ age + sex + C(site)"
    if inner:
        table["mean"] = table.groupby("participant")["age"].transform("mean")
        table["away"] = table["age"] - table["mean"]
        formula = "y ~ mean + away + sex + C(site)"
    people = {"re_formula": "1", "vc_formula": {"inner": f"0 + C({inner})"}} if inner else {}
    for column in range(COLUMNS):
        table["y"] = world.data[:, column]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = smf.mixedlm(formula, table, groups=outer, **people).fit()
        location[1:, column] = [fit.params[f"C(site)[T.S{k}]"] for k in range(1, SITES)]
        ratios.append((fit.cov_re.iloc[0, 0] / fit.scale, fit.vcomp[0] / fit.scale if inner else 0.0))
    family, person = np.mean(ratios, axis=0)
    return location, float(family), float(person)


def covered(seed: int) -> dict[str, float]:
    """Return how often intervals of effects between and within people hold what was planted, in one cohort."""
    world, found = World(seed, visits=3), dict[str, float]()
    for name, told in (("medrep", True), ("unrelated", False)):
        found |= _coverage(name, LinearModel.fit(world.dataset(told=told), SETTINGS)[0])
    return found


def _coverage(name: str, model: LinearModel) -> dict[str, float]:
    if (table := model.within_effects()) is None:
        raise RuntimeError("effects within people are not known")
    found = {}
    for what, truth in (("between", BETWEEN), ("within", WITHIN)):
        inside = (table[f"{what}_low"] <= truth) & (truth <= table[f"{what}_high"])
        found[f"{name}: {what}"] = float(inside.mean())
    return found


def audited(seed: int) -> dict[str, float]:
    """Return whether an audit finds a site that does nothing, and whether a mean's interval holds it; families share both."""
    rng = np.random.default_rng(seed)
    family = np.repeat(np.arange(FAMILIES), 3)
    who = np.array([f"p{k:03d}" for k in range(len(family))], object)
    data = rng.normal(0, 1, (FAMILIES, 8))[family] + rng.normal(0, 0.7, (len(family), 8))
    site = pd.Series(np.array(["S0", "S1"], object)[rng.integers(2, size=FAMILIES)][family])
    values = rng.normal(0, 1, FAMILIES)[family] + rng.normal(0, 0.7, len(family))
    found: dict[str, float] = {}
    for name, units in (("medrep", family.astype(str)), ("unrelated", who)):
        question = Question("raw/site", site, continuous=False, participants=units, kept=np.zeros((len(family), 0)))
        told = audit_leakage({"raw": data}, question, seed, permutations=99)
        p = next(one.p for one in told if one.metric == "leakage")
        mean = mean_finding(Finding("deviation", "all", 0), values, units, Sampling(seed, 10, 200))
        found |= {f"{name}: false alarm": float(p <= 0.05), f"{name}: mean": float(mean.ci_low <= 0 <= mean.ci_high)}
    return found


def run(options: Options) -> Report:
    """Measure models over 20 seeds and intervals over 200 (``--quick``: 2 and 20)."""
    few, many = (2, 20) if options.quick else (len(SEEDS), len(COVERED))
    rows = []
    for case, visits in (("once", 1), ("again", 3)):
        for seed in SEEDS[:few]:
            say(f"{NAME}: {case}, seed {seed}")
            rows += [
                {"case": case, "seed": seed, "figure": name, "value": one}
                for name, one in measure(seed, visits).items()
            ]
    for case, step, seeds in (("again", covered, COVERED), ("audit", audited, AUDITED)):
        say(f"{NAME}: {case}, {many} seeds")
        for seed in seeds[:many]:
            rows += [{"case": case, "seed": seed, "figure": name, "value": one} for name, one in step(seed).items()]
    say(f"{NAME}: sessions, {many} seeds")
    for number, seed in enumerate(COVERED[:many]):
        told = scanned(seed, slow=number < few)
        rows += [{"case": "sessions", "seed": seed, "figure": name, "value": one} for name, one in told.items()]
    found = pd.DataFrame(rows)
    found[["contender", "figure"]] = found["figure"].str.split(": ", n=1, expand=True)
    means = found.groupby(["case", "figure", "contender"], sort=False)["value"].mean().unstack().reset_index()
    of = means.set_index(["case", "figure"])

    def line(asked: str, value: float, low: float, high: float) -> Line:
        return Line(NAME, asked, f"{value:.3f}", low <= value <= high)

    sessions = of.loc[("sessions", "location")]
    once, again = of.loc[("once", "location")], of.loc[("again", "location")]
    lines = (
        line("once: location <= 1.05 of the mixed model's", once["medrep"] / once["mixedlm"], 0, 1.05),
        line("once: location <= that of unrelated people", once["medrep"] / once["unrelated"], 0, 1),
        line("again: location <= 1.05 of the mixed model's", again["medrep"] / again["mixedlm"], 0, 1.05),
        line("once: variance of families, 1 +- .15", of.loc[("once", "family"), "medrep"], 0.85, 1.15),
        line("again: variance of families, 1 +- .15", of.loc[("again", "family"), "medrep"], 0.85, 1.15),
        line("again: variance of people, 1 +- .15", of.loc[("again", "person"), "medrep"], 0.85, 1.15),
        line("intervals between people hold 93 to 97 %", of.loc[("again", "between"), "medrep"], 0.93, 0.97),
        line("intervals within people hold 93 to 97 %", of.loc[("again", "within"), "medrep"], 0.93, 0.97),
        line("sessions: location <= 1.05 of the mixed model's", sessions["medrep"] / sessions["mixedlm"], 0, 1.05),
        line("sessions: variance of a scan, 1 +- .1", of.loc[("sessions", "noise"), "medrep"], 0.9, 1.1),
        line("sessions: intervals within people hold 93 to 97 %", of.loc[("sessions", "within"), "medrep"], 0.93, 0.97),
        line("false alarms of an audit, .02 to .09", of.loc[("audit", "false alarm"), "medrep"], 0.02, 0.09),
        line("intervals of means hold 92 to 98 %", of.loc[("audit", "mean"), "medrep"], 0.92, 0.98),
    )
    contenders = [name for name in ("medrep", "unrelated", "mixedlm") if name in means]
    table = Table(means, ("case", "figure", *contenders), "Families")
    return Report(
        {NAME: table, f"{NAME}_seeds": Table(found, ("case", "seed", "contender", "figure", "value"), "Seeds")}, lines
    )
