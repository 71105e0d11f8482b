import json

import pytest

from medrep.cohort.dictionary import contradictions, read_dictionary
from medrep.errors import CohortError

SEX = {"1": "male", "2": "female"}


def write(folder, content):
    path = folder / "participants.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_units_meanings_and_codes_are_read(tmp_path):
    stated = read_dictionary(
        write(
            tmp_path,
            {
                "age": {"Units": " years ", "Levels": {"999": "Missing", "-9": "not available", "": "n/a"}},
                "Sex": {
                    "Levels": {"1": {"Description": "male", "TermURL": "x"}, "2": "female", "9": "unknown", "3": 7}
                },
                "odd": "text",
                "site": {"Levels": ["A", "B"], "Units": 3},
            },
        )
    )
    assert (stated.unit("age"), stated.unit("Age"), stated.unit("site")) == ("years", "years", "")
    assert stated.no_value("age") == ("999", "-9", "")
    assert stated.meanings("sex") == SEX
    assert stated.no_value("sex") == ("9",)
    assert (stated.meanings("site"), stated.meanings("nowhere")) == ({}, {})


def test_no_file_says_nothing(tmp_path):
    assert read_dictionary(tmp_path / "participants.json").unit("age") == ""


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not a JSON file"), ("[]", "holds a list, not an object of columns")]
)
def test_what_is_no_dictionary_is_refused(tmp_path, content, message):
    with pytest.raises(CohortError, match=message):
        read_dictionary(write(tmp_path, content))


@pytest.mark.parametrize(
    ("trained", "given"),
    [
        (SEX, {"1": "female", "2": "male"}),
        (SEX, {"1": "F"}),
        (SEX, {"1.0": "Woman"}),
        ({"1": "male participant", "2": "female participant"}, {"1": "female participant"}),
        ({"1": "Boston", "2": "Berlin"}, {"1": "Oslo", "2": "Berlin"}),
        ({"0": "control", "1": "patient"}, {"0": "patient", "1": "control"}),
        ({"y": "smoker", "n": "non-smoker"}, {"y": "non-smoker", "n": "smoker"}),
    ],
)
def test_other_meanings_are_contradictions(trained, given):
    found = contradictions(trained, given)
    assert found
    assert all(" here and " in line for line in found)


@pytest.mark.parametrize(
    ("trained", "given"),
    [
        (SEX, {"1": "Male", "2": "FEMALE"}),
        (SEX, {"1": "man", "2": "f"}),
        (SEX, {"1": "male participants", "2": "female participants"}),
        (SEX, {"3": "other"}),
        (SEX, {}),
        ({}, SEX),
        ({"A": "Siemens Trio, 3T"}, {"A": "Siemens Trio (3 T)"}),
        ({"1": "?"}, {"1": "!"}),
    ],
)
def test_other_words_are_none(trained, given):
    assert contradictions(trained, given) == []
