"""`detector val`: a checkpoint and a split in, numbers and pictures out."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detector.errors import UserError

if TYPE_CHECKING:
    from detector.tools.val.evaluation import Report


def val(
    checkpoint: Path,
    /,
    *,
    data: str | None = None,
    before: Path | None = None,
    split: Literal["train", "val", "test"] = "val",
    image_size: int | None = None,
    batch: int = 16,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
    fast: bool = False,
    on_error: Literal["raise", "skip"] | None = None,
    allow_outside: bool = False,
    out: Path | None = None,
    json: bool = False,
    wandb: bool = False,
    plugin: tuple[Path, ...] = (),
) -> Report:
    """Evaluate a checkpoint on a split: mAP and its reasons.

    The checkpoint is of this project or of ultralytics; the metrics are COCO's official ones.

    Args:
        checkpoint: best.pt, or a run's directory.
        data: the data YAML; default: what the checkpoint was trained on.
        before: the checkpoint that it was trained on from: what was forgotten, class by class.
        split: of the data.
        image_size: pixels; default: as it was trained.
        batch: images a forward pass.
        device: auto, cpu, cuda or cuda:N.
        precision: auto: bf16 where the hardware has it, else fp32.
        fast: leave padding out and fold norms; scores differ a little.
        on_error: a bad label line or image: stop, or leave it out; default: as it was trained, else stop.
        allow_outside: lists may name images elsewhere.
        out: a new folder; default: runs/val-<run>-<time>.
        json: print one JSON document instead of tables.
        wandb: record it on W&B; offline without a key.
        plugin: the Python file of the network's own parts, if it has any; may be repeated.

    Returns:
        Metrics, curves, classes and errors.

    Raises:
        UserError: the checkpoint or the data is missing or broken, or they do not belong together.
    """
    import orjson
    import torch
    from rich.console import Console

    from detector.config.schema import Config, DataConfig
    from detector.data.loader import Loader
    from detector.data.own import read_registered
    from detector.data.sources import load_dataset, locate, options_of
    from detector.loggers.images import save_grid
    from detector.models.build import load_model
    from detector.models.fold import fold_norms
    from detector.registry import load_plugins
    from detector.rundir.finding import checkpoint_at, run_name
    from detector.runtime.allocator import keep_freed_memory
    from detector.runtime.device import choose_device, choose_precision
    from detector.runtime.files import new_folder
    from detector.runtime.progress import progress_bar
    from detector.tools.val import forgetting, network
    from detector.tools.val.evaluation import report
    from detector.tools.val.files import WORST, Setting, document, print_report, write_files
    from detector.tools.val.plots import write_evaluation_plots
    from detector.training.evaluation import predict_split
    from detector.training.provenance import provenance

    started = time.perf_counter()
    keep_freed_memory()
    load_plugins(plugin)
    checkpoint = checkpoint_at(checkpoint)
    name = run_name(checkpoint)
    loaded = load_model(checkpoint)
    config = network.config(loaded, checkpoint)
    size = network.image_size(image_size, loaded)
    if batch < 1:
        raise UserError(f"--batch {batch}: must be at least 1")
    chosen = choose_device(device, "--device ")
    data = data or (config.data.path if config else None)
    if not data:
        raise UserError(f"{checkpoint} does not say what it was trained on: name the data with --data")
    on_error = on_error or (config.data.on_error if config else "raise")
    as_trained = config or Config()
    how = options_of(as_trained.data, as_trained.train.seed)
    how["allow_outside"] |= allow_outside
    if data != as_trained.data.path:
        how["val_fraction"] = 0.0  # other data has its own splits
    own = as_trained.data.format != "yolo" and data == as_trained.data.path
    if own:
        dataset = read_registered(as_trained.data)
    else:
        dataset = load_dataset(data, on_error, splits=(split,), **how)
    if split not in dataset.splits:
        raise UserError(f"--split {split}: {data} has none; it has {', '.join(dataset.splits)}")
    earlier = None if before is None else load_model(checkpoint_at(before))
    columns = network.class_columns(
        loaded.names, dataset.names, str(checkpoint), data, also=earlier.names if earlier else ()
    )
    directory = new_folder(out, f"runs/val-{name}", "--out")

    clock = network.Stopwatch(chosen)
    used = choose_precision(precision, chosen)
    # Folded norms change nothing but the last digits in fp32; in bf16 they would change scores.
    folded = fold_norms(loaded.model) if fast or used == "fp32" else loaded.model
    forward = network.forward(folded, chosen, used)
    items = dataset.splits[split]
    loader = Loader(items, DataConfig(image_size=size))
    batches = loader.eval_batches(batch=batch, pin=chosen.type == "cuda")
    with progress_bar() as bar:
        shown = bar.track(batches, total=loader.batches_per_epoch(batch), description="evaluating")
        truths, predictions = predict_split(
            forward, loaded.model, shown, items, columns=columns, trim=fast, lap=clock.lap
        )
    result = report(truths, predictions, dataset.names)
    kept: list[forgetting.Change] = []
    if earlier is not None:
        old = network.class_columns(earlier.names, dataset.names, str(before), data, also=loaded.names)
        first = network.forward(earlier.model, chosen, used)
        then = predict_split(first, earlier.model, loader.eval_batches(batch=batch), items, columns=old)
        known = {*earlier.names}, {*loaded.names}
        kept = forgetting.changes(report(*then, dataset.names), result, *known)

    setting = Setting(
        checkpoint=checkpoint,
        name=name,
        step=loaded.step,
        data=Path(data).absolute() if own else locate(data),
        dataset=dataset.name,
        split=split,
        files=tuple(item.image.name for item in items),
        image_size=size,
        batch=batch,
        precision=used,
        fast=fast,
        device=network.in_words(chosen),
        threads=torch.get_num_threads(),
        seconds=clock.seconds | {"total": time.perf_counter() - started},
    )
    notes = [f"left out: {line}" for line in dataset.skipped]
    notes += [str(note) for note in dataset.notes if note.severity == "repair"]
    if extra := len(loaded.names) - len(dataset.names):
        notes.append(f"{extra} of the model's classes are not in the data and do not count")
    content = document(result, setting, notes, provenance()) | {"out": str(directory)}
    if before is not None:
        content["forgetting"] = forgetting.document(kept, str(before))
    worst = network.worst_images(dataset, split, result, predictions)
    try:
        write_files(directory, content, result, setting, truths, predictions)
        plots = write_evaluation_plots(result, setting.title, directory)
        save_grid(worst, directory / "worst.png", WORST)  # no file where there is no mistake
    except OSError as error:
        raise UserError(f"--out {directory}: cannot be written: {error.strerror or error}") from error
    for note in notes:
        print(note, file=sys.stderr)
    if json:
        sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        print_report(result, setting, Console())
        if before is not None:
            forgetting.print_changes(kept, str(before), Console())
        print(f"Files: {directory}")
    if wandb:
        from detector.tools.val.wandb_report import log_evaluation

        group = (config and config.run.name) or name
        log_evaluation(directory, as_trained, group, dataset.name, content, plots, worst)
    return result
