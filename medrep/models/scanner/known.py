"""The scanners that a model knows, as fitted, and what it needs to meet further ones."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32

from medrep.cohort.covariates import POOLED
from medrep.cohort.grid import Grid
from medrep.errors import ModelError
from medrep.models.base import check_arrays
from medrep.models.scanner.frame import DEGREES, Frame
from medrep.models.scanner.inference import Evidence
from medrep.models.scanner.quantiles import feature_levels
from medrep.models.scanner.restoration import BUCKETS, FEATURES, Restoration
from medrep.models.scanner.scanner import TAPS, Scanner

_EVIDENCE = ("features", "effects", "power", "slopes", "covariance")


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

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return JSON content and arrays; `restore` is the inverse."""
        content = {
            "frame": self.frame.to_json(),
            "levels": list(self.scanners),
            "counts": dict(self.counts),
            "window": list(self.window),
            "anchor_people": self.evidence.people,
            "effects": len(self.evidence.effects),
        }
        arrays = {f"evidence.{name}": getattr(self.evidence, name) for name in _EVIDENCE} | {"kept": self.kept}
        for prefix, kind, held in (("scanner", Scanner, self.scanners), ("way_back", Restoration, self.ways_back)):
            for field in fields(kind):
                arrays[f"{prefix}.{field.name}"] = np.array([getattr(held[name], field.name) for name in self.scanners])
        return content, arrays

    @classmethod
    def restore(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "KnownScanners":
        """Rebuild the scanners from `state`.

        Raises:
            ModelError: Arrays that are absent, not finite or of another shape than the content says.
        """
        frame = Frame.from_json(content["frame"])
        levels, effects = [str(level) for level in content["levels"]], int(content["effects"])
        x, y, z = (int(n) for n in content["window"])
        features = len(feature_levels(int(frame.blocks().max()) + 1))
        kept = arrays["kept"] if "kept" in arrays else np.zeros((0, 0), np.float16)
        wanted: dict[str, tuple[int, ...]] = {
            "scanner.shading": (len(levels), len(DEGREES)),
            "scanner.curve": (len(levels), frame.curves),
            "scanner.taps": (len(levels), 3, TAPS),
            "scanner.noise": (len(levels),),
            "way_back.edges": (len(levels), len(BUCKETS)),
            "way_back.weights": (len(levels), len(BUCKETS) + 1, FEATURES),
            "way_back.residual": (len(levels),),
            "evidence.features": (features,),
            "evidence.effects": (effects,),
            "evidence.power": (x // 2 + 1, y // 2 + 1, z // 2 + 1),
            "evidence.slopes": (effects, features),
            "evidence.covariance": (features, features),
            "kept": (len(kept), int(np.prod(frame.shape))),
        }
        check_arrays(arrays, wanted)
        if kept.dtype != np.float16:
            raise ModelError(f"the kept volumes are {kept.dtype}, not float16; train again or fetch it again")
        scanners, ways_back = {}, {}
        for k, level in enumerate(levels):
            shading, curve, taps = (arrays[f"scanner.{name}"][k] for name in ("shading", "curve", "taps"))
            scanners[level] = Scanner(shading, curve, taps, float(arrays["scanner.noise"][k]))
            edges, weights = (arrays[f"way_back.{name}"][k] for name in ("edges", "weights"))
            ways_back[level] = Restoration(edges, weights, float(arrays["way_back.residual"][k]))
        evidence = Evidence(
            people=int(content["anchor_people"]), **{name: arrays[f"evidence.{name}"] for name in _EVIDENCE}
        )
        counts = {str(level): int(count) for level, count in content["counts"].items()}
        strangers = sorted(set(counts) ^ (set(levels) - {POOLED}))
        if strangers or POOLED not in levels or any(count < 0 for count in counts.values()):
            raise ModelError(f"levels and counts do not agree ({', '.join(strangers)}); train again or fetch it again")
        return cls(frame, scanners, ways_back, counts, evidence, (x, y, z), kept)
