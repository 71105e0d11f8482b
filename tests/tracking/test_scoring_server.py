"""A real ``mlflow models serve`` on registered models: answers for rows and for paths, and reasons instead of tracebacks."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.tracking.cleaning import OUTPUT_ROOT
from medrep.tracking.serving import ALLOWED_ROOT, ServedModel
from medrep.workflows.register import RegisterRequest, promote, register
from tests.documents import DOCS, read_blocks
from tests.tracking.registering import write_audit
from tests.tracking.servers import BIN, answers, free_port, running
from tests.tracking.test_limits import claiming
from tests.tracking.test_serving import images, table

pytestmark = pytest.mark.server
Post = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Served:
    """Models that are served: how to ask each, where each listens, and where cleaned images go."""

    posts: dict[str, Post]
    ports: dict[str, int]
    output: Path

    def __getitem__(self, name: str) -> Post:
        return self.posts[name]


@pytest.fixture(scope="module")
def served(
    features_model: Path, volume_model: Path, volume_cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Both models, registered, promoted and served by alias, without anything being unpickled."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "cleaned").mkdir()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    environment = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        ALLOWED_ROOT: str(volume_cohort),
        OUTPUT_ROOT: str(folder / "cleaned"),
        "OMP_NUM_THREADS": "1",
    }
    with ExitStack() as stack:
        posts, ports = {}, {}
        for name, model in (("features", features_model), ("volumes", volume_model)):
            audit = write_audit(folder / f"audit-{name}", model)
            register(model, name, audit, RegisterRequest(tracking_uri=uri))
            assert promote(name, tracking_uri=uri).decision.verdict == "passed"
            port = ports[name] = free_port()
            command = [
                "mlflow",
                "models",
                "serve",
                "-m",
                f"models:/{name}@champion",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
            ]
            url = f"http://127.0.0.1:{port}"
            stack.enter_context(
                running(
                    [*command, "--env-manager", "local"],
                    lambda url=url: answers(f"{url}/ping"),  # type: ignore[misc]
                    folder / f"{name}.log",
                    environment,
                )
            )
            posts[name] = _post(f"{url}/invocations")
        yield Served(posts, ports, folder / "cleaned")


def _post(url: str) -> Post:
    def post(rows: pd.DataFrame | None = None, *, raw: str = "", **more: object) -> tuple[int, str]:
        body = dict(more)
        if rows is not None:
            body["dataframe_split"] = json.loads(rows.to_json(orient="split"))
        request = urllib.request.Request(  # noqa: S310 (the loopback)
            url, data=(raw or json.dumps(body)).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return post


def test_rows_of_features_are_answered_whole_numbers_too(
    served: Served, features_cohort: Path, features_model: Path
) -> None:
    request = table(features_cohort, 5)
    request["age"] = request["age"].round().astype(int)
    request["region_001"] = request["region_001"].round().astype(int)
    model = ServedModel.load(features_model)
    cleaned = {"remove": "age", "keep": "site,sex", "references": "age=50"}
    for params in (
        {},
        {"output": "latents"},
        {"output": "removed", "remove": "site"},
        cleaned,
        {"set": "age=50,sex=F"},
    ):
        status, body = served["features"](request, params=params)
        assert status == 200, body
        found = pd.DataFrame(json.loads(body)["predictions"])
        wanted = model.answer(request, **params)
        assert list(found.columns) == list(wanted.columns)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)  # JSON of pandas has ten digits


def test_paths_are_answered(
    served: Served, volume_cohort: Path, volume_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_ROOT, str(volume_cohort))
    request = images(volume_cohort, 2)
    status, body = served["volumes"](request)
    assert status == 200, body
    np.testing.assert_allclose(
        pd.DataFrame(json.loads(body)["predictions"]), ServedModel.load(volume_model).answer(request), rtol=1e-6
    )


def test_cleaned_images_are_written_where_they_may_be(
    served: Served, volume_cohort: Path, volume_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_ROOT, str(volume_cohort))
    monkeypatch.setenv(OUTPUT_ROOT, str(tmp_path))
    request = images(volume_cohort, 2)
    params = {"remove": "age", "references": "age=50"}
    wanted = ServedModel.load(volume_model).answer(request, **params)
    status, body = served["volumes"](request, params=params)
    assert status == 200, body
    for one, path in zip(json.loads(body)["predictions"], wanted["path"], strict=True):
        assert (served.output / one["path"]).read_bytes() == (tmp_path / path).read_bytes()
        assert (served.output / one["sidecar"]).is_file()
    there = sorted(served.output.iterdir())
    status, body = served["volumes"](request.assign(path=["participants.tsv", "sub-9999/x.nii.gz"]), params=params)
    assert status == 400
    assert sorted(served.output.iterdir()) == there


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_the_page_says_how_to_ask(
    served: Served, features_cohort: Path, features_model: Path, volume_cohort: Path, tmp_path: Path
) -> None:
    (tmp_path / "my_table").symlink_to(features_cohort)
    server, *blocks = (block.text for block in read_blocks((DOCS / "serving.md").read_text(encoding="utf-8")))
    assert set(re.findall(r"MEDREP_\w+", server)) == {ALLOWED_ROOT, OUTPUT_ROOT}
    answers = []
    for block in blocks:
        text = block.replace(":5001/", f":{served.ports['features']}/").replace(
            ":5002/", f":{served.ports['volumes']}/"
        )
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        said = subprocess.run(
            ["bash", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        answers += re.findall(r'\{"predictions".*?\]\}', said.stdout)
    rows, *written = (pd.DataFrame(json.loads(answer)["predictions"]) for answer in answers)
    wanted = ServedModel.load(features_model).answer(table(features_cohort, 3), remove="site", references="site=S0")
    np.testing.assert_array_equal(rows, wanted)
    assert [set(one) for one in written] == [{"path", "sidecar"}] * 2
    assert all((served.output / path).is_file() for one in written for path in one["path"])


def test_what_cannot_be_answered_is_a_400_with_the_reason_and_no_traceback(
    served: Served, features_cohort: Path, volume_cohort: Path
) -> None:
    rows, paths = table(features_cohort, 2), images(volume_cohort, 2)
    features, volumes = served["features"], served["volumes"]
    cases = [
        (features(rows.assign(site="S77")), "site 'S77' was not in training"),
        (features(rows.drop(columns="region_003")), "region_003"),
        (features(rows.drop(columns="sex")), "'sex'"),
        (features(rows.assign(region_003=None)), "row 1: region_003"),
        (features(rows.assign(path="x.nii.gz")), "'path' is of no use"),
        (features(rows, params={"output": "nonsense"}), "allowed: scores, latents, removed"),
        (features(rows, params={"output": "removed"}), "belong together"),
        (features(rows, params={"remove": "site", "keep": "site"}), "site: both in remove and in keep"),
        (features(rows, params={"set": "age=500"}), "training people had"),
        (features(rows, params={"set": "age"}), "cannot be read"),
        (features(rows, params={"remove": ["site"]}), "remove"),
        (features(rows.assign(site="S77"), params={"remove": "site"}), "site 'S77' was not in training"),
        (features(inputs=[[1.0, 2.0]]), "send a table"),
        (volumes(paths.assign(path="sub-9999/anat/x.nii.gz")), "no such file"),
        (volumes(paths.assign(path="../../etc/passwd")), "leads out of the allowed folder"),
        (volumes(paths.assign(path="/etc/passwd")), "leads out of the allowed folder"),
        (volumes(paths.drop(columns="path")), "'path' is absent"),
        (volumes(paths.assign(path="participants.tsv")), "row 1: participants.tsv"),
        (volumes(paths.assign(site="S77")), "site 'S77' was not in training"),
        (volumes(paths.assign(path="../../etc/passwd"), params={"remove": "site"}), "leads out of the allowed folder"),
        (volumes(paths.assign(path="participants.tsv"), params={"remove": "site"}), "row 1: participants.tsv"),
    ]
    for (status, body), said in cases:
        assert status == 400, body
        assert said in json.loads(body)["message"]
        assert "Traceback" not in body
        assert "stack_trace" not in body


def test_too_much_is_a_413_and_what_is_nested_without_end_a_400(
    served: dict[str, Post], volume_cohort: Path, features_cohort: Path
) -> None:
    claiming(volume_cohort / "large.nii.gz", (1280, 1280, 1280))
    status, body = served["volumes"](images(volume_cohort, 1).assign(path="large.nii.gz"))
    assert status == 413, body
    assert "1280 x 1280 x 1280 voxels" in json.loads(body)["message"]
    deep = "[" * 100_000 + "]" * 100_000
    for text in (deep, f'{{"dataframe_records": [{{"age": {deep}}}]}}', '{"dataframe_records": ' + "9" * 6000 + "}"):
        status, body = served["features"](raw=text)
        assert status == 400, body
        assert "stack_trace" not in body
    status, body = served["features"](table(features_cohort, 2))
    assert status == 200, body
