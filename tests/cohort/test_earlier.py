import json

import pytest

from medrep.cohort.sidecars import Earlier, earlier_work, refuse_again
from medrep.derivatives.bids import Removal, write_description
from medrep.errors import CohortError

REMOVED = Removal("m", "linear", ("site", "age"), ("sex",), {"site": "(pooled)", "age": 50.0}, ())
MOVED = Removal("m", "linear", ("age",), (), {"age": 80.0}, (), "counterfactual")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("done", "covariates", "purpose"), [(REMOVED, ("site", "age"), "removal"), (MOVED, ("age",), "counterfactual")]
)
def test_what_was_done_is_read_from_each_sidecar_that_is_written(tmp_path, done, covariates, purpose):
    table, whole, images = (tmp_path / name for name in ("table", "whole", "images"))
    write(table / "features.json", {**done.to_json(), "Grid": {}})
    assert earlier_work(table) == (Earlier(covariates, purpose, "features.json"),)
    whole.mkdir()
    write_description(whole, "x", ["y"], done.to_json())
    assert earlier_work(whole) == (Earlier(covariates, purpose, "dataset_description.json"),)
    files = [images / f"sub-{k}" / f"sub-{k}_desc-x_T1w.nii.gz" for k in range(3)]
    for path in files[:2]:
        write(path.with_name(path.name.replace(".nii.gz", ".json")), done.to_json())
    assert earlier_work(images, files) == (Earlier(covariates, purpose, "sub-0/sub-0_desc-x_T1w.json", 2),)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '"MedrepVersion"',
        {"MedrepVersion": "1"},
        {"Removed": ["site"]},
        {"MedrepVersion": 1, "Removed": "site"},
    ],
)
def test_other_sidecars_say_nothing(tmp_path, content):
    write(tmp_path / "features.json", content)
    write(tmp_path / "dataset_description.json", {"GeneratedBy": [{"Name": "medrep", "Description": "generated"}, 3]})
    assert earlier_work(tmp_path, [tmp_path / "sub-1_T1w.nii.gz"]) == ()


def test_people_drawn_by_a_model_are_told(tmp_path):
    write(tmp_path / "features.json", {"MedrepVersion": "1", "Seed": 0})
    assert earlier_work(tmp_path)[0].done == "drawn by a model, not real people (features.json)"


def test_the_same_covariate_is_not_moved_twice_but_by_a_model_of_such_data():
    earlier = (Earlier(("site", "age"), "removal", "features.json"), Earlier(("sex",), "counterfactual", "a.json", 4))
    with pytest.raises(CohortError) as refusal:
        refuse_again(earlier, ["sex", "age"], ())
    assert "effects of site, age removed already (features.json)" in str(refusal.value)
    assert "moved to another sex already (a.json and 3 more)" in str(refusal.value)
    refuse_again(earlier, ["diagnosis"], ())
    refuse_again(earlier, ["site"], ("age", "site"))
