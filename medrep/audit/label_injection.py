"""Label injection: labels of kept covariates that a model writes into its releases.

`label_injection`: kept covariates are exchanged between participants, all of them together, and people are exported as if they
were theirs. A faithful export tells the person's own age, not the one it was given: the given labels must not be readable. Which
labels were given is random and independent of the person, so that exchanging them once more on the test half is an exact test
(`holdout_split.py`); where given labels resemble the true ones by chance, the second exchange's do as often.

`injection_gain`: how much easier a kept covariate is to read from the export than from the raw data, the same people, probes
and samples on both sides. Taking out a strong scanner effect honestly makes age easier to read, too: so the raw data are
also read with the removed covariates regressed out (coefficients of the training half, kept covariates in the regression), and
the stronger reading counts. No label of a kept covariate goes into that of the people who are judged.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from medrep.audit.finding import Finding
from medrep.audit.holdout_split import (
    FEWEST,
    PROBING,
    HoldoutSplit,
    Probing,
    rows_each,
    taught_interval,
)
from medrep.audit.intervals import participant_codes, permuted
from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import CohortError, listed

TABLE = "exported"


def audit_label_injection(
    export: Callable[[pd.DataFrame], Float[np.ndarray, "people columns"]],
    dataset: Dataset,
    kept: Sequence[str],
    seed: int,
    *,
    exported: Float[np.ndarray, "people columns"] | None = None,
    probing: Probing = PROBING,
) -> list[Finding]:
    """Measure `label_injection` and `injection_gain` of every kept covariate.

    Args:
        export: Returns the audited people's data as they would be handed out if people had these covariates.
        dataset: The people as they are. Columns with missing cells, here or in an export, are left out; participants of as many
            rows exchange theirs as one series.
        kept: Names of the covariates that are kept; none gives no findings.
        seed: Of every random step.
        exported: ``export`` of the people's own covariates where it is known already.
        probing: How thoroughly.

    Raises:
        CovariateError: Unknown names.
        CohortError: An export of other people or columns.
    """
    if not kept:
        return []
    raw, frame, schema, participants = dataset.values, dataset.covariates, dataset.schema, dataset.units
    covariates = [schema[name] for name in kept]
    given = shuffle_kept(frame, kept, participants, np.random.default_rng(seed))
    as_given = export(given)
    as_they_are = export(frame) if exported is None else exported
    tables = {"raw": raw, "export": as_they_are, "export with exchanged labels": as_given}
    strange = [f"{name}: {table.shape} for {raw.shape}" for name, table in tables.items() if table.shape != raw.shape]
    if strange:
        raise CohortError(
            listed("exports of other people or columns", strange, "export the audited people as they are")
        )
    whole = np.all([np.isfinite(table).all(axis=0) for table in tables.values()], axis=0)
    tables = {name: table if whole.all() else table[:, whole] for name, table in tables.items()}
    removed = [name for name in schema.names if name not in kept]
    found: list[Finding] = []
    for covariate in covariates:
        name, continuous = covariate.declared.name, isinstance(covariate, Continuous)
        of_given, of_own = (
            HoldoutSplit.of(labels[name], participants, seed, continuous=continuous, probing=probing)
            for labels in (given, frame)
        )
        found += _of_given(tables["export with exchanged labels"], of_given, name)
        found += _gain(tables["raw"], tables["export"], of_own, name, frame, removed, schema)
    return found


def shuffle_kept(
    frame: pd.DataFrame, kept: Sequence[str], participants: Shaped[np.ndarray, " people"], rng: np.random.Generator
) -> pd.DataFrame:
    """Return covariates with the kept ones of other people, all of one person's together.

    Args:
        frame: Covariates.
        kept: Which to exchange.
        participants: Whose each row is; participants of as many rows exchange theirs as one series.
        rng: Of the exchange.
    """
    who = participant_codes(participants)
    source = next(iter(permuted(who, np.arange(len(frame)), rows_each(who), 1, rng)))[0]
    return frame.assign(**{name: frame[name].array.take(source) for name in kept})


def _of_given(table: np.ndarray, split: HoldoutSplit, name: str) -> list[Finding]:
    group = f"{TABLE}/{name}"
    found = [
        Finding("injection", f"{group}={level}", count, status="insufficient", note=_few(count))
        for level, count in split.left_out.items()
    ]
    if split.too_few:
        return [*found, Finding("injection", group, split.people, status="insufficient", note=split.too_few)]
    told = split.judge(table)
    note = (
        f"{split.measure} of labels that are not people's own, strongest probe {told.strongest_probe};"
        f" floor {told.floor:.3f}; {split.note}"
    )
    return [*found, Finding("injection", group, split.people, told.strongest, *told.interval(), told.p, note=note)]


def _gain(
    raw: np.ndarray,
    exported: np.ndarray,
    split: HoldoutSplit,
    name: str,
    frame: pd.DataFrame,
    removed: Sequence[str],
    schema: CovariateSchema,
) -> list[Finding]:
    group = f"{TABLE}/{name}"
    if split.too_few:
        return [Finding("injection_gain", group, split.people, status="insufficient", note=split.too_few)]
    before = {"raw": split.judge(raw)}
    if removed:
        rest = regressed_out(raw, frame, removed, schema, split.train)
        before["raw with removed covariates regressed out"] = split.judge(rest)
    after = split.judge(exported)
    against = max(before, key=lambda table: before[table].strongest)
    gain = after.strongest - before[against].strongest
    drawn = after.strongest_draws - np.max([told.strongest_draws for told in before.values()], axis=0)
    judged = (after, *before.values())
    folds = [told.strongest_of_folds for told in judged]
    same = len({len(one) for one in folds}) == 1
    of_folds = folds[0] - np.max(folds[1:], axis=0) if same else np.zeros(0)
    low, high = taught_interval(gain, drawn, of_folds, 0 if split.levels else split.people)
    note = (
        f"{split.measure} {after.strongest:.3f} ({after.strongest_probe}) from the export,"
        f" {before[against].strongest:.3f} ({before[against].strongest_probe}) from {against}; {split.note}"
    )
    return [Finding("injection_gain", group, split.people, gain, low, high, note=note)]


def regressed_out(
    raw: Float[np.ndarray, "people columns"],
    frame: pd.DataFrame,
    removed: Sequence[str],
    schema: CovariateSchema,
    train: Int[np.ndarray, " train"],
) -> Float[np.ndarray, "people columns"]:
    """Return the data without what a regression on all covariates, fitted on some rows, ascribes to the removed ones.

    Args:
        raw: The people as they are.
        frame: Their covariates.
        removed: What to take out.
        schema: What covariates are.
        train: Rows to fit on.
    """
    own = CovariateSchema(tuple(schema[name] for name in removed)).vector(frame)
    rest = CovariateSchema(tuple(c for c in schema.fitted if c.declared.name not in removed)).vector(frame)
    design = np.concatenate([own, np.ones((len(own), 1)), rest], axis=1)
    coefficients = np.linalg.lstsq(design[train], np.asarray(raw[train], dtype=float), rcond=1e-9)[0]
    return raw - own @ coefficients[: own.shape[1]]


def _few(count: int) -> str:
    return f"{count} people; {FEWEST} are needed in each half; left out of the probes"
