"""Sections ``input`` of a configuration: which files or table, brought to which grid; one for each kind of input.

What each kind does with its section is in `medrep.cohort.kinds`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medrep._persisted import persisted

Missing = Literal["error", "keep"]
AUTO, BIDS = "auto", "bids"
"""Words of ``input.mask``; others are paths."""
SAMPLED = 64
"""So many people at most, evenly spread over the sorted keys, say which voxels a mask of most people holds."""

FINEST = 0.5
"""Fields are as fine as the smallest structure asks for, down to this share of the largest one's size."""

BETWEEN = "~"
"""Stands between the two regions of an edge's name."""


def _refuse_limits(section: "FeaturesInput") -> None:
    wrong = [
        f"composition_limits.{name}: {limit:g} is no share between 0 and 1"
        for name, limit in section.composition_limits.items()
        if not 0 < limit < 1
    ]
    wrong += [
        f"composition_sums.{name}: {total:g} is not above 0"
        for name, total in section.composition_sums.items()
        if not 0 < total < float("inf")
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


@persisted(check=_refuse_limits)
@dataclass(frozen=True)
class FeaturesInput:
    """Kind ``features``: features.tsv, a row a person.

    Attributes:
        missing: What NaN cells do: ``error``, or ``keep`` (left out of the fit and left NaN on export).
        features: Which columns of numbers are features, with ``*`` for anything (``lh_*_thickness``); all if empty.
        drop: Columns that are no features, likewise.
        group: Column of the table of participants that names whom each belongs with (a family); empty: people are strangers.
        compositions: Columns that are parts of a whole (`medrep.cohort.compositions`): name -> columns, with ``*`` for anything,
            for instance ``{tissue: [gm, wm, csf]}``.
        composition_limits: What stands for a zero of a part, a share of its whole: column -> number; filled in by training where
            it says nothing of a column.
        composition_sums: What parts sum to where no person's own sum is known: name -> number; filled in by training likewise.
    """

    missing: Missing = "error"
    features: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    group: str = ""
    compositions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    composition_limits: dict[str, float] = field(default_factory=dict)
    composition_sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageInput:
    """Keys that all kinds of one image a participant share.

    Attributes:
        suffix: BIDS suffix of the image.
        desc: BIDS ``desc`` of the image; empty for files without one.
        entities: Further BIDS entities the file name must have, for instance ``{acq: mprage, run: "1"}``; ``none`` for images
            without it. Of several runs ``run: first`` takes the lowest, ``all`` each as a row of its own, ``mean`` their mean,
            whose change each run then gets.
        group: As of features.
    """

    suffix: str = "T1w"
    desc: str = ""
    entities: dict[str, str] = field(default_factory=dict)
    group: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class VolumeInput(ImageInput):
    """Kind ``volume``: one NIfTI image a row of participants.tsv.

    Attributes:
        spacing: Common voxel edges in mm; empty keeps the images' own, which must then agree.
        shape: Common grid in voxels, cut or padded around the centre; empty keeps the images' own, which must then agree. Where
            spacing or shape is given, a volume that lies elsewhere in the world than most is resampled onto their grid.
        intensity: ``raw``; ``p99``: in units of each image's own 99th percentile; ``zscore``: mean and standard deviation of each
            image's foreground are those of training; ``nyul``: its percentiles are. Undone on export.
        harmonize_unit: Whether what ``intensity`` takes out of each image (its 99th percentile, its mean and deviation, or its
            percentiles) is moved on export as voxels are: a site's overall gain goes, too. Else everybody gets their own back.
        landmarks: What ``zscore`` and ``nyul`` map each image's own to; filled in by training.
        missing: What NaN voxels do: ``error``, or ``keep`` (left out of the fit and left NaN on export).
        mask: Which voxels are fitted, stored and changed: ``auto`` (all but those that are background in most people), ``bids``
            (those of each person's own ``desc-brain_mask`` beside the image), or one mask image for all, absolute or from the
            current folder; empty: every voxel of the grid.
    """

    spacing: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    intensity: Literal["raw", "p99", "zscore", "nyul"] = "raw"
    missing: Missing = "error"
    harmonize_unit: bool = False
    landmarks: tuple[float, ...] = ()
    mask: str = ""


def _refuse_no_structures(section: "ShapeInput") -> None:
    named = section.structures
    wrong = [str(name) for name in named if not _NAME.fullmatch(str(name))]
    if wrong:
        raise ValueError(
            f"structures: {', '.join(wrong)}: names are letters and digits, as they stand in names of files"
        )
    empty = [name for name, numbers in named.items() if not numbers or min(numbers) < 1]
    if empty:
        raise ValueError(f"structures: {', '.join(empty)}: give region numbers above 0, for instance {{left: [17]}}")
    every = [number for numbers in named.values() for number in numbers]
    twice = sorted({number for number in every if every.count(number) > 1})
    if twice:
        raise ValueError(f"structures: {', '.join(map(str, twice))}: a region is part of one structure only")


_NAME = re.compile("[A-Za-z0-9]+")


@persisted(check=_refuse_no_structures)
@dataclass(frozen=True)
class ShapeInput(ImageInput):
    """Kind ``shape``: one NIfTI label map a row of participants.tsv; its organ's signed distance.

    Attributes:
        spacing: Edges of the grid's cells, aligned mm; filled in by training where it is empty.
        shape: Points of the grid along each axis; filled in by training where it is empty.
        labels: Region numbers that are the organ together; empty: every number above 0.
        structures: Structures that are looked at together and kept apart, in place of ``labels``: name -> region numbers, for
            instance ``{left: [17], right: [53]}``. Alignment is one motion for all of a person, so that they lie to one another
            as they did.
        align: How organs are brought to lie alike: ``none`` where the images share a space, ``centre``, ``rigid``, or
            ``similarity``, which takes size away, too. What the alignment takes away is no effect of a covariate any more.
        centre: Middle of the grid, aligned mm; filled in by training.
        size: Mean root mean square distance of the organ's surface from its centre (of structures, of each from its own), mm;
            filled in by training.
    """

    spacing: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    structures: dict[str, tuple[int, ...]] = field(default_factory=dict, kw_only=True)
    align: Literal["none", "centre", "rigid", "similarity"] = "none"
    centre: tuple[float, ...] = ()
    size: float = 0.0

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """Region numbers by structure; of one organ alone by no name."""
        return self.structures or {"": self.labels}


@dataclass(frozen=True)
class PointsInput(ImageInput):
    """Kind ``points``: landmarks, a point set or a mesh a row of participants.tsv; point k of one person is point k of all.

    The files ``hemi-L`` and ``hemi-R`` of one name belong together and are aligned as one; ``entities: {hemi: L}`` takes one.

    Attributes:
        missing: What missing coordinates do: ``error``, or ``keep`` (left out of the fit and left missing on export).
        align: How people are brought to lie alike: ``none`` where they share a space, ``centre``, ``rigid``, or ``similarity``,
            which takes size away, too. What the alignment takes away is no effect of a covariate, and everybody gets it back.
        consensus: Coordinates of the mean shape that people are aligned to, point by point (of many points of 300 of them);
            filled in by training.
    """

    suffix: str = "landmarks"
    missing: Missing = "error"
    align: Literal["none", "centre", "rigid", "similarity"] = "rigid"
    consensus: tuple[float, ...] = ()


@dataclass(frozen=True)
class ConnectivityInput(ImageInput):
    """Kind ``connectivity``: edges between regions, of a 4-D NIfTI image, of a matrix (``suffix: relmat``) or of features.tsv.

    Attributes:
        missing: As of features; an edge that cannot be measured is refused either way.
        atlas: Label map of the regions, absolute or from the current folder; a table ``index``, ``name`` of the same name
            (atlas.nii.gz: atlas.tsv) names them. Images need one; without one, features.tsv holds a column an edge.
        atlas_sha256: What the atlas must hold; filled in by training, so that no other atlas is applied to the model.
        measure: ``correlation`` (Fisher z), ``tangent`` (correlation, moved on the logarithm of the matrix, so that it stays a
            correlation matrix), ``partial`` (partial correlation, Ledoit-Wolf) or ``covariance``.
        confounds: Columns of the confounds table to regress out.
        confounds_file: How the name of that table ends, which lies beside the image.
        low_pass: Hz above which the signal is cut; 0 for no cut.
        high_pass: Hz below which the signal is cut; 0 for no cut.
        t_r: Seconds between volumes, for the cuts; 0 takes what the header and RepetitionTime of the JSON file agree on.
        edges: What matrices and tables hold, and what is written: ``r`` (correlations), or ``z`` (Fisher z); empty: ``r`` in
            matrices, else ``z``.
        shrinkage: Share of the identity that everybody's correlation matrix is mixed with for ``tangent``. 0: that of Ledoit and
            Wolf, the mean over people, filled in by training, of images; matrices and tables as they are.
    """

    missing: Missing = "error"
    atlas: str = ""
    atlas_sha256: str = ""
    measure: Literal["correlation", "partial", "covariance", "tangent"] = "correlation"
    confounds: tuple[str, ...] = ()
    confounds_file: str = "desc-confounds_timeseries.tsv"
    low_pass: float = 0.0
    high_pass: float = 0.0
    t_r: float = 0.0
    edges: Literal["", "r", "z"] = ""
    shrinkage: float = 0.0


_LATER: Mapping[str, Any] = {
    "features": (),
    "drop": (),
    "edges": "",
    "shrinkage": 0.0,
    "harmonize_unit": False,
    "landmarks": (),
    "mask": "",
    "group": "",
    "structures": {},
    "compositions": {},
    "composition_limits": {},
    "composition_sums": {},
}
"""Keys that medrep 0.2 did not know, and what they are where they are left out: a section without them reads as it did."""


def persisted_section(kind: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section as it stands in config.yaml and model.json: with the keys of all kinds that medrep 0.1 knew, and others.

    Others are left out where they have their default.

    Args:
        kind: Key of the kind.
        own: Keys that are known to have a value; the others of these kinds get their defaults, as they always have.
    """
    every: dict[str, Any] = {"kind": kind}
    for section in (VolumeInput(), ShapeInput(), ConnectivityInput()):
        every |= {key: value for key, value in asdict(section).items() if key not in every and key not in _LATER}
    every |= own
    return {key: value for key, value in every.items() if key not in _LATER or value != _LATER[key]}
