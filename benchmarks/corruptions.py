"""Corruptions: what `medrep audit --stress corruptions` says of generated heads, by kind and strength.

Heads of voxels of 4.5 mm (age, sex and diagnosis differ) go through three planted scanners; a linear model learns from 100
people, and 160 others are audited: 80 teach readers and calibrate the shift gate, 60 are corrupted. Asked are: that strength
nothing leaves everything as it is, that people move farther with each step of strength, that the error grows with noise, gamma
and motion, and that the gate rejects nearly nobody who is clean and nearly everybody at the largest strength. What it makes of
mild strengths is shown: there is no right answer, since scanners differ by as much. With blur and coarse voxels the error falls
first, since they take away noise that no model draws: that is shown, too.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.corruptions import NOTHING, STRENGTHS, audit_corruptions, corrupted_rows
from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.nifti import Volume
from medrep.cohort.transforms import VolumePipeline
from medrep.models import LinearModel, LinearSettings
from medrep.simulate.brains import draw_brains, render_brain
from medrep.simulate.participants import simulate_participants
from medrep.simulate.planted_effects import apply_site_effect, draw_site_effects

SEEDS, PEOPLE, TRAINED, SITES = 3, 260, 100, ("S0", "S1", "S2")
SHAPE, EDGE, NATIVE_NOISE = (36, 44, 36), 4.5, 0.015
_OFF = 900
_GROWS = ("noise", "gamma", "motion")
"""Kinds whose error is asked to grow; the error of the others falls first."""
_DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


def heads(seed: int) -> tuple[AuditData, pd.Series]:
    """Return people whom a model never saw, and their diagnosis."""
    table = simulate_participants(PEOPLE, n_sites=len(SITES), seed=seed).set_index("participant_id", drop=False)
    drawn = draw_site_effects(SITES, seed=seed)
    scanners = {
        site: replace(effect, noise=float(np.hypot(effect.noise, NATIVE_NOISE))) for site, effect in drawn.items()
    }
    pipeline, affine = VolumePipeline(VolumeInput(intensity="p99")), np.diag([EDGE, EDGE, EDGE, 1.0])
    rows = []
    for number, brain in enumerate(draw_brains(table, seed=seed)):
        image = render_brain(replace(brain, noise_sd=0.0), SHAPE, EDGE)
        scanner = scanners[str(table["site"].iloc[number])]
        image = apply_site_effect(image, (EDGE,) * 3, scanner, seed=1000 * seed + number)
        rows.append(pipeline.place(Volume(image, affine)).values.ravel())
    data, columns = np.stack(rows), Columns.of_grid(Grid(SHAPE, (EDGE,) * 3))
    order = np.random.default_rng(seed).permutation(PEOPLE)
    own, others = np.sort(order[:TRAINED]), np.sort(order[TRAINED:])
    schema = CovariateSchema.fit(table.iloc[own], _DECLARED)
    of_training = Dataset(data[own], schema.transfer(table.iloc[own]), schema, columns)
    model = LinearModel.fit(of_training, LinearSettings(components=16))[0]
    people = table.iloc[others]
    dataset = Dataset(data[others], schema.transfer(people), schema, columns)
    return AuditData(model, dataset, people, {"site": SITES[0]}), people["diagnosis"].astype(str)


def run(options: Options) -> Report:
    """Audit generated heads (``--quick``: one seed)."""
    began, found, apart = time.process_time(), [], 0.0
    for seed in options.seeds(SEEDS):
        say(f"corruptions: seed {seed}")
        data, diagnosis = heads(_OFF + seed)
        table = findings_table(audit_corruptions(data, (diagnosis, False), seed=seed))
        found.append(table.assign(seed=seed))
        some = data.dataset.take(np.arange(8))
        clean = data.model.scores(some)
        for kind, strength in NOTHING.items():
            same = some.with_values(corrupted_rows(some.values, data.model.columns, kind, strength, seed))
            scores = data.model.scores(same)
            apart = max(apart, float(np.abs(scores.reconstruction_error - clean.reconstruction_error).max()))
            apart = max(apart, float(np.abs(scores.latents - clean.latents).max()))
    whole = pd.concat(found)
    means = whole.groupby(["metric", "group"], sort=False)["estimate"].mean()
    versions = ["clean", *(f"{kind}/{one:g}" for kind, some in STRENGTHS.items() for one in some)]
    rows = [
        {
            "scans": version,
            "error": means["corruption_error", version],
            "deviation": means["corruption_deviation", version],
            "moved": means["corruption_moved", version],
            "rejected": means["corruption_flagged", version],
            **{
                name: means["corruption_read", f"{version} & exported/{name}"]
                for name in ("age", "sex", "diagnosis", "site")
            },
            "age moved": means["corruption_bias", f"{version} & exported/age"],
        }
        for version in versions
    ]
    shown = pd.DataFrame(rows)
    by = shown.set_index("scans")
    lines = [Line("corruptions", "strength nothing: largest change <= 1e-9", f"{apart:.1e}", apart <= 1e-9)]
    clean_share = float(by.loc["clean", "rejected"])
    lines.append(Line("corruptions", "clean scans rejected at .05: <= .10", f"{clean_share:.3f}", clean_share <= 0.1))
    for kind, strengths in STRENGTHS.items():
        for column in ("error", "moved") if kind in _GROWS else ("moved",):
            steps = [float(by.loc[version, column]) for version in ("clean", *(f"{kind}/{one:g}" for one in strengths))]
            said = ", ".join(f"{step:.3f}" for step in steps)
            asked = f"{kind}: {column} grows from clean with each strength"
            lines.append(Line("corruptions", asked, said, bool((np.diff(steps) > 0).all())))
        shares = [float(by.loc[f"{kind}/{one:g}", "rejected"]) for one in strengths]
        said = ", ".join(f"{share:.2f}" for share in shares)
        lines.append(
            Line("corruptions", f"{kind}: rejected at the largest strength: >= .95", f"{said}", shares[-1] >= 0.95)
        )
    say(f"corruptions: {time.process_time() - began:.0f} s of processor time")
    title = "Corruptions: mean change of scores, share rejected, and what readers taught by clean scans tell"
    return Report({"corruptions": Table(shown, tuple(shown.columns), title)}, tuple(lines))
