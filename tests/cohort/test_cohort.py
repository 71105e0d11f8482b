import json
import os

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.cohort import read_cohort
from medrep.cohort.kinds.features import FeaturesKind
from medrep.cohort.kinds.volume import VolumeKind
from medrep.errors import CohortError

TABLE = "participant_id\tage\tsex\nsub-1\t20\tM\nsub-2\t30\tF\nsub-3\t40\tF\n"
FEATURES = "participant_id\ta\tb\n3\t5\t6\nsub-1\t1\t2\nsub-2\t3\t4\nsub-9\t7\t8\n"
IMAGES = VolumeKind()


@pytest.fixture
def features(tmp_path):
    (tmp_path / "participants.tsv").write_text(TABLE)
    (tmp_path / "participants.json").write_text('{"age": {"Units": "year"}}')
    (tmp_path / "features.tsv").write_text(FEATURES)
    return tmp_path


@pytest.fixture
def images(tmp_path):
    (tmp_path / "participants.tsv").write_text(TABLE)
    for n in (1, 2, 3):
        folder = tmp_path / f"sub-{n}" / "anat"
        folder.mkdir(parents=True)
        (folder / f"sub-{n}_T1w.nii.gz").write_bytes(b"x")
    return tmp_path


def test_features_are_joined_to_people_in_the_tables_order(features):
    cohort = read_cohort(features, FeaturesKind())
    assert list(cohort.table.index) == ["sub-1", "sub-2", "sub-3"]
    np.testing.assert_array_equal(cohort.source.features.values, [[1, 2], [3, 4], [5, 6]])
    assert cohort.source.files.isna().all()
    assert cohort.units == {"age": "year"}
    assert len(cohort) == 3


def test_what_levels_mean_comes_with_the_cohort(features):
    described = {"age": {"Units": "year"}, "sex": {"Levels": {"1": "male", "2": {"Description": "female"}}}}
    (features / "participants.json").write_text(json.dumps(described))
    cohort = read_cohort(features, FeaturesKind())
    assert (cohort.units, cohort.levels) == ({"age": "year"}, {"sex": {"1": "male", "2": "female"}})


def test_images_are_joined_to_people(images):
    cohort = read_cohort(images, IMAGES)
    assert [path.name for path in cohort.source.files] == [f"sub-{n}_T1w.nii.gz" for n in (1, 2, 3)]
    assert cohort.source.features.names == ()


def test_a_selection_takes_everything_along_in_its_order(features, images):
    wanted = pd.Index(["sub-3", "sub-1"])
    table = read_cohort(features, FeaturesKind()).select(wanted)
    np.testing.assert_array_equal(table.source.features.values, [[5, 6], [1, 2]])
    assert list(table.table["age"]) == ["40", "20"]
    assert list(read_cohort(images, IMAGES).select(wanted).source.files.index) == ["sub-3", "sub-1"]


@pytest.mark.parametrize("prefix", ["", "sub-"])
def test_people_are_chosen_with_and_without_the_prefix(features, prefix):
    cohort = read_cohort(features, FeaturesKind(), only=[f"{prefix}1", f"{prefix}3"], exclude=[f"{prefix}3"])
    assert list(cohort.table.index) == ["sub-1"]


def test_all_unknown_people_are_listed(features):
    with pytest.raises(CohortError, match=r"does not have \(2\):\n  7\n  8\n  check the ids"):
        read_cohort(features, FeaturesKind(), only=["sub-7"], exclude=["8"])


def test_nobody_left_is_refused(features):
    with pytest.raises(CohortError, match="nobody is left after --participant-label and --exclude"):
        read_cohort(features, FeaturesKind(), exclude=["1", "2", "3"])


def test_people_without_features_are_listed_and_can_be_left_out(features):
    (features / "features.tsv").write_text("participant_id\ta\nsub-2\t1\n")
    with pytest.raises(CohortError, match=r"without a row in features.tsv \(2\):\n  sub-1\n  sub-3\n  add the rows"):
        read_cohort(features, FeaturesKind())
    assert len(read_cohort(features, FeaturesKind(), exclude=["1", "3"])) == 1


def test_people_without_images_are_listed_with_the_suffixes_there_are(images):
    with pytest.raises(
        CohortError, match=r"one image \(3\):\n  sub-1: no sub-\*_dseg(.*\n)*.*in the folder: T1w; set input"
    ):
        read_cohort(images, VolumeKind().changed(suffix="dseg"))


def test_sessions_of_features_become_rows(features):
    (features / "features.tsv").write_text(
        "participant_id\tsession_id\ta\nsub-1\t1\t1\nsub-1\t2\t2\n2\tn/a\t3\nsub-3\tx\t4\n"
    )
    cohort = read_cohort(features, FeaturesKind())
    assert list(cohort.table.index) == ["sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3_ses-x"]
    np.testing.assert_array_equal(cohort.source.features.values[:, 0], [1, 2, 3, 4])
    one_row = "one value a person, for all visits of 1 people: age, sex of participants.tsv"
    assert cohort.notes == ("4 sessions of 3 people", one_row)


def test_sessions_of_the_table_without_an_image_are_listed(images):
    (images / "participants.tsv").write_text("participant_id\tsession_id\nsub-1\tn/a\nsub-2\t1\n")
    with pytest.raises(CohortError, match=r"exactly one image: sub-2 1: no sub-\*_T1w"):
        read_cohort(images, IMAGES)


def test_all_links_out_of_the_folder_are_listed(images, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x.nii.gz"
    outside.write_bytes(b"x")
    for n in (1, 2):
        path = images / f"sub-{n}" / "anat" / f"sub-{n}_T1w.nii.gz"
        path.unlink()
        path.symlink_to(outside if n == 1 else path)
    with pytest.raises(CohortError) as refusal:
        read_cohort(images, IMAGES)
    lines = str(refusal.value).splitlines()
    assert lines[0] == "paths that are no file of the cohort (2):"
    assert lines[1].startswith("  sub-1: ")
    assert lines[1].endswith(f"leads out of {images}")
    assert lines[2].startswith("  sub-2: ")
    assert lines[2].endswith("is a loop of links")


def test_a_datalist_is_a_cohort(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "x/one.nii", "age": 3}, {"image": "two.nii", "participant_id": "sub-2"}]))
    cohort = read_cohort(path, IMAGES)
    assert list(cohort.source.files.index) == ["one", "sub-2"]
    assert cohort.root == tmp_path
    assert list(read_cohort(path, IMAGES, exclude=["one"]).source.files) == [tmp_path / "two.nii"]
    with pytest.raises(CohortError, match=r"a datalist names images; set input.kind to volume"):
        read_cohort(path, FeaturesKind())


def test_what_is_no_cohort_is_refused(tmp_path):
    other = tmp_path / "image.nii"
    other.touch()
    for root in (tmp_path / "nothing", other):
        with pytest.raises(
            CohortError, match=r"no such folder; COHORT is a folder with participants.tsv, a table file, or a datalist"
        ):
            read_cohort(root, FeaturesKind())
    with pytest.raises(CohortError, match=r"participants\.tsv: cannot be read .*; a cohort folder needs it"):
        read_cohort(tmp_path, FeaturesKind())
    for root in (tmp_path / ("x" * 300), tmp_path / "nul\0"):
        with pytest.raises(CohortError, match=r"cannot be opened|no such folder"):
            read_cohort(root, FeaturesKind())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(features):
    (features / "participants.tsv").chmod(0)
    with pytest.raises(CohortError, match=r"participants.tsv: cannot be read \(Permission denied\)"):
        read_cohort(features, FeaturesKind())
    features.chmod(0)
    try:
        with pytest.raises(CohortError, match="Permission denied"):
            read_cohort(features, FeaturesKind())
        with pytest.raises(CohortError, match="Permission denied"):
            read_cohort(features / "list.json", IMAGES)
    finally:
        features.chmod(0o700)


FORMULAS = ("=1+1", "@SUM(A1:A9)", "-2+3+cmd|' /C calc'!A0", '"=HYPERLINK(""http://x"")"', "+SUM(1)", " =1")
DATA = ("-", "+", "+/-", "-5", "+3.2", "-ve", "-5 mm", "a=b", "x@y", "n/a", "2=3", "- none -")


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_of_spreadsheets_are_named_and_stay(features, text):
    (features / "participants.tsv").write_text(TABLE.replace("\tM\n", f"\t{text}\n"))
    cohort = read_cohort(features, FeaturesKind())
    notes = [note for note in cohort.notes if "runs as formulas" in note]
    assert len(notes) == 1
    assert repr(text)[:20] in notes[0]
    assert "sub-1 sex" in notes[0]
    assert cohort.table.loc["sub-1", "sex"] == text


def test_formulas_are_named_in_names_of_columns_and_counted(features):
    rows = "".join(f"sub-{n}\t20\t=A{n}\n" for n in range(1, 10))
    (features / "participants.tsv").write_text(f"participant_id\tage\t=sex\n{rows}")
    (features / "features.tsv").write_text("participant_id\t@b\n" + "".join(f"sub-{n}\t{n}\n" for n in range(1, 10)))
    cohort = read_cohort(features, FeaturesKind())
    notes = [note for note in cohort.notes if "runs as formulas" in note]
    assert ["column '=sex'" in notes[0], "and 7 more" in notes[0], "column '@b'" in notes[1]] == [True] * 3
    assert list(cohort.source.features.names) == ["@b"]


@pytest.mark.parametrize("text", DATA)
def test_data_are_no_formulas(features, text):
    (features / "participants.tsv").write_text(TABLE.replace("\tM\n", f"\t{text}\n"))
    assert not [note for note in read_cohort(features, FeaturesKind()).notes if "formulas" in note]


def test_formulas_of_a_datalist_are_named(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "list.json").write_text(json.dumps([{"image": "a.nii.gz", "participant_id": "1", "sex": "=1+1"}]))
    assert "runs as formulas" in read_cohort(tmp_path / "list.json", IMAGES).notes[0]
