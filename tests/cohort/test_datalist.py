import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.bids import read_datalist
from medrep.errors import CohortError


def write(folder, content):
    path = folder / "list.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


ENTRIES = [
    {"image": "a/one.nii.gz", "label": "a/mask.nii.gz", "participant_id": "sub-1", "age": 30, "sex": "M"},
    {"image": "two.nii.gz", "age": None, "sex": "F", "site": "A"},
]


@pytest.mark.parametrize("content", [ENTRIES, {"training": ENTRIES[:1], "validation": ENTRIES[1:], "name": "x"}])
def test_a_list_bare_or_in_sections_becomes_a_table_of_text(tmp_path, content):
    table, images = read_datalist(write(tmp_path, content))
    assert table.to_dict("list") == {
        "participant_id": ["sub-1", "two"],
        "age": ["30", "n/a"],
        "sex": ["M", "F"],
        "site": ["n/a", "A"],
    }
    assert images == [tmp_path / "a/one.nii.gz", tmp_path / "two.nii.gz"]


def test_a_byte_order_mark_is_skipped(tmp_path):
    assert len(read_datalist(write(tmp_path, "\ufeff" + json.dumps(ENTRIES)))[0]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "3",
        "[]",
        "{}",
        "[1]",
        '["a.nii"]',
        '{"training": []}',
        '{"training": 5}',
        '{"test": null}',
        '{"training": {"a": 1}}',
    ],
)
def test_what_is_no_datalist_is_refused(tmp_path, content):
    message = "list.json: not a datalist; it is a list of objects|entries without an image path"
    with pytest.raises(CohortError, match=message):
        read_datalist(write(tmp_path, content))


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '"\\u12"'])
def test_what_is_no_json_is_refused(tmp_path, content):
    with pytest.raises(CohortError, match=r"list\.json: not a (JSON file|datalist)"):
        read_datalist(write(tmp_path, content))


def test_bytes_that_are_no_text_a_folder_and_nothing_are_refused(tmp_path):
    path = tmp_path / "list.json"
    with pytest.raises(CohortError, match=r"not a JSON file .*No such file"):
        read_datalist(path)
    path.write_bytes(b"\xff\xfe[")
    with pytest.raises(CohortError, match="not a JSON file"):
        read_datalist(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CohortError, match=r"not a JSON file .*Is a directory"):
        read_datalist(path)


def test_all_entries_without_an_image_are_listed(tmp_path):
    with pytest.raises(CohortError) as refusal:
        read_datalist(write(tmp_path, [{"image": "a.nii"}, {"img": "b.nii"}, {"image": ["c.nii", "d.nii"]}]))
    assert str(refusal.value).splitlines() == [
        f"{tmp_path}/list.json: entries without an image path (2):",
        "  entry 1: {'img': 'b.nii'}",
        "  entry 2: {'image': ['c.nii', 'd.nii']}",
        '  add "image": "sub-01.nii.gz"',
    ]


def test_all_paths_that_leave_the_folder_are_listed(tmp_path):
    root = tmp_path / "cohort"
    root.mkdir()
    (root / "link.nii").symlink_to("/etc/passwd")
    (root / "loop.nii").symlink_to("loop.nii")
    names = ["../out.nii", "/etc/passwd", "link.nii", "loop.nii", "nul\0.nii", "in.nii"]
    with pytest.raises(CohortError) as refusal:
        read_datalist(write(root, [{"image": name, "participant_id": str(n)} for n, name in enumerate(names)]))
    lines = str(refusal.value).splitlines()
    assert lines[0] == "paths that are no file of the cohort (5):"
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == [f"entry {n}" for n in range(5)]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{"image": "a/T1w.nii"}, {"image": "b/T1w.nii"}],
            "same person or session: 'T1w', 'T1w'; keep one row a person",
        ),
        ([{"image": "a.nii", "participant_id": "1"}, {"image": "b.nii", "participant_id": "sub-1"}], "'1', 'sub-1'"),
        (
            [{"image": "a.nii", "participant_id": "../../x"}],
            "participant_id that cannot name a file: entry 0: '../../x'",
        ),
        ([{"image": "my image.nii"}], "cannot name a file: entry 0: 'my image'; use letters, digits"),
        ([{"image": "a.nii", "participant_id": None}], "cannot name a file: entry 0: 'n/a'"),
        ([{"image": "a.nii", "session_id": "x/y"}], "session_id that cannot name a file: entry 0: 'x/y'"),
        ([{"image": ""}], "cannot name a file: entry 0: ''"),
    ],
)
def test_people_who_cannot_be_told_apart_or_named_are_refused(tmp_path, entries, message):
    with pytest.raises(CohortError, match=message):
        read_datalist(write(tmp_path, entries))


def test_sessions_tell_visits_apart(tmp_path):
    entries = [{"image": f"{n}.nii", "participant_id": "sub-1", "session_id": n} for n in (1, 2)]
    assert list(read_datalist(write(tmp_path, entries))[0]["session_id"]) == ["1", "2"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
entries = st.dictionaries(st.sampled_from(["image", "participant_id", "session_id", "age", "\ud800"]), json_values)


@given(json_values | st.lists(entries, max_size=3) | st.dictionaries(st.just("training"), json_values))
def test_any_json_is_read_or_refused_by_name(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("d"), json.dumps(content))
    try:
        table, images = read_datalist(path)
    except CohortError as error:
        assert str(path.parent) in str(error) or "entry" in str(error)  # noqa: PT017
    else:
        assert len(table) == len(images) > 0
