"""One training as one MLflow run: parameters, metrics by epoch, and files that hold no person's data.

The client is the plain one, not ``mlflow.start_run``: that would add the user's name, the command line and the Git commit
as tags.
"""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pandas as pd
from mlflow.entities import Metric, Param
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)

from medrep.masking import mask
from medrep.tracking.session import find_experiment, session
from medrep.tracking.stores import Store

_CUT = "..."


def log_training(
    store: Store,
    experiment: str,
    run_name: str,
    *,
    parameters: Mapping[str, object],
    history: pd.DataFrame,
    artifacts: Sequence[Path] = (),
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a finished training. But for secrets, whatever is given is logged as it is: give nothing that tells people apart.

    Args:
        store: Where to.
        experiment: The experiment's name; made if there is none.
        run_name: The run's name.
        parameters: Nested names and values; logged under dotted names, long values cut.
        history: Columns metric, name, value, and ``epoch`` if there is one: its rows become steps.
        artifacts: Files to keep a copy of.
        tags: Names and values.

    Returns:
        The run's id.

    Raises:
        Exception: Whatever MLflow, its database or its server raise, after seconds.
    """
    with session(store) as client:
        experiment_id = find_experiment(client, experiment, store)
        run_id = str(client.create_run(experiment_id, run_name=run_name, tags=_masked(tags or {})).info.run_id)
        try:
            params = [Param(key, value) for key, value in flat_parameters(parameters).items()]
            for start in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
                client.log_batch(run_id, params=params[start : start + MAX_PARAMS_TAGS_PER_BATCH])
            metrics = _metrics(history)
            for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
                client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])
            for path in artifacts:
                client.log_artifact(run_id, str(path))
        except BaseException:
            with suppress(Exception):
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id)
    return run_id


def _masked(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: mask(value) for name, value in tags.items()}


def metric_key(metric: str, name: str) -> str:
    """Return MLflow's name for a row of a history table: ``mean_scale``, ``site=S0`` -> ``mean_scale/site:S0``.

    MLflow takes letters, digits and ``_-. :/``. ``=`` becomes ``:``, anything else ``::HEX:``, so that two rows never share
    a name.
    """
    return _bounded("/".join([_escaped(metric, "/"), *([_escaped(name)] if name else [])]))


def flat_parameters(parameters: Mapping[str, object]) -> dict[str, str]:
    """Return nested parameters under dotted names, values as text of a length that MLflow takes."""
    flat: dict[str, str] = {}

    def add(path: tuple[str, ...], value: object) -> None:
        if isinstance(value, Mapping) and value:
            for key, entry in value.items():
                add((*path, str(key)), entry)
            return
        text = mask(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
        cut = text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - len(_CUT)] + _CUT
        flat[_bounded(".".join(_escaped(key, ".") for key in path))] = cut

    for key, value in parameters.items():
        add((str(key),), value)
    return flat


def _escaped(text: str, also: str = "") -> str:
    """Escape what MLflow refuses, and what would make two texts one or change the path that a name must also be."""
    refused = rf"[^\w\-. =/]|=(?==)|(?<![^/])[./]|/\Z{f'|[{also}]' if also else ''}"
    return re.sub(refused, lambda found: f"::{ord(found[0]):X}:", text).replace("=", ":")


def _bounded(key: str) -> str:
    if len(key) <= MAX_ENTITY_KEY_LENGTH:
        return key
    digest = f"::h{sha256(key.encode()).hexdigest()[:16]}:"
    return key[: MAX_ENTITY_KEY_LENGTH - len(digest)] + digest


def _metrics(history: pd.DataFrame) -> list[Metric]:
    now = int(time.time() * 1000)
    epochs = history["epoch"] if "epoch" in history else pd.Series(0, index=history.index)
    rows = zip(history["metric"], history["name"], history["value"], epochs, strict=True)
    return [
        Metric(metric_key(str(metric), str(name)), float(value), now, 0 if math.isnan(epoch) else int(epoch))
        for metric, name, value, epoch in rows
    ]
