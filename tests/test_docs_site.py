"""The documentation as a site: built strictly, and nothing public is left out of its reference."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import yaml

import detector
from detector.cli import COMMANDS
from detector.config.schema import Config
from detector.runtime import interrupts, process
from scripts import reference
from tests.support import ROOT, TINY, environment


def test_every_key_has_its_values_its_default_and_a_meaning() -> None:
    text = reference.configuration()
    rows = {}
    for section in text.split("\n## `")[1:]:
        name = section.partition("`")[0]
        for row in re.finditer(r"^\| `(\w+)`(?: †)? \| (.+?) \| `(.+?)` \| (.*?) \|$", section, re.MULTILINE):
            rows[f"{name}.{row[1]}"] = row[2], row[3], row[4]
    fields = {
        f"{name}.{key}": field for name, part in Config() for key, field in type(part).model_fields.items()
    }
    assert rows.keys() == fields.keys()
    for key, (allowed, default, meaning) in rows.items():
        assert allowed and meaning, key
        value = fields[key].default
        assert yaml.safe_load(default) == (list(value) if isinstance(value, tuple) else value), key
    assert rows["data.image_size"][0] == "integer, ≥ 32, ≤ 16,384, a multiple of 32"
    assert rows["train.ema"][0] == "number, > 0, < 1 or `null`"
    assert rows["data.on_error"][0] == "`raise` `skip`"
    assert "`seed` † |" in text and "`lr` |" in text


def test_comments_are_read_from_beside_below_and_above(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "# a title\n\na:\n  one: 1   # first\n           # and more\n"
        "  # Both of these:\n  two: 2  # second\n  three: 3\n"
    )
    assert reference.comments(file) == {
        "a.one": "first and more", "a.two": "Both of these: second", "a.three": ""
    }  # fmt: skip


def test_every_command_and_exit_code_is_there() -> None:
    text = reference.commands()
    assert re.findall(r"^## `detector (\w+)`$", text, re.MULTILINE) == list(COMMANDS)
    assert text.count("Usage: detector ") == len(COMMANDS)
    codes = {value for module in (process, interrupts) for name, value in vars(module).items()
             if name.startswith("EXIT_")}  # fmt: skip
    shown = re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)
    assert {int(code) for code, _ in shown} == {0, *codes}
    assert all(meaning for _, meaning in shown)


@pytest.mark.slow
def test_every_key_that_a_run_writes_is_there(tmp_path: Path, coco8: Path) -> None:
    import train

    run = tmp_path / "run"
    assert train.main([*TINY, "train.steps=2", f"run.dir={run}"]) == 0
    written = set(json.loads((run / "summary.json").read_text()))
    for line in (run / "history.jsonl").read_text().splitlines():
        written |= json.loads(line).keys()
    words = set(re.findall(r"`([^`]+)`", reference.keys()))
    stems = tuple(word for word in words if word.endswith("/") or word.count("/") == 1)

    def known(key: str) -> bool:  # by itself, or as a stem with a layer or a level behind it
        return key in words or key.startswith(stems) or key.removesuffix("_init") in words

    assert sorted(key for key in written if not known(key)) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, env=environment() | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_reference_with_its_docstring(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    parts = {unescape(re.sub(r"<.*?>", "", part.partition("</h2>")[0])).strip("¶ \n"): part
             for part in re.split(r"<h2\b[^>]*>", page)[1:]}  # fmt: skip
    for name in detector.__all__:
        assert name in parts, sorted(parts)
        thing = getattr(detector, name)
        summary = str(thing.__doc__).strip().split("\n\n")[0]
        first = " ".join(re.sub(r"[`*]", "", summary).split())[:40]
        assert first in " ".join(unescape(re.sub(r"<.*?>", "", parts[name])).split()), name


@pytest.mark.slow
def test_links_out_of_the_pages_lead_to_pages_that_show_the_file(site: Path) -> None:
    thresholds = (site / "source" / "scripts" / "thresholds.py.html").read_text(encoding="utf-8")
    assert "docs/thresholds.json" in unescape(re.sub(r"<.*?>", "", thresholds))
    assert 'href="source/scripts/thresholds.py.html"' in (site / "measured.html").read_text(encoding="utf-8")
    assert 'href="benchmarks.html"' in (site / "speed.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|link)[^>]+(?:src|href)=.?https?://[^>]*(?:css|js|png|svg)", text
        ), page
