"""People as models are fitted to them and audits look at them: values, covariates, and what both are, held together.

The way AnnData holds X, obs and var: a row is a person, or one visit of a person; values and covariates have the same rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from medrep.cohort.cohort import Cohort
from medrep.cohort.columns import cell_text, read_covariates
from medrep.cohort.covariates import Covariate, CovariateSchema, declared_covariates
from medrep.cohort.features import FeatureTable
from medrep.cohort.grid import Columns, Grid
from medrep.cohort.grouping import independent_units, tied_rows
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.features import FeaturesKind
from medrep.cohort.participants import KEY_COLUMNS
from medrep.cohort.samples import Source
from medrep.errors import CohortError, CovariateError, listed

Rows: TypeAlias = slice | Int[np.ndarray, " some"] | Bool[np.ndarray, " rows"]
"""Positions of rows, or a mark on each."""

Declared: TypeAlias = CovariateSchema | Mapping[str, Any] | Sequence[Covariate]
"""A schema that was fitted, or what is declared in YAML or as `Covariate`."""


IN_MEMORY = Path("in memory")
"""The root of people who come from no folder."""
GROUPS = "groups"
"""Column of their table that says whom each belongs with."""


@dataclass(frozen=True, eq=False)
class Origin:
    """Where people come from.

    Attributes:
        cohort: They, and perhaps others, as they were read.
        read_as: The kind of input, with what reading measured, that the values are of.
        config: What they were read for, a `medrep.config.Config`; None where nobody said.
    """

    cohort: Cohort
    read_as: InputKind[Any]
    config: Any = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of people, and what is known of them.

    Nothing is looked at as an instance is made: models make one for each few people they move. `from_frames` checks.

    Attributes:
        values: Rows x columns, in memory or memory-mapped, never copied as a whole. NaN where a cell is missing.
        covariates: Index: key; exactly the schema's columns (`CovariateSchema.transfer`), or none where nobody looks at them.
        schema: The covariates, as fitted on people of training.
        columns: What the columns of values are.
        participants: Whose each row is; None: each row is a person.
        sessions: Which visit each row is; None where there are none.
        groups: Group of each row (`tied_rows`), of people or of scans of one person; None: people are strangers.
        origin: Where the people come from; None where nobody says, as of people who were moved.
    """

    values: Float[np.ndarray, "rows columns"]
    covariates: pd.DataFrame
    schema: CovariateSchema
    columns: Columns
    participants: Sequence[str] | None = None
    sessions: Sequence[str] | None = None
    origin: Origin | None = None
    groups: Sequence[str] | None = None

    @classmethod
    def from_frames(
        cls,
        features: pd.DataFrame,
        covariates: pd.DataFrame,
        declared: Declared,
        *,
        grid: Grid | None = None,
        participants: Sequence[str] | None = None,
        sessions: Sequence[str] | None = None,
        groups: Sequence[str | None] | None = None,
    ) -> "Dataset":
        """Check two tables and hold them together.

        Args:
            features: One row a person, a column a feature; the index names people.
            covariates: The same people, in any order; columns that are not declared are ignored.
            declared: The schema of a model, or for training what the covariates are: ``{"age": "continuous", "site": "batch"}``.
            grid: Where the columns lie in space, if they do.
            participants: Whose each row of ``features`` is; by default each row is a person.
            sessions: Which visit each row is.
            groups: Group of each row, such as the family; ``n/a`` or None for people without relatives here.

        Returns:
            The people in the order of ``features``, without those whom a covariate's policy ``drop`` leaves out.

        Raises:
            CohortError: Rows that do not belong together, or cells that are no numbers: all of them.
            CovariateError: Covariates that cannot be declared, read or told apart.
        """
        whose = {"participants": participants, "sessions": sessions, "groups": groups}
        strange = [
            f"{name} has {len(given)} entries"
            for name, given in whose.items()
            if given is not None and len(given) != len(features)
        ]
        if strange:
            raise CohortError(listed(f"names of rows that are not one for each of {len(features)}", strange))
        keys = pd.Index([str(key) for key in features.index], name="key")
        values = _matrix(features, keys)
        table = _aligned(covariates, keys)
        if isinstance(declared, CovariateSchema):
            schema, read = declared, read_covariates(table, declared.declared)
        else:
            read = read_covariates(table, _declarations(declared))
            schema = CovariateSchema.fit(read.frame, read.declared)
        names = tuple(str(name) for name in features.columns)
        columns = Columns(names, len(names), grid)
        whole = cls(values, table, schema, columns, participants, sessions)
        if groups is not None:
            whole = replace(whole, groups=row_groups(whole.whose.tolist(), groups, keys))
        origin = Origin(whole.as_cohort(), FeaturesKind())
        return replace(whole.select(read.frame.index), covariates=schema.transfer(read.frame), origin=origin)

    def __len__(self) -> int:
        return len(self.covariates)

    @property
    def keys(self) -> pd.Index:
        """Name of each row, ``sub-01`` or ``sub-01_ses-2``."""
        return self.covariates.index

    @property
    def whose(self) -> Shaped[np.ndarray, " rows"]:
        """Participant of each row, text; its key where each row is a person."""
        return np.array([str(who) for who in (self.keys if self.participants is None else self.participants)], object)

    @property
    def units(self) -> Shaped[np.ndarray, " rows"]:
        """Unit that each row is drawn, split, folded and exchanged with, text: its group of people, or else its participant."""
        return (
            self.whose if self.groups is None else np.array(independent_units(self.groups, self.whose.tolist()), object)
        )

    @property
    def people(self) -> int:
        """Number of participants."""
        return len(self) if self.participants is None else len(set(self.participants))

    def take(self, rows: Rows) -> "Dataset":
        """Return some rows by their positions, in that order; views of values where positions are a slice."""
        return replace(
            self,
            values=self.values[rows],
            covariates=self.covariates.iloc[rows],
            participants=_taken(self.participants, rows),
            sessions=_taken(self.sessions, rows),
            groups=_taken(self.groups, rows),
        )

    def select(self, keys: Sequence[str] | pd.Index) -> "Dataset":
        """Return the rows of some keys, in that order.

        Raises:
            CohortError: Keys of nobody; all are listed.
        """
        wanted = pd.Index(keys)
        if wanted.equals(self.keys):
            return self
        rows = self.keys.get_indexer(wanted)
        if (rows < 0).any():
            raise CohortError(listed("people who are not in the data", [str(key) for key in wanted[rows < 0]]))
        return self.take(rows)

    def chunks(self, size: int) -> Iterator["Dataset"]:
        """Yield the rows a few at a time, in their order."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def with_values(self, values: Float[np.ndarray, "rows _"]) -> "Dataset":
        """Return the same people with other data; where each had a file of their own, these come from none."""
        known = self.origin is not None and self.origin.cohort.input.tabular
        return replace(self, values=values, origin=self.origin if known else None)

    def with_covariates(self, covariates: pd.DataFrame) -> "Dataset":
        """Return the same data as if the people had these covariates."""
        return replace(self, covariates=covariates, origin=None)

    @property
    def table(self) -> pd.DataFrame:
        """Text cells, one row a row: participant_id, session_id where there are any, and covariates as they were given."""
        return self._table() if self.origin is None else self.origin.cohort.table.loc[self.keys]

    def as_cohort(self) -> Cohort:
        """Return the people as they were read, a table with the values that are here.

        Raises:
            CohortError: Images that come from no file.
        """
        if self.origin is not None:
            cohort = self.origin.cohort.select(self.keys)
            if not cohort.input.tabular:
                return cohort
            features, values = cohort.source.features, np.asarray(self.values)
            given = features.given  # of what was changed since, nobody knows the parts
            if given is not None and not np.array_equal(values, features.values, equal_nan=True):
                given = None
            features = replace(features, values=values, names=self.columns.names, given=given)
            return replace(cohort, source=Source.of_table(features))
        if not self.columns.names:
            raise CohortError("these images come from no file: write them with export, and read what is written")
        table, values = self._table(), np.asarray(self.values)
        missing: Literal["error", "keep"] = "keep" if np.isnan(values).any() else "error"
        ids = table[[column for column in KEY_COLUMNS if column in table]]
        source = Source.of_table(FeatureTable(ids, values, self.columns.names, self.columns.grid))
        section = FeaturesInput(missing, group="" if self.groups is None else GROUPS)
        return Cohort(IN_MEMORY, table, {}, source, (), FeaturesKind(section))

    def _table(self) -> pd.DataFrame:
        ids = {"participant_id": self.whose} | ({} if self.sessions is None else {"session_id": list(self.sessions)})
        ids |= {} if self.groups is None else {GROUPS: list(self.groups)}
        text = {
            column: [cell_text(cell) for cell in self.covariates[column]]
            for column in self.covariates
            if column not in ids
        }
        return pd.DataFrame(ids | text, index=self.keys, dtype=str)

    def transformed(self, target: Mapping[str, str | float]) -> "Dataset":
        """Return the same data as if everybody had the covariates in ``target``."""
        return self.with_covariates(self.schema.transformed(self.covariates, target))


def _taken(names: Sequence[str] | None, rows: Rows) -> tuple[str, ...] | None:
    return None if names is None else tuple(np.array(names, object)[rows].tolist())


def row_groups(whose: Sequence[str], groups: Sequence[str | None], keys: pd.Index) -> tuple[str, ...]:
    """Return the group of each row (`tied_rows`).

    Args:
        whose: Person of each row.
        groups: Group of each; None or a missing word for people without relatives here.
        keys: Names of rows, for messages.

    Raises:
        CohortError: People in several groups; all of them.
    """
    cells = [cell_text(cell) for cell in groups]
    return tied_rows(pd.DataFrame({"participant_id": list(whose), GROUPS: cells}, index=keys), GROUPS)


def _declarations(declared: Mapping[str, Any] | Sequence[Covariate]) -> Sequence[Covariate]:
    if not isinstance(declared, Mapping):
        return declared
    problems: list[str] = []
    found = declared_covariates(declared, problems)
    if problems or not found:
        raise CovariateError(listed("covariates that cannot be declared so", problems or ["none is declared"]))
    return found


def _matrix(features: pd.DataFrame, keys: pd.Index) -> Float[np.ndarray, "rows columns"]:
    """Return features as a matrix, float32 if all are, else float64."""
    twice = sorted(set(keys[keys.duplicated()]))
    if twice:
        raise CohortError(listed("people who are there twice", twice, "give each row a name of its own"))
    single = bool(len(features.columns)) and all(dtype == np.float32 for dtype in features.dtypes)
    cells = features.apply(pd.to_numeric, errors="coerce")
    values = cells.to_numpy(np.float32 if single else np.float64)
    bad = np.isinf(values) | (np.isnan(values) & features.notna().to_numpy())
    offenders = [
        f"{keys[row]}: {features.columns[k]} is {cell_text(features.iat[row, k])!r}" for row, k in np.argwhere(bad)
    ]
    if offenders:
        raise CohortError(
            listed("features that are no numbers", offenders, "give numbers, or NaN where one is missing")
        )
    return values


def _aligned(covariates: pd.DataFrame, keys: pd.Index) -> pd.DataFrame:
    """Return the covariates of the people of ``keys`` as text, in that order."""
    own = pd.Index([str(key) for key in covariates.index], name="key")
    offenders = [f"{key}: two rows of covariates" for key in sorted(set(own[own.duplicated()]))]
    offenders += [f"{key}: no covariates" for key in keys.difference(own, sort=False)]
    offenders += [f"{key}: no features" for key in own.unique().difference(keys, sort=False)]
    if offenders:
        cure = "give both tables the same people as their index"
        raise CohortError(listed("rows of features and covariates that do not belong together", offenders, cure))
    text = {str(name): [cell_text(cell) for cell in column] for name, column in covariates.items()}
    return pd.DataFrame(text, index=own, dtype=str).loc[keys]
