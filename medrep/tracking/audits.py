"""The audit of a model as files: read and checked, before it is logged and after it was fetched."""

import math
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import pandas as pd

from medrep.audit.findings import COLUMNS
from medrep.errors import listed
from medrep.json_texts import read_json
from medrep.tracking.errors import RegistryError
from medrep.tracking.seals import seal_of, seal_problems

FORMAT = 1
TABLE, ABOUT = "audit.tsv", "audit.json"
PEOPLE, SIGNATURE = "people.tsv", "audit.sig"
# Only these are logged: whatever else lies in the folder may name people.
_ALSO, _FIGURES = (SIGNATURE, "report.html", "latent_diagnostics.tsv"), ("*.png", "*.svg")
_NUMBERS = ("estimate", "ci_low", "ci_high", "p", "q")
_MISSING = frozenset({"", "n/a", "nan"})


@dataclass(frozen=True, eq=False)
class Audit:
    """What `medrep audit` wrote.

    Attributes:
        table: Columns of `findings.COLUMNS`, figures as numbers, NaN where there is none.
        model: Digest of the model folder that was audited.
        kind: Of the model.
        cohort: Name, fingerprint and number of the people it was audited on.
        digest: Of audit.tsv and audit.json.
        files: What is to be logged, as path -> folder in the run; names no participant.
        people: Rows of persons; None where there are none.
        unseen: Whether it was checked that the model had not seen the people.
        seal: Over what it found, of which model and whom; empty in audits of before there were seals.
        altered: What is not as `medrep audit` wrote it.
    """

    table: pd.DataFrame
    model: str
    kind: str
    cohort: dict[str, Any]
    digest: str
    files: dict[Path, str]
    people: Path | None
    unseen: bool
    seal: str
    altered: tuple[str, ...]


def read_audit(folder: Path) -> Audit:
    """Read an audit.

    Args:
        folder: What `medrep audit` wrote.

    Raises:
        RegistryError: Files that are absent or damaged, or a table without a row; all that is wrong.
    """
    absent = [f"{name} is absent" for name in (TABLE, ABOUT) if not (folder / name).is_file()]
    if absent:
        raise RegistryError(listed(f"{folder}: not an audit", absent, "give the folder that medrep audit wrote"))
    problems: list[str] = []
    about = _read_about(folder / ABOUT, problems)
    table = _read_table(folder / TABLE, problems)
    if problems:
        raise RegistryError(listed(f"{folder}: a damaged audit", problems, "audit the model again"))
    figures = sorted(path for pattern in _FIGURES for path in (folder / "figures").glob(pattern))
    plain = [folder / name for name in (TABLE, ABOUT, *_ALSO) if (folder / name).is_file()]
    files = dict.fromkeys(plain, "audit") | dict.fromkeys(figures, "audit/figures")
    people = folder / PEOPLE
    options = about.get("options")
    return Audit(
        table=table,
        model=about["model"]["digest"],
        kind=about["model"]["kind"],
        cohort=about["cohort"],
        digest=audit_digest(folder),
        files=files,
        people=people if people.is_file() else None,
        unseen=isinstance(options, dict) and options.get("training_known") is True,
        seal=seal_of(about),
        altered=tuple(seal_problems(about, folder / TABLE)),
    )


def refuse_altered(audit: Audit, where: str, cure: str) -> None:
    """Refuse an audit that is not as it was written, or that nothing binds to what it audited.

    Args:
        audit: As it was read.
        where: For the message.
        cure: For the message.

    Raises:
        RegistryError: All that is not as it was written.
    """
    if audit.altered:
        raise RegistryError(listed(f"{where}: not as medrep audit wrote it", audit.altered, cure))


def audit_digest(folder: Path) -> str:
    """Return the SHA-256 of what an audit found, in hexadecimal."""
    found = sha256()
    for name in (ABOUT, TABLE):
        with (folder / name).open("rb") as file:
            found.update(f"{name}:{file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def _read_about(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        about = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {error}")
        return {}
    wanted: dict[str, dict[str, type]] = {
        "model": {"digest": str, "kind": str},
        "cohort": {"name": str, "fingerprint": str, "people": int},
    }
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        problems.append(f"{path.name}: no format {FORMAT}, which is what this medrep reads")
        return {}
    for section, keys in wanted.items():
        entries = about.get(section)
        if not isinstance(entries, dict):
            problems.append(f"{path.name}: {section} is absent")
            continue
        problems += [
            f"{path.name}: {section}.{key} is absent or no {kind.__name__}"
            for key, kind in keys.items()
            if not isinstance(entries.get(key), kind)
        ]
    return about


def _read_table(path: Path, problems: list[str]) -> pd.DataFrame:
    try:
        cells = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        problems.append(f"{path.name}: {' '.join(str(error).split())}")
        return pd.DataFrame()
    if tuple(cells.columns) != COLUMNS:
        problems.append(f"{path.name}: has the columns {', '.join(cells.columns)}, not {', '.join(COLUMNS)}")
        return pd.DataFrame()
    if cells.empty:
        problems.append(f"{path.name}: holds no finding")
        return cells
    rows = []
    for number, row in enumerate(cells.to_dict("records"), 1):
        wrong: list[str] = []
        figures = {name: _number(row[name], name, wrong) for name in _NUMBERS}
        count = row["n"]
        if not (count.isascii() and count.isdigit()):
            wrong.append(f"n {count!r} is no count")
        if row["status"] not in ("ok", "insufficient"):
            wrong.append(f"status {row['status']!r} is neither ok nor insufficient")
        if not row["metric"]:
            wrong.append("has no metric")
        if figures["ci_low"] > figures["ci_high"]:
            wrong.append("its interval ends before it begins")
        wrong += [f"{name} {figures[name]:g} is no probability" for name in ("p", "q") if not _probable(figures[name])]
        problems += [f"{path.name}, row {number} ({row['metric']} {row['group']}): {text}" for text in wrong]
        rows.append({**row, **figures, "n": 0 if wrong else int(count)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _number(text: str, name: str, wrong: list[str]) -> float:
    try:
        return math.nan if text.strip().lower() in _MISSING else float(text)
    except ValueError:
        wrong.append(f"{name} {text!r} is no number")
        return math.nan


def _probable(value: float) -> bool:
    return math.isnan(value) or 0 <= value <= 1
