import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import Covariate
from medrep.cohort.participants import keys, label, read_participants, read_tsv
from medrep.errors import CohortError, CovariateError, MedrepError

AGE = Covariate("age", "continuous", unit="year")
SEX = Covariate("sex", "categorical")

READ = {
    "ds002": 17,
    "ds007": 20,
    "ds008": 15,
    "ds101": 21,
    "ds108": 34,
    "ds110": 18,
    "eeg_cbm": 20,
    "eeg_ds000117": 16,
    "eeg_ds003645s_hed_demo": 3,
    "eeg_matchingpennies": 7,
    "emg_ConcurrentIndependentUnits": 1,
    "emg_IndependentMod": 1,
    "emg_Multimodal": 1,
    "emg_TwoHDsEMG": 1,
    "eyetracking_fmri": 1,
    "fnirs_automaticity": 24,
    "ieeg_epilepsy_ecog": 1,
    "motion_spotrotation": 5,
    "mrs_biggaba": 12,
    "synthetic": 5,
}
NO_AGE = r"covariates without a column: 'age' \(columns: {}\); name it with --set covariates.age.column="
NO_AGE_NO_SEX = (
    r"covariates without a column \(2\):\n  'age' \(columns: {0}\).*\n  'sex' \(columns: {0}\); name it with --set"
)
REFUSED = {
    "7t_trt": NO_AGE.format("sex, age_at_first_scan_years, .*") + "age_at_first_scan_years",
    "ds000117": r"\(2\):\n  sub-emptyroom: age 'n/a' is missing; fill it in.*\n  sub-emptyroom: sex 'n/a' is missing;",
    "ds114": NO_AGE_NO_SEX.format("dominant_hand"),
    "eyetracking_binocular": NO_AGE_NO_SEX.format("none"),
    "eyetracking_eeg_ds007338": r"\(2\):\n  sub-EP10: age 'n/a' is missing.*\n  sub-EP10: sex 'n/a' is missing",
    "ieeg_visual": NO_AGE_NO_SEX.format("none"),
    "micr_SEM": NO_AGE.format("sex, species, strain, strain_rrid"),
    "micr_SPIM": NO_AGE.format("sex, species"),
    "mrs_fmrs": r"\(15\):\n  sub-01: age '35-40' is a range; write a number, or set covariates.age.inexact to midpoint",
    "pet003": NO_AGE.format("sex"),
    "pet004": NO_AGE_NO_SEX.format("weight"),
    "pet005": NO_AGE.format("weight, sex"),
    "pet006": NO_AGE_NO_SEX.format("weight"),
    "xeeg_hed_score": NO_AGE_NO_SEX.format("none"),
}


def write(folder, text, *, described=None):
    path = folder / "participants.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if described is not None:
        (folder / "participants.json").write_text(described)
    return path


@pytest.mark.real_data
def test_every_real_table_is_listed_here(shared_data):
    assert {folder.name for folder in (shared_data / "bids_participants").iterdir()} == {*READ, *REFUSED}


@pytest.mark.real_data
@pytest.mark.parametrize("name", READ)
def test_real_tables_that_are_read_with_age_and_sex(shared_data, name):
    people = read_participants(shared_data / "bids_participants" / name / "participants.tsv")
    frame = read_covariates(people.table, [AGE, SEX], people.units).frame
    assert len(frame) == READ[name]
    assert frame["age"].between(17, 90).all()
    assert set(frame["sex"]) <= {"M", "F"}
    assert all(key.startswith("sub-") for key in frame.index)


@pytest.mark.real_data
@pytest.mark.parametrize("name", REFUSED)
def test_real_tables_that_are_refused_and_why(shared_data, name):
    people = read_participants(shared_data / "bids_participants" / name / "participants.tsv")
    with pytest.raises(CovariateError, match=REFUSED[name]):
        read_covariates(people.table, [AGE, SEX], people.units)


@pytest.mark.real_data
def test_the_cure_that_a_real_table_is_refused_with_works(shared_data):
    root = shared_data / "bids_participants"
    renamed = read_participants(root / "7t_trt" / "participants.tsv")
    column = Covariate("age", "continuous", unit="year", column="age_at_first_scan_years")
    assert len(read_covariates(renamed.table, [column, SEX], renamed.units).frame) == 22
    ranges = read_participants(root / "mrs_fmrs" / "participants.tsv")
    midpoint = Covariate("age", "continuous", unit="year", inexact="midpoint")
    read = read_covariates(ranges.table, [midpoint, SEX], ranges.units)
    assert read.frame["age"].iloc[0] == 37.5
    assert read.notes[0] == "sub-01: age '35-40' is read as 37.5"
    room = read_participants(root / "ds000117" / "participants.tsv")
    drop = [Covariate(c.name, c.kind, unit=c.unit, missing="drop") for c in (AGE, SEX)]
    assert len(read_covariates(room.table, drop, room.units).frame) == 16


@pytest.mark.real_data
def test_oddities_of_real_tables_are_noted(shared_data):
    root = shared_data / "bids_participants"
    assert read_participants(root / "eyetracking_eeg_ds007338" / "participants.tsv").notes == (
        "participants.tsv: byte order mark skipped",
    )
    assert read_participants(root / "eyetracking_binocular" / "participants.tsv").notes == (
        "participants.tsv: column 2 has no name and is ignored",
    )
    assert read_participants(root / "fnirs_automaticity" / "participants.tsv").units["headcircumference"] == "cm"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("final", [True, False])
def test_line_ends_and_marks_do_not_change_the_table(tmp_path, end, mark, final):
    lines = ["participant_id\tage\tsite", "sub-01\t20\tA", "sub-02\t30\tBé"]
    people = read_participants(write(tmp_path, mark + end.join(lines) + (end if final else "")))
    assert people.table.to_dict("list") == {
        "participant_id": ["sub-01", "sub-02"],
        "age": ["20", "30"],
        "site": ["A", "Bé"],
    }
    assert list(people.table.index) == ["sub-01", "sub-02"]
    assert len(people.notes) == bool(mark)


cells = st.text(st.characters(blacklist_characters="\t\r\n", blacklist_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_cells_are_kept_as_they_are_written(tmp_path_factory, rows):
    lines = ["participant_id\tone\ttwo"] + [f"sub-{n}\t{a}\t{b}" for n, (a, b) in enumerate(rows)]
    people = read_participants(write(tmp_path_factory.mktemp("p"), "\n".join(lines)))
    assert list(zip(people.table["one"], people.table["two"], strict=True)) == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_name(tmp_path_factory, raw):
    path = write(tmp_path_factory.mktemp("p"), raw)
    with pytest.raises(MedrepError, match=r"participants\.tsv"):
        read_participants(path)


@given(
    st.lists(st.sampled_from(["participant_id", "age", "sub-1", "sub-2", "\t", "\n", "\r\n", "\r", '"', "\0", " "])),
    st.lists(
        st.sampled_from(["sub-1\t3\n", "sub-2\t4\r", "1\t3\n", "\t\n", "\n", "sub-1\tn/a\n", '"\t"\n', "a b\t\0\n"])
    ),
    st.binary(max_size=3),
)
def test_pieces_of_a_table_in_any_order_are_read_or_refused_by_name(tmp_path_factory, soup, rows, raw):
    folder = tmp_path_factory.mktemp("p")
    for text in ("".join(soup).encode(), b"participant_id\tage\n" + "".join(rows).encode() + raw):
        path = write(folder, text)
        try:
            people = read_participants(path)
        except CohortError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert people.table.index.is_unique


def test_blank_lines_are_skipped_and_the_others_keep_their_numbers(tmp_path):
    path = write(tmp_path, "participant_id\tage\n\nsub-01\t3\n\t\n\nsub 02\t4\n\n")
    with pytest.raises(CohortError, match=r"participant_id that cannot name a file: line 6: 'sub 02'; use letters"):
        read_participants(path)
    assert list(read_participants(write(tmp_path, "participant_id\tage\n\n\nsub-01\t3\n\n")).table.index) == ["sub-01"]


def test_all_ragged_rows_are_listed_with_line_person_and_cure(tmp_path):
    path = write(tmp_path, "participant_id\tage\nsub-01\t3\t4\n\nsub-02\t4\nsub-03\n")
    with pytest.raises(CohortError) as refusal:
        read_participants(path)
    assert str(refusal.value).splitlines() == [
        f"{path}: rows that do not have the header's 2 cells (2):",
        "  line 2: 3 cells ('sub-01' ...)",
        "  line 5: 1 cells ('sub-03' ...)",
        "  one tab between two cells, n/a in an empty one",
    ]


def test_more_than_twenty_offenders_are_counted(tmp_path):
    path = write(tmp_path, "participant_id\n" + "".join(f"sub {n}\n" for n in range(25)))
    with pytest.raises(CohortError, match=r"\(25\):\n(.*\n){20}  \.\.\. and 5 more\n  use letters"):
        read_participants(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty; it needs a header line"),
        (b"\n\n\t\t\n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"participant_id\tage\n", "a header and no people; add one line a person"),
        (b"participant_id,age\nsub-01,3\n", "'participant_id,age' is not separated by tabs; save the table as tab"),
        (b"participant_id;age\nsub-01;3\n", "'participant_id;age' is not separated by tabs"),
        (b"participant_id  age\nsub-01  3\n", "'participant_id  age' is not separated by tabs"),
        (b'"participant_id"\t"age"\n"a"\t"3"\n', "the header is in quotes .* save the table without quotes"),
        (b"subject\tage\nsub-01\t3\n", "no column participant_id among 'subject', 'age'; name the column of ids"),
        (b"participant_id\tage\nsub-01\t3\nsub-02\t\xe9\n", "line 3 is not UTF-8 text; save the table as UTF-8"),
        ("participant_id\tage\nsub-01\t3\n".encode("utf-16"), "line 1 is not UTF-8 text"),
        (b"participant_id\tage\tage\nsub-01\t3\t4\n", "column names that occur twice: age; name each column once"),
        (b"participant_id\tage\n" + b"x" * 200_000 + b"\t3\n", "line 2: field larger than field limit"),
        (b"participant_id\nn/a\n", "participant_id that cannot name a file: line 2: 'n/a'"),
        (b"participant_id\tage\n\t3\n", "participant_id that cannot name a file: line 2: ''"),
        (b"participant_id\n../../etc\n", "line 2: '../../etc'"),
        (b"participant_id\tsession_id\nsub-01\ta/b\n", "session_id that cannot name a file: line 2: 'a/b'"),
    ],
)
def test_tables_that_are_refused_by_one_line(tmp_path, text, message):
    with pytest.raises(CohortError, match=message) as refusal:
        read_participants(write(tmp_path, text))
    assert str(refusal.value).startswith(f"{tmp_path / 'participants.tsv'}: ")
    assert "\n" not in str(refusal.value)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path):
    path = tmp_path / "participants.tsv"
    with pytest.raises(CohortError, match=r"cannot be read \(No such file or directory\); a cohort folder needs it"):
        read_participants(path)
    path.mkdir()
    with pytest.raises(CohortError, match=r"cannot be read \(Is a directory\)"):
        read_participants(path)


def test_identical_rows_are_merged_with_a_note(tmp_path):
    people = read_participants(write(tmp_path, "participant_id\tage\nsub-01\t3\nsub-02\t4\nsub-01\t3\n"))
    assert list(people.table.index) == ["sub-01", "sub-02"]
    assert people.notes == ("participants.tsv: 1 repeated identical row(s) merged",)


def test_rows_that_disagree_are_all_listed_with_their_columns_and_values(tmp_path):
    path = write(tmp_path, "participant_id\tage\tsex\na\t3\tM\nb\t4\tF\na\t5\tM\nc\t1\tM\nb\t4\tM\n")
    with pytest.raises(CohortError) as refusal:
        read_participants(path)
    assert str(refusal.value).splitlines() == [
        f"{path}: people with several rows that disagree (2):",
        "  a (age: '3', '5')",
        "  b (sex: 'F', 'M')",
        "  keep one row a person, or tell visits apart with a session_id column",
    ]


def test_sessions_make_rows_of_one_person_distinct(tmp_path):
    text = "participant_id\tsession_id\tage\nsub-01\tses-1\t3\nsub-01\t2\t4\nsub-02\tn/a\t5\n"
    assert list(read_participants(write(tmp_path, text)).table.index) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id\tage\nsub-01\t3\n01\t4\n", "same person or session: 'sub-01', '01'; keep one row a person"),
        ("participant_id\tsession_id\nsub-01\tses-1\nsub-01\t1\n", "'sub-01 ses-1', 'sub-01 1'"),
    ],
)
def test_two_spellings_of_one_person_are_refused(tmp_path, text, message):
    with pytest.raises(CohortError, match=message):
        read_participants(write(tmp_path, text))


def test_key_columns_are_found_in_any_case_and_stripped(tmp_path):
    people = read_participants(write(tmp_path, " Participant_ID \tAge\n sub-01 \t3\n"))
    assert list(people.table.columns) == ["participant_id", "Age"]
    assert list(people.table["participant_id"]) == ["sub-01"]


def test_units_come_from_the_description(tmp_path):
    described = json.dumps({"age": {"Units": "year"}, "sex": {"Levels": {}}, "x": "text", "w": {"Units": 3}})
    people = read_participants(write(tmp_path, "participant_id\nsub-01\n", described="\ufeff" + described))
    assert people.units == {"age": "year"}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("{", "participants.json: not a JSON file"),
        ("", "participants.json: not a JSON file"),
        ("[1]", "participants.json: holds a list, not an object of columns; mend it or remove it"),
        ("[" * 100_000, "participants.json: not a JSON file"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, described, message):
    with pytest.raises(CohortError, match=message):
        read_participants(write(tmp_path, "participant_id\nsub-01\n", described=described))


def test_a_description_that_is_not_utf8_is_refused(tmp_path):
    path = write(tmp_path, "participant_id\nsub-01\n")
    path.with_suffix(".json").write_bytes(b'{"age": "\xe9"}')
    with pytest.raises(CohortError, match="not a JSON file"):
        read_participants(path)


@pytest.mark.parametrize(
    ("text", "prefix", "bare"),
    [("sub-01", "sub", "01"), ("01", "sub", "01"), ("ses-1", "ses", "1"), ("n/a", "ses", ""), ("N/A", "ses", "")],
)
def test_labels_lose_their_prefix(text, prefix, bare):
    assert label(text, prefix) == bare


def test_a_key_names_the_session_where_there_is_one():
    table = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "session_id": ["1", "n/a"]})
    assert keys(table) == ["sub-1_ses-1", "sub-2"]
    assert keys(table[["participant_id"]]) == ["sub-1", "sub-2"]


def test_a_tsv_is_read_into_header_rows_and_notes(tmp_path):
    path = write(tmp_path, "\ufeff a \tb\n1\t2\n")
    assert read_tsv(path) == (["a", "b"], [["1", "2"]], ["participants.tsv: byte order mark skipped"])


@pytest.mark.parametrize(
    ("length", "session", "refused"),
    [(5000, "", True), (197, "", True), (196, "", False), (180, "1234567890123", True), (100, "n/a", False)],
)
def test_an_id_is_as_long_as_a_file_name_has_room_for(tmp_path, length, session, refused):
    path, who = tmp_path / "participants.tsv", "x" * length
    path.write_text(f"participant_id\tsession_id\tage\nsub-{who}\t{session or 'n/a'}\t20\nsub-2\tn/a\t30\n")
    if not refused:
        assert len(read_participants(path).table) == 2
        return
    told = r"ids of more than 200 characters: line 2: 'sub-x{36}'\.\.\. \(\d+ characters\)"
    with pytest.raises(CohortError, match=told) as caught:
        read_participants(path)
    assert "255 bytes, 55 of them for what follows" in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_an_id_that_is_no_id_is_not_repeated_whole(tmp_path):
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\n{'x y' * 2000}\t20\n")
    with pytest.raises(CohortError, match=r"cannot name a file: line 2: '.{80}'... \(6000 characters\)"):
        read_participants(tmp_path / "participants.tsv")
