"""The last lines of a run: commands that can be typed as they are."""

from __future__ import annotations

from detector.config.schema import Config
from detector.rundir import RunDir
from detector.training.pointers import pointers

RUN = RunDir("runs/my run")


def test_the_next_command_fits_the_run() -> None:
    plots, after = pointers(RUN, Config(), "coco8", "baseline")
    assert plots == "Plots: runs/my run/plots, gradient_depth.png first"
    assert after.startswith(
        "Next: python train.py --ablation no_residual, then detector compare 'runs/my run'"
    )
    assert "--ablation baseline" in pointers(RUN, Config(), "coco8", "no_residual")[1]
    own = pointers(RUN, Config(), "mine", "baseline")[1]
    assert own == "Next: detector val 'runs/my run'; detector predict 'runs/my run' PHOTOS"


def test_a_run_that_was_stopped_goes_on_first() -> None:
    resume = "python train.py --resume 'runs/my run'"
    quiet = Config.model_validate({"tracking": {"plots": False}})
    assert pointers(RUN, quiet, "coco8", "baseline", resume) == [f"Next: {resume}"]
