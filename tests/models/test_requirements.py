"""Memory, disk and time are said before they are taken, and more than may be is refused with what to change."""

import argparse

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cli.arguments import memory
from medrep.cohort.covariates import CovariateSchema
from medrep.config import parse_config
from medrep.errors import ModelError
from medrep.models.requirements import Images, refuse_beyond
from medrep.workflows.check import requirements

HEAD, BRAIN = 7_221_032, 1_700_000
COVARIATES = {"age": {"kind": "continuous"}, "site": {"kind": "categorical", "role": "batch"}}


def needed(people: int, voxels: int, columns: int, **given: object):
    content = {"covariates": COVARIATES, "input": {"kind": "volume"}, **given}
    config = parse_config(content, "test")
    frame = pd.DataFrame({"age": range(20, 60), "site": ["A", "B"] * 20})
    schema = CovariateSchema.fit(frame, config.covariates)
    return requirements(config, schema, schema.transfer(frame), Images(people, voxels, columns, 0.1))


@settings(max_examples=20, deadline=None)
@given(st.integers(30, 50_000), st.integers(1000, HEAD), st.floats(0.05, 1))
def test_a_mask_makes_all_less_and_memory_does_not_hang_on_people(people, voxels, share):
    inside = max(int(share * voxels), 1)
    whole, masked = needed(people, voxels, voxels), needed(people, voxels, inside)
    assert masked.train_memory <= whole.train_memory
    assert masked.model <= whole.model
    assert masked.train_disk == 4 * people * inside
    more = needed(2 * people, voxels, inside)
    assert more.train_memory <= 1.1 * masked.train_memory
    assert more.train_disk == 2 * masked.train_disk


def test_what_is_much_says_what_to_change():
    whole = needed(200, HEAD, HEAD)
    assert "give a mask (--mask auto), or resample" in whole.much(masked=False)
    assert "give a mask" not in needed(200, HEAD, BRAIN).much(masked=True)
    with pytest.raises(ModelError, match=r"--memory allows 1 GB: give a mask"):
        refuse_beyond(whole, 1e9, masked=False)
    refuse_beyond(whole, 1e12, masked=False)
    refuse_beyond(whole, 0.0, masked=False)
    refuse_beyond(None, 1.0, masked=False)


MEASURED = {
    "": (HEAD, 2.52e9, 77.0, 1.18e9, 39.3),
    "mask.nii.gz": (1_667_216, 1.01e9, 18.2, 0.49e9, 29.4),
}
"""Of 24 whole heads by the mask: columns; bytes and seconds of training, and of export (largest process; all people)."""


@pytest.mark.parametrize("mask", MEASURED)
def test_estimates_are_near_to_what_was_measured(mask):
    columns, *measured = MEASURED[mask]
    content = {"covariates": COVARIATES | {"sex": {"kind": "categorical"}}, "input": {"kind": "volume", "mask": mask}}
    config = parse_config(content, "test")
    frame = pd.DataFrame(
        {"age": range(24), "site": ["A", "B", "C", "D"] * 6, "sex": ["F", "M", "M", "F", "M", "F"] * 4}
    )
    schema = CovariateSchema.fit(frame, config.covariates)
    said = requirements(config, schema, schema.transfer(frame), Images(24, HEAD, columns, 0.16))
    estimates = (said.train_memory, said.train_seconds, said.export_memory, said.export_seconds)
    assert all(1 / 1.5 < one / other < 1.5 for one, other in zip(estimates, measured, strict=True)), estimates


@settings(max_examples=20, deadline=None)
@given(st.integers(60, 50_000), st.integers(1000, HEAD), st.sampled_from(["yes", "no", "auto"]))
def test_the_memory_of_a_network_hangs_on_its_batch(people, voxels, scanner):
    given_settings = {"body": "conv", "hidden": [4, 8, 16], "scanner": scanner, "training": {"batch": 16}}
    once, twice = (
        needed(count, voxels, voxels, model="conditional_vae", settings=given_settings)
        for count in (people, 2 * people)
    )
    assert twice.train_memory <= 1.2 * once.train_memory  # batches are of nearly one size
    assert twice.train_disk == 2 * once.train_disk
    assert twice.train_seconds > once.train_seconds
    smaller = {**given_settings, "training": {"batch": 8}}
    less = needed(people, voxels, voxels, model="conditional_vae", settings=smaller)
    assert "settings.training.batch=8" in less.much(masked=False)
    assert "of disk beside OUT and in TMPDIR and at most " in less.lines(masked=False)[0]
    assert less.train_memory < once.train_memory


def test_a_network_without_judges_or_with_a_given_strength_takes_less_time():
    chosen = {"body": "conv", "hidden": [4, 8, 16]}
    whole = needed(200, BRAIN, BRAIN, model="conditional_vae", settings=chosen)
    given_strength = needed(200, BRAIN, BRAIN, model="conditional_vae", settings={**chosen, "strength": 1.0})
    nobody = needed(200, BRAIN, BRAIN, model="conditional_vae", settings={**chosen, "validation": 0.0})
    assert nobody.train_seconds < given_strength.train_seconds < whole.train_seconds
    assert nobody.train_memory < given_strength.train_memory == whole.train_memory


def test_of_other_models_nothing_is_said():
    assert needed(200, HEAD, HEAD, input={"kind": "features"}) is None


@pytest.mark.parametrize(
    ("text", "count"), [("4G", 4e9), ("500 M".replace(" ", ""), 5e8), ("2.5gb", 2.5e9), ("1000", 1000.0)]
)
def test_memory_is_written_with_its_unit(text, count):
    assert memory(text) == count


@pytest.mark.parametrize("text", ["", "much", "-1G", "0", "4 GG", "nan"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="no amount of memory"):
        memory(text)
