"""What commands on feature tables cost: start-up, large tables, what OUT holds, what a second worker brings.

A table of 1000 people: processor time of whole commands, medians of ten. 100,000 people x 200 columns, six significant digits:
export by one worker and by two in turns, each the best of three, export of a finished job, OUT beside the input, and memory.
With ``--slow`` also 500,000 people x 1000 columns, made on disk and exported in eight parts, one after another.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from benchmarks.process_tree import Cost, medrep
from benchmarks.report import Line, Options, Report, Table, say

_TABLE = Path("features.tsv")


def run(options: Options) -> Report:
    """Measure; ``--quick``: one repeat, and a tenth of the people."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        lines = [*_small(Path(folder), rows, options), *_large(Path(folder), rows, options)]
        if options.slow:
            lines += _parts(Path(folder), rows)
    shown = ("people", "columns", "command", "cpu_s", "wall_s", "memory_mb", "out_mb")
    return Report({"table_costs": Table(pd.DataFrame(rows), shown, "What commands on tables cost")}, tuple(lines))


def _small(folder: Path, rows: list[dict[str, object]], options: Options) -> list[Line]:
    cohort, out = folder / "cohort", folder / "out"
    _run(rows, 1000, 50, "simulate", cohort, "--kind", "features", "--n", 1000)
    asked = {"check": 1.5, "train": 3.0, "train --tracking sqlite": 3.0, "export": 3.0}
    store = f"sqlite:///{folder / 'mlflow.db'}"
    _run(rows, 1000, 50, "train", cohort, folder / "first", "--tracking", store)
    commands: dict[str, tuple[object, ...]] = {
        "check": ("check", cohort),
        "train": ("train", cohort, out, "--overwrite"),
        "train --tracking sqlite": ("train", cohort, out, "--tracking", store, "--overwrite"),
        "export": ("export", cohort, out, "--model", folder / "first" / "model", "--remove", "site", "--overwrite"),
    }
    lines = []
    for name, command in commands.items():
        costs = [_done(*command) for _ in range(1 if options.quick else 10)]
        cpu = median(cost.cpu for cost in costs)
        rows.append(
            {"people": 1000, "columns": 50, "command": name, "cpu_s": cpu, "wall_s": median(c.wall for c in costs)}
        )
        ask = f"{name} of 1000 people: at most {asked[name]:g} s of processor time, start-up included"
        lines.append(Line("table_costs", ask, f"{cpu:.2f} s", cpu <= asked[name]))
    return lines


def _large(folder: Path, rows: list[dict[str, object]], options: Options) -> list[Line]:
    people, columns = (10_000 if options.quick else 100_000), 200
    cohort, few = folder / "large", folder / "few"
    write_cohort(cohort, people, columns)
    write_cohort(few, 4000, columns)
    _run(rows, 4000, columns, "train", few, folder / "model")
    export = ("export", cohort, "--model", folder / "model" / "model", "--remove", "site")
    one, two = [], []
    for turn in range(1 if options.quick else 3):
        one.append(_run(rows, people, columns, *export, folder / f"one{turn}", "--workers", 1))
        two.append(_run(rows, people, columns, *export, folder / f"two{turn}", "--workers", 2))
        if turn:
            shutil.rmtree(folder / f"one{turn}")
        shutil.rmtree(folder / f"two{turn}")
    again = min(
        (
            _run(rows, people, columns, *export, folder / "one0", "--workers", 1)
            for _ in range(1 if options.quick else 3)
        ),
        key=lambda cost: cost.wall,
    )
    watched = _done(*export, folder / "watched", "--workers", 1, watched=True)
    bytes_a_cell = watched.parent_mb * 2**20 / (people * columns)
    share = _size(folder / "one0") / _size(cohort)
    faster = min(cost.wall for cost in one) / min(cost.wall for cost in two)
    best = min(cost.wall for cost in one)
    of = f"{people:,} x {columns}"
    return [
        Line("table_costs", f"export of {of} at most 40 s", f"{best:.1f} s", best <= 40),
        Line("table_costs", f"OUT of {of} at most 2.2 times the input", f"{share:.2f}", share <= 2.2),
        Line("table_costs", f"memory of {of} at most 16 bytes a cell", f"{bytes_a_cell:.1f}", bytes_a_cell <= 16),
        Line("table_costs", f"repeating {of} at most 5 s", f"{again.wall:.1f} s", again.wall <= 5),
        Line("table_costs", f"two workers at least 1.6 times as fast on {of}", f"{faster:.2f}", faster >= 1.6),
    ]


def _parts(folder: Path, rows: list[dict[str, object]]) -> list[Line]:
    people, columns, parts = 500_000, 1000, 8
    cohort, few, out = folder / "huge", folder / "few1000", folder / "parts"
    write_cohort(cohort, people, columns)
    write_cohort(few, 4000, columns)
    _run(rows, 4000, columns, "train", few, folder / "model1000")
    export = ("export", cohort, out, "--model", folder / "model1000" / "model", "--remove", "site", "--workers", 2)
    costs = [_run(rows, people, columns, *export, "--num-parts", parts, "--part-id", part) for part in range(parts)]
    costs.append(_run(rows, people, columns, "merge", out))
    wall, size = sum(cost.wall for cost in costs), _size(out) / _size(cohort)
    return [
        Line(
            "table_costs",
            f"export of {people:,} x {columns} in {parts} parts: measured",
            f"{wall:.0f} s in all, OUT {size:.2f} times the input",
            True,
        )
    ]


def write_cohort(folder: Path, people: int, columns: int) -> None:
    """Write a table with effects of site and age, a few thousand rows at a time."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([people, columns])
    (folder / "dataset_description.json").write_text('{"Name": "large", "BIDSVersion": "1.10.0"}\n')
    site, age, sex = rng.integers(0, 4, people), rng.uniform(20, 80, people), rng.integers(0, 2, people)
    ids = [f"sub-{k:07d}" for k in range(people)]
    table = pd.DataFrame({"participant_id": ids, "age": age.round(1), "sex": np.array(["M", "F"])[sex]})
    table.assign(site=[f"S{k}" for k in site]).to_csv(folder / "participants.tsv", sep="\t", index=False)
    loadings, offsets = rng.normal(size=(8, columns)), 0.5 * rng.normal(size=(4, columns))
    pattern = "\t".join(["%.5f"] * columns) + "\n"
    with (folder / _TABLE).open("w") as file:
        file.write("participant_id\t" + "\t".join(f"f{k:04d}" for k in range(columns)) + "\n")
        for start in range(0, people, 5000):
            some = slice(start, min(start + 5000, people))
            count = some.stop - start
            noise = 0.3 * rng.normal(size=(count, 8)) @ loadings + rng.normal(size=(count, columns))
            values = 2.5 + 0.1 * (noise + offsets[site[some]] + ((age[some] - 50) / 30)[:, None] * loadings[0])
            file.writelines(
                f"{who}\t{pattern % tuple(row)}" for who, row in zip(ids[some], values.tolist(), strict=True)
            )


def _run(rows: list[dict[str, object]], people: int, columns: int, *command: object) -> Cost:
    say(f"table_costs: {command[0]} of {people:,} x {columns}")
    cost = _done(*command)
    rows.append(
        {
            "people": people,
            "columns": columns,
            "command": " ".join(Path(str(word)).name for word in command),
            "cpu_s": cost.cpu,
            "wall_s": cost.wall,
        }
    )
    return cost


def _done(*command: object, watched: bool = False) -> Cost:
    cost = medrep(*command, watched=watched)
    if cost.code:
        raise RuntimeError(f"medrep {command[0]} ended with {cost.code}: {cost.said.strip()[-500:]}")
    return cost


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
