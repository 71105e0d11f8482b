"""Where the images of a cohort lie in the world, by their headers alone: the grid they have in common, and what is odd."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medrep.cohort.grid import Grid
from medrep.cohort.image_headers import form_notes, named_images
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.nifti import Place, Volume, read_place
from medrep.cohort.transforms import VolumePipeline
from medrep.errors import CohortError

_DIGITS = 3  # of mm, to which affines are compared when they are counted


def read_places(files: pd.Series) -> dict[str, Place]:
    """Return where each image lies; files that cannot be opened are left to whoever reads them.

    Args:
        files: Index: key; values: paths.
    """
    found: dict[str, Place] = {}
    for key, path in files.items():
        try:
            found[str(key)] = read_place(Path(str(path)))
        except CohortError:
            continue
    return found


def common_grid(places: Mapping[str, Place], wanted: VolumeInput) -> Grid | None:
    """Return the grid in which most images arrive, the first of them where several are as frequent; None if there is none.

    Args:
        places: From `read_places`, in the order of the table.
        wanted: The ``input`` section.
    """
    count: dict[tuple[object, ...], int] = {}
    first: dict[tuple[object, ...], Place] = {}
    for place in places.values():
        kind = (place.shape, (np.round(place.affine, _DIGITS) + 0.0).tobytes())
        count[kind] = count.get(kind, 0) + 1
        first.setdefault(kind, place)
    if not count:
        return None
    place = first[max(count, key=lambda kind: count[kind])]
    try:
        return VolumePipeline(wanted).place(Volume(np.zeros(place.shape, np.float32), place.affine)).grid
    except CohortError:
        return None


def place_notes(places: Mapping[str, Place]) -> list[str]:
    """Return a line where sform and qform of images disagree, or none."""
    return form_notes({key: (place.forms_apart, place.shortest_edge) for key, place in places.items()})


def resampled_notes(moved: Sequence[str]) -> list[str]:
    """Return a line about people whose images were resampled in the world, or none."""
    if not moved:
        return []
    return [f"{named_images(moved)}: not on the common grid of the world as they are, and resampled onto it"]
