"""The last lines of a run: commands that can be typed as they are."""

from __future__ import annotations

from detector.config.loading import load_config
from detector.rundir import RunDir
from detector.training.pointers import pointers

RUN = RunDir("runs/my run")


def test_the_next_command_fits_the_run() -> None:
    plots, after = pointers(RUN, load_config("coco8"), "coco8")
    assert plots == "Plots: runs/my run/plots, gradient_depth.png first"
    assert after.startswith(
        "Next: python train.py --ablation no_residual, then detector compare 'runs/my run'"
    )
    assert "--ablation baseline" in pointers(RUN, load_config("no_residual"), "coco8")[1]
    own = pointers(RUN, load_config("coco8"), "mine")[1]
    assert own == "Next: detector val 'runs/my run'; detector predict 'runs/my run' PHOTOS"


def test_a_run_that_was_stopped_goes_on_first() -> None:
    resume = "python train.py --resume 'runs/my run'"
    quiet = load_config("coco8", ["tracking.plots=false"])
    assert pointers(RUN, quiet, "coco8", resume) == [f"Next: {resume}"]


def test_what_was_typed_is_repeated() -> None:
    short = load_config("no_residual", ["train.steps=40", "data.image_size=128", "run.dir=runs/nores"])
    assert pointers(RUN, short, "coco8")[1] == (
        "Next: python train.py --ablation baseline train.steps=40 data.image_size=128, "
        "then detector compare 'runs/my run' runs/…"
    )
