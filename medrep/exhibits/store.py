"""Exhibits as files: OUT/report/NAME.json, and NAME.safetensors where there are arrays. Never pickled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medrep.atomic import atomic_folder, write_json
from medrep.errors import MedrepError
from medrep.json_texts import read_json

FOLDER = "report"


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One thing to show.

    Attributes:
        content: As JSON holds it.
        arrays: By name.
    """

    content: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_exhibits(out: Path, exhibits: Mapping[str, Exhibit]) -> None:
    """Replace what OUT/report holds.

    Args:
        out: OUT of a command.
        exhibits: By name; the same exhibits give the same bytes.
    """
    with atomic_folder(out / FOLDER) as partial:
        for name, exhibit in exhibits.items():
            if exhibit.arrays:
                arrays = {key: np.ascontiguousarray(array) for key, array in exhibit.arrays.items()}
                save_file(arrays, partial / f"{name}.safetensors")
            write_json(partial / f"{name}.json", exhibit.content)


def read_exhibit(out: Path, name: str) -> Exhibit | None:
    """Return an exhibit; None where a command had nothing to show.

    Raises:
        MedrepError: A damaged file.
    """
    path = out / FOLDER / f"{name}.json"
    arrays = path.with_suffix(".safetensors")
    if not path.is_file():
        return None
    try:
        content = read_json(path.read_text(encoding="utf-8"))
        return Exhibit(dict(content), load_file(arrays) if arrays.is_file() else {})
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise MedrepError(f"{path}: damaged ({reason}); call the command that wrote {out} again") from None
