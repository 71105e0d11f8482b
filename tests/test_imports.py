"""Imports go down only, as the contract in pyproject.toml says of folders; of files, none imports another that imports it."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import medrep

ROOT = Path(medrep.__file__).parent


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> dict[str, set[str]]:
    """Return which modules each imports, also inside of functions."""
    paths = {module_of(path): path for path in ROOT.rglob("*.py")}
    found = defaultdict(set)
    for module, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{one.name}" for one in node.names} & paths.keys()
                found[module] |= names or ({node.module} & paths.keys())
            elif isinstance(node, ast.Import):
                found[module] |= {one.name for one in node.names} & paths.keys()
    return {module: others - {module, "medrep"} for module, others in found.items()}


def test_no_file_imports_another_that_imports_it() -> None:
    try:
        order = list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        pytest.fail(f"files that import each other in a circle: {' -> '.join(error.args[1])}")
    assert len(order) > 100


def test_nothing_imports_the_command_line() -> None:
    above = {"medrep.__main__"}
    found = [
        module
        for module, others in imports().items()
        if not module.startswith("medrep.cli")
        and module not in above
        and any(o.startswith("medrep.cli") for o in others)
    ]
    assert found == []
