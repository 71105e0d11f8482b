"""``simulate``: a cohort with known effects, generated or planted into a user's own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep._files import output_folder
from medrep._persisted import to_json
from medrep.cohort.cohort import Cohort, read_cohort
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import Covariate
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.nifti import LabelMap, Volume, read_image, read_labels
from medrep.config import read_config
from medrep.derivatives.cohorts import TRUTH, write_feature_cohort, write_volume_cohort
from medrep.errors import CohortError, CovariateError, listed
from medrep.simulate import simulate_features, simulate_participants
from medrep.simulate.brains import Brain, brain_truth, draw_brains, render_brain
from medrep.simulate.displaced import draw_organs, organ_grid, organ_truth, render_organ
from medrep.simulate.features import simulate_visits
from medrep.simulate.participants import CENTRE_YEARS, stream
from medrep.simulate.planted_effects import (
    CovariateEffect,
    SiteEffect,
    apply_covariate_effect,
    apply_feature_covariate_effect,
    apply_feature_site_effects,
    apply_site_effect,
    draw_covariate_effect,
    draw_feature_covariate_effect,
    draw_feature_site_effects,
    draw_site_effects,
)
from medrep.simulate.shape_effects import apply_shape_effect, draw_shape_effect, pad_for_shape_effect
from medrep.simulate.visits import FollowUp, Schedule, attended, plan_visits
from medrep.workflows.cohorts import check_output

BRAIN_SHAPE, BRAIN_SPACING = (40, 48, 40), 4.0
TRUE_AGES = (30.0, 75.0)
"""Years at which everybody's organ is written beside, as the truth of counterfactuals."""
AGING = (1.3, 0.4)
"""Mean and deviation over people of how many years a brain ages within a year, where people come several times."""
_KINDS = {"age": "continuous", "sex": "categorical", "diagnosis": "categorical"}


@dataclass(frozen=True)
class Simulated:
    """Result of a simulation: what was done to how many, in words, and where the cohort and the truth lie."""

    done: str
    people: str
    cohort: Path
    truth: Path


@dataclass(frozen=True)
class Design:
    """Design of a generated cohort of ``features``, ``volume`` or ``shape``; the first site is untouched.

    With a ``follow_up`` people come several times.
    """

    kind: str = "features"
    people: int = 100
    sites: int = 4
    seed: int = 0
    follow_up: FollowUp | None = None


@dataclass(frozen=True)
class Planting:
    """Effects to plant into a cohort.

    Attributes:
        effects: Of ``site``, ``age``, ``sex``, ``diagnosis``.
        sites: How many sites to draw where the table has no ``site``.
        seed: Seed of every draw.
        kind: What the cohort holds: features, volume or shape; by default features if there is a features.tsv, else volumes.
        overrides: ``input.*`` overrides for finding the images.
    """

    effects: Sequence[str] = ("site",)
    sites: int = 4
    seed: int = 0
    kind: str | None = None
    overrides: Sequence[str] = ()


def simulate_cohort(
    out: Path, design: Design | None = None, listener: Listener = SILENT, *, overwrite: bool = False
) -> Simulated:
    """Generate a cohort: participants.tsv with features.tsv, T1w images or organs, and the truth."""
    design = design or Design()
    people, sites, seed = design.people, design.sites, design.seed
    check_output(out, overwrite=overwrite)
    participants = simulate_participants(people, n_sites=sites, seed=seed)
    if design.follow_up is None:
        with output_folder(out) as partial:
            _SIMULATED[design.kind](partial, participants, seed, listener)
        return Simulated(f"generated ({design.kind})", f"{people} at {sites} sites", out, out / TRUTH)
    by_value = design.follow_up.dropout_by == "value"
    if design.kind not in _WITH_VISITS or (by_value and design.kind != "features"):
        flag, kinds = ("--dropout-by value", "features") if by_value else ("visits", " and ".join(_WITH_VISITS))
        raise CohortError(f"--kind {design.kind}: {flag} can be had of {kinds}")
    schedule = plan_visits(participants, design.follow_up, seed=seed)
    with output_folder(out) as partial:
        visits = _WITH_VISITS[design.kind](partial, participants, schedule, design.follow_up, seed, listener)
    return Simulated(f"generated ({design.kind})", f"{visits} visits of {people} at {sites} sites", out, out / TRUTH)


def _simulate_feature_visits(
    folder: Path, people: pd.DataFrame, schedule: Schedule, follow_up: FollowUp, seed: int, listener: Listener
) -> int:
    del listener
    made = simulate_visits(people, schedule, seed=seed)
    there = attended(schedule, made.features.to_numpy(), follow_up, seed=seed)
    own = {"levels": made.levels, "slopes": made.slopes}
    kept = schedule.take(there)
    write_feature_cohort(folder, kept.table, made.features[there], made.clean[there], made.truth, own)
    return len(kept.table)


def _simulate_brain_visits(
    folder: Path, people: pd.DataFrame, schedule: Schedule, follow_up: FollowUp, seed: int, listener: Listener
) -> int:
    kept = schedule.take(attended(schedule, None, follow_up, seed=seed))
    rates = {who: float(stream(seed, "rate", who).normal(*AGING)) for who in people["participant_id"]}
    rate = kept.table["participant_id"].map(rates).to_numpy(float)
    seen = kept.table.assign(age=kept.table["age"] + (rate - 1) * kept.years)
    # A session at a time: of one table a person is one row.
    drawn = [draw_brains(rows, seed=seed) for _, rows in seen.groupby("session_id", sort=False)]
    order = np.concatenate([rows.index for _, rows in seen.groupby("session_id", sort=False)])
    by_row = dict(zip(order.tolist(), (brain for brains in drawn for brain in brains), strict=True))
    brains = [
        replace(
            by_row[row],
            participant_id=f"{visit.participant_id}_{visit.session_id}",
            noise_seed=int(stream(seed, "brain", str(visit.participant_id), str(visit.session_id)).integers(2**32)),
        )
        for row, visit in enumerate(kept.table.itertuples())
    ]
    _write_brains(folder, kept.table, brains, {"rates": rates}, seed, listener)
    return len(brains)


_WITH_VISITS = {"features": _simulate_feature_visits, "volume": _simulate_brain_visits}


def _simulate_features(folder: Path, participants: pd.DataFrame, seed: int, listener: Listener) -> None:
    del listener
    simulated = simulate_features(participants, seed=seed)
    write_feature_cohort(folder, participants, simulated.features, simulated.clean, simulated.truth)


def _simulate_brains(folder: Path, participants: pd.DataFrame, seed: int, listener: Listener) -> None:
    _write_brains(folder, participants, draw_brains(participants, seed=seed), {}, seed, listener)


def _write_brains(
    folder: Path,
    participants: pd.DataFrame,
    brains: Sequence[Brain],
    truth: Mapping[str, Any],
    seed: int,
    listener: Listener,
) -> None:
    """Render brains, send each through its site's scanner, and write both; a row of the table each."""
    effects = draw_site_effects(sorted(set(participants["site"])), seed=seed)
    truth = {**brain_truth(brains), **truth, "site": to_json(effects)}
    session = "session_id" in participants

    def volumes() -> Iterator[tuple[str, Volume, Volume]]:
        for position, (brain, row) in enumerate(zip(brains, participants.itertuples(), strict=True)):
            data = render_brain(brain, BRAIN_SHAPE, BRAIN_SPACING)
            effect = effects[str(row.site)]
            scanned = apply_site_effect(data, (BRAIN_SPACING,) * 3, effect, seed=_own_seed(seed, position))
            place, entities = str(row.participant_id), brain.participant_id
            name = (
                f"{place}/{row.session_id}/anat/{entities}_T1w.nii.gz"
                if session
                else f"{place}/anat/{entities}_T1w.nii.gz"
            )
            yield name, Volume(scanned, _brain_affine()), Volume(data, _brain_affine())

    with listener.track("generate", len(participants)) as advance:
        write_volume_cohort(folder, participants, volumes(), truth, advance)


def _simulate_organs(folder: Path, participants: pd.DataFrame, seed: int, listener: Listener) -> None:
    from medrep.derivatives.cohorts import write_shape_cohort  # libigl and scikit-image, which only shapes need

    cohort = draw_organs(participants, seed=seed)
    grid, affine = organ_grid()

    def organs() -> Iterator[tuple[str, LabelMap, dict[str, LabelMap]]]:
        for person, row in zip(cohort.people, participants.to_dict("records"), strict=True):
            others = {f"age{age:g}": {**row, "age": age} for age in TRUE_AGES}
            who = row["participant_id"]
            yield (
                f"{who}/anat/{who}_desc-organ_mask.nii.gz",
                render_organ(person, row, grid, affine),
                {desc: render_organ(person, other, grid, affine) for desc, other in others.items()},
            )

    with listener.track("generate", len(participants)) as advance:
        write_shape_cohort(folder, participants, organs(), organ_truth(cohort.family), advance)


_SIMULATED = {"features": _simulate_features, "volume": _simulate_brains, "shape": _simulate_organs}


def plant_effects(
    source: Path, out: Path, planting: Planting, listener: Listener = SILENT, *, overwrite: bool = False
) -> Simulated:
    """Plant known effects into a user's own cohort.

    A covariate that participants.tsv has is used as it is; one that it lacks is drawn at random and added. Sites get gain,
    gamma, bias field, blur and noise of their own (features: location and scale); the first site stays untouched.

    Args:
        source: The cohort.
        out: Where to write the planted one.
        planting: What to plant.
        listener: Who is told.
        overwrite: Whether OUT may be replaced.
    """
    effects, seed = planting.effects, planting.seed
    check_output(out, overwrite=overwrite, inputs=(source,))
    unknown = sorted(set(effects) - {"site", *_KINDS})
    if unknown or not effects:
        raise CohortError(f"--effects {','.join(effects) or '(none)'}: allowed are site, {', '.join(_KINDS)}")
    found = planting.kind or ("features" if (source / "features.tsv").is_file() else "volume")
    wanted = read_config("linear.yaml", [f"input.kind={found}", *planting.overrides]).input
    cohort = read_cohort(source, wanted)
    listener.say(f"{len(cohort)} people from {source}")
    listener.notes(cohort.notes)
    table, values = _covariates(cohort, effects, planting.sites, seed)
    with output_folder(out) as partial:
        _PLANTED.get(wanted.kind, _plant_features)(partial, cohort, table, values, seed, listener)
    untouched = f"; site {sorted(set(values['site']))[0]!r} is untouched" if "site" in values else ""
    return Simulated(f"planted {', '.join(effects)}{untouched}", str(len(cohort)), out, out / TRUTH)


def _covariates(cohort: Cohort, effects: Sequence[str], sites: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table with drawn columns added, and the values of the planted covariates."""
    rng = np.random.default_rng([seed, 1])
    people = len(cohort)
    draws = {
        "age": [f"{age:.1f}" for age in rng.uniform(20, 85, people)],
        "sex": [str(s) for s in rng.choice(["F", "M"], people)],
        "diagnosis": [str(d) for d in rng.choice(["control", "patient"], people, p=[0.7, 0.3])],
        "site": [f"S{k}" for k in rng.permutation(np.arange(people) % sites)],
    }
    table = cohort.table.copy()
    for name in effects:
        if name not in table:
            table[name] = draws[name]
    kinds = {"site": "categorical", **_KINDS}
    declared = [Covariate(name, "continuous" if kinds[name] == "continuous" else "categorical") for name in effects]
    return table, read_covariates(table, declared, cohort.units, cohort.levels).frame


def _plant_features(
    folder: Path, cohort: Cohort, table: pd.DataFrame, values: pd.DataFrame, seed: int, listener: Listener
) -> None:
    del listener
    features = cohort.source.features
    clean = pd.DataFrame(features.values, columns=list(features.names), index=table["participant_id"].to_list())
    truth: dict[str, Any] = {}
    for number, name in enumerate(name for name in values if name != "site"):
        own = [_plain(value) for value in values[name]]
        effect = draw_feature_covariate_effect(name, own, list(clean.columns), seed=_own_seed(seed, -2 - number))
        clean = apply_feature_covariate_effect(clean, effect, own)
        truth[name] = to_json(effect)
    planted = clean
    if "site" in values:
        names = sorted(set(values["site"]))
        effects = draw_feature_site_effects(names, list(clean.columns), seed=seed)
        planted = apply_feature_site_effects(clean, list(values["site"]), effects)
        truth["site"] = to_json(effects)
    write_feature_cohort(folder, table, planted, clean, truth)


def _plant_shapes(
    folder: Path, cohort: Cohort, table: pd.DataFrame, values: pd.DataFrame, seed: int, listener: Listener
) -> None:
    from medrep.derivatives.cohorts import write_shape_cohort  # libigl and scikit-image, which only shapes need

    strange = sorted(set(values) - {"age", "sex"})
    if strange:
        raise CohortError(f"--effects {','.join(strange)}: into shapes age and sex are planted")
    effect, problems = draw_shape_effect(seed=seed), list[str]()

    def organs() -> Iterator[tuple[str, LabelMap, dict[str, LabelMap]]]:
        for key, path in cohort.source.files.items():
            try:
                own = values.loc[key]
                age = float(own["age"]) if "age" in values else CENTRE_YEARS
                sex = str(own["sex"]) if "sex" in values else "F"
                padded = pad_for_shape_effect(read_labels(path), effect, [age, *TRUE_AGES])
                others = {f"age{a:g}": apply_shape_effect(padded, effect, age=a, sex=sex) for a in TRUE_AGES}
                planted = apply_shape_effect(padded, effect, age=age, sex=sex)
            except (CohortError, CovariateError) as error:
                problems.append(f"{key}: {error}")
                continue
            relative = path.relative_to(cohort.root)
            who = relative.name.split("_")[0]
            yield f"{relative.parent.as_posix()}/{who}_desc-organ_mask.nii.gz", planted, others

    with listener.track("plant", len(cohort)) as advance:
        write_shape_cohort(folder, table, organs(), {"shape": to_json(effect)}, advance)
    if problems:
        raise CohortError(listed("label maps that cannot be used", problems, "mend them, or choose another suffix"))


@dataclass(frozen=True)
class _Plan:
    """Drawn effects, ready to be applied."""

    covariates: dict[str, CovariateEffect]
    sites: dict[str, SiteEffect]

    def truth(self) -> dict[str, Any]:
        return to_json(self.covariates | ({"site": self.sites} if self.sites else {}))


def _plant_volumes(
    folder: Path, cohort: Cohort, table: pd.DataFrame, values: pd.DataFrame, seed: int, listener: Listener
) -> None:
    covariates = {
        name: draw_covariate_effect(name, [_plain(v) for v in values[name]], seed=_own_seed(seed, -2 - number))
        for number, name in enumerate(name for name in values if name != "site")
    }
    names = sorted(set(values["site"])) if "site" in values else []
    plan = _Plan(covariates, draw_site_effects(names, seed=seed) if names else {})
    problems: list[str] = []

    def volumes() -> Iterator[tuple[str, Volume, Volume]]:
        for position, (key, path) in enumerate(cohort.source.files.items()):
            try:
                volume = read_image(path)
            except CohortError as error:
                problems.append(f"{key}: {error}")
                continue
            data = volume.data
            for name, effect in plan.covariates.items():
                data = apply_covariate_effect(data, effect, _plain(values.loc[key, name]))
            clean = replace(volume, data=data)
            if plan.sites:
                site = plan.sites[str(values.loc[key, "site"])]
                data = apply_site_effect(data, volume.spacing, site, seed=_own_seed(seed, position))
            yield path.relative_to(cohort.root).as_posix(), replace(volume, data=data), clean

    with listener.track("plant", len(cohort)) as advance:
        write_volume_cohort(folder, table, volumes(), plan.truth(), advance)
    if problems:
        raise CohortError(
            listed("images that cannot be used", problems, f"mend them (suffix looked for: {cohort.input.suffix})")
        )


_PLANTED = {"volume": _plant_volumes, "shape": _plant_shapes}
"""What plants effects; into what is a table, whatever its kind, `_plant_features`."""


def _own_seed(seed: int, position: int) -> int:
    """Return a seed of its own for each person or effect, the same whatever else is drawn."""
    return int(np.random.SeedSequence([seed, position + 1000]).generate_state(1)[0])


def _plain(value: Any) -> float | str:
    return value if isinstance(value, str) else float(value)


def _brain_affine() -> np.ndarray:
    affine = np.diag([BRAIN_SPACING, BRAIN_SPACING, BRAIN_SPACING, 1.0])
    affine[:3, 3] = -(np.asarray(BRAIN_SHAPE) - 1) / 2 * BRAIN_SPACING
    return affine
