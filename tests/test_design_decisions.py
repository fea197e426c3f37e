"""docs/design_decisions.md says of every larger module why it is written by hand."""

from __future__ import annotations

import re

from tests.support import ROOT

SCIENCE = ("models", "gradients", "analysis", "training")
LARGE = 80  # lines


def test_every_large_module_outside_the_science_has_its_reason() -> None:
    text = (ROOT / "docs" / "design_decisions.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w/]+(?:\.py)?)`", text.split("## By hand")[1]))
    package = ROOT / "detector"
    missing = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        lines = path.read_text(encoding="utf-8").count("\n")
        places = {name.as_posix(), *(parent.as_posix() for parent in name.parents)}
        if lines > LARGE and name.parts[0] not in SCIENCE and not places & listed:
            missing.append(f"{name} ({lines} lines)")
    assert not missing, "name it in docs/design_decisions.md: " + ", ".join(missing)
