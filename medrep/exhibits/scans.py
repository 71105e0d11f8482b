"""One person's image on the model's grid."""

from pathlib import Path
from typing import TYPE_CHECKING

from medrep.cohort.grid import Grid
from medrep.cohort.inputs import Input
from medrep.cohort.nifti import read_image

if TYPE_CHECKING:
    from medrep.cohort.transforms import Placed


def placed_scan(path: Path, wanted: Input, common: Grid | None) -> "Placed":
    """Read a volume and bring it to the model's grid.

    Raises:
        CohortError: A file that cannot be read.
    """
    from medrep.cohort.transforms import VolumePipeline  # MONAI takes seconds to import and only volumes need it

    return VolumePipeline(wanted, common).place(read_image(path))
