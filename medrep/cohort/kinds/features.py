"""Features: a row of features.tsv a person; and what all kinds have in common whose data a cohort holds as a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.features import FeatureTable, claimed, in_columns, match_keys, missing_cells, read_features
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.kinds.base import Checked, Found, InputKind, Listener, Source
from medrep.cohort.slips import feature_slips
from medrep.errors import CohortError, listed

SectionT = TypeVar("SectionT")


@dataclass(frozen=True)
class TableKind(InputKind[SectionT]):
    """A kind whose data a cohort holds as a table, whatever they are read from."""

    tabular: ClassVar[bool] = True
    on_grid: ClassVar[bool] = False
    has_surface: ClassVar[bool] = False
    mover: ClassVar[str] = "medrep.export.features:move_rows"
    scorer: ClassVar[str] = "medrep.export.scoring:ScoreRows"
    written: ClassVar[tuple[str, ...]] = ()
    statistics: ClassVar[tuple[str, ...]] = ()
    better_configs: ClassVar[str] = "linear_latents.yaml or vae_features.yaml"
    packages: ClassVar[tuple[str, ...]] = ()

    @property
    def centre(self) -> tuple[float, ...]:
        """None: rows are not aligned."""
        return ()

    def measured(self, source: Source, listener: Listener) -> "tuple[TableKind[SectionT], tuple[str, ...]]":
        """Return the kind as it is."""
        del source, listener
        return self, ()

    def matrix(
        self,
        source: Source,
        room: Callable[[int, int], np.ndarray],
        listener: Listener,
        *,
        like: Columns | None = None,
        workers: int = 0,
    ) -> tuple[Shaped[np.ndarray, "people columns"], Columns]:
        """Return the table; see `InputKind.matrix`."""
        del room, listener, workers
        features = source.features if like is None else in_columns(source.features, like.names)
        self._refuse_holes(features, "mend them, leave the people out with --exclude, or pass --set input.missing=keep")
        return features.values, Columns(features.names, len(features.names), features.grid)

    def load(
        self, source: Source, like: Columns, listener: Listener
    ) -> Iterator[tuple[pd.Index, Shaped[np.ndarray, "people columns"]]]:
        """Yield everybody at once; see `InputKind.load`."""
        del listener
        features = in_columns(source.features, like.names)
        yield features.ids.index, features.values

    def row(self, source: Source, key: str, like: Columns) -> Shaped[np.ndarray, " columns"]:
        """Return one row; see `InputKind.row`."""
        return in_columns(source.features, like.names).rows(pd.Index([key])).values[0]

    def errors(self, files: pd.Series) -> Iterator[tuple[str, str]]:
        """Yield nothing wrong: rows are in memory."""
        yield from ((str(key), "") for key in files.index)

    def check(self, source: Source, listener: Listener, look: Callable[[str, np.ndarray], None]) -> Checked:
        """Look for constant columns and missing cells; see `InputKind.check`."""
        features = source.features
        for key, row in zip(features.ids.index, features.values, strict=True):
            look(str(key), row)
        listener.say(f"{len(features.names)} features")
        constant = [n for n, c in zip(features.names, features.values.T, strict=True) if np.nanmax(c) == np.nanmin(c)]
        if constant:
            listener.notes([f"constant and left as they are: {', '.join(constant)}"])
        holes = missing_cells(features)
        if holes and self.keeps_missing:
            count = int((~np.isfinite(features.values)).sum())
            listener.notes([f"{count} missing cells are left out of the fit and stay missing"])
            return Checked(())
        return Checked(tuple(f"{hole}; mend it, or pass --set input.missing=keep" for hole in holes))

    def slips(self, source: Source, frame: pd.DataFrame, schema: CovariateSchema) -> list[str]:
        """Return what looks like a slip in the table; see `feature_slips`."""
        return feature_slips(source.features, frame, schema)

    def repeats(self, marks: Mapping[str, str]) -> list[str]:
        """Return nothing: `feature_slips` compares rows, of columns that differ between people."""
        del marks
        return []

    def refuse_holes(self, source: Source, cure: str) -> None:
        """Refuse missing cells, unless ``missing`` is ``keep``; see `InputKind.refuse_holes`."""
        self._refuse_holes(source.features, cure)

    def _refuse_holes(self, features: FeatureTable, cure: str) -> None:
        holes = missing_cells(features)
        if holes and not self.keeps_missing:
            raise CohortError(listed("features that are missing", holes, cure))

    def grid_notes(self, grid: Grid | None) -> list[str]:
        """Return nothing: columns that lie on a grid are taken as they are."""
        del grid
        return []

    def picture(self, path: Path) -> Float[np.ndarray, "x y z"]:
        """Refuse: a report shows features otherwise.

        Raises:
            CohortError: Always.
        """
        raise CohortError(f"{path}: {self.kind} data have no pictures")

    def window(self, pictures: Sequence[Float[np.ndarray, "x y z"]]) -> tuple[float, float] | None:
        """Return nothing: there are no pictures."""
        del pictures
        return None


@dataclass(frozen=True)
class FeaturesKind(TableKind[FeaturesInput]):
    """A row of features.tsv a person."""

    section: FeaturesInput = field(default_factory=FeaturesInput)

    kind: ClassVar[str] = "features"
    section_type: ClassVar[type[FeaturesInput]] = FeaturesInput
    by_file: ClassVar[bool] = False

    @property
    def keeps_missing(self) -> bool:
        """Whether ``missing`` is ``keep``."""
        return self.section.missing == "keep"

    @property
    def suffix(self) -> str:
        """None: rows are no files."""
        return ""

    def table(self, root: Path, people: Sequence[str]) -> tuple[FeatureTable, pd.DataFrame]:
        """Read features.tsv; see `InputKind.table`."""
        return claimed(read_features(root / "features.tsv"), people)

    def find(self, root: Path, table: pd.DataFrame, rows: FeatureTable, *, tolerant: bool) -> Found:
        """Find everybody's row; see `InputKind.find`."""
        del root, tolerant
        features = match_keys(rows, table.index)
        return Found(Source.of_table(features), notes=features.notes)

    def take(self, root: Path, files: pd.Series, table: pd.DataFrame) -> Found:
        """Refuse files; see `InputKind.take`."""
        del files, table
        raise CohortError(f"{root}: rows of features.tsv are no files")
