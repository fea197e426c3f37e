"""The real W&B client offline: what its file holds, and that no fault of it reaches training."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from detector.config.schema import Config
from detector.loggers.base import PredictionImage
from detector.loggers.wandb_logger import WandbLogger
from detector.loggers.wandb_session import Start
from detector.rundir import RunDir

Make = Callable[..., list[dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("wandb_home")


@pytest.fixture
def said() -> list[str]:
    """What the logger told the human."""
    return []


@pytest.fixture
def start(tmp_path: Path, said: list[str]) -> Callable[..., WandbLogger]:
    """Starts a logger of a run in `tmp_path/run`."""

    def make(tracking: dict[str, Any] | None = None, **others: Any) -> WandbLogger:
        config = Config.model_validate({"tracking": tracking or {}, "train": {"seed": 3}})
        directory = tmp_path / "run"
        directory.mkdir(exist_ok=True)
        start = Start(directory, config, "no_residual", "coco8", resume_id=others.pop("resume_id", None))
        return WandbLogger(start, report=said.append, **others)

    return make


def test_a_run_is_stored_whole(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    said: list[str],
    make_history: Make,
    blocks: list[str],
    summary: dict[str, Any],
    make_picture: Callable[..., PredictionImage],
    wandb_file_module: ModuleType,
) -> None:
    history = make_history()
    checkpoint = tmp_path / "run" / "best.pt"
    logger = start({"tags": ("class-of-2026",)})
    checkpoint.write_bytes(b"weights")
    for row in history:
        logger.log(row)
    logger.predictions(149, [make_picture(), make_picture("b.jpg", split="val")])
    logger.finish(summary, checkpoint)
    logger.close()

    stored = wandb_file_module.read(tmp_path / "run" / "wandb")
    assert stored.run.run_id == logger.id == RunDir(tmp_path / "run").wandb_id()
    assert stored.run.run_group == "no_residual"
    assert stored.run.display_name == "no_residual-s3"
    assert stored.run.job_type == "train"
    assert set(stored.run.tags) == {"no_residual", "coco8", "class-of-2026"}
    assert stored.config["ablation"] == "no_residual"
    assert stored.config["seed"] == 3
    assert stored.config["model"]["depths"] == [2, 10, 4, 2]
    assert stored.config["tracking"]["tags"] == ["class-of-2026"]

    assert [row["step"] for row in stored.history] == [row["step"] for row in history]
    assert [row["_step"] for row in stored.history] == [row["step"] for row in history]
    for sent, kept in zip(history, stored.history, strict=True):
        assert {key: kept[key] for key in sent} == sent
        layers = sorted(key for key in kept if key.startswith("activation_grad/"))  # W&B stores no order
        assert layers == [f"activation_grad/{block}" for block in blocks]
    evaluations = [row for row in stored.history if "val/mAP50-95" in row]
    assert len(evaluations) == 3
    assert all(any(key.startswith("depth_profile/") for key in row) for row in evaluations)
    assert evaluations[-1]["predictions/val/_type"] == "images/separated"
    boxes = evaluations[-1]["predictions/train/all_boxes"]
    assert boxes[0].keys() == {"predictions", "ground_truth"}

    assert not any(key.startswith(("activation_grad/", "weight_grad/")) for key in stored.summary)
    assert stored.summary["best/train/mAP50-95"] == pytest.approx(0.5)
    assert stored.summary["best/val/mAP50-95"] == 0.0
    for key in ("gradient/verdict", "gradient/vanishing_index_init", "commit", "parameters"):
        assert stored.summary[key] == summary[key]
    assert any(artifact.type == "model" for artifact in stored.artifacts)
    assert any("wandb sync" in line for line in said)


def test_the_charts_that_w_and_b_makes_by_itself(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    make_history: Make,
    blocks: list[str],
    wandb_file_module: ModuleType,
) -> None:
    """One linear panel a key that is not hidden, in sections by the alphabet."""
    history = make_history()
    logger = start()
    for row in history:
        logger.log(row)
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    hidden = {name.replace("\\.", ".") for name, metric in stored.metrics.items() if metric.options.hidden}
    shown = {key for row in stored.history for key in row if not key.startswith("_") and "/_" not in key}
    shown = {key for key in shown - hidden if key.count("/") == 1}  # deeper ones belong to charts
    sections = sorted({key.partition("/")[0] for key in shown})
    assert sections == [
        "at_a_glance", "gradient", "layers_log10", "signal", "time", "train", "val",
    ]  # fmt: skip
    assert sorted(key for key in shown if key.startswith("at_a_glance")) == [
        f"at_a_glance/{name}" for name in ("mAP50_95_train", "mAP50_95_val", "train_loss", "vanishing_index")
    ]
    assert all(re.fullmatch(r"[a-z_0-9]+/[_a-zA-Z]\w*", key) for key in shown), "W&B cannot sort by others"

    # Every layer is there as a logarithm; its norm is kept, but drawn by nobody who did not ask.
    for row, kept in zip(history, stored.history, strict=True):
        for kind in ("activation_grad", "weight_grad", "update_ratio"):
            for block in blocks:
                assert f"{kind}/{block}" in hidden
                drawn = kept[f"layers_log10/{kind}_{block.replace('.', '_')}"]
                assert drawn == pytest.approx(math.log10(row[f"{kind}/{block}"]))
        assert kept.get("val/mAP50_95") == kept.get("val/mAP50-95") == row.get("val/mAP50-95")
        assert kept.get("at_a_glance/mAP50_95_train") == row.get("train/mAP50-95")
    assert "val/mAP50_95" in stored.summary
    assert not any(key.startswith("layers_log10/") for key in stored.summary), "a column a layer"


def test_all_layers_over_all_steps_are_one_table_and_one_chart(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    make_history: Make,
    blocks: list[str],
    summary: dict[str, Any],
    wandb_file_module: ModuleType,
) -> None:
    history = make_history(1000, 5, 100)
    history[7]["activation_grad/03_p2.1"] = math.inf
    logger = start()
    for row in history:
        logger.log(row)
    logger.finish(summary, None)
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    sent = [row["step"] for row in stored.history if "layer_map/table/_type" in row]
    assert sent == [100, 300, 700, 999]  # about twice as far each time, and at the end

    table = json.loads(newest(tmp_path, "layer_map/table", sent[-1]).read_text())
    chart = json.loads(newest(tmp_path, "layer_map/activation_grad", sent[-1]).read_text())["data"][0]
    assert table["columns"] == [
        "step", "depth", "layer", "log10_activation_grad", "log10_weight_grad", "log10_update_ratio",
    ]  # fmt: skip
    steps = list(dict.fromkeys(row[0] for row in table["data"]))
    assert (steps[0], steps[-1]) == (0, 999)
    assert 50 <= len(steps) <= 101
    by_step = {row["step"]: row for row in history}
    for step, depth, layer, activation, weight, update in table["data"]:
        assert layer == blocks[depth]
        norms = [
            by_step[step][f"{kind}/{layer}"] for kind in ("activation_grad", "weight_grad", "update_ratio")
        ]
        assert [activation, weight, update] == [pytest.approx(math.log10(norm)) for norm in norms]
    assert chart["type"] == "heatmap"
    assert (chart["x"], chart["y"]) == (steps, blocks)
    assert [row[3] for row in table["data"]] == [
        chart["z"][d][x] for x in range(len(steps)) for d in range(23)
    ]


def newest(folder: Path, key: str, step: int) -> Path:
    """The one file that was logged under a key at a step, or beside a later row of it."""
    found = list(folder.rglob(f"{key}_*.json"))
    return max(found, key=lambda path: int(path.name.removeprefix(f"{Path(key).name}_").split("_")[0]))


def test_a_run_says_how_it_went(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    monkeypatch: pytest.MonkeyPatch,
    make_history: Make,
    summary: dict[str, Any],
    wandb_file_module: ModuleType,
) -> None:
    monkeypatch.setenv("WANDB_NOTES", "my first try")
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"weights")
    logger = start()
    for row in make_history(20):
        logger.log(row)
    logger.finish(summary | {"gradient/diagnosis": "The gradient vanishes in p3."}, checkpoint)
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    assert stored.run.notes == "my first try\n\nDiagnosis: The gradient vanishes in p3."
    (alert,) = stored.alerts
    assert (alert.title, alert.text) == ("no_residual-s3: vanishing", "The gradient vanishes in p3.")
    assert alert.level == "WARN"
    (model,) = [artifact for artifact in stored.artifacts if artifact.type == "model"]
    known = json.loads(model.metadata)
    assert known["val/mAP50-95"] == 0.0
    assert known["ablation"] == "no_residual"
    assert known["commit"] == "0" * 40
    assert "versions" not in known


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_is_called_what_it_is(
    name: str, tmp_path: Path, start: Callable[..., WandbLogger]
) -> None:
    checkpoint, logged = tmp_path / f"{name}.pt", list[tuple[list[str], list[str]]]()
    checkpoint.write_bytes(b"weights")

    def log_artifact(artifact: Any, aliases: list[str]) -> None:
        logged.append((list(artifact.manifest.entries), aliases))

    run: Any = SimpleNamespace(log_artifact=log_artifact)
    start()._send_checkpoint(run, checkpoint, {})
    assert logged == [([f"{name}.pt"], [name])]


@pytest.mark.parametrize("wanted", [True, False])
def test_system_metrics_are_sampled_where_they_are_asked_for(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    monkeypatch: pytest.MonkeyPatch,
    wandb_file_module: ModuleType,
    wanted: bool,
) -> None:
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    logger = start({"system_metrics": wanted})
    assert logger.wait_started(60)
    time.sleep(1.0)
    logger.log({"step": 0})
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    assert ("stats" in stored.kinds) == wanted
    assert stored.run.host == ""  # samples say nothing else about the machine
    assert not {"environment", "output", "output_raw"} & stored.kinds
    assert not list(tmp_path.rglob("wandb-metadata.json"))


@pytest.mark.slow
def test_nothing_leaks(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    monkeypatch: pytest.MonkeyPatch,
    api_key: str,
    make_history: Make,
    summary: dict[str, Any],
    wandb_file_module: ModuleType,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", api_key)
    logger = start({"wandb": "offline"})
    for row in make_history(20):
        logger.log(row)
    logger.finish(summary, None)
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    assert stored.run.host == ""
    assert not stored.run.HasField("git")
    assert stored.kinds.isdisjoint({"output", "output_raw", "stats"})
    names = {path.name for path in tmp_path.rglob("*")}
    assert names.isdisjoint({"requirements.txt", "wandb-metadata.json", "diff.patch", "output.log"})
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert api_key.encode() not in path.read_bytes(), path


def test_no_key_and_no_terminal_is_offline_without_a_prompt(
    start: Callable[..., WandbLogger], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    logger = start({"wandb": "auto"})
    assert logger.wait_started(60)
    logger.close()
    assert len(said) == 1 and "offline" in said[0]


def test_alerts_can_be_switched_off(
    tmp_path: Path, start: Callable[..., WandbLogger], summary: dict[str, Any], wandb_file_module: ModuleType
) -> None:
    logger = start({"alerts": False})
    logger.log({"step": 0, "train/loss": 1.0})
    logger.finish(summary, None)  # it vanishes: test_a_run_says_how_it_went has the alert
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    assert stored.alerts == [] and '"vanishing"' in json.dumps(stored.summary, default=str)


def test_a_service_started_in_another_folder_writes_into_the_run(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    (tmp_path / "work" / "run").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    wandb.setup(settings=wandb.Settings(silent=True)).ensure_service()
    monkeypatch.chdir(tmp_path / "work")
    logger = WandbLogger(Start(Path("run"), Config(), "baseline", "coco8"), report=said.append)
    logger.log({"step": 0, "train/loss": 1.0})
    logger.close()
    assert len(list((tmp_path / "work" / "run").rglob("*.wandb"))) == 1
    assert not list((tmp_path / "elsewhere").iterdir())
    assert "wandb leet run/wandb " in said[0]  # no longer than it has to be


@pytest.mark.slow
def test_a_terminal_is_not_asked_for_a_key(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from detector.config.schema import Config
        from detector.loggers.wandb_logger import WandbLogger
        from detector.loggers.wandb_session import Start
        assert sys.stdin.isatty() and sys.stderr.isatty()
        config = Config.model_validate({"tracking": {"wandb": "online"}})
        WandbLogger(Start(Path(sys.argv[1]), config, "a", "d")).close()
    """
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")]
    (tmp_path / "run").mkdir()
    done = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, timeout=60, cwd=ROOT)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0, shown
    # Where the machine is so busy that closing takes seconds, a line says what is waited for.
    lines = [line for line in shown.splitlines() if "the run itself has ended" not in line]
    assert "no API key" in shown and len(lines) == 2, shown
    assert list((tmp_path / "run").rglob("offline-run-*"))


@pytest.mark.parametrize(
    ("environment", "configured"), [({}, "disabled"), ({"WANDB_MODE": "disabled"}, "auto")]
)
def test_disabled_does_nothing(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    configured: str,
    summary: dict[str, Any],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = start({"wandb": configured})
    logger.log({"step": 0})
    logger.finish(summary, None)
    logger.close()
    assert list((tmp_path / "run").iterdir()) == []
    assert said == []


def test_numbers_gone_wrong_are_sent_as_they_are(
    tmp_path: Path, start: Callable[..., WandbLogger], wandb_file_module: ModuleType
) -> None:
    logger = start()
    bad = {"activation_grad/00_stem": math.nan, "activation_grad/01_p2.down": 0.0, "val/mAP50-95": 0.0}
    logger.log({"step": 0, "train/loss": math.inf, **bad})
    logger.log({"step": 5, "activation_grad/00_stem": math.nan, "val/mAP50-95": math.nan})
    logger.close(3)
    first, second = wandb_file_module.read(tmp_path / "run").history
    assert math.isinf(float(first["train/loss"]))
    assert math.isnan(float(first["activation_grad/00_stem"]))
    assert any(key.startswith("depth_profile/") for key in first)
    assert not any(key.startswith("depth_profile/") for key in second)


def test_resuming_keeps_the_id_the_beginning_and_the_best(
    tmp_path: Path, start: Callable[..., WandbLogger], make_history: Make, wandb_file_module: ModuleType
) -> None:
    history = make_history()
    history[10]["train/mAP50-95"] = 0.99
    logger = start(resume_id="abcd1234", history=history[:20])
    for row in history[20:]:
        logger.log(row)
    logger.finish({}, None)
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    assert logger.id == stored.run.run_id == "abcd1234"
    assert [row["step"] for row in stored.history] == [row["step"] for row in history]
    assert stored.summary["best/train/mAP50-95"] == 0.99
    tables = list((tmp_path / "run").rglob("depth_profile/*.table.json"))
    assert tables and all('"step 0"' in path.read_text() for path in tables)


@pytest.mark.parametrize("trace", ["run-20260101_000000-abcd1234", "offline-run-20260101_000000-abcd1234"])
def test_what_the_server_has_already_is_not_sent_again(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    make_history: Make,
    wandb_file_module: ModuleType,
    trace: str,
) -> None:
    """It was online then, or synced since: how far is not known, so the run goes on from its checkpoint."""
    history = make_history()
    earlier = tmp_path / "run/wandb" / trace
    earlier.mkdir(parents=True)
    (earlier / "run-abcd1234.wandb.synced").touch()
    logger = start(resume_id="abcd1234", history=history[:20])
    for row in history[20:]:
        logger.log(row)
    logger.close()
    stored = wandb_file_module.read(tmp_path / "run")
    assert [row["step"] for row in stored.history] == [row["step"] for row in history[20:]]
    assert earlier.exists()


def test_a_killed_service_costs_nothing(
    tmp_path: Path,
    start: Callable[..., WandbLogger],
    said: list[str],
    make_history: Make,
    summary: dict[str, Any],
) -> None:
    import wandb

    logger = start()
    assert logger.wait_started(60)
    rows = iter(make_history())
    logger.log(next(rows))
    os.kill(wandb.setup()._connection._proc._process.pid, signal.SIGKILL)
    began = time.monotonic()
    for row in rows:
        logger.log(row)
    logger.finish(summary, None)
    logger.close()
    assert time.monotonic() - began < 30
    assert sum("stopped" in line or "not finished" in line for line in said) == 1


@pytest.mark.slow
def test_a_service_that_hangs_is_given_up_and_python_still_exits(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        import wandb
        from detector.config.schema import Config
        from detector.loggers import wandb_logger, wandb_session, wandb_thread
        wandb_thread._GRACE = 1.0
        wandb_session.FINISH_TIMEOUT = 1
        logger = wandb_logger.WandbLogger(wandb_session.Start(Path(sys.argv[1]), Config(), "a", "d"))
        assert logger.wait_started(60)
        os.kill(wandb.setup()._connection._proc._process.pid, signal.SIGSTOP)
        for step in range(2000):
            logger.log({"step": step, **{f"activation_grad/{n:02d}_x": 1.0 for n in range(60)}})
        logger.finish({"steps": 2000}, None)
        logger.close()
        print("trained")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trained\n"
    assert "given up" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_broken_call_silences_the_logger_once(
    start: Callable[..., WandbLogger], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    logger = start()
    assert logger.wait_started(60)
    monkeypatch.setattr(wandb.Run, "log", full)
    for step in range(10):
        logger.log({"step": step})
    logger.close()
    assert [line for line in said if "No space left" in line] == [said[-1]]


def test_an_import_that_fails_is_one_line(
    start: Callable[..., WandbLogger], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = start()
    logger.log({"step": 0})
    logger.close()
    assert len(said) == 1 and "not started" in said[0]


def test_rows_in_one_step_cost_the_engine_nothing_to_wait_for(
    start: Callable[..., WandbLogger], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    logger = start()
    assert logger.wait_started(60)
    monkeypatch.setattr(wandb.Run, "log", lambda *_, **__: time.sleep(0.05))
    monkeypatch.setattr("detector.loggers.wandb_thread._MOST_WAITING", 20)
    for step in range(200):
        logger.log({"step": step})
    logger.close()
    assert any("does not keep up" in line for line in said)


def test_a_run_that_ends_leaves_another_of_its_process_alone(
    tmp_path: Path, wandb_file_module: ModuleType
) -> None:
    loggers = []
    for seed in (0, 1):
        (tmp_path / f"run-{seed}").mkdir()
        config = Config.model_validate({"train": {"seed": seed}})
        loggers.append(WandbLogger(Start(tmp_path / f"run-{seed}", config, "baseline", "coco8")))
    for logger in loggers:
        logger.log({"step": 0, "train/loss": 1.0})
        assert logger.wait_started(60)
    first, second = loggers
    first.close()
    for step in range(1, 50):
        second.log({"step": step, "train/loss": 1.0 / step})
    second.close()
    for seed, rows in ((0, 1), (1, 50)):
        assert len(wandb_file_module.read(tmp_path / f"run-{seed}").history) == rows
