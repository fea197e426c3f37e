"""The house: each floor uses only those below it, no tool uses another, and one spine holds it together."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

PACKAGE = ROOT / "detector"
FLOORS = [
    "errors", "runtime", "config", "rows", "rundir", "registry", "data", "models", "gradients", "analysis",
    "loggers", "training", "fit", "predictor", "integrations", "jobs", "report", "tools", "cli",
]  # fmt: skip


def imports(path: Path) -> Iterator[list[str]]:
    """The project's own modules that a file imports anywhere, late imports included, as dotted parts."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "detector":
            parts = node.module.split(".")[1:]
            yield from ([*parts, alias.name] for alias in node.names) if len(parts) < 2 else [parts]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1:] for a in node.names if a.name.startswith("detector."))


def test_each_floor_imports_only_those_below_it() -> None:
    climbs = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = path.relative_to(PACKAGE).with_suffix("").parts
        for there in imports(path):
            if there[0] in FLOORS and here[0] in FLOORS and FLOORS.index(there[0]) > FLOORS.index(here[0]):
                climbs.append(f"{'.'.join(here)} imports {'.'.join(there)}")
    assert not climbs, "\n".join(climbs)


def test_no_tool_imports_another() -> None:
    found = []
    for path in sorted((PACKAGE / "tools").rglob("*.py")):
        tool = path.relative_to(PACKAGE / "tools").parts[0]
        found += [
            f"{path}: {'.'.join(there)}"
            for there in imports(path)
            if there[0] == "tools" and len(there) > 1 and there[1] != tool
        ]
    assert not found, "\n".join(found)
