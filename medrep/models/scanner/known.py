"""The scanners that a model knows, as fitted, and what it needs to meet further ones."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Float16, Float32

from medrep._persisted import Read, persisted, persisted_as, stored
from medrep.cohort.covariates import POOLED
from medrep.cohort.grid import Grid
from medrep.errors import ModelError
from medrep.models.scanner.frame import DEGREES, Frame
from medrep.models.scanner.inference import Evidence
from medrep.models.scanner.quantiles import feature_levels
from medrep.models.scanner.restoration import BUCKETS, FEATURES, Restoration
from medrep.models.scanner.scanner import TAPS, Scanner

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Scanners:
    """The parameters of scanners, a row a level."""

    shading: Float[np.ndarray, "levels fields"]
    curve: Float[np.ndarray, "levels curves"]
    taps: Float[np.ndarray, "levels 3 taps"]
    noise: Float[np.ndarray, " levels"]


@dataclass(frozen=True)
class _WaysBack:
    """Those of the ways back from them."""

    edges: Float[np.ndarray, "levels edges"]
    weights: Float[np.ndarray, "levels buckets features"]
    residual: Float[np.ndarray, " levels"]


@persisted(
    keys=("frame", "levels", "counts", "window", "anchor_people", "effects"),
    sizes={
        "levels": lambda read: len(read["levels"]),
        "curves": lambda read: read["frame"].curves,
        "voxels": lambda read: int(np.prod(read["frame"].shape)),
        "features": lambda read: len(feature_levels(int(read["frame"].blocks().max()) + 1)),
        "effects": lambda read: read["effects"],
        "x": lambda read: read["window"][0] // 2 + 1,
        "y": lambda read: read["window"][1] // 2 + 1,
        "z": lambda read: read["window"][2] // 2 + 1,
    },
)
@dataclass(frozen=True)
class _Stacked:
    """`KnownScanners` as they are written: the parameters of all levels in one array each."""

    frame: Frame
    levels: tuple[str, ...]
    counts: dict[str, int]
    window: tuple[int, int, int]
    effects: int
    evidence: Evidence = field(
        metadata=stored("", arrays="evidence", sizes={axis: axis for axis in ("features", "effects", *"xyz")})
    )
    scanner: _Scanners = field(
        metadata=stored(sizes={"levels": "levels", "fields": len(DEGREES), "curves": "curves", "taps": TAPS})
    )
    way_back: _WaysBack = field(
        metadata=stored(
            sizes={"levels": "levels", "edges": len(BUCKETS), "buckets": len(BUCKETS) + 1, "features": FEATURES}
        )
    )
    kept: Float16[np.ndarray, "kept voxels"]

    @classmethod
    def of(cls, known: "KnownScanners") -> "_Stacked":
        held, ways = list(known.scanners.values()), [known.ways_back[level] for level in known.scanners]
        scanners, ways_back = _Scanners(**_rows(held)), _WaysBack(**_rows(ways))
        effects = len(known.evidence.effects)
        levels = tuple(known.scanners)
        return cls(
            known.frame, levels, known.counts, known.window, effects, known.evidence, scanners, ways_back, known.kept
        )

    def known(self, _read: Read) -> "KnownScanners":
        strangers = sorted(set(self.counts) ^ (set(self.levels) - {POOLED}))
        if strangers or POOLED not in self.levels or any(count < 0 for count in self.counts.values()):
            raise ModelError(f"levels and counts do not agree ({', '.join(strangers)}); train again or fetch it again")
        scanners, ways_back = _apart(Scanner, self.scanner), _apart(Restoration, self.way_back)
        return KnownScanners(
            self.frame,
            dict(zip(self.levels, scanners, strict=True)),
            dict(zip(self.levels, ways_back, strict=True)),
            self.counts,
            self.evidence,
            self.window,
            self.kept,
        )


def _rows(held: Iterable[Scanner | Restoration]) -> dict[str, np.ndarray]:
    """Return the parameters of some scanners side by side, a row each."""
    some = list(held)
    return {one.name: np.array([getattr(own, one.name) for own in some]) for one in fields(some[0])}


def _apart(kind: Callable[..., _T], stacked: Any) -> list[_T]:
    """Return what `_rows` put side by side."""
    columns = [getattr(stacked, one.name) for one in fields(stacked)]
    return [kind(*(float(value) if value.ndim == 0 else value for value in row)) for row in zip(*columns, strict=True)]


@persisted_as(_Stacked, _Stacked.known)
@dataclass(frozen=True)
class KnownScanners:
    """Fitted scanners.

    Attributes:
        frame: Their axes.
        scanners: Level, and the pooled reference -> its parameters.
        ways_back: Level, and the pooled reference -> the way back.
        counts: Level -> its training people; 0 for levels adapted to later.
        evidence: What training told about the anchor and about people within scanners.
        window: Voxels whose power is compared.
        kept: Volumes of a few of the anchor's people, in units of its median.
    """

    frame: Frame
    scanners: dict[str, Scanner]
    ways_back: dict[str, Restoration]
    counts: dict[str, int]
    evidence: Evidence
    window: tuple[int, int, int]
    kept: Float16[np.ndarray, "kept voxels"]

    @property
    def grid(self) -> Grid:
        """The common grid."""
        return Grid(self.frame.shape, self.frame.spacing)

    def kept_volumes(self) -> Float32[np.ndarray, "kept voxels"]:
        """Return the kept volumes in data units."""
        return self.kept.astype(np.float32) * np.float32(self.frame.median)
