"""Train a detector and watch every layer's gradient: one run, from a configuration to its summary.

    python train.py                                        # the baseline on COCO8
    python train.py --config ablations/no_residual.yaml    # with a component stripped
    python train.py --config … train.seed=1 train.lr=0.01  # any key of the configuration
    python train.py --ablation no_residual --seed 1        # short for the two above; W&B sweeps call it so
    python train.py --resume runs/baseline-s0-…            # resume a run that was interrupted
    python train.py --plugin my_blocks.py model.act=mine   # with a part of one's own: docs/extending.md
    torchrun --nproc-per-node 2 train.py                   # the same run on two processes or GPUs

Read it first; then detector/fit.py, which assembles a run, and detector/training/engine.py, which trains it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from detector.cli import run
from detector.errors import UserError


def train(
    *overrides: str,
    config: Path | None = None,
    resume: Path | None = None,
    ablation: str | None = None,
    seed: int | None = None,
    plugin: tuple[Path, ...] = (),
) -> int:
    """Train a detector and watch every layer's gradient.

    Args:
        overrides: section.key=value, such as train.lr=0.01.
        config: a file, or a name such as no_residual; default: configs/coco8.yaml.
        resume: the directory of a run that was interrupted.
        ablation: --config ablations/NAME.yaml; or baseline.
        seed: train.seed=N.
        plugin: a Python file that registers parts of one's own; may be repeated.

    Returns:
        The exit code: 0; 3 if it diverged; 4 if something outside ended it; 130 or 143 if it was interrupted.
    """
    if (config, resume, ablation).count(None) < 2:
        raise UserError("give only one of --config, --resume and --ablation")
    if resume is not None and (overrides or seed is not None):
        raise UserError(
            "--resume continues with the run's own config.yaml: it takes no key=value or --seed; to train on "
            f"from its weights, begin another run with model.pretrained={resume}"
        )

    # Imported late, so that --help answers at once, and a typo in a key before PyTorch is there.
    from detector.config.loading import find_file, load_config
    from detector.registry import load_plugins
    from detector.rundir import RunDir
    from detector.rundir.finding import run_directory

    load_plugins(plugin)
    if resume is not None:
        resume = run_directory(resume)
        loaded = RunDir(resume).read_config()
    else:
        if ablation not in (None, "baseline"):
            config = Path("ablations", f"{ablation}.yaml")
            config = config if config.exists() else find_file(ablation, ("ablations",))
        own = [] if seed is None else [f"train.seed={seed}"]
        loaded = load_config(config or Path("configs/coco8.yaml"), [*overrides, *own])
    from detector.fit import fit

    return fit(loaded, resume=resume).exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `detector.cli.run`."""
    return run(train, argv, "train.py")


if __name__ == "__main__":
    sys.exit(main())
