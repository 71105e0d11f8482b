"""Points in correspondence: landmarks, point sets or meshes, as coordinates where everybody lies alike."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Shaped

from medrep.cohort.bids import POINT_ENDINGS, hemispheres, runs
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import PointsInput
from medrep.cohort.kinds.base import Blocks, Checked, Listener, Matrix, Room, load_people
from medrep.cohort.kinds.volume import FileKind
from medrep.cohort.plausibility import same_data
from medrep.cohort.point_files import PointFile, Points, read_points
from medrep.cohort.procrustes import Pose, consensus_of, superimposed
from medrep.cohort.samples import Source
from medrep.cohort.splits import row_fingerprint
from medrep.errors import CohortError, listed

_ANCHORS = 300
_AXES = ("x", "y", "z")
_MIRRORED = 0.5  # of the distance from the consensus: what a mirrored person's is after mirroring back


@dataclass(frozen=True, eq=False)
class PersonPoints:
    """One person's files, and their points where everybody lies alike.

    Attributes:
        files: Of the left hemisphere, then of the right one; or one file.
        points: Coordinates in the files' space, of all files after one another; NaN where one is missing.
        names: Of the columns, x, y and z of a point side by side.
        pose: How the points were brought to lie alike.
    """

    files: tuple[PointFile, ...]
    points: Points
    names: tuple[str, ...]
    pose: Pose

    @property
    def row(self) -> Float32[np.ndarray, " columns"]:
        """Aligned coordinates in the order of the columns."""
        return self.pose.apply(self.points).ravel().astype(np.float32)

    def own_change(self, change: Float[np.ndarray, " columns"]) -> list[Points]:
        """Return a change of the row as displacements in the files' space, a part a file."""
        moved = self.pose.back(change.reshape(self.points.shape))
        return np.split(moved, np.cumsum([len(file.points) for file in self.files])[:-1])


def read_person(path: Path, wanted: PointsInput) -> PersonPoints:
    """Read a person's points, with those of the other hemisphere where there is one.

    Args:
        path: Of two hemispheres either one's.
        wanted: The ``input`` section; without a consensus nobody is aligned.

    Raises:
        CohortError: One line: what is wrong with which file and what to do about it.
    """
    if len(runs(path)) > 1:
        raise CohortError(f"{path}: points of several runs have no mean; choose --run first or all")
    files = tuple(read_points(part) for part in ((path,) if "hemi" in wanted.entities else hemispheres(path)))
    if len({file.points.shape[1] for file in files}) > 1:
        raise CohortError(f"{path}: one hemisphere has two coordinates a point, the other three")
    points = np.concatenate([file.points for file in files])
    bad = int(np.count_nonzero(~np.isfinite(points).all(axis=1)))
    if bad and wanted.missing == "error":
        cure = "measure them, or set input.missing to keep"
        raise CohortError(f"{path}: {bad} of {len(points)} points are missing; {cure}")
    points[~np.isfinite(points).all(axis=1)] = np.nan
    anchors = _anchors(points)
    if wanted.consensus and len(wanted.consensus) != anchors.size:
        told = f"{len(points)} points of {points.shape[1]} coordinates, not those of the model"
        raise CohortError(f"{path}: has {told}; give points as in training")
    consensus = np.asarray(wanted.consensus, float).reshape(anchors.shape) if wanted.consensus else anchors
    try:
        pose = superimposed(anchors, consensus, wanted.align if wanted.consensus else "none")
    except CohortError as error:
        raise CohortError(f"{path}: {error}") from None
    return PersonPoints(files, points, _names(files), pose)


def load_points(
    files: pd.Series, wanted: PointsInput, names: tuple[str, ...] = ()
) -> Iterator[tuple[str, PersonPoints | None, str]]:
    """Read people's points one after another, in the order of ``files``.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        names: Columns of a model that they must have; any if empty.

    Returns:
        Key, points and an empty text; or key, None and one line of what is wrong. Never an exception.
    """
    return load_people(
        files,
        lambda path: read_person(path, wanted),
        names,
        lambda found: f"has {len(found.points)} points, other ones than the model; give points as in training",
    )


def _names(files: Sequence[PointFile]) -> tuple[str, ...]:
    sides = ("left_", "right_") if len(files) == 2 else ("",)
    plain = "" if len(files) == 2 else "point_"
    return tuple(
        f"{side}{label}_{axis}"
        for side, file in zip(sides, files, strict=True)
        for label in (file.labels or [f"{plain}{number}" for number in range(len(file.points))])
        for axis in _AXES[: file.points.shape[1]]
    )


def _anchors(points: Points) -> Points:
    """Return the points that people are aligned by: all, or of many some, evenly spread over their order."""
    return points[np.unique(np.linspace(0, len(points) - 1, min(len(points), _ANCHORS)).round().astype(int))]


def _unlike(names: "dict[str, tuple[str, ...]]") -> list[str]:
    """Return a line for everybody whose points are not those that most people have."""
    if not names:
        return []
    most = Counter(names.values()).most_common(1)[0][0]
    return [
        f"{key}: has {len(own)} coordinates, unlike most people, who have {len(most)}"
        + ("" if len(own) != len(most) else " of points with other names")
        for key, own in names.items()
        if own != most
    ]


@dataclass(frozen=True)
class PointsKind(FileKind[PointsInput]):
    """Points in correspondence of each person."""

    section: PointsInput = field(default_factory=PointsInput)

    kind: ClassVar[str] = "points"
    section_type: ClassVar[type[PointsInput]] = PointsInput
    on_grid: ClassVar[bool] = False
    endings: ClassVar[tuple[str, ...]] = POINT_ENDINGS
    transform: ClassVar[str] = "medrep.derivatives.points:TransformPoints"
    scorer: ClassVar[str] = "medrep.derivatives.points:ScorePoints"
    forecaster: ClassVar[str] = "medrep.derivatives.points:ForecastPoints"
    written: ClassVar[tuple[str, ...]] = ("path", "sidecar", "path_right", "sidecar_right")
    better_configs: ClassVar[str] = "linear_latents.yaml or vae_features.yaml"

    def measured(self, source: Source, listener: Listener) -> "tuple[PointsKind, tuple[str, ...]]":
        """Return the kind with the consensus that people are aligned to; see `InputKind.measured`."""
        if self.section.align == "none" or self.section.consensus:
            return self, ()
        people, names, problems = list[Points](), dict[str, tuple[str, ...]](), list[str]()
        with listener.track("align points", len(source.files)) as advance:
            for key, own, error in load_points(source.files, self.section):
                if own is None:
                    problems.append(f"{key}: {error}")
                else:
                    people.append(_anchors(own.points))
                    names[key] = own.names
                advance(1)
        _refuse([*problems, *_unlike(names)])
        consensus = consensus_of(people, self.section.align)
        return self.changed(consensus=tuple(float(number) for number in consensus.ravel())), ()

    def common_columns(self, source: Source, room: Callable[[int, int], np.ndarray], listener: Listener) -> Columns:
        """Return the coordinates of the first person's points; see `InputKind.common_columns`."""
        del room, listener
        for key, own, error in load_points(source.files, self.section):
            if own is None:
                raise CohortError(f"points that cannot be used: {key}: {error}")
            return Columns(own.names, len(own.names), None)
        raise CohortError("there are no points")

    def matrix(
        self, source: Source, room: Room, listener: Listener, *, like: Columns | None = None, workers: int = 0
    ) -> Matrix:
        """Read everybody's aligned coordinates; see `InputKind.matrix`."""
        del workers
        rows, names, problems = None, dict[str, tuple[str, ...]](), list[str]()
        with listener.track("read points", len(source.files)) as advance:
            for place, (key, own, error) in enumerate(self._load(source.files, like)):
                if own is None:
                    problems.append(f"{key}: {error}")
                else:
                    names[key] = own.names
                    if own.names == next(iter(names.values())) and not problems:
                        rows = room(len(source.files), len(own.names)) if rows is None else rows
                        rows[place] = own.row
                advance(1)
        _refuse([*problems, *_unlike(names)])
        if rows is None:
            raise CohortError("there are no points")
        columns = next(iter(names.values()))
        return rows, like or Columns(columns, len(columns), None)

    def adapting(self, source: Source, like: Columns, listener: Listener) -> Blocks:
        """Yield one person's coordinates after another; see `InputKind.adapting`."""
        with listener.track("adapt to unseen sites", len(source.files)) as advance:
            for key, own, _ in self._load(source.files, like):
                if own is not None:
                    yield pd.Index([key]), own.row[None]
                advance(1)

    def row(self, source: Source, key: str, like: Columns) -> Shaped[np.ndarray, " columns"]:
        """Return one person's coordinates; see `InputKind.row`."""
        _, own, error = next(self._load(source.files.loc[[key]], like))
        if own is None:
            raise CohortError(error)
        return own.row

    def errors(self, files: pd.Series) -> Iterator[tuple[str, str]]:
        """Read one person's points after another; see `InputKind.errors`."""
        yield from ((key, error) for key, _, error in load_points(files, self.section))

    def check(self, source: Source, listener: Listener, look: Callable[[str, np.ndarray], None]) -> Checked:
        """Look for files that cannot be used, for people who look mirrored, and at how differently they lie."""
        people, names, problems = dict[str, Points](), dict[str, tuple[str, ...]](), list[str]()
        marks = dict[str, str]()
        with listener.track("read points", len(source.files)) as advance:
            for key, own, error in load_points(source.files, self.section):
                if own is None:
                    problems.append(f"{key}: {error}")
                else:
                    people[key], names[key] = _anchors(own.points), own.names
                    marks[key] = row_fingerprint(own.points.ravel())
                    look(key, own.row)
                advance(1)
        problems += _unlike(names)
        for line in same_data(marks):
            listener.warn(line)
        if not problems and people:
            notes, mirrored = _placement(people, self.section)
            listener.notes(notes)
            if mirrored:
                listener.warn(
                    listed("people whose points look mirrored", mirrored, "swap left and right, or their names")
                )
        good = len(source.files) - len(problems)
        count = len(next(iter(names.values()))) if names else 0
        return Checked(tuple(problems), f"{good} people with {count} coordinates of points" if good else "")

    def pictures(self, files: Sequence[Path]) -> "tuple[list[Float[np.ndarray, 'x y z']], None]":
        """Return no pictures: a report shows the coordinates that change most."""
        del files
        return [], None

    def _load(self, files: pd.Series, like: Columns | None) -> Iterator[tuple[str, PersonPoints | None, str]]:
        return load_points(files, self.section, () if like is None else like.names)


def _placement(people: "dict[str, Points]", wanted: PointsInput) -> tuple[list[str], list[str]]:
    """Return how differently people lie, in words, and who looks mirrored."""
    own = list(people.values())
    consensus = consensus_of(own, "similarity")
    poses = [superimposed(points, consensus, "rigid") for points in own]
    middles = np.stack([pose.middle for pose in poses])
    far = np.linalg.norm(middles - middles.mean(axis=0), axis=1)
    notes = [
        f"people lie up to {far.max():.3g} (median {np.median(far):.3g}) apart and are turned by up to"
        f" {max(pose.degrees for pose in poses):.3g} degrees; input.align: {wanted.align}"
    ]
    flip = np.ones(consensus.shape[1])
    flip[0] = -1
    mirrored = []
    for key, points in people.items():
        here, there = (_apart(one, consensus) for one in (points, points * flip))
        if there < _MIRRORED * here:
            mirrored.append(f"{key}: {here:.3g} from the mean shape as it is, {there:.3g} mirrored")
    return notes, mirrored


def _apart(points: Points, consensus: Points) -> float:
    """Return the root mean square distance of superimposed points from a consensus."""
    away = superimposed(points, consensus, "similarity").apply(points) - consensus
    return float(np.sqrt(np.nanmean((away**2).sum(axis=1))))


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        cure = "mend them, or leave the people out with --exclude"
        raise CohortError(listed("points that cannot be used", list(problems), cure))
