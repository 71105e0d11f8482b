"""Calibrating the shift gate: what the model and the images say of people who were held out of its training."""

import numpy as np
import pandas as pd

from medrep.batch.shift_judge import ANYBODY, scanner_of
from medrep.cohort.cohort import Cohort
from medrep.cohort.covariates import Categorical, CovariateSchema
from medrep.console import Console
from medrep.export.scoring import Scorer, score_step
from medrep.models import Model
from medrep.models.shift import MIN_N, ShiftGate


def calibrated(model: Model, cohort: Cohort, frame: pd.DataFrame, console: Console) -> ShiftGate | None:
    """Return the shift gate of a model; None, with a word, where too few people were held out.

    Args:
        model: The model.
        cohort: The people who were held out, with what training measured in its ``input``.
        frame: Their checked covariates.
        console: Where to speak.
    """
    frame = _known(model.schema, frame)
    # Scans of one person are alike, and several would make everybody else's p too small: the first counts.
    frame = frame[~cohort.table.loc[frame.index, "participant_id"].astype(str).duplicated().to_numpy()]
    if len(frame) < MIN_N:
        if len(frame):
            console.say(f"  {len(frame)} people held out: {MIN_N} are needed to tell scans that are unlike them")
        return None
    cohort = cohort.select(frame.index)
    scorer = Scorer(model, measure=True)
    step = score_step(scorer, cohort.input, cohort.source.features.names)
    people = list(cohort.source.visits(model.schema.transfer(frame)))
    rows: dict[str, np.ndarray] = {}
    with console.track("calibrate", len(people)) as advance:
        for start in range(0, len(people), step.together):
            some = people[start : start + step.together]
            rows |= {one.key: one.arrays["statistics"] for one in step.work(some) if not one.error}
            advance(len(some))
    if len(rows) < MIN_N:
        return None
    statistics = pd.DataFrame.from_dict(rows, orient="index", columns=scorer.statistics(cohort.input))
    scanner = scanner_of(model.schema)
    labels = frame[scanner].astype(str) if scanner else pd.Series(ANYBODY, index=frame.index)
    return ShiftGate.fit(statistics, labels.loc[statistics.index])


def _known(schema: CovariateSchema, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the people all of whose levels training had: rare ones may have been held out whole."""
    known = pd.Series(True, index=frame.index)
    for fitted in schema.fitted:
        if isinstance(fitted, Categorical):
            known &= frame[fitted.declared.name].isin(fitted.levels)
    return frame[known]
