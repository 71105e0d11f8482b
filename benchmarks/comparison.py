"""What of two folders of results is the same, byte for byte, and how far apart the rest is."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from safetensors.numpy import load

LEFT_OUT = re.compile(r"(^|/)(\.medrep|report|figures)/|\.(html|png|lock)$")
"""Journals hold times; pages and pictures are drawn from the other files."""
FOLLOW = {"MedrepVersion", "Version", "versions", "medrep", "digest", "fingerprint"}
"""Keys of JSON that name a version, or files that are compared themselves."""
TIMES = {"seconds"}
"""First cells of the rows of tables that hold times."""


@dataclass(frozen=True)
class Compared:
    """One file of two folders.

    Attributes:
        verdict: ``same``, ``differs``, ``only before``, ``only after``.
        difference: Largest difference of numbers, as a share of the largest value of their column, array or image;
            0 where no number differs, missing where numbers cannot be compared.
        note: What differs.
    """

    verdict: str
    difference: float = 0.0
    note: str = ""


def compare_folders(before: Path, after: Path) -> dict[str, Compared]:
    """Compare every file, by its path in either folder."""
    names = sorted({str(p.relative_to(home)) for home in (before, after) for p in home.rglob("*") if p.is_file()})
    return {name: _compare(before / name, after / name) for name in names if not LEFT_OUT.search(name)}


def _compare(before: Path, after: Path) -> Compared:
    if not after.exists():
        return Compared("only before")
    if not before.exists():
        return Compared("only after")
    if before.read_bytes() == after.read_bytes():
        return Compared("same")
    compare = {".tsv": _tables, ".json": _objects, ".gz": _images, ".safetensors": _arrays, ".gii": _meshes}
    return compare.get(before.suffix, _texts)(before, after)


def _apart(before: np.ndarray, after: np.ndarray) -> float:
    if before.shape != after.shape:
        return np.nan
    a, b = before.astype(float), after.astype(float)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.nan
    gap = float(np.nanmax(np.abs(a - b), initial=0.0))
    return gap / max(float(np.nanmax(np.abs(a), initial=0.0)), np.finfo(float).tiny) if gap else 0.0


def _all(found: dict[str, float], notes: list[str]) -> Compared:
    """Join what was found of several columns or arrays; the farthest apart are named."""
    apart = sorted(
        ((gap, name) for name, gap in found.items() if gap != 0), key=lambda each: -np.nan_to_num(each[0], nan=9)
    )
    if apart:
        notes = [*notes, f"{len(apart)} of {len(found)}: {', '.join(name for _, name in apart[:3])}"]
    worst = max((gap for gap, _ in apart), key=lambda gap: np.inf if np.isnan(gap) else gap, default=0.0)
    return Compared("differs", worst, "; ".join(notes))


def _names(before: list[str], after: list[str]) -> list[str]:
    gone, new = [n for n in before if n not in after], [n for n in after if n not in before]
    notes = [f"{what} {', '.join(names[:5])}" for what, names in (("without", gone), ("new", new)) if names]
    return notes if notes or before == after else ["other order"]


def _tables(before: Path, after: Path) -> Compared:
    a, b = (pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) for path in (before, after))
    a, b = (table[~table.iloc[:, 0].isin(TIMES)].reset_index(drop=True) for table in (a, b))
    if a.equals(b):
        return Compared("same")
    notes = _names(list(a.columns), list(b.columns))
    if len(a) != len(b):
        return Compared("differs", np.nan, "; ".join([*notes, f"{len(a)} rows, then {len(b)}"]))
    found = {}
    for name in [n for n in a.columns if n in b.columns]:
        x, y = (pd.to_numeric(column, errors="coerce") for column in (a[name], b[name]))
        text = x.isna() | y.isna()
        found[name] = np.nan if (a[name] != b[name])[text].any() else _apart(x[~text].to_numpy(), y[~text].to_numpy())
    return _all(found, notes)


def _leaves(value: object, at: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in FOLLOW:
                yield from _leaves(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for k, inner in enumerate(value):
            yield from _leaves(inner, f"{at}[{k}]")
    else:
        yield at, value


def _objects(before: Path, after: Path) -> Compared:
    a, b = (dict(_leaves(json.loads(path.read_text()))) for path in (before, after))
    notes = _names(list(a), list(b))
    found: dict[str, float] = {}
    for key in [k for k in a if k in b and a[k] != b[k]]:
        try:
            found[key] = _apart(np.asarray(a[key], dtype=float), np.asarray(b[key], dtype=float))
        except (TypeError, ValueError):
            found[key] = np.nan
    return _all(found, notes) if found or notes else Compared("same")


def _arrays(before: Path, after: Path) -> Compared:
    a, b = (load(path.read_bytes()) for path in (before, after))
    found = {name: _apart(a[name], b[name]) for name in a if name in b}
    return _all(found, _names(list(a), list(b)))


def _images(before: Path, after: Path) -> Compared:
    raw = [gzip.decompress(path.read_bytes()) for path in (before, after)]
    if raw[0] == raw[1]:
        return Compared("differs", 0.0, "only as it is packed")
    a, b = (nib.Nifti1Image.from_bytes(each) for each in raw)
    keys = [key for key in a.header if np.asarray(a.header[key]).tobytes() != np.asarray(b.header[key]).tobytes()]
    notes = [f"header {', '.join(keys)}"] if keys else []
    return _all({"voxels": _apart(np.asanyarray(a.dataobj), np.asanyarray(b.dataobj))}, notes)


def _meshes(before: Path, after: Path) -> Compared:
    a, b = (nib.load(path).darrays for path in (before, after))
    return _all({f"array {k}": _apart(x.data, y.data) for k, (x, y) in enumerate(zip(a, b, strict=False))}, [])


def _texts(before: Path, after: Path) -> Compared:
    a, b = (path.read_text(errors="replace").splitlines() for path in (before, after))
    changed = [*(f"-{line}" for line in a if line not in b), *(f"+{line}" for line in b if line not in a)]
    return Compared("differs", np.nan, " | ".join(line.strip() for line in changed[:4]))
