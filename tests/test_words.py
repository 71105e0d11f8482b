"""The package speaks the field's words: names that were private to it do not come back."""

import ast
import re
from pathlib import Path

import pytest

import medrep

ROOT = Path(medrep.__file__).parent
OLD = {
    "": "newcomers? strangers? handed_out label_likeness shown_key go_through tell_failures Mover read_newcomers",
    "batch": "Visit Outcome Step Opener Ledger ledger Trial Died Judge readable",
    "derivatives": "Visit Outcome Step Opener Judge Mover moved?",
    "audit": "Audited audited readers? Halves halves deal audit_injection audit_informedness measured_groups relabellings?",
    "models": "Workplace KeptReadout suppression unshrinking Unshrinking Readout copula context_vector read_block map_blocks",
    "models/scanner": "anchor arrival Verdict way_back KnownScanners hiss see straighten bend content_box",
    "models/shape": "Person Evidence Expected Motion SmoothModes",
    "report": "Exhibit Mark chapters?",
    "training": "Trainee Bench together",
}


def defined(path: Path) -> set[str]:
    """Return the names of modules, classes, functions, arguments and fields."""
    names = {path.stem}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("area", OLD)
def test_private_words_do_not_come_back(area: str) -> None:
    words = re.compile("|".join(OLD[area].split()))
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / area).rglob("*.py"))
        for name in sorted(defined(path))
        if words.fullmatch(name)
    ]
    assert found == []


def test_headlines_say_what_a_thing_is() -> None:
    """A docstring's first line names the thing: it is no half of a question."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if re.match(r"(Whether|What|Who|Whom|Whose)\b", text):
                    found.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert found == []
