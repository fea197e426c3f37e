"""The sweep: the factorial's runs, by W&B's own agent, against a stand-in for its server."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import train as front_door
from detector.config.loading import load_config
from detector.jobs.runner import differences
from detector.tools.suites.suite import expand, load_suite
from tests.loggers.conftest import KEY
from tests.loggers.wandb_server import Server, Sweep
from tests.support import ROOT, environment

SWEEP = ROOT / "ablations" / "sweep.yaml"


@pytest.mark.slow
def test_the_sweep_is_the_factorial_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def note(loaded, **_):  # type: ignore[no-untyped-def]
        seen[loaded.name, loaded.config.train.seed] = loaded.config
        return SimpleNamespace(exit_code=0)

    monkeypatch.setattr(importlib.import_module("detector.fit"), "fit", note)
    text = SWEEP.read_text()
    command = yaml.safe_load(text)["command"]
    for combination in Sweep(text).waiting:
        arguments = [f"--{name}={value}" for name, value in combination.items()]
        fixed = command[command.index("${args}") + 1 :]
        assert front_door.main([*arguments, *fixed]) == 0
    cells = {
        (c.ablation, c.seed): c.config for c in expand(load_suite(ROOT / "ablations/suites/factorial.yaml"))
    }
    assert seen.keys() == cells.keys()
    for name, config in cells.items():
        assert differences(seen[name], config) == []
        assert seen[name].tracking == config.tracking
        assert seen[name].data.fallback == "none"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ablation=no_residul"], "did you mean no_residual?\n"),
        (["--seed=one"], "--seed"),
    ],
)
def test_a_mistyped_shorthand_is_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert front_door.main(arguments) == 2
    assert named in capsys.readouterr().err


def test_the_shorthands_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        importlib.import_module("detector.fit"),
        "fit",
        lambda loaded, **_: seen.append(loaded) or SimpleNamespace(exit_code=3),
    )
    assert front_door.main(["--ablation", "no_residual", "--seed", "7", "train.lr=0.01"]) == 3
    expected = load_config(Path("ablations/no_residual.yaml"), ["train.lr=0.01", "train.seed=7"])
    assert [(found.name, found.config) for found in seen] == [(expected.name, expected.config)]


# `wandb`, whose agent looks every five seconds whether a run has ended.
WANDB = "from wandb.cli.cli import cli; from wandb.wandb_agent import Agent; Agent.POLL_INTERVAL = 0.2; cli()"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_agent_runs_the_sweep(tmp_path: Path, coco8: Path) -> None:
    """`wandb sweep`, then `wandb agent`, both as a user calls them; two runs instead of 24."""
    config = yaml.safe_load(SWEEP.read_text())
    config["parameters"] = {"ablation": {"values": ["baseline", "no_residual"]}, "seed": {"values": [1]}}
    config["command"] += ["data.image_size=32", "train.steps=2", "model.depths=[1,1,1,1]"]
    config["program"] = str(ROOT / "train.py")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    with Server() as server:
        env = environment(coco8) | {
            "HOME": str(tmp_path / "home"),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
        }

        def wandb(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, "-c", WANDB, *arguments],
                cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        said = wandb("sweep", "--entity", "me", "--project", "gradients", "sweep.yaml")
        found = re.search(r"wandb agent (\S+)", said)
        assert found is not None, said
        said = wandb("agent", found[1])
        (sweep,) = server.sweeps.values()
        assert sweep.waiting == []
        assert not server.unknown
        for run, wanted in sweep.given.items():
            sent = json.loads(server.runs[run]["config"])
            assert sent["ablation"]["value"] == wanted["ablation"], said
            assert sent["seed"]["value"] == 1
            assert sent["model"]["value"]["shortcut"] == (
                "none" if wanted["ablation"] == "no_residual" else "residual"
            )
            assert server.runs[run]["groupName"] == wanted["ablation"]
            assert server.runs[run]["exit_code"] == 0
            assert server.lines(run, "wandb-history.jsonl")
