"""What a cohort's input is: which files or table, brought to which grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medrep._structuring import build_section
from medrep.errors import ConfigError, listed


@dataclass(frozen=True)
class Input:
    """The ``input`` section of a configuration.

    Attributes:
        kind: ``features`` (features.tsv), ``volume`` (one NIfTI image a row of participants.tsv), ``shape`` (one NIfTI label
            map a row; its organ's signed distance), or ``connectivity`` (one 4-D NIfTI image a row; its features are the
            edges between the regions of an atlas).
        suffix: BIDS suffix of the image.
        desc: BIDS ``desc`` of the image; empty for files without one.
        entities: Further BIDS entities the file name must have, for instance ``{acq: mprage, run: "1"}``.
        spacing: Common voxel edges in mm; empty keeps the images' own, which must then agree.
        shape: Common grid in voxels, cut or padded around the centre; empty keeps the images' own, which must then agree. Where
            spacing or shape is given, a volume that lies elsewhere in the world than most is resampled onto their grid.
        intensity: ``raw``, or ``p99``: in units of each image's own 99th percentile, undone on export.
        missing: What NaN cells and voxels do: ``error``, or ``keep`` (left out of the fit and left NaN on export).
        labels: Region numbers that are the organ together (``shape``); empty: every number above 0.
        align: How organs are brought to lie alike (``shape``): ``none`` where the images share a space, ``centre``, ``rigid``,
            or ``similarity``, which takes size away, too. What the alignment takes away is no effect of a covariate any more.
        centre: Middle of the grid (``shape``), aligned mm; filled in by training.
        size: Mean root mean square distance of the organ's surface from its centre, mm (``shape``); filled in by training.
        atlas: Label map of the regions, absolute or from the current folder; a table ``index``, ``name`` of the same name
            (atlas.nii.gz: atlas.tsv) names them.
        atlas_sha256: What the atlas must hold; filled in by training, so that no other atlas is applied to the model.
        measure: ``correlation`` (Fisher z), ``partial`` (partial correlation, Ledoit-Wolf) or ``covariance``.
        confounds: Columns of the confounds table to regress out.
        confounds_file: How the name of that table ends, which lies beside the image.
        low_pass: Hz above which the signal is cut; 0 for no cut.
        high_pass: Hz below which the signal is cut; 0 for no cut.
        t_r: Seconds between volumes, for the cuts; 0 takes what the header and RepetitionTime of the JSON file agree on.
    """

    kind: Literal["features", "volume", "shape", "connectivity"] = "features"
    suffix: str = "T1w"
    desc: str = ""
    entities: dict[str, str] = field(default_factory=dict)
    spacing: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    intensity: Literal["raw", "p99"] = "raw"
    missing: Literal["error", "keep"] = "error"
    labels: tuple[int, ...] = ()
    align: Literal["none", "centre", "rigid", "similarity"] = "none"
    centre: tuple[float, ...] = ()
    size: float = 0.0
    atlas: str = ""
    atlas_sha256: str = ""
    measure: Literal["correlation", "partial", "covariance"] = "correlation"
    confounds: tuple[str, ...] = ()
    confounds_file: str = "desc-confounds_timeseries.tsv"
    low_pass: float = 0.0
    high_pass: float = 0.0
    t_r: float = 0.0


def saved_input(content: Mapping[str, Any], source: str) -> Input:
    """Turn a saved ``input`` section back into an `Input`.

    Raises:
        ConfigError: All unknown keys and wrong values.
    """
    problems: list[str] = []
    section = build_section(Input, dict(content), "input", problems)
    if problems or not isinstance(section, Input):
        raise ConfigError(listed(f"{source}: not a valid input section", problems))
    return section
