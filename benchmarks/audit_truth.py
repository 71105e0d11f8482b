"""Audits of generated cohorts whose truth is known: how often they cry wolf, and how often they see one.

Each case is drawn for every seed with and without what is planted. A case without counts alarms at p <= 0.05, which may be at
most what a binomial with 5% gives in 97.5 of 100; a case with counts what was found, which has to be 90% at the stated effect and
number of people. Groups of 1, 2 and 5 are put into every cohort of the first kind: they must be listed as insufficient.
fairlearn's plain gap gate judges the same people: the largest difference of means over all groups has to be under a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from joblib import Parallel, delayed
from scipy import stats

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.data import Question
from medrep.audit.dependence import audit_independence
from medrep.audit.finding import Finding, findings_table
from medrep.audit.groups import group_participants, parse_by
from medrep.audit.holdout_split import Probing
from medrep.audit.label_injection import audit_label_injection
from medrep.audit.leakage import audit_leakage
from medrep.audit.metrics import person_mean, prediction_metrics
from medrep.audit.subgroups import audit_subgroups
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.config import SHIPPED
from medrep.tracking.gates import Bound, Gate, Gates, read_gates

SEEDS, QUICK, LEVEL, POWER = 200, 20, 0.05, 0.9
FEWER = {60: 100, 120: 100, 200: 100, 400: 50, 800: 20}
"""Seeds of decisions on audits of so many people, each of which takes a second or several."""
SMALL = {"tiny1": 1, "tiny2": 2, "tiny5": 5}
FAIRLEARN_BOUND = 0.3  # of a standard deviation, or of 1.0 for a rate
DRAWS, PERMUTATIONS = 200, 199
LEAKAGE = {"leakage", "leakage_excess", "leakage_shape", "leakage_equivalence", "leakage_beyond_training"}
EARLIER = Gates((Gate("earlier", "leakage_excess", (Bound("ci_low", high=0.1),)),), "")
"""What gates asked before: that leakage is not shown to be over .1."""
ASKED = (
    *(
        (people, export)
        for people in (60, 120, 200, 400, 800)
        for export in ("clean", "Bayes AUC 0.7", "Bayes AUC 0.75")
    ),
    (60, "Bayes AUC 0.8"),
    (400, "XOR of two columns"),
    (400, "scale x1.5 in 3 of 20 columns"),
    (400, "a tenth of a site 3 sd away in 5 columns"),
    (400, "covariance .4 in 60 columns"),
    (60, "clean, 3 scans each"),
    (120, "clean, 3 scans each"),
    *((people, f"a model that learned from {training} a site") for people in (120, 400) for training in (30, 100)),
)
Verdicts = Mapping[str, float]


def run(options: Options) -> Report:
    """Judge every case over the seeds."""
    seeds = range(QUICK if options.quick else SEEDS)
    rows = []
    for name, (case, effect) in CASES.items():
        for planted in (False, True):
            say(f"audit_truth: {name}, {'planted' if planted else 'nothing planted'}")
            found = Parallel(n_jobs=2)(delayed(case)(seed, planted) for seed in seeds)
            for metric in found[0]:
                alarms = np.array([one[metric] for one in found])
                rows.append(
                    {
                        "case": name,
                        "planted": effect if planted else "nothing",
                        "judge": metric,
                        "seeds": len(seeds),
                        "alarms": int(alarms.sum()),
                        "share": float(alarms.mean()),
                    }
                )
    table = pd.DataFrame(rows)
    shown = ("case", "planted", "judge", "seeds", "alarms", "share")
    decided = pd.concat([_decisions(*asked, seeds[: FEWER.get(asked[0], SEEDS)]) for asked in ASKED], ignore_index=True)
    tables = {
        "audit_truth": Table(table, shown, "Alarms on cohorts whose truth is known"),
        "audit_decisions": Table(
            decided,
            ("people", "export", "gates", "seeds", "passed", "refused", "too_little"),
            "What gates say of exports, shares of audits",
        ),
    }
    return Report(tables, (*judge(table, len(seeds)), *judge_decisions(decided)))


def judge_decisions(decided: pd.DataFrame) -> list[Line]:
    """Return the acceptance lines of gates: size, power at 120 and 200 people, and leaks that no mean tells."""
    lines = []
    for row in decided.to_dict("records"):
        name = f"{row['people']} people, {row['export']}, {row['gates']}"
        if not row["gates"].startswith("gates") or row["gates"] == "gates_strict.yaml":
            continue
        if row["export"].startswith(("clean", "a model")):
            lines.append(
                Line("audit_truth", f"{name}: refused <= .05", f"{row['refused']:.3f}", row["refused"] <= 0.05)
            )
            least = {120: 0.8, 200: 0.9}.get(row["people"])
            if least and row["export"] == "clean":
                passed = row["passed"] >= least
                lines.append(Line("audit_truth", f"{name}: passes >= {least:g}", f"{row['passed']:.3f}", passed))
        elif (row["people"], row["export"]) in {
            (120, "Bayes AUC 0.75"),
            (200, "Bayes AUC 0.7"),
            (200, "Bayes AUC 0.75"),
        }:
            passed = row["passed"] <= 0.1
            lines.append(Line("audit_truth", f"{name}: passes <= .10", f"{row['passed']:.3f}", passed))
        elif row["people"] == 400 and "Bayes" not in row["export"]:
            passed = row["passed"] <= 0.2
            lines.append(Line("audit_truth", f"{name}: caught >= .80", f"{1 - row['passed']:.3f}", passed))
    return lines


def _decisions(people: int, export: str, seeds: range) -> pd.DataFrame:
    """Return what the leakage gates of each file say of exports of 20 columns and two sites."""
    say(f"audit_truth: {people} people, {export}")
    verdicts = pd.DataFrame(Parallel(n_jobs=2)(delayed(_decided)(people, export, seed) for seed in seeds))
    shares = [
        {
            "people": people,
            "export": export,
            "gates": gates,
            "seeds": len(own),
            "passed": float((own == "passed").mean()),
            "refused": float((own == "refused").mean()),
            "too_little": float((own == "insufficient").mean()),
        }
        for gates, own in verdicts.items()
    ]
    return pd.DataFrame(shares)


def _decided(people: int, export: str, seed: int) -> dict[str, str]:
    """Return what each file of gates says of one export, the rule of before, and fairlearn's gap."""
    data, site = leaking(people, export, seed)
    scans = len(data) // people
    training = float(export.split()[-3]) if export.startswith("a model") else 1e6
    found = findings_table(
        audit_leakage(
            {"exported": data},
            _site(site, np.repeat(np.arange(people), scans).astype(str)),
            seed,
            trained={"exported": {"S0": training, "S1": training}},
        )
    )
    verdicts: dict[str, str] = {}
    for name in ("gates.yaml", "gates_small.yaml", "gates_strict.yaml"):
        gates = read_gates(SHIPPED / name).gates
        own = Gates(
            tuple(gate for gate in gates if gate.metric in LEAKAGE and not gate.group.startswith("latents")), ""
        )
        verdicts[name] = own.judge(found).verdict
    verdicts["earlier: ci_low <= 0.1"] = EARLIER.judge(found).verdict
    gap = max(_fairlearn(pd.Series(column), pd.Series(site)) for column in data.T)
    verdicts["fairlearn: largest gap of a column <= 0.5 sd"] = "passed" if gap <= 0.5 else "refused"
    return verdicts


def leaking(people: int, export: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an export of two sites that tells them in a known way, or not at all."""
    rng = np.random.default_rng([seed, 67])
    site, data = rng.permutation(np.arange(people) % 2), rng.normal(size=(people, 20))
    other = site == 1
    if export.startswith("clean, 3 scans"):
        data, site = np.repeat(data, 3, axis=0) + rng.normal(size=(3 * people, 20)), np.repeat(site, 3)
    elif export.startswith("a model that learned from"):
        errors = rng.normal(size=(2, 20)) / int(export.split()[-3]) ** 0.5
        data += errors[site]
    elif export.startswith("Bayes AUC"):
        apart = 2**0.5 * stats.norm.ppf(float(export.split()[-1]))
        data += np.outer(site - 0.5, np.full(20, apart / 20**0.5))
    elif export == "XOR of two columns":
        drawn = rng.random(people) < 0.5
        site = np.where(drawn, rng.integers(2, size=people), data[:, 0] * data[:, 1] > 0).astype(int)
    elif export == "scale x1.5 in 3 of 20 columns":
        data[other, :3] *= 1.5
    elif export == "a tenth of a site 3 sd away in 5 columns":
        data[np.ix_(np.flatnonzero(other & (rng.random(people) < 0.1)), np.arange(5))] += 3
    elif export == "covariance .4 in 60 columns":
        data = rng.normal(size=(people, 60))
        data[other] = 0.6**0.5 * data[other] + 0.4**0.5 * rng.normal(size=(int(other.sum()), 1))
    return data, np.where(site == 1, "S1", "S0")


def judge(table: pd.DataFrame, seeds: int) -> list[Line]:
    """Return the acceptance lines."""
    most = int(stats.binom.ppf(0.975, seeds, LEVEL))
    lines = []
    for row in table.to_dict("records"):
        if row["judge"].startswith("fairlearn"):
            continue
        if row["judge"] == "small groups judged":
            asked, passed = "groups of 1, 2 and 5 are insufficient and listed", row["alarms"] == 0
        elif row["planted"] == "nothing":
            asked, passed = f"false alarms <= {most} of {seeds}", row["alarms"] <= most
        else:
            asked, passed = f"power >= {POWER:g}", row["share"] >= POWER
        name = f"{row['case']}, {row['judge']}, planted: {row['planted']}: {asked}"
        lines.append(Line("audit_truth", name, f"{row['alarms']} of {seeds}", bool(passed)))
    return lines


def error_by_group(seed: int, planted: bool) -> Verdicts:
    """A skewed reconstruction error: women's is half a standard deviation larger if planted; 240 people."""
    rng = np.random.default_rng([seed, 61, planted])
    frame = _people(rng, 240)
    error = rng.gamma(4.0, 0.25, len(frame))
    error = error + 0.5 * error.std() * ((frame["sex"] == "F") & planted)
    found = audit_subgroups(
        "error",
        person_mean(error.to_numpy(), np.arange(len(frame))),
        group_participants(frame, parse_by("sex,site")),
        seed=seed,
        draws=DRAWS,
        permutations=PERMUTATIONS,
    )
    plain = {name: _fairlearn(error, frame[name]) > FAIRLEARN_BOUND * error.std() for name in ("sex", "site")}
    verdicts = {"gap of sex": _p(found, "error_gap", "sex") <= LEVEL}
    if not planted:
        verdicts["gap of site"] = _p(found, "error_gap", "site") <= LEVEL
    return verdicts | {
        "small groups judged": _small_judged(found, "error"),
        "fairlearn: difference of sex": plain["sex"],
        "fairlearn: difference of site": plain["site"],
    }


def predictor_by_group(seed: int, planted: bool) -> Verdicts:
    """A predictor that is wrong of 20% of people, of 35% of men if planted; 800 people."""
    rng = np.random.default_rng([seed, 62, planted])
    frame = _people(rng, 800)
    outcome = rng.integers(2, size=len(frame))
    wrong = rng.random(len(frame)) < np.where((frame["sex"] == "M") & planted, 0.35, 0.2)
    score = np.where(outcome ^ wrong, rng.uniform(0.5, 1, len(frame)), rng.uniform(0, 0.5, len(frame)))
    metrics = prediction_metrics(
        pd.Series(outcome, name="outcome"), pd.Series(score, name="score"), np.arange(len(frame))
    )
    groupings = group_participants(frame, parse_by("sex,site"))
    verdicts: dict[str, float] = {}
    for name in ("error", "auroc"):
        found = audit_subgroups(name, metrics[name], groupings, seed=seed, draws=DRAWS, permutations=PERMUTATIONS)
        verdicts[f"gap of {name}, sex"] = _p(found, f"{name}_gap", "sex") <= LEVEL
        if name == "error":
            verdicts["small groups judged"] = _small_judged(found, name)
    plain = _fairlearn(pd.Series(wrong.astype(float)), frame["site"]) > FAIRLEARN_BOUND
    return verdicts | {"fairlearn: difference of error, site": plain}


def leakage(seed: int, planted: bool) -> Verdicts:
    """Three sites of 100 people in 20 columns; if planted each shifts 3 of them by a standard deviation."""
    rng = np.random.default_rng([seed, 63, planted])
    site = np.repeat(["S0", "S1", "S2"], 100)
    data = rng.normal(size=(300, 20))
    for k, name in enumerate(("S0", "S1", "S2")):
        data[np.ix_(site == name, range(3 * k, 3 * k + 3))] += float(planted)
    asked = _site(site, np.arange(300).astype(str))
    found = audit_leakage({"table": data}, asked, seed, permutations=PERMUTATIONS)
    found += audit_independence({"table": data}, asked, seed, permutations=PERMUTATIONS)
    return {
        "strongest probe": _p(found, "leakage", "table/site") <= LEVEL,
        "distance covariance": _p(found, "dependence", "table/site") <= LEVEL,
    }


def repeated(seed: int, planted: bool) -> Verdicts:
    """Three sites of 40 people with three scans each in 20 columns; if planted, each site shifts 4 of them."""
    rng = np.random.default_rng([seed, 68, planted])
    site = np.repeat(["S0", "S1", "S2"], 120)
    data = np.repeat(rng.normal(size=(120, 20)), 3, axis=0) + 0.5 * rng.normal(size=(360, 20))
    for k, name in enumerate(("S0", "S1", "S2")):
        data[np.ix_(site == name, range(4 * k, 4 * k + 4))] += float(planted)
    who = np.repeat(np.arange(120), 3).astype(str)
    found = audit_leakage({"table": data}, _site(site, who), seed, permutations=PERMUTATIONS)
    found += audit_independence({"table": data}, _site(site, who), seed, permutations=PERMUTATIONS)
    # The scanner of a visit has nothing to do with the person: labels differ within people.
    visit = np.concatenate([rng.permutation(["V0", "V1", "V2"]) for _ in range(120)])
    shifted = data + (visit == "V0")[:, None] * (np.arange(20) < 4) * float(planted)
    found += audit_leakage({"scans": shifted}, _site(visit, who), seed, permutations=PERMUTATIONS)
    error = person_mean((data[:, 19] ** 2 + planted * 2.0 * (site == "S0")), who)
    found += audit_subgroups(
        "error",
        error,
        group_participants(pd.DataFrame({"site": site}), parse_by("site")),
        seed=seed,
        draws=DRAWS,
        permutations=PERMUTATIONS,
    )
    return {
        "leakage": _p(found, "leakage", "table/site") <= LEVEL,
        "leakage within people": _p(found, "leakage", "scans/site") <= LEVEL,
        "distance covariance": _p(found, "dependence", "table/site") <= LEVEL,
        "gap of site": _p(found, "error_gap", "site") <= LEVEL,
    }


def spread(seed: int, planted: bool) -> Verdicts:
    """Two sites of 150 people: if planted, one has three times the spread in 4 of 20 columns and no shift."""
    rng = np.random.default_rng([seed, 64, planted])
    site = np.repeat(["S0", "S1"], 150)
    data = rng.normal(size=(300, 20))
    data[150:, :4] *= 3.0 if planted else 1.0
    found = audit_leakage({"table": data}, _site(site, np.arange(300).astype(str)), seed, permutations=PERMUTATIONS)
    return {"strongest probe": _p(found, "leakage", "table/site") <= LEVEL}


def injection(seed: int, planted: bool) -> Verdicts:
    """Age and sex stay in 20 columns of 300 people; if planted, the export writes the given age into 4 of them."""
    rng = np.random.default_rng([seed, 65, planted])
    frame = pd.DataFrame({"age": rng.uniform(20, 80, 300), "sex": rng.choice(["F", "M"], 300)})
    frame.index = frame.index.astype(str)
    schema = CovariateSchema.fit(frame, (Covariate("age", "continuous"), Covariate("sex", "categorical")))
    frame = schema.transfer(frame)
    raw = rng.normal(size=(300, 20))
    raw[:, :6] += ((frame["age"].to_numpy() - 50) / 17)[:, None] * 0.5
    raw[:, 6:9] += (frame["sex"] == "F").to_numpy()[:, None] * 0.5

    def export(given: pd.DataFrame) -> np.ndarray:
        written = raw.copy()
        if planted:
            written[:, 10:14] += ((given["age"].to_numpy(float) - 50) / 17)[:, None] * 0.5
        return written

    people = Dataset(raw, frame, schema, Columns((), 20, None))
    probing = Probing(permutations=PERMUTATIONS, draws=DRAWS)
    found = audit_label_injection(export, people, ["age", "sex"], seed, probing=probing)
    verdicts = {"age": _p(found, "injection", "exported/age") <= LEVEL}
    return verdicts if planted else {**verdicts, "sex": _p(found, "injection", "exported/sex") <= LEVEL}


CASES: dict[str, tuple[Callable[[int, bool], Verdicts], str]] = {
    "reconstruction error": (error_by_group, "women +0.5 sd, n = 248"),
    "predictor": (predictor_by_group, "men 35% wrong, others 20%, n = 808"),
    "leakage of location": (leakage, "1 sd in 3 columns a site, n = 300"),
    "three scans each": (repeated, "1 sd in 4 columns, n = 120"),
    "leakage of spread": (spread, "spread x3 in 4 columns, n = 300"),
    "injection": (injection, "age into 4 of 20 columns, 0.5 sd, n = 300"),
}


def _people(rng: np.random.Generator, count: int) -> pd.DataFrame:
    """Draw people of two sexes and three sites, and sites with 1, 2 and 5 people."""
    site = [*rng.choice(["S0", "S1", "S2"], count), *(name for name, n in SMALL.items() for _ in range(n))]
    return pd.DataFrame({"sex": rng.choice(["F", "M"], len(site)), "site": site})


def _site(labels: np.ndarray, who: np.ndarray) -> Question:
    """Ask for the site, over nothing that is kept."""
    return Question("site", pd.Series(labels), False, who, np.zeros((len(labels), 0)))


def _p(found: list[Finding], metric: str, group: str) -> float:
    row = next(row for row in found if (row.metric, row.group) == (metric, group))
    if row.status != "ok":
        raise RuntimeError(f"audit_truth: {metric} {group} is insufficient: {row.note}")
    return row.p


def _small_judged(found: list[Finding], metric: str) -> bool:
    """Whether a group of few people is not listed, or has any figure or part in a gap."""
    rows = {row.group: row for row in found if row.metric == metric}
    listed = [rows.get(f"site={name}") for name in SMALL]
    return any(row is None or row.status != "insufficient" or row.estimate == row.estimate for row in listed)


def _fairlearn(values: pd.Series, groups: pd.Series) -> float:
    def mean(_true: np.ndarray, given: np.ndarray) -> float:
        return float(np.mean(given))

    frame = MetricFrame(metrics=mean, y_true=np.zeros(len(values)), y_pred=values, sensitive_features=groups)
    return float(frame.difference())
