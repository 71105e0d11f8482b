"""scores.tsv: one row a person, with a dictionary of its columns; latents beside it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medrep.atomic import write_json
from medrep.export.derivative import Failure, write_latents, write_tsv
from medrep.export.scoring import Scored

SCORED, FAILED = "scored", "failed"
_UNITS = {
    "sd": "root mean square over columns, in residual standard deviations of training",
    "mm": "mean distance between the surface and the one that the model draws, mm",
}


def write_scores(
    folder: Path, scored: Sequence[Scored], ids: pd.DataFrame, unit: str, root: Path
) -> tuple[pd.DataFrame, list[Failure]]:
    """Write scores.tsv and scores.json, and latents.tsv (latents_sd.tsv) of those who could be scored.

    Args:
        folder: Where to.
        scored: Everybody.
        ids: Key columns of the people, index: key.
        unit: The model's ``error_unit``.
        root: The cohort's folder.

    Returns:
        What stands in scores.tsv, and the people who could not be scored.
    """
    rows = {
        one.key: (FAILED if one.error else SCORED, one.reconstruction_error, one.deviation, one.volume_mm3)
        for one in scored
    }
    columns = ["status", "reconstruction_error", "deviation", "volume_mm3"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    about = {
        "status": {"Description": "whether the person could be scored", "Levels": {SCORED: "yes", FAILED: "no"}},
        "reconstruction_error": {"Description": _UNITS[unit], "Units": unit},
        "deviation": {"Description": "how unusual a person is at their covariates; about 1 for a typical one"},
        "volume_mm3": {"Description": "volume of the organ", "Units": "mm3"},
    }
    if table["volume_mm3"].isna().all():
        table = table.drop(columns="volume_mm3")
    table = pd.concat([ids.loc[list(rows)], table], axis=1)
    write_tsv(folder / "scores.tsv", table)
    write_json(folder / "scores.json", {name: about[name] for name in table.columns if name in about})
    good = [one for one in scored if one.latents is not None]
    keys = ids.loc[[one.key for one in good]]
    for name, values in (
        ("latents.tsv", [one.latents for one in good]),
        ("latents_sd.tsv", [one.latents_sd for one in good]),
    ):
        present = [value for value in values if value is not None]
        if present:
            write_latents(folder / name, keys, np.stack(present))
    failures = [
        Failure(one.key, "" if one.path is None else one.path.relative_to(root).as_posix(), "read", one.error)
        for one in scored
        if one.error
    ]
    return table, failures
