"""Train a detector and watch every layer's gradient: one run, from a configuration to its summary.

    python train.py                                        # the baseline on COCO8
    python train.py --config ablations/no_residual.yaml    # with a component stripped
    python train.py --config … train.seed=1 train.lr=0.01  # any key of the configuration
    python train.py --ablation no_residual --seed 1        # short for the two above; W&B sweeps call it so
    python train.py --resume runs/baseline-s0-…            # resume a run that was interrupted
    torchrun --nproc-per-node 2 train.py                   # the same run on two processes or GPUs

Read it first; then detector/fit.py, which assembles a run, and detector/training/engine.py, which trains it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detector.config.loading import as_overrides, load_config
from detector.errors import UserError
from detector.rundir import RunDir
from detector.runtime import streams
from detector.runtime.files import run_directory
from detector.runtime.process import main_process

ROOT = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; return the exit code."""
    parser = argparse.ArgumentParser(description="Train a detector and watch every layer's gradient.")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--config",
        type=Path,
        default=ROOT / "configs" / "coco8.yaml",
        metavar="FILE",
        help="default: configs/coco8.yaml",
    )
    start.add_argument("--resume", type=Path, metavar="RUN_DIR", help="resume a run that was interrupted")
    start.add_argument("--ablation", metavar="NAME", help="--config ablations/NAME.yaml; or baseline")
    parser.add_argument("--seed", metavar="N", help="train.seed=N")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="such as train.seed=1")
    arguments = as_overrides(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_intermixed_args(arguments)  # keys may stand before and after --config
    if options.ablation is not None and options.ablation != "baseline":
        options.config = ROOT / "ablations" / f"{options.ablation}.yaml"
    if options.seed is not None:
        options.overrides.append(f"train.seed={options.seed}")
    resume = None if options.resume is None else run_directory(options.resume)
    return main_process(lambda: train(options.config, options.overrides, resume))


def train(config: Path, overrides: Sequence[str], resume: Path | None) -> int:
    """Load the configuration and fit."""
    if resume is None:
        loaded = load_config(config, overrides)
    elif overrides:
        raise UserError("--resume continues with the run's own config.yaml: it takes no key=value or --seed")
    else:
        loaded = RunDir(resume).read_config()
    from detector.fit import fit  # here, so that --help and a typo in a key answer at once

    return fit(loaded, resume=resume).exit_code


if __name__ == "__main__":
    streams.open_missing()
    code = main()
    streams.flush()
    sys.exit(code)
