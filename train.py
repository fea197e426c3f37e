"""Train a detector and watch every layer's gradient: one run, from a configuration to its summary.

    python train.py                                        # the baseline on COCO8
    python train.py --config ablations/no_residual.yaml    # with a component stripped
    python train.py --config … train.seed=1 train.lr=0.01  # any key of the configuration
    python train.py --ablation no_residual --seed 1        # short for the two above; W&B sweeps call it so
    python train.py --resume runs/baseline-s0-…            # go on where a run stopped
    torchrun --nproc-per-node 2 train.py                   # the same run on two processes or GPUs

This file only assembles: configuration → data → model → fit. Read it first; then detector/training/engine.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from detector.config.loading import LoadedConfig, load_config
from detector.errors import BrokenOffError, UserError, for_terminal, say
from detector.runtime import streams
from detector.runtime.launch import Launch, LostContactError

if TYPE_CHECKING:
    from detector.runtime.ranks import Ranks

ROOT = Path(__file__).resolve().parent
BASELINE = ROOT / "configs" / "coco8.yaml"
FALLBACK = ROOT / "configs" / "shapes.yaml"  # what to train on where COCO8 cannot be had

SECONDS_BETWEEN_PICTURES = 10  # of predictions: to make them for W&B takes as long as some training steps

EXIT_LOST_CONTACT, EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_BROKEN_OFF, EXIT_INTERRUPTED = 1, 2, 3, 4, 130


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
    launch = Launch.from_environment()
    if (ended := launch.noted("end")) is not None:
        return int(ended)  # torchrun starts failed processes again, but this run ended as it should
    try:
        exit_code = begin(options, launch)
    except UserError as error:
        launch.say(f"error: {for_terminal(error)}")
        exit_code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        # Before the first step or after the last; in between the engine is asked to stop.
        launch.say("interrupted")
        exit_code = EXIT_INTERRUPTED
    except BrokenOffError as error:
        launch.say(f"error: {for_terminal(error)}")
        return EXIT_BROKEN_OFF  # no end to be noted: torchrun may try again
    except LostContactError as error:
        say(f"error: process {launch.rank} lost contact with the others: {for_terminal(error)}")
        return EXIT_LOST_CONTACT
    launch.note("end", str(exit_code))
    return exit_code


def begin(options: argparse.Namespace, launch: Launch) -> int:
    """Read the configuration, meet the other processes if there are any, and run."""
    if options.resume is None:
        loaded = load_config(options.config, options.overrides)
    elif options.overrides:
        raise UserError("--resume goes on with the run's own config.yaml: it takes no key=value or --seed")
    else:
        loaded = load_config(options.resume / "config.yaml")
    from detector.runtime.distributed import join
    from detector.runtime.failures import in_plain_words

    with join(launch, loaded.config.train.timeout) as ranks, in_plain_words(loaded.config):
        if options.resume is None and (directory := ranks.from_first(launch.noted("directory"))) is not None:
            options.resume = Path(directory)  # started again by torchrun, after a process was lost
        return run(loaded, options, launch, ranks)


def run(loaded: LoadedConfig, options: argparse.Namespace, launch: Launch, ranks: Ranks) -> int:
    """Train one model as configured, and leave its run directory behind."""
    # Imported here, so that --help and a typo in a key answer at once.
    import torch

    from detector.analysis.evidence import read_effects
    from detector.analysis.explain import explain
    from detector.data.augment_ultralytics import mixing_epochs
    from detector.data.loader import Loader
    from detector.gradients.entries import read_ledger
    from detector.gradients.ledger import Ledger, LedgerFile
    from detector.gradients.recorder import GradientRecorder
    from detector.loggers.build import watch
    from detector.loggers.jsonl import read_history
    from detector.loggers.throttle import Pace
    from detector.models.base import freeze
    from detector.models.build import architecture_of, build_model, rebuild
    from detector.models.loss import DetectionLoss
    from detector.models.size import measure
    from detector.runtime.allocator import give_freed_memory_back, keep_freed_memory
    from detector.runtime.distributed import check_alike
    from detector.runtime.failures import resumable
    from detector.runtime.random_state import random_state_kept
    from detector.runtime.signals import StopRequest
    from detector.training.checkpoints import Checkpoints, load_state
    from detector.training.engine import evaluate, train
    from detector.training.examples import batch_images, prediction_images
    from detector.training.nonfinite_guard import FailureFile
    from detector.training.prepare import conditions, load_data, new_directory, read_run
    from detector.training.schedule import build_plan, check_batches
    from detector.training.state import build_learner, seed_everything
    from detector.training.summary import summarise

    keep_freed_memory()

    # Data.
    dataset, loaded = ranks.in_turn(
        lambda: load_data(
            loaded, lambda: load_config(options.config, options.overrides, fallback=FALLBACK), ranks
        )
    )
    config, seed = loaded.config, loaded.config.train.seed
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    loaders = ranks.agree(
        lambda: {split: Loader(dataset.splits[split], config.data, ranks) for split in ("train", "val")}
    )
    check_batches(config, len(loaders["train"]), ranks.world)
    plan = build_plan(config, loaders["train"].batches_per_epoch(config.train.batch))
    train_batches = partial(
        loaders["train"].train_batches, batch=config.train.batch, seed=seed, epochs=plan.epochs
    )

    # Model.
    seed_everything(seed)
    directory, saved = options.resume, None
    if directory is None:
        model, origin = ranks.in_turn(lambda: build_model(config.model, dataset.names))
    else:  # the checkpoint has the weights, so that files of pretrained ones are not needed again
        saved = read_run(directory / "checkpoints" / "last.pt", ranks)
        model, origin = rebuild(architecture_of(saved), len(dataset.names)), ""
        freeze(model, config.model.freeze)
    learner = build_learner(model, config.train, ranks)
    check_alike(ranks, conditions(config, dataset, learner))
    criterion = DetectionLoss(model, config.train, plan.epochs, ranks)
    recorder = GradientRecorder(model.trunk_points(), ranks)

    # The run's directory: a new one, or one that goes on from its last checkpoint.
    label = loaded.name if dataset.name in ("coco8", loaded.name) else f"{loaded.name}-{dataset.name}"
    resume = None
    if directory is None:
        directory = ranks.from_first(ranks.agree(lambda: new_directory(config, label, ranks)))
    elif saved is not None:
        if saved["extra"]["data_fingerprint"] != dataset.fingerprint:
            raise UserError(f"{config.data.path}: the data changed since {directory} was trained on it")
        load_state(saved, learner)
        resume = learner.step, saved["extra"]["wandb_id"]
    with random_state_kept(learner.device):
        tracker, wandb_id = ranks.agree(
            lambda: watch(directory, config, label, dataset.name, plan.steps, resume, ranks)
        )
    facts = {
        "config": config.model_dump(mode="json"),
        "names": list(dataset.names),
        "architecture": model.architecture(),
        "data_fingerprint": dataset.fingerprint,
        "wandb_id": wandb_id,
    }
    checkpoints = Checkpoints(directory / "checkpoints", facts, ranks)
    if resume is None:
        checkpoints.save(learner)  # whatever happens from here on, there is something to go on from
        launch.note("directory", str(directory.resolve()))  # for torchrun's next processes, if one is lost
    go_on = f"{launch.program} train.py --resume {directory}"
    failed = FailureFile(directory, dataset, facts, learner.where, tracker.message, ranks)
    itemised = directory / "ledger.json"
    itemise = LedgerFile(Ledger(model.trunk_points(), ranks), itemised, plan.itemises)

    pictures = Pace(SECONDS_BETWEEN_PICTURES)

    def evaluate_all(step: int, last: bool) -> dict[str, float]:
        metrics: dict[str, float] = {}
        draw = ranks.first and pictures.due(anyway=last)
        for split in ("train", "val") if config.train.eval_train else ("val",):
            loader = loaders[split]
            result = evaluate(learner, loader.eval_batches(batch=config.train.batch), dataset.splits[split])
            metrics |= {f"{split}/{name}": value for name, value in result.metrics.items()}
            if draw:
                examples = prediction_images(dataset, split, result.predictions, config.tracking.images)
                tracker.predictions(step, examples)
        return metrics

    def report(row: dict[str, float]) -> None:
        step = int(row["step"])
        stepped = learner.step > step  # not after numbers that are not finite
        if evaluating := plan.evaluates(step) or not stepped:
            row |= evaluate_all(step, last=not stepped or learner.step == plan.steps)
        tracker.log(row)
        learner.seconds = earlier + time.perf_counter() - started
        if evaluating and stepped:
            (checkpoints.save if learner.step == plan.steps else checkpoints.offer)(learner, row)

    # Fit.
    exit_code = EXIT_BROKEN_OFF  # unless the end is reached
    with (
        resumable(config, checkpoints.last, partial(checkpoints.save, learner), go_on),
        ExitStack() as at_end,
    ):
        at_end.callback(lambda: tracker.close(exit_code))
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
            with random_state_kept(learner.device):
                first = ranks.agree(lambda: batch_images(next(train_batches(stop=1, workers=0)), dataset))
                tracker.first_batch(list(chain.from_iterable(ranks.collect(first))))
        earlier, started = learner.seconds, time.perf_counter()
        with StopRequest(ranks.largest) as stop:
            batches = train_batches(
                start=learner.step * plan.accumulate,
                stop=plan.steps * plan.accumulate,
                pin=learner.device.type == "cuda",
            )
            outcome = train(
                learner, criterion, batches, plan, config.train, recorder, report, stop, itemise, failed
            )
        learner.seconds = earlier + time.perf_counter() - started
        give_freed_memory_back()
        ended = 0
        if outcome.status == "stopped":
            ended = stop.exit_code
            checkpoints.save(learner)
            tracker.message(f"stopped; go on with: {go_on}")
        elif outcome.status == "diverged":
            checkpoints.save_best()
            ended = 0 if config.train.on_nonfinite == "record" else EXIT_DIVERGED
            if learner.skipped_in_a_row:
                tracker.message(
                    f"stopped: train.max_skipped={config.train.max_skipped} steps skipped in a row"
                )
        if ranks.first:
            rows = read_history(directory / "history.jsonl")
            summary = summarise(loaded.name, seed, dataset, outcome, learner, plan, rows)
            summary |= explain(summary, rows, read_ledger(itemised), config, read_effects())
            tracker.finish(summary, checkpoints.best if checkpoints.best.exists() else None)
        exit_code = ended
    return exit_code


if __name__ == "__main__":
    streams.open_missing()
    code = main()
    streams.flush()
    sys.exit(code)
