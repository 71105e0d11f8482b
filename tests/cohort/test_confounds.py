import numpy as np
import pytest

from medrep.cohort.connectivity import find_confounds, read_confounds
from medrep.errors import CohortError

ENDING = "desc-confounds_timeseries.tsv"


def test_the_table_beside_the_image_has_no_entity_of_its_own(tmp_path):
    image = tmp_path / "sub-1_task-rest_run-1_space-MNI_desc-preproc_bold.nii.gz"
    for name in ("sub-1_task-rest_run-1", "sub-1_task-rest_run-2", "sub-1_task-other_run-1", "sub-11_task-rest_run-1"):
        (tmp_path / f"{name}_{ENDING}").touch()
    assert find_confounds(image, ENDING).name == f"sub-1_task-rest_run-1_{ENDING}"
    with pytest.raises(CohortError, match=r"\*_x.tsv is needed beside it, there: none; set input.confounds_file"):
        find_confounds(image, "x.tsv")
    (tmp_path / f"sub-1_task-rest_{ENDING}").touch()
    with pytest.raises(CohortError, match=f"there: sub-1_task-rest_{ENDING}, sub-1_task-rest_run-1_{ENDING}; set"):
        find_confounds(image, ENDING)


def test_an_ending_cannot_lead_elsewhere(tmp_path):
    (tmp_path / f"sub-1_{ENDING}").touch()
    inner = tmp_path / "in"
    inner.mkdir()
    with pytest.raises(CohortError, match="there: none"):
        find_confounds(inner / "sub-1_bold.nii", f"../sub-1_{ENDING}")


def test_columns_come_in_the_order_asked_and_a_first_difference_takes_the_second(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text("a\tb\tc\n1\tn/a\t7\n2\t0.5\t8\n3\t-1e-1\t9\n")
    np.testing.assert_array_equal(read_confounds(path, ["b", "a"], 3), [[0.5, 1], [0.5, 2], [-0.1, 3]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tc\n1\t2\n1\t2\n1\t2\n", "no column b; columns: a, c"),
        ("a\tb\n1\t2\n1\t2\n", "2 rows for 3 volumes; one row a volume is needed"),
        ("a\tb\n1\tn/a\n2\tn/a\nx\t3\n", "no number: b in row 1, b in row 2, a in row 3; mend the table"),
        ("a\tb\n1\t1\n2\t2,5\n3\t3+\n", "no number: b in row 2, b in row 3"),
        ("a\tb\nx\t1\n1\t1\n1\tinf\n", "no number: a in row 1, b in row 3"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    path = tmp_path / "c.tsv"
    path.write_text(text)
    with pytest.raises(CohortError, match=message) as refusal:
        read_confounds(path, ["a", "b"], 3)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
