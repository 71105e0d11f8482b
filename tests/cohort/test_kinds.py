"""Kinds of input: their sections, in the form in which they are kept, and the data of some people."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, fields
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.features import FeatureTable
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.kinds import INPUTS, SILENT, build_input, saved_input
from medrep.cohort.kinds.features import FeaturesKind
from medrep.cohort.kinds.volume import VolumeKind
from medrep.cohort.samples import Samples, Source
from medrep.errors import CohortError, ConfigError

SHARED = ["kind", "suffix", "desc", "entities", "spacing", "shape", "intensity", "missing"]
ORGANS = ["labels", "align", "centre", "size"]
EDGES = ["atlas", "atlas_sha256", "measure", "confounds", "confounds_file", "low_pass", "high_pass", "t_r"]
KEYS = [*SHARED, *ORGANS, *EDGES]
SURFACES = ["map", "mesh"]  # kept of surfaces alone, which came later
POINTS = ["consensus"]
LATER = {
    "features": ("a*",),
    "drop": ("b",),
    "edges": "r",
    "shrinkage": 0.1,
    "harmonize_unit": True,
    "landmarks": (1.0, 2.0),
    "mask": "auto",
    "group": "family_id",
    "structures": {"left": (17,), "right": (53,)},
    "compositions": {"tissue": ("gm", "wm")},
    "composition_limits": {"gm": 0.01},
    "composition_sums": {"tissue": 100.0},
}
"""Keys that are kept only where they are no default, since earlier versions refuse them; with another value."""
ASKED = {
    "desc": "clean",
    "spacing": [1, 2, 2.5],
    "missing": "keep",
    "labels": [17, 53],
    "size": 8,
    "atlas": "a.nii.gz",
    "confounds": ["csf"],
    "low_pass": 0.1,
}
"""Keys of several kinds, as YAML gives them."""


def table(people: int, columns: int) -> FeatureTable:
    index = pd.Index([f"sub-{number}" for number in range(people)], name="key")
    ids = pd.DataFrame({"participant_id": index}, index=index)
    values = np.arange(people * columns, dtype=float).reshape(people, columns)
    return FeatureTable(ids, values, tuple(f"f{number}" for number in range(columns)), None)


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_is_kept_with_the_keys_that_all_have_had(kind: str) -> None:
    found = INPUTS[kind]()
    assert list(found.to_json()) == KEYS + {"surface": SURFACES, "points": POINTS}.get(kind, [])
    kept = {key: found.to_json()[key] for key in KEYS}
    assert kept | {"kind": "features", "suffix": "T1w", "align": "none"} == FeaturesKind().to_json()
    assert saved_input(json.loads(json.dumps(found.to_json())), "model.json") == found


@pytest.mark.parametrize("kind", INPUTS)
def test_keys_of_other_kinds_are_taken_and_kept_and_do_nothing(kind: str) -> None:
    problems: list[str] = []
    found = build_input({"kind": kind, **ASKED}, "input", problems)
    assert found is not None
    assert problems == []
    assert json.loads(json.dumps({**found.to_json(), **ASKED})) == json.loads(json.dumps(found.to_json()))
    own = {entry.name for entry in fields(found.section)}
    assert set(found.unused) == set(ASKED) - own
    assert saved_input(found.to_json(), "model.json") == found


@settings(max_examples=20, deadline=None)
@given(st.permutations(KEYS[1:]), st.sampled_from(list(INPUTS)))
def test_the_order_of_keys_does_not_matter(order: list[str], kind: str) -> None:
    content = {key: INPUTS[kind]().to_json()[key] for key in order}
    assert saved_input({**content, "kind": kind}, "model.json") == INPUTS[kind]()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"kind": "feature"}, "input.kind: 'feature' is not allowed; allowed: features, volume, shape, connectivity"),
        ({"kind": ["volume"]}, "input.kind: ['volume'] is not allowed; allowed: features, volume"),
        ({"kind": "volume", "measure": "r"}, "input.measure: 'r' is not allowed; allowed: correlation, partial"),
        ({"kind": "features", "spacing": 1}, "input.spacing: 1 is not allowed; allowed: a list of a number"),
        ({"kind": "shape", "label": [1]}, "input.label: unknown; did you mean labels?"),
        ({"zzz": 1}, "input.zzz: unknown; known: kind, "),
    ],
)
def test_what_is_wrong_in_a_section_is_told(content: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        saved_input(content, "model.json")


def test_all_that_is_wrong_is_told_in_its_order() -> None:
    problems: list[str] = []
    assert build_input({"align": "up", "kind": "x", "nope": 1, "t_r": "fast"}, "input", problems) is None
    assert [line.partition(":")[0] for line in problems] == ["input.nope", "input.align", "input.kind", "input.t_r"]
    assert build_input(["volume"], "input", problems) is None
    assert problems[-1] == "input: ['volume'] is not a set of keys and values"


def test_sections_hold_the_fields_of_their_kind_only() -> None:
    own = {kind: {entry.name for entry in fields(INPUTS[kind].section_type)} for kind in INPUTS}
    compositions = {"compositions", "composition_limits", "composition_sums"}
    assert own["features"] == {"missing", "features", "drop", "group"} | compositions
    assert {"centre", "atlas"} & own["volume"] == {"missing", "atlas"} & own["shape"] == set()
    assert not {"spacing", "labels"} & own["connectivity"]
    assert set().union(*own.values()) == {*KEYS, *SURFACES, *POINTS, *LATER} - {"kind"}


@pytest.mark.parametrize("key", LATER)
def test_keys_of_later_versions_are_kept_where_they_are_no_default(key: str) -> None:
    kind = next(INPUTS[name]() for name in INPUTS if key in {entry.name for entry in fields(INPUTS[name].section_type)})
    changed = kind.changed(**{key: LATER[key]})
    assert set(changed.to_json()) == {*KEYS, key}
    assert saved_input(changed.to_json(), "model.json") == changed


def test_changing_a_section_leaves_the_kind_as_it_was() -> None:
    kind = VolumeKind()
    assert kind.changed(suffix="T2w").section == VolumeInput(suffix="T2w")
    assert (kind.suffix, kind.changed(suffix="T2w").suffix) == ("T1w", "T2w")
    assert asdict(kind.section) == asdict(VolumeInput())


def test_kinds_are_read_without_what_they_read_with() -> None:
    heavy = ("monai", "torch", "nilearn", "igl", "skimage", "nibabel")
    code = (
        "import sys; from medrep.cohort.kinds import INPUTS; [kind() for kind in INPUTS.values()];"
        f"sys.exit(bool(set({heavy!r}) & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.data())
def test_visits_of_a_selection_are_those_of_the_whole(people: int, columns: int, data: st.DataObject) -> None:
    features = table(people, columns)
    paths = [Path(f"{key}.nii") for key in features.ids.index]
    files = pd.Series(paths, index=features.ids.index, dtype=object)
    wanted = features.ids.index[data.draw(st.permutations(range(people)))[: max(1, people // 2)]]
    frame = pd.DataFrame({"age": np.arange(people, dtype=float)}, index=features.ids.index)
    for source in (Source.of_table(features), Source.of_files(files, {"sub-0": "no image"})):
        whole = {one.key: one for one in source.samples(frame)}
        some = list(source.select(wanted).samples(frame.loc[wanted]))
        assert [one.key for one in some] == list(wanted)
        for one in some:
            same = whole[one.key]
            assert (one.path, one.mark, one.problem, one.covariates) == (
                same.path,
                same.mark,
                same.problem,
                same.covariates,
            )
            assert (one.path is None) == (one.row is not None or bool(one.problem))


def test_rows_come_in_the_columns_of_the_model() -> None:
    source, like = Source.of_table(table(3, 2)), Columns(("f1", "f0"), 2, None)
    kind, console = FeaturesKind(), SILENT
    matrix, columns = kind.matrix(source, np.zeros, console, like=like)
    assert columns == like
    np.testing.assert_array_equal(matrix, source.features.values[:, ::-1])
    ((keys, rows),) = kind.adapting(source.select(source.files.index[:2]), like, console)
    np.testing.assert_array_equal(rows, matrix[:2])
    assert list(keys) == ["sub-0", "sub-1"]
    np.testing.assert_array_equal(kind.row(source, "sub-2", like), matrix[2])


def test_what_only_some_kinds_have() -> None:
    assert [kind for kind in INPUTS if INPUTS[kind].has_surface] == ["shape"]
    assert [kind for kind in INPUTS if INPUTS[kind].tabular] == ["features", "connectivity"]
    assert [kind for kind in INPUTS if not INPUTS[kind].by_file] == ["features"]
    assert FeaturesKind().pictures([Path("a.nii")]) == ([], None)
    with pytest.raises(CohortError, match=r"here: rows of features\.tsv are no files"):
        FeaturesKind().take(Path("here"), pd.Series(dtype=object), pd.DataFrame())


def test_a_hole_is_refused_of_what_is_at_hand_unless_it_is_kept() -> None:
    features = table(2, 2)
    features.values[1, 0] = np.nan
    source, kind, console = Source.of_table(features), FeaturesKind(), SILENT
    with pytest.raises(CohortError, match=r"features that are missing: sub-1: f0 is nan; mend them"):
        kind.matrix(source, np.zeros, console)
    assert len(kind.check(source, console, lambda key, row: None).problems) == 1
    kept = kind.changed(missing="keep")
    assert kept.matrix(source, np.zeros, console)[0] is features.values
    assert kept.check(source, console, lambda key, row: None).problems == ()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.data())
def test_samples_are_the_same_one_by_one_and_together(people: int, files: bool, data: st.DataObject) -> None:
    features = table(people, 2)
    frame = pd.DataFrame(
        {"age": np.arange(people, dtype=float), "sex": list("MF" * people)[:people]}, index=features.ids.index
    )
    paths = pd.Series([Path(f"{key}.nii") for key in features.ids.index], index=features.ids.index, dtype=object)
    whole = (Source.of_files(paths, {"sub-0": "no image"}) if files else Source.of_table(features)).samples(frame)
    single = list(whole)
    assert single == [whole[k] for k in range(people)] == list(Samples.of(single))
    chosen = data.draw(st.lists(st.integers(0, people - 1)))
    some = whole.take(chosen)
    assert list(some) == [single[k] for k in chosen]
    assert list(whole[1:]) == single[1:]
    here, there = Pipe()
    here.send(some)
    travelled = there.recv()
    assert list(travelled) == list(some)
    if not files and chosen:
        np.testing.assert_array_equal(travelled.rows, features.values[chosen])
        np.testing.assert_array_equal(some.rows, features.values[chosen])


def test_each_structure_has_a_mesh() -> None:
    kind = INPUTS["shape"]()
    assert kind.outputs == ("path", "mesh", "sidecar")
    assert kind.changed(structures={"left": (17,), "right": (53,)}).outputs == (
        "path",
        "mesh_left",
        "mesh_right",
        "sidecar",
    )
