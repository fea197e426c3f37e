"""Train a detector and watch every layer's gradient: one run, from a configuration to its summary.

    python train.py                                        # the baseline on COCO8
    python train.py --config ablations/no_residual.yaml    # with a component stripped
    python train.py --config … train.seed=1 train.lr=0.01  # any key of the configuration
    python train.py --ablation no_residual --seed 1        # short for the two above; W&B sweeps call it so
    python train.py --resume runs/baseline-s0-…            # go on where a run stopped

This file only assembles: configuration → data → model → fit. Read it first; then detector/training/engine.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from detector.config import Config
from detector.errors import UserError, for_terminal
from detector.loading import LoadedConfig, load_config, save

if TYPE_CHECKING:
    from detector.data.yolo import Dataset

ROOT = Path(__file__).resolve().parent
BASELINE = ROOT / "configs" / "coco8.yaml"
FALLBACK = ROOT / "configs" / "shapes.yaml"  # what to train on where COCO8 cannot be had

EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_INTERRUPTED = 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; return the exit code."""
    parser = argparse.ArgumentParser(description="Train a detector and watch every layer's gradient.")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--config", type=Path, default=BASELINE, metavar="FILE", help="default: configs/coco8.yaml"
    )
    start.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with a run that was stopped")
    start.add_argument("--ablation", metavar="NAME", help="--config ablations/NAME.yaml; or baseline")
    parser.add_argument("--seed", metavar="N", help="train.seed=N")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="such as train.seed=1")
    options = parser.parse_intermixed_args(arguments)  # keys may stand before and after --config
    if options.ablation is not None and options.ablation != "baseline":
        options.config = ROOT / "ablations" / f"{options.ablation}.yaml"
    if options.seed is not None:
        options.overrides.append(f"train.seed={options.seed}")
    try:
        if options.resume is None:
            return run(load_config(options.config, options.overrides), options)
        if options.overrides:
            raise UserError(
                "--resume goes on with the run's own config.yaml: it takes no key=value or --seed"
            )
        return run(load_config(options.resume / "config.yaml"), options)
    except UserError as error:
        print(f"error: {for_terminal(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        # Before the first step or after the last; in between the engine is asked to stop.
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def run(loaded: LoadedConfig, options: argparse.Namespace) -> int:
    """Train one model as configured, and leave its run directory behind."""
    # Imported here, so that --help and a typo in a key answer at once.
    import torch

    from detector.data.loader import Loader
    from detector.data.yolo_augment import mixing_epochs
    from detector.gradients.effects import read_effects
    from detector.gradients.entries import read_ledger
    from detector.gradients.explain import explain
    from detector.gradients.ledger import Ledger, LedgerFile
    from detector.gradients.recorder import GradientRecorder
    from detector.nn.build import architecture_of, build_model, facts_of, rebuild
    from detector.nn.describe import measure
    from detector.nn.loss import DetectionLoss
    from detector.nn.model import freeze
    from detector.tracking.examples import batch_images, prediction_images
    from detector.tracking.local import read_history
    from detector.tracking.summary import summarise
    from detector.tracking.watch import watch
    from detector.training.checkpoint import Checkpoints, load_state, read
    from detector.training.engine import evaluate, train
    from detector.training.failure import FailureFile
    from detector.training.learner import build_learner, seed_everything
    from detector.training.plan import build_plan, check_batches
    from detector.training.stop import StopRequest

    # Data.
    dataset, loaded = load_data(loaded, options)
    config, seed = loaded.config, loaded.config.train.seed
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    loaders = {split: Loader(dataset.splits[split], config.data) for split in ("train", "val")}
    check_batches(config, len(loaders["train"]))
    plan = build_plan(config, loaders["train"].batches_per_epoch(config.train.batch))
    train_batches = partial(
        loaders["train"].train_batches, batch=config.train.batch, seed=seed, epochs=plan.epochs
    )

    # Model.
    seed_everything(seed)
    directory, saved = options.resume, None
    if directory is None:
        model, origin = build_model(config.model, dataset.names)
    else:  # the checkpoint has the weights, so that files of pretrained ones are not needed again
        saved = read(directory / "checkpoints" / "last.pt")
        facts_of(saved, directory / "checkpoints" / "last.pt", ("names", "data_fingerprint", "wandb_id"))
        model, origin = rebuild(architecture_of(saved), len(dataset.names)), ""
        freeze(model, config.model.freeze)
    learner = build_learner(model, config.train)
    criterion = DetectionLoss(model, config.train, plan.epochs)
    recorder = GradientRecorder(model.trunk_points())

    # The run's directory: a new one, or one that goes on from its last checkpoint.
    label = loaded.name if dataset.name in ("coco8", loaded.name) else f"{loaded.name}-{dataset.name}"
    resume = None
    if directory is None:
        directory = new_directory(config, label)
        save(config, directory / "config.yaml")
    elif saved is not None:
        if saved["extra"]["data_fingerprint"] != dataset.fingerprint:
            raise UserError(f"{config.data.path}: the data changed since {directory} was trained on it")
        load_state(saved, learner)
        resume = learner.step, saved["extra"]["wandb_id"]
    tracker, wandb_id = watch(directory, config, label, dataset.name, plan.steps, resume)
    facts = {
        "config": config.model_dump(mode="json"),
        "names": list(dataset.names),
        "architecture": model.architecture(),
        "data_fingerprint": dataset.fingerprint,
        "wandb_id": wandb_id,
    }
    checkpoints = Checkpoints(directory / "checkpoints", facts)
    failed = FailureFile(directory, dataset, facts, learner.where, tracker.message)
    itemised = directory / "ledger.json"
    itemise = LedgerFile(Ledger(model.trunk_points()), itemised, plan.itemises)

    def evaluate_all(step: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for split in ("train", "val") if config.train.eval_train else ("val",):
            loader = loaders[split]
            result = evaluate(learner, loader.eval_batches(batch=config.train.batch), dataset.splits[split])
            metrics |= {f"{split}/{name}": value for name, value in result.metrics.items()}
            examples = prediction_images(dataset, split, result.predictions, config.tracking.images)
            tracker.predictions(step, examples)
        return metrics

    def report(row: dict[str, float]) -> None:
        step = int(row["step"])
        stepped = learner.step > step  # not after numbers that are not finite
        if evaluating := plan.evaluates(step) or not stepped:
            row |= evaluate_all(step)
        tracker.log(row)
        learner.seconds = earlier + time.perf_counter() - started
        if evaluating and stepped:
            checkpoints.save(learner, row)

    # Fit.
    exit_code = 0
    try:
        counts = ", ".join(f"{len(loader)} {split}" for split, loader in loaders.items())
        tracker.message(f"{label} on {dataset.name} ({counts} images), seed {seed}, {learner.where}")
        tracker.message(f"{measure(model, config.data.image_size)}; {plan.steps} steps, to {directory}")
        tracker.message("differs from the base in: " + ("; ".join(loaded.difference) or "nothing"))
        if origin:
            tracker.message(origin)
        for line in dataset.skipped:
            tracker.message(f"left out: {line}")
        if config.data.mixes and mixing_epochs(config.data, plan.epochs) == 0:
            shorter = f"it has no more than data.close_mosaic={config.data.close_mosaic} epochs"
            tracker.message(f"no mosaic or mixup in this run: {shorter}")
        if config.tracking.plots and learner.step == 0:
            tracker.first_batch(batch_images(next(train_batches(stop=1, workers=0)), dataset))
        earlier, started = learner.seconds, time.perf_counter()
        with StopRequest() as stop:
            batches = train_batches(
                start=learner.step * plan.accumulate,
                stop=plan.steps * plan.accumulate,
                pin=learner.device.type == "cuda",
            )
            outcome = train(
                learner, criterion, batches, plan, config.train, recorder, report, stop, itemise, failed
            )
        learner.seconds = earlier + time.perf_counter() - started
        if outcome.status == "stopped":
            exit_code = stop.exit_code
            checkpoints.save(learner)
            tracker.message(f"stopped; go on with: python train.py --resume {directory}")
        elif outcome.status == "diverged":
            exit_code = 0 if config.train.on_nonfinite == "record" else EXIT_DIVERGED
            if learner.skipped_in_a_row:
                tracker.message(
                    f"stopped: train.max_skipped={config.train.max_skipped} steps skipped in a row"
                )
        rows = read_history(directory / "history.jsonl")
        summary = summarise(loaded.name, seed, dataset, outcome, learner, plan, rows)
        summary |= explain(summary, rows, read_ledger(itemised), config, read_effects())
        tracker.finish(summary, checkpoints.best if checkpoints.best.exists() else None)
    finally:
        tracker.close(exit_code)
    return exit_code


def load_data(loaded: LoadedConfig, options: argparse.Namespace) -> tuple[Dataset, LoadedConfig]:
    """Read the dataset; where COCO8 cannot be had, say so and go on with the built-in shapes."""
    from detector.data.coco8 import DatasetUnavailable
    from detector.data.sources import load_dataset

    data = loaded.config.data
    try:
        return load_dataset(data.path, data.on_error, allow_outside=data.allow_outside), loaded
    except DatasetUnavailable as error:
        if data.fallback == "none":
            raise
        print(
            f"\n*** COCO8 IS NOT HERE. {error}\n"
            "*** Training on the built-in `shapes` set instead, under that name and with its own schedule.\n"
            "*** (data.fallback=none turns this into an error.)\n",
            file=sys.stderr,
        )
    data = (loaded := load_config(options.config, options.overrides, fallback=FALLBACK)).config.data
    return load_dataset(data.path, data.on_error, allow_outside=data.allow_outside), loaded


def new_directory(config: Config, label: str) -> Path:
    """Make `run.dir`, or a new folder in runs/; never one that holds a run, or files that look like one's."""
    time_of_day = time.strftime("%Y%m%d-%H%M%S")
    directory = Path(config.run.dir or f"runs/{label}-s{config.train.seed}-{time_of_day}")
    if os.path.lexists(directory / "history.jsonl"):
        raise UserError(f"run.dir={directory} holds a run already; --resume {directory} goes on with it")
    for name in ("config.yaml", "summary.json", "ledger.json", "checkpoints", "plots", "wandb"):
        if os.path.lexists(directory / name):
            raise UserError(
                f"run.dir={directory} holds {name} already, which the run would write; name another"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.dir={directory} cannot be made: {error.strerror}; name another") from error
    return directory


if __name__ == "__main__":
    sys.exit(main())
