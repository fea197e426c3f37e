"""Damaged run directories: compared, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.hostile.corpus import COMPARE, RESUME, Case, Spoil, content, damaged, folder, link, pipe

HISTORY, SUMMARY, LEDGER, CONFIG = (
    "run/history.jsonl",
    "run/summary.json",
    "run/ledger.json",
    "run/config.yaml",
)
DEEP = "[" * 100_000


def _row(**values: Any) -> Spoil:
    """The first row with some of its values replaced."""

    def damage(data: bytes) -> bytes:
        row = json.loads(data.splitlines()[0]) | values
        return json.dumps(row).encode() + b"\n"

    return damaged(HISTORY, damage)


def _summary(**values: Any) -> Spoil:
    return damaged(SUMMARY, lambda data: json.dumps(json.loads(data) | values).encode())


def _compared(name: str, spoil: Spoil, words: str = "baseline", code: int = 0) -> Case:
    return Case(f"compare: {name}", spoil, COMPARE, words, code)


def _resumed(name: str, spoil: Spoil, words: str, code: int = 2) -> Case:
    return Case(f"resume: {name}", spoil, RESUME, words, code)


def _loop(root: Path) -> None:
    (root / "run").rename(root / "gone")
    (root / "run").symlink_to("run")


CASES = [
    _compared("summary is a list", content(SUMMARY, "[1]"), "does not hold an object"),
    _compared("summary is nested", content(SUMMARY, DEEP), "is not valid JSON"),
    _compared("summary is cut off", damaged(SUMMARY, lambda data: data[:200]), "is not valid JSON"),
    _compared("summary is binary", content(SUMMARY, bytes(range(256))), "is not valid JSON"),
    _compared("summary of megabytes", content(SUMMARY, " " * 2_000_000), "at most 1 MB"),
    _compared("summary is a pipe", pipe(SUMMARY), "summary.json cannot be read: it is not a file"),
    _compared("summary with escape codes", _summary(ablation="\x1b[2Jx", commit="\x1b[31m" * 9), "x1b[2Jx"),
    _compared("summary with odd values", _summary(seconds=10**400, status=[1], seed={}), "status"),
    _compared("history is binary", content(HISTORY, bytes(range(256)) * 9), "are not rows"),
    _compared("history is nested", content(HISTORY, DEEP + "\n"), "not rows"),
    _compared("history with text for numbers", _row(**{"train/loss": "x", "gradient/vanishing_index": []}),
              "not finite"),
    _compared("history with a number of 400 digits", _row(**{"train/loss": 10**400}), "not finite"),
    _compared("history is a pipe", pipe(HISTORY), "history.jsonl cannot be read"),
    _compared("history is a folder", folder(HISTORY), "history.jsonl cannot be read"),
    _compared("ledger is nested", content(LEDGER, DEEP), "ledger.json is not a list"),
    _compared("ledger with text for numbers", content(LEDGER, '[{"step": "x"}]'), "ledger.json is not"),
    _compared("ledger is a pipe", pipe(LEDGER), "ledger.json is not a list"),
    _compared("config is binary", content(CONFIG, bytes(range(256))), "no run to compare", 2),
    _compared("config is a pipe", pipe(CONFIG), "no run to compare", 2),
    _compared("config with escape codes", damaged(
        CONFIG, lambda data: data.replace(b"name: cfg", b'name: "\\e[2J"')), "compare", 0),
    _compared("a loop of links", _loop, "no such directory", 2),
    _compared("nothing but an empty history", lambda root: [
        (root / SUMMARY).unlink(), (root / HISTORY).write_text("")], "nothing was recorded", 2),
    _resumed("config is cut off", damaged(CONFIG, lambda data: data[:-40] + b"run: {"), "config.yaml"),
    _resumed("config is of other data", damaged(
        CONFIG, lambda data: data.replace(b"image_size: 32", b"image_size: 33")), "data.image_size"),
    _resumed("history with text for a step", _row(step="x"), "what it means", 0),
    _resumed("history is nested", content(HISTORY, DEEP + "\n" + DEEP + "\n"), "what it means", 0),
    _resumed("history is a folder", folder(HISTORY), "is not a file; remove it"),
    _resumed("history is a pipe", pipe(HISTORY), "is not a file; remove it"),
    _resumed("history is a device", link(HISTORY, "/dev/zero"), "is not a file; remove it"),
    _resumed("ledger with text for numbers", content(
        LEDGER, '[{"step": "x", "block": 1, "operation": [], "layer": {}, "factor": "y"}]'), "means", 0),
    _resumed("ledger is nested", content(LEDGER, DEEP), "what it means", 0),
    _resumed("the directory is gone", lambda root: (root / "run").rename(root / "out.csv"), "such directory"),
]  # fmt: skip
