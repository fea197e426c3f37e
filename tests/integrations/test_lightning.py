"""The callback in Lightning's own trainer, against the same loop by hand."""

from __future__ import annotations

import csv
import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from detector import watch
from detector.errors import UserError
from detector.rundir import RunDir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def loop() -> Any:
    """Imported by the tests that need it, not by every process that collects them."""
    return importlib.import_module("tests.integrations.lightning_loop")


def rows_by_hand(loop: Any) -> list[dict[str, float]]:
    model = loop.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    flow = watch(model, every=1)
    for _ in range(2):
        for first, second in (loop.DATA.tensors[0][:8].split(4), loop.DATA.tensors[0][8:].split(4)):
            losses = [model(images).square().mean() / 2 for images in (first, second)]
            for loss in losses:
                loss.backward()
            flow.step(losses[0].detach() + losses[1].detach())
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            optimizer.zero_grad()
    flow.finish()
    return list(flow.rows)


def test_its_rows_are_those_of_the_loop_by_hand_and_the_weights_are_the_same(
    tmp_path: Path, loop: Any
) -> None:
    from pytorch_lightning.loggers import CSVLogger

    rows: list[Any] = []
    plain = loop.fit(tmp_path)
    run, logger = tmp_path / "run", CSVLogger(tmp_path)
    watched = loop.fit(tmp_path, loop.WatchGradients(run, rows.append, every=1, module="net"), logger=logger)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    others = [{key: row.pop(key) for key in ("epoch", "val/mAP50-95") if key in row} for row in rows]
    assert others == [
        {"epoch": 0},
        {"epoch": 0, "val/mAP50-95": 0.125},
        {"epoch": 1},
        {"epoch": 1, "val/mAP50-95": 0.25},
    ]
    for ours, by_hand in zip(rows, rows_by_hand(loop), strict=True):
        assert list(ours) == list(by_hand)
        assert ours == pytest.approx(by_hand, rel=1e-5)
    summary = RunDir(run).read_summary()
    assert (summary["status"], summary["steps"], summary["val/mAP50-95"]) == ("finished", 4, 0.25)
    logger.save()
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        logged = [float(v) for line in csv.DictReader(file) if (v := line["activation_grad/00_0"])]
    assert logged == [row["activation_grad/00_0"] for row in rows]


def test_a_scaled_gradient_is_unscaled(loop: Any) -> None:
    """16-bit precision on a CPU has no scaler of its own: Lightning's plugin gets one."""
    from pytorch_lightning.plugins import MixedPrecision

    rows: dict[float, list[Any]] = {1.0: [], 256.0: []}
    for scale, into in rows.items():
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        plugin.autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)  # type: ignore[method-assign]
        trainer = loop.lightning.Trainer(
            callbacks=[loop.WatchGradients(into.append, every=1)], plugins=[plugin], max_epochs=1,
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(loop.Module(), DataLoader(loop.DATA, 8))
    assert len(rows[1.0]) == 2
    for scaled, plain in zip(rows[256.0], rows[1.0], strict=True):
        assert scaled == pytest.approx(plain, rel=1e-5)
        assert math.isfinite(scaled["train/loss"])


def test_an_error_leaves_a_stopped_run_and_a_wrong_name_is_one_line(tmp_path: Path, loop: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        loop.fit(tmp_path, loop.WatchGradients(tmp_path / "run"), module=loop.Module(fail_at=2))
    assert RunDir(tmp_path / "run").read_summary()["status"] == "stopped"
    with pytest.raises(UserError, match="module=backbone: the module has no such part"):
        loop.fit(tmp_path, loop.WatchGradients(module="backbone"))
