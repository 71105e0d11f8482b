"""Data of an audit: unseen participants as they are, as exported, and their profiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from medrep.audit.probe_figures import FOLDS, Probed, age_r2, sex_auc, site_auc
from medrep.cohort.covariates import Categorical, Continuous, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import CohortError, listed
from medrep.models import Adaptation, Model


def refuse_gaps(tables: Mapping[str, Float[np.ndarray, "people _"]], people: int) -> None:
    """Refuse tables with missing cells or of other people.

    Args:
        tables: Name -> table.
        people: How many rows there have to be.

    Raises:
        CohortError: All of them, with how many columns are affected.
    """
    offenders = []
    for name, data in tables.items():
        if len(data) != people:
            offenders.append(f"{name}: {len(data)} rows for {people} people")
        elif gaps := int((~np.isfinite(data)).any(axis=0).sum()):
            offenders.append(f"{name}: {gaps} of {data.shape[1]} columns have missing cells")
    if offenders:
        raise CohortError(listed("tables that cannot be audited", offenders, "audit whole columns of the same people"))


MOST_COLUMNS = 20_000
"""Of a wider table (volumes) this many columns are drawn: neighbouring voxels say the same."""


def drawn_columns(table: Float[np.ndarray, "people columns"], seed: int) -> Float[np.ndarray, "people _"]:
    """Return the table, or `MOST_COLUMNS` of its columns; tables of one width get the same ones. Float64."""
    if table.shape[1] <= MOST_COLUMNS:
        return np.asarray(table, dtype=float)
    chosen = np.sort(np.random.default_rng(seed).choice(table.shape[1], MOST_COLUMNS, replace=False))
    return np.asarray(table[:, chosen], dtype=float)


def standardised(table: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people varying"]:
    """Return columns in deviations from their mean, without constant ones; a cell that is not finite counts as the mean."""
    known = np.isfinite(table)
    counts = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, table, 0.0)
    size = np.abs(centred).max(axis=0, initial=0.0)
    centred -= centred.sum(axis=0) / counts
    centred[~known] = 0.0
    sd = np.sqrt((centred**2).sum(axis=0) / counts)
    varies = sd > 1e-9 * np.maximum(size, 1e-300)
    return centred[:, varies] / sd[varies]


def compact(table: Float[np.ndarray, "people columns"], seed: int) -> Float[np.ndarray, "people _"]:
    """Return coordinates with the inner products of the standardised rows, whose mean squared length is 1.

    At most as many coordinates as people. Methods that know rows by inner products alone (ridge, a penalised logistic
    regression, any RBF kernel) lose nothing by it.
    """
    rows = standardised(drawn_columns(table, seed))
    rows = rows / max(rows.shape[1], 1) ** 0.5
    if rows.shape[1] <= len(rows):
        return rows
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def covariate_design(frame: pd.DataFrame, schema: CovariateSchema) -> Float[np.ndarray, "people width"]:
    """Return the columns of a regression on covariates: 1, each number and its square (in deviations), each level."""
    columns = [np.ones(len(frame))]
    for covariate in schema.fitted:
        values = frame[covariate.declared.name]
        if isinstance(covariate, Continuous):
            scaled = (values.to_numpy(float) - covariate.mean) / covariate.sd
            columns += [scaled, scaled**2]
        else:
            labels = values.astype(str).to_numpy(object)
            columns += [(labels == level).astype(float) for level in np.unique(labels)]
    return np.stack(columns, axis=1)


def residual(
    table: Float[np.ndarray, "people columns"], design: Float[np.ndarray, "people width"]
) -> Float[np.ndarray, "people columns"]:
    """Return what a regression on the design leaves; aliased columns of the design do no harm."""
    basis = design_basis(design)
    return table - basis @ (basis.T @ table)


def design_basis(design: Float[np.ndarray, "people width"]) -> Float[np.ndarray, "people rank"]:
    """Return orthonormal columns that span the design."""
    basis, sizes, _ = np.linalg.svd(design, full_matrices=False)
    return basis[:, sizes > 1e-9 * sizes.max(initial=0.0)]


@dataclass(frozen=True, eq=False)
class Question:
    """One covariate that tables of people are asked for.

    Attributes:
        name: How it is called in groups, ``exported/site``.
        values: Of each row; rows without a value are left out.
        continuous: Whether it is a number, or has levels.
        participants: Whose each row is.
        kept: Scaled kept covariates; without columns nothing is kept.
    """

    name: str
    values: pd.Series
    continuous: bool
    participants: Shaped[np.ndarray, " people"]
    kept: Float[np.ndarray, "people width"]


@dataclass(frozen=True, eq=False)
class AuditData:
    """The audited people.

    Attributes:
        model: Of whom it is told.
        dataset: The people as they are, with covariates in the model's schema.
        table: Everything that participants.tsv says of them; same index.
        target: Removed covariate -> where it is moved to.
        trained: How many people the model learned from; 0 where that is not known.
        adapted: Levels that training did not have, as people who are not audited told them.
    """

    model: Model
    dataset: Dataset
    table: pd.DataFrame
    target: Mapping[str, str | float]
    trained: int = 0
    adapted: tuple[Adaptation, ...] = ()

    @property
    def schema(self) -> CovariateSchema:
        """The model's covariates."""
        return self.model.schema

    @property
    def removed(self) -> tuple[str, ...]:
        """Covariates that are removed from what is handed out."""
        return tuple(self.target)

    @property
    def kept(self) -> tuple[str, ...]:
        """Covariates that stay."""
        return tuple(name for name in self.schema.names if name not in self.target)

    @property
    def data(self) -> Float[np.ndarray, "people columns"]:
        """People x columns, as they are."""
        return self.dataset.values

    @property
    def frame(self) -> pd.DataFrame:
        """Their covariates; index: key."""
        return self.dataset.covariates

    @cached_property
    def participants(self) -> Shaped[np.ndarray, " people"]:
        """Participant that each row is resampled and exchanged with, or the group of relatives where one is told."""
        return self.dataset.units

    @cached_property
    def exported(self) -> Float[np.ndarray, "people columns"]:
        """The data as they would be handed out."""
        return self.export(self.frame)

    def export(self, frame: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        """Return the data as they would be handed out if people had these covariates."""
        return self.model.remove(self.dataset.with_covariates(frame), self.target)

    @cached_property
    def latents(self) -> Float[np.ndarray, "people latents"]:
        """Latents of all participants, with all covariates removed."""
        return self.model.encode(self.dataset)

    @cached_property
    def tables(self) -> dict[str, Float[np.ndarray, "people _"]]:
        """Audited tables by name, whole columns only.

        They are ``raw``, ``exported`` and, where the model has them, ``latents`` and, with a role of their own, ``salient``.
        """
        whole = np.isfinite(self.data).all(axis=0)
        tables = {"raw": self.data[:, whole], "exported": self.exported[:, whole]}
        common = self.latents.shape[1] - len(self.model.latent_roles)
        tables |= {"latents": self.latents[:, :common]} if common else {}
        return tables | ({"salient": self.latents[:, common:]} if self.model.latent_roles else {})

    @cached_property
    def whole(self) -> Int[np.ndarray, " columns"]:
        """Columns without missing cells: those of ``raw`` and ``exported``."""
        return np.flatnonzero(np.isfinite(self.data).all(axis=0))

    def column_labels(self, places: Int[np.ndarray, " some"]) -> list[str]:
        """Return names of some columns of ``raw`` and ``exported``, numbers where columns have none."""
        names = self.model.columns.names
        return [names[k] if names else f"column {k}" for k in self.whole[places]]

    def people_of_training(self, name: str) -> dict[str, float]:
        """Return how many people told the model of each level of a covariate, or of any number ("").

        The schema counts scans: people are shared out as these are. Nothing where it is not known how many there were.
        """
        fitted = self.schema[name]
        if not self.trained or not isinstance(fitted, Categorical):
            return {"": float(self.trained)} if self.trained else {}
        scans = sum(fitted.counts)
        known = {level: count * self.trained / scans for level, count in zip(fitted.levels, fitted.counts, strict=True)}
        return known | {one.level: float(one.people) for one in self.adapted if one.covariate == name}

    def question(self, name: str, kept: tuple[str, ...] = ()) -> Question:
        """Return a covariate as what tables are asked for, over what some kept ones tell of it."""
        values, continuous = self.frame[name], self.continuous(name)
        return Question(name, values, continuous, self.participants, self.scaled(kept))

    def scaled(self, names: tuple[str, ...]) -> Float[np.ndarray, "people width"]:
        """Return covariates as a matrix: standardised numbers, and a column a level."""
        return CovariateSchema(tuple(self.schema[name] for name in names)).vector(self.frame)

    def continuous(self, name: str) -> bool:
        """Return whether a covariate is a number."""
        return not isinstance(self.schema[name], Categorical)


LATENTS = ("latents", "salient")
_FEWEST = 30


def probe_export(
    schema: CovariateSchema,
    frame: pd.DataFrame,
    tables: Mapping[str, np.ndarray],
    removed: Sequence[str],
    *,
    participants: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure every covariate in every table.

    Args:
        schema: The covariates.
        frame: The people's covariates, as they are.
        tables: Name -> people x columns; columns with missing cells are left out.
        removed: Which covariates were removed.
        participants: Whose each row is, the first of which is probed; by default each is a person.

    Returns:
        Columns table, covariate, role, measure, n, estimate (NaN: too few people or one value), floor (0.5 for an AUC, 0
        for R2).
    """
    first = np.ones(len(frame), dtype=bool)
    if participants is not None:
        first = ~pd.Series(list(participants)).duplicated().to_numpy()
    frame, rows = frame[first], []
    for name, whole_table in tables.items():
        data = whole_table[first]
        whole = data[:, np.isfinite(data).all(axis=0)]
        for covariate in schema.fitted:
            own = covariate.declared.name
            continuous = isinstance(covariate, Continuous)
            found = _probe(whole, frame[own], 0, continuous=continuous)
            n, estimate = (len(frame), np.nan) if found is None else (found.n, found.strongest)
            role = "removed" if own in removed else "kept"
            rows.append((name, own, role, "R2" if continuous else "AUC", n, estimate, 0.0 if continuous else 0.5))
    return pd.DataFrame(rows, columns=["table", "covariate", "role", "measure", "n", "estimate", "floor"])


def _probe(data: np.ndarray, values: pd.Series, seed: int, *, continuous: bool) -> Probed | None:
    if len(values) < _FEWEST or values.nunique() < 2:
        return None
    if continuous:
        return age_r2(data, values.to_numpy(float), seed)
    counts = values.value_counts()
    if (counts >= FOLDS).sum() < 2:
        return None
    labels = values.astype(str).to_numpy()
    return sex_auc(data, labels, seed) if len(counts) == 2 else site_auc(data, labels, seed, min_people=FOLDS)
