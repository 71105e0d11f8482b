"""People whom a model was trained on, as an audit meets them: by the model's own digests, and by the names of people.tsv."""

from pathlib import Path

import numpy as np
import pandas as pd

from medrep.cohort.cohort import Cohort
from medrep.cohort.fingerprints import cohort_fingerprint
from medrep.cohort.training_rows import TrainingRows
from medrep.commands.train import TRAINED
from medrep.console import Console
from medrep.errors import CohortError, listed

PEOPLE = "people.tsv"


def trained_people(given: Path | None, model_folder: Path, fingerprint: str) -> pd.DataFrame | None:
    """Return who was trained on, by name; None where no people.tsv is at hand.

    Args:
        given: --trained.
        model_folder: The model.
        fingerprint: Of its cohort of training; empty in models of earlier versions.

    Raises:
        CohortError: No such file, or one of another training.
    """
    path = given or model_folder.parent / PEOPLE
    if not path.is_file():
        if given is not None:
            raise CohortError(f"--trained {path}: no such file; give the people.tsv that train wrote")
        return None
    people = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    wanted = ["participant_id", "part", "data"]
    if lacking := [column for column in wanted if column not in people]:
        raise CohortError(f"{path}: has no column {', '.join(lacking)}; give the people.tsv that train wrote")
    people = people[people["part"] == TRAINED]
    if fingerprint and cohort_fingerprint(people["data"]) != fingerprint:
        cure = "the people.tsv that train wrote with this model" if given else "the one of this model with --trained"
        raise CohortError(f"{path}: is of another training than the model; give {cure}")
    return people


def without_trained(cohort: Cohort, trained: pd.DataFrame | None, console: Console) -> Cohort:
    """Return the people who were not trained on: of the cohort of training, those of other names."""
    if trained is None:
        return cohort
    known = set(trained["participant_id"])
    own = cohort.table["participant_id"].astype(str)
    # Another cohort may use the same names for other people: only where all are there is it the same one.
    if not known <= set(own):
        return cohort
    console.say(f"{own.isin(known).sum()} of training left out")
    return cohort.select(cohort.table.index[~own.isin(known)])


def refuse_trained(cohort: Cohort, data: np.ndarray, rows: TrainingRows | None) -> None:
    """Refuse people whose data were trained on, whatever their names and wherever the model lies.

    Args:
        cohort: Those to be audited.
        data: Their rows.
        rows: What the model was trained on; None where nobody says.

    Raises:
        CohortError: All of them.
    """
    if rows is None:
        return
    known = np.array([rows.holds(row) for row in data])
    if known.any():
        raise CohortError(
            listed(
                "people whose data the model was trained on",
                [str(key) for key in cohort.table.index[known]],
                "leave them out with --exclude, or give the people.tsv of training with --trained, by whose names people of "
                "its own cohort are left out by themselves: a model passes vacuously on its own people",
                most=int(known.sum()),
            )
        )
