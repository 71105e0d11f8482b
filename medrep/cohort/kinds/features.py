"""Features: a row of features.tsv a person; and what all kinds have in common whose data a cohort holds as a table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.cohort.compositions import as_received, composition_form, constant_sums
from medrep.cohort.covariates import Covariate
from medrep.cohort.features import (
    FeatureTable,
    claimed,
    in_columns,
    match_keys,
    missing_cells,
    only_columns,
    read_features,
)
from medrep.cohort.files import CohortFiles
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.kinds.base import Blocks, Checked, Found, InputKind, Listener, Matrix, Room
from medrep.cohort.samples import Source
from medrep.cohort.table_layout import matching_names
from medrep.cohort.tables import Tables, read_tables
from medrep.errors import CohortError, few, listed

SectionT = TypeVar("SectionT")


@dataclass(frozen=True)
class TableKind(InputKind[SectionT]):
    """A kind whose data a cohort holds as a table, whatever they are read from."""

    tabular: ClassVar[bool] = True
    transform: ClassVar[str] = "medrep.derivatives.transform:transform_rows"
    scorer: ClassVar[str] = "medrep.derivatives.scores:ScoreRows"
    better_configs: ClassVar[str] = "linear_latents.yaml or vae_features.yaml"

    def measured(self, source: Source, listener: Listener) -> "tuple[TableKind[SectionT], tuple[str, ...]]":
        """Return the kind as it is."""
        del source, listener
        return self, ()

    def common_columns(self, source: Source, room: Callable[[int, int], np.ndarray], listener: Listener) -> None:
        """Return nothing; see `InputKind.common_columns`."""
        del source, room, listener

    def matrix(
        self, source: Source, room: Room, listener: Listener, *, like: Columns | None = None, workers: int = 0
    ) -> Matrix:
        """Return the table; see `InputKind.matrix`."""
        del room, listener, workers
        features = source.features if like is None else in_columns(source.features, like.names)
        holes = missing_cells(features)
        if holes and not self.keeps_missing:
            cure = "mend them, leave the people out with --exclude, or pass --set input.missing=keep"
            raise CohortError(listed("features that are missing", holes, cure))
        return features.values, features.columns

    def adapting(self, source: Source, like: Columns, listener: Listener) -> Blocks:
        """Yield everybody at once; see `InputKind.adapting`."""
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
        given = features.as_given
        for key, row in zip(features.ids.index, features.values, strict=True):
            look(str(key), row)
        listener.say(f"{len(features.names)} features")
        constant = [n for n, c in zip(given.names, given.values.T, strict=True) if np.nanmax(c) == np.nanmin(c)]
        if constant:
            listener.notes([f"constant and left as they are: {', '.join(constant)}"])
        holes = missing_cells(features)
        if holes and self.keeps_missing:
            count = int((~np.isfinite(given.values)).sum())
            listener.notes([f"{count} missing cells are left out of the fit and stay missing"])
            return Checked(())
        return Checked(tuple(f"{hole}; mend it, or pass --set input.missing=keep" for hole in holes))

    def pictures(self, files: Sequence[Path]) -> "tuple[list[Float[np.ndarray, 'x y z']], None]":
        """Return no pictures: a report shows features otherwise."""
        del files
        return [], None


@dataclass(frozen=True)
class FeaturesKind(TableKind[FeaturesInput]):
    """A row of features.tsv a person."""

    section: FeaturesInput = field(default_factory=FeaturesInput)

    kind: ClassVar[str] = "features"
    section_type: ClassVar[type[FeaturesInput]] = FeaturesInput
    by_file: ClassVar[bool] = False
    form: ClassVar[str] = "medrep.cohort.compositions:composition_form"

    def tables(
        self, files: CohortFiles, declared: Sequence[Covariate], *, only: Sequence[str], exclude: Sequence[str]
    ) -> Tables:
        """Read features and covariates of table files; see `InputKind.tables`."""
        found = read_tables(files, self.section, declared, only=only, exclude=exclude)
        features, notes = self._received(found.features)
        return replace(found, features=features, notes=(*found.notes, *notes))

    def table(self, root: Path, people: Sequence[str]) -> tuple[FeatureTable, pd.DataFrame]:
        """Read features.tsv; see `InputKind.table`."""
        features = read_features(root / "features.tsv")
        wanted = matching_names(features.names, self.section, str(root / "features.tsv"))
        return claimed(features if wanted == features.names else only_columns(features, wanted), people)

    def find(self, root: Path, table: pd.DataFrame, rows: FeatureTable, *, tolerant: bool) -> Found:
        """Find everybody's row; see `InputKind.find`."""
        del root, tolerant
        features, notes = self._received(match_keys(rows, table.index))
        return Found(Source.of_table(features), notes=(*features.notes, *notes))

    def take(self, root: Path, files: pd.Series, table: pd.DataFrame) -> Found:
        """Refuse files; see `InputKind.take`."""
        del files, table
        raise CohortError(f"{root}: rows of features.tsv are no files")

    def measured(self, source: Source, listener: Listener) -> "tuple[FeaturesKind, tuple[str, ...]]":
        """Return the kind with what stands for zeros of parts, and what they sum to; see `InputKind.measured`."""
        del listener
        features = source.features
        form = composition_form(self.section, features.names)
        if form is None or features.given is None:
            return self, ()
        return replace(self, section=form.measured(features.given).section), ()

    def as_measured(self, source: Source) -> Source:
        """Return log-ratios with the numbers of training in the place of zeros; see `InputKind.as_measured`."""
        if source.features.given is None:
            return source
        return replace(source, features=as_received(source.features, self.section))

    def check(self, source: Source, listener: Listener, look: Callable[[str, np.ndarray], None]) -> Checked:
        """Say which columns look like compositions, too; see `InputKind.check`."""
        given = source.features.as_given
        form = composition_form(self.section, given.names)
        known = frozenset[int]() if form is None else frozenset(form.parts.tolist())
        others = [k for k in range(len(given.names)) if k not in known]
        for names, total in constant_sums([given.names[k] for k in others], given.values[:, others]):
            listener.notes(
                [
                    f"{few(names, 12)} sum to {total:.4g} in everybody: a composition? One by one, removal keeps neither the sum"
                    f" nor the sign; --set 'input.compositions={{parts: [{', '.join(names)}]}}' keeps both"
                ]
            )
        return super().check(source, listener, look)

    def _received(self, features: FeatureTable) -> tuple[FeatureTable, list[str]]:
        """Return a table in the form of a model, and what is to be said of compositions."""
        form = composition_form(self.section, features.names)
        received = as_received(features, self.section)
        return received, [] if form is None else form.unequal_sums(received.as_given.values)
