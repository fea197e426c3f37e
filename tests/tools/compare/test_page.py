"""The page as a file: whole, self-contained, and unmoved by what strangers put in their names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from detector.tools.compare.comparison import compare
from detector.tools.compare.page import log10, page
from detector.tools.compare.runs import load_runs

Make = Callable[..., Path]
HOSTILE = "</script><script>alert(1)</script>"


class Document(HTMLParser):
    """Tags with their attributes, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.scripts.append(data)


def written(*directories: Path) -> str:
    return page(compare(*load_runs(directories)))


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_it_loads_nothing(make_run: Make) -> None:
    document = Document(written(make_run()))
    for tag, attributes in document.tags:
        assert not {"src", "srcset", "data", "action"} & set(attributes), tag
        assert tag not in ("link", "iframe", "object", "base"), tag
        assert (attributes.get("href") or "#").startswith("#")


def test_only_its_own_scripts_may_run(make_run: Make) -> None:
    document = Document(written(make_run()))
    policy = next(a["content"] for t, a in document.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    _, *scripts = document.scripts  # the first is the data
    assert {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts} == allowed


def test_names_stay_names(make_run: Make) -> None:
    innocent = Document(written(make_run("x", folder="innocent", **{"model.norm": "y"})))
    hostile = make_run(
        HOSTILE,
        folder='<img src=x onerror="alert(1)">',
        summary={"dataset": "<!--slot:data-->", "gradient/verdict": "<b>bold</b>", "commit": "<i>"},
        **{"model.norm": "<script>alert(2)</script>"},
    )
    with (hostile / "history.jsonl").open("a") as file:
        file.write('{"step": 99, "activation_grad/06_<script>": 1}\ntorn')
    (hostile / "ledger.json").write_text(
        json.dumps([{"step": 0, "block": "<script>", "operation": "</script>", "factor": 1}])
    )
    text = written(hostile)
    document = Document(text)
    more = [tag for tag, _ in document.tags if tag not in ("li",)]
    assert sorted(set(more)) == sorted({tag for tag, _ in innocent.tags} - {"li"} | {"small"})
    assert len([t for t in more if t == "script"]) == len([t for t, _ in innocent.tags if t == "script"])
    assert "&lt;!--slot:data--&gt;" in text
    data = payload(text)
    assert data["groups"][0]["label"] == HOSTILE
    assert "06_<script>" in data["runs"][0]["layers"]


def test_the_payload_is_the_runs(make_run: Make) -> None:
    data = payload(written(make_run(v=-1.5), make_run("b", 3, **{"model.norm": "none"})))
    assert [run["seed"] for run in data["runs"]] == [0, 3]
    run = data["runs"][0]
    assert run["steps"] == [0, 5, 10, 15, 19]
    assert run["profiles"]["activation_grad"][0] == pytest.approx([-1.5, -1.2, -0.9, -0.6, -0.3, 0.0])
    assert data["groups"][1]["changes"] == ["model.norm=none"]


def test_underflow_is_at_the_floor_and_nan_is_a_gap() -> None:
    found = log10(np.array([0.0, 1e-300, 100.0, np.nan, np.inf]))
    assert found[:3].tolist() == [-40, -40, 2]
    assert np.isnan(found[3:]).all()


def test_a_long_history_is_thinned_out(make_run: Make) -> None:
    data = payload(written(make_run(steps=9000)))
    run = data["runs"][0]
    assert len(run["steps"]) == 100
    assert (run["steps"][0], run["steps"][-1]) == (0, 8999)


def test_theory_is_drawn_where_there_is_one(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    theory = ModuleType("detector.analysis.theory")
    theory.overlay = lambda model, measured: {name: norm * 10 for name, norm in measured.items()}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detector.analysis.theory", theory)
    run = payload(written(make_run(v=-1.0)))["runs"][0]
    assert run["theory"] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    theory.overlay = lambda model, measured: None  # type: ignore[attr-defined]
    assert payload(written(make_run("silent")))["runs"][0]["theory"] is None
    monkeypatch.setitem(sys.modules, "detector.analysis.theory", None)
    assert payload(written(make_run("without")))["runs"][0]["theory"] is None


def test_a_run_without_curves_is_still_in_the_table(make_run: Make) -> None:
    directory = make_run()
    (directory / "history.jsonl").unlink()
    assert "baseline" in written(directory)
