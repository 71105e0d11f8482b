"""Gates of growth charts: what `gates.yaml` makes of the calibration of charts that are right, and of charts that are not.

The population of `chart_calibration`: 12 columns that go together, sites of 25, 60 and 150 people of training (``large``:
six times as many). A chart is off where audited people spread twice as widely, where those of one site lie .8 sd higher, and
where columns are lognormal (sigma .5) and the chart has no shape. Bounds were chosen on other seeds. fcon1000 is halved by site.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.chart_calibration import BY, TRAINED, material, populated
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.calibration import METRICS, audit_calibration
from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.groups import parse_by
from medrep.cohort.dataset import Dataset
from medrep.config import SHIPPED
from medrep.models import ChartSettings, GrowthChart
from medrep.tracking.gates import Gates, read_gates

_LARGE = tuple(6 * size for size in TRAINED)
_CASES = {"few": (5, 12, 30), "as many": TRAINED, "three times as many": tuple(3 * size for size in TRAINED)}
_FAULTS = {"right": (1.0, 0.0), "spread doubled": (2.0, 0.0), "a site .8 sd off": (1.0, 0.8)}
_SKEWED = "skewed, without a shape"
_SEEDS, _OFF, _REAL = 40, 60_000, 3
_KINDS = {"age": "continuous", "sex": "categorical", "site": "batch"}
_SHARED = 0.9


def _verdict(found: AuditData, gates: Gates, by: str, seed: int) -> str:
    table = findings_table(audit_calibration(found, parse_by(by), seed=seed))
    return gates.judge(table).verdict


def _chart(sizes: tuple[int, ...], seed: int, *, skewed: bool = False) -> GrowthChart:
    table, data = populated(sizes, seed, 0, skewed=skewed)
    features = pd.DataFrame(data, columns=[f"f{k}" for k in range(data.shape[1])], index=table.index)
    settings = ChartSettings(power="none", components=0, shape="gaussian" if skewed else "sinh-arcsinh")
    return GrowthChart.fit(Dataset.from_frames(features, table, _KINDS), settings)[0]


def _generated(gates: Gates, seed: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []

    def judge(case: str, chart: str, found: AuditData) -> None:
        rows.append({"audited": case, "chart": chart, "seed": seed, "verdict": _verdict(found, gates, BY, seed)})

    chart, unshaped = _chart(TRAINED, seed), _chart(TRAINED, seed, skewed=True)
    for case, sizes in _CASES.items():
        for fault, (spread, shift) in _FAULTS.items():
            judge(case, fault, material(chart, sizes, seed, 1, shift=shift, spread=spread))
        judge(case, _SKEWED, material(unshaped, sizes, seed, 1, skewed=True))
    large = {"right": False, _SKEWED: True}
    for fault, skewed in large.items():
        own = _chart(_LARGE, seed, skewed=skewed)
        judge("as many (large)", fault, replace(material(own, _LARGE, seed, 1, skewed=skewed), trained=sum(_LARGE)))
    return rows


def _real(gates: Gates, seed: int) -> dict[str, object]:
    features, table = fcon1000(min_site=3)
    train, test = split_half_by_site(table, seed)
    share = features[train].apply(lambda column: column.value_counts(normalize=True).iloc[0])
    data = features[features.columns[share <= _SHARED]]
    chart = GrowthChart.fit(Dataset.from_frames(data[train], table[train], _KINDS), ChartSettings(components=0))[0]
    people = Dataset(np.asarray(data[test], float), chart.schema.transfer(table[test]), chart.schema, chart.columns)
    found = AuditData(chart, people, table[test], {"site": str(table["site"].iloc[0])}, int(train.sum()))
    verdict = _verdict(found, gates, "sex,age:20/30/45,site", seed)
    return {"audited": "fcon1000", "chart": "as it is", "seed": seed, "verdict": verdict}


def run(options: Options) -> Report:
    """Count verdicts (``--quick``: 3 seeds)."""
    every = read_gates(SHIPPED / "gates.yaml").gates
    gates = Gates(tuple(gate for gate in every if gate.metric in METRICS), "")
    rows: list[dict[str, object]] = []
    for seed in range(3 if options.quick else _SEEDS):
        say(f"chart_gates: seed {seed}")
        rows += _generated(gates, _OFF + seed)
    rows += [_real(gates, seed) for seed in options.seeds(_REAL)]
    counted = pd.DataFrame(rows).value_counts(["audited", "chart", "verdict"], normalize=False).unstack(fill_value=0)
    verdicts = ["passed", "insufficient", "refused"]
    table = counted.reindex(columns=verdicts, fill_value=0)
    shares = table.div(table.sum(axis=1), axis=0)

    def line(asked: str, share: float, passed: bool) -> Line:
        return Line("chart_gates", asked, f"{share:.3f}", passed)

    many = [shares.loc[(case, "right")] for case in ("as many", "three times as many", "as many (large)")]
    refused = max(own["refused"] for own in many)
    lines = [
        line(
            "charts that are right are refused in at most 5% of audits of 235 people or more", refused, refused <= 0.05
        ),
        line("and pass in at least 70% of 235 people", many[0]["passed"], many[0]["passed"] >= 0.7),
        line("and in at least 90% of 705", many[1]["passed"], many[1]["passed"] >= 0.9),
    ]
    few = shares.loc["few", "passed"].max()
    lines.append(line("47 people never suffice for a pass", few, few == 0))
    for fault in list(_FAULTS)[1:]:
        share = min(shares.loc[(case, fault), "refused"] for case in ("as many", "three times as many"))
        lines.append(line(f"{fault}: refused in at least 95% of audits of 235 people or more", share, share >= 0.95))
    passed = shares.loc[("as many", _SKEWED), "passed"]
    lines.append(line(f"{_SKEWED}: never passes at 235 people", passed, passed == 0))
    share = shares.loc[("as many (large)", _SKEWED), "refused"]
    lines.append(line(f"{_SKEWED}: refused in at least 95% of audits of 1410 people", share, share >= 0.95))
    real = shares.loc[("fcon1000", "as it is"), "passed"]
    lines.append(line("charts of half of fcon1000 pass on the other half", real, real == 1))
    shown = table.reset_index().rename_axis(columns=None)
    title = "Gates of growth charts: audits by what gates.yaml makes of their calibration"
    return Report({"chart_gates": Table(shown, tuple(shown.columns), title)}, tuple(lines))
