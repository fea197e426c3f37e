"""The lesson: both languages say the same, what they quote was measured, and everything in them runs."""

from __future__ import annotations

import io
import json
import math
import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

import train
from detector.cli import main
from scripts import lesson
from tests.support import ROOT, TINY, environment

PAGES = sorted(page.name for page in (lesson.DOCS / "en").glob("*.md"))
MEASURED = json.loads(lesson.MEASURED.read_text(encoding="utf-8"))
NUMBER = r"\d+\.\d+(?:e[-+]\d+)?|\d+(?:e[-+]\d+)"
# What a sentence says of a setting, not of a result.
SETTINGS = {"0.1", "0.01"}
# Alike on every machine, and quick: these are measured again.
REPEATED = "neuron", "chain", "slopes", "filter", "padding"


class Block(NamedTuple):
    """A block of code, and why it is not run, if it is not."""

    reason: str
    language: str
    text: str


def read(language: str, page: str) -> str:
    return (lesson.DOCS / language / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    found = re.findall(r"(?:<!-- not run: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def sections(text: str) -> list[str]:
    return re.split(r"^## ", text, flags=re.MULTILINE)


def findings(section: str) -> str:
    """What a section says of its measurement: from the bold words behind the picture on."""
    return section.partition(".png)\n\n**")[2].partition("\n## ")[0].partition("```")[0]


# --- both languages ----------------------------------------------------------------------------------


def test_both_languages_have_the_same_pages() -> None:
    assert [page.name for page in sorted((lesson.DOCS / "vi").glob("*.md"))] == PAGES
    assert len(PAGES) == 1 + len(lesson.PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_headings_commands_pictures_and_links(page: str) -> None:
    en, vi = read("en", page), read("vi", page)
    for pattern in (
        r"^#+(?= )",  # levels of headings
        r"<!-- .* -->",  # marks
        r"!\[[^\]]+\]\(([^)]+)\)",  # pictures
        r"(?<!!)\[[^\]]+\]\(([^)]+)\)",  # links
        r"^\|.*\|$(?=\n\|)",  # rows of tables
    ):
        ours, theirs = (re.findall(pattern, text, re.MULTILINE) for text in (en, vi))
        if pattern.startswith(r"^\|"):
            ours, theirs = ([row.count("|") for row in rows] for rows in (ours, theirs))
        assert ours == theirs, pattern
    assert blocks(en) == blocks(vi)
    assert len(re.findall(r"^\*\*(?:The claim|What the measurement says)\.\*\*", en, re.MULTILINE)) == len(
        re.findall(r"^\*\*(?:Người ta nói|Số đo cho biết)\.\*\*", vi, re.MULTILINE)
    )


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_quote_the_same_numbers_and_each_was_measured(page: str) -> None:
    for en, vi in zip(sections(read("en", page)), sections(read("vi", page)), strict=True):
        said = [sorted(re.findall(NUMBER, findings(section))) for section in (en, vi)]
        assert said[0] == said[1]
        steps = re.findall(r"<!-- lesson: (\w+) -->", en)
        measured = {n for step in steps for n in re.findall(NUMBER, MEASURED[step]["text"])}
        assert set(said[0]) - SETTINGS <= measured, steps


@pytest.mark.parametrize("language", lesson.LANGUAGES)
def test_each_step_has_its_command_its_numbers_and_its_picture_once(language: str) -> None:
    whole = "\n".join(read(language, page) for page in PAGES)
    assert list(MEASURED) == list(lesson.steps())
    for step, measured in MEASURED.items():
        assert whole.count(f"python scripts/lesson.py {step}\n") == 1
        assert whole.count(f"](../img/{step}.png)") == 1
        assert (lesson.DOCS / "img" / f"{step}.png").is_file()
        expected = f"<!-- lesson: {step} -->\n{lesson.quoted(measured)}\n<!-- /lesson: {step} -->"
        assert whole.count(expected) == 1, step
        assert re.fullmatch("[0-9a-f]{7}", measured["commit"])
    assert {p.stem for p in (lesson.DOCS / "img").iterdir()} == set(MEASURED)


def test_every_link_leads_somewhere() -> None:
    for language in lesson.LANGUAGES:
        for page in PAGES:
            for target in re.findall(r"\]\(([^)]+)\)", read(language, page)):
                assert (lesson.DOCS / language / target.partition("#")[0]).exists(), target


# --- everything runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", REPEATED)
def test_what_is_measured_again_is_what_the_page_says(step: str) -> None:
    found = lesson.steps()[step]().text  # type: ignore[attr-defined]
    pattern = rf"[-+]?(?:{NUMBER}|\d+)"
    assert re.sub(r"[ \d.e+-]+", " ", found) == re.sub(r"[ \d.e+-]+", " ", MEASURED[step]["text"])
    pairs = zip(re.findall(pattern, found), re.findall(pattern, MEASURED[step]["text"]), strict=True)
    for now, then in pairs:
        tiny = max(abs(float(now)), abs(float(then))) < 1e-5  # what is left of rounding
        assert tiny or math.isclose(float(now), float(then), rel_tol=0.02, abs_tol=0.006), (now, then)


@pytest.mark.slow
def test_every_step_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer seeds and two steps a training; as a process of its own, as a reader runs it."""
    command = [sys.executable, "scripts/lesson.py", *MEASURED, "--out", str(tmp_path)]
    quick = environment() | {"LESSON_QUICK": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quick, capture_output=True, text=True, check=True)
    assert {p.name for p in tmp_path.iterdir()} == {f"{step}.png" for step in MEASURED}
    words = set(re.findall(r"[a-z_]{4,}", done.stdout))
    for step, measured in MEASURED.items():
        assert set(re.findall(r"[a-z_]{4,}", measured["text"])) <= words, step
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["scripts/lesson.py", "chian"])
    with pytest.raises(SystemExit) as unknown:  # what is refused needs no process of its own
        runpy.run_path(str(ROOT / "scripts/lesson.py"), run_name="__main__")
    assert (unknown.value.code, capsys.readouterr().err.count("\n")) == (2, 1)


@pytest.mark.slow
def test_every_other_command_and_every_snippet_runs(
    tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny network of four steps, in a folder of its own."""
    (tmp_path / "ablations").symlink_to(ROOT / "ablations")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ran = 0
    for page in PAGES:
        for block in blocks(read("en", page)):
            if block.reason or block.language == "text":
                continue
            if block.language == "python":
                out = io.StringIO()
                with redirect_stdout(out):
                    exec(compile(block.text, page, "exec"), {"__name__": "snippet"})
                assert out.getvalue().strip()
                ran += 1
                continue
            for line in block.text.splitlines():
                program, *arguments = shlex.split(line)
                if arguments[:1] == ["train.py"]:
                    assert train.main([*arguments[1:], *TINY, "train.steps=4"]) == 0, line
                elif program == "detector":
                    assert main(arguments) == 0, line
                elif arguments == ["scripts/lesson.py", "--list"]:
                    assert lesson.main(["--list"]) == 0
                else:  # the steps, which have tests of their own
                    assert arguments[0] == "scripts/lesson.py" and arguments[1] in MEASURED, line
                    continue
                ran += 1
    assert ran >= 9


def test_the_notebook_is_made_from_its_source() -> None:
    from scripts.notebook import NOTEBOOKS, text_of

    sources = list(NOTEBOOKS.glob("*.py"))
    assert sources
    for source in sources:
        assert source.with_suffix(".ipynb").read_text(encoding="utf-8") == text_of(source), "make notebook"


def test_the_notebook_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Colab: no project installed, no clone around it, and then an address that is not one."""
    source = (ROOT / "notebooks" / "where_gradients_die.py").read_text(encoding="utf-8")
    (cell,) = (part for part in source.split("# %%") if "REPOSITORY =" in part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="REPOSITORY is empty, and this is no clone"):
        exec(cell, {})
    nowhere = cell.replace('REPOSITORY = ""', f'REPOSITORY = "file://{tmp_path}/nowhere.git"')
    with pytest.raises(SystemExit, match=r"pip could not install git\+file://.*nowhere\.git"):
        exec(nowhere, {})


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, with three steps a training at 64 pixels."""
    import nbformat
    from nbclient import NotebookClient

    for name, value in (environment() | {"LESSON_STEPS": "3", "LESSON_SIZE": "64"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LESSON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DETECTOR_DATASETS", os.environ.get("DETECTOR_DATASETS", str(coco8.parent)))
    notebook = nbformat.read(ROOT / "notebooks" / "where_gradients_die.ipynb", as_version=4)
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = "".join(output.get("text", "") for output in outputs)
    assert len(pictures) == 2
    assert re.search(r"plain_sigmoid +-[5-9]\.\d\d +\w", printed)
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 6
