"""Train a detector and watch every layer's gradient: one run, from a configuration to its summary.

    python train.py                                        # the baseline on COCO8
    python train.py --config ablations/no_residual.yaml    # with a component stripped
    python train.py --config … train.seed=1 train.lr=0.01  # any key of the configuration
    python train.py --resume runs/baseline-s0-…            # go on where a run stopped

This file only assembles: configuration → data → model → fit. Read it first; then detector/training/engine.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detector.config import Config
from detector.errors import UserError
from detector.loading import LoadedConfig, load_config, save

ROOT = Path(__file__).resolve().parent
BASELINE = ROOT / "configs" / "coco8.yaml"
FALLBACK = ROOT / "configs" / "shapes.yaml"  # what to train on where COCO8 cannot be had

EXIT_USER_ERROR, EXIT_DIVERGED = 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; return the exit code."""
    parser = argparse.ArgumentParser(description="Train a detector and watch every layer's gradient.")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--config", type=Path, default=BASELINE, metavar="FILE", help="default: configs/coco8.yaml")
    start.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with a run that was stopped")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="such as train.seed=1")
    options = parser.parse_args(arguments)
    try:
        if options.resume is None:
            return run(load_config(options.config, options.overrides), options)
        if options.overrides:
            raise UserError("--resume goes on with the run's own config.yaml: it takes no section.key=value")
        return run(load_config(options.resume / "config.yaml"), options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def run(loaded: LoadedConfig, options: argparse.Namespace) -> int:
    """Train one model as configured, and leave its run directory behind."""
    # Imported here, so that --help and a typo in a key answer at once.
    import torch

    from detector.data.loader import Loader
    from detector.gradients.diagnosis import diagnose
    from detector.gradients.recorder import GradientRecorder
    from detector.nn.describe import measure
    from detector.nn.detector import build_detector
    from detector.nn.loss import DetectionLoss
    from detector.training.checkpoint import Checkpoints, load_state, read
    from detector.training.engine import evaluate, train
    from detector.training.learner import build_learner, seed_everything
    from detector.training.plan import build_plan
    from detector.training.stop import StopRequest
    from detector.tracking.console import ConsoleTracker
    from detector.tracking.examples import prediction_images
    from detector.tracking.local import LocalTracker, read_history
    from detector.tracking.plot_tracker import PlotTracker
    from detector.tracking.provenance import provenance
    from detector.tracking.tracker import Trackers
    from detector.tracking.wandb_tracker import WandbTracker

    # Data.
    dataset, loaded = load_data(loaded, options)
    config = loaded.config
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    loaders = {split: Loader(dataset.splits[split], config.data) for split in ("train", "val")}
    plan = build_plan(config, loaders["train"].batches_per_epoch(config.train.batch))

    # Model.
    seed_everything(config.train.seed)
    model = build_detector(config.model, len(dataset.names))
    size = measure(model, config.data.image_size)
    learner = build_learner(model, config.train)
    criterion = DetectionLoss(model, config.train)
    recorder = GradientRecorder(model.trunk_points())

    # The run's directory; a resumed one goes on from its last checkpoint.
    directory = options.resume or new_directory(loaded, dataset.name)
    history_file = directory / "history.jsonl"
    saved = None
    if options.resume is not None:
        saved = read(directory / "checkpoints" / "last.pt")
        if saved["extra"]["data_fingerprint"] != dataset.fingerprint:
            raise UserError(f"{config.data.path}: the data changed since {directory} was trained on it")
        load_state(saved, learner)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        save(config, directory / "config.yaml")

    # Who watches.
    console = ConsoleTracker(plan.steps, start_step=learner.step)
    local = LocalTracker(directory, keep_before_step=learner.step if saved else None, report=console.message)
    wandb = WandbTracker(
        directory,
        config,
        ablation=loaded.name,
        dataset=dataset.name,
        resume_id=saved["extra"]["wandb_id"] if saved else None,
        history=read_history(history_file),
        report=console.message,
    )
    tracker = Trackers([local, console, wandb, *([PlotTracker(directory)] if config.tracking.plots else [])])
    facts = {
        "config": config.model_dump(mode="json"),
        "names": list(dataset.names),
        "data_fingerprint": dataset.fingerprint,
        "wandb_id": wandb.id,
    }
    checkpoints = Checkpoints(directory / "checkpoints", facts)

    # Fit.
    for line in (
        f"{loaded.name} on {dataset.name} ({len(loaders['train'])} train, {len(loaders['val'])} val images), "
        f"seed {config.train.seed}, {learner.device}, to {directory}",
        f"{size}; {plan.steps} steps",
        "differs from the base in: " + ("; ".join(loaded.difference) or "nothing"),
        *dataset.skipped,
    ):
        tracker.message(line)

    def evaluate_all(step: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for split, loader in loaders.items():
            result = evaluate(learner, loader.eval_batches(batch=config.train.batch), dataset.splits[split])
            metrics |= {f"{split}/{name}": value for name, value in result.metrics.items()}
            shown = prediction_images(dataset, split, result.predictions, config.tracking.images)
            tracker.predictions(step, shown)
        return metrics

    def report(row: dict[str, float]) -> None:
        evaluating = learner.step > row["step"] and plan.evaluates(int(row["step"]))
        if evaluating:
            row |= evaluate_all(int(row["step"]))
        tracker.log(row)
        learner.seconds = earlier + time.perf_counter() - started
        if evaluating:
            checkpoints.save(learner, row)

    exit_code = 0
    try:
        with StopRequest() as stop:
            batches = loaders["train"].train_batches(
                batch=config.train.batch,
                seed=config.train.seed,
                start=learner.step * plan.accumulate,
                stop=plan.steps * plan.accumulate,
                pin=learner.device.type == "cuda",
            )
            earlier, started = learner.seconds, time.perf_counter()
            outcome = train(learner, criterion, batches, plan, config.train, recorder, report, stop)
            learner.seconds = earlier + time.perf_counter() - started
        exit_code = stop.exit_code
        if outcome.status == "stopped":
            checkpoints.save(learner)
            tracker.message(f"stopped; go on with: python train.py --resume {directory}")
        if outcome.status == "diverged":
            exit_code = 0 if config.train.on_nonfinite == "record" else EXIT_DIVERGED
            tracker.message(f"the numbers stopped being finite at step {learner.step}, first in: {outcome.bad_layer}")

        # The summary.
        rows = read_history(history_file)
        final = evaluate_all(learner.step) if outcome.status == "diverged" else {}
        tracker.finish(
            {
                "ablation": loaded.name,
                "seed": config.train.seed,
                "dataset": dataset.name,
                "status": outcome.status,
                "steps": learner.step,
                "epochs": learner.step * plan.accumulate / plan.batches_per_epoch,
                "seconds": learner.seconds,
                **last_values(rows, final),
                **diagnose(rows, plan.steps, diverged=outcome.status == "diverged"),
                "gradient/first_bad_layer": outcome.bad_layer,
                "parameters": size.parameters,
                "data_fingerprint": dataset.fingerprint,
                **provenance(str(learner.device)),
            },
            checkpoints.best if checkpoints.best.exists() else None,
        )
    finally:
        tracker.close(exit_code)
    return exit_code


def load_data(loaded: LoadedConfig, options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Read the dataset; where COCO8 cannot be had, say so and go on with the built-in shapes."""
    from detector.data.coco8 import DatasetUnavailable
    from detector.data.sources import load_dataset

    config = loaded.config
    try:
        return load_dataset(config.data.path, config.data.on_error), loaded
    except DatasetUnavailable as error:
        if config.data.fallback == "none":
            raise
        print(
            f"\n*** COCO8 IS NOT HERE: {error}\n"
            "*** Training on the built-in `shapes` set instead, under that name, with its own schedule.\n"
            "*** data.fallback=none turns this into an error.\n",
            file=sys.stderr,
        )
        loaded = load_config(options.config, options.overrides, fallback=FALLBACK)
        return load_dataset(loaded.config.data.path, loaded.config.data.on_error), loaded


def new_directory(loaded: LoadedConfig, dataset: str) -> Path:
    """`run.dir`, or a new folder in runs/; never one that holds a run already."""
    config: Config = loaded.config
    if config.run.dir is not None:
        directory = Path(config.run.dir)
        if (directory / "history.jsonl").exists():
            raise UserError(f"run.dir={directory} holds a run already; --resume {directory} goes on with it")
        return directory
    fallen_back = "" if dataset in config.data.path and dataset == "coco8" else f"-{dataset}"
    return Path("runs") / f"{loaded.name}{fallen_back}-s{config.train.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def last_values(rows: list[dict[str, float]], final: dict[str, float]) -> dict[str, float | None]:
    """The last known value of the summary's metrics; null where there was none."""
    keys = "train/mAP50-95", "train/mAP50", "val/mAP50-95", "val/mAP50", "train/loss"
    values: dict[str, float | None] = dict.fromkeys(keys)
    for row in [*rows, final]:
        values |= {key: row[key] for key in keys if key in row}
    return values


if __name__ == "__main__":
    sys.exit(main())
