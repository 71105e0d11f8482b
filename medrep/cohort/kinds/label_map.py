"""Label maps: an organ a person, as the signed distance from its surface on a grid where all organs lie alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.cohort.grid import Columns
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.kinds.base import Blocks, Checked, Listener, Matrix, Room
from medrep.cohort.kinds.volume import FileKind
from medrep.cohort.samples import Source


@dataclass(frozen=True)
class LabelMapKind(FileKind[ShapeInput]):
    """One NIfTI label map a person; what is looked at is the organ in it."""

    section: ShapeInput = field(default_factory=ShapeInput)

    kind: ClassVar[str] = "shape"
    section_type: ClassVar[type[ShapeInput]] = ShapeInput
    has_surface: ClassVar[bool] = True
    transform: ClassVar[str] = "medrep.derivatives.shapes:TransformShapes"
    scorer: ClassVar[str] = "medrep.derivatives.shapes:ScoreShapes"
    forecaster: ClassVar[str] = "medrep.derivatives.shapes:ForecastShapes"
    frames: ClassVar[str] = "medrep.cohort.shapes:grid_frames"
    written: ClassVar[tuple[str, ...]] = ("path", "mesh", "sidecar")
    packages: ClassVar[tuple[str, ...]] = ("libigl", "scikit-image", "trimesh")

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `InputKind.outputs`; of several structures each has a mesh."""
        meshes = tuple(f"mesh_{name}" for name in self.section.structures)
        return ("path", *meshes, "sidecar") if meshes else self.written

    def measured(self, source: Source, listener: Listener) -> "tuple[LabelMapKind, tuple[str, ...]]":
        """Return the kind with the grid of all organs, its centre and the organs' size; see `InputKind.measured`."""
        from medrep.cohort.shapes import measure_shapes, refuse_unusable

        with listener.track("measure organs", len(source.files)) as advance:
            found = measure_shapes(source.files, self.section, advance)
        listener.notes(found.notes)
        refuse_unusable(found.problems)
        return replace(self, section=found.measured or self.section), found.notes

    def common_columns(self, source: Source, room: Callable[[int, int], np.ndarray], listener: Listener) -> Columns:
        """Return the points of the section's grid; see `InputKind.common_columns`."""
        from medrep.cohort.shapes import shape_columns

        del source, room, listener
        return shape_columns(self.section)

    def matrix(
        self, source: Source, room: Room, listener: Listener, *, like: Columns | None = None, workers: int = 0
    ) -> Matrix:
        """Measure everybody's distances on the grid of the section; see `InputKind.matrix`."""
        from medrep.cohort.shapes import fill_shapes, shape_columns

        del like, workers
        with listener.track("measure distances", len(source.files)) as advance:
            return fill_shapes(source.files, self.section, room, advance), shape_columns(self.section)

    def adapting(self, source: Source, like: Columns, listener: Listener) -> Blocks:
        """Yield one organ after another; see `InputKind.adapting`."""
        from medrep.cohort.shapes import load_shapes

        del like
        with listener.track("adapt to unseen sites", len(source.files)) as advance:
            for loaded in load_shapes(source.files, self.section):
                if loaded.placed is not None:
                    yield pd.Index([loaded.key]), loaded.placed.row[None]
                advance(1)

    def row(self, source: Source, key: str, like: Columns) -> Shaped[np.ndarray, " columns"]:
        """Return one person's distances; see `InputKind.row`."""
        from medrep.cohort.grid import grid_lattice
        from medrep.cohort.shapes import place_shape, shape_grid

        del like
        points = grid_lattice(shape_grid(self.section)).nodes()
        return np.asarray(place_shape(Path(str(source.files[key])), self.section, points).row, float)

    def errors(self, files: pd.Series) -> Iterator[tuple[str, str]]:
        """Read one organ after another; see `InputKind.errors`."""
        from medrep.cohort.shapes import load_shapes

        yield from ((one.key, one.error) for one in load_shapes(files, self.section))

    def check(self, source: Source, listener: Listener, look: Callable[[str, np.ndarray], None]) -> Checked:
        """Look for label maps that cannot be used, and say on which grid organs would lie; see `InputKind.check`."""
        from medrep.cohort.shapes import measure_shapes

        del look  # distances take seconds a person
        with listener.track("measure organs", len(source.files)) as advance:
            found = measure_shapes(source.files, self.section, advance)
        listener.notes(found.notes)
        if found.measured is None:
            return Checked(found.problems)
        edges, shape = found.measured.spacing, found.measured.shape
        organs = f"{len(source.files) - len(found.problems)} organs of {found.measured.size:.1f} mm"
        if self.section.structures:
            organs = " and ".join(f"{people} {name} of {size:.1f} mm" for name, (people, size) in found.having.items())
        return Checked(
            found.problems,
            f"{organs} (root mean square distance of"
            f" the surface from its centre), to be looked at on {' x '.join(map(str, shape))} points {edges[0]:.3g} mm apart",
        )

    def pictures(self, files: Sequence[Path]) -> "tuple[list[Float[np.ndarray, 'x y z']], None]":
        """Return 1 inside the organ and 0 elsewhere, in the label maps' own grids."""
        from medrep.cohort.nifti import read_labels

        found = []
        for path in files:
            data = read_labels(path).data
            regions = [number for numbers in self.section.regions.values() for number in numbers]
            chosen = np.isin(data, regions) if regions else data > 0
            found.append(chosen.astype(np.float32))
        return found, None
