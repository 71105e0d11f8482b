"""Connectivity: a 4-D image a person, whose edges between the regions of an atlas are measured as the cohort is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from medrep.cohort.features import FeatureTable
from medrep.cohort.inputs import ConnectivityInput
from medrep.cohort.kinds.base import Found, Source, find_files, no_table
from medrep.cohort.kinds.features import TableKind
from medrep.cohort.participants import KEY_COLUMNS


@dataclass(frozen=True)
class ConnectivityKind(TableKind[ConnectivityInput]):
    """A 4-D image a person; the columns are the edges between the regions of an atlas."""

    section: ConnectivityInput = field(default_factory=ConnectivityInput)

    kind: ClassVar[str] = "connectivity"
    section_type: ClassVar[type[ConnectivityInput]] = ConnectivityInput

    def table(self, root: Path, people: Sequence[str]) -> tuple[FeatureTable, None]:
        """Return nothing: everybody has a file; see `InputKind.table`."""
        del root, people
        return no_table(pd.Index([])), None

    def find(self, root: Path, table: pd.DataFrame, rows: FeatureTable, *, tolerant: bool) -> Found:
        """Find and measure everybody's image; nobody is spared, since a table has a row for each; see `InputKind.find`."""
        del rows, tolerant
        return self.take(root, find_files(root, table, self.section, tolerant=False)[0], table)

    def take(self, root: Path, files: pd.Series, table: pd.DataFrame) -> Found:
        """Measure the edges of everybody; see `read_connectivity`."""
        from medrep.cohort.connectivity import read_connectivity  # nilearn takes seconds to import

        ids = table[[column for column in KEY_COLUMNS if column in table]]
        features, section, notes = read_connectivity(root, files, ids, self.section)
        return Found(Source.of_table(features), tuple(files), tuple(notes), replace(self, section=section))
