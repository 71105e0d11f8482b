"""`medrep compare` and `score --map` on small models, and agreement as a gate."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.suite import AuditOptions, AuditResult
from medrep.cli import main
from medrep.models import LinearModel
from medrep.models.saved import SavedModel
from medrep.tracking.audits import read_audit
from medrep.tracking.gates import read_gates
from tests.small_runs import Runs
from tests.tracking.registering import CLEAN

MORE = ("--quiet",)


def run(*arguments: object) -> int:
    return main([*(str(argument) for argument in arguments), *MORE])


@pytest.fixture(scope="module")
def turned(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose latents are another's, rotated: components in another basis of the same space."""
    saved = SavedModel.load(runs("table_model") / "model")
    model = saved.model
    assert isinstance(model, LinearModel)
    count = len(model.components)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((count, count)))[0]
    content, arrays = model.state()
    name = next(name for name, array in arrays.items() if array.shape == model.components.shape and "component" in name)
    arrays = {**arrays, name: (rotation @ arrays[name]).astype(arrays[name].dtype)}
    folder = tmp_path_factory.mktemp("turned") / "model"
    SavedModel(LinearModel.restore(content, arrays), saved.input, saved.support, saved.provenance, saved.readouts).save(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def plain(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without latents."""
    out = tmp_path_factory.mktemp("plain") / "out"
    assert run("train", runs("table"), out, "--set", "settings.components=0", "--tracking", "none") == 0
    return out / "model"


@pytest.fixture(scope="module")
def compared(runs: Runs, turned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    assert run("compare", runs("table_model") / "model", turned, runs("table"), out) == 0
    return out


def latents(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "latents.tsv", sep="\t", index_col="participant_id")


def test_a_rotated_model_is_usable_with_a_map(compared: Path) -> None:
    about = json.loads((compared / "compare.json").read_text())
    assert about["verdict"] == "map"
    assert about["cohort"]["people"] == 100  # half of 200 were trained on
    assert about["cohort"]["left_out"] == 100
    assert about["maps"]["a_to_b"]["form"] == "orthogonal"
    table = pd.read_csv(compared / "compare.tsv", sep="\t").set_index(["metric", "group"])
    assert table.loc[("agreement_orthogonal", "a_to_b"), "estimate"] > 0.999
    assert table.loc[("agreement_identity", "all"), "estimate"] < 0.9
    assert len(pd.read_csv(compared / "matching.tsv", sep="\t")) == 12


def test_mapped_latents_are_those_of_the_other_model(compared: Path, turned: Path, runs: Runs, tmp_path: Path) -> None:
    one, model = runs("table"), runs("table_model") / "model"
    assert run("score", one, tmp_path / "other", "--model", turned) == 0
    assert run("score", one, tmp_path / "mapped", "--model", model, "--map", compared / "a_to_b.safetensors") == 0
    assert run("score", one, tmp_path / "plain", "--model", model) == 0
    np.testing.assert_allclose(latents(tmp_path / "mapped"), latents(tmp_path / "other"), atol=1e-3)
    assert (tmp_path / "mapped" / "scores.tsv").read_bytes() == (tmp_path / "plain" / "scores.tsv").read_bytes()
    assert np.abs(latents(tmp_path / "mapped") - latents(tmp_path / "plain")).to_numpy().max() > 0.1
    said = json.loads((tmp_path / "mapped" / "dataset_description.json").read_text())["GeneratedBy"][0]
    assert "latents mapped" in said["Description"]


def test_a_map_for_other_latents_is_refused(
    compared: Path, turned: Path, plain: Path, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = compared / "a_to_b.safetensors"
    assert run("score", runs("table"), tmp_path / "o", "--model", turned, "--map", where) == 1
    assert "not the other way" in capsys.readouterr().err
    assert run("score", runs("table"), tmp_path / "o", "--model", plain, "--map", where) == 1
    assert "another model" in capsys.readouterr().err
    assert run("score", runs("table"), tmp_path / "o", "--model", turned, "--map", tmp_path / "none.json") == 1
    assert "no such file" in capsys.readouterr().err
    for name in ("a_to_b.json", "a_to_b.safetensors"):
        (tmp_path / name).write_bytes((compared / name).read_bytes())
    content = (tmp_path / "a_to_b.safetensors").read_bytes()
    (tmp_path / "a_to_b.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    model = runs("table_model") / "model"
    assert run("score", runs("table"), tmp_path / "o", "--model", model, "--map", tmp_path / "a_to_b.json") == 1
    assert "is not the one" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_model_is_interchangeable_with_itself_and_too_few_people_are_no_evidence(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = runs("table_model") / "model"
    assert run("compare", model, model, runs("table"), tmp_path / "o") == 0
    assert json.loads((tmp_path / "o" / "compare.json").read_text())["verdict"] == "interchangeable"
    assert not list((tmp_path / "o").glob("*.safetensors"))
    people = pd.read_csv(runs("table") / "participants.tsv", sep="\t")["participant_id"][:60]
    assert run("compare", model, model, runs("table"), tmp_path / "few", "--participant-label", *people) == 5
    assert "wanted: 50" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()


def test_models_without_latents_and_people_without_columns_are_refused(
    plain: Path, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    for name in ("participants.tsv", "features.tsv"):
        table = pd.read_csv(runs("table") / name, sep="\t", dtype=str, keep_default_na=False)
        table.drop(columns="region_003", errors="ignore").to_csv(cohort / name, sep="\t", index=False)
    model = runs("table_model") / "model"
    assert run("compare", model, model, cohort, tmp_path / "o") == 1
    assert "region_003" in capsys.readouterr().err
    assert run("compare", plain, model, runs("table"), tmp_path / "o") == 1
    assert "without latents" in capsys.readouterr().err


def test_in_python_models_agree_as_on_the_command_line(
    compared: Path, turned: Path, plain: Path, runs: Runs, tmp_path: Path
) -> None:
    cohort, first = mr.read_cohort(runs("table")), mr.load(runs("table_model") / "model")
    found = mr.compare(first, mr.load(turned), cohort, out=tmp_path / "here")
    for name in ("compare.tsv", "matching.tsv", "a_to_b.safetensors", "b_to_a.safetensors"):
        assert (tmp_path / "here" / name).read_bytes() == (compared / name).read_bytes(), name
    assert (found.verdict, found.people, set(found.maps)) == ("map", 100, {"a_to_b", "b_to_a"})
    mapped = found.maps["a_to_b"].apply(first.encode(cohort))
    np.testing.assert_allclose(mapped, mr.load(turned).encode(cohort), atol=1e-3)
    again = mr.compare(first, first, cohort)
    assert (again.verdict, dict(again.maps)) == ("interchangeable", {})
    with pytest.raises(mr.MedrepError, match="without latents"):
        mr.compare(first, mr.load(plain), cohort)


def test_a_champion_that_breaks_embeddings_is_refused_by_a_gate(
    runs: Runs, turned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text(
        "- name: embeddings stay what they are\n  metric: agreement_identity\n  group: all\n  ci_low: {min: 0.99}\n"
        "  missing: ignore\n"
        "- name: they can be had from the new ones\n  metric: agreement_affine\n  group: a_to_b\n  ci_low: {min: 0.9}\n"
        "  missing: ignore\n"
    )

    def quick(audited: AuditData, options: AuditOptions, say: object) -> AuditResult:
        return AuditResult(findings_table(CLEAN), pd.DataFrame(), pd.DataFrame(index=audited.frame.index))

    monkeypatch.setattr("medrep.audit.suite.run_suite", quick)
    model, cohort = runs("table_model") / "model", runs("table")
    verdicts = {}
    for name, more in {"asked": ("--against", turned), "itself": ("--against", model), "not asked": ()}.items():
        out = tmp_path / name
        assert run("audit", cohort, out, "--model", model, "--by", "sex", *more) == 0
        audit = read_audit(out)
        assert not audit.altered
        verdicts[name] = [one.verdict for one in read_gates(gates).judge(audit.table).judged[:2]]
    assert verdicts == {
        "asked": ["refused", "passed"],
        "itself": ["passed", "passed"],
        "not asked": ["absent", "absent"],
    }
    about = json.loads((tmp_path / "asked" / "audit.json").read_text())
    assert about["options"]["against"]["digest"] == SavedModel.load(turned).provenance.digest
    assert "against" not in json.loads((tmp_path / "not asked" / "audit.json").read_text())["options"]
