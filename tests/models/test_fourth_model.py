"""A model that medrep does not know is one folder and one line: here a class in this file, and one entry of ``MODELS``.

It goes through every command by itself; what it cannot do it refuses by name, since it inherits the refusals.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import medrep.models
from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cli import main
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.grid import Columns
from medrep.errors import ModelError
from medrep.estimators import CovariateRemover
from medrep.models import MODELS, Adaptation, Model, Scores

REGISTERED = ("batch_means", ("tests.models.test_fourth_model", "BatchMeans"))


@dataclass(frozen=True)
class MeansSettings:
    """Settings of `BatchMeans`.

    Attributes:
        share: Of a batch's mean that is taken out.
    """

    share: float = 1.0


@dataclass(frozen=True, eq=False, repr=False)
class BatchMeans(Model):
    """Takes the mean of each level of each batch covariate out of each column."""

    schema: CovariateSchema
    columns: Columns
    settings: MeansSettings
    means: Mapping[str, np.ndarray]
    mean: np.ndarray
    sd: np.ndarray
    seed: int = 0

    kind = "batch_means"
    settings_type = MeansSettings
    error_unit = "sd"

    @classmethod
    def fit(cls, dataset, settings=None, *, seed=0, work=None):  # noqa: ARG003
        data, schema, settings = dataset.values, dataset.schema, settings or MeansSettings()
        model = cls(schema, dataset.columns, settings, {}, data.mean(axis=0), data.std(axis=0), seed)
        means = {
            name: model._level_means(name, data, dataset.covariates, schema.levels(name)) for name in schema.batches
        }
        history = pd.DataFrame([("fit", "sd", float(model.sd.mean()))], columns=["metric", "name", "value"])
        return replace(model, means=means), history

    def _level_means(self, name: str, data: np.ndarray, frame: pd.DataFrame, levels: Iterable[str]) -> np.ndarray:
        own = frame[name].astype(str).to_numpy()
        return self.settings.share * np.stack([data[own == level].mean(axis=0) - data.mean(axis=0) for level in levels])

    def _offset(self, frame: pd.DataFrame) -> np.ndarray:
        offset = np.zeros((len(frame), self.columns.count))
        for name, means in self.means.items():
            place = {level: row for row, level in enumerate(self.schema.levels(name))}
            for row, level in enumerate(frame[name].astype(str)):
                offset[row] += means[place[level]] if level in place else 0.0
        return offset

    def transform(self, dataset, to, out=None):
        data, frame = dataset.values, dataset.covariates
        transformed = np.empty(data.shape, data.dtype) if out is None else out
        transformed[...] = data + (self._offset(frame.assign(**to)) - self._offset(frame))
        return transformed

    def encode(self, dataset):
        return np.zeros((len(dataset), 0))

    def scores(self, dataset):
        z = (dataset.values - self.mean - self._offset(dataset.covariates)) / np.where(self.sd > 0, self.sd, 1)
        error = np.sqrt((z**2).mean(axis=1))
        return Scores(error, error, self.encode(dataset))

    def adapt(self, people):
        rows = list(people)
        data, frame = np.concatenate([own.values for own in rows]), pd.concat([own.covariates for own in rows])
        model, notes = self, []
        for name, level in sorted({unseen for _, unseen in self.schema.unseen(frame)}):
            new = self.settings.share * (data[(frame[name] == level).to_numpy()].mean(axis=0) - data.mean(axis=0))
            means = {**model.means, name: np.concatenate([model.means[name], new[None]])}
            model = replace(model, schema=model.schema.with_level(name, level), means=means)
            notes.append(Adaptation(name, level, int((frame[name] == level).sum()), 0.1, None, 1.0, 1.0))
        return model, tuple(notes)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = {"names": list(self.columns.names), "schema": to_json(self.schema), "seed": self.seed}
        arrays = {f"means.{name}": own for name, own in self.means.items()}
        return {**names, "settings": asdict(self.settings)}, {"mean": self.mean, "sd": self.sd, **arrays}

    @classmethod
    def restore(cls, content, arrays):
        schema, names = from_json(CovariateSchema, content["schema"]), tuple(content["names"])
        means = {name: arrays[f"means.{name}"] for name in schema.batches}
        settings = MeansSettings(**content["settings"])
        return cls(
            schema, Columns(names, len(names), None), settings, means, arrays["mean"], arrays["sd"], content["seed"]
        )


@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(medrep.models._KINDS, *REGISTERED)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fourth") / "cohort"
    size = ("--n", "100", "--sites", "2", "--seed", "5")
    assert main(["simulate", str(folder), "--kind", "features", *size, "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(registered: None, cohort: Path) -> Path:
    out, config = cohort.parent / "trained", cohort.parent / "means.yaml"
    covariates = "covariates: {age: {kind: continuous}, site: {kind: categorical, role: batch}}"
    config.write_text(f"model: batch_means\n{covariates}\nsettings: {{share: 1.0}}\n")
    assert main(["check", str(cohort), "--config", str(config), "--quiet"]) == 0
    switches = ("--config", str(config), "--hold-out", "0.5", "--tracking", "none", "--quiet")
    assert main(["train", str(cohort), str(out), *switches]) == 0
    return out / "model"


def test_it_trains_and_its_sheet_is_in_the_report(trained: Path) -> None:
    assert json.loads((trained / "model.json").read_text())["kind"] == "batch_means"
    assert "one folder and one line" in (trained.parent / "report.html").read_text()


def test_it_exports(trained: Path, cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cohort.parent / "exported"
    assert main(["export", str(cohort), str(out), "--model", str(trained), "--remove", "site"]) == 0
    assert "Combinations of columns" in json.loads((out / "features.json").read_text())["NotRemoved"]
    held = pd.read_csv(trained.parent / "people.tsv", sep="\t").set_index("participant_id")["part"] == "train"
    table = pd.read_csv(cohort / "participants.tsv", sep="\t").set_index("participant_id")
    transformed = pd.read_csv(out / "features.tsv", sep="\t").set_index("participant_id")
    by_site = transformed[held].groupby(table.loc[held[held].index, "site"]).mean()
    np.testing.assert_allclose(by_site.iloc[0], by_site.iloc[1], atol=1e-3)
    assert capsys.readouterr().err.count("Traceback") == 0


def test_it_scores(trained: Path, cohort: Path) -> None:
    out = cohort.parent / "scored"
    assert main(["score", str(cohort), str(out), "--model", str(trained), "--quiet"]) == 0
    assert pd.read_csv(out / "scores.tsv", sep="\t")["reconstruction_error"].between(0, 5).all()


def test_it_is_audited(trained: Path, cohort: Path) -> None:
    out = cohort.parent / "audited"
    switches = ("--remove", "site", "--by", "site", "--min-n", "10", "--quiet")
    assert main(["audit", str(cohort), str(out), "--model", str(trained), *switches]) == 0
    found = pd.read_csv(out / "audit.tsv", sep="\t").set_index(["metric", "group"])
    assert found.loc[("leakage", "exported/site"), "status"] == "ok"
    assert (found.loc["latents_active", "status"] == "insufficient").all()


def test_the_estimator_takes_it(registered: None, cohort: Path) -> None:
    X = pd.read_csv(cohort / "features.tsv", sep="\t").set_index("participant_id")
    table = pd.read_csv(cohort / "participants.tsv", sep="\t").set_index("participant_id")
    remover = CovariateRemover(covariates={"site": "batch"}, model="batch_means").fit(X, covariates=table)
    transformed = remover.transform(X, covariates=table)
    np.testing.assert_allclose(*(transformed[(table["site"] == site).to_numpy()].mean(axis=0) for site in ("S0", "S1")))


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        (("sample", "OUT", "--n", "3"), "a batch_means model does not sample; train with --config vae_features.yaml"),
        (
            ("export", "COHORT", "OUT", "--remove", "site", "--label-free"),
            "--label-free: a batch_means model needs everybody's covariates; train with --config vae_features.yaml",
        ),
        (("forecast", "COHORT", "OUT", "--years", "1"), "a batch_means model does not forecast; train with --config"),
        (("counterfactual", "COHORT", "OUT", "--years", "1"), "--years: a batch_means model does not forecast"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    trained: Path, cohort: Path, command: tuple[str, ...], refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"OUT": str(cohort.parent / "refused"), "COHORT": str(cohort)}
    assert main([*(places.get(word, word) for word in command), "--model", str(trained)]) == 1
    assert refused in " ".join(capsys.readouterr().err.split())


def test_everything_beyond_answers_or_refuses(registered: None) -> None:
    schema = CovariateSchema(())
    model = MODELS["batch_means"](schema, Columns(("a",), 1, None), MeansSettings(), {}, np.zeros(1), np.ones(1))
    assert model.capabilities == frozenset()
    assert model.certificates((), ()) == ()
    assert model.accelerated() is model
    assert model.effect_terms(model.settings) is None
    frame, points = pd.DataFrame(index=["sub-1"]), np.zeros((1, 3))
    person = model.dataset(np.zeros((1, 1)), frame)
    assert model.posterior(person)[1] is None
    contrast = medrep.models.linear.design.Contrast("age", 20.0, 60.0)
    for asked, said in (
        (lambda: model.sample(frame, seed=0), "does not sample"),
        (lambda: model.remove_unlabelled(person, []), "needs everybody's covariates"),
        (lambda: model.forecast(person, frame, ["sub-1"]), "does not forecast"),
        (lambda: model.follow(person, 1.0), "does not forecast"),
        (lambda: model.encode_unlabelled(person), "needs everybody's covariates"),
        (lambda: model.carry(person, points, []), "does not say how points move"),
        (lambda: model.surface_displacement(contrast, points, points), "does not say how points move"),
        (lambda: model.expected_level({}), "does not model organs"),
        (lambda: model.deviations(person), "does not say how unusual single columns are"),
        (lambda: model.change_deviations(person), "does not say how unusual single columns are"),
    ):
        with pytest.raises(ModelError, match=f"a batch_means model {said}"):
            asked()
