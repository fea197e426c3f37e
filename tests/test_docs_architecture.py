"""The documentation names what is there, and the floors as they are checked."""

from __future__ import annotations

import re

import pytest

from tests.support import ROOT
from tests.test_layers import FLOORS

PAGES = ("CONTRIBUTING.md", "README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


def test_the_floors_are_named_from_the_top_down() -> None:
    table = TEXT["docs/architecture.md"].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == FLOORS[::-1]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_code_and_every_link_leads_somewhere(page: str) -> None:
    folders = "detector|docs|tests|configs|ablations|datasets|scripts|benchmarks"
    named = re.findall(rf"`((?:{folders})/[\w./-]*|train\.py)`", TEXT[page])
    linked = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", TEXT[page])
    assert named or linked or page not in ("README.md", "docs/architecture.md")
    missing = [path for path in named if not (ROOT / path).exists()]
    missing += [path for path in linked if not (ROOT / page).parent.joinpath(path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_a_page_has_its_heading(page: str) -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT[page], re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT[page])) <= anchors


def test_every_dotted_name_can_be_imported() -> None:
    import importlib

    for name in re.findall(r"`(detector(?:\.\w+)+)`", TEXT["docs/extending.md"] + TEXT["docs/any_loop.md"]):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
