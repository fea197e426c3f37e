"""`detector report`: the text, and the W&B report that is sent for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detector.analysis.statistics import estimate
from detector.cli import main
from detector.tools.why.answer import answer, take_apart
from detector.tools.why.result import Result, to_file
from tests.loggers.conftest import KEY
from tests.loggers.wandb_server import Server
from tests.starter import Starter

Make = Callable[..., Path]


@pytest.fixture
def runs(make_run: Make) -> Path:
    """Two ablations of two seeds; of one run W&B knows nothing."""
    for seed in (0, 1):
        logged = make_run("baseline", seed, v=-0.1) / "wandb" / f"offline-run-20260101_00000{seed}-base{seed}"
        logged.mkdir(parents=True)
    stripped: dict[str, Any] = {"v": -6.0, "late": -6.0, "model.shortcut": "none"}
    stripped["summary"] = {"gradient/verdict_init": "vanishing", "gradient/verdict": "vanishing"}
    run = make_run("no_residual", 0, **stripped)
    (run / "wandb" / "superseded" / "offline-run-20260101_000000-none0").mkdir(parents=True)
    (run / "wandb" / "run-20260101_000001-none0").mkdir()
    return make_run("no_residual", 1, **stripped).parent


@pytest.fixture
def why(tmp_path: Path) -> Path:
    """An answer as `detector why` writes it: of a gap of 3, 1 without any gradient, 0.5 by its size."""
    levels = {
        "baseline": 4.0, "ablation": 7.0, "trunk": 7.0, "baseline_frozen": 6.0, "trunk_frozen": 7.0,
        "sufficiency": 4.5, "necessity": 6.5, "control": 6.0,
    }  # fmt: skip
    losses: Any = {role: {0: level, 1: level + 0.01} for role, level in levels.items()}
    maps: Any = {role: {0: 1 - level / 10, 1: 1 - level / 10} for role, level in levels.items()}
    found = answer("no_residual", "shapes", losses, strips_rest=False)
    gap, parts = estimate([-0.3, -0.3]), take_apart(maps, strips_rest=False)
    to_file(
        Result("no_residual", "shapes", "val/mAP50-95", {}, found, gap, parts, {}, {}), tmp_path / "w.json"
    )
    return tmp_path / "w.json"


def test_the_text_is_markdown(runs: Path, why: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs), "--why", str(why)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Where gradients die: 2 ablations on coco8\n")
    rows = {line.split(" | ")[0].removeprefix("| ").split("<br>")[0]: line for line in text.splitlines()}
    assert "- Late in training, the gradient vanishes in no\\_residual (V = −6.00 decades" in text
    assert "| −5.90<br>" in rows["no\\_residual"], "the difference, in the last table that has this row"
    assert "## Is it the gradient? no\\_residual on shapes" in text
    shares = {
        name: re.findall(r"[+-][\d.]+(?= \[)", rows[name])
        for name in ("gap", "forward", "backward", "remainder")
    }
    assert shares == {
        "gap": ["+3.00", "-0.300"],
        "forward": ["+1.00", "-0.100"],
        "backward": ["+0.50", "-0.050"],
        "remainder": ["+1.50", "-0.150"],
    }
    assert "n = 2 seeds; positive control passed" in text


def test_a_file_that_is_no_answer_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, problem in (
        (runs / "baseline-s0/summary.json", "is not an answer"),
        (runs / "x", "No such file"),
    ):
        assert main(["report", str(runs), "--why", str(file)]) == 2
        error = capsys.readouterr().err
        assert str(file) in error
        assert problem in error
        assert len(error.splitlines()) == 1
    assert main(["report"]) == main(["report", str(runs), "--wandb"]) == 2
    assert "--entity" in capsys.readouterr().err


def test_the_report_as_code(runs: Path, why: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces")
    command = ["report", str(runs), "--why", str(why), "--wandb", "--entity", "me", "--dry-run"]
    assert main(command) == 0
    printed = capsys.readouterr()
    check(json.loads(printed.out))
    assert "not logged to W&B: no_residual-s1" in printed.err


def check(spec: dict[str, Any]) -> None:
    """Text, the curves of exactly those runs, tables, shares."""
    blocks = [block for block in spec["blocks"] if block["type"] != "paragraph"]
    assert [block["type"] for block in blocks] == ["markdown-block", "panel-grid", *["markdown-block"] * 2]
    assert "the gradient vanishes in no\\_residual" in blocks[0]["content"]
    assert "| no\\_residual" in blocks[2]["content"]
    assert "| backward | +0.50" in blocks[3]["content"]
    (shown,) = blocks[1]["metadata"]["runSets"]
    (by_id,) = shown["filters"]["filters"]
    assert (by_id["key"], by_id["op"]) == ({"section": "run", "name": "name"}, "IN")
    assert sorted(by_id["value"]) == ["base0", "base1", "none0"]
    panels = [panel["config"] for panel in blocks[1]["metadata"]["panelBankSectionConfig"]["panels"]]
    assert [panel["metrics"] for panel in panels] == [
        ["train/mAP50-95"], ["val/mAP50-95"], ["train/loss"], ["gradient/vanishing_index"],
    ]  # fmt: skip
    assert all(panel["groupBy"].startswith("ablation") for panel in panels)


@pytest.mark.slow
def test_it_is_saved_in_the_project(runs: Path, why: Path, tmp_path: Path, warm_start: Starter) -> None:
    pytest.importorskip("wandb_workspaces")
    command = ("report", str(runs), f"--why={why}", "--wandb", "--entity=me", "--project=p")
    with Server() as server:
        reached = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(tmp_path)}
        started = warm_start.start(command, cwd=tmp_path, program="detector", **reached)
        done = warm_start.end(started, tmp_path)
        assert done.code == 0, done.err
        assert server.unknown == []
        assert f"Saved: {server.url}/me/p/reports/" in done.out
        (view,) = server.views
        assert (view["entityName"], view["projectName"], view["type"]) == ("me", "p", "runs")
        assert view["displayName"] == "Where gradients die: 2 ablations on coco8"
        spec = json.loads(view["spec"])
        check(spec)
        (grid,) = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
        assert grid["metadata"]["runSets"][0]["project"]["name"] == "p"


def test_a_refusal_is_named(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wr = pytest.importorskip("wandb_workspaces.reports.v2.interface")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("permission denied\nfor me/p")

    monkeypatch.setattr(wr, "execute_graphql", refuse)
    monkeypatch.setattr(wr, "_get_api", lambda: None)
    assert main(["report", str(runs), "--wandb", "--entity", "me", "--project", "p"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-2:] == [
        "error: W&B did not take the report: permission denied for me/p",
        "is me/p a project of yours (`wandb login`, then one run, or `wandb sync`)?",
    ]
