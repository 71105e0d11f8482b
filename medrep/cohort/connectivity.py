"""Functional connectivity: 4-D images, confounds and an atlas, read as one row of edges a participant.

The atlas is brought to each image's grid (nearest neighbour), a region's signal is the mean of its voxels, confounds and
frequencies are taken out, and what remains is compared between regions. A region that cannot be measured in one person is
refused by name: an edge that is missing or constant for some people would be taken for an effect.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32
from sklearn.covariance import EmpiricalCovariance, LedoitWolf, ledoit_wolf_shrinkage

from medrep.cohort.bids import refuse_outside, runs
from medrep.cohort.features import FeatureTable
from medrep.cohort.inputs import BETWEEN, ConnectivityInput
from medrep.cohort.nifti import LabelMap, Series, form_notes, in_memory, named_images, read_labels, read_series
from medrep.cohort.parsing import parse_number
from medrep.cohort.participants import read_tsv
from medrep.cohort.regions import region_names, table_beside
from medrep.cohort.sidecars import Sidecars
from medrep.errors import CohortError, few, lacking, listed


@dataclass(frozen=True)
class Atlas:
    """The regions of a label map.

    Attributes:
        regions: The label map.
        numbers: The numbers that occur in it, ascending, without 0.
        names: One name a region, in the order of ``numbers``.
    """

    regions: LabelMap
    numbers: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of the pairs of regions: the upper triangle, row by row, without the diagonal."""
        return tuple(f"{first}{BETWEEN}{second}" for first, second in combinations(self.names, 2))

    @property
    def sha256(self) -> str:
        """Fingerprint of what is measured: label map, its place in space (to 0.1 micrometre) and the regions' names.

        The file's name, compression and number type do not matter.
        """
        digest = hashlib.sha256(repr((self.regions.data.shape, self.names)).encode("utf-8", "surrogatepass"))
        digest.update((np.round(self.regions.affine, 4) + 0.0).astype("<f8").tobytes())  # + 0.0: -0 is 0
        digest.update(self.regions.data.astype("<i4").tobytes())
        return digest.hexdigest()


def read_atlas(path: Path) -> Atlas:
    """Read a label map, and the names of its regions from the table beside it where there is one.

    Args:
        path: A 3-D image of whole numbers. ``atlas.nii.gz`` takes its names from ``atlas.tsv``, a BIDS look-up table with
            the columns ``index`` and ``name``; without one, regions are named by their numbers.

    Raises:
        CohortError: An unusable file, fewer than two regions, or regions without a name of their own; all are listed.
    """
    regions = read_labels(path)
    numbers = tuple(int(number) for number in np.unique(regions.data) if number)
    if len(numbers) < 2:
        raise CohortError(f"{path}: {len(numbers)} region(s); edges need an atlas of two or more")
    table = table_beside(path)
    names = region_names(table, numbers, BETWEEN) if table.is_file() else tuple(str(number) for number in numbers)
    return Atlas(regions, numbers, names)


def find_confounds(image: Path, ending: str) -> Path:
    """Find the table of an image: in its folder, the given ending, and no entity in its name that the image's has not.

    Args:
        image: ``sub-01_task-rest_space-MNI_desc-preproc_bold.nii.gz``, for instance.
        ending: ``desc-confounds_timeseries.tsv`` finds ``sub-01_task-rest_desc-confounds_timeseries.tsv`` for it.

    Raises:
        CohortError: No such table, or several; one line.
    """
    own = set(image.name.split("_"))
    found = sorted(
        path
        for path in image.parent.iterdir()
        if path.name.endswith(f"_{ending}") and set(path.name.removesuffix(f"_{ending}").split("_")) <= own
    )
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise CohortError(f"{image}: one table *_{ending} is needed beside it, there: {names}; set input.confounds_file")


def read_confounds(path: Path, columns: Sequence[str], volumes: int) -> Float[np.ndarray, "volumes columns"]:
    """Read columns of a confounds table.

    A first cell ``n/a`` takes the second's value, as in nilearn: fMRIPrep leaves it empty where the column is a
    difference between volumes.

    Args:
        path: The table.
        columns: Which.
        volumes: How many volumes the image has; one row each is needed.

    Raises:
        CohortError: Missing columns, cells that are no number, or another number of rows; one line.
    """
    header, rows, _ = read_tsv(path)
    absent = [column for column in columns if column not in header]
    if absent:
        raise CohortError(f"{path}: no column {', '.join(absent)}; columns: {', '.join(header[:12])}")
    if len(rows) != volumes:
        raise CohortError(f"{path}: {len(rows)} rows for {volumes} volumes; one row a volume is needed")
    positions = [header.index(column) for column in columns]
    cells = [[parse_number(row[position]) for position in positions] for row in rows]
    values = np.array([[cell.value if cell.reading == "exact" else np.nan for cell in row] for row in cells])
    differences = [position for position, cell in enumerate(cells[0]) if cell.reading == "missing"]
    values[0, differences] = values[min(1, volumes - 1), differences]
    bad = [f"{columns[j]} in row {i + 1}" for i, j in zip(*np.nonzero(np.isnan(values)), strict=True)]
    if bad:
        raise CohortError(f"{path}: no number: {few(bad, 4, last=' and')}; mend the table, or leave the column out")
    return values


try:
    from nilearn.connectome import ConnectivityMeasure
    from nilearn.image import resample_img
    from nilearn.image.resampling import BoundingBoxError
    from nilearn.maskers import NiftiLabelsMasker
    from nilearn.signal import clean, standardize_signal
except ImportError as error:
    raise lacking("connectivity", error) from None

LEAST_FREE = 4
"""Volumes needed beyond the number of confounds: the Fisher z of n free volumes has the variance 1 / (n - 3)."""

SAME_SECONDS = 0.005
"""Header and JSON file say the same time between volumes where they differ by no more than this share of the longer one."""

_STILL = 1e-6  # relative change below which a float32 signal is constant
_SAME = 1 - 1e-9


def read_connectivity(
    root: Path, files: pd.Series, ids: pd.DataFrame, wanted: ConnectivityInput
) -> tuple[FeatureTable, ConnectivityInput, list[str]]:
    """Measure the edges of everybody.

    Args:
        root: The cohort's folder, which tables of confounds may not leave.
        files: Index: key; values: paths of 4-D images.
        ids: The key columns, index: key.
        wanted: The ``input`` section.

    Returns:
        One column an edge, named ``REGION~REGION``, the input section with the atlas's fingerprint and, for ``tangent``, the
        shrinkage where it names none, and what is to be said of the images' headers.

    Raises:
        CohortError: Unusable settings, an unusable atlas or another one than in training, or everybody whose images or
            confounds cannot be used.
    """
    _refuse_settings(wanted)
    path = Path(wanted.atlas)
    atlas = read_atlas(path)
    if wanted.atlas_sha256 not in {"", atlas.sha256}:
        raise CohortError(
            f"{path}: not the atlas of training (sha256 {atlas.sha256[:12]}..., not {wanted.atlas_sha256[:12]}...); "
            "its label map, its place in space and its region names must be as they were"
        )
    rows: list[np.ndarray] = []
    shares: list[float] = []
    problems: list[str] = []
    sidecars = Sidecars(root)
    apart = {"the atlas": (atlas.regions.forms_apart, atlas.regions.shortest_edge)}
    other: dict[str, float] = {}
    for key, file in files.items():
        try:
            edges: list[np.ndarray] = []
            for run in runs(Path(file)):
                series = read_series(run)
                apart[str(key)] = (series.forms_apart, series.shortest_edge)
                seconds, said = _seconds(run, series, sidecars, wanted)
                other |= {str(key): said} if _differ(said, seconds) else {}
                signals = _signals(root, run, series, seconds, atlas, wanted)
                edges.append(edge_values(signals, wanted.measure))
                shares.append(float(ledoit_wolf_shrinkage(standardize_signal(signals, standardize="zscore_sample"))))
            rows.append(edges[0] if len(edges) == 1 else np.mean(edges, axis=0))
        except CohortError as error:
            problems.append(f"{key}: {error}")
    if problems:
        cure = "mend them, choose others with input.entities, or leave the people out with --exclude"
        raise CohortError(listed(f"time series that cannot be used with {path}", problems, cure))
    notes = form_notes(apart)
    if other:
        others = ", ".join(f"{value:g}" for value in sorted(set(other.values()))[:4])
        notes.append(f"{named_images(list(other))}: {others} s between volumes; input.t_r is used, {wanted.t_r:g} s")
    used = replace(wanted, atlas_sha256=atlas.sha256)
    if wanted.measure == "tangent" and not wanted.shrinkage:
        used = replace(used, shrinkage=float(np.mean(shares)))
    return FeatureTable(ids, np.stack(rows), atlas.edges, None), used, notes


@dataclass(frozen=True)
class RegionSignals:
    """The mean signal of each region of an atlas in one image.

    Attributes:
        changes: Around the mean over time; NaN where a voxel of the region is NaN or the region has no voxel.
        levels: The means over time.
        voxels: Voxels of each region on the image's grid.
    """

    changes: Float[np.ndarray, "volumes regions"]
    levels: Float[np.ndarray, " regions"]
    voxels: Float[np.ndarray, " regions"]


def region_signals(series: Series, atlas: Atlas) -> RegionSignals:
    """Return the signals of the regions, each the mean of its voxels on the image's grid."""
    labels = _on_grid(atlas, series)
    place = np.searchsorted(atlas.numbers, labels)
    inside = labels > 0
    voxels = np.bincount(place[inside], minlength=len(atlas.numbers)).astype(np.float64)
    known = np.isfinite(series.data).all(axis=3)
    spoilt = np.zeros(len(atlas.numbers), dtype=bool)
    spoilt[place[inside & ~known]] = True
    whole = (voxels > 0) & ~spoilt
    changes = np.full((series.data.shape[3], len(whole)), np.nan)
    levels = np.full(len(whole), np.nan)
    if whole.any():
        kept = np.where(whole[place] & inside, labels, 0).astype(np.int32)
        with np.errstate(invalid="ignore"):
            means = np.where(known, series.data.mean(axis=3, dtype=np.float64), 0)
        # Around the mean, float32 has digits to spare for small changes on a high level.
        around = series.data - means[..., None].astype(np.float32)
        around[~known] = 0
        masker = NiftiLabelsMasker(
            in_memory(kept, series.affine), resampling_target=None, standardize=None, reports=False
        )
        changes[:, whole] = masker.fit_transform(in_memory(around, series.affine))
        levels[whole] = np.bincount(place[kept > 0], means[kept > 0], len(whole))[whole] / voxels[whole]
    return RegionSignals(changes, levels, voxels)


def _on_grid(atlas: Atlas, series: Series) -> Int32[np.ndarray, "x y z"]:
    grid = series.data.shape[:3]
    regions = in_memory(atlas.regions.data, atlas.regions.affine)
    try:
        transformed = resample_img(regions, target_affine=series.affine, target_shape=grid, interpolation="nearest")
    except BoundingBoxError:
        return np.zeros(grid, dtype=np.int32)
    return np.asarray(transformed.dataobj, dtype=np.int32)


def edge_values(signals: Float[np.ndarray, "volumes regions"], measure: str) -> Float[np.ndarray, " edges"]:
    """Compare regions pairwise: the upper triangle, row by row, without the diagonal.

    Args:
        signals: One column a region, none of them constant.
        measure: ``correlation``: Fisher z, artanh(r). ``partial``: the correlation given all other regions, out of the
            Ledoit-Wolf covariance of signals in units of their own standard deviation. ``tangent``: as ``correlation``; their
            matrix is taken by `medrep.cohort.kinds.connectivity`. ``covariance``: in squared units of the image, divided by the
            number of volumes.
    """
    kind = {"partial": "partial correlation", "tangent": "correlation"}.get(measure, measure)
    estimator = LedoitWolf() if measure == "partial" else EmpiricalCovariance()
    used = standardize_signal(signals, standardize="zscore_sample") if measure == "partial" else signals
    matrix = ConnectivityMeasure(estimator, kind=kind).fit_transform([used])[0]
    upper = np.asarray(matrix[np.triu_indices(len(matrix), 1)], dtype=np.float64)
    return np.arctanh(np.clip(upper, -_SAME, _SAME)) if kind == "correlation" else upper


def _signals(
    root: Path, path: Path, series: Series, seconds: float, atlas: Atlas, wanted: ConnectivityInput
) -> Float[np.ndarray, "volumes regions"]:
    confounds_path = find_confounds(path, wanted.confounds_file) if wanted.confounds else None
    if confounds_path is not None:
        refuse_outside(root, [("confounds", confounds_path)])
    volumes = series.data.shape[3]
    needed = LEAST_FREE + len(wanted.confounds)
    if volumes < needed:
        raise CohortError(f"{path}: {volumes} volumes, fewer than the {needed} that these edges need")
    confounds = None if confounds_path is None else read_confounds(confounds_path, wanted.confounds, volumes)
    signals = region_signals(series, atlas)
    _refuse_regions(path, signals, atlas)
    kept = _cleaned(path, signals.changes, confounds, seconds, wanted)
    spread = kept.std(axis=0)
    least = _STILL * (np.abs(signals.levels) + signals.changes.std(axis=0))
    _refuse(path, atlas, spread <= least, "nothing left after confounds and cuts in")
    if wanted.measure != "covariance":
        scaled = (kept - kept.mean(axis=0)) / spread
        same = np.abs(np.triu(scaled.T @ scaled / volumes, 1)) >= _SAME
        _refuse(path, atlas, same.any(axis=0), "the signal of another region, up to scale, in")
    return kept


def _cleaned(
    path: Path,
    changes: Float[np.ndarray, "volumes regions"],
    confounds: Float[np.ndarray, "volumes columns"] | None,
    seconds: float,
    wanted: ConnectivityInput,
) -> Float[np.ndarray, "volumes regions"]:
    cut = bool(wanted.low_pass or wanted.high_pass)
    if not cut and confounds is None:
        return changes
    try:
        return clean(
            changes,
            detrend=False,
            standardize=None,
            confounds=confounds,
            filter="butterworth" if cut else False,
            low_pass=wanted.low_pass or None,
            high_pass=wanted.high_pass or None,
            t_r=seconds or None,
        )
    except ValueError as error:  # scipy, for a series that is shorter than its filter
        raise CohortError(f"{path}: {len(changes)} volumes cannot be filtered ({error})") from None


def _seconds(path: Path, series: Series, sidecars: Sidecars, wanted: ConnectivityInput) -> tuple[float, float]:
    """Return the seconds between volumes to be used, and those that the files say; 0 where no filter needs them."""
    if not (wanted.low_pass or wanted.high_pass):
        return 0.0, 0.0
    said = _said_seconds(path, series, sidecars, wanted)
    seconds = wanted.t_r or said
    if not seconds:
        raise CohortError(
            f"{path}: the header does not say the seconds between volumes; set input.t_r, or write RepetitionTime beside it"
        )
    highest = 0.5 / seconds
    too_high = [f"input.{n} {getattr(wanted, n):g}" for n in ("low_pass", "high_pass") if getattr(wanted, n) >= highest]
    if too_high:
        raise CohortError(
            f"{path}: {' and '.join(too_high)} Hz must be below {highest:g} Hz, half the rate of a volume in {seconds:g} s"
        )
    return seconds, said


def _said_seconds(path: Path, series: Series, sidecars: Sidecars, wanted: ConnectivityInput) -> float:
    """Return the seconds that header and JSON files agree on; 0 where neither says them."""
    found = sidecars.value(path, "RepetitionTime")
    if found is None:
        return series.repetition
    stated, file = found
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated < np.inf:
        raise CohortError(f"{file}: RepetitionTime {stated!r} is no number of seconds; mend it")
    if _differ(series.repetition, float(stated)) and not wanted.t_r:
        raise CohortError(
            f"{path}: the header says {series.repetition:g} s between volumes, RepetitionTime of {file.name} {stated:g} s;"
            " mend the wrong one, or set input.t_r"
        )
    return float(stated)


def _differ(one: float, other: float) -> bool:
    """Return whether two times between volumes are known and not the same."""
    return one > 0 and other > 0 and abs(one - other) > SAME_SECONDS * max(one, other)


def _refuse_regions(path: Path, signals: RegionSignals, atlas: Atlas) -> None:
    absent = signals.voxels == 0
    if absent.all():
        raise CohortError(f"{path}: no region of the atlas lies in the image; are both in the same space?")
    spoilt = np.isnan(signals.levels) & ~absent
    still = ~absent & ~spoilt
    still[still] = np.ptp(signals.changes[:, still], axis=0) <= _STILL * np.abs(signals.levels[still])
    found = {"no voxel in": absent, "NaN or infinite voxels in": spoilt, "a constant signal in": still}
    lines = [f"{what} {_regions(atlas, which)}" for what, which in found.items() if which.any()]
    if lines:
        raise CohortError(f"{path}: {'; '.join(lines)}")


def _refuse(path: Path, atlas: Atlas, which: np.ndarray, what: str) -> None:
    if which.any():
        raise CohortError(f"{path}: {what} {_regions(atlas, which)}")


def _regions(atlas: Atlas, which: np.ndarray) -> str:
    names = [name for name, bad in zip(atlas.names, which, strict=True) if bad]
    return f"region{'s' if len(names) > 1 else ''} {few(names, 12, last=' and')}"


def _refuse_settings(wanted: ConnectivityInput) -> None:
    problems = []
    if not wanted.atlas or "\0" in wanted.atlas:
        others = "; matrices are read with input.suffix=relmat, edges of features.tsv without images"
        problems.append(f"input.atlas {wanted.atlas!r}: name a 3-D label map{'' if wanted.atlas else others}")
    numbers = {name: getattr(wanted, name) for name in ("low_pass", "high_pass", "t_r")}
    problems += [
        f"input.{name} {value:g}: give a number above zero, or leave it out"
        for name, value in numbers.items()
        if not 0 <= value < np.inf
    ]
    if 0 < wanted.low_pass <= wanted.high_pass:
        problems.append(f"input.high_pass {wanted.high_pass:g}: must be below input.low_pass {wanted.low_pass:g}")
    if problems:
        raise CohortError(listed("connectivity cannot be measured with these settings", problems))
