import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.columns import read_covariates
from medrep.cohort.covariates import Covariate
from medrep.errors import CovariateError, MedrepError

AGE = Covariate("age", "continuous", unit="year")
SEX = Covariate("sex", "categorical")
SITE = Covariate("site", "categorical", role="batch")


def people(**columns):
    rows = len(next(iter(columns.values())))
    ids = [f"sub-{n:02d}" for n in range(1, rows + 1)]
    return pd.DataFrame({"participant_id": ids, **columns}, index=pd.Index(ids, name="key"), dtype=str)


def refusal(table, declared, units=None):
    with pytest.raises(CovariateError) as caught:
        read_covariates(table, declared, units)
    return str(caught.value).splitlines()


def test_values_come_out_as_numbers_and_levels_with_notes():
    read = read_covariates(people(age=["26,9", "30"], sex=["m", "F"], site=["A,", "B"]), [AGE, SEX, SITE])
    assert list(read.frame.columns) == ["age", "sex", "site"]
    assert list(read.frame["age"]) == [26.9, 30.0]
    assert list(read.frame["sex"]) == ["M", "F"]
    assert list(read.frame["site"]) == ["A", "B"]
    assert read.notes == (
        "sub-01: age '26,9' is read as 26.9",
        "sex: 'm' is read as 'M'",
        "site: 'A,' is read as 'A'",
    )


def test_all_offending_cells_are_listed_with_person_column_value_and_cure():
    table = people(age=["n/a", "20-25", "89+", "old", "30"], sex=["M", "F", "", "M", "n/a"])
    drop_or_impute = "missing; fill it in, or set covariates.{}.missing to drop or impute"
    midpoint = "write a number, or set covariates.age.inexact to midpoint"
    assert refusal(table, [AGE, SEX]) == [
        "covariates that cannot be used as they stand (6):",
        "  sub-01: age 'n/a' is " + drop_or_impute.format("age"),
        f"  sub-02: age '20-25' is a range; {midpoint}",
        f"  sub-03: age '89+' is a censored value; {midpoint}",
        "  sub-04: age 'old' is no number; write a number",
        "  sub-03: sex '' is " + drop_or_impute.format("sex"),
        "  sub-05: sex 'n/a' is " + drop_or_impute.format("sex"),
    ]


def test_a_single_offender_stays_on_one_line():
    assert refusal(people(age=["30", "x"]), [AGE]) == [
        "covariates that cannot be used as they stand: sub-02: age 'x' is no number; write a number"
    ]


def test_the_messages_name_the_column_of_the_file_and_the_covariate_of_the_configuration():
    column = Covariate("age", "continuous", column="Alter")
    assert (
        "sub-01: Alter '' is missing; fill it in, or set covariates.age.missing"
        in refusal(people(Alter=[""]), [column])[0]
    )


def test_midpoint_reads_ranges_and_bounds_and_says_so():
    read = read_covariates(people(age=["20-25", "89+"]), [Covariate("age", "continuous", inexact="midpoint")])
    assert list(read.frame["age"]) == [22.5, 89.0]
    assert read.notes == ("sub-01: age '20-25' is read as 22.5", "sub-02: age '89+' is read as 89")


def test_midpoint_does_not_accept_text():
    offender = refusal(people(age=["old"]), [Covariate("age", "continuous", inexact="midpoint", missing="drop")])[0]
    assert "age 'old' is no number" in offender


def test_drop_leaves_people_out_and_names_them():
    age = Covariate("age", "continuous", missing="drop")
    sex = Covariate("sex", "categorical", missing="drop")
    read = read_covariates(people(age=["n/a", "20", "30"], sex=["M", "?", "F"]), [age, sex])
    assert list(read.frame.index) == ["sub-03"]
    assert read.notes == ("age: missing; left out sub-01", "sex: missing; left out sub-02")


def test_dropping_everybody_is_refused_by_column():
    drop = Covariate("age", "continuous", missing="drop")
    assert refusal(people(age=["n/a", ""]), [drop]) == [
        "nobody is left: every person lacks one of age; leave a covariate out, or set its missing to impute"
    ]


def test_impute_keeps_the_gap_for_the_schema_to_fill():
    age = Covariate("age", "continuous", missing="impute")
    sex = Covariate("sex", "categorical", missing="impute")
    read = read_covariates(people(age=["n/a", "20"], sex=["M", "n/a"]), [age, sex])
    assert np.isnan(read.frame["age"].iloc[0])
    assert pd.isna(read.frame["sex"].iloc[1])
    assert read.notes == (
        "age: missing; training value used for sub-01",
        "sex: missing; training value used for sub-02",
    )


@pytest.mark.parametrize(
    ("column", "covariate"),
    [("Age", AGE), ("Gender", SEX), ("center", SITE), ("Centre", SITE), ("dx", Covariate("diagnosis", "categorical"))],
)
def test_close_column_names_are_read_with_a_note(column, covariate):
    read = read_covariates(people(**{column: ["1", "2"]}), [covariate])
    assert read.notes[0] == f"column {column!r} is read as {covariate.name}"


def test_two_close_names_are_not_chosen_between():
    assert "'sex' (columns: Sex, gender)" in refusal(people(Sex=["M"], gender=["F"]), [SEX])[0]


def test_an_exact_name_wins_over_close_ones_that_say_the_same():
    read = read_covariates(people(Sex=["female"], sex=["F"]), [SEX])
    assert (list(read.frame["sex"]), read.notes) == (["F"], ())


@pytest.mark.parametrize(
    ("columns", "declared", "line"),
    [
        ({"Sex": ["M"], "sex": ["F"]}, SEX, "sub-01: sex is 'F', Sex is 'M'"),
        ({"age": ["30.0"], "AGE": ["31"]}, AGE, "sub-01: age is '30.0', AGE is '31'"),
        ({"Site": ["B"], "site": ["A"]}, SITE, "sub-01: site is 'A', Site is 'B'"),
    ],
)
def test_two_columns_of_one_name_that_contradict_each_other_are_refused(columns, declared, line):
    assert line in refusal(people(**columns), [declared])[0]


def test_another_column_of_that_meaning_is_named_where_the_column_was_chosen():
    read = read_covariates(people(sex=["F", "M"], gender=["f", "x"]), [SEX])
    assert read.notes == (
        "sex is read from column 'sex'; 'gender' says otherwise of 1 people (sub-02: 'x' where 'M' is used)",
    )
    age = Covariate("age", "continuous", column="age_at_scan")
    notes = read_covariates(people(age=["1", "2"], age_at_scan=["1", "3"]), [age]).notes
    assert notes == (
        "age is read from column 'age_at_scan'; 'age' says otherwise of 1 people (sub-02: '2' where '3' is used)",
    )


def test_an_age_a_person_is_not_taken_where_there_is_one_a_visit():
    table = people(baseline=["30", "30", "40"], Age=["30", "32", "40"]).assign(
        participant_id=["a", "a", "b"], session_id=["1", "2", "1"]
    )
    age = Covariate("age", "continuous", column="baseline")
    assert "baseline is '30', Age is '32'" not in str(read_covariates(table[["participant_id", "baseline"]], [age]))
    configured = Covariate("age", "continuous", column="baseline")
    assert "sub-02: baseline is '30', Age is '32'" in refusal(table, [configured])[0]


def test_many_cells_of_one_column_do_not_hide_another_column():
    table = people(age=["old"] * 40, iq=["high"] * 40)
    lines = refusal(table, [AGE, Covariate("iq", "continuous")])
    assert sum("is no number" in line for line in lines) == 6
    assert "  age: ... and 37 more cells of this column" in lines
    assert "  iq: ... and 37 more cells of this column" in lines


def test_the_column_of_the_configuration_is_taken_as_written():
    age = Covariate("age", "continuous", column="age_at_scan (y)")
    assert list(read_covariates(people(age=["1"], **{"age_at_scan (y)": ["2"]}), [age]).frame["age"]) == [2.0]
    missing = refusal(people(age=["1"]), [age])
    assert missing[0].startswith("covariates without a column: 'age_at_scan (y)' (columns: age); name it with --set")


def test_a_column_with_a_similar_name_is_suggested():
    text = refusal(people(language=["x"], age_at_scan=["2"], sexe=["M"]), [AGE, SEX])
    assert text[0] == "covariates without a column (2):"
    assert "--set covariates.age.column=age_at_scan or leave it out with --set covariates.age=null" in text[1]
    assert "--set covariates.sex.column=sexe" in text[2]


@pytest.mark.parametrize(
    "stated", ["year", "years", "Years ", "", "yr", "YRS", "y", "a", "Year(s)", "[years]", "years of age"]
)
def test_the_same_unit_in_other_words_is_accepted(stated):
    assert len(read_covariates(people(age=["3"]), [AGE], {"age": stated}).frame) == 1


def test_a_contradicting_unit_is_refused_with_both():
    assert refusal(people(age=["300"]), [AGE], {"age": "month"}) == [
        "covariates that cannot be used as they stand: column age: participants.json says 'month', the configuration or the"
        " model 'year'; convert the column (divide by 12), or set covariates.age.unit before training"
    ]


@pytest.mark.parametrize(
    ("cells", "levels"),
    [
        (["male", "Female", "WOMAN", "man"], ["M", "F", "F", "M"]),
        (["M,", "m", " f ", "F;"], ["M", "M", "F", "F"]),
        (["1", "0", "1"], ["1", "0", "1"]),
        (["o", "O", "o"], ["o", "o", "o"]),
    ],
)
def test_spellings_of_sex_become_one(cells, levels):
    assert list(read_covariates(people(sex=cells), [SEX]).frame["sex"]) == levels


def test_words_for_sex_mean_nothing_in_other_columns():
    assert list(read_covariates(people(site=["m", "male", "f"]), [SITE]).frame["site"]) == ["m", "male", "f"]


def test_a_level_named_like_the_pooled_cohort_is_refused():
    assert refusal(people(site=["A", "(pooled)"]), [SITE]) == [
        "covariates that cannot be used as they stand: sub-02: site '(pooled)' stands for the pooled cohort in a model;"
        " rename the level"
    ]


cells = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5), st.sampled_from(["error", "drop", "impute"]))
def test_any_cells_are_read_or_refused(rows, missing):
    table = people(age=[a for a, _ in rows], sex=[b for _, b in rows])
    declared = [Covariate("age", "continuous", missing=missing), Covariate("sex", "categorical", missing=missing)]
    try:
        frame = read_covariates(table, declared).frame
    except MedrepError as error:
        assert str(error)  # noqa: PT017
        return
    assert not np.isinf(frame["age"]).any()
    assert missing == "impute" or not frame.isna().to_numpy().any()


@given(st.permutations(range(6)))
def test_permuting_rows_permutes_the_values(order):
    table = people(age=["1", "2,5", "3", "4", "5", "6"], sex=["m", "M", "F", "f", "F", "M"])
    straight = read_covariates(table, [AGE, SEX]).frame
    pd.testing.assert_frame_equal(
        read_covariates(table.iloc[list(order)], [AGE, SEX]).frame, straight.iloc[list(order)]
    )


@pytest.mark.parametrize(
    ("cells", "levels"),
    [
        (["1", "1.0", "2.0", "2"], ["1", "1", "2", "2"]),
        (["1.0", "1.0", "2.0", "2.0"], ["1.0", "1.0", "2.0", "2.0"]),
        (["Zürich", "Zu\u0308rich", "Bern", "Bern"], ["Zürich", "Zürich", "Bern", "Bern"]),
        (["Site A", "Site  A", "Site\u00a0A", " Site A"], ["Site A"] * 4),
        (['"A"', "A", "'A'", "B"], ["A", "A", "A", "B"]),
        (["\uff21", "A", "a", "A"], ["A"] * 4),
        (["A\u200b", "A", "\ufeffA", "A"], ["A"] * 4),
    ],
)
def test_spellings_of_one_site_are_one_with_a_note(cells, levels):
    read = read_covariates(people(site=cells), [SITE])
    assert list(read.frame["site"]) == levels
    noted = {note.split(" is read as ")[0] for note in read.notes}
    assert len(noted) == len({cell for cell, level in zip(cells, levels, strict=True) if cell != level})


@pytest.mark.parametrize(
    ("one", "other"), [("1", "01"), ("1", "True"), ("S1", "S01"), ("1.5", "1.50"), ("T2", "T\u00b2")]
)
def test_spellings_that_may_be_two_sites_are_refused_with_their_people(one, other):
    table = people(site=[one, other, one, one, one, one, one])
    (line,) = refusal(table, [SITE])
    assert f"{other!r} (sub-02)" in line
    assert f"{one!r} (sub-01, sub-03, sub-04, sub-05 and 2 more)" in line
    assert "covariates.site.verbatim=[" in line
    kept = Covariate("site", "categorical", role="batch", verbatim=(one, other))
    assert list(read_covariates(table, [kept]).frame["site"]) == [one, other, one, one, one, one, one]


@pytest.mark.parametrize("word", ["NA", "None", "-", "unknown", "null"])
def test_a_level_that_is_called_like_a_missing_one_is_kept_where_somebody_says_so(word):
    table = people(site=["A", word, f" {word}", "B"])
    assert f'verbatim=["{word}"]\'' in refusal(table, [SITE])[1]
    kept = Covariate("site", "categorical", role="batch", verbatim=(word,))
    assert list(read_covariates(table, [kept]).frame["site"]) == ["A", word, word, "B"]


@pytest.mark.parametrize(("column", "covariate"), [("site", SITE), ("sex", SEX)])
def test_a_nul_byte_in_a_level_is_refused_by_person(column, covariate):
    assert f"sub-02: {column} 'A\\x00' holds a NUL byte" in refusal(people(**{column: ["A", "A\0"]}), [covariate])[0]


@pytest.mark.parametrize("cell", ["1_000", "\uff13\uff10", "inf", "1e400", "30\0", "0x1E", "\u0663\u0660", "3 0"])
def test_what_only_python_takes_for_a_number_is_none(cell):
    assert "is no number; write a number" in refusal(people(age=["30", cell]), [AGE])[0]


def test_quoted_numbers_are_read_with_a_note():
    read = read_covariates(people(age=['"30.5"', "40"]), [AGE])
    assert (list(read.frame["age"]), read.notes) == ([30.5, 40.0], ("sub-01: age '\"30.5\"' is read as 30.5",))


@pytest.mark.parametrize("missing", ["error", "drop", "impute"])
def test_declared_codes_are_missing(missing):
    declared = [
        Covariate("age", "continuous", missing=missing, missing_codes=("-9", "999")),
        Covariate("site", "categorical", missing=missing, missing_codes=("99",)),
    ]
    table = people(age=["30", "-9.0", "40", "999"], site=["1", "2", "99", "1"])
    if missing == "error":
        assert [line.split(";")[0].strip() for line in refusal(table, declared)[1:]] == [
            "sub-02: age '-9.0' is missing",
            "sub-04: age '999' is missing",
            "sub-03: site '99' is missing",
        ]
        return
    frame = read_covariates(table, declared).frame
    assert frame.isna().sum().tolist() == ([0, 0] if missing == "drop" else [2, 1])


def test_codes_that_the_data_dictionary_calls_missing_are_missing():
    levels = {"age": {"999": "missing"}, "site": {"9": "not available", "1": "Bern"}}
    declared = [Covariate("age", "continuous", missing="drop"), Covariate("site", "categorical", missing="drop")]
    read = read_covariates(people(age=["30", "999", "40"], site=["1", "2", "9"]), declared, None, levels)
    assert list(read.frame.index) == ["sub-01"]
    assert "age: '999' is missing, as participants.json says" in read.notes


def test_values_outside_declared_limits_are_refused():
    age = Covariate("age", "continuous", limits=(18, 90))
    assert refusal(people(age=["30", "17.9", "90", "91"]), [age]) == [
        "covariates that cannot be used as they stand (2):",
        "  sub-02: age '17.9' lies outside covariates.age.limits, 18 to 90; mend it",
        "  sub-04: age '91' lies outside covariates.age.limits, 18 to 90; mend it",
    ]


def test_what_the_data_dictionary_says_is_kept_with_the_declaration():
    age, sex = Covariate("age", "continuous"), SEX
    read = read_covariates(
        people(age=["300"], sex=["1"]), [age, sex], {"age": "months"}, {"sex": {"1": "male", "2": "female"}}
    )
    assert [c.unit for c in read.declared] == ["months", ""]
    assert read.declared[1].meanings == {"1": "male", "2": "female"}
    (unit,) = refusal(people(age=["30"], sex=["1"]), read.declared, {"age": "years"})
    assert "says 'years', the configuration or the model 'months'; convert the column (multiply by 12)" in unit
    with pytest.raises(CovariateError, match="'1' is 'female' here and 'male' in training"):
        read_covariates(people(age=["300"], sex=["1"]), read.declared, None, {"sex": {"1": "female", "2": "male"}})
    assert (
        len(read_covariates(people(age=["300"], sex=["1"]), read.declared, {"age": "mo"}, {"sex": {"1": "M"}}).frame)
        == 1
    )
