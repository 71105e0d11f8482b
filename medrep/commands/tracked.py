"""What ``train`` tells MLflow once OUT is written: configuration, history, and which model it was. No person's data."""

from pathlib import Path

import pandas as pd
import yaml

from medrep import __version__
from medrep.config import Config
from medrep.console import Console
from medrep.models.saved import digest
from medrep.tracking.stores import Store

# Not report.html: its notes name participants.
_ARTIFACTS = ("config.yaml", "history.tsv")


def track_training(
    store: Store,
    experiment: str,
    out: Path,
    config: Config,
    history: pd.DataFrame,
    people: int,
    columns: int,
    console: Console,
) -> None:
    """Log a training; a store that is away is one warning, since the model is safe in OUT.

    Args:
        store: Where to.
        experiment: The MLflow experiment.
        out: What `train` wrote; its name is the run's name.
        config: What was fitted.
        history: What was found.
        people: How many people it was fitted on.
        columns: How many columns it was fitted on.
        console: Where to speak.
    """
    try:
        from medrep.tracking.runs import log_training  # MLflow takes seconds to import
        from medrep.tracking.versions import DIGEST

        parameters = {**yaml.safe_load(config.to_yaml()), "cohort": {"people": people, "columns": columns}}
        tags = {
            "medrep.version": __version__,
            "medrep.model": config.model,
            DIGEST: digest(out / "model"),
        }
        run = log_training(
            store,
            experiment,
            out.resolve().name,
            parameters=parameters,
            history=history,
            artifacts=[out / name for name in _ARTIFACTS],
            tags=tags,
        )
    except Exception as error:
        reason = " ".join(store.hide(str(error)).split())
        console.warn(f"not logged to {store.hide(store.uri)}: {reason[:300] or type(error).__name__}")
    else:
        console.say(f"run:   {run} of experiment {experiment} in {store.hide(store.uri)}")
