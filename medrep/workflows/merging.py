"""``merge --models``: one growth chart from model folders of several institutes that never shared rows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from medrep._files import output_folder, write_json
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.splits import TrainingRows, cohort_fingerprint
from medrep.derivatives.bids import write_tsv
from medrep.errors import ModelError, listed
from medrep.models.chart.merging import merged
from medrep.models.chart.model import GrowthChart, chart_history
from medrep.models.chart.parts import Part
from medrep.models.saved import Provenance, SavedModel
from medrep.workflows.cohorts import check_output, load_trained

_GIVEN = re.compile(r"(?P<model>.+?)(?P<given>(:[^:/=]+=[^:=]+)*)")

_ABOUT = {
    "part": "a model that was merged",
    "people": "people of its training",
    "levels": "levels of batch covariates that it has, or that were given for it",
    "columns": "columns that it models",
    "missed": "largest share by which sums of products of its stand-ins differ from those of its people",
    "digest": "SHA-256 of its folder",
}


@dataclass(frozen=True)
class Merged:
    """Result of the command.

    Attributes:
        saved: The merged model.
        parts: A row a model that was merged.
        history: Metric, name, value.
        notes: What the merged model lacks, and what was approximated.
    """

    saved: SavedModel
    parts: pd.DataFrame
    history: pd.DataFrame
    notes: tuple[str, ...]


def merge_charts(out: Path, models: Sequence[str], listener: Listener = SILENT, *, overwrite: bool = False) -> Merged:
    """Write OUT/model, history.tsv, parts.tsv and parts.json.

    Args:
        out: Where to write; replaced as a whole.
        models: Model folders, or ``models:/NAME@ALIAS``; ``FOLDER:site=X`` of one whose people all have the same site.
        listener: Who is told.
        overwrite: Whether OUT may be replaced.

    Raises:
        MedrepError: Models that cannot be merged, and why, all of them.
    """
    told = [_told(text) for text in models]
    check_output(out, overwrite=overwrite, inputs=tuple(Path(name) for name, _ in told))
    found = merged_charts([load_trained(Path(name)) for name, _ in told], [given for _, given in told])
    listener.notes(found.notes)
    with output_folder(out) as partial:
        found.saved.save(partial / "model")
        write_tsv(partial / "history.tsv", found.history)
        write_tsv(partial / "parts.tsv", found.parts)
        write_json(partial / "parts.json", {**_ABOUT, "Notes": list(found.notes)})
    return found


def merged_charts(models: Sequence[SavedModel], given: Sequence[Mapping[str, str]] | None = None) -> Merged:
    """Return one chart from several; see `medrep.models.chart.merging` for how.

    Args:
        models: Growth charts with all that is saved with them.
        given: Of each, covariate that it does not have -> what all of its people have.

    Raises:
        MedrepError: Models that cannot be merged, and why, all of them.
    """
    given = given or [{} for _ in models]
    _refuse(models)
    parts = [
        Part(one.named, one.model, one.support, own)
        for one, own in zip(models, given, strict=True)
        if isinstance(one.model, GrowthChart) and one.support is not None
    ]
    chart, support = merged(parts)
    saved = SavedModel(chart, models[0].input, support, _provenance(models))
    levels = [
        sum(1 if name in one.given else len(one.chart.schema.levels(name)) for name in chart.schema.batches)
        for one in parts
    ]
    table = pd.DataFrame(
        {
            "part": [one.name for one in parts],
            "people": [one.provenance.people for one in models],
            "levels": levels,
            "columns": [int(one.has.sum()) for one in parts],
            "missed": [one.stand_ins.missed for one in parts],
            "digest": [one.provenance.digest for one in models],
        }
    )
    people = pd.DataFrame({"metric": "people", "name": table["part"], "value": table["people"].astype(float)})
    history = pd.concat([people, chart_history(chart)], ignore_index=True)
    return Merged(saved, table, history, tuple(_notes(models, parts)))


def _told(text: str) -> tuple[str, dict[str, str]]:
    """Return a model, and what is given for its people."""
    found = _GIVEN.fullmatch(text)
    if found is None:
        return text, {}
    pairs = [one.partition("=") for one in found["given"].split(":") if one]
    return found["model"], {name: value for name, _, value in pairs}


def _refuse(models: Sequence[SavedModel]) -> None:
    problems, seen = [], dict[str, str]()
    if len(models) < 2:
        raise ModelError("one model is nothing to merge; give two or more")
    for one in models:
        if not isinstance(one.model, GrowthChart):
            problems.append(
                f"{one.named}: is a {one.model.kind} model; only growth charts (growth_chart.yaml) are merged"
            )
            continue
        if one.support is None:
            problems.append(f"{one.named}: does not say where its people lie among the covariates; train it again")
        if one.input.to_json() != models[0].input.to_json():
            problems.append(f"{one.named}: has another input section than {models[0].named}")
        for print_ in _fingerprints(one.provenance):
            if print_ in seen:
                problems.append(f"{one.named}: was trained on the same people as {seen[print_]}; give each once")
            seen[print_] = one.named
    if problems:
        raise ModelError(listed("models that cannot be merged", problems))


def _fingerprints(provenance: Provenance) -> list[str]:
    """Return what tells the people of a model, and of those that it was merged from."""
    keys = [] if provenance.rows is None else [one.key for one in _leaves(provenance.rows)]
    return keys or [provenance.fingerprint or provenance.digest]


def _leaves(rows: TrainingRows) -> list[TrainingRows]:
    return [leaf for one in rows.others for leaf in _leaves(one)] if rows.others else [rows]


def _provenance(models: Sequence[SavedModel]) -> Provenance:
    known = [one.provenance for one in models]
    rows = None
    if all(one.rows is not None for one in known):
        leaves = tuple(leaf for one in known if one.rows is not None for leaf in _leaves(one.rows))
        rows = TrainingRows("", frozenset(), frozenset(), tuple(replace(one, marks=frozenset()) for one in leaves))
    transformed = tuple(sorted({name for one in known for name in one.transformed}))
    fingerprint = cohort_fingerprint(one.fingerprint for one in known)
    return Provenance(sum(one.people for one in known), fingerprint, rows, transformed)


def _notes(models: Sequence[SavedModel], parts: Sequence[Part]) -> list[str]:
    """Return what the merged model lacks, and what was approximated."""
    notes = []
    first = parts[0].location.line.design.knots
    if any(one.location.line.design.knots != first for one in parts):
        notes.append(
            "knots of splines lie at quantiles of all people together, those of the models at quantiles of their own"
        )
    if any((one.chart.powers.exponents != parts[0].chart.powers.exponents).any() for one in parts):
        notes.append("models chose different powers of some columns; those of most people are taken")
    dropped = {
        "the gate of unusual scans (train --hold-out)": any(one.shift is not None for one in models),
        "what predicts covariates (predict)": any(one.readouts for one in models),
        "what moves images' own units": any(one.unit is not None for one in models),
    }
    notes += [
        f"the merged model has not {name}: it cannot be told without rows" for name, had in dropped.items() if had
    ]
    return notes
