"""What in a cohort looks like a slip: data given twice, features that are covariates or row numbers, data cleaned already.

Nothing of it makes a cohort unreadable, and all of it makes results wrong; so `check` and `train` name it.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import Categorical, Covariate, CovariateSchema
from medrep.cohort.earlier import Earlier
from medrep.cohort.features import FeatureTable
from medrep.cohort.fingerprints import row_fingerprint
from medrep.cohort.synonyms import meaning

_FEW_COLUMNS, _FEW_ROWS = 3, 10
_SAME = 1e-6
_CELLS = 2**22
_NAMED = 10


def feature_slips(features: FeatureTable, frame: pd.DataFrame, schema: CovariateSchema) -> list[str]:
    """Return what looks like a slip in a table of features.

    Args:
        features: The table.
        frame: Covariates of some of its people in the form of the schema, index: key.
        schema: The covariates.
    """
    rows = features.rows(frame.index)
    return [
        *_named_like(features.names, [covariate.declared for covariate in schema.fitted]),
        *_telling(rows, frame, schema),
        *_counting(features),
        *same_data({str(key): row_fingerprint(row) for key, row in _distinct(features)}),
    ]


def same_data(marks: Mapping[str, str]) -> list[str]:
    """Return a line about people (or scans) whose data are the same to the last digit.

    Args:
        marks: Key -> fingerprint of the data, see `fingerprints.row_fingerprint`.
    """
    groups: dict[str, list[str]] = {}
    for key, mark in marks.items():
        groups.setdefault(mark, []).append(key)
    twins = [" = ".join(own) for own in groups.values() if len(own) > 1]
    return (
        [f"the same data under several ids: {_some(twins)}; leave all but one of each out with --exclude"]
        if twins
        else []
    )


def moved_already(earlier: Sequence[Earlier], declared: Sequence[Covariate]) -> list[str]:
    """Return a line for each thing that medrep has done to the data already."""
    names = {covariate.name for covariate in declared}
    lines = []
    for one in earlier:
        again = [name for name in one.covariates if name in names]
        own = f"; what a model learns of {', '.join(again)} here is what was left" if again else ""
        lines.append(f"{one.done}{own}")
    return lines


def repeated_scans(table: pd.DataFrame) -> list[str]:
    """Return a line about people with several scans, whom the models do not know as such."""
    people = table["participant_id"].nunique()
    if people == len(table):
        return []
    return [
        f"{len(table)} scans of {people} people are treated as independent, as if each were of another person; what is"
        " said of certainty holds for scans, not for people"
    ]


def _distinct(features: FeatureTable) -> Iterator[tuple[object, Float[np.ndarray, " columns"]]]:
    """Yield rows that only one person should have: of several columns that differ between people, not all missing."""
    values = features.values
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    varying = ((values > low) & (values < high)).any(axis=0)  # more than two values, NaN aside
    if varying.sum() >= _FEW_COLUMNS:
        for key, row in zip(features.ids.index, values, strict=True):
            if np.isfinite(row[varying]).any():
                yield key, row


def _named_like(names: Sequence[str], declared: Sequence[Covariate]) -> list[str]:
    meant = {
        meaning(name): covariate.name for covariate in declared for name in (covariate.name, covariate.column) if name
    }
    return [
        f"feature {name!r} has the name of covariate {meant[meaning(name)]}: if it is that, take it out of features.tsv"
        for name in names
        if meaning(name) in meant
    ]


def _telling(features: FeatureTable, frame: pd.DataFrame, schema: CovariateSchema) -> list[str]:
    """Return a line for each covariate that features are, up to a straight line or a code for each level."""
    lines = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        if isinstance(covariate, Categorical):
            design = pd.get_dummies(frame[name].astype(str)).to_numpy(float)
        else:
            design = np.column_stack([np.ones(len(frame)), frame[name].to_numpy(float)])
        if len(frame) <= 3 * design.shape[1]:
            continue  # so few people that a measurement may look like it
        basis, _ = np.linalg.qr(design)
        found = [features.names[k] for k in _explained(features.values, basis)]
        if found:
            lines.append(
                f"features that are covariate {name}, not a measurement: {_some(found)}; take them out of features.tsv"
            )
    return lines


def _explained(values: Float[np.ndarray, "people columns"], basis: Float[np.ndarray, "people width"]) -> Iterator[int]:
    """Yield the columns without holes that vary and of which nothing is left once a basis is taken out."""
    step = max(1, _CELLS // max(1, len(values)))
    for start in range(0, values.shape[1], step):
        block = values[:, start : start + step]
        whole = np.isfinite(block).all(axis=0)
        block = np.where(whole, block, 0.0)
        centred = block - block.mean(axis=0)
        total = (centred**2).sum(axis=0)
        left = total - ((basis.T @ centred) ** 2).sum(axis=0)
        scale = 1e-18 * len(block) * (block**2).max(axis=0, initial=0.0)
        yield from (start + int(k) for k in np.flatnonzero(whole & (total > scale) & (left <= _SAME * total)))


def _counting(features: FeatureTable) -> list[str]:
    """Return a line about features that count the rows, under whatever name."""
    count = len(features.values)
    if count < _FEW_ROWS:
        return []
    first, last = features.values[0], features.values[-1]
    likely = np.flatnonzero(((first == 0) | (first == 1)) & (last - first == count - 1))
    found = [features.names[k] for k in likely if (np.diff(features.values[:, k]) == 1).all()]
    return (
        [f"features that count the rows, not a measurement: {_some(found)}; take them out of features.tsv"]
        if found
        else []
    )


def _some(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
