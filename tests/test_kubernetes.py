"""As far as the Jobs can be checked without a cluster: their fields fit each other, and their commands are run."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.stand_in import accepted, call

JOBS: dict[str, dict[str, Any]] = {
    job["metadata"]["name"]: job
    for job in yaml.safe_load_all((ROOT / "docker" / "kubernetes_job.yaml").read_text(encoding="utf-8"))
}


def container(name: str) -> dict[str, Any]:
    (only,) = JOBS[name]["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("name", ["medrep-score", "medrep-merge"])
@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (1, 1), (137, 137)])
def test_failed_people_are_no_failed_pod_and_everything_else_is(
    name: str, code: int, expected: int, tmp_path: Path
) -> None:
    found, given = call(
        [*container(name)["command"], *container(name)["args"]], tmp_path, code, JOB_COMPLETION_INDEX="5"
    )
    assert found == expected
    options = accepted(given)
    assert options["command"] == name.removeprefix("medrep-")
    mounted = [mount["mountPath"] for mount in container(name)["volumeMounts"]]
    paths = [options[key] for key in ("cohort", "out", "model") if key in options]
    assert all(any(str(path).startswith(mount) for mount in mounted) for path in paths)


def test_there_are_as_many_pods_as_parts() -> None:
    spec = JOBS["medrep-score"]["spec"]
    options = accepted(container("medrep-score")["args"][0].split(" ||")[0].split()[1:])
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == options["num_parts"]
    assert options["part_id"] is None  # Kubernetes sets JOB_COMPLETION_INDEX in indexed Jobs
    assert "JOB_COMPLETION_INDEX" not in {entry["name"] for entry in container("medrep-score")["env"]}
    # A file that has the whole pod killed is quarantined at its fifth start.
    assert spec["backoffLimitPerIndex"] >= 5
    codes = [rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert codes == [[2]]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_an_end_and_is_not_kept_for_ever(name: str) -> None:
    spec = JOBS[name]["spec"]
    assert 3600 <= spec["activeDeadlineSeconds"] <= 7 * 86400
    assert 3600 <= spec["ttlSecondsAfterFinished"] <= 7 * 86400  # somebody has to be able to read the logs
    # The deadline of a Job is not that of its pods, which would have one person's hang end them all.
    assert "activeDeadlineSeconds" not in spec["template"]["spec"]


@pytest.mark.parametrize("name", ["medrep-score", "medrep-merge"])
def test_pods_may_do_what_they_have_to_and_nothing_else(name: str) -> None:
    job = JOBS[name]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Never"  # what a pod failure policy wants
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    own = container(name)["securityContext"]
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container(name)["volumeMounts"]} == volumes
    for mount in container(name)["volumeMounts"]:
        assert mount.get("readOnly", False) == (mount["name"] == "cohort")
