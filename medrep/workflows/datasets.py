"""The verbs on people at hand, as ``import medrep as mr`` offers them; each calls what the command line calls.

What the command line says of doubtful values is a Python warning here; notes and progress are not shown.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd
import yaml

from medrep._files import model_folder
from medrep.batch.run import BatchOptions, BatchResult
from medrep.cohort import cohort as cohorts
from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset, Origin
from medrep.cohort.files import CohortFiles
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import Silent
from medrep.cohort.participants import KEY_COLUMNS
from medrep.config import Config, parse_config, read_config
from medrep.derivatives.bids import MISSING
from medrep.errors import listed
from medrep.models.prediction import How
from medrep.models.saved import SavedModel
from medrep.workflows.audit import AuditFindings, AuditRequest
from medrep.workflows.audit import audit as audit_cohort
from medrep.workflows.cohorts import Selection, load_trained, read_unseen
from medrep.workflows.fitting import calibrated, described, fit, fit_readouts, fit_schema, warn_of_slips
from medrep.workflows.forecast import NUMBERS, ForecastRequest
from medrep.workflows.forecast import forecast as forecast_cohort
from medrep.workflows.score import ScoreRequest
from medrep.workflows.score import score as score_cohort
from medrep.workflows.transform import ExportRequest
from medrep.workflows.transform import export as export_cohort

if TYPE_CHECKING:
    from medrep.workflows.compare import Compared, CompareRequest


class _Warning(Silent):
    """Tells Python what a person should look at before they trust the result."""

    def warn(self, text: str) -> None:
        """Warn, as of the line that called medrep."""
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("medrep."):
            frame, level = frame.f_back, level + 1
        warnings.warn(text, UserWarning, stacklevel=level)


_LISTENER = _Warning()
_INLINE = BatchOptions(engine="inline")


def read_cohort(
    folder: Path | str | CohortFiles,
    config: Path | str | Config | SavedModel = "linear.yaml",
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    unseen_site: Literal["error", "adapt"] = "error",
    covariates: Path | str | None = None,
) -> Dataset:
    """Read people's values and covariates; images into a scratch file without a name.

    Args:
        folder: A BIDS folder, a folder with participants.tsv and features.tsv, a table (CSV, TSV, Excel, Parquet), FreeSurfer's
            SUBJECTS_DIR, or a MONAI datalist JSON; or `CohortFiles`, which also say where ids, visits and further tables are.
        config: What is read and which covariates there are: a YAML file, a shipped one by its name, or what `read_config` gave.
            Or a model, whose people they are to be: images come on its grid, covariates in its form.
        overrides: Of a file, as ``--set`` has them: ``input.kind=volume``, ``covariates.site=null``.
        only: Participants to read, with or without ``sub-``; all if empty.
        exclude: Participants to leave out.
        unseen_site: With a model: whether sites that its training did not have are refused.
        covariates: A table of covariates, where the folder or table has none.

    Returns:
        The people. `train`, `score`, `audit` and `export` need nothing more.

    Raises:
        MedrepError: What is missing, contradictory or not readable; everybody it concerns is listed.
    """
    place = folder if isinstance(folder, CohortFiles) else CohortFiles(Path(folder))
    place = place if covariates is None else replace(place, covariates=Path(covariates))
    if isinstance(config, SavedModel):
        who = Selection(only, exclude, unseen_site, extrapolate=True)
        cohort, frame = read_unseen(place, config, who, _LISTENER)
        return _read(cohort, frame, config.model.schema, Origin(cohort, config.input), config.model.columns)
    wanted = config if isinstance(config, Config) else read_config(config, overrides)
    wanted = replace(wanted, input=cohorts.with_changes(wanted.input, place))
    cohort = cohorts.read_cohort(place, wanted.input, declared=wanted.covariates, only=only, exclude=exclude)
    read = read_covariates(cohort.table, wanted.covariates, cohort.units, cohort.levels)
    cohort = cohort.select(read.frame.index)
    schema = CovariateSchema.fit(read.frame, read.declared)
    kind = cohort.input.measured(cohort.source, _LISTENER)[0]
    return _read(cohort, schema.transfer(read.frame), schema, Origin(cohort, kind, wanted))


def _read(
    cohort: cohorts.Cohort,
    frame: pd.DataFrame,
    schema: CovariateSchema,
    origin: Origin,
    like: Columns | None = None,
) -> Dataset:
    """Read the values of people, on the grid of a model or on their own."""
    whole = replace(cohort, input=origin.read_as, source=origin.read_as.as_measured(cohort.source))
    with tempfile.TemporaryFile() as scratch:  # what is mapped stays until nobody looks at it
        where = f"in {tempfile.gettempdir()}"
        values, columns = cohorts.read_matrix(whole, scratch, _LISTENER, like=like, where=where)
    whose = cohort.table["participant_id"].astype(str).tolist()
    sessions = cohort.table["session_id"].astype(str).tolist() if "session_id" in cohort.table else None
    told = like is None or cohort.input.group in cohort.table  # whom a model meets need not say
    groups = cohort.groups if told else None
    return Dataset(values, frame, schema, columns, whose, sessions, origin, groups)


def train(
    dataset: Dataset,
    *,
    model: str | None = None,
    settings: Any = None,
    seed: int | None = None,
    held_out: Dataset | None = None,
) -> SavedModel:
    """Fit a model to people.

    Args:
        dataset: The people of training.
        model: A key of ``medrep.models.MODELS``, as ``linear``; by default that of the configuration they were read for, or
            ``linear``.
        settings: The model's settings by name, as a configuration has them, or an instance of its settings.
        seed: Of every random step; by default that of the configuration, or 0.
        held_out: People who are kept from training, on whom the shift gate of `score` is calibrated.

    Raises:
        MedrepError: Covariates that cannot be told apart, settings that are none, or data that cannot be used; all of them.
    """
    config = _config(dataset, model, settings, seed)
    cohort = dataset.as_cohort()
    covariates = read_covariates(cohort.table, config.covariates, cohort.units, cohort.levels)
    cohort = cohort.select(covariates.frame.index)
    warn_of_slips(cohort, covariates, config, _LISTENER)
    frame, schema = fit_schema(cohort, covariates.frame, covariates.declared, _LISTENER)
    kind = cohort.input.measured(cohort.source, _LISTENER)[0]
    if not kind.tabular and dataset.origin is not None and dataset.origin.read_as == kind:
        training = replace(dataset.select(cohort.table.index), covariates=frame, schema=schema)
    else:
        training = _read(cohort, frame, schema, Origin(cohort, kind, config))
    cohort = replace(cohort, input=kind)
    fitted = fit(training, config, _LISTENER, tabular=kind.tabular)
    shift = None
    if held_out is not None:
        others = held_out.as_cohort()
        others = replace(others, input=kind, source=kind.as_measured(others.source))
        known = read_covariates(others.table, config.covariates, others.units, others.levels).frame
        shift = calibrated(fitted.model, others.select(known.index), known, _LISTENER)
    return described(fitted, training, cohort, fit_readouts(training, config, _LISTENER), shift)


def _config(dataset: Dataset, model: str | None, settings: Any, seed: int | None) -> Config:
    """Return what is fitted: as the people were read for, but for what is given."""
    known: Config | None = None if dataset.origin is None else dataset.origin.config
    if known is None:
        known = Config(input=dataset.as_cohort().input, covariates=dataset.schema.declared)
    content = yaml.safe_load(known.to_yaml())
    if model is not None and model != known.model:
        content |= {"model": model, "settings": {}}
    if isinstance(settings, Mapping):
        content["settings"] = dict(settings)
    if seed is not None:
        content["seed"] = seed
    config = parse_config(content, "train")
    return config if settings is None or isinstance(settings, Mapping) else replace(config, settings=settings)


def load(folder: Path | str) -> SavedModel:
    """Load a model.

    Args:
        folder: What `medrep train` or `SavedModel.save` wrote, or ``models:/NAME@ALIAS`` of a registry.

    Raises:
        MedrepError: No model, or a damaged one.
    """
    return load_trained(model_folder(str(folder)))


def score(  # noqa: PLR0913 - a keyword for each option of the command
    model: SavedModel,
    dataset: Dataset,
    *,
    false_alarms: float = 0.05,
    unshrink: How = "none",
    unseen_site: Literal["error", "adapt"] = "error",
    reference_people: str = "",
    extrapolate: bool = False,
    out: Path | str | None = None,
) -> pd.DataFrame:
    """Say how well a model draws each person, and how unusual they are at their covariates.

    Args:
        model: The model.
        dataset: The people; images are read from their files again.
        false_alarms: Rate at which the shift gate rejects people who are like those of calibration.
        unshrink: How the regression of predicted covariates to the mean is undone.
        unseen_site: What sites that training did not have do.
        reference_people: ``diagnosis=TD``: whom such sites are estimated from; all of their people, if empty.
        extrapolate: Whether people far outside the range of training are taken.
        out: Where what `medrep score` writes is to stay; nowhere by default.

    Returns:
        The table scores.tsv: a row a person.

    Raises:
        MedrepError: People who cannot be used, by name.
    """
    request = ScoreRequest(false_alarms, unshrink, unseen_site, extrapolate, reference_people=reference_people)
    with _folder(out) as folder:
        done = score_cohort(dataset.as_cohort(), folder, model, request, _LISTENER, options=_INLINE)
        _warn_of_failures(done)
        return pd.read_csv(folder / "scores.tsv", sep="\t", dtype=dict.fromkeys(KEY_COLUMNS, str))


def forecast(  # noqa: PLR0913 - a keyword for each option of the command
    model: SavedModel,
    dataset: Dataset,
    years: Sequence[float | int],
    *,
    others: Mapping[str, str | float | int] | None = None,
    unseen_site: Literal["error", "adapt"] = "error",
    reference_people: str = "",
    extrapolate: bool = False,
    out: Path | str | None = None,
) -> pd.DataFrame:
    """Say what further visits of people will measure, with intervals, told from all of their visits that are here.

    Args:
        model: The model, trained on people who came again.
        dataset: Visits of people, one or more each.
        years: How long after each person's last visit.
        others: Covariate -> value at that time, where it is not that of the last visit: ``{"site": "S0"}``.
        unseen_site: What sites that training did not have do.
        reference_people: ``diagnosis=TD``: whom such sites are estimated from; all of their people, if empty.
        extrapolate: Whether people far outside the range of training are taken, and ages to come that are.
        out: Where what `medrep forecast` writes is to stay; nowhere by default.

    Returns:
        The table forecast.tsv: a row a person, number of years and feature; of images a row a person and number of years, with
        the files below ``out``.

    Raises:
        MedrepError: A model that does not forecast, or people who cannot be used, by name.
    """
    chosen = {name: str(value) for name, value in (others or {}).items()}
    request = ForecastRequest(tuple(float(year) for year in years), chosen, unseen_site, reference_people, extrapolate)
    with _folder(out) as folder:
        done = forecast_cohort(dataset.as_cohort(), folder, model, request, _LISTENER)
        texts = dict.fromkeys(("participant_id", "from_session", "feature"), str)
        return pd.read_csv(
            done.table, sep="\t", dtype=texts, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, MISSING)
        )


def audit(
    model: SavedModel,
    dataset: Dataset,
    by: Sequence[str] | str = (),
    *,
    remove: Sequence[str] = (),
    outcome: str = "",
    request: AuditRequest | None = None,
    out: Path | str | None = None,
) -> AuditFindings:
    """Measure what a model leaks, whom it harms and what its counterfactuals are worth, on people it never saw.

    Args:
        model: The model.
        dataset: The people; images are read from their files again.
        by: Columns whose groups are compared: ``["sex", "age:20/40/60/80", "site"]``; by default the model's covariates.
        remove: Covariates that are removed; by default the batches, such as site.
        outcome: Column that the data are for, such as diagnosis.
        request: Everything else that `medrep audit` can be asked for.
        out: Where what `medrep audit` writes is to stay, for `medrep register`; nowhere by default.

    Returns:
        What was found: ``findings`` is the table audit.tsv, ``expected`` what the gates of `medrep promote` would say.

    Raises:
        MedrepError: People of training, too few people, or people who cannot be used, by name.
    """
    asked = request or AuditRequest()
    asked = replace(
        asked,
        by=(by if isinstance(by, str) else ",".join(by)) or asked.by,
        remove=tuple(remove) or asked.remove,
        outcome=outcome or asked.outcome,
    )
    with _folder(out) as folder:
        return audit_cohort(dataset.as_cohort(), folder, model, asked, _LISTENER)


def compare(
    first: SavedModel,
    second: SavedModel,
    dataset: Dataset,
    *,
    request: "CompareRequest | None" = None,
    out: Path | str | None = None,
) -> "Compared":
    """Say whether latents of two models may be used together: two versions, two seeds, models of two sites.

    Args:
        first: Model A.
        second: Model B.
        dataset: The people; those whom either model was trained on are left out; images are read from their files again.
        request: Everything else that `medrep compare` can be asked for.
        out: Where what `medrep compare` writes is to stay; nowhere by default.

    Returns:
        What was found: ``verdict`` and ``reason``, ``findings``, which is the table compare.tsv, and ``maps``: latents of A as B
        would have them are ``maps["a_to_b"].apply(latents)``.

    Raises:
        MedrepError: Models without latents, too few people whom neither saw, or people who cannot be used, by name.
    """
    from medrep.workflows.compare import compare as compare_models  # scipy's statistics, which other verbs do not need

    with _folder(out) as folder:
        return compare_models(first, second, dataset.as_cohort(), folder, request, _LISTENER)


def export(
    model: SavedModel,
    dataset: Dataset,
    out: Path | str,
    remove: Sequence[str],
    *,
    keep: Sequence[str] = (),
    references: Mapping[str, str | float | int] | None = None,
    request: ExportRequest | None = None,
) -> BatchResult:
    """Write people without the effects of some covariates, as `medrep export` does.

    Args:
        model: The model.
        dataset: The people; images are read from their files again.
        out: Where to write.
        remove: Covariates to remove.
        keep: Covariates named as kept; everything that is not removed is kept, named or not.
        references: Removed covariate -> value to move to, where it is not the model's default.
        request: Everything else that `medrep export` can be asked for.

    Returns:
        How many people were written, who could not be, and where things lie.

    Raises:
        MedrepError: People who cannot be used, by name.
    """
    asked = request or ExportRequest(())
    chosen = {name: str(value) for name, value in (references or {}).items()} or asked.references
    asked = replace(asked, remove=tuple(remove), keep=tuple(keep) or asked.keep, references=chosen)
    done = export_cohort(dataset.as_cohort(), Path(out), model, asked, _LISTENER, options=_INLINE)
    _warn_of_failures(done)
    return cast(BatchResult, done)  # only a dry run returns nothing


def _warn_of_failures(done: BatchResult | None) -> None:
    if done is not None and done.failures:
        failed = [f"{failure.participant}: {failure.error}" for failure in done.failures]
        _LISTENER.warn(listed("failed", failed))


@contextmanager
def _folder(out: Path | str | None) -> Iterator[Path]:
    """Yield where to write; a folder that goes again by default."""
    if out is not None:
        yield Path(out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "out"
