"""Writing a generated or planted cohort, with the truth beside it under derivatives/truth."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medrep.atomic import write_json
from medrep.cohort.nifti import Volume, write_image
from medrep.export.derivative import write_description, write_matrix, write_tsv

TRUTH = Path("derivatives") / "truth"


def write_feature_cohort(
    folder: Path, participants: pd.DataFrame, features: pd.DataFrame, clean: pd.DataFrame, truth: Mapping[str, Any]
) -> None:
    """Write participants.tsv and features.tsv, and the same without site effects as the truth.

    Args:
        folder: Where to.
        participants: With ``participant_id``.
        features: Index: participant_id; one column a feature.
        clean: The same without the site effects.
        truth: Parameters of every planted effect.
    """
    for place, table in ((folder, features), (folder / TRUTH, clean)):
        write_tsv(place / "participants.tsv", participants)
        ids = pd.DataFrame({"participant_id": table.index.astype(str)})
        write_matrix(place / "features.tsv", ids, [str(name) for name in table.columns], table.to_numpy(float))
    _finish(folder, truth)


def write_volume_cohort(
    folder: Path,
    participants: pd.DataFrame,
    volumes: Iterable[tuple[str, Volume, Volume]],
    truth: Mapping[str, Any],
    advance: Callable[[int], None] = lambda people: None,
) -> None:
    """Write one image a person, and the same without site effects as the truth.

    Args:
        folder: Where to.
        participants: With ``participant_id``.
        volumes: Path below the folder, the image, and the image without site effects; one person at a time.
        truth: Parameters of every planted effect.
        advance: Called with the number of people written.
    """
    for relative, image, clean in volumes:
        write_image(folder / relative, image)
        write_image(folder / TRUTH / relative, clean)
        advance(1)
    for place in (folder, folder / TRUTH):
        write_tsv(place / "participants.tsv", participants)
    _finish(folder, truth)


def _finish(folder: Path, truth: Mapping[str, Any]) -> None:
    write_json(folder / TRUTH / "truth.json", truth)
    write_description(folder / TRUTH, "the same people without the planted site effects", [], {})
    write_description(folder, "cohort with planted effects", [], {"Description": "generated; not real people"})
