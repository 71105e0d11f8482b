"""Deviations of single columns: how they are summed up for a person, and what is said of them where they are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medrep import __version__
from medrep._files import write_json
from medrep.derivatives.bids import described_name, sidecar
from medrep.models.chunks import ChunkSource

DEVIATIONS, CHANGES = "deviations", "deviations_gain"
"""Names of tables and of a person's rows: z of each column, and of its change since the visit before."""

DESCRIPTIONS: Mapping[str, str] = {
    DEVIATIONS: "How unusual a value is among people like those of training, of the same covariates: standard normal over them,"
    " what is unknown of the model counted. No diagnosis.",
    CHANGES: "How unusual the change since the person's visit before is, given that visit: standard normal over people like those"
    " of training. No diagnosis.",
}
_MAPS = {DEVIATIONS: "z", CHANGES: "zgain"}

FAR, VERY_FAR = 1.96, 3.0
_TOP = 0.01
EXTREME = "extreme"
SHARES: Mapping[str, tuple[int, float]] = {
    "share_high": (1, FAR),
    "share_low": (-1, FAR),
    "share_very_high": (1, VERY_FAR),
    "share_very_low": (-1, VERY_FAR),
}
"""Column of scores.tsv -> direction, and beyond which z."""


@dataclass(frozen=True)
class DeviationsTo:
    """Where maps of deviations go, and what is said of them.

    Attributes:
        folder: Where to; the cohort's own layout is kept below it.
        root: The cohort's folder.
        about: The model, for sidecars.
    """

    folder: Path
    root: Path
    about: Mapping[str, Any]

    def place(self, source: Path, name: str) -> Path:
        """Return where the map of a file goes, relative to the folder."""
        return Path(described_name(source.relative_to(self.root).as_posix(), _MAPS[name]))

    def describe(self, place: Path, source: Path, name: str) -> str:
        """Write the sidecar of a map; return its name."""
        beside = sidecar(place)
        said = {**described(name, self.about), "Sources": [source.relative_to(self.root).as_posix()]}
        write_json(self.folder / beside, said)
        return str(beside)


def described(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a table of deviations, or a map of them, is.

    Args:
        name: ``deviations`` or ``deviations_gain``.
        about: ``Model`` and ``ModelKind``.
    """
    kept = {key: about[key] for key in ("Model", "ModelKind") if key in about}
    return {"Description": DESCRIPTIONS[name], "Units": "z", **kept, "MedrepVersion": __version__}


def whole(source: ChunkSource) -> Float[np.ndarray, "people columns"]:
    """Return a matrix that is small enough to be held, computed a block of columns at a time."""
    found = np.empty(source.shape)
    for part, chunk in source.map(lambda _, chunk: chunk):
        found[:, part] = chunk
    return found


def extreme_values(z: Float[np.ndarray, " columns"]) -> dict[str, float]:
    """Return how far in the tails a person's columns lie, of those that have a z; NaN where none has.

    Shares of columns beyond 1.96 and 3 in each direction (of a typical person 2.5 % and 0.13 %), and the mean of the largest
    hundredth of absolute z, at least one of them (block maxima; Marquand et al. 2016, Biological Psychiatry 80, 552-561).
    """
    known = z[np.isfinite(z)]
    if not len(known):
        return dict.fromkeys((*SHARES, EXTREME), float("nan"))
    shares = {name: float((sign * known > beyond).mean()) for name, (sign, beyond) in SHARES.items()}
    top = max(1, int(np.ceil(_TOP * len(known))))
    return {**shares, EXTREME: float(np.sort(np.abs(known))[-top:].mean())}


def about_extremes(name: str) -> dict[str, object]:
    """Return what a column of scores.tsv is."""
    if name == EXTREME:
        return {
            "Description": "mean of the largest hundredth of absolute z of the person's columns, at least one of them",
            "Units": "z",
        }
    sign, beyond = SHARES[name]
    typical = {FAR: "2.5 %", VERY_FAR: "0.13 %"}[beyond]
    where = f"above {beyond:g}" if sign > 0 else f"below -{beyond:g}"
    return {"Description": f"share of columns that have a z whose z is {where}; {typical} of a typical person"}
