"""Volumes: a 3-D image a person; and what all kinds have in common whose files are read when it is each person's turn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import ClassVar, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.cohort.bids import IMAGE_ENDINGS, run_notes, runs
from medrep.cohort.features import FeatureTable
from medrep.cohort.grid import Columns
from medrep.cohort.image_quality import STATISTICS, check_intensities, looked_at, mean_level, thinned
from medrep.cohort.inputs import AUTO, BIDS, SAMPLED, ImageInput, VolumeInput
from medrep.cohort.kinds.base import Blocks, Checked, Found, InputKind, Listener, Matrix, Room, find_files
from medrep.cohort.plausibility import same_data
from medrep.cohort.samples import Source, no_table
from medrep.cohort.splits import row_fingerprint
from medrep.errors import CohortError

SectionT = TypeVar("SectionT", bound=ImageInput)


@dataclass(frozen=True)
class FileKind(InputKind[SectionT]):
    """A kind whose data are a file a person, read when it is their turn.

    Attributes:
        endings: How names of such files end.
    """

    tabular: ClassVar[bool] = False
    on_grid: ClassVar[bool] = True
    endings: ClassVar[tuple[str, ...]] = IMAGE_ENDINGS
    better_configs: ClassVar[str] = "vae_volume.yaml"

    def table(self, root: Path, people: Sequence[str]) -> tuple[FeatureTable, None]:
        """Return nothing: everybody has a file; see `InputKind.table`."""
        del root, people
        return no_table(pd.Index([])), None

    def find(self, root: Path, table: pd.DataFrame, rows: FeatureTable, *, tolerant: bool) -> Found:
        """Find everybody's file; see `InputKind.find`."""
        del rows
        files, problems = find_files(root, table, self.section, tolerant=tolerant, endings=self.endings)
        return self._found(files, problems)

    def take(self, root: Path, files: pd.Series, table: pd.DataFrame) -> Found:
        """Return files that are known; see `InputKind.take`."""
        del root, table
        return self._found(files, {})

    def _found(self, files: pd.Series, problems: Mapping[str, str]) -> Found:
        images = [file for path in files if path is not None for file in runs(path)]
        return Found(Source.of_files(files, problems), tuple(images), tuple(run_notes(files, self.section)))


@dataclass(frozen=True)
class VolumeKind(FileKind[VolumeInput]):
    """One 3-D NIfTI image a person, on the grid of all."""

    section: VolumeInput = field(default_factory=VolumeInput)

    kind: ClassVar[str] = "volume"
    section_type: ClassVar[type[VolumeInput]] = VolumeInput
    in_world: ClassVar[bool] = True
    transform: ClassVar[str] = "medrep.derivatives.volumes:TransformVolumes"
    scorer: ClassVar[str] = "medrep.derivatives.volumes:ScoreVolumes"
    forecaster: ClassVar[str] = "medrep.derivatives.volumes:ForecastVolumes"
    units: ClassVar[str] = "medrep.cohort.loaders:log_units"
    written: ClassVar[tuple[str, ...]] = ("path", "sidecar")
    statistics: ClassVar[tuple[str, ...]] = STATISTICS

    def read_first(self, people: int) -> int:
        """Return how many images a mask is told from; see `InputKind.read_first`."""
        return min(people, SAMPLED) if self.section.mask == AUTO else 0

    def measured(self, source: Source, listener: Listener) -> "tuple[VolumeKind, tuple[str, ...]]":
        """Return the kind with the landmarks of intensities that ``zscore`` and ``nyul`` map to; see `InputKind.measured`."""
        if self.section.intensity in {"raw", "p99"} or self.section.landmarks:
            return self, ()
        from medrep.cohort.loaders import mean_landmarks  # torch takes seconds to import

        with listener.track("read intensities", len(source.files)) as advance:
            return self.changed(landmarks=mean_landmarks(self.section, source.files, advance)), ()

    def common_columns(self, source: Source, room: Callable[[int, int], np.ndarray], listener: Listener) -> Columns:
        """Return the grid in which most volumes arrive, and the mask of it; see `InputKind.common_columns`."""
        from medrep.cohort.loaders import common_columns

        return common_columns(source.files, self.section, room, tell=listener.notes)

    def matrix(
        self, source: Source, room: Room, listener: Listener, *, like: Columns | None = None, workers: int = 0
    ) -> Matrix:
        """Read all volumes onto the grid in which most of them arrive, or a model's; see `InputKind.matrix`."""
        from medrep.cohort.loaders import fill_matrix  # torch takes seconds to import

        files = source.files
        with listener.track("read volumes", len(files)) as advance:
            filled = fill_matrix(files, self.section, room, advance, workers, like=like, tell=listener.notes)
        warning = check_intensities(filled.levels)
        if warning:
            listener.warn(warning)
        return filled.rows, filled.columns

    def adapting(self, source: Source, like: Columns, listener: Listener) -> Blocks:
        """Yield one volume after another; see `InputKind.adapting`."""
        from medrep.cohort.loaders import load_volumes

        with listener.track("adapt to unseen sites", len(source.files)) as advance:
            for loaded in load_volumes(source.files, self.section, common=like.grid):
                if loaded.placed is not None:
                    yield pd.Index([loaded.key]), loaded.row(like)[None]
                advance(1)

    def row(self, source: Source, key: str, like: Columns) -> Shaped[np.ndarray, " columns"]:
        """Return one person's voxels; see `InputKind.row`."""
        from medrep.cohort.loaders import load_volumes

        return next(load_volumes(source.files.loc[[key]], self.section, common=like.grid)).row(like)

    def errors(self, files: pd.Series) -> Iterator[tuple[str, str]]:
        """Read one volume after another; see `InputKind.errors`."""
        from medrep.cohort.loaders import load_volumes

        yield from ((one.key, one.error) for one in load_volumes(files, self.section))

    def check(self, source: Source, listener: Listener, look: Callable[[str, np.ndarray], None]) -> Checked:
        """Look for files that cannot be used, units that differ and images that are the same; see `InputKind.check`."""
        from medrep.cohort.loaders import load_volumes
        from medrep.cohort.masks import masked_voxels
        from medrep.cohort.transforms import common_grid, place_notes, read_places, resampled_notes

        problems: list[str] = []
        transformed: list[str] = []
        levels: dict[str, float] = {}
        marks: dict[str, str] = {}
        files, places = source.files, read_places(source.files)
        grid = common_grid(places, self.section)
        looked = {str(files.index[row]) for row in looked_at(files.index)} if self.section.mask and grid else set()
        some: list[np.ndarray] = []
        seconds = 0.0
        with listener.track("read volumes", len(files)) as advance:
            begun = process_time()
            for loaded in load_volumes(files, self.section, common=grid):
                seconds += process_time() - begun
                if loaded.placed is None:
                    problems.append(f"{loaded.key}: {loaded.error}")
                else:
                    levels[loaded.key] = mean_level(loaded.placed.values)
                    marks[loaded.key] = row_fingerprint(loaded.placed.values.ravel())
                    transformed += [loaded.key] if loaded.resampled else []
                    if loaded.key in looked:
                        some.append(thinned(loaded.placed.values if loaded.own is None else loaded.own).copy())
                    look(loaded.key, loaded.placed.values)
                advance(1)
                begun = process_time()
        listener.notes([*place_notes(places), *resampled_notes(transformed)])
        warning = check_intensities(levels)
        for line in [*([warning] if warning else []), *same_data(marks)]:
            listener.warn(line)
        if grid is None:
            return Checked(tuple(problems))
        edges = " x ".join(f"{edge:.3g}" for edge in grid.spacing)
        shape = " x ".join(map(str, grid.shape))
        good = len(files) - len(problems)
        columns = grid.size
        try:
            columns = masked_voxels(self.section.mask, grid, some)
        except CohortError as error:
            problems.append(str(error))
        about = "about " if self.section.mask in {AUTO, BIDS} else ""
        inside = f", {about}{columns} of {grid.size} inside the mask" if self.section.mask else ""
        said = f"{good} images on a grid of {shape} voxels of {edges} mm{inside}"
        return Checked(tuple(problems), said, grid.size, columns, seconds / max(len(files), 1))

    def pictures(self, files: Sequence[Path]) -> "tuple[list[Float[np.ndarray, 'x y z']], tuple[float, float] | None]":
        """Return images on their common grid, in their own units, and the percentiles 1 and 99.7 of all voxels."""
        from medrep.cohort.nifti import read_image
        from medrep.cohort.transforms import VolumePipeline

        pipeline = VolumePipeline(self.section)
        placed = [pipeline.place(read_image(path)) for path in files]
        images = [one.intensities for one in placed]
        everything = np.concatenate([np.ravel(image) for image in images])
        low, high = (float(value) for value in np.percentile(np.nan_to_num(everything), (1, 99.7)))
        return images, (low, high)
