"""The fan of a report: visits of a few people and what further ones are expected to measure, and what leaves with it."""

import gzip
import json
import re
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cli import main
from medrep.models import LinearModel
from medrep.report.data_forecast import fan_report_data
from medrep.report.data_store import read_report_data
from tests.models.linear.test_visits import AUTO, INDEPENDENT, Planted
from tests.small_runs import Runs

NODE = shutil.which("node")
DRAWN = """
const fs = require("fs"), [page, scripts, wanted] = process.argv.slice(2);
class Element {
  constructor() { this.attributes = {}; this.children = []; this.style = {}; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
}
global.document = { createElementNS: () => new Element(), createElement: () => new Element(), querySelectorAll: () => [] };
global.addEventListener = () => {};
const loose = (text) => text.replace('"use strict";', "").replace("const VIEWS", "var VIEWS");
(0, eval)(scripts.split(",").map((path) => loose(fs.readFileSync(path, "utf8"))).join(""));
const { about, fans } = JSON.parse(fs.readFileSync(page, "utf8")), views = new Element();
const view = VIEWS.fan(about, { fans: Float32Array.from(fans) }, views);
console.log(JSON.stringify(wanted.split(",").map((number) => {
  const [said, outside] = view(Number(number)), paths = views.children[0].children[0].children.map((one) => one.attributes);
  return { said, outside, paths };
})));
"""


def test_the_fan_is_what_the_model_forecasts() -> None:
    planted = Planted(6, people=40, columns=12)
    dataset = planted.dataset()
    model, _ = LinearModel.fit(dataset, AUTO)
    found = fan_report_data(model, dataset, "v005")
    assert found is not None
    people, features, years = (axis["values"] for axis in found.content["axes"])
    assert people[0].startswith("v")
    assert people[1:] == [f"person {k}" for k in range(2, 9)]
    fans = found.arrays["fans"]
    assert fans.shape == (8, 8, len(years), 4)
    own = dataset.take(np.flatnonzero(dataset.whose == dataset.whose[dataset.keys.get_loc("v005")]))
    last = own.covariates.iloc[[int(own.covariates["age"].argmax())]]
    place = 7
    told = model.forecast(dataset, last.assign(age=last["age"] + years[place]), [str(own.whose[0])])
    columns = [model.columns.names.index(name) for name in features]
    np.testing.assert_allclose(fans[0, :, place, 0], told.estimate[0, columns], rtol=1e-5)
    np.testing.assert_allclose(fans[0, :, place, 3], (told.interval(0.95)[1] - told.estimate)[0, columns], rtol=1e-5)
    ages = own.covariates["age"].sort_values()
    np.testing.assert_allclose(found.content["people"][0]["times"], ages)
    np.testing.assert_allclose(
        found.content["people"][0]["values"][0], own.select(ages.index).values[:, columns[0]], rtol=1e-12
    )


def test_models_that_know_nobody_over_time_have_none() -> None:
    dataset = Planted(6, people=40, columns=3).dataset()
    assert fan_report_data(LinearModel.fit(dataset, INDEPENDENT)[0], dataset, "v000") is None


def test_what_is_missing_at_a_visit_is_no_dot() -> None:
    planted = Planted(7, people=40, columns=4)
    planted.values[::5, 1] = np.nan
    dataset = planted.dataset()
    found = fan_report_data(LinearModel.fit(dataset, AUTO)[0], dataset, "v000")
    assert found is not None
    assert None in [one for person in found.content["people"] for column in person["values"] for one in column]
    json.dumps(found.content, allow_nan=False)


@pytest.mark.parametrize("name", ["visits_model", "visits_clean"])
def test_a_page_holds_it_small_and_names_nobody_further(runs: Runs, name: str) -> None:
    out = runs(name)
    page = (out / "report.html").read_text(encoding="utf-8")
    fan = page[page.index('data-kind="fan"') :]
    packed = re.search(r'class="payload">([^<]*)<', fan)
    about = re.search(r'class="about">([^<]*)<', fan)
    assert packed is not None
    assert about is not None
    assert len(packed[1]) + len(about[1]) < 100_000
    found = read_report_data(out, "fan")
    assert found is not None
    assert gzip.decompress(b64decode(packed[1])) == found.arrays["fans"].tobytes()
    ids = pd.read_csv(runs("visits") / "participants.tsv", sep="\t", dtype=str)["participant_id"].unique()
    named = [one for one in ids if one in json.dumps(found.content)]
    assert named == [one for one in ids if one in json.dumps(read_report_data(out, "person").content)]
    assert len(named) == 1


def test_nobody_is_shown_where_nobody_is_to_be(runs: Runs, tmp_path: Path) -> None:
    command = ["export", str(runs("visits")), str(tmp_path / "o"), "--model", str(runs("visits_model") / "model")]
    assert main([*command, "--remove", "site", "--show", "nobody", "--quiet"]) == 0
    assert read_report_data(tmp_path / "o", "fan") is None
    assert 'data-kind="fan"' not in (tmp_path / "o" / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(NODE is None, reason="no Node on this machine")
def test_the_picture_ends_at_the_chosen_time_and_says_its_numbers(runs: Runs, tmp_path: Path) -> None:
    """The script by itself, without a browser: which paths it draws, and what it says."""
    found = read_report_data(runs("visits_model"), "fan")
    assert found is not None
    page = tmp_path / "page.json"
    page.write_text(json.dumps({"about": found.content, "fans": found.arrays["fans"].ravel().tolist()}))
    (tmp_path / "drawn.js").write_text(DRAWN)
    assets = Path(mr.__file__).parent / "report" / "assets"
    features, years = (axis["values"] for axis in found.content["axes"][1:])
    wanted = [(0, 0, len(years) - 1), (1, 3, 5), (2, 0, 0)]
    numbers = [(person * len(features) + feature) * len(years) + year for person, feature, year in wanted]
    command = [
        NODE,
        tmp_path / "drawn.js",
        page,
        f"{assets / 'slider.js'},{assets / 'fan.js'}",
        ",".join(map(str, numbers)),
    ]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=True)
    for (person, feature, year), drawn in zip(wanted, json.loads(done.stdout), strict=True):
        mean, half = found.arrays["fans"][person, feature, year, [0, 3]]
        assert drawn["said"].startswith(
            f"{features[feature]}, {float(f'{years[year]:.3g}'):g} year after the last visit"
        )
        assert f"{float(f'{mean:.3g}'):g} expected" in drawn["said"]
        assert f"95 % {float(f'{mean - half:.3g}'):g} to {float(f'{mean + half:.3g}'):g}." in drawn["said"]
        kinds = [one["class"] for one in drawn["paths"]]
        assert kinds[:4] == ["band b3", "band b2", "band b1", "mean"]
        shown = found.content["people"][person]
        assert kinds.count("visit") == len(shown["times"])
        assert kinds.count("marked") == sum(shown["switched"])
        ends = [float(one) for one in re.findall(r"[ML]([\d.]+),", drawn["paths"][3]["d"])]
        assert len(ends) == year + 1
        assert f"M{max(ends):.2f},0V100" == drawn["paths"][-1]["d"]
