"""The benchmarks can be started: their imports hold, though no test has the time to run them."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from scipy.stats import norm

from benchmarks.chart_methods import OWN, Chart, Question, in_process
from benchmarks.chart_scores import LEVELS, crps, pit_error, pit_floor, plant, separation
from benchmarks.chart_shapes import Shaped, SplineShapes
from benchmarks.chart_truth import CONFOUNDING, ChartTruth, correlation_ratio
from benchmarks.comparison import compare_folders
from benchmarks.peers.with_adversary import AdversarySettings, Peer, confusion, reversed_gradient
from benchmarks.shape_bulge import Bulge
from medrep.cohort.nifti import LabelMap
from medrep.models.chart.shapes import Shapes
from tests.conftest import ROOT


def test_the_benchmarks_import_and_say_what_there_is() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "shape_fields" in found.stdout


def test_two_folders_are_compared_file_by_file(tmp_path: Path) -> None:
    for side, value, version in (("a", 2.0, "1"), ("b", 2.5, "2")):
        home = tmp_path / side
        (home / "model").mkdir(parents=True)
        (home / "same.tsv").write_text("id\tx\ns1\t1.0\n")
        (home / "features.tsv").write_text(f"id\tx\ty\ns1\t4.0\t1\ns2\t{value}\t1\n")
        (home / "features.json").write_text(json.dumps({"MedrepVersion": version, "Kept": ["age"]}))
        (home / "history.tsv").write_text(f"metric\tname\tvalue\nseconds\tfit\t{version}\n")
        (home / "report.html").write_text(version)
        save_file({"w": np.array([-4.0, value])}, home / "model" / "model.safetensors")
        nib.save(nib.Nifti1Image(np.full((2, 2, 2), 4.0 * value), np.eye(4)), home / "image.nii.gz")
    (tmp_path / "b" / "new.tsv").write_text("")

    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert {name: each.verdict for name, each in found.items()} == {
        "same.tsv": "same",
        "features.json": "same",
        "history.tsv": "same",
        "features.tsv": "differs",
        "image.nii.gz": "differs",
        "model/model.safetensors": "differs",
        "new.tsv": "only after",
    }
    assert found["features.tsv"].difference == found["model/model.safetensors"].difference == 0.125
    assert found["image.nii.gz"].difference == 0.25
    assert found["features.tsv"].note == "1 of 3: x"


def test_what_bulges_goes_back() -> None:
    grid = np.indices((24, 40, 24)).reshape(3, -1).T - np.array([11.5, 19.5, 11.5])
    inside = (np.square(grid / [7, 15, 7]).sum(axis=1) < 1).reshape(24, 40, 24)
    bulge = Bulge.of(LabelMap(inside.astype(np.int32), np.eye(4)))
    points = np.random.default_rng(0).uniform(5, 25, (200, 3))
    for age, sex in ((20.0, "F"), (75.0, "M")):
        moved = bulge.moved(age, sex, points)
        assert np.abs(moved - points).max() > 0.3
        np.testing.assert_allclose(bulge.back(age, sex, moved), points, atol=1e-6)
    np.testing.assert_allclose(bulge.moved(50.0, "F", points), points, atol=1e-9)


def test_generated_people_have_the_distribution_that_is_said() -> None:
    truth, rng = ChartTruth(0), np.random.default_rng(0)
    people = truth.people(20_000, rng)
    assert abs(correlation_ratio(people) - CONFOUNDING) < 0.03
    shapes, values = truth.shapes(people), truth.values(people, rng)
    standard = (values - shapes.location) / shapes.spread
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(standard.std(axis=0), 1, atol=0.05)
    np.testing.assert_allclose(shapes.quantile(shapes.z(values)), values, atol=1e-9)
    step = 1e-5
    slope = (norm.cdf(shapes.z(values + step)) - norm.cdf(shapes.z(values - step))) / (2 * step)
    np.testing.assert_allclose(np.exp(shapes.log_density(values)), slope, atol=1e-6)
    old, young = (shapes.spread[people["age"].between(low, low + 5)].mean(axis=0) for low in (75, 20))
    assert ((np.log2(old / young) * truth.directions) > 0.4).all()


def test_scores_are_those_of_a_normal_distribution() -> None:
    z = np.random.default_rng(1).standard_normal((4000, 5))
    quantiles = np.broadcast_to(norm.ppf(LEVELS)[:, None, None], (len(LEVELS), *z.shape))
    known = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert abs(crps(quantiles, z, np.ones(5)) - known.mean()) < 2e-3
    assert pit_floor(len(z)) / 3 < pit_error(z) < 3 * pit_floor(len(z))
    assert pit_error(z + 0.3) > 10 * pit_floor(len(z))
    shifted, rows, signs = plant(z, np.full(5, 2.0), 0)
    assert separation(z[rows], z, signs) == pytest.approx(0.5, abs=0.05)
    assert separation(shifted, z, signs) == pytest.approx(0.97, abs=0.03)


CHARTS = OWN | {"spline": lambda: Shaped(SplineShapes.fit, auto=False), "powers": lambda: Shaped(Shapes.fit, auto=True)}


@pytest.mark.parametrize("name", CHARTS)
def test_simple_charts_say_one_thing_in_three_ways(name: str) -> None:
    """z, density and quantiles of a chart are of one distribution."""
    truth, rng = ChartTruth(2, new_sites=("new",), features=4), np.random.default_rng(2)
    train, test = truth.people(400, rng), truth.people(50, rng)
    values, observed = truth.values(train, rng), truth.values(test, rng)
    question = Question(values, train, observed, test)
    answer = in_process(CHARTS[name], question)
    below = (answer.quantiles <= observed).mean(axis=0)
    assert np.abs(below - norm.cdf(answer.z)).max() <= 0.5 / len(LEVELS) + 1e-9
    chart: Chart = CHARTS[name]()
    chart.fit(values, train)
    inside = np.abs(answer.z) < 4
    step = 1e-5
    slope = (norm.cdf(chart.z(observed + step, test)) - norm.cdf(chart.z(observed - step, test))) / (2 * step)
    np.testing.assert_allclose(np.exp(answer.log_density)[inside], slope[inside], rtol=1e-3, atol=1e-7)

    own = truth.people_of("new", 30, truth.ages, rng)
    try:
        adapted = chart.adapt(truth.values(own, rng), own)
    except NotImplementedError:
        return
    fresh = truth.people_of("new", 500, truth.ages, rng)
    assert np.abs(adapted.z(truth.values(fresh, rng), fresh).mean(axis=0)).max() < 0.8
    np.testing.assert_allclose(adapted.z(observed, test), answer.z, atol=0.5)  # known sites stay nearly as they were


def test_gradients_are_turned_round_and_confusion_is_least_where_readers_know_nothing() -> None:
    z = torch.tensor([[1.0, -2.0]], requires_grad=True)
    passed = reversed_gradient(z, 3.0)
    assert torch.equal(passed, z)
    (passed * torch.tensor([[2.0, 5.0]])).sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[-6.0, -15.0]]
    assert float(confusion(torch.zeros(4, 5))) == pytest.approx(np.log(5))
    assert float(confusion(torch.tensor([[3.0, 0.0, 0.0]]))) > np.log(3)


def test_adversarial_autoencoders_know_no_covariates_when_they_encode_and_differ_by_seed_alone() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.uniform(20, 80, 60), "sex": ["F", "M"] * 30, "site": ["A", "B", "C"] * 20})
    data = rng.normal(size=(60, 6))
    small = {"latents": 2, "hidden": 8, "epochs": 6, "rate": 0.02}

    def encoded(method: str, weight: float, seed: int = 0) -> np.ndarray:
        return Peer(AdversarySettings(method, weight, **small), seed).fit(data, table).encode(data)

    plain = encoded("reversal", 0.0)
    np.testing.assert_array_equal(plain, encoded("unlearning", 0.0))
    for method in ("reversal", "alternating", "unlearning"):
        own = encoded(method, 1.0)
        np.testing.assert_array_equal(own, encoded(method, 1.0))
        assert np.abs(own - plain).max() > 0
        assert np.abs(own - encoded(method, 10.0)).max() > 0.01  # the weight matters
        assert np.abs(own - encoded(method, 1.0, seed=1)).max() > 0
