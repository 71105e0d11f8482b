"""What a benchmark hands back: tables to look at and keep, and lines that say what was asked and what was measured."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Options:
    """How much to run.

    Attributes:
        quick: One seed or one repeat.
        slow: Peers that take minutes a seed too.
    """

    quick: bool = False
    slow: bool = False

    def seeds(self, count: int) -> range:
        """Return the seeds 0, 1, ...: one if quick, else as many as wanted."""
        return range(1 if self.quick else count)


@dataclass(frozen=True)
class Line:
    """One acceptance line."""

    benchmark: str
    asked: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Table:
    """A tidy table.

    Attributes:
        rows: Every column that goes to the TSV.
        shown: The columns that are printed.
        title: What is printed above.
    """

    rows: pd.DataFrame
    shown: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class Report:
    """Tables by the name of their TSV, and the acceptance lines."""

    tables: dict[str, Table]
    lines: tuple[Line, ...]


def say(text: str) -> None:
    """Tell how far a benchmark is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def write_report(report: Report, folder: Path) -> None:
    """Print each table and write it as NAME.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in report.tables.items():
        table.rows.to_csv(folder / f"{name}.tsv", sep="\t", index=False, float_format="%.6g")
        print(f"\n{table.title}")
        print(table.rows.reindex(columns=list(table.shown)).to_string(index=False, float_format="%.3f", na_rep="-"))


def write_lines(lines: Iterable[Line], path: Path) -> bool:
    """Print and write the acceptance lines; return whether all passed."""
    rows = [asdict(line) | {"passed": "yes" if line.passed else "NO"} for line in lines]
    table = pd.DataFrame(rows, columns=["benchmark", "asked", "measured", "passed"])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False)
    widths = {name: max([len(name), *table[name].str.len()]) for name in table}
    print()
    for row in [dict.fromkeys(table) | {name: name for name in table}, *table.to_dict("records")]:
        print("  ".join(str(row[name]).ljust(width) for name, width in widths.items()).rstrip())
    return bool((table["passed"] == "yes").all())
