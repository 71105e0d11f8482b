import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.bids import (
    BidsName,
    find_images,
    parse_name,
    refuse_outside,
    refuse_problems,
    suffixes,
)
from medrep.cohort.inputs import VolumeInput
from medrep.errors import CohortError

words = st.text("abcXYZ019", min_size=1, max_size=5)


def plant(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@given(words, st.dictionaries(words, words, max_size=3), words, st.sampled_from([".nii", ".nii.gz", ".mgz"]))
def test_a_name_built_from_entities_is_taken_apart_again(person, entities, suffix, ending):
    entities = {"sub": person} | {f"e{name}": value for name, value in entities.items()}
    name = "_".join([*(f"{key}-{value}" for key, value in entities.items()), suffix])
    assert parse_name(name + ending) == BidsName(entities, suffix)


@given(st.text(max_size=20))
def test_any_name_is_parsed_or_none(text):
    parsed = parse_name(f"{text}.nii.gz")
    assert parsed is None or parsed.entities


@pytest.mark.parametrize(
    "name", ["T1w.nii.gz", "sub-01_T1w.json", "sub_T1w.nii", ".partial-x.nii", "sub-01__T1w.nii", ""]
)
def test_what_is_no_bids_image_is_none(name):
    assert parse_name(name) is None


def test_one_image_a_person_by_suffix_desc_and_entities(tmp_path):
    plant(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-clean_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/anat/sub-01_acq-fast_run-1_T1w.nii.gz",
        "sub-010/anat/sub-010_T1w.nii.gz",
    )
    choices = [
        (VolumeInput(suffix="T2w"), "sub-01_T2w.nii.gz"),
        (VolumeInput(desc="clean"), "sub-01_desc-clean_T1w.nii.gz"),
        (VolumeInput(entities={"acq": "fast"}), "sub-01_acq-fast_run-1_T1w.nii.gz"),
    ]
    for wanted, name in choices:
        for participant in ("sub-01", "01"):
            found, problems = find_images(tmp_path, [(participant, "")], wanted)
            assert (found[0].name, problems) == (name, {})


def test_several_images_and_none_are_one_line_each(tmp_path):
    plant(tmp_path, "sub-1/anat/sub-1_run-1_T1w.nii", "sub-1/anat/sub-1_run-2_T1w.nii", "sub-3/anat/sub-3_T1w.nii")
    found, problems = find_images(tmp_path, [("sub-1", ""), ("sub-2", ""), ("3", "")], VolumeInput())
    assert set(found) == {2}
    assert problems == {
        0: "2 images match (sub-1/anat/sub-1_run-1_T1w.nii, sub-1/anat/sub-1_run-2_T1w.nii); choose with --run 1 or 2",
        1: "no sub-*_T1w.nii[.gz] under sub-2/: no such folder",
    }


def test_packed_and_unpacked_copies_are_not_chosen_between(tmp_path):
    plant(tmp_path, "sub-1/anat/sub-1_T1w.nii", "sub-1/anat/sub-1_T1w.nii.gz")
    assert "2 images match" in find_images(tmp_path, [("sub-1", "")], VolumeInput())[1][0]


def test_what_was_looked_for_is_named(tmp_path):
    wanted = VolumeInput(suffix="dseg", desc="lung", entities={"space": "MNI"})
    assert find_images(tmp_path, [("sub-1", "ses-2")], wanted)[1] == {
        0: "no sub-*_space-MNI_desc-lung_dseg.nii[.gz] under sub-1/: no such folder"
    }


def test_a_session_is_looked_for_in_its_own_folder_and_name(tmp_path):
    plant(
        tmp_path,
        "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii",
        "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii",
        "sub-1/ses-3/anat/sub-1_ses-2_T1w.nii",
    )
    found, problems = find_images(tmp_path, [("sub-1", "2"), ("sub-1", "ses-1"), ("sub-1", "ses-3")], VolumeInput())
    assert {position: path.name for position, path in found.items()} == {
        0: "sub-1_ses-2_T1w.nii",
        1: "sub-1_ses-1_T1w.nii",
    }
    assert problems == {2: "no sub-*_T1w.nii[.gz] under sub-1/: there: ses-2"}


def test_the_order_of_people_does_not_change_who_gets_which_file(tmp_path):
    plant(tmp_path, *(f"sub-{n}/anat/sub-{n}_T1w.nii" for n in range(5)))
    people = [(f"sub-{n}", "") for n in range(5)]
    forward, _ = find_images(tmp_path, people, VolumeInput())
    backward, _ = find_images(tmp_path, people[::-1], VolumeInput())
    assert [forward[n] for n in range(5)] == [backward[4 - n] for n in range(5)]


def test_problems_are_raised_together_with_the_suffixes_that_are_there(tmp_path):
    plant(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", "sub-1/anat/sub-1_bold.nii", "sub-1/anat/notes.txt")
    refuse_problems(tmp_path, [])
    assert suffixes(tmp_path) == ["T2w", "bold"]
    with pytest.raises(CohortError) as refusal:
        refuse_problems(tmp_path, ["a: none", "b: none"])
    assert str(refusal.value).splitlines() == [
        f"{tmp_path}: people without exactly one image (2):",
        "  a: none",
        "  b: none",
        "  image suffixes in the folder: T2w, bold; set input.suffix, or leave the people out with --exclude",
    ]


def test_all_paths_that_leave_the_folder_are_listed(tmp_path):
    root = tmp_path / "cohort"
    plant(root, "in.nii")
    plant(tmp_path, "out.nii")
    (root / "link.nii").symlink_to(tmp_path / "out.nii")
    (root / "loop.nii").symlink_to(root / "loop.nii")
    (root / "inner.nii").symlink_to(root / "in.nii")
    refuse_outside(root, [("a", root / "in.nii"), ("b", root / "inner.nii"), ("c", root / "not-there.nii")])
    names = ["link.nii", "loop.nii", "../out.nii", "bad\0name"]
    with pytest.raises(CohortError) as refusal:
        refuse_outside(root, [(f"sub-{n}", root / name) for n, name in enumerate(names)])
    lines = str(refusal.value).splitlines()
    assert lines[0] == "paths that are no file of the cohort (4):"
    assert lines[1] == f"  sub-0: {root}/link.nii leads out of {root}"
    assert lines[2] == f"  sub-1: {root}/loop.nii is a loop of links"
    assert lines[3] == f"  sub-2: {root}/../out.nii leads out of {root}"
    assert lines[4].endswith("is no path (embedded null byte)")
    assert lines[5] == "  copy the files into the cohort's folder"


def test_a_folder_linked_into_itself_is_searched_once(tmp_path):
    plant(tmp_path, "sub-1/anat/sub-1_T1w.nii")
    (tmp_path / "sub-1" / "again").symlink_to(tmp_path / "sub-1")
    assert len(find_images(tmp_path, [("sub-1", "")], VolumeInput())[0]) == 1


RUNS = ("sub-1/anat/sub-1_run-01_T1w.nii", "sub-1/anat/sub-1_run-02_T1w.nii")


@pytest.mark.parametrize("value", ["1", "01", "001"])
def test_entities_are_compared_as_indices(tmp_path, value):
    plant(tmp_path, *RUNS)
    found, problems = find_images(tmp_path, [("sub-1", "")], VolumeInput(entities={"run": value}))
    assert (found[0].name, problems) == ("sub-1_run-01_T1w.nii", {})


def test_two_spellings_of_one_run_are_not_chosen_between(tmp_path):
    plant(tmp_path, *RUNS, "sub-1/anat/sub-1_run-1_T1w.nii")
    found, problems = find_images(tmp_path, [("sub-1", "")], VolumeInput(entities={"run": "1"}))
    assert not found
    assert problems[0].startswith("2 images match (sub-1/anat/sub-1_run-01_T1w.nii, sub-1/anat/sub-1_run-1_T1w.nii)")


def test_a_session_is_found_by_its_number_unless_two_folders_have_it(tmp_path):
    plant(tmp_path, "sub-1/ses-01/anat/sub-1_ses-01_T1w.nii", "sub-1/ses-02/anat/sub-1_ses-02_T1w.nii")
    found, _ = find_images(tmp_path, [("sub-1", "1"), ("sub-1", "ses-2")], VolumeInput())
    assert [found[k].parts[-3] for k in (0, 1)] == ["ses-01", "ses-02"]
    plant(tmp_path, "sub-1/ses-001/anat/sub-1_ses-001_T1w.nii")
    found, problems = find_images(tmp_path, [("sub-1", "1"), ("sub-1", "01")], VolumeInput())
    assert found[1].name == "sub-1_ses-01_T1w.nii"
    assert problems == {0: "no sub-*_T1w.nii[.gz] under sub-1/: there: ses-001, ses-01, ses-02"}


@pytest.mark.parametrize(
    ("who", "chosen", "told"),
    [
        ("sub-1", {"entities": {"run": "3"}}, "under sub-1/: there: run-01, run-02"),
        ("sub-1", {"entities": {"acq": "fast"}}, "under sub-1/: there: without acq"),
        ("sub-1", {"desc": "clean"}, "under sub-1/: there: without desc"),
        ("sub-1", {"suffix": "T2w"}, "under sub-1/: suffixes there: T1w"),
        ("sub-01", {"entities": {"run": "1"}}, "under sub-01/: there is sub-1"),
    ],
)
def test_where_nothing_matches_it_is_said_what_is_there(tmp_path, who, chosen, told):
    plant(tmp_path, *RUNS)
    assert find_images(tmp_path, [(who, "")], VolumeInput(**chosen))[1][0].endswith(told)


def test_values_that_are_there_but_not_together_are_told_by_names(tmp_path):
    plant(tmp_path, "sub-1/sub-1_acq-a_run-1_T1w.nii", "sub-1/sub-1_acq-b_run-2_T1w.nii")
    problem = find_images(tmp_path, [("sub-1", "")], VolumeInput(entities={"acq": "a", "run": "2"}))[1][0]
    assert problem.endswith(": there: sub-1_acq-a_run-1_T1w.nii, sub-1_acq-b_run-2_T1w.nii")


def test_linked_folders_and_files_of_the_cohort_are_followed(tmp_path):
    root = tmp_path / "cohort"
    plant(
        root,
        *(f"store/{n}/sub-{n}_T1w.nii" for n in (1, 2)),
        "store/3/anat/sub-3_T1w.nii",
        "store/4/sub-4_ses-1_T1w.nii",
    )
    plant(root, "store/five.nii")
    for n in (1, 4, 5):
        (root / f"sub-{n}").mkdir()
    (root / "sub-1" / "anat").symlink_to("../store/1")
    (root / "sub-2").symlink_to(root / "store" / "2")
    (root / "sub-3").symlink_to("store/3")
    (root / "sub-4" / "ses-1").symlink_to("../store/4")
    (root / "sub-5" / "sub-5_T1w.nii").symlink_to("../store/five.nii")
    people = [("sub-1", ""), ("sub-2", ""), ("sub-3", ""), ("sub-4", "ses-1"), ("sub-5", "")]
    found, problems = find_images(root, people, VolumeInput())
    assert problems == {}
    assert [found[n].relative_to(root).as_posix() for n in range(5)] == [
        "sub-1/anat/sub-1_T1w.nii",
        "sub-2/sub-2_T1w.nii",
        "sub-3/anat/sub-3_T1w.nii",
        "sub-4/ses-1/sub-4_ses-1_T1w.nii",
        "sub-5/sub-5_T1w.nii",
    ]
    refuse_outside(root, [("somebody", path) for path in found.values()])
    assert suffixes(root) == ["T1w"]


def test_linked_folders_out_of_the_cohort_dead_and_of_somebody_else_are_told(tmp_path):
    root = tmp_path / "cohort"
    plant(tmp_path, "elsewhere/sub-1_T1w.nii", "elsewhere/2/anat/sub-2_T1w.nii")
    plant(root, "sub-5/anat/sub-5_T1w.nii")
    for n in (1, 3, 4):
        (root / f"sub-{n}").mkdir()
    (root / "sub-1" / "anat").symlink_to(tmp_path / "elsewhere")
    (root / "sub-2").symlink_to(tmp_path / "elsewhere" / "2")
    (root / "sub-3" / "anat").symlink_to("nowhere")
    (root / "sub-4" / "anat").symlink_to("../sub-5/anat")
    (root / "sub-6").symlink_to("nowhere")
    (root / "sub-5" / "up").symlink_to("..")
    (root / "sub-5" / "loop").symlink_to("loop")
    found, problems = find_images(root, [(f"sub-{n}", "") for n in range(1, 7)], VolumeInput())
    assert found == {4: root / "sub-5" / "anat" / "sub-5_T1w.nii"}
    assert [problems[k].partition("/: ")[2] for k in (0, 1, 2, 3, 5)] == [
        f"anat is a link that leads out of {root}",
        f"sub-2 is a link that leads out of {root}",
        f"anat is a link to nothing in {root}",
        "there: sub-5",
        "sub-6 is a link to nothing",
    ]
