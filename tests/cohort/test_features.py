import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cohort.features import claimed, match_keys, missing_cells, read_features
from medrep.cohort.grid import Grid
from medrep.errors import CohortError, MedrepError

finite = st.floats(allow_nan=False, allow_infinity=False)


def write(folder, text, grid=None):
    path = folder / "features.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if grid is not None:
        path.with_suffix(".json").write_text(grid)
    return path


@given(st.lists(st.tuples(finite, st.integers(-(2**40), 2**40)), min_size=1, max_size=5))
def test_numbers_are_read_back(tmp_path_factory, rows):
    lines = ["participant_id\ta\tb", *(f"sub-{n}\t{a!r}\t{b}" for n, (a, b) in enumerate(rows))]
    table = read_features(write(tmp_path_factory.mktemp("f"), "\n".join(lines)))
    assert table.names == ("a", "b")
    assert table.values.dtype == np.float64
    np.testing.assert_allclose(table.values, rows, rtol=1e-14)


@given(
    st.lists(
        st.sampled_from(["participant_id", "a", "sub-1", "sub-2", "\t", "\n", "\r\n", "\r", '"', "\0", " ", "1", "n/a"])
        | st.text(st.characters(blacklist_categories=["Cs"]), max_size=4),
        max_size=14,
    ),
    st.binary(max_size=4),
)
def test_any_text_is_read_or_refused_by_name(tmp_path_factory, soup, raw):
    folder = tmp_path_factory.mktemp("f")
    for text in ("".join(soup).encode() + raw, b"participant_id\ta\nsub-1\t" + "".join(soup).encode() + raw):
        path = write(folder, text)
        try:
            table = read_features(path)
        except MedrepError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert table.values.shape == (len(table.ids), len(table.names))


def test_missing_words_become_nan_and_are_listed(tmp_path):
    table = read_features(write(tmp_path, "participant_id\ta\tb\nsub-1\tn/a\t1\nsub-2\t2\t-nan\nsub-3\t\tNaN\n"))
    np.testing.assert_array_equal(table.values, [[np.nan, 1], [2, np.nan], [np.nan, np.nan]])
    assert missing_cells(table) == ["sub-1: a is nan", "sub-2: b is nan", "sub-3: a is nan", "sub-3: b is nan"]


@pytest.mark.parametrize(
    "cell", ["1_000", "\uff11\uff12", "\u0661", "inf", "-Infinity", "1e400", "0x1A", "1d5", "1 000", "\u22125"]
)
@pytest.mark.parametrize("beside", ["1", "n/a"])
def test_what_only_python_takes_for_a_number_is_none(tmp_path, cell, beside):
    with pytest.raises(CohortError, match="is no number; write a number or n/a") as refusal:
        read_features(write(tmp_path, f"participant_id\ta\tb\nsub-1\t{cell}\t{beside}\n"))
    assert f"sub-1: a {cell!r}" in str(refusal.value)


@pytest.mark.parametrize("cells", ["1\0\t2", "1\t2\0", "n/a\t\0"])
def test_nul_bytes_are_refused_by_line(tmp_path, cells):
    with pytest.raises(
        CohortError, match=r"lines that hold NUL bytes: line 3: 'sub-2' ...; save the table as UTF-8 text"
    ):
        read_features(write(tmp_path, f"participant_id\ta\tb\nsub-1\t1\t2\nsub-2\t{cells}\n"))


def test_all_cells_that_are_no_numbers_are_listed(tmp_path):
    path = write(tmp_path, "participant_id\ta\tb\tc\nsub-1\tx\t1\tTrue\nsub-2\t2\t2,5\tFalse\n")
    with pytest.raises(CohortError) as refusal:
        read_features(path)
    assert str(refusal.value).splitlines() == [
        f"{path}: cells that are no numbers (4):",
        "  sub-1: a 'x' is no number",
        "  sub-1: c 'True' is no number",
        "  sub-2: b '2,5' is no number",
        "  sub-2: c 'False' is no number",
        "  write a number or n/a",
    ]


@pytest.mark.parametrize("final", ["", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_line_ends_and_marks_do_not_change_the_table(tmp_path, end, mark, final):
    table = read_features(write(tmp_path, mark + end.join(["participant_id\ta", "sub-1\t1", "sub-2\t2"]) + final))
    assert list(table.ids.index) == ["sub-1", "sub-2"]
    np.testing.assert_array_equal(table.values, [[1], [2]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; it needs a header line"),
        ("subject\ta\nsub-1\t1\n", "no column participant_id; the first columns are subject, a"),
        ("participant_id\nsub-1\n", "no feature columns beside the ids"),
        ("participant_id,a\nsub-1,1\n", "no column participant_id"),
        (b"participant_id\ta\nsub-1\t\xff\n", "not UTF-8 text; save the table as UTF-8"),
        ("participant_id\ta\nsub-1\t1\nsub-1\t2\n", "same person or session: 'sub-1', 'sub-1'; keep one row"),
        ("participant_id\ta\nsub-1\t1\n1\t2\n", "same person or session: 'sub-1', '1'"),
        ("participant_id\ta\n\t1\n", "rows without a participant_id: row 1; name the person"),
        ("participant_id\ta\nsub-1\t1\t2\n", r"the header's 2 cells: line 2: 3 cells \('sub-1' ...\); one tab between"),
        ("participant_id\ta\tb\nsub-1\t1\t2\n\nsub-2\t1\n", r"the header's 3 cells: line 4: 2 cells \('sub-2' ...\)"),
        (
            "participant_id\ta\ta\nsub-1\t1\t2\n",
            r"name of their own \(2\):\n  column 2: 'a'\n  column 3: 'a'\n  name each",
        ),
        ("participant_id\ta\t\nsub-1\t1\t\n", "without a name of their own: column 3: ''; name each column once"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(CohortError, match=message) as refusal:
        read_features(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CohortError, match=r"features.tsv: cannot be read \(No such file or directory\)"):
        read_features(tmp_path / "features.tsv")
    (tmp_path / "features.tsv").mkdir()
    with pytest.raises(CohortError, match=r"cannot be read \(Is a directory\)"):
        read_features(tmp_path / "features.tsv")


def test_sessions_are_part_of_the_key_and_no_session_is_none(tmp_path):
    text = "participant_id\tsession_id\ta\nsub-1\tses-1\t1\nsub-1\t2\t2\nsub-2\tn/a\t3\n"
    table = read_features(write(tmp_path, text))
    assert list(table.ids.index) == ["sub-1_ses-1", "sub-1_ses-2", "sub-2"]
    assert list(table.ids["session_id"]) == ["ses-1", "2", "n/a"]


def test_ids_that_look_like_numbers_stay_text(tmp_path):
    assert list(read_features(write(tmp_path, "participant_id\ta\n007\t1\n08\t2\n")).ids.index) == ["007", "08"]


def test_people_are_matched_with_and_without_the_prefix_in_the_order_asked(tmp_path):
    table = read_features(write(tmp_path, "participant_id\ta\n1\t10\nsub-2\t20\nsub-3\t30\n"))
    matched = match_keys(table, pd.Index(["2", "sub-1"]))
    np.testing.assert_array_equal(matched.values, [[20], [10]])
    assert list(matched.ids.index) == ["2", "sub-1"]
    np.testing.assert_array_equal(matched.rows(pd.Index(["sub-1"])).values, [[10]])


def test_all_people_without_features_are_listed(tmp_path):
    table = read_features(write(tmp_path, "participant_id\ta\nsub-1\t10\n"))
    with pytest.raises(CohortError) as refusal:
        match_keys(table, pd.Index(["sub-1", "sub-2", "sub-3"]))
    assert str(refusal.value).splitlines() == [
        "people of participants.tsv without a row in features.tsv (2):",
        "  sub-2",
        "  sub-3",
        "  add the rows, or leave the people out with --exclude",
    ]


TWO = "participant_id\ta\tb\nsub-1\t1\t2\n"


def test_a_grid_is_read_from_the_description(tmp_path):
    grid = Grid((1, 2, 1), (1.0, 2.5, 3.0))
    assert read_features(write(tmp_path, TWO, json.dumps({"Grid": to_json(grid)}))).grid == grid
    assert read_features(write(tmp_path, TWO, json.dumps({"a": {"Units": "mm"}}))).grid is None
    assert read_features(write(tmp_path, TWO, "[]")).grid is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "unusable"),
        ("[" * 100_000, "unusable"),
        ('{"Grid": 3}', "unusable"),
        ('{"Grid": {"shape": [1, 2]}}', "unusable"),
        ('{"Grid": {"shape": [1, 2, 1]}}', "unusable"),
        ('{"Grid": {"shape": [1, 2, 1], "spacing": [1, 1, 0]}}', "spacing .* is not three lengths in mm"),
        ('{"Grid": {"shape": [1, 2, 1], "spacing": [1, 1, NaN]}}', "is not three lengths in mm"),
        ('{"Grid": {"shape": [1e999, 2, 1], "spacing": [1, 1, 1]}}', "unusable"),
        (
            '{"Grid": {"shape": [1, 2.5, 1], "spacing": [1, 1, 1]}}',
            "shape: .1, 2.5, 1. is not allowed; allowed: a list",
        ),
        ('{"Grid": {"shape": [-1, -2, 1], "spacing": [1, 1, 1]}}', "is not three counts of voxels"),
        ('{"Grid": {"shape": [3, 1, 1], "spacing": [1, 1, 1]}}', r"\(3, 1, 1\) has 3 voxels, features.tsv 2 columns"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, content, message):
    with pytest.raises(CohortError, match=f"features.json: .*{message}"):
        read_features(write(tmp_path, TWO, content))


@given(st.tuples(*[st.integers(1, 99)] * 3), st.tuples(*[st.floats(0.01, 10)] * 3))
def test_a_grid_survives_json(shape, spacing):
    grid = Grid(shape, spacing)
    assert from_json(Grid, json.loads(json.dumps(to_json(grid)))) == grid
    assert grid.size == np.prod(shape)


def rows(*ids, columns="participant_id"):
    return "\n".join([f"{columns}\ta", *(f"{who}\t{k}" for k, who in enumerate(ids))]) + "\n"


@pytest.mark.parametrize(
    ("there", "people"),
    [(["1", "2"], ["sub-01", "sub-02"]), (["SUB-A1", "b"], ["a01", "sub-B"]), (["001", "sub-0002"], ["1", "2"])],
)
def test_ids_in_another_spelling_are_found_where_that_is_certain(tmp_path, there, people):
    features, ids = claimed(read_features(write(tmp_path, rows(*there))), people)
    matched = match_keys(features, pd.Index(people))
    np.testing.assert_array_equal(matched.values[:, 0], [0, 1])
    assert list(matched.ids["participant_id"]) == there
    assert list(ids["participant_id"]) == [who.removeprefix("sub-") for who in people]
    assert "of participants.tsv" in matched.notes[0]


@pytest.mark.parametrize(
    ("there", "people"), [(["1", "001"], ["sub-01"]), (["1"], ["sub-01", "sub-001"]), (["x1", "X1"], ["x01"])]
)
def test_ids_that_may_be_two_people_are_refused_and_named(tmp_path, there, people):
    features, _ = claimed(read_features(write(tmp_path, rows(*there))), people)
    with pytest.raises(CohortError, match=r"sub-01 \(is it '1'|x01 \(is it 'x1' or 'X1' of features.tsv"):
        match_keys(features, pd.Index(people))


def test_rows_that_nobody_is_asked_for_are_said(tmp_path):
    features, _ = claimed(read_features(write(tmp_path, rows("1", "2", "3"))), ["sub-1", "sub-3"])
    assert features.notes == ("features.tsv: rows of nobody in participants.tsv are not used: 2",)


def test_sessions_in_another_spelling_are_found(tmp_path):
    text = "participant_id\tSession_ID\ta\nsub-1\t1\t5\nsub-1\tses-2\t6\n"
    features, _ = claimed(read_features(write(tmp_path, text)), ["sub-1"])
    matched = match_keys(features, pd.Index(["sub-1_ses-02", "sub-1_ses-01"]))
    np.testing.assert_array_equal(matched.values[:, 0], [6, 5])
    assert list(matched.ids["session_id"]) == ["ses-2", "1"]
    assert matched.header == ("participant_id", "Session_ID", "a")


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "index", "level_0", "row_number", "Row.names"])
def test_columns_that_number_the_rows_are_left_out_with_a_note(tmp_path, name):
    table = read_features(write(tmp_path, f"{name}\tparticipant_id\tb\n4\ts1\t1\n2\ts2\t7\n9\ts3\t7\n"))
    assert (table.names, table.header) == (("b",), ("participant_id", "b"))
    np.testing.assert_array_equal(table.values, [[1], [7], [7]])
    assert table.notes == (
        f"features.tsv: column {name or 'without a name'} numbers the rows, is no feature, and is left out",
    )


@pytest.mark.parametrize("name", ["index", "Unnamed: 3"])
@pytest.mark.parametrize("cells", [("1.5", "2", "3"), ("1", "1", "2"), ("-1", "0", "1"), ("n/a", "1", "2")])
def test_columns_of_such_a_name_that_hold_measurements_stay(tmp_path, name, cells):
    lines = [f"sub-{k}\t{cell}\t{k}" for k, cell in enumerate(cells)]
    table = read_features(write(tmp_path, "\n".join([f"participant_id\t{name}\tb", *lines])))
    assert (table.names, table.notes) == ((name, "b"), ())


def test_many_cells_of_a_column_have_one_line(tmp_path):
    lines = [f"sub-{k}\tnorth\t{k}\t{'x' if k == 5 else 1}" for k in range(30)]
    with pytest.raises(CohortError) as refusal:
        read_features(write(tmp_path, "\n".join(["participant_id\tplace\ta\tb", *lines])))
    assert str(refusal.value).splitlines()[1:3] == [
        "  column place: 30 of 30 cells, for instance sub-0: place 'north' is no number",
        "  sub-5: b 'x' is no number",
    ]
    empty = read_features(write(tmp_path, "\n".join(["participant_id\ta\tb", *(f"sub-{k}\tn/a\t1" for k in range(9))])))
    assert missing_cells(empty) == ["column a: 9 of 9 cells, for instance sub-0: a is nan"]
