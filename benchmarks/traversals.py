"""Latents at their extremes: effects beside the truth, how often intervals hold it, and how often nothing is found where it is.

One model (linear, four latents) of 300 people of 2 sites, 16 columns; then cohorts of 240 people whom it never saw. Two of the
latents' directions are a person's own factors, one of which a diagnosis follows. The truth of a column is what the loading of a
latent, from the same low to the same high value, is in deviations of the column among 40,000 people. That of a reading is the
effect on predictors that as many people taught, the mean over cohorts; predictors that 20,000 people taught are shrunk less, and
their effect is shown beside. In ``nothing`` decoded data do not change, so that every effect is 0. Of each latent the ten
strongest of 16 columns are listed, and so judged.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.data import AuditData
from medrep.audit.traversals import SMALL, audit_traversals
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings

SEEDS, PEOPLE, MANY, COLUMNS, LATENTS, FOUND = 40, 240, 20_000, 16, 4, 0.05
_FIRST = 5000
_DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)


def drawn(count: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, pd.Series]:
    """Return covariates, columns and a diagnosis of people; effects are the same for every seed."""
    rng, fixed = np.random.default_rng([seed, 19]), np.random.default_rng(3)
    site, male = np.arange(count) % 2, rng.integers(2, size=count)
    age, own = rng.uniform(20, 80, count), rng.normal(size=(count, 2))
    loadings = np.zeros((2, COLUMNS))
    loadings[0, :5], loadings[1, 5:9] = fixed.uniform(1.2, 2.2, 5), fixed.uniform(0.8, 1.4, 4)
    data = own @ loadings + rng.normal(size=(count, COLUMNS))
    data += np.outer((age - 50) / 20, fixed.normal(0, 0.6, COLUMNS)) + np.outer(male, fixed.normal(0, 0.7, COLUMNS))
    data += fixed.normal(0, 1, (2, COLUMNS))[site]
    index = pd.Index([f"sub-{k:05d}" for k in range(count)], name="participant_id")
    frame = pd.DataFrame(
        {"age": age, "sex": np.take(["F", "M"], male), "site": np.take(["S0", "S1"], site)}, index=index
    )
    ill = own[:, 1] + 0.7 * rng.normal(size=count) > 0
    return frame, data, pd.Series(np.where(ill, "AD", "HC"), index, name="diagnosis")


def fitted() -> LinearModel:
    """Return the model, of people of a seed of their own."""
    frame, data, _ = drawn(300, 1)
    schema = CovariateSchema.fit(frame, _DECLARED)
    names = tuple(f"c{k}" for k in range(COLUMNS))
    people = Dataset(data, schema.transfer(frame), schema, Columns(names, COLUMNS, None))
    return LinearModel.fit(people, LinearSettings(components=LATENTS, spline_degrees=1))[0]


class Idle(LinearModel):
    """The same model, whose latents do nothing."""

    def with_latents(self, dataset, latents) -> Iterator[np.ndarray]:  # type: ignore[no-untyped-def]
        """Yield everybody as they are."""
        for _ in latents:
            yield dataset.values


def audited(model: LinearModel, count: int, seed: int) -> tuple[pd.DataFrame, dict[str, object]]:
    """Return the table of people of a seed, all features of it, and the findings by group."""
    frame, data, ill = drawn(count, seed)
    people = model.dataset(data, model.schema.transfer(frame))
    asked = AuditData(model, people, pd.DataFrame({"diagnosis": ill}), model.schema.references(["site"]))
    found = audit_traversals(asked, model.posterior(people), (ill, False), seed=seed)
    return found.table.set_index(["latent", "property"]), {one.group: one for one in found.findings}


def run(options: Options) -> Report:
    """Measure coverage, false findings and the size of effects of many cohorts."""
    model = fitted()
    state = {name: getattr(model, name) for name in model.__dataclass_fields__}
    idle = Idle(**state)
    frame, data, _ = drawn(2 * MANY, 2)
    spread, few = data.std(axis=0), model.dataset(data[:100], model.schema.transfer(frame.iloc[:100]))
    z = model.encode(few)
    loadings = [(moved - few.values).mean(axis=0) for moved in model.with_latents(few, z + np.eye(LATENTS)[:, None])]
    truth, _ = audited(model, MANY, 3)
    per_value = (truth["effect"] / (truth["high"] - truth["low"])).loc[truth["kind"] == "reading"]
    rows = []
    for seed in range(_FIRST, _FIRST + (10 if options.quick else SEEDS)):
        if seed % 10 == 0:
            say(f"traversals: seed {seed - _FIRST}")
        for case, one in (("effects", model), ("nothing", idle))[: 1 if seed % 10 else 2]:
            table, found = audited(one, PEOPLE, seed)
            for (latent, name), row in table.iterrows():
                wide = row["high"] - row["low"]
                if case == "nothing":
                    true = 0.0
                elif row["kind"] == "feature":
                    true = wide * loadings[latent][int(name[1:])] / spread[int(name[1:])]
                else:
                    true = wide * per_value.get((latent, name), np.nan)
                rows.append(
                    {"seed": seed, "case": case, "latent": latent, "property": name, "truth": true, "wide": wide, **row}
                )
    frame = pd.DataFrame(rows)
    reading = (frame["case"] == "effects") & (frame["kind"] == "reading")
    usual = (
        (frame["effect"] / frame["wide"]).where(reading).groupby([frame["latent"], frame["property"]]).transform("mean")
    )
    frame["of_many"] = frame["truth"]
    frame["truth"] = frame["truth"].where(~reading, usual * frame["wide"])
    frame["many_held"] = (frame["ci_low"] <= frame["of_many"]) & (frame["of_many"] <= frame["ci_high"])
    frame["held"] = (frame["ci_low"] - 1e-9 <= frame["truth"]) & (frame["truth"] <= frame["ci_high"] + 1e-9)
    frame["found"] = frame["q"] <= FOUND
    frame["small"] = frame["truth"].abs() <= SMALL
    frame["error"] = frame["effect"] - frame["truth"]
    shown = frame.groupby(["case", "kind"], as_index=False).agg(
        rows=("held", "size"),
        held=("held", "mean"),
        error=("error", lambda own: float(np.sqrt(np.mean(own**2)))),
        found=("found", "mean"),
    )
    features = frame[(frame["case"] == "effects") & (frame["kind"] == "feature")]
    told = frame[(frame["case"] == "effects") & (frame["kind"] == "reading")]
    held, of_readings = float(features["held"].mean()), float(told["held"].mean())
    found = features[features["found"]]
    wrong = float(found["small"].mean())
    large = features[features["truth"].abs() >= 0.5]
    first = told[told["property"].str.startswith("diagnosis")].assign(size=lambda own: own["effect"].abs())
    strongest = first.loc[first.groupby("seed")["size"].idxmax()]
    right = float((strongest["latent"] == truth_of(truth)).mean())
    nothing = frame[frame["case"] == "nothing"]
    name = "traversals"
    lines = [
        Line(name, "95 % intervals of features hold the truth in 93 to 97 %", f"{held:.3f}", 0.93 <= held <= 0.97),
        Line(
            name,
            "those of readings what predictors of as many people read on average, in 90 % or more",
            f"{of_readings:.3f} (what 20,000 people teach: {float(told['many_held'].mean()):.3f})",
            of_readings >= 0.90,
        ),
        Line(
            name,
            f"of features found, at most 5 % have a true effect of at most {SMALL:g}",
            f"{wrong:.4f}",
            wrong <= 0.05,
        ),
        Line(
            name,
            "features with a true effect of .5 or more are found in 95 %",
            f"{float(large['found'].mean()):.3f}",
            bool(large["found"].mean() >= 0.95),
        ),
        Line(name, "the latent that tells the diagnosis is named in 95 %", f"{right:.3f}", right >= 0.95),
        Line(
            name,
            "latents that do nothing: every effect 0, nothing found",
            f"largest {nothing['effect'].abs().max():.1e}, found {int(nothing['found'].sum())}",
            bool(nothing["effect"].abs().max() < 1e-9 and not nothing["found"].any()),
        ),
    ]
    title = (
        f"{frame['seed'].nunique()} cohorts of {PEOPLE}: share of intervals that hold the truth, root mean square error"
    )
    return Report({"traversals": Table(shown, tuple(shown.columns), title)}, tuple(lines))


def truth_of(truth: pd.DataFrame) -> int:
    """Return the latent that moves the reading of the diagnosis most, as many people have it."""
    own = truth[truth.index.get_level_values("property").str.startswith("diagnosis")]
    return int(own["effect"].abs().idxmax()[0])
