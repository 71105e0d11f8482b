"""A small trained model and the audit of it, for tests of the registry."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from medrep import __version__
from medrep.audit.finding import Finding, findings_table
from medrep.derivatives.bids import write_tsv
from medrep.models.saved import digest
from medrep.tracking.audits import sealed

CLEAN = (
    Finding("leakage_excess", "exported/site", 120, 0.02, -0.04, 0.07, 0.3, "ok", "linear probe"),
    Finding("leakage", "exported/site", 120, 0.52, 0.46, 0.57, 0.3),
    Finding("leakage_shape", "exported/site", 120, 1.1, p=0.4),
    Finding("leakage_equivalence", "exported/site", 120, 0.06, -0.03, 0.06, 0.01),
    Finding("leakage_excess", "raw/site", 120, 0.40, 0.33, 0.46, 0.001),
    Finding("dependence_given_kept", "exported/site", 120, 0.001, p=0.4),
    Finding("variance_kept", "exported", 120, 0.97, 0.95, 0.98),
    Finding("identity_kept", "exported", 120, 0.96, 0.95, 0.97, 0.001),
    Finding("injection", "exported/age", 120, 0.05, -0.02, 0.12, 0.4),
    Finding("injection_gain", "exported/age", 120, -0.01, -0.05, 0.03),
    Finding("injection_gain", "exported/sex", 120, 0.00, -0.04, 0.05),
    Finding("reconstruction_error", "sex=F", 64, 0.81, 0.78, 0.84),
    Finding("reconstruction_error", "site=S9", 4, status="insufficient", note="under 20 people"),
    Finding("reconstruction_error_gap_excess", "sex", 120, 0.01, -0.02, 0.05, 0.4),
    Finding("cf_composition", "site", 120, 1e-7, 0.0, 1e-7),
)


def write_audit(folder: Path, model: Path, findings: Iterable[Finding] = CLEAN, kind: str = "linear") -> Path:
    """Write what `medrep audit` writes."""
    folder.mkdir(parents=True)
    write_tsv(folder / "audit.tsv", findings_table(findings))
    about = {
        "format": 1,
        "medrep": __version__,
        "model": {"kind": kind, "digest": digest(model)},
        "cohort": {"name": "held-out", "fingerprint": "f" * 64, "people": 120},
        "options": {"by": "sex", "training_known": True},
        "seed": 0,
    }
    (folder / "audit.json").write_text(json.dumps(sealed(about, folder / "audit.tsv")))
    (folder / "report.html").write_text("<!doctype html><title>audit</title>")
    (folder / "people.tsv").write_text("participant_id\treconstruction_error\nsub-0001\t0.8\n")
    (folder / "figures").mkdir()
    (folder / "figures" / "leakage.png").write_bytes(b"\x89PNG")
    return folder


def seal_again(folder: Path) -> None:
    """Make what was edited look as if an audit had written it, as somebody who may write to the folder could."""
    about = json.loads((folder / "audit.json").read_text())
    (folder / "audit.json").write_text(json.dumps(sealed(about, folder / "audit.tsv")))


def not_known(folder: Path) -> None:
    """Make an audit one that could not tell whether the model had seen its people."""
    about = json.loads((folder / "audit.json").read_text())
    about["options"]["training_known"] = False
    (folder / "audit.json").write_text(json.dumps(about))
    seal_again(folder)


def without_digests(model: Path) -> None:
    """Make a model one of before models carried digests of their training rows."""
    described = json.loads((model / "model.json").read_text())
    del described["cohort"]["rows"]
    (model / "model.json").write_text(json.dumps(described))


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to
