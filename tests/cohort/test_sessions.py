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
    assert notes == ["3 sessions of 2 people"]


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


def test_a_visit_that_the_sessions_table_does_not_know_keeps_the_persons_row(tmp_path):
    visits(tmp_path, "sub-1", "ses-a", "ses-b")
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tage\nses-a\t31\n")
    assert list(with_sessions(tmp_path, people("sub-1", age=["30"]), None)[0]["age"]) == ["31", "30"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("visit\tage\n1\t3\n", "sub-1_sessions.tsv: no column session_id; name the column of visits session_id"),
        (
            "session_id\tage\na\t3\nses-a\t4\n",
            "sub-1_sessions.tsv: sessions that occur twice: a; keep one row a session",
        ),
        ("", "sub-1_sessions.tsv: the file is empty"),
        ("session_id\tage\na\n", "sub-1_sessions.tsv: rows that do not have the header's 2 cells"),
    ],
)
def test_a_damaged_sessions_table_is_refused(tmp_path, text, message):
    visits(tmp_path, "sub-1", "ses-a")
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text(text)
    with pytest.raises(CohortError, match=message):
        with_sessions(tmp_path, people("sub-1"), None)
