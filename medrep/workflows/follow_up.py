"""``simulate --from COHORT --visits``: further visits of real people, with slopes of their own that are known."""

from pathlib import Path

import numpy as np
import pandas as pd

from medrep._files import output_folder
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import SILENT, Listener
from medrep.config import read_config
from medrep.derivatives.cohorts import TRUTH, write_feature_cohort
from medrep.errors import CohortError, listed
from medrep.models import LinearModel, LinearSettings
from medrep.simulate.visits import FollowUp, Schedule, attended, draw_own, plan_visits
from medrep.workflows.cohorts import check_output
from medrep.workflows.simulate import Planting, Simulated

_HOME = "the only site"


def plant_follow_up(
    source: Path,
    out: Path,
    follow_up: FollowUp,
    planting: Planting,
    listener: Listener = SILENT,
    *,
    overwrite: bool = False,
) -> Simulated:
    """Write a table of real people with further visits whose change is known.

    The first visit is as it was. At a later one, years after it::

        x' = x + f(age + years) - f(age) + slope years + share sd delta e + sd (gamma_there - gamma_home)

    where the age effect f, the residual deviation sd and the effects of sites (location gamma, scale delta) are those of a linear
    model of the cohort, slope is the person's own, and e is fresh noise. The truth has the same visits as all made at the
    person's first site. Point masses and missing cells stay.

    Args:
        source: The cohort, one visit a person.
        out: Where to write.
        follow_up: The design; its ``slope`` and ``noise`` are shares of sd.
        planting: Kind, seed and overrides; its effects are not planted.
        listener: Who is told.
        overwrite: Whether OUT may be replaced.

    Raises:
        MedrepError: People with several visits, no age, other data than a table, or a design that cannot be.
    """
    check_output(out, overwrite=overwrite, inputs=(source,))
    seed = planting.seed
    cohort, model, people, values = _read(source, planting, listener)
    names = list(cohort.source.features.names)
    schedule = plan_visits(people, follow_up, seed=seed)
    slopes, noise = draw_own(schedule, len(names), seed=seed)
    slopes *= follow_up.slope * model.sd
    clean, planted = _moved(model, people, schedule, values, slopes, follow_up.noise * model.sd * noise)
    there = attended(schedule, planted, follow_up, seed=seed)
    kept = schedule.take(there)
    who = pd.Index(people["participant_id"], name="participant_id")
    truth = {
        "formula": "x + f(age + years) - f(age) + slope * years + noise_sd * delta * e + sd * (gamma_there - gamma_home)",
        "seed": seed,
        "columns": names,
        "sd": model.sd.tolist(),
        "slope_sd": (follow_up.slope * model.sd).tolist(),
        "noise_sd": (follow_up.noise * model.sd).tolist(),
    }
    with output_folder(out) as partial:
        write_feature_cohort(
            partial,
            _table(cohort, kept),
            pd.DataFrame(planted[there], kept.index, names),
            pd.DataFrame(clean[there], kept.index, names),
            truth,
            {"slopes": pd.DataFrame(slopes, who, names)},
        )
    done = "planted follow-ups" if "site" in model.schema.names else "planted follow-ups; nobody changes site"
    return Simulated(done, f"{there.sum()} visits of {len(people)}", out, out / TRUTH)


def _read(source: Path, planting: Planting, listener: Listener) -> tuple[Cohort, LinearModel, pd.DataFrame, np.ndarray]:
    """Return the cohort, a linear model of it, its people as `plan_visits` wants them, and their features."""
    config = read_config("linear.yaml", [f"input.kind={planting.kind or 'features'}", *planting.overrides])
    if planting.kind not in (None, "features"):
        raise CohortError(f"--visits with --from: follow-ups are planted into tables, not {planting.kind}s")
    if source.is_dir() and not (source / "features.tsv").is_file():
        raise CohortError(f"--visits with --from: follow-ups are planted into tables, and {source} has no features.tsv")
    cohort = read_cohort(source, config.input)
    listener.notes(cohort.notes)
    ids = cohort.table["participant_id"].astype(str)
    if ids.duplicated().any():
        several = [f"{who}: {count} visits" for who, count in ids.value_counts(sort=False).items() if count > 1]
        raise CohortError(
            listed("participants with several visits already", several, "give a cohort of one visit each")
        )
    columns = {str(column).casefold(): str(column) for column in cohort.table}
    declared = [
        one
        for one in config.covariates
        if one.name == "age" or (one.name in columns and cohort.table[columns[one.name]].nunique() > 1)
    ]
    read = read_covariates(cohort.table, declared, cohort.units, cohort.levels)
    listener.notes(read.notes)
    cohort = cohort.select(read.frame.index)
    schema = CovariateSchema.fit(read.frame, read.declared)
    values, names = np.asarray(cohort.source.features.values, float), cohort.source.features.names
    whose = cohort.table["participant_id"].astype(str).tolist()
    dataset = Dataset(values, schema.transfer(read.frame), schema, Columns(tuple(names), len(names), None), whose)
    model, _ = LinearModel.fit(dataset, LinearSettings(components=0), seed=planting.seed)
    people = dataset.covariates.reset_index(drop=True)
    people.insert(0, "participant_id", whose)
    return cohort, model, people if "site" in people else people.assign(site=_HOME), values


def _moved(
    model: LinearModel,
    people: pd.DataFrame,
    schedule: Schedule,
    values: np.ndarray,
    slopes: np.ndarray,
    noise: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return visits as all made at the person's first site, and as made where they were; visits x columns."""
    person, years, every = schedule.person, schedule.years[:, None], slice(0, values.shape[1])
    home = people.iloc[person]
    later = home.assign(age=schedule.table["age"].to_numpy(float))
    further = np.flatnonzero(schedule.years > 0)

    def expected(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        levels = model.design.batches(frame)
        scale = model.scale(levels, model.batches.log_scale)
        return model.mean(model.design.effects(frame), levels, scale, every), scale

    (here, _), (aged, at_home), (away, there) = map(
        expected, (home, later, later.assign(site=schedule.table["site"].to_numpy()))
    )
    start, change = values[person], aged - here + slopes[person] * years
    clean, planted = start.copy(), start.copy()
    clean[further] += (change + noise * at_home)[further]
    planted[further] += (change + noise * there + away - aged)[further]
    if (held := model.masses.within(values, every)) is not None:
        for table in (clean, planted):
            table[held[person]] = start[held[person]]
    return clean, planted


def _table(cohort: Cohort, schedule: Schedule) -> pd.DataFrame:
    """Return the cohort's own table, a row a visit, with the age and the site of each; what came first is as it was."""
    columns = {str(column).casefold(): str(column) for column in cohort.table}
    table = cohort.table.iloc[schedule.person].reset_index(drop=True)
    table["participant_id"] = schedule.table["participant_id"].to_numpy()
    if "session_id" in table:
        table = table.drop(columns="session_id")
    table.insert(1, "session_id", schedule.table["session_id"].to_numpy())
    further = schedule.years > 0
    ages = np.array([f"{age:.2f}" for age in schedule.table["age"]], object)
    table[columns["age"]] = np.where(further, ages, table[columns["age"]].to_numpy(object))
    if "site" in columns:
        moved = further & (schedule.table["site"] != _HOME).to_numpy()
        table[columns["site"]] = np.where(
            moved, schedule.table["site"].to_numpy(object), table[columns["site"]].to_numpy(object)
        )
    return table
