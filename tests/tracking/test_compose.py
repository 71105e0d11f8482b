"""As far as it can be checked without an engine: what compose.yaml builds is there, is closed, and holds no password."""

import re
from pathlib import Path

import yaml

from tests.conftest import ROOT
from tests.stand_in import accepted, call

TEXT = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
CONTENT = yaml.safe_load(TEXT)
SERVICES = CONTENT["services"]


def interpolated(text: str, **variables: str) -> str:
    """As compose does: ``${NAME:-default}``."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], "") or found[2], text)


def test_only_the_server_is_reachable_and_only_from_this_machine() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published == {"database": [], "server": ["127.0.0.1:5000:5000"], "scorer": []}
    assert CONTENT["networks"]["inside"] == {"internal": True}
    assert SERVICES["database"]["networks"] == ["inside"]


def test_every_password_comes_from_the_environment_as_a_secret() -> None:
    assert all(list(secret) == ["environment"] for secret in CONTENT["secrets"].values())
    used = {name for service in SERVICES.values() for name in service["secrets"]}
    assert used == set(CONTENT["secrets"])
    read = set(re.findall(r"/run/secrets/(\w+)", TEXT))
    assert read == used
    assert not re.search(r"://\w+:[^@\s]+@", TEXT), "a password in a URL"
    assert not re.search(r"(?i)password\s*[=:]\s*['\"]?(?!/run|MEDREP|\.\.\.|\"?\$\$\(cat|\{environment)\w", TEXT)


def test_the_image_of_the_server_is_pinned_and_does_not_run_as_root() -> None:
    build = SERVICES["server"]["build"]
    file = (ROOT / "docker" / build["context"] / build["dockerfile"]).resolve()
    text = file.read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (\S+)", text, flags=re.MULTILINE)
    assert copied == ["constraints.txt"]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = re.search(r"-c /tmp/constraints.txt (.+)$", text, flags=re.MULTILINE)
    assert wanted is not None
    assert set(wanted[1].split()) <= pinned
    assert text.index("RUN pip") < text.index("USER mlflow")


def test_nobody_starts_before_what_they_need_answers() -> None:
    needed = {"database": set(), "server": {"database"}, "scorer": {"server"}}
    for name, wanted in needed.items():
        depends = SERVICES[name].get("depends_on", {})
        assert set(depends) == wanted
        assert all(how == {"condition": "service_healthy"} for how in depends.values())
        assert all("healthcheck" in SERVICES[one] for one in wanted)


def test_nobody_takes_the_whole_machine() -> None:
    for name, service in SERVICES.items():
        limits = {key: interpolated(str(value)) for key, value in service["deploy"]["resources"]["limits"].items()}
        assert set(limits) == {"cpus", "memory", "pids"}, name
        assert 0 < float(limits["cpus"]) <= 2, "more processors than a machine has are refused"
        assert re.fullmatch(r"\d+G", limits["memory"])
        assert int(limits["pids"]) >= 100


def test_the_scorer_may_ask_the_server_and_a_proxy_may_be_named() -> None:
    hosts = SERVICES["server"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    address = SERVICES["scorer"]["environment"]["MLFLOW_TRACKING_URI"]
    assert address.removeprefix("http://") in interpolated(hosts).split(",")
    assert "*" not in interpolated(hosts).split(",")
    assert "mlflow.example.org" in interpolated(hosts, MEDREP_HOST="mlflow.example.org").split(",")


def test_the_image_of_the_scorer_is_built_with_a_torch_for_its_processor() -> None:
    build = SERVICES["scorer"]["build"]
    assert build["dockerfile"] == "docker/Dockerfile.cpu"
    assert (
        interpolated(build["args"]["TORCH_INDEX"], MEDREP_TORCH_INDEX="https://wheels.example")
        == "https://wheels.example"
    )


def test_the_scorer_asks_for_the_model_that_was_named(tmp_path: Path) -> None:
    command = [
        part.replace("$$", "$").replace("/run/secrets", str(tmp_path)) for part in SERVICES["scorer"]["entrypoint"]
    ]
    (tmp_path / "scorer_password").write_text("of the scorer")
    code, given = call(command, tmp_path, 3, MEDREP_MODEL="models:/thickness@champion")
    assert code == 3
    options = accepted(given)
    assert str(options["model"]) == "models:/thickness@champion"
    mounted = [volume.rpartition("}")[2].split(":")[1] for volume in SERVICES["scorer"]["volumes"]]
    assert mounted == [str(options["cohort"]), str(Path(str(options["out"])).parent)]
    assert SERVICES["scorer"]["profiles"] == ["score"]
