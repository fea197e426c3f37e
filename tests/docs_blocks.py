"""The code blocks of the documentation, and what is done with each: tests/test_docs_blocks.py.

A block is run in a folder that has what its page takes for granted, unless a comment above says otherwise:

    <!-- not run: it downloads weights -->                      its command lines are only parsed, and why
    <!-- run with: train.epochs=1 data.image_size=64 -->        run with these settings after its own

Command lines that train get `QUICK` before their own settings, or what `run with` says after them. Whatever
is run or not, each command line has to be one that the real parser takes, with files that are there.
"""

from __future__ import annotations

import argparse
import io
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from glob import glob
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import train
from detector import cli
from detector.config.loading import load_config
from tests.support import ROOT, TINY, forgetting_names

QUICK = (
    *TINY,
    "data.image_size=64",
    "train.steps=2",
    "train.warmup_steps=0",
    "gradients.every=1",
    "data.fallback=none",
)
MARKER = r"(?:<!-- (?P<kind>not run|run with): (?P<words>[^\n]*?) -->\n)?"
BLOCK = re.compile(rf"^{MARKER}```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = "bash", "sh", "console"
TRAINS = "train", "ablate", "why"  # commands that take section.key=value and are slow


class Block(NamedTuple):
    """One block of a page."""

    page: str
    line: int
    language: str
    text: str
    kind: str  # of the marker: "not run", "run with", or none
    words: str  # of the marker

    @property
    def commands(self) -> list[str]:
        """Its command lines, without prompt and output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            return [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: str) -> list[Block]:
    """Every block of a page, by its path from the project's folder."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"],
              found["kind"] or "", found["words"] or "")
        for found in BLOCK.finditer(text)
    ]  # fmt: skip


def simple(command: str) -> Iterator[list[str]]:
    """The words of each command of a line, without its comment: `a && b` is two, [--option] is given."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if set(word) <= set("|&;"):
            yield words
            words = []
        elif word not in ("…", "[", "]"):
            words.append(
                word.strip("[]") if word[0] == "[" or (word[-1] == "]" and "[" not in word) else word
            )


def parse(words: list[str]) -> None:
    """Raise unless this command line is one that the program would take."""
    program, *arguments = words
    if program == "torchrun":
        program, arguments = "python", arguments[arguments.index("train.py") :]
    match program, arguments:
        case "python", ["train.py", *rest]:
            _parse("train", rest)
        case ("detector", [command, *rest]) | ("python", ["-m", "detector", command, *rest]):
            assert command in (*cli.COMMANDS, "--help"), words
            if command != "--help":
                _parse(command, rest)
        case "python", [script, *rest] if script.startswith(("scripts/", "benchmarks/")):
            source = (ROOT / script).read_text(encoding="utf-8")
            options = [word.partition("=")[0] for word in rest if word.startswith("--")]
            assert all(f'"{option}"' in source for option in options), words
        case ".venv/bin/python" | ".venv/bin/pre-commit", _:
            parse(["python", *arguments]) if program.endswith("python") else None
        case "make", [target, *rest]:
            rules = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE), words
            for settings in (word.partition("=")[2] for word in rest if target == "train"):
                _parse("train", shlex.split(settings))
        case (("pip" | ".venv/bin/pip"), ["install", *rest]):
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = re.findall(r"\[(.*?)\]", " ".join(rest))
            assert {extra for names in named for extra in names.split(",")} <= extras.keys(), words
        case "python3", ["-m", "venv", _]:
            pass
        case (("source" | "wandb" | "find" | "sort" | "shuf" | "head" | "tail" | "cd" | "git"), _):
            pass
        case _:
            raise AssertionError(f"nothing knows what {program} takes: {words}")


def _parse(command: str, arguments: list[str]) -> None:
    app = cli._app(f"detector {command}", cli._function(command))
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    if "--help" in arguments:
        return
    spelled = cli._spelled_out(app, arguments)
    _, bound, _ = app.parse_args(spelled, exit_on_error=False, print_error=False)
    options = argparse.Namespace(**bound.kwargs)
    for file in ("config", "plugin"):
        path = getattr(options, file, None)
        if isinstance(path, Path) and path.parts[0] in ("configs", "ablations"):
            assert (ROOT / path).exists(), path
    settings = [word for word in spelled if re.match(r"\w+\.\w+=", word)]
    if settings:
        keys = {
            f"{section}.{key}"
            for section, part in load_config("coco8").config
            for key in type(part).model_fields
        }
        assert {setting.partition("=")[0] for setting in settings} <= keys, settings


def run(block: Block) -> str:
    """Run every command or the program of a block, in the working directory; what it printed."""
    out = io.StringIO()
    with redirect_stdout(out), forgetting_names():
        if block.language == "python":
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {"__name__": "page"})
        for command in block.commands if block.language in SHELL else []:
            for words in simple(command):
                code = _call(words, shlex.split(block.words) if block.kind == "run with" else None)
                problems_found = words[:2] == ["detector", "check"] and code == 1
                assert code == 0 or problems_found, (code, words)
    return out.getvalue()


def _call(words: list[str], own: list[str] | None) -> int:
    program, *arguments = words
    if program == "source":
        return 0
    if program == "python" and arguments[0] != "train.py":
        runpy.run_path(arguments[0], run_name="__main__")
        return 0
    command, *rest = ["train", *arguments[1:]] if program == "python" else arguments
    shown: Path | None = None
    if ">" in rest:
        *rest, _, target = rest
        shown = Path(target)
    rest = [name for word in rest for name in (sorted(glob(word)) if "*" in word else [word])]
    if command in TRAINS and "--resume" not in rest:
        before, after = (QUICK, []) if own is None else ((), own)
        options = [word for word in rest if not re.match(r"\w+\.\w+=", word)]
        rest = [*options, *before, *(word for word in rest if word not in options), *after]
    print_to = io.StringIO()
    with redirect_stdout(print_to), patch.dict("os.environ", {"WANDB_MODE": "disabled"}):
        code = train.main(rest) if command == "train" else cli.main([command, *rest])
    print(print_to.getvalue())
    if shown is not None:
        shown.write_text(print_to.getvalue(), encoding="utf-8")
    return code
