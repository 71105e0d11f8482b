"""Register, promote, fetch on SQLite: what is logged, what moves an alias, and what is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

from medrep._files import digest_of
from medrep.audit.finding import Finding
from medrep.cli import main
from medrep.errors import MedrepError
from medrep.models.saved import SavedModel, digest
from medrep.tracking.download import OWN_FILE, RELEASED, downloaded_model, own_code_digest
from medrep.tracking.registry import UNSEEN
from medrep.workflows.register import RegisterRequest, promote, register
from tests.tracking.registering import CLEAN, seal_again, write_audit

LEAKING = (*CLEAN[1:], Finding("leakage_excess", "exported/site", 120, 0.3, 0.2, 0.4, 0.001))
FEW = (*CLEAN[1:], Finding("leakage_excess", "exported/site", 9, status="insufficient", note="under 20 people"))


class Registry:
    """A registered model with a name of its own, and what is in the registry's tables and folders."""

    def __init__(self, folder: Path, name: str = "brains") -> None:
        self.folder, self.name = folder, name
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)

    def register(self, model: Path, findings: tuple[Finding, ...] = CLEAN, **options: object) -> str:
        audit = write_audit(self.folder / f"audit-{uuid4().hex}", model, findings)
        request = RegisterRequest(tracking_uri=self.uri, **options)  # type: ignore[arg-type]
        return register(model, self.name, audit, request).version

    def promote(self, **options: object) -> str:
        return promote(self.name, tracking_uri=self.uri, **options).decision.verdict  # type: ignore[arg-type]

    def alias(self, alias: str) -> str:
        return str(self.client.get_registered_model(self.name).aliases.get(alias, ""))

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(self.name, version).tags)

    def files(self, version: str = "1") -> Path:
        """Folder of a version's logged model."""
        made = self.client.get_model_version(self.name, version)
        return self.folder / "mlartifacts" / "models" / made.tags["medrep.model_id"] / "artifacts"

    def run(self, version: str = "1") -> Path:
        made = self.client.get_model_version(self.name, version)
        return self.folder / "mlartifacts" / made.run_id / "artifacts"


@pytest.fixture(scope="module")
def template(features_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One version, registered and promoted; not to be changed."""
    made = Registry(tmp_path_factory.mktemp("registry"))
    made.register(features_model)
    assert made.promote() == "passed"
    return made


@pytest.fixture
def registry(template: Registry, features_model: Path) -> Registry:
    """One version of a model of its own, not promoted."""
    made = Registry(template.folder, f"brains-{uuid4().hex[:8]}")
    made.register(features_model)
    return made


@contextmanager
def refused(*said: str) -> Iterator[None]:
    with pytest.raises(MedrepError) as caught:
        yield
    # All weights of a wrong shape are listed, a line each.
    assert "\n" not in str(caught.value) or str(caught.value).startswith("weights that")
    for text in said:
        assert text in str(caught.value)


def test_what_was_registered_comes_back_and_is_the_same_model(template: Registry, features_model: Path) -> None:
    for uri in ("models:/brains@champion", "models:/brains/1"):
        with downloaded_model(uri, template.uri) as folder:
            assert digest(folder) == digest(features_model)
            fetched = SavedModel.load(folder)
        assert not folder.exists()
    assert fetched.model.kind == "linear"


def test_everything_an_auditor_wants_is_logged(template: Registry, features_model: Path) -> None:
    tags = template.tags("1")
    assert tags["medrep.digest"] == digest(features_model)
    assert tags["medrep.kind"] == "linear"
    assert tags["medrep.audited"] == "true"
    assert tags["medrep.cohort_fingerprint"] == "f" * 64
    held = sorted(path.relative_to(template.run()).as_posix() for path in template.run().rglob("*") if path.is_file())
    decisions = [name for name in held if name.startswith("decisions/")]
    assert len(decisions) == 1
    assert sorted(set(held) - set(decisions)) == [
        "audit/audit.json",
        "audit/audit.tsv",
        "audit/figures/leakage.png",
        "audit/report.html",
        "decision.json",
        "model_sheet.md",
        "schema.json",
    ]
    schema = json.loads((template.run() / "schema.json").read_text())
    assert [entry["declared"]["name"] for entry in schema["covariates"]] == ["age", "sex", "site"]
    assert "imitation" in (template.run() / "model_sheet.md").read_text().lower()
    run_id = template.client.get_model_version("brains", "1").run_id
    metrics = template.client.get_run(run_id).data.metrics
    assert metrics["reconstruction_error/sex:F"] == 0.81
    assert "reconstruction_error/site:S9" not in metrics
    assert len(metrics) == sum(np.isfinite(finding.estimate) for finding in CLEAN)
    logged = template.client.get_logged_model(tags["medrep.model_id"])
    assert logged.source_run_id == run_id
    assert {metric.key for metric in logged.metrics} == set(metrics)


def test_the_environment_is_pinned_and_nothing_is_pickled(template: Registry) -> None:
    held = {path.relative_to(template.files()).as_posix() for path in template.files().rglob("*") if path.is_file()}
    assert held == {
        "MLmodel",
        "artifacts/model/model.json",
        "artifacts/model/model.safetensors",
        "conda.yaml",
        "pyfunc_model.py",
        "python_env.yaml",
        "requirements.txt",
    }
    required = (template.files() / "requirements.txt").read_text().split()
    assert all(line.count("==") == 1 and "+" not in line for line in required)
    assert {"medrep", "torch", "mlflow"} <= {line.partition("==")[0] for line in required}


def test_nothing_that_is_logged_names_a_person_the_user_or_this_machine(
    template: Registry, features_cohort: Path, features_model: Path
) -> None:
    people = pd.read_csv(features_cohort / "participants.tsv", sep="\t", dtype=str)["participant_id"].tolist()
    held = [path.read_bytes() for path in (template.folder / "mlartifacts").rglob("*") if path.is_file()]
    held.append((template.folder / "mlflow.db").read_bytes())
    assert not [who for who in (*people, "sub-0001") for content in held if who.encode() in content]
    here = str(Path(__file__).parents[2]).encode()
    files = held[:-1]  # the tables of SQLite say where the files are
    assert not [content for content in files if here in content or str(features_model).encode() in content]
    version = template.client.get_model_version("brains", "1")
    run = template.client.get_run(version.run_id)
    model = template.client.get_logged_model(version.tags["medrep.model_id"])
    for tags in (run.data.tags, model.tags, version.tags):
        assert {key for key in tags if not key.startswith("medrep.")} <= {"mlflow.runName"}
    assert run.info.user_id == "unknown"


def test_rows_of_persons_are_logged_only_when_asked_for(registry: Registry, features_model: Path) -> None:
    assert not (registry.run() / "audit" / "people.tsv").exists()
    version = registry.register(features_model, with_participants=True)
    assert "sub-0001" in (registry.run(version) / "audit" / "people.tsv").read_text()


def test_a_pass_writes_the_decision_and_moves_the_alias(template: Registry) -> None:
    tags = template.tags("1")
    assert template.alias("champion") == template.alias("challenger") == "1"
    assert tags["medrep.gate"] == tags["medrep.gate.champion"] == tags["medrep.gate_verdict"] == "passed"
    decision = json.loads((template.run() / "decision.json").read_text())
    assert decision["decision"]["verdict"] == "passed"
    assert decision["model_digest"] == tags["medrep.digest"]
    assert decision["gates_digest"] == tags["medrep.gate_digest"]
    judged = {one["gate"]: one["verdict"] for one in decision["decision"]["gates"]}
    assert {gate["name"] for gate in decision["gates"]} >= set(judged) - {UNSEEN}
    assert judged[UNSEEN] == "passed"
    assert decision["audit_seal"] == json.loads((template.run() / "audit" / "audit.json").read_text())["seal"]
    assert decision["signed_by"] is None


@pytest.mark.parametrize(
    ("findings", "verdict", "reason"),
    [(LEAKING, "refused", "estimate 0.3, allowed: at most 0.085"), (FEW, "insufficient", "under 20 people")],
)
def test_a_refusal_is_written_down_and_no_alias_moves(
    registry: Registry, features_model: Path, findings: tuple[Finding, ...], verdict: str, reason: str
) -> None:
    assert registry.promote() == "passed"
    version = registry.register(features_model, findings)
    assert registry.alias("challenger") == version == "2"
    assert registry.promote() == verdict
    assert registry.alias("champion") == "1"
    tags = registry.tags("2")
    assert tags["medrep.gate"] == tags["medrep.gate.champion"] == "refused"
    assert tags["medrep.gate_verdict"] == verdict
    assert reason in tags["medrep.gate_reasons"]
    assert json.loads((registry.run("2") / "decision.json").read_text())["decision"]["verdict"] == verdict


def test_an_alias_that_somebody_moved_serves_only_what_passed(registry: Registry, features_model: Path) -> None:
    with (
        refused("no gate passed", f"models:/{registry.name}/1"),
        downloaded_model(f"models:/{registry.name}@challenger", registry.uri),
    ):
        pass
    assert registry.promote() == "passed"
    registry.register(features_model, LEAKING)
    assert registry.promote() == "refused"
    registry.client.set_registered_model_alias(registry.name, "champion", "2")
    with (
        refused("is version 2, which no gate passed"),
        downloaded_model(f"models:/{registry.name}@champion", registry.uri),
    ):
        pass
    registry.client.set_registered_model_alias(registry.name, "blue", "1")
    with (
        refused("which no gate passed for blue (but for champion)"),
        downloaded_model(f"models:/{registry.name}@blue", registry.uri),
    ):
        pass
    with downloaded_model(f"models:/{registry.name}/2", registry.uri) as folder:
        assert digest(folder) == digest(features_model)


@pytest.mark.parametrize("tag", ["medrep.digest", "medrep.audit_digest"])
def test_a_pass_is_of_the_model_and_the_audit_that_were_judged(registry: Registry, tag: str) -> None:
    assert registry.promote() == "passed"
    registry.client.set_model_version_tag(registry.name, "1", tag, "0" * 64)
    with refused("no gate passed"), downloaded_model(f"models:/{registry.name}@champion", registry.uri):
        pass


def test_a_pass_of_an_earlier_medrep_counts_for_its_alias_alone(registry: Registry, features_model: Path) -> None:
    assert registry.promote() == "passed"
    registry.client.delete_model_version_tag(registry.name, "1", "medrep.gate.champion.of")
    registry.client.set_registered_model_alias(registry.name, "blue", "1")
    with downloaded_model(f"models:/{registry.name}@champion", registry.uri) as folder:
        assert digest(folder) == digest(features_model)
    with refused("no gate passed"), downloaded_model(f"models:/{registry.name}@blue", registry.uri):
        pass


def test_lax_gates_of_a_sandbox_open_no_other_alias(registry: Registry, features_model: Path, tmp_path: Path) -> None:
    lax = tmp_path / "lax.yaml"
    lax.write_text("- {name: raw, metric: leakage_excess, group: raw/site, estimate: {max: 1}}\n")
    version = registry.register(features_model, LEAKING)
    assert registry.promote(source=version, target="sandbox", gates=lax) == "passed"
    with downloaded_model(f"models:/{registry.name}@sandbox", registry.uri):
        pass
    registry.client.set_registered_model_alias(registry.name, "champion", version)
    with (
        refused("is version 2, which no gate passed for champion (but for sandbox); promote it"),
        downloaded_model(f"models:/{registry.name}@champion", registry.uri),
    ):
        pass


def test_another_aliass_gates_do_not_take_the_champion_away(registry: Registry) -> None:
    assert registry.promote() == "passed"
    strict = {"source": "champion", "target": "certified", "gates": Path("gates_strict.yaml")}
    assert registry.promote(**strict) == "insufficient"
    assert registry.alias("certified") == ""
    with downloaded_model(f"models:/{registry.name}@champion", registry.uri):
        pass
    assert registry.promote(source="1", gates=Path("gates_strict.yaml")) == "insufficient"
    with refused("no gate passed"), downloaded_model(f"models:/{registry.name}@champion", registry.uri):
        pass
    assert len(list((registry.run() / "decisions").iterdir())) >= 2


def test_register_does_not_take_a_promoted_alias(registry: Registry, features_model: Path) -> None:
    assert registry.promote() == "passed"
    with refused(f"{registry.name}@champion is version 1, which passed its gates"):
        registry.register(features_model, alias="champion")
    assert registry.alias("champion") == "1"
    assert len(registry.client.search_model_versions(f"name = '{registry.name}'")) == 1


def edit_table(registry: Registry, _: Path) -> None:
    path = registry.run() / "audit" / "audit.tsv"
    path.write_text(path.read_text().replace("0.07", "0.01"))


def edit_about(registry: Registry, _: Path) -> None:
    path = registry.run() / "audit" / "audit.json"
    path.write_text(path.read_text().replace('"people": 120', '"people": 121'))


def other_audit(registry: Registry, tmp_path: Path) -> None:
    """An audit of another model, with the tag made to fit."""
    from medrep.tracking.audits import audit_digest

    path = registry.run() / "audit" / "audit.json"
    path.write_text(path.read_text().replace(registry.tags("1")["medrep.digest"], "0" * 64))
    seal_again(path.parent)
    registry.client.set_model_version_tag(registry.name, "1", "medrep.audit_digest", audit_digest(path.parent))


def edit_both(registry: Registry, _: Path) -> None:
    """A better table, with the tag made to fit."""
    from medrep.tracking.audits import audit_digest

    edit_table(registry, _)
    found = audit_digest(registry.run() / "audit")
    registry.client.set_model_version_tag(registry.name, "1", "medrep.audit_digest", found)


def no_table(registry: Registry, _: Path) -> None:
    (registry.run() / "audit" / "audit.tsv").unlink()


def no_tag(registry: Registry, _: Path) -> None:
    registry.client.delete_model_version_tag(registry.name, "1", "medrep.audited")


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (edit_table, "its audit is not the one it was registered with"),
        (edit_about, "its audit is not the one it was registered with"),
        (edit_both, "its audit: not as medrep audit wrote it: audit.tsv is not the one that the audit wrote"),
        (other_audit, "its audit is of another model"),
        (no_table, "audit.tsv"),
        (no_tag, "has no audit (medrep.audited)"),
    ],
)
def test_an_altered_audit_promotes_nothing(
    registry: Registry, tmp_path: Path, alter: Callable[[Registry, Path], None], said: str
) -> None:
    alter(registry, tmp_path)
    with refused(f"{registry.name} version 1", said):
        registry.promote()
    assert registry.alias("champion") == ""
    assert "medrep.gate" not in registry.tags("1")


def retag(registry: Registry) -> None:
    """Make the digest fit what lies there now, as somebody with access to all of it could."""
    registry.client.set_model_version_tag(
        registry.name, "1", "medrep.digest", digest(registry.files() / "artifacts" / "model")
    )


def pickle_beside(registry: Registry) -> None:
    (registry.files() / "python_model.pkl").write_bytes(b"\x80\x04.")


def pickle_in_model(registry: Registry) -> None:
    (registry.files() / "artifacts" / "model" / "weights.pkl").write_bytes(b"\x80\x04.")
    retag(registry)


def link_out(registry: Registry) -> None:
    weights = registry.files() / "artifacts" / "model" / "model.safetensors"
    shutil.move(weights, registry.folder / f"{registry.name}.safetensors")
    weights.symlink_to(registry.folder / f"{registry.name}.safetensors")


def folder_out(registry: Registry) -> None:
    shutil.move(registry.files() / "artifacts", registry.folder / registry.name)
    (registry.files() / "artifacts").symlink_to(registry.folder / registry.name)


def other_weights(registry: Registry) -> None:
    path = registry.files() / "artifacts" / "model" / "model.safetensors"
    arrays = {name: array.copy() for name, array in load_file(path).items()}
    next(iter(arrays.values())).flat[0] += 1
    save_file(arrays, path)


def other_shape(registry: Registry) -> None:
    path = registry.files() / "artifacts" / "model" / "model.safetensors"
    arrays = dict(load_file(path))
    save_file({**arrays, "batches.location": arrays["batches.location"][:, 1:].copy()}, path)


def other_shape_retagged(registry: Registry) -> None:
    other_shape(registry)
    retag(registry)


def other_schema(registry: Registry) -> None:
    path = registry.files() / "artifacts" / "model" / "model.json"
    path.write_text(path.read_text().replace('"F"', '"X"'))


def other_schema_retagged(registry: Registry) -> None:
    """The schema of a model of other sites: five instead of four."""
    path = registry.files() / "artifacts" / "model" / "model.json"
    described = json.loads(path.read_text())
    site = described["content"]["schema"]["covariates"][-1]
    described["content"]["schema"]["covariates"][-1] = {
        **site,
        "levels": [*site["levels"], "S9"],
        "counts": [*site["counts"], 1],
    }
    path.write_text(json.dumps(described))
    retag(registry)


def other_code(registry: Registry) -> None:
    path = registry.files() / "pyfunc_model.py"
    path.write_text(path.read_text() + "\nimport os\nos.system('true')\n")


def other_code_retagged(registry: Registry) -> None:
    other_code(registry)
    found = digest_of(registry.files() / "pyfunc_model.py")
    registry.client.set_model_version_tag(registry.name, "1", "medrep.code_digest", found)


def other_code_untagged(registry: Registry) -> None:
    other_code(registry)
    registry.client.delete_model_version_tag(registry.name, "1", "medrep.code_digest")


def earlier_code(registry: Registry) -> None:
    """The code of an earlier medrep, where the current one was registered."""
    write_earlier(registry.files() / "pyfunc_model.py")


def no_code(registry: Registry) -> None:
    (registry.files() / "pyfunc_model.py").unlink()


def code_out(registry: Registry) -> None:
    code = registry.files() / "pyfunc_model.py"
    shutil.move(code, registry.folder / f"{registry.name}.py")
    code.symlink_to(registry.folder / f"{registry.name}.py")


def described(change: Callable[[dict[str, Any]], object]) -> Callable[[Registry], None]:
    """Change what MLmodel says of how the model is loaded."""

    def alter(registry: Registry) -> None:
        path = registry.files() / "MLmodel"
        content = yaml.safe_load(path.read_text())
        change(content["flavors"])
        path.write_text(yaml.safe_dump(content))

    return alter


other_loader = described(lambda flavors: flavors["python_function"].update(loader_module="mlflow.sklearn"))
other_file = described(lambda flavors: flavors["python_function"].update(model_code_path="artifacts/model/model.json"))
more_code = described(lambda flavors: flavors["python_function"].update(code="artifacts"))
a_pickle = described(
    lambda flavors: flavors["python_function"].update(python_model="artifacts/model/model.safetensors")
)
other_flavor = described(lambda flavors: flavors.update(sklearn={"pickled_model": "artifacts/model/model.safetensors"}))
other_folder = described(lambda flavors: flavors["python_function"]["artifacts"]["model"].update(path="/etc"))
no_flavor = described(lambda flavors: flavors.clear())


def no_yaml(registry: Registry) -> None:
    (registry.files() / "MLmodel").write_text("flavors: " + "[" * 5000)


CODE = [
    (other_code, "runs other code than medrep's: pyfunc_model.py is not the one that was registered"),
    (other_code_retagged, "runs other code than medrep's: pyfunc_model.py is of no medrep that this one knows"),
    (other_code_untagged, "runs other code than medrep's: pyfunc_model.py is of no medrep that this one knows"),
    (earlier_code, "pyfunc_model.py is not the one that was registered"),
    (no_code, "lacks pyfunc_model.py"),
    (code_out, "pyfunc_model.py leads out of the model"),
    (other_loader, "MLmodel has another loader_module than medrep wrote"),
    (other_file, "MLmodel has another model_code_path than medrep wrote"),
    (more_code, "MLmodel has another code than medrep wrote"),
    (a_pickle, "MLmodel has another python_model than medrep wrote"),
    (other_flavor, "MLmodel has a flavor of another library"),
    (other_folder, "MLmodel has another artifacts than medrep wrote"),
    (no_flavor, "MLmodel cannot be read"),
    (no_yaml, "MLmodel cannot be read"),
]


@pytest.mark.parametrize(("alter", "said"), CODE)
def test_a_version_with_other_code_is_neither_used_nor_promoted(
    registry: Registry, alter: Callable[[Registry], None], said: str
) -> None:
    alter(registry)
    with refused(f"models:/{registry.name}/1", said), downloaded_model(f"models:/{registry.name}/1", registry.uri):
        pass
    with refused(f"{registry.name} version 1", said):
        registry.promote()
    assert registry.alias("champion") == ""
    assert "medrep.gate" not in registry.tags("1")


def test_code_that_was_altered_after_the_promotion_is_told(
    registry: Registry, features_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert registry.promote() == "passed"
    model = f"models:/{registry.name}@champion"
    words = ["score", str(features_cohort), str(tmp_path / "o"), "--model", model, "--tracking-uri", registry.uri]
    assert main([*words, "--dry-run", "--quiet"]) == 0
    other_code_retagged(registry)
    for command in (words, [*words, "--dry-run"]):
        assert main(command) == 1
        assert f"{model}: runs other code than medrep's" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_all_the_code_that_is_registered_is_the_one_file_that_never_changes(template: Registry) -> None:
    logged = template.files() / "pyfunc_model.py"
    assert logged.read_bytes() == OWN_FILE.read_bytes()
    # Another digest here means that every version that is registered already would be refused: add it, keep the old ones.
    assert digest_of(logged) == template.tags("1")["medrep.code_digest"] == RELEASED[0] == own_code_digest()
    lines = [line for line in logged.read_text().partition('"""\n\n')[2].splitlines() if line]
    assert lines == [
        "from mlflow.models import set_model",
        "from medrep.tracking.served_model import RegisteredModel",
        "set_model(RegisteredModel())",
    ]


def test_a_version_of_before_there_were_digests_of_code_is_used_if_its_file_is_known(
    registry: Registry, features_model: Path
) -> None:
    write_earlier(registry.files() / "pyfunc_model.py")
    registry.client.delete_model_version_tag(registry.name, "1", "medrep.code_digest")
    with downloaded_model(f"models:/{registry.name}/1", registry.uri) as folder:
        assert digest(folder) == digest(features_model)
    assert registry.promote() == "passed"


def write_earlier(path: Path) -> None:
    """Write what was registered before the file led into the package."""
    path.write_text((Path(__file__).parent / "pyfunc_model_0_1.txt").read_text(encoding="utf-8"), encoding="utf-8")
    assert digest_of(path) in RELEASED[1:]


def test_a_medrep_whose_code_was_edited_registers_nothing(
    features_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = tmp_path / "pyfunc_model.py"
    edited.write_text(OWN_FILE.read_text() + "\n")
    monkeypatch.setattr("medrep.tracking.download.OWN_FILE", edited)
    made = Registry(tmp_path)
    with refused("is not the file of this medrep; install medrep again"):
        made.register(features_model)
    assert not (tmp_path / "mlflow.db").exists()


def no_weights(registry: Registry) -> None:
    (registry.files() / "artifacts" / "model" / "model.safetensors").unlink()


def bytecode(registry: Registry) -> None:
    (registry.files() / "__pycache__").mkdir()


def no_digest(registry: Registry) -> None:
    registry.client.delete_model_version_tag(registry.name, "1", "medrep.digest")


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (pickle_beside, "holds files that medrep did not register (python_model.pkl)"),
        (pickle_in_model, "holds files that medrep did not register (artifacts/model/weights.pkl)"),
        (
            bytecode,
            "(__pycache__); Python left that where MLflow loaded the model out of the store itself: delete it there",
        ),
        (link_out, "model.safetensors leads out of the model"),
        (folder_out, "leads out of the model"),
        (other_weights, "not the registered ones"),
        (other_shape, "not the registered ones"),
        (other_shape_retagged, "batches.location has the shape (4, 59), not (4, 60)"),
        (other_schema, "not the registered ones"),
        (other_schema_retagged, "weights that do not belong to this model"),
        (no_weights, "lacks artifacts/model/model.safetensors"),
        (no_digest, "was not registered by medrep register"),
    ],
)
def test_an_altered_version_is_refused_in_one_line(
    registry: Registry, alter: Callable[[Registry], None], said: str
) -> None:
    alter(registry)
    with refused(said), downloaded_model(f"models:/{registry.name}/1", registry.uri) as folder:
        SavedModel.load(folder)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/other@champion", "no model 'other' is registered; there is brains"),
        ("models:/brains@staging", "no such alias; brains has challenger, champion"),
        ("models:/brains/7", "no such version"),
        ("models:/brains", "write models:/NAME@ALIAS"),
        ("models:/brains/0", "write models:/NAME@ALIAS"),
        ("models:/m-1234", "write models:/NAME@ALIAS"),
        ("runs:/1/model", "write models:/NAME@ALIAS"),
    ],
)
def test_a_version_that_is_not_there_says_what_is(template: Registry, uri: str, said: str) -> None:
    with refused(uri, said), downloaded_model(uri, template.uri):
        pass


def test_no_registry_is_made_by_asking_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with refused("mlflow.db: no such registry", "--tracking-uri"), downloaded_model("models:/brains@champion"):
        pass
    with refused("mlflow.db: no such registry"):
        promote("brains")
    assert list(tmp_path.iterdir()) == []


def test_the_environment_or_the_current_folder_name_the_registry(
    template: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(template.folder)
    with downloaded_model("models:/brains@champion"):
        pass
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", template.uri)
    with downloaded_model("models:/brains@champion"):
        pass
