"""`CovariateRemover`: a medrep model of a feature table as a scikit-learn transformer."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from medrep.cohort.columns import cell_text
from medrep.cohort.compositions import CompositionForm, composition_form
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset, row_groups
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.kinds.features import FeaturesKind
from medrep.cohort.plausibility import refuse_codes
from medrep.cohort.splits import TrainingRows, cohort_fingerprint, row_fingerprint, row_trace
from medrep.cohort.support import Support, outside_training, refuse_extrapolation
from medrep.erasure import Certificate
from medrep.errors import EstimatorError, listed
from medrep.estimators.parameters import Plan, read_plan, summary_html
from medrep.estimators.validation import Layout, dense, sorting_keys
from medrep.models import MODELS, Model
from medrep.models.left_alone import unmeasured
from medrep.models.saved import Provenance, SavedModel


class CovariateRemover(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped here
    """Takes covariates (age, sex, site) out of features; looks at nobody but the people it is fitted on, and never at ``y``.

    Every row is a person. The covariates come in one of two ways:

    - **Beside X**: ``fit(X, covariates=frame)``, ``transform(X, covariates=frame)``, a pandas DataFrame with one row a row of X,
      in the same order (where X is a DataFrame, with the same index). Within a pipeline scikit-learn's metadata routing hands
      it on: ``sklearn.set_config(enable_metadata_routing=True)``, then ``set_fit_request(covariates=True)`` and
      ``set_transform_request(covariates=True)``. scikit-learn hands metadata to ``fit`` and ``score``, but not to the
      ``predict`` of ``cross_val_predict`` and of scorers.
    - **As columns of X**: where ``covariates`` is not given, X has a column for each declared covariate: a column of that name
      of a pandas DataFrame, or the column at a position that is declared in place of a name. Those columns are read as
      covariates, are no features, and are not returned: the result is narrower than X. This works wherever X goes.

    A covariate has to come in exactly one of the two; everything else in X is a feature and has to be a number. With no
    covariates declared there is nothing to remove, and X is returned as it is. Texts in the index of a DataFrame are people's
    names; with names the order of rows does not change a linear model.

    Args:
        remove: Names of covariates to remove; None removes those that are declared as batch.
        covariates: Name, or position in X -> ``"continuous"``, ``"categorical"``, ``"batch"`` (a category that acts on location
            and scale, as scanners do), or properties as in a YAML configuration, see `Covariate`. Covariates that are not removed
            are kept: what they do to the features is told apart from what the removed ones do.
        model: ``"linear"``, ``"conditional_vae"`` or ``"growth_chart"``.
        settings: The model's own settings, by name (`LinearSettings`, `VaeSettings`, `ChartSettings`); None has the defaults.
        references: Removed covariate -> value it is moved to; by default the training mean, the most frequent level, or for a
            batch the pooled cohort.
        unseen_site: What levels of a batch covariate do that training did not have: ``"error"``, or ``"adapt"``, which
            estimates them from the people given to that call of ``transform``, so that these depend on each other; nothing of
            it stays in the estimator.
        missing: ``"error"``, or ``"keep"``: NaN cells are left out of the fit and stay NaN.
        compositions: Columns that are parts of a whole, name -> columns, for instance ``{"tissue": ["gm", "wm", "csf"]}``: the
            model sees their log-ratios, and what comes back is positive and sums to what it summed to
            (`medrep.cohort.compositions`).
        output: ``"data"``, features without the removed covariates, ``"latents"``, what is left of each person without any, or
            ``"deviations"``, how unusual each feature is (a growth chart's z; see `Chart`).
        random_state: Seed of every random step, a whole number.

    Attributes:
        model_: The fitted, frozen model; None where nothing was declared. All that was learned from people is in it.
        schema_: Its covariates as fitted, or None.
        certificates_: What linear probes are forecast to read of removed covariates in the latents; of a conditional VAE where
            nothing is kept, else empty.
        history_: What the fit tells: metric, name, value.
        n_features_in_: Columns of X, covariates among them counted.
        feature_names_in_: Their names, where X has any.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn takes parameters one by one
        self,
        remove: Any = None,
        *,
        covariates: Any = None,
        model: Any = "linear",
        settings: Any = None,
        references: Any = None,
        unseen_site: Any = "error",
        missing: Any = "error",
        output: Any = "data",
        random_state: Any = 0,
        compositions: Any = None,
    ) -> None:
        self.remove = remove
        self.covariates = covariates
        self.model = model
        self.settings = settings
        self.references = references
        self.unseen_site = unseen_site
        self.missing = missing
        self.output = output
        self.random_state = random_state
        self.compositions = compositions

    def fit(
        self,
        X: Any,
        y: Any = None,  # noqa: ARG002
        covariates: Any = None,
        participants: Any = None,
        groups: Any = None,
    ) -> "CovariateRemover":
        """Fit the model on these people.

        Args:
            X: People x columns, without or with the covariates.
            y: Not looked at.
            covariates: The people's covariates, where they are no columns of X.
            participants: Whose each row is, where people have several; by default each row is a person.
            groups: Whom each person belongs with, such as the family; None, or None for somebody, where that is nobody here.

        Raises:
            EstimatorError: Parameters or data that cannot be used, all of them by name.
            CovariateError: Covariates that cannot be read, told apart, or moved where ``references`` says.
            ModelError: Settings that do not fit the data.
        """
        table = dense(X)
        self._check_columns(X, reset=True)
        plan = self._plan()
        self._layout = Layout.of(plan, self._columns, covariates, self.missing)
        data, frame = self._layout.read(table, covariates, people=2 if plan.covariates else 1)
        self.model_: Model | None = None
        self.schema_: CovariateSchema | None = None
        self.certificates_: tuple[Certificate, ...] = ()
        self.history_ = pd.DataFrame(columns=["metric", "name", "value"])
        if not plan.covariates:
            return self
        refuse_codes(frame, plan.covariates)
        whose = _named("participants", participants, len(data))
        tied = _named("groups", groups, len(data))
        schema = CovariateSchema.fit(frame, plan.covariates)
        known = schema.transfer(frame).set_axis(sorting_keys(frame.index))
        target = schema.references(plan.removed, self.references)
        kind, data = self._as_modelled(data, frame)
        dataset = Dataset(data, known, schema, Columns(self._layout.features, data.shape[1], None), whose)
        if tied is not None:
            dataset = replace(dataset, groups=row_groups(dataset.whose.tolist(), tied, frame.index))
        model, self.history_ = MODELS[self.model].fit(dataset, plan.settings, seed=plan.seed)
        fingerprint = cohort_fingerprint([row_fingerprint(row) for row in data])
        rows = TrainingRows.of(map(row_trace, data), fingerprint, plan.seed)
        provenance = Provenance(dataset.people, fingerprint, rows)
        return self._take(SavedModel(model, kind, Support.fit(schema, known, whose), provenance), target)

    def transform(self, X: Any, covariates: Any = None, reference_people: Any = None) -> Any:
        """Return people without the removed covariates, or their latents.

        Args:
            X: People x columns as in `fit`; other people than those of training are brought into its schema.
            covariates: Their covariates, where they are no columns of X.
            reference_people: True for each row whom unseen levels are estimated from (``unseen_site="adapt"``), such as
                controls; None takes all of their people.

        Returns:
            People x features that are no covariates, in their own units; or people x latents.

        Raises:
            EstimatorError: Data that cannot be used, all cells by row and column.
            CovariateError: Levels that training did not have, or covariates that are missing: all people are listed.
        """
        data, frame, model = self._newcomers(X, covariates, reference_people)
        if model is None:
            return data
        people = model.dataset(self._received(data, frame), frame)
        if self.output == "deviations":
            self._refuse_unmeasured(model, people, None)
            return model.deviations(people).compute(slice(0, data.shape[1]))
        if self.output == "latents":
            self._refuse_unmeasured(model, people, None)
            return model.encode(people)
        self._refuse_unmeasured(model, people, self._target)
        return self._released(model.remove(people, self._target), people, data)

    def fit_transform(
        self, X: Any, y: Any = None, covariates: Any = None, participants: Any = None, groups: Any = None
    ) -> Any:
        """Fit on these people and return them transformed; see `fit` and `transform`."""
        return self.fit(X, y, covariates, participants, groups).transform(X, covariates)

    def counterfactual(
        self, X: Any, covariates: Any = None, *, extrapolate: bool = False, **values: str | float | int
    ) -> "pd.DataFrame | Float[np.ndarray, 'people features']":
        """Return people as the model expects them with other covariates, everything else of them as it is.

        Args:
            X: People, as for `transform`.
            covariates: The covariates they have.
            extrapolate: Whether numbers outside the range of training are allowed.
            **values: Covariate -> value, for instance ``age=70``.

        Returns:
            The features, in their own units; a DataFrame if X is one.

        Raises:
            CovariateError: Unknown covariates or levels, or numbers beyond training.
        """
        data, frame, model = self._newcomers(X, covariates)
        if model is None:
            raise EstimatorError("no covariates were declared, so that none can have another value; declare them")
        if not values:
            raise EstimatorError(f"nothing to set; name one or more of {', '.join(model.schema.names)}, e.g. age=80")
        target = model.schema.references(list(values), values)
        if not extrapolate:
            refuse_extrapolation(model.schema, target)
        people = model.dataset(self._received(data, frame), frame)
        self._refuse_unmeasured(model, people, target)
        transformed = self._released(model.remove(people, target), people, data)
        return (
            pd.DataFrame(transformed, index=X.index, columns=model.columns.names)
            if isinstance(X, pd.DataFrame)
            else transformed
        )

    def _as_modelled(
        self, data: Float[np.ndarray, "people features"], frame: pd.DataFrame
    ) -> tuple[FeaturesKind, Float[np.ndarray, "people features"]]:
        """Return what is known of the features, and the people's in the form of a model."""
        said = self.compositions or {}
        if not isinstance(said, Mapping):
            raise EstimatorError(
                f"compositions is {said!r}; give name -> columns, as {{'tissue': ['gm', 'wm', 'csf']}}"
            )
        groups = {
            str(name): (parts,) if isinstance(parts, str) else tuple(map(str, parts)) for name, parts in said.items()
        }
        form = composition_form(FeaturesInput(self.missing, compositions=groups), tuple(self._layout.features))
        if form is None:
            return FeaturesKind(FeaturesInput(self.missing)), data
        form = form.measured(data)
        return FeaturesKind(form.section), form.received(data, [str(key) for key in frame.index])

    @property
    def _form(self) -> CompositionForm | None:
        section = self._saved.input.section
        return (
            composition_form(section, self._saved.model.columns.names) if isinstance(section, FeaturesInput) else None
        )

    def _received(
        self, data: Float[np.ndarray, "people features"], frame: pd.DataFrame
    ) -> Float[np.ndarray, "people features"]:
        form = self._form
        return data if form is None else form.received(data, [str(key) for key in frame.index])

    def _released(
        self,
        rows: Float[np.ndarray, "people features"],
        people: Dataset,
        given: Float[np.ndarray, "people features"],
    ) -> Float[np.ndarray, "people features"]:
        form = self._form
        return rows if form is None else form.released(rows, people.values, given)

    def _refuse_unmeasured(self, model: Model, people: Dataset, target: "Mapping[str, str | float] | None") -> None:
        """Refuse values of which the model knows no effect; with ``missing="keep"`` they come back NaN."""
        cells = unmeasured(model, people, target) if self.missing == "error" else []
        if cells:
            cure = 'fit with people of that level who have the column, or pass missing="keep": they come back NaN'
            raise EstimatorError(listed("features without an effect to remove", [str(cell) for cell in cells], cure))

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Return the names of the columns that `transform` returns.

        Args:
            input_features: Names of the columns of X; None takes those of training.
        """
        check_is_fitted(self, "model_")
        names = super().get_feature_names_out(input_features)
        if self.model_ is not None and self.output == "latents":
            return np.asarray([f"latent{k}" for k in range(self._latents)], dtype=object)
        return np.delete(names, list(self._layout.places.values()))

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write the model as a folder of safetensors and JSON, as ``medrep train`` does, for ``medrep export --model FOLDER``.

        Args:
            folder: Where to write.
            overwrite: Whether a model folder that is there may be replaced.

        Raises:
            EstimatorError: Nothing to save, or something else is there.
        """
        check_is_fitted(self, "model_")
        path = Path(folder)
        if self.model_ is None:
            raise EstimatorError("no covariates were declared, so that there is no model to save; declare them")
        if path.exists() and not (overwrite and (path / "model.json").is_file()):
            cure = "give another folder" + ("" if overwrite else ", or overwrite=True to replace a model")
            raise EstimatorError(f"{path} is there already; {cure}")
        self._saved.save(path)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        remove: Any = None,
        references: Any = None,
        unseen_site: Any = "error",
        output: Any = "data",
    ) -> "CovariateRemover":
        """Return a fitted estimator from a model folder, that of `save` or one that ``medrep train`` wrote of a feature table.

        A folder holds the model, not what is to be done with it. In ``transform``, X has the features of training in their order;
        covariates come beside it, or as columns of a DataFrame, wherever in it they stand.

        Args:
            folder: The model folder.
            remove: As of the estimator; so are the others.
            references: Removed covariate -> value.
            unseen_site: ``"error"`` or ``"adapt"``.
            output: ``"data"`` or ``"latents"``.

        Raises:
            ModelError: Damaged, or no model folder.
            EstimatorError: A model of images, or parameters that cannot be used.
        """
        saved = SavedModel.load(Path(folder))
        model, wanted = saved.model, saved.input
        if not wanted.tabular or not model.tables:
            raise EstimatorError(
                f"{folder}: a model of {wanted.kind} data; an estimator takes models of feature tables"
            )
        found = cls(
            remove,
            covariates={c.declared.name: _properties(c.declared) for c in model.schema.fitted},
            model=model.kind,
            settings=asdict(model.settings),
            references=references,
            unseen_site=unseen_site,
            missing="keep" if wanted.keeps_missing else "error",
            output=output,
            random_state=model.seed,
            compositions=dict(getattr(wanted.section, "compositions", {})) or None,
        )
        found.n_features_in_ = model.columns.count
        if list(model.columns.names) != _unnamed(model.columns.count):
            found.feature_names_in_ = np.asarray(model.columns.names, dtype=object)
        plan = found._plan()
        found._layout = Layout(tuple(found._columns), plan.covariates, {}, found.missing)
        found.history_ = pd.DataFrame(columns=["metric", "name", "value"])
        target = model.schema.references(plan.removed, references)
        return found._take(saved, target)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "keep"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"] if self.output == "data" else ["float64"]
        return tags

    def _html_repr(self) -> str:
        diagram: str = super()._html_repr()
        model = getattr(self, "model_", None)
        if model is None:
            return diagram
        moved, people = self.output == "data", self._saved.provenance.people
        summary = summary_html(model, people, self._target, self.history_, self.certificates_, latents=not moved)
        return f"<div>{diagram}{summary}</div>"

    @property
    def _columns(self) -> list[str]:
        """Names of the columns of X."""
        names = getattr(self, "feature_names_in_", None)
        return _unnamed(self.n_features_in_) if names is None else [str(name) for name in names]

    def _plan(self) -> Plan:
        return read_plan(self._parameters(), self._columns, named=hasattr(self, "feature_names_in_"))

    def _parameters(self) -> Mapping[str, Any]:
        found: dict[str, Any] = self.get_params(deep=False)
        return found

    def _check_columns(self, X: Any, *, reset: bool) -> None:
        try:
            validate_data(self, X, reset=reset, skip_check_array=True)
        except ValueError as error:
            raise EstimatorError(str(error)) from None

    def _newcomers(
        self, X: Any, covariates: Any, reference_people: Any = None
    ) -> tuple[Float[np.ndarray, "people features"], pd.DataFrame, Model | None]:
        """Return features and covariates of people who come after the fit, and a model that knows their sites."""
        check_is_fitted(self, "model_")
        table, covariates = self._layout.parted(dense(X), covariates)
        self._check_columns(table if isinstance(table, pd.DataFrame) else X, reset=False)
        data, frame = self._layout.read(table, covariates)
        model = self.model_
        if model is None:
            return data, frame, None
        frame = model.schema.transfer(frame, unseen=self.unseen_site)
        # A warning: a fold of a cross-validation holds whoever it holds, and one person must not end it.
        if far := [one.said for one in outside_training(model.schema, frame) if one.far]:
            warnings.warn(listed("people far outside those of training", far, "the model guesses"), stacklevel=3)
        unseen = model.schema.unseen(frame)
        telling = _telling(reference_people, len(data), unseen)
        if unknown := [row for row, _ in unseen if telling[row]]:
            model, _ = model.adapt([model.dataset(self._received(data, frame)[unknown], frame.iloc[unknown])])
        return data, frame, model

    def _take(self, saved: SavedModel, target: Mapping[str, str | float]) -> "CovariateRemover":
        """Keep a fitted model, what a folder says beside it, and where the removed covariates go."""
        self._saved, self._target, model = saved, dict(target), saved.model
        self.model_, self.schema_ = model, model.schema
        removed = tuple(target) if self.output == "data" else model.schema.names
        kept = tuple(name for name in model.schema.names if name not in removed)
        self.certificates_ = model.certificates(removed, kept)
        anybody = {c.declared.name: [c.reference] for c in model.schema.fitted}
        self._latents = model.encode(model.dataset(np.zeros((1, model.columns.count)), pd.DataFrame(anybody))).shape[1]
        if self.output == "deviations" and (refused := model.refusal("deviations")):
            raise EstimatorError(f"output is 'deviations', but {refused}")
        if self.output == "latents" and not self._latents:
            raise EstimatorError(
                "output is 'latents', but the model keeps none of a person; give settings that keep some"
            )
        return self


def _named(what: str, given: Any, rows: int) -> list[str] | None:
    """Return a name for each row, as text; None where none is given. Raises EstimatorError for other rows than X has."""
    found = None if given is None else [cell_text(one) for one in given]
    if found is not None and len(found) != rows:
        raise EstimatorError(f"{what} names {len(found)} rows, X has {rows}; name one a row")
    return found


def _telling(given: Any, rows: int, unseen: Sequence[tuple[int, tuple[str, str]]]) -> np.ndarray:
    """Return the rows that unseen levels are estimated from; all where nothing is given.

    Raises EstimatorError for other rows than X has, cells that are not True or False, or levels none of whose people is told.
    """
    if given is None:
        return np.ones(rows, dtype=bool)
    telling = np.asarray(given)
    if telling.shape != (rows,) or telling.dtype != bool:
        raise EstimatorError(f"reference_people has to be True or False for each of the {rows} rows of X")
    lacking = {own for _, own in unseen} - {own for row, own in unseen if telling[row]}
    if lacking:
        levels = [f"{name} {level!r}" for name, level in sorted(lacking)]
        raise EstimatorError(
            listed("levels that training did not have, and none of whose people is in reference_people", levels)
        )
    return telling


def _unnamed(count: int) -> list[str]:
    return [f"x{position}" for position in range(count)]


def _properties(declared: Covariate) -> dict[str, Any]:
    """Return what was declared of a covariate and is not the default; nobody is dropped, since every row has to come back."""
    plain = asdict(Covariate(declared.name, declared.kind))
    told = {key: value for key, value in asdict(declared).items() if value not in (plain[key], "drop")}
    return {"kind": declared.kind, **told}
