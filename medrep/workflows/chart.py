"""``chart``: centiles of each feature over age (or another covariate), with people among them: a table, pictures and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep import __version__
from medrep._files import output_folder, write_json
from medrep.cohort.cohort import Cohort
from medrep.cohort.compositions import CompositionForm
from medrep.cohort.features import in_columns
from medrep.cohort.files import Place
from medrep.cohort.kinds import SILENT, Listener, imported
from medrep.cohort.kinds.base import RowForm
from medrep.cohort.kinds.connectivity import EdgeForm
from medrep.cohort.participants import count_participants
from medrep.cohort.support import outside_json, outside_training
from medrep.derivatives.bids import OUTSIDE
from medrep.derivatives.charts import COLUMNS, Chart, Layout, Placed, about_columns, write_centiles, write_pictures
from medrep.errors import CovariateError, MedrepError, ModelError, listed
from medrep.models import Adaptation, Model
from medrep.models.base import Curves
from medrep.models.left_alone import left_alone
from medrep.models.saved import SavedModel
from medrep.workflows.cohorts import (
    Selection,
    adapted_by,
    check_earlier,
    check_output,
    inputs_of,
    load_trained,
    read_unseen,
    refuse_holes,
    refuse_unmeasured,
)

PER_CENT = (2.0, 10.0, 25.0, 50.0, 75.0, 90.0, 98.0)
MOST_FEATURES = 500
PICTURES = "figures"
Points = Literal["moved", "measured", "none"]


@dataclass(frozen=True)
class ChartRequest:
    """Options of the command.

    Attributes:
        per_cent: Centiles to draw.
        along: The covariate that curves are drawn over; empty for age, or else the first continuous one.
        by: Covariates whose levels have curves of their own; None for sex, or else the first categorical one.
        others: Covariate -> value that curves are drawn at, where it is not the model's reference: ``site``.
        points: Whether people are ``moved`` to what curves are drawn at, shown as they were ``measured``, or not at all.
        draw: Features; all if empty.
        unseen_site: What sites that training did not have do.
        reference_people: ``COLUMN=VALUE``: whom unseen sites are estimated from; all of their people, if empty.
        extrapolate: Whether people far outside the range of training are taken.
        only: Participants; all if empty.
        exclude: Participants to leave out.
        overwrite: Whether OUT may be replaced.
    """

    per_cent: tuple[float, ...] = PER_CENT
    along: str = ""
    by: tuple[str, ...] | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    points: Points = "moved"
    draw: Sequence[str] = ()
    unseen_site: Literal["error", "adapt"] = "error"
    reference_people: str = ""
    extrapolate: bool = False
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overwrite: bool = False


@dataclass(frozen=True)
class Charted:
    """Result of the command.

    Attributes:
        features: How many have curves.
        people: Who is in the cohort, in words.
        results: What was written, by name.
    """

    features: int
    people: str
    results: Mapping[str, Path]


def chart(
    source: Place | Cohort,
    out: Path,
    model: Path | SavedModel,
    request: ChartRequest | None = None,
    listener: Listener = SILENT,
) -> Charted:
    """Write centiles.tsv, centiles.json, a picture of each feature, and a page.

    Args:
        source: The cohort: people who are drawn among the curves.
        out: Where to write.
        model: What `train` wrote to OUT/model, or ``models:/NAME@ALIAS``, or a model at hand.
        request: What to draw.
        listener: Who is told.

    Raises:
        CovariateError: Covariates or levels that the model does not know, or that curves cannot be drawn over.
        ModelError: A model without ``centiles``, or of images.
        MedrepError: Anything about the input that cannot be used, by name.
    """
    from medrep.report.build import write_report
    from medrep.report.data_chart import chart_report_data
    from medrep.report.data_store import ReportData, cohort_summary, write_report_data

    request = request or ChartRequest()
    check_output(out, overwrite=request.overwrite, inputs=inputs_of(source, model))
    probabilities = _checked_centiles(request.per_cent)
    trained = load_trained(model)
    form = _form(trained)
    names = _checked_features(trained.model.columns.names, request.draw)
    _check_names(trained.model)
    who = Selection(request.only, request.exclude, request.unseen_site, request.extrapolate, tolerant=True)
    cohort, frame = read_unseen(source, trained, who, listener)
    check_earlier(cohort, trained, listener)
    refuse_holes(cohort)
    refuse_unmeasured(trained.model, cohort, frame, listener)
    known, adapted, _ = adapted_by(trained.model, cohort, frame, request.reference_people, listener)
    others = known.schema.references(list(request.others), request.others) if request.others else {}
    layout = Layout.of(known.schema, request.along, request.by, others)
    found = _drawn(known, cohort, frame, _Asked(layout, probabilities, names, request.points), form)
    beyond = outside_json(outside_training(known.schema, frame))
    about = _about(trained, layout, request, adapted) | ({OUTSIDE: beyond} if beyond else {})
    people = count_participants(cohort.table)
    with output_folder(out) as partial:
        write_centiles(partial / "centiles.tsv", found)
        pictures = dict[str, str]()
        with listener.track("draw", len(names), "features") as advance:
            for name, file in write_pictures(partial / PICTURES, found):
                pictures[name] = file
                advance(1)
        write_json(partial / "centiles.json", about | {"Figures": pictures} | about_columns(layout))
        title = f"Centiles of {cohort.root.resolve().name}"
        told = {"command": "chart", "title": title, "model": trained.model.kind, "people": people, **about}
        summary = cohort_summary(frame, known.schema, cohort.notes, _whose(cohort, frame))
        exhibits = {"about": ReportData(told), "chart": chart_report_data(found), "cohort": summary}
        write_report_data(partial, exhibits)
        write_report(partial)
    results = {"centiles": out / "centiles.tsv", "figures": out / PICTURES, "report": out / "report.html"}
    return Charted(len(names), people, results)


@dataclass(frozen=True, eq=False)
class _Asked:
    """Request as read: where, which centiles, which features, and people how."""

    layout: Layout
    probabilities: tuple[float, ...]
    names: tuple[str, ...]
    points: Points


def _drawn(known: Model, cohort: Cohort, frame: pd.DataFrame, asked: _Asked, form: RowForm | None) -> Chart:
    """Return curves and people in the form in which features are given."""
    columns = known.columns.names
    chosen = [columns.index(name) for name in asked.names]
    curves = known.curves(asked.layout.frame, np.asarray(asked.probabilities))

    def released(rows: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
        return rows if form is None else form.released(rows)

    if isinstance(form, CompositionForm):
        middle = known.curves(asked.layout.frame, np.array([0.5])).value
        shown = [_against_rest(form, own, middle)[:, :, chosen] for own in _parts(curves)]
    else:
        shown = [released(own.reshape(-1, len(columns))).reshape(own.shape)[:, :, chosen] for own in _parts(curves)]
    placed = None
    if asked.points != "none":
        values = in_columns(cohort.source.features.rows(frame.index), columns).values
        dataset = known.dataset(values, frame, _whose(cohort, frame))
        own = Placed.of(known, dataset, asked.layout, transformed=asked.points == "moved")
        values, expected = released(own.values)[:, chosen], released(own.expected)[:, chosen]
        placed = Placed(own.keys, own.times, own.groups, values, own.z[:, chosen], own.before, expected)
    return Chart(asked.layout, asked.probabilities, asked.names, Curves(*shown), placed)


def _parts(curves: Curves) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return curves.value, curves.low, curves.high


def _whose(cohort: Cohort, frame: pd.DataFrame) -> list[str]:
    return cohort.table.loc[frame.index, "participant_id"].astype(str).tolist()


def _against_rest(form: CompositionForm, curves: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return centiles of each part, the others to one another as their medians are."""
    width = curves.shape[-1]
    medians = np.broadcast_to(middle, curves.shape).reshape(-1, width)
    return form.against_rest(curves.reshape(-1, width), medians).reshape(curves.shape)


def _form(trained: SavedModel) -> RowForm | None:
    """Return the form in which features are given; None where a model has it. Refuse models that curves cannot be drawn of.

    Raises:
        ModelError: Why, and what can.
    """
    if refused := trained.model.refusal("centiles"):
        raise ModelError(f"{trained.named}: {refused}")
    kind = trained.input
    if not kind.tabular:
        raise ModelError(
            f"{trained.named}: the model was trained on {kind.kind} data, and curves are drawn of the features of a table; train"
            " one on measures of regions (features.tsv), or see where people are unusual with medrep score"
        )
    form: RowForm | None = imported(kind.form)(kind.section, trained.model.columns.names) if kind.form else None
    if isinstance(form, EdgeForm) and form.section.measure == "tangent":
        raise ModelError("a matrix has no centile an edge: charts are not of measure tangent; train with correlation")
    return form


def _checked_centiles(per_cent: Sequence[float]) -> tuple[float, ...]:
    wrong = [f"{one:g}" for one in per_cent if not 0 < one < 100]
    if wrong or not per_cent:
        raise MedrepError(
            f"--centiles {', '.join(wrong) or 'without a number'}: give per cent between 0 and 100, e.g. --centiles 5,50,95"
        )
    return tuple(sorted({one / 100 for one in per_cent}))


def _checked_features(names: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        some = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        raise ModelError(listed("--draw: features that the model does not have", unknown, f"it has {some}"))
    chosen = tuple(dict.fromkeys(wanted)) or tuple(names)
    if len(chosen) > MOST_FEATURES:
        raise ModelError(
            f"{len(chosen)} features are too many for one page (at most {MOST_FEATURES}); name some with --draw a,b"
        )
    return chosen


def _check_names(model: Model) -> None:
    clash = [name for name in model.schema.names if name in ("feature", *COLUMNS)]
    if clash:
        raise CovariateError(
            f"covariates called {', '.join(clash)}: centiles.tsv has columns of that name; train with another name and"
            " `column: ...` in the configuration"
        )


def _about(trained: SavedModel, layout: Layout, request: ChartRequest, adapted: Sequence[Adaptation]) -> dict[str, Any]:
    """Return what stands beside the table: what was drawn, of which model."""
    return {
        "Description": "Centiles of features among people of given covariates, as a model of the people of training has them."
        " How rare a value is; no diagnosis.",
        "Model": trained.named,
        "ModelKind": trained.model.kind,
        "ModelDigest": trained.provenance.digest,
        "MedrepVersion": __version__,
        "Along": layout.along,
        "By": list(layout.by),
        "At": dict(layout.at),
        "Points": request.points,
        "Intervals": "95 %, of each centile by itself, by the delta method: what is not known of location, scale and shape",
        "AdaptedLevels": [asdict(one) for one in adapted],
        **left_alone(trained.model),
    }
