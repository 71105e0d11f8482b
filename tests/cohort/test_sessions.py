import pandas as pd
import pytest

from medrep.cohort.sessions import with_sessions
from medrep.errors import CohortError


def people(*ids, **columns):
    return pd.DataFrame({"participant_id": list(ids), **columns}, index=pd.Index(ids, name="key"))


def visits(root, person, *names):
    for name in names:
        (root / person / name).mkdir(parents=True)


def test_a_table_that_has_sessions_is_left_alone(tmp_path):
    table = people("sub-1", session_id=["1"])
    expanded, notes = with_sessions(tmp_path, table, None)
    assert expanded is table
    assert notes == []


def test_a_cohort_without_sessions_is_left_alone(tmp_path):
    table = people("sub-1", "sub-2")
    assert with_sessions(tmp_path, table, None)[0] is table
    assert with_sessions(tmp_path, table, table[["participant_id"]])[0] is table


def test_folders_of_sessions_become_rows(tmp_path):
    visits(tmp_path, "sub-1", "ses-b", "ses-a")
    visits(tmp_path, "sub-2", "anat")
    (tmp_path / "sub-1" / "ses-file.txt").touch()
    expanded, notes = with_sessions(tmp_path, people("sub-1", "sub-2", age=["30", "40"]), None)
    assert list(expanded.index) == ["sub-1_ses-a", "sub-1_ses-b", "sub-2"]
    assert list(expanded["age"]) == ["30", "30", "40"]
    assert list(expanded["session_id"]) == ["ses-a", "ses-b", "n/a"]
    assert notes == [
        "3 sessions of 2 people",
        "one value a person, for all visits of 1 people: age of participants.tsv",
    ]


def test_sessions_of_features_become_rows_whatever_the_prefix(tmp_path):
    ids = pd.DataFrame({"participant_id": ["1", "1", "sub-2"], "session_id": ["x", "y", "n/a"]})
    expanded, _ = with_sessions(tmp_path, people("sub-1", "2"), ids)
    assert list(expanded.index) == ["sub-1_ses-x", "sub-1_ses-y", "2"]


def test_what_changes_between_visits_comes_from_the_sessions_table(tmp_path):
    visits(tmp_path, "sub-1", "ses-a", "ses-b")
    text = "session_id\tage\tscanner\tparticipant_id\nses-a\t31\tP\tx\nb\t35\tQ\tx\n"
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text(text)
    expanded, _ = with_sessions(tmp_path, people("sub-1", age=["30"], sex=["F"]), None)
    assert list(expanded["age"]) == ["31", "35"]
    assert list(expanded["scanner"]) == ["P", "Q"]
    assert list(expanded["sex"]) == ["F", "F"]
    assert list(expanded["participant_id"]) == ["sub-1", "sub-1"]


def table_of_visits(root, person, text, *names):
    visits(root, person, *names)
    (root / person / f"{person}_sessions.tsv").write_text(text)


def test_a_visit_that_the_sessions_table_lacks_has_nothing_and_is_named(tmp_path):
    table_of_visits(tmp_path, "sub-1", "session_id\tage\nses-a\t31\n", "ses-a", "ses-b")
    expanded, notes = with_sessions(tmp_path, people("sub-1", age=["30"], sex=["F"]), None)
    assert list(expanded["age"]) == ["31", "n/a"]
    assert list(expanded["sex"]) == ["F", "F"]
    assert any("sub-1 ses-b (sub-1_sessions.tsv)" in note for note in notes)


def test_a_column_that_may_be_the_one_of_a_visit_is_named(tmp_path):
    table_of_visits(tmp_path, "sub-1", "session_id\tage_at_visit\nses-a\t31\nses-b\t33\n", "ses-a", "ses-b")
    expanded, notes = with_sessions(tmp_path, people("sub-1", age=["30"], sex=["F"]), None)
    assert list(expanded["age"]) == ["30", "30"]
    assert "all visits of 1 people: age, sex of participants.tsv; sessions.tsv has 'age_at_visit'" in notes[-1]
    assert "--set covariates.age.column=age_at_visit" in notes[-1]


@pytest.mark.parametrize(
    ("known", "written"), [("age", "Age"), ("Age", "AGE"), ("sex", "Gender"), ("site", "Centre"), ("dx", "diagnosis")]
)
def test_a_visits_own_value_wins_whatever_its_column_is_called(tmp_path, known, written):
    table_of_visits(tmp_path, "sub-1", f"Session_ID\t{written}\nses-a\t1\nses-b\t2\n", "ses-a", "ses-b")
    expanded, notes = with_sessions(tmp_path, people("sub-1", **{known: ["1"]}), None)
    assert list(expanded.columns) == ["participant_id", known, "session_id"]
    assert list(expanded[known]) == ["1", "2"]
    assert f"sessions.tsv: column {written!r} is read as {known}" in notes
    assert any("sub-1 ses-b: '2' where participants.tsv has '1'" in note for note in notes)


def test_a_visit_in_another_spelling_is_found_where_that_is_certain(tmp_path):
    table_of_visits(tmp_path, "sub-1", "session_id\tage\nses-1\t31\n2\t33\n", "ses-01", "ses-02")
    expanded, notes = with_sessions(tmp_path, people("sub-1", age=["30"]), None)
    assert list(expanded["age"]) == ["31", "33"]
    assert "sessions.tsv: visit '1' as 'ses-01', '2' as 'ses-02' of the data" in notes
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tage\nses-1\t31\nses-001\t33\n")
    assert list(with_sessions(tmp_path, people("sub-1", age=["30"]), None)[0]["age"]) == ["n/a", "n/a"]


def test_a_table_of_visits_and_sessions_tsv_must_agree(tmp_path):
    table = people("sub-1", "sub-1", age=["30", "32"], sex=["F", "n/a"], session_id=["ses-a", "ses-b"])
    table.index = pd.Index(["sub-1_ses-a", "sub-1_ses-b"], name="key")
    table_of_visits(tmp_path, "sub-1", "session_id\tAge\tsex\tscanner\na\t30.0\tF\tP\nb\t32\tF\tQ\n", "ses-a", "ses-b")
    joined, notes = with_sessions(tmp_path, table, None)
    assert joined.index.equals(table.index)
    assert joined.to_dict("list") == {
        "participant_id": ["sub-1", "sub-1"],
        "age": ["30", "32"],
        "sex": ["F", "F"],
        "session_id": ["ses-a", "ses-b"],
        "scanner": ["P", "Q"],
    }
    assert notes == ["sessions.tsv: column 'Age' is read as age"]
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tAge\tsex\na\t31\tF\nb\t33\tF\n")
    with pytest.raises(CohortError) as refusal:
        with_sessions(tmp_path, table, None)
    assert "sub-1 ses-a: age '30' in participants.tsv, Age '31' in sub-1_sessions.tsv" in str(refusal.value)
    assert "sub-1 ses-b: age '32' in participants.tsv, Age '33' in sub-1_sessions.tsv" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("visit\tage\n1\t3\n", "sub-1_sessions.tsv: no column session_id; name the column of visits session_id"),
        (
            "session_id\tage\na\t3\nses-a\t4\n",
            "sub-1_sessions.tsv: sessions that occur twice: a; keep one row a session",
        ),
        ("session_id\tage\tAge\na\t3\t4\n", "sub-1_sessions.tsv: columns of one meaning"),
        ("", "sub-1_sessions.tsv: the file is empty"),
        ("session_id\tage\na\n", "sub-1_sessions.tsv: rows that do not have the header's 2 cells"),
    ],
)
def test_a_damaged_sessions_table_is_refused(tmp_path, text, message):
    visits(tmp_path, "sub-1", "ses-a")
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text(text)
    with pytest.raises(CohortError, match=message):
        with_sessions(tmp_path, people("sub-1"), None)
