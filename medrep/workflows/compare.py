"""``compare``: may the embeddings of two models, two versions, two seeds, two sites, be used together?"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from medrep import __version__
from medrep._files import output_folder, write_json
from medrep.audit.agreement import Agreement, Direction, Verdict, compare_latents, insufficient_agreement
from medrep.audit.finding import findings_table
from medrep.audit.latent_maps import FITS
from medrep.cohort.cohort import Cohort, read_matrix
from medrep.cohort.files import Place
from medrep.cohort.kinds import SILENT, Listener
from medrep.cohort.splits import known_rows
from medrep.derivatives.bids import write_tsv
from medrep.errors import CohortError, EvidenceError, MedrepError, ModelError
from medrep.models.latent_map import LatentMap, LatentSpace
from medrep.models.saved import SavedModel
from medrep.workflows.cohorts import (
    Selection,
    adapted_by,
    check_earlier,
    check_output,
    inputs_of,
    load_trained,
    note_unplaced,
    place_of,
    read_unseen,
    refuse_holes,
    refuse_unmeasured,
)

_ABOUT = {
    "latent": "of which model, and which",
    "sd": "standard deviation over people",
    "active": "whether it varies by more than a hundredth of the widest latent's variance",
    "partner": "the latent of the other model that it is matched with",
    "correlation": "with that one",
    "r2_orthogonal": "share of its variance that the other model's latents tell by an orthogonal map, out of fold",
    "r2_affine": "the same by an affine map",
}


@dataclass(frozen=True)
class CompareRequest:
    """Options of the command.

    Attributes:
        min_n: Fewest people whom neither model saw; twice as many as latents are wanted, too.
        seed: Of every draw.
        unseen_site: What sites that training did not have do.
        reference_people: ``COLUMN=VALUE``: whom such sites are estimated from; all of their people, if empty.
        extrapolate: Whether people far outside the range of training are taken.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
    """

    min_n: int = 50
    seed: int = 0
    unseen_site: Literal["error", "adapt"] = "error"
    reference_people: str = ""
    extrapolate: bool = False
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Compared:
    """Result of the command.

    Attributes:
        verdict: ``interchangeable``, ``map`` or ``not``.
        reason: Why, a sentence.
        findings: compare.tsv.
        people: How many were compared.
        maps: Direction -> its map, where latents can be had by one; ``results`` says where it was written.
        results: What was written, by name.
    """

    verdict: Verdict
    reason: str
    findings: pd.DataFrame
    people: int
    maps: Mapping[Direction, LatentMap] = field(default_factory=dict)
    results: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Latents of people by one model: their keys, the unit of each, and whom it was trained on; None where nobody says."""

    keys: pd.Index
    latents: Float[np.ndarray, "people latents"]
    units: Shaped[np.ndarray, " people"]
    seen: Bool[np.ndarray, " people"] | None
    space: LatentSpace


def compare(
    first: Path | SavedModel,
    second: Path | SavedModel,
    source: Place | Cohort,
    out: Path,
    request: CompareRequest | None = None,
    listener: Listener = SILENT,
) -> Compared:
    """Write compare.tsv, compare.json, matching.tsv, and maps where latents can be had by one.

    Args:
        first: Model A: what `train` wrote to OUT/model, or ``models:/NAME@ALIAS``, or a model at hand.
        second: Model B.
        source: The cohort; people of training of either are left out, as far as the model folders tell.
        out: Where to write; it appears only when it is complete.
        request: How to compare.
        listener: Who is told.

    Raises:
        EvidenceError: Too few people whom neither model saw.
        ModelError: A model without latents.
        MedrepError: Anything about the input that cannot be used, by name.
    """
    request = request or CompareRequest()
    if request.min_n < 20:
        raise MedrepError(f"--min-n {request.min_n}: give 20 or more; 50 is usual")
    inputs = (*inputs_of(source, first), *inputs_of(source, second))
    check_output(out, overwrite=request.overwrite, inputs=inputs)
    models = [load_trained(model) for model in (first, second)]
    encoded = [encode_unseen(model, source, request, listener) for model in models]
    keys, left_out = _unseen_by_both(encoded[0], encoded[1], listener)
    (a, units), (b, _) = (_rows(one, keys) for one in encoded)
    found = compare_latents(a, b, units, request.seed, min_n=request.min_n)
    if found.verdict is None:
        raise EvidenceError(f"whom neither model saw: {found.reason}. Give more people, or train with --hold-out 0.3")
    table = findings_table(found.findings)
    spaces = [one.space for one in encoded]
    sides = ((a, spaces[0]), (b, spaces[1]))
    maps = {where: _map(found, where, *(sides if where == "a_to_b" else sides[::-1])) for where in found.forms}
    results = {"table": out / "compare.tsv", "matching": out / "matching.tsv"}
    with output_folder(out) as partial:
        write_tsv(partial / "compare.tsv", table)
        write_tsv(partial / "matching.tsv", found.latents)
        for where, one in maps.items():
            one.save(partial / f"{where}.safetensors")
        content = {
            "verdict": found.verdict,
            "reason": found.reason,
            "medrep": __version__,
            "models": {name: asdict(space) for name, space in zip("AB", spaces, strict=True)},
            "cohort": {"name": place_of(source).root.resolve().name, "people": len(keys), "left_out": left_out},
            "seen_known": [one.seen is not None for one in encoded],
            "maps": {where: {"file": f"{where}.safetensors", "form": form} for where, form in found.forms.items()},
            "min_n": request.min_n,
            "seed": request.seed,
            "columns": _ABOUT,
        }
        write_json(partial / "compare.json", content)
    written: dict[str, Path] = {where: out / f"{where}.safetensors" for where in maps}
    return Compared(found.verdict, found.reason, table, len(keys), maps, {**results, **written})


_Side = tuple[Float[np.ndarray, "people latents"], LatentSpace]


def _map(found: Agreement, where: Direction, source: _Side, target: _Side) -> LatentMap:
    """Return the map of a direction, fitted on everybody, with how well it tells people who did not fit it."""
    form = found.forms[where]
    told = next(one.estimate for one in found.findings if (one.metric, one.group) == (f"agreement_{form}", where))
    matrix, offset = FITS[form](source[0], target[0])
    return LatentMap(form, source[1], target[1], float(told), len(source[0]), matrix, offset)


def agreement_with(
    other: SavedModel,
    source: Cohort,
    latents: Float[np.ndarray, "people latents"],
    request: CompareRequest,
    listener: Listener = SILENT,
) -> Agreement:
    """Return how far a model's latents of people whom it never saw agree with those of another, as findings of its audit.

    Args:
        other: The other model, B.
        source: The people.
        latents: Theirs by the model that is audited, A, in the cohort's order.
        request: How to compare.
        listener: Who is told.
    """
    keys = source.table.index
    theirs = encode_unseen(other, source, request, SILENT)
    known = _first_visits(source) & np.isfinite(latents).all(axis=1)
    if theirs.seen is None:
        listener.warn(_unknown(f"the model {other.named}"))
    else:
        known &= keys.isin(theirs.keys[~theirs.seen])
    both = keys[known & keys.isin(theirs.keys)]
    b, units = _rows(theirs, both)
    if not len(both):
        return insufficient_agreement(0, "nobody whom neither model saw")
    return compare_latents(latents[keys.get_indexer(both)], b, units, request.seed, min_n=request.min_n)


def _without_latents(model: SavedModel) -> str:
    return (
        f"{model.named}: a {model.model.kind} model without latents; train one that has some (--config linear_latents.yaml, or"
        " --set settings.components=6 of a linear model)"
    )


def encode_unseen(saved: SavedModel, source: Place | Cohort, request: CompareRequest, listener: Listener) -> _Encoded:
    """Return latents of a cohort's people by a model, as `score` writes them, of the first visit of each.

    Raises:
        ModelError: A model without latents.
        CohortError: Data of other columns than the model's.
        MedrepError: Anything else about the input that cannot be used, by name.
    """
    who = Selection(request.only, request.exclude, request.unseen_site, request.extrapolate)
    cohort, frame = read_unseen(source, saved, who, listener)
    check_earlier(cohort, saved, listener)
    note_unplaced(saved, listener)
    refuse_holes(cohort)
    refuse_unmeasured(saved.model, cohort, frame, listener)
    fitted, _, _ = adapted_by(saved.model, cohort, frame, request.reference_people, listener)
    frame = fitted.schema.transfer(frame, unseen=request.unseen_site)
    cohort = cohort.select(frame.index[_first_visits(cohort.select(frame.index))])
    frame = frame.loc[cohort.table.index]
    with tempfile.TemporaryFile() as scratch:
        data, columns = read_matrix(cohort, scratch, listener, like=fitted.columns, where=f"in {tempfile.gettempdir()}")
        if columns != fitted.columns:
            raise CohortError(
                f"{saved.named}: the people's data are not of the grid or the columns that it was fitted on"
            )
        people = cohort.table["participant_id"].astype(str).tolist()
        latents = np.asarray(fitted.scores(fitted.dataset(data, frame, people)).latents, float)
        rows = known_rows(saved.provenance.rows, None)
        seen = None if rows is None else np.array([rows.holds(row) for row in data], bool)
    if not latents.shape[1]:
        raise ModelError(_without_latents(saved))
    space = LatentSpace(saved.named, fitted.kind, saved.provenance.digest, latents.shape[1])
    return _Encoded(frame.index, latents, np.array(cohort.tied, object).astype(str), seen, space)


def _unknown(named: str) -> str:
    return (
        f"{named} holds no digests of its training rows (an earlier medrep wrote it): that it never saw these people cannot be"
        " checked"
    )


def _first_visits(cohort: Cohort) -> Bool[np.ndarray, " rows"]:
    return ~cohort.table["participant_id"].astype(str).duplicated().to_numpy()


def _unseen_by_both(first: _Encoded, second: _Encoded, listener: Listener) -> tuple[pd.Index, int]:
    """Return whom neither model was trained on, and how many were left out; say so, and where nobody can tell."""
    keys = first.keys[first.keys.isin(second.keys)]
    known = np.ones(len(keys), bool)
    for name, one in zip("AB", (first, second), strict=True):
        if one.seen is None:
            listener.warn(_unknown(f"model {name}"))
        else:
            known &= ~one.seen[one.keys.get_indexer(keys)]
        known &= np.isfinite(one.latents[one.keys.get_indexer(keys)]).all(axis=1)
    left_out = len(keys) - int(known.sum())
    if left_out:
        listener.say(
            f"{left_out} of {len(keys)} people left out: a model was trained on them, or has no latents of them"
        )
    listener.say(f"compare latents of {int(known.sum())} people whom neither model saw")
    return keys[known], left_out


def _rows(one: _Encoded, keys: pd.Index) -> tuple[Float[np.ndarray, "people latents"], Shaped[np.ndarray, " people"]]:
    places = one.keys.get_indexer(keys)
    return one.latents[places], one.units[places]
