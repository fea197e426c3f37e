"""The W&B workspace: what it shows, and that saving it is one request."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from detector.cli import main
from tests.loggers.conftest import KEY
from tests.loggers.wandb_server import Server
from tests.starter import Starter
from tests.support import ROOT

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed: the extra `dashboard`")
CONFIG = str(ROOT / "configs/coco8.yaml")
BLOCKS = {"p2": 2, "p3": 10, "p4": 4, "p5": 2}
NAMES = ["stem", *(f"{stage}.{block}" for stage, n in BLOCKS.items() for block in ("down", *range(n)))]
LAYERS = [f"{depth:02d}_{name}" for depth, name in enumerate(NAMES)]


def spec(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """The panels of each section, from a dry run."""
    command = ["dashboard", "--entity", "me", "--project", "p", "--config", CONFIG, "--dry-run", *arguments]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    sections = printed["section"]["panelBankConfig"]["sections"]
    return sections_of(sections)


def sections_of(sections: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    sections = spec(capsys)
    shown = ["Accuracy", "Gradient flow", "Signal", "Clipping", "Depth profile", "Predictions"]
    assert [name for name in sections if sections[name]] == shown
    assert [panel["metrics"] for panel in sections["Accuracy"]] == [
        ["train/mAP50-95"], ["val/mAP50-95"], ["train/loss"],
    ]  # fmt: skip
    assert [panel["mediaKeys"] for panel in sections["Predictions"]] == [
        ["predictions/train"], ["predictions/val"],
    ]  # fmt: skip
    assert "depth_profile/activation_grad_table" in json.dumps(sections["Depth profile"])
    assert "layer_map/activation_grad" in json.dumps(sections["Depth profile"])
    assert [panel["metrics"] for panel in sections["Clipping"]] == [
        ["train/clip_factor"],
        ["train/trunk_share"],
    ]
    assert [panel["metrics"] for panel in sections["Signal"]] == [
        ["signal/input_dependence"],
        ["signal/rms_p3", "signal/rms_p4", "signal/rms_p5"],
        ["signal/probe_auc_p3", "signal/probe_auc_p4", "signal/probe_auc_p5"],
        ["signal/probe_auc_p3_position", "signal/probe_auc_p4_position", "signal/probe_auc_p5_position"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "own", ["model.depths=[1,1,1,1]", f"model.pretrained={ROOT / 'tests/compatibility/tiny_yolo.yaml'}"]
)
def test_every_panel_shows_what_a_run_logs(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    coco8: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
) -> None:
    from detector import fit, load_config

    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    small = ["data.image_size=64", "tracking.wandb=disabled", "tracking.plots=false", "train.steps=2"]
    fit(load_config(Path(CONFIG), [*small, own, f"run.dir={tmp_path}/run"]))
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    logged = {key for row in rows for key in row}
    capsys.readouterr()
    sections = spec(capsys, f"--config={tmp_path}/run")
    metrics = {m for panels in sections.values() for panel in panels for m in panel.get("metrics", ())}
    assert metrics <= logged
    assert {key for key in logged if key.startswith(("activation_grad/", "weight_grad/"))} <= metrics
    assert spec(capsys, own) == sections, "the run's directory says the same as its configuration"


def test_every_layer_is_in_one_logarithmic_panel(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--explicit",)):
        panels = [p for p in spec(capsys, *arguments)["Gradient flow"] if len(p["metrics"]) > 5]
        for panel, kind in zip(panels, ("activation_grad", "weight_grad"), strict=True):
            assert panel["yLogScale"]
            assert panel["metrics"] == [f"{kind}/{layer}" for layer in LAYERS]
            assert ("metricRegex" in panel) == (not arguments)
            if not arguments:
                found = re.compile(panel["metricRegex"])
                assert all(found.search(key) for key in panel["metrics"])
                for other in ("gradient/vanishing_index", "train/loss", f"x/{kind}/07_p3.4"):
                    assert not found.search(other)


def test_three_blocks_are_compared_by_ablation_with_bands(capsys: pytest.CaptureFixture[str]) -> None:
    panels = {
        panel["metrics"][0]: panel for panel in spec(capsys)["Gradient flow"] if len(panel["metrics"]) == 1
    }
    for layer in ("02_p2.0", "11_p3.6", "22_p5.1"):
        panel = panels[f"activation_grad/{layer}"]
        assert (panel["groupAgg"], panel["groupArea"], panel["yLogScale"]) == ("mean", "stddev", True)
        assert panel["groupBy"].startswith("ablation")
    assert "gradient/vanishing_index" in panels


def test_a_deeper_trunk_has_its_own_layers(capsys: pytest.CaptureFixture[str]) -> None:
    panels = spec(capsys, "model.depths=[1,1,1,1]")["Gradient flow"]
    assert max(len(panel["metrics"]) for panel in panels) == 9


DASHBOARD = ("dashboard", "--entity", "me", "--project", "p", "--config", CONFIG)


@pytest.mark.slow
def test_saving_is_one_request(tmp_path: Path, warm_start: Starter) -> None:
    with Server() as server:
        reached = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(tmp_path)}
        started = warm_start.start(DASHBOARD, cwd=tmp_path, program="detector", **reached)
        done = warm_start.end(started, tmp_path)
        assert done.code == 0, done.err
        assert f"Saved: {server.url}/me/p" in done.out
        (view,) = server.views
        assert (view["entityName"], view["projectName"], view["type"]) == ("me", "p", "project-view")
        pinned = json.loads(view["spec"])["section"]["runSets"][0]["runFeed"]["columnPinned"]
        assert pinned["summary:gradient/vanishing_index"]
        assert not server.unknown


@pytest.mark.slow
def test_a_refusal_is_named(tmp_path: Path, warm_start: Starter) -> None:
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    started = warm_start.start(DASHBOARD, cwd=tmp_path, program="detector", **nobody)
    done = warm_start.end(started, tmp_path)
    assert done.code == 2, done.err
    assert "wandb login" in done.err
    assert "Traceback" not in done.err
    assert os.listdir(tmp_path) in ([], [".config"], [".cache"], [".config", ".cache"])
