"""MONAI datalist JSON: a list of ``{"image": path, "participant_id": id, covariates...}``, bare or in named sections."""

from pathlib import Path

import pandas as pd

from medrep.cohort.bids import refuse_outside
from medrep.cohort.participants import check_ids, refuse_doubles
from medrep.errors import CohortError, listed
from medrep.json_texts import read_json

_SECTIONS = ("training", "validation", "test", "testing")


def read_datalist(path: Path, *, tolerant: bool = False) -> tuple[pd.DataFrame, list[Path]]:
    """Read a datalist.

    Args:
        path: The JSON file; image paths in it are relative to its folder.
        tolerant: Whether paths that leave the folder are left to the caller.

    Returns:
        A table of text cells and one image path a row.

    Raises:
        CohortError: Not a datalist, entries without ``image``, unusable ids, repeated people, or paths that leave the
            folder.
    """
    entries = _entries(path)
    offenders = [f"entry {n}: {entry}" for n, entry in enumerate(entries) if not isinstance(entry.get("image"), str)]
    if offenders:
        raise CohortError(listed(f"{path}: entries without an image path", offenders, 'add "image": "sub-01.nii.gz"'))
    places = [f"entry {n}" for n in range(len(entries))]
    images = [path.parent / str(entry["image"]) for entry in entries]
    if not tolerant:
        refuse_outside(path.parent, zip(places, images, strict=True))
    rows = [
        {
            "participant_id": _stem(str(entry["image"])),
            **{_text(k): _text(v) for k, v in entry.items() if k not in {"image", "label"}},
        }
        for entry in entries
    ]
    table = pd.DataFrame(rows).fillna("n/a").astype(str)
    check_ids(path, table, places)
    refuse_doubles(path, table)
    return table, images


def _entries(path: Path) -> list[dict[str, object]]:
    try:
        content = read_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CohortError(f"{path}: not a JSON file ({error})") from None
    if isinstance(content, dict):
        sections = [content.get(section, []) for section in _SECTIONS]
        content = [entry for section in sections for entry in (section if isinstance(section, list) else [section])]
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise CohortError(f"{path}: not a datalist; it is a list of objects, bare or under {', '.join(_SECTIONS)}")
    return content


def _stem(image: str) -> str:
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _text(value: object) -> str:
    return "n/a" if value is None else str(value).encode("utf-8", "replace").decode()
