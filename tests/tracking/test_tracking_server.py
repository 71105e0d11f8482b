"""Register, promote and fetch on a real ``mlflow server``: PostgreSQL below, passwords on."""

import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from medrep.audit.finding import Finding
from medrep.cli import GATE_REFUSED, OK, main
from medrep.errors import MedrepError
from medrep.models.saved import digest
from medrep.tracking.download import downloaded_model
from tests.conftest import ROOT
from tests.tracking.registering import CLEAN, write_audit
from tests.tracking.servers import BIN, answers, database, free_port, postgresql, running
from tests.tracking.test_compose import interpolated

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(postgresql() is None, reason="no PostgreSQL; apt-get install postgresql"),
]
ADMIN, WRITER, READER = ("admin", "admin-password-1"), ("writer", "writer-password-1"), ("reader", "reader-password-1")
DATABASE_PASSWORD = "database: p@ss/word%1"  # noqa: S105 (only for this test)
LEAKING = (*CLEAN[1:], Finding("leakage_excess", "exported/site", 120, 0.3, 0.2, 0.4, 0.001))


COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a server set up as docker/compose.yaml sets it up, which knows a writer and a reader."""
    pytest.importorskip("psycopg2")
    service = COMPOSE["services"]["server"]
    folder = Path(tempfile.mkdtemp(prefix="medrep-postgresql-"))
    try:
        folder.chmod(0o755)
        cluster = folder / "cluster"
        cluster.mkdir()
        with database(cluster, "mlflow", DATABASE_PASSWORD) as where:
            users = COMPOSE["configs"]["auth"]["content"].replace("@database/", f"@{where}/")
            (folder / "auth.ini").write_text(f"{users}auth_cache_ttl_seconds = 60\n")
            (secrets := folder / "secrets").mkdir()
            passwords = {
                "database_password": DATABASE_PASSWORD,
                "admin_password": ADMIN[1],
                "server_key": "only-for-this-test",
            }
            for name, secret in passwords.items():
                (secrets / name).write_text(secret)
            port = free_port()
            here = {
                "$$": "$",
                "/run/secrets": str(secrets),
                "/artifacts": str(folder / "artifacts"),
                "--host 0.0.0.0 --port 5000": f"--host 127.0.0.1 --port {port} --workers 1",
            }
            *shell, script = service["command"]
            for there, replacement in here.items():
                assert there in script
                script = script.replace(there, replacement)
            command = [*shell, script]
            environment = {
                name: interpolated(value).replace("@database/", f"@{where}/")
                for name, value in service["environment"].items()
            }
            environment["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "auth.ini")
            url, log = f"http://127.0.0.1:{port}", folder / "log"
            with running(command, lambda: answers(f"{url}/health"), log, environment):
                for user, password in (WRITER, READER):
                    _ask(f"{url}/api/2.0/mlflow/users/create", {"username": user, "password": password})
                yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        (COMPOSE["services"]["scorer"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://"), 200),
        ("127.0.0.1:5000", 200),
        ("localhost:8080", 200),
        ("server", 403),
        ("server.attacker.example:5000", 403),
    ],
)
def test_the_scorer_is_let_in_by_the_name_it_asks_for(server: str, host: str, code: int) -> None:
    who = b64encode(":".join(ADMIN).encode()).decode()
    headers = {"Host": host, "Authorization": f"Basic {who}"}
    url = f"{server}/api/2.0/mlflow/registered-models/search"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:  # noqa: S310
            found = answer.status
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == code


def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(server: str) -> None:
    word, *check = COMPOSE["services"]["server"]["healthcheck"]["test"]
    assert word == "CMD"
    for port, code in ((server.rpartition(":")[2], 0), (free_port(), 1)):
        command = [part.replace(":5000/", f":{port}/") for part in check]
        assert command != check
        done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, check=False)
        assert done.returncode == code


def _ask(url: str, content: dict[str, str]) -> None:
    who = b64encode(":".join(ADMIN).encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {who}"}
    request = urllib.request.Request(url, data=json.dumps(content).encode(), headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310 (the loopback)
        pass


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    be(monkeypatch, WRITER)
    return monkeypatch


def be(monkeypatch: pytest.MonkeyPatch, who: tuple[str, str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", who[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", who[1])


def register(model: Path, audit: Path, server: str, findings: tuple[Finding, ...] = CLEAN) -> int:
    write_audit(audit, model, findings)
    arguments = [str(model), "--name", "brains", "--audit", str(audit), "--tracking-uri", server]
    return main(["register", *arguments, "--quiet"])


def test_a_model_is_registered_promoted_and_fetched_with_a_password(
    server: str, features_model: Path, tmp_path: Path, user: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert register(features_model, tmp_path / "audit", server) == OK
    with pytest.raises(MedrepError, match="no gate passed"), downloaded_model("models:/brains@challenger", server):
        pass
    assert main(["promote", "brains", "--tracking-uri", server, "--quiet"]) == OK
    user.setenv("MLFLOW_TRACKING_URI", server)
    with downloaded_model("models:/brains@champion") as folder:
        assert digest(folder) == digest(features_model)
    version = MlflowClient(server, server).get_model_version_by_alias("brains", "champion")
    run = MlflowClient(server, server).get_run(version.run_id)
    assert {key for key in run.data.tags if not key.startswith("medrep.")} == {"mlflow.runName"}
    assert version.tags["medrep.gate"] == "passed"

    assert register(features_model, tmp_path / "leaking", server, LEAKING) == OK
    assert main(["promote", "brains"]) == GATE_REFUSED
    assert "estimate 0.3, allowed: at most 0.085" in capsys.readouterr().err
    assert MlflowClient(server, server).get_model_version_by_alias("brains", "champion").version == version.version

    be(user, READER)
    with downloaded_model("models:/brains@champion", server) as folder:
        assert digest(folder) == digest(features_model)
    assert main(["promote", "brains", "--from", "1"]) == 1
    said = capsys.readouterr().err
    assert "the server does not let this user do so" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("who", [("writer", "wrong-password-1"), ("nobody", "no-password-1")])
def test_a_wrong_password_is_one_line_with_the_cure(
    server: str,
    features_model: Path,
    tmp_path: Path,
    user: pytest.MonkeyPatch,
    who: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    be(user, who)
    assert register(features_model, tmp_path / "audit", server) == 1
    assert main(["promote", "brains", "--tracking-uri", server]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("MLFLOW_TRACKING_USERNAME" in line for line in said)
    assert not any(who[1] in line for line in said)
