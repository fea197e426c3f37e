"""What a run does without until its first step, because importing it would take longer than all the rest."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import ROOT, environment

LATE = "torch._dynamo", "torch._inductor", "torchvision", "matplotlib", "wandb", "faster_coco_eval", "sympy"


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], ["train.optimizer=adamw", "model.pretrained=yolov8n.yaml"]])
def test_nothing_slow_is_imported_before_the_first_step(tmp_path: Path, overrides: list[str]) -> None:
    code = f"""
        import os, sys
        from torch.optim.optimizer import register_optimizer_step_post_hook

        def ended(*_):
            print("late:", *(name for name in {LATE} if name in sys.modules), flush=True)
            os._exit(0)

        register_optimizer_step_post_hook(ended)
        import train
        train.main(["--config", "configs/shapes.yaml", *sys.argv[1:]])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), f"run.dir={tmp_path}/run", *overrides]
    command += ["data.image_size=64", "tracking.wandb=offline"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "late:"
