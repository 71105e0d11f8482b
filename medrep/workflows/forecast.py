"""``forecast``: what further visits of people will measure, with intervals, told from all visits that they have had.

Of tables it is a table; of images an image of what is expected and one of its standard deviation, for each person and number
of years, and the table says which.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medrep import __version__
from medrep._files import output_folder, write_json
from medrep.cohort.cohort import Cohort
from medrep.cohort.compositions import CompositionForm
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.features import in_columns
from medrep.cohort.files import Place
from medrep.cohort.kinds import SILENT, Listener, imported
from medrep.cohort.kinds.connectivity import EdgeForm
from medrep.cohort.samples import sample_files
from medrep.cohort.support import outside_json
from medrep.derivatives.bids import MISSING, OUTSIDE, Failure, rows_text, write_description, write_failures, write_tsv
from medrep.derivatives.forecasts import ForecastTo, image_forecaster
from medrep.errors import CohortError, CovariateError, ModelError, listed
from medrep.models import Adaptation, Model
from medrep.models.base import Forecast
from medrep.models.left_alone import left_alone
from medrep.models.linear.trajectories import last_visits
from medrep.models.saved import SavedModel
from medrep.workflows.cohorts import (
    Selection,
    adapted_by,
    check_beyond,
    check_earlier,
    check_followed,
    check_output,
    inputs_of,
    later,
    load_trained,
    note_unplaced,
    read_unseen,
    refuse_holes,
)

SHARES = (50, 80, 95)
"""Per cent of what may be measured that intervals hold."""
_IDS = ("participant_id", "from_session", "years", "feature")
NUMBERS = ("estimate", "sd", *(f"{end}_{share}" for share in SHARES for end in ("low", "high")))
_CELLS, _MOST = 2**19, 256  # numbers that are worked on together, and people


@dataclass(frozen=True)
class ForecastRequest:
    """Options of the command.

    Attributes:
        years: How long after each person's last visit; 0 is that day again.
        others: Covariate -> value at that time, where it is not that of the last visit: ``site``.
        unseen_site: What sites that training did not have do.
        reference_people: ``COLUMN=VALUE``: whom such sites are estimated from; all of their people, if empty.
        extrapolate: Whether people far outside the range of training are taken, and ages to come that are.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
    """

    years: tuple[float, ...]
    others: Mapping[str, str] = field(default_factory=dict)
    unseen_site: Literal["error", "adapt"] = "error"
    reference_people: str = ""
    extrapolate: bool = False
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False


@dataclass(frozen=True)
class Forecasted:
    """Result of the command.

    Attributes:
        people: Of how many people.
        visits: Told from how many visits.
        table: forecast.tsv.
        failures: Those of whom images could not be read or written; they stand in failures.tsv.
    """

    people: int
    visits: int
    table: Path
    failures: tuple[Failure, ...] = ()


def forecast(
    source: Place | Cohort,
    out: Path,
    model: Path | SavedModel,
    request: ForecastRequest,
    listener: Listener = SILENT,
) -> Forecasted:
    """Write forecast.tsv and forecast.json, and images where the model is of images.

    Args:
        source: The cohort: one visit a person, or more.
        out: Where to write.
        model: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``, or a model at hand.
        request: What to forecast.
        listener: Who is told.

    Raises:
        CovariateError: Years that are none, covariates or levels that the model does not know, or ages far beyond training.
        ModelError: A model that does not ``forecast``, or of edges that are forecast together (``measure: tangent``).
        MedrepError: Anything about the input that cannot be used, by name.
    """
    check_output(out, overwrite=request.overwrite, inputs=inputs_of(source, model))
    trained = load_trained(model)
    check_followed(trained, trained.named)
    followed, schema = trained.model.followed, trained.model.schema
    years = _checked_years(request.years)
    others = _checked_others(schema, request.others, followed)
    tabular = trained.input.tabular
    who = Selection(request.only, request.exclude, request.unseen_site, request.extrapolate, tolerant=not tabular)
    cohort, frame = read_unseen(source, trained, who, listener)
    check_earlier(cohort, trained, listener)
    note_unplaced(trained, listener)
    refuse_holes(cohort)
    last = frame.iloc[last_visits(frame[followed].to_numpy(float), _whose(cohort, frame))]
    to = later(last, followed, years).assign(**others)
    said = to.set_axis([f"{key} in {year:g}" for key in last.index for year in years])
    beyond = outside_json(check_beyond(schema, said, followed, listener, extrapolate=request.extrapolate))
    known, adapted, _ = adapted_by(trained.model, cohort, frame, request.reference_people, listener)
    asked = _Asked(replace(trained, model=known), cohort, frame, last.index, to, years)
    about = _about(trained, years, others, adapted) | ({OUTSIDE: beyond} if beyond else {})
    with output_folder(out) as partial, listener.track("forecast", len(last)) as advance:
        failures: tuple[Failure, ...] = ()
        vague = False
        if tabular:
            vague = _write_table(partial, asked, about, advance)
        else:
            failures = _write_images(partial, asked, about, advance)
    if vague:
        listener.warn(
            "the model does not say how well its effects are known (an earlier medrep wrote it): intervals leave that out;"
            " train it again"
        )
    for failure in failures:
        listener.warn(f"{failure.participant}: {failure.error}")
    return Forecasted(len(last) - len(failures), len(frame), out / "forecast.tsv", failures)


@dataclass(frozen=True)
class _Asked:
    """The visits, and the further ones.

    Attributes:
        saved: The model, which knows all sites.
        cohort: The people.
        frame: Covariates of their visits.
        last: Keys of their last visits.
        to: Covariates of further visits: those of a person side by side.
        years: How long after the last visit they are.
    """

    saved: SavedModel
    cohort: Cohort
    frame: pd.DataFrame
    last: pd.Index
    to: pd.DataFrame
    years: tuple[float, ...]


def _write_table(folder: Path, asked: _Asked, about: dict[str, Any], advance: Callable[[int], None]) -> bool:
    """Write the table of people whose data are one; return whether the model does not say how well it knows effects."""
    known, cohort, years = asked.saved.model, asked.cohort, asked.years
    names, vague = cohort.source.features.names, False
    form = imported(asked.saved.input.form)(asked.saved.input.section, names) if asked.saved.input.form else None
    if isinstance(form, CompositionForm):
        raise ModelError(
            "parts of a whole are forecast together: forecasts are not of input.compositions yet; train without"
        )
    if form is not None and form.section.measure == "tangent":
        raise ModelError(
            "a matrix has no interval an edge: forecasts are not of measure tangent; train with correlation"
        )
    with (folder / "forecast.tsv").open("wb") as file:
        file.write(("\t".join((*_IDS, *NUMBERS)) + "\n").encode())
        for some in _blocks(len(asked.last), known.columns.count * len(years)):
            further = asked.to.iloc[some.start * len(years) : some.stop * len(years)]
            found = _expected(known, cohort, asked.frame, asked.last[some], further)
            vague |= bool(np.isinf(found.freedom).any())
            file.write(_rows(found, cohort.table.loc[asked.last[some]], years, names, known, form))
            advance(some.stop - some.start)
    write_json(folder / "forecast.json", {**about, "EffectsKnown": not vague, **_ABOUT_TABLE})
    return vague


def _write_images(
    folder: Path, asked: _Asked, about: dict[str, Any], advance: Callable[[int], None]
) -> tuple[Failure, ...]:
    """Write images of people, a person at a time; return who could not be delivered.

    Raises:
        CohortError: Nobody could.
    """
    model, cohort, years = asked.saved.model.accelerated(), asked.cohort, asked.years
    to = ForecastTo(folder, cohort.root, years, about)
    forecaster = image_forecaster(model, asked.saved.input, to)
    samples, whose = cohort.source.samples(asked.frame), np.array(_whose(cohort, asked.frame), object)
    files, rows, failures = sample_files(samples), list[tuple[str, ...]](), list[Failure]()
    for place, key in enumerate(asked.last):
        who = str(cohort.table.loc[key, "participant_id"])
        own = np.flatnonzero(whose == who)
        keys = asked.frame.index[own]
        try:
            problems = [f"{one}: {samples.problems[one]}" for one in keys if one in samples.problems]
            if problems:
                raise CohortError(listed("visits without a usable file", problems, "mend them, or leave them out"))
            further = asked.to.iloc[place * len(years) : (place + 1) * len(years)]
            written = forecaster.work(files.iloc[own], asked.frame.iloc[own], str(key), further)
            session = str(cohort.table.loc[key].get("session_id", MISSING))
            rows += [
                (who, session, f"{year:g}", one.estimate, one.sd) for year, one in zip(years, written, strict=True)
            ]
        except (CohortError, ModelError) as error:
            failures.append(Failure(who, str(key), "forecast", str(error)))
        advance(1)
    if not rows:
        told = [f"{one.participant}: {one.error}" for one in failures]
        raise CohortError(listed("people who cannot be forecast", told, "mend the images, or leave the people out"))
    write_tsv(folder / "forecast.tsv", pd.DataFrame(rows, columns=[*_IDS[:3], "estimate", "sd"], dtype="string"))
    write_failures(folder / "failures.tsv", failures)
    write_json(folder / "forecast.json", {**about, **_ABOUT_IMAGES})
    write_description(folder, f"{cohort.root.resolve().name} forecast", [cohort.root.name], about)
    return tuple(failures)


def _checked_years(years: Sequence[float]) -> tuple[float, ...]:
    wrong = [f"{year:g}" for year in years if not (np.isfinite(year) and year >= 0)]
    if wrong or not years:
        raise CovariateError(
            f"--years {', '.join(wrong) or 'without a number'}: give numbers of 0 and more, e.g. --years 1,2,5"
        )
    return tuple(dict.fromkeys(float(year) for year in years))


def _checked_others(schema: CovariateSchema, others: Mapping[str, str], followed: str) -> dict[str, str | float]:
    if followed in others:
        raise CovariateError(
            f"--set {followed}={others[followed]}: --years says which {followed}; set other covariates"
        )
    return schema.references(list(others), others) if others else {}


def _whose(cohort: Cohort, frame: pd.DataFrame) -> list[str]:
    return cohort.table.loc[frame.index, "participant_id"].astype(str).tolist()


def _blocks(people: int, cells: int) -> Iterator[slice]:
    """Yield people a few at a time; the more of them the fewer cells each has."""
    size = max(1, min(_MOST, _CELLS // max(cells, 1)))
    yield from (slice(start, min(start + size, people)) for start in range(0, people, size))


def _expected(model: Model, cohort: Cohort, frame: pd.DataFrame, last: pd.Index, further: pd.DataFrame) -> Forecast:
    """Return the forecast of a few people, of whom the last visits are named, in the order of `further`."""
    whose = np.array(_whose(cohort, frame), object)
    names = cohort.table.loc[last, "participant_id"].astype(str)
    visits = frame.iloc[np.flatnonzero(pd.Index(whose).isin(names))]
    values = in_columns(cohort.source.features.rows(visits.index), model.columns.names).values
    dataset = model.dataset(values, visits, _whose(cohort, visits))
    return model.forecast(dataset, further, np.repeat(names.to_numpy(object), len(further) // len(last)).tolist())


def _rows(
    found: Forecast,
    last: pd.DataFrame,
    years: Sequence[float],
    names: Sequence[str],
    model: Model,
    form: "EdgeForm | None",
) -> bytes:
    """Return lines: person, session, years and feature, then the numbers; features in the order of their table."""
    place = {name: k for k, name in enumerate(model.columns.names)}
    order = [place[name] for name in names]
    values = [found.estimate, *(end for share in SHARES for end in found.interval(share / 100))]
    estimate, *ends = (own[:, order] for own in values)
    sd = found.sd[:, order]
    if form is not None:  # each edge is a monotonous function of the model's column
        sd = sd * (1 - np.tanh(estimate) ** 2)
        estimate, *ends = (form.released(own) for own in (estimate, *ends))
    numbers = np.stack([estimate, sd, *ends], axis=-1)
    lines = rows_text(numbers.reshape(-1, len(NUMBERS))).decode().splitlines()
    sessions = last["session_id"].astype(str) if "session_id" in last else [MISSING] * len(last)
    ids = (
        f"{who}\t{session}\t{year:g}\t{name}\t"
        for who, session in zip(last["participant_id"].astype(str), sessions, strict=True)
        for year in years
        for name in names
    )
    return "".join(f"{one}{line}\n" for one, line in zip(ids, lines, strict=True)).encode()


def _about(
    saved: SavedModel,
    years: Sequence[float],
    others: Mapping[str, str | float],
    adapted: Sequence[Adaptation],
) -> dict[str, Any]:
    """Return what stands beside the table: what was asked of which model."""
    return {
        "Description": "What a further visit is expected to measure, told from all visits of the person. A model's answer.",
        "Model": saved.named,
        "ModelKind": saved.model.kind,
        "ModelDigest": saved.provenance.digest,
        "MedrepVersion": __version__,
        "Along": saved.model.followed,
        "Years": list(years),
        "Set": dict(others),
        "AdaptedLevels": [asdict(one) for one in adapted],
        **left_alone(saved.model),
    }


_FROM = {
    "from_session": {"Description": "the person's last visit, which years count from"},
    "years": {"Description": "how long after it, in the unit of Along"},
}
_ABOUT_TABLE = {
    **_FROM,
    "feature": {"Description": "column of the table of features"},
    "estimate": {
        "Description": "mean of what a further visit is expected to measure, n/a where the model says nothing"
    },
    "sd": {"Description": "its standard deviation: the person, the noise of a visit, and what is unknown of effects"},
    **{
        f"{end}_{share}": {"Description": f"{side} end of the interval that holds {share} % of what may be measured"}
        for share in SHARES
        for end, side in (("low", "lower"), ("high", "upper"))
    },
}
_ABOUT_IMAGES = {
    **_FROM,
    "estimate": {
        "Description": "image of what a further visit is expected to measure, as the last one where the model says nothing"
    },
    "sd": {"Description": "image of its standard deviation, 0 where the model says nothing"},
}
