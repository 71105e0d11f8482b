"""Whether 1, 4 and 16 parts of a batch, some at the same time and in shuffled order, merge to the same bytes.

One part merges itself. Of the others two run at a time, with one worker each; two scans of the cohort of images are broken,
so that failures are merged, too.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks import batch_cohorts, commands
from benchmarks.batch_cohorts import contents, scan
from benchmarks.process_tree import ended, started
from benchmarks.report import Line, Options, Report, Table, say
from medrep.simulate import simulate_features, simulate_participants

COUNTS, QUICK_COUNTS = (4, 16), (4,)
IMAGES, QUICK_IMAGES = 320, 96  # 16 make a block, 256 do where rows of a table are worked on
ROWS, COLUMNS = 4200, 40
AT_ONCE = 2


@dataclass(frozen=True)
class Batch:
    """What is done in parts.

    Attributes:
        label: How it is called in the table.
        command: Of the command line.
        switches: Beside the model and the part.
        cohort: A folder.
        model: A folder.
        code: How the merged batch ends.
    """

    label: str
    command: str
    switches: tuple[str, ...]
    cohort: Path
    model: Path
    code: int


def run(options: Options) -> Report:
    """Do each batch whole and in parts, and compare every file."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="bench-parts-") as name:
        work = Path(name)
        for batch in _batches(work, QUICK_IMAGES if options.quick else IMAGES):
            whole = work / "out" / batch.label.replace(" ", "-") / "1"
            code, said = ended(started(*_arguments(batch, whole)))
            if code != batch.code:
                raise RuntimeError(f"medrep {batch.command} ended with {code}:\n{said[-2000:]}")
            for count in QUICK_COUNTS if options.quick else COUNTS:
                say(f"batch_parts: {batch.label}, {count} parts")
                rows.append(_compared(batch, whole, whole.with_name(str(count)), count))
    table = pd.DataFrame(rows)
    lines = tuple(
        Line(
            "batch_parts",
            f"{label}: {' and '.join(map(str, group['parts']))} parts merge to the bytes of one",
            f"{int(group['same'].sum())} of {int(group['files'].sum())} files the same"
            + "".join(f"; {which}" for which in group["different"] if which),
            bool((group["different"] == "").all()),
        )
        for label, group in table.groupby("batch", sort=False)
    )
    return Report({"batch_parts": Table(table, tuple(table), "Parts, beside the same batch in one")}, lines)


def _batches(work: Path, images: int) -> Sequence[Batch]:
    scans, rows = work / "scans", work / "rows"
    batch_cohorts.write_scans(work / "train", 60)
    volumes = batch_cohorts.train(work / "train", work / "volumes", "linear.yaml")
    table = batch_cohorts.write_scans(scans, images, distinct=60)
    cut, missing = (scan(scans, table["participant_id"][k]) for k in (images // 3, images // 2))
    content = cut.read_bytes()
    cut.unlink()  # others share the file
    cut.write_bytes(content[: len(content) // 2])
    missing.unlink()
    people = simulate_participants(ROWS, n_sites=3, seed=3)
    features = simulate_features(people, n_features=COLUMNS, seed=3).features
    commands.write_table(rows / "participants.tsv", people)
    commands.write_table(rows / "features.tsv", features.reset_index())
    commands.medrep("train", rows, work / "columns", "--config", "linear.yaml")
    columns = work / "columns" / "model"
    remove, other = ("--remove", "site"), ("--set", "age=60")
    return (
        Batch("score volumes", "score", (), scans, volumes, 3),
        Batch("score features", "score", (), rows, columns, 0),
        Batch("export volumes", "export", remove, scans, volumes, 3),
        Batch("export features", "export", remove, rows, columns, 0),
        Batch("counterfactual volumes", "counterfactual", other, scans, volumes, 3),
        Batch("counterfactual features", "counterfactual", other, rows, columns, 0),
    )


def _arguments(batch: Batch, out: Path) -> tuple[object, ...]:
    return (batch.command, batch.cohort, out, "--model", batch.model, *batch.switches)


def _compared(batch: Batch, whole: Path, out: Path, count: int) -> dict[str, object]:
    order = random.Random(count).sample(range(count), count)  # noqa: S311

    def work_on(part: int) -> tuple[int, str]:
        return ended(started(*_arguments(batch, out), "--num-parts", count, "--part-id", part, "--workers", 1))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = list(threads.map(work_on, order))
    failed = [f"part {part}: {said[-500:]}" for part, (code, said) in zip(order, found, strict=True) if code]
    if failed:
        raise RuntimeError(f"{batch.label}, {count} parts:\n" + "\n".join(failed))
    code, said = ended(started("merge", out))
    if code != batch.code:
        raise RuntimeError(f"medrep merge ended with {code}, not {batch.code}:\n{said[-2000:]}")
    ours, theirs = contents(out), contents(whole)
    names = sorted({*ours, *theirs})
    other = [file for file in names if ours.get(file) != theirs.get(file)]
    return {
        "batch": batch.label,
        "parts": count,
        "order": " ".join(map(str, order)),
        "files": len(names),
        "same": len(names) - len(other),
        "different": ", ".join(other[:3]),
    }
