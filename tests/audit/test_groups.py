import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.audit.groups import MISSING, Split, group_participants, parse_by, parse_intersect
from medrep.errors import ConfigError, CovariateError

WORDS = st.text("abcXYZ_9", min_size=1, max_size=6)
LEVELS = st.sampled_from(["F", "M", "other", None, "n/a"])
EDGES = st.lists(st.integers(-50, 150), min_size=1, max_size=6, unique=True).map(sorted)


def one(frame, text):
    (grouping,) = group_participants(frame, parse_by(text))
    return grouping


def counts(grouping):
    return dict(zip(grouping.labels, np.bincount(grouping.codes, minlength=len(grouping.labels)), strict=True))


@given(st.lists(WORDS, min_size=1, max_size=4, unique=True), st.data())
def test_what_is_written_is_read(names, data):
    splits = [
        Split(name, tuple(map(float, data.draw(EDGES)))) if data.draw(st.booleans()) else Split(name) for name in names
    ]
    text = ",".join(
        split.column + (":" + "/".join(f"{edge:g}" for edge in split.edges) if split.edges else "") for split in splits
    )
    assert parse_by(text) == tuple(splits)


@given(
    st.lists(st.one_of(st.floats(-100, 200), st.just(float("nan"))), min_size=1, max_size=40).filter(
        lambda values: len(values) > 0
    ),
    EDGES,
)
def test_everybody_is_in_the_one_bin_that_holds_their_value(values, edges):
    grouping = one(pd.DataFrame({"age": values}), "age:" + "/".join(map(str, edges)))
    assert len(grouping.codes) == len(values)
    for value, code in zip(values, grouping.codes, strict=True):
        if np.isnan(value):
            assert grouping.labels[code] == f"age={MISSING}"
            assert code in grouping.missing
        else:
            below = [edge for edge in edges if edge <= value]
            above = [edge for edge in edges if edge > value]
            dash = "-" if edges[0] >= 0 else " to "
            name = (
                f"age<{edges[0]}"
                if not below
                else f"age>={edges[-1]}"
                if not above
                else f"age={below[-1]}{dash}{above[0]}"
            )
            assert grouping.labels[code] == name
    assert len(grouping.labels) == len(edges) + 1 + bool(np.isnan(values).any())


@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=30))
def test_an_intersection_is_both_groups_and_holds_everybody(rows):
    frame = pd.DataFrame(rows, columns=["sex", "site"], dtype=object)
    sex, site, both = group_participants(frame, parse_by("sex,site"), [parse_intersect("sex,site")])
    for first, second, code in zip(sex.codes, site.codes, both.codes, strict=True):
        assert both.labels[code] == f"{sex.labels[first]} & {site.labels[second]}"
        assert (code in both.missing) == (first in sex.missing or second in site.missing)
    whole = (len(sex.labels) - len(sex.missing)) * (len(site.labels) - len(site.missing))
    assert len(both.labels) - len(both.missing) == whole
    assert len(set(both.labels)) == len(both.labels)


def test_levels_and_people_without_one():
    found = counts(one(pd.DataFrame({"sex": ["F", "m", "M", "M", "n/a", None, "F "]}), "sex"))
    assert found == {"sex=F": 2, "sex=M": 3, "sex=(missing)": 2}


def test_an_empty_bin_and_an_empty_intersection_are_listed():
    frame = pd.DataFrame({"sex": ["F", "M", "F"], "age": [25.0, 30.0, 85.0]})
    age, both = group_participants(
        frame, parse_by("age:20/40/80"), [parse_intersect("sex,age", parse_by("age:20/40/80"))]
    )
    assert counts(age) == {"age<20": 0, "age=20-40": 2, "age=40-80": 0, "age>=80": 1}
    assert len(both.labels) == 8
    assert counts(both)["sex=M & age>=80"] == 0


def test_age_is_cut_into_decades_and_other_numbers_into_quartiles():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.uniform(21, 79, 200), "score": rng.normal(size=200)})
    age, score = group_participants(frame, parse_by("age,score"))
    assert age.labels[:3] == ("age<30", "age=30-40", "age=40-50")
    assert age.note == "decades"
    assert "quartiles" in score.note
    assert list(counts(score).values()) == pytest.approx([50] * 4, abs=3)
    assert score.numbers is not None


def test_numbers_that_are_levels_and_columns_told_what_they_are():
    frame = pd.DataFrame(
        {"site": [str(k % 15) for k in range(60)], "arm": [0, 1] * 30, "year": np.arange(60) / 30 + 2015}
    )
    assert len(one(frame, "arm").labels) == 2
    assert len(one(frame, "site:levels").labels) == 15
    assert len(one(frame, "site").labels) == 4
    year = one(frame, "year")
    assert len(year.labels) == 4
    assert list(counts(year).values()) == pytest.approx([15] * 4, abs=1)


def test_text_of_a_table_is_read_as_numbers():
    grouping = one(pd.DataFrame({"age": ["26,9", "89+", "20-25", "n/a", "<40", "40"]}), "age:40/80")
    assert [grouping.labels[code] for code in grouping.codes] == [
        "age<40", "age>=80", "age<40", "age=(missing)", "age<40", "age=40-80",
    ]  # fmt: skip
    assert "3 ranges" in grouping.note


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sex,,site", ["names no column"]),
        ("age:40/20,site:x,site", ["have to increase", "neither edges nor levels", "40/20", "site:x"]),
        ("sex,sex", ["named twice"]),
        ("age:", ["neither edges nor"]),
    ],
)
def test_all_faults_of_a_specification_are_told(text, told):
    with pytest.raises(ConfigError) as error:
        parse_by(text)
    for part in (*told, "age:20/40/60/80"):
        assert part in str(error.value)


def test_an_intersection_of_one_column_is_refused():
    with pytest.raises(ConfigError, match="two columns"):
        parse_intersect("sex")


def test_unknown_columns_are_all_told_with_what_there_is():
    with pytest.raises(CovariateError) as error:
        group_participants(pd.DataFrame({"sex": ["F"]}), parse_by("sxe,age"), [parse_intersect("sex,sit")])
    for part in ("sxe", "age", "sit", "the table has sex"):
        assert part in str(error.value)


def test_bins_of_words_and_too_many_levels_are_told_at_once():
    frame = pd.DataFrame({"sex": ["F", "M"] * 300, "participant_id": [f"sub-{k}" for k in range(600)]})
    with pytest.raises(CovariateError) as error:
        group_participants(frame, parse_by("sex:20/40,participant_id"))
    assert "no numbers" in str(error.value)
    assert "600 levels" in str(error.value)
