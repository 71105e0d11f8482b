"""What a cohort's input is: which files or table, brought to which grid."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Input:
    """The ``input`` section of a configuration.

    Attributes:
        kind: ``features`` (features.tsv) or ``volume`` (one NIfTI image a row of participants.tsv).
        suffix: BIDS suffix of the image.
        desc: BIDS ``desc`` of the image; empty for files without one.
        entities: Further BIDS entities the file name must have, for instance ``{acq: mprage, run: "1"}``.
        spacing: Common voxel edges in mm; empty keeps the images' own, which must then agree.
        shape: Common grid in voxels, cut or padded around the centre; empty keeps the images' own, which must then agree.
        intensity: ``raw``, or ``p99``: in units of each image's own 99th percentile, undone on export.
        missing: What NaN cells and voxels do: ``error``, or ``keep`` (left out of the fit and left NaN on export).
    """

    kind: Literal["features", "volume"] = "features"
    suffix: str = "T1w"
    desc: str = ""
    entities: dict[str, str] = field(default_factory=dict)
    spacing: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    intensity: Literal["raw", "p99"] = "raw"
    missing: Literal["error", "keep"] = "error"
