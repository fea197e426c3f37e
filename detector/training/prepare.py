"""Before a run: its data, its model, and what it resumes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from detector.config.experiment import edited
from detector.config.loading import LoadedConfig, load_config
from detector.config.schema import Config, TrainConfig
from detector.data.augment_ultralytics import mixing_epochs
from detector.data.batch import Batch
from detector.data.coco8 import DatasetUnavailable
from detector.data.dataset import Dataset, File, no_track
from detector.data.loader import Loader
from detector.data.problems import said
from detector.data.samples import fit_in_memory
from detector.data.sources import check_command, load_configured
from detector.errors import UserError, say
from detector.models.base import DetectionModel, freeze
from detector.models.build import architecture_of, build_model, check_finite, facts_of, rebuild
from detector.rundir import RunDir
from detector.runtime.checkpoint_check import CheckpointState
from detector.runtime.device import choose_device
from detector.runtime.distributed import SingleProcess
from detector.runtime.files import PROJECT, TRAIN
from detector.runtime.lock import FolderLock
from detector.runtime.progress import track_reading
from detector.runtime.random_state import seed_everything
from detector.training.auto_batch import with_batch
from detector.training.optimizer import learning_rate
from detector.training.schedule import Schedule, check_batches
from detector.training.state import TrainState

ALMOST = 0.9  # of the learning rate: a peak below it is worth a word
MANY = 2000  # images: reading them takes so long that one wants to see how far it is
FALLBACK = PROJECT / "configs" / "shapes.yaml"  # where COCO8 is not available


def load_data(loaded: LoadedConfig, dist: SingleProcess) -> tuple[Dataset, dict[str, Loader], LoadedConfig]:
    """Read and check the dataset; where COCO8 is not available, say so and take the built-in shapes.

    Returns:
        The dataset, a loader of each split, and the configuration that trains on it.

    Raises:
        UserError: the data is missing or broken.
    """
    with dist.main_process_first():
        dataset, loaded = _read_dataset(loaded, dist.is_main_process)
    loaded = with_batch(loaded, dataset, dist)
    config = loaded.config
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    data, copies = config.data, dist.local_world_size
    images = len(dataset.splits["train"]) + len(dataset.splits["val"])
    if data.cache is True and not fit_in_memory(images, data, copies):
        # Reading all of a large val would only hold the first step up.
        data = data.model_copy(update={"cache": False})
    with dist.raise_together():
        loaders = {
            split: Loader(dataset.splits[split], own, dist.shard, copies)
            for split, own in (("train", config.data), ("val", data))
        }
    check_batches(config, len(loaders["train"]), dist.world_size)
    return dataset, loaders, loaded


def _read_dataset(loaded: LoadedConfig, announce: bool) -> tuple[Dataset, LoadedConfig]:
    data, seed = loaded.config.data, loaded.config.train.seed
    try:
        return load_configured(data, seed, _track_if_many if announce else no_track), loaded
    except DatasetUnavailable as error:
        if data.fallback == "none":
            raise
        banner = (
            f"\n*** COCO8 IS NOT HERE. {error}\n"
            "*** Training on the built-in `shapes` set instead, under that name and with its own schedule, "
            "of some minutes.\n"
            "*** (data.fallback=none turns this into an error.)\n"
        )
    if announce:
        say(banner)
    loaded = load_config(loaded.path, loaded.overrides, fallback=FALLBACK)
    return load_configured(loaded.config.data, seed), loaded


def _track_if_many(files: Iterable[File], total: int) -> Iterable[File]:
    return track_reading(files, total) if total >= MANY else files


def training_batches(
    loader: Loader, config: Config, schedule: Schedule, state: TrainState
) -> Iterator[Batch]:
    """The batches of the steps that are left."""
    return loader.train_batches(
        batch=config.train.batch,
        seed=config.train.seed,
        start=state.step * schedule.accumulate,
        stop=schedule.steps * schedule.accumulate,
        pin=state.device.type == "cuda",
        epochs=schedule.epochs,
    )


def build_state(
    config: Config, dataset: Dataset, resume: Path | None, dist: SingleProcess, lock: FolderLock
) -> tuple[TrainState, CheckpointState | None, str]:
    """Build the model and what trains it: new, from pretrained weights, or as a run's checkpoint says.

    Returns:
        The state, not yet that of the checkpoint; the checkpoint of `resume`, if there is one; and what was
        kept of pretrained weights, to be printed.

    Raises:
        UserError: a file is missing or broken, the device is not there, or the run is still running.
    """
    saved = None
    if resume is not None:
        with dist.raise_together():
            saved = read_checkpoint(RunDir(resume), lock) if dist.is_main_process else None
        saved = dist.broadcast_object(saved)
        check_same_experiment(saved, config, dataset, RunDir(resume))
    seed_everything(config.train.seed)
    if saved is None:
        with dist.main_process_first():
            model, weights_note = build_model(config.model, dataset.names)
    else:  # the checkpoint has the weights, so that files of pretrained ones are not needed again
        model, weights_note = rebuild(architecture_of(saved), len(dataset.names), saved["model"]), ""
        freeze(model, config.model.freeze)
    with dist.raise_together():
        device = choose_device(dist.device_name(config.train.device))
    state = distribute(model, config.train, device, dist)
    dist.check_alike(conditions(config, dataset, state))
    return state, saved, weights_note


def distribute(
    model: DetectionModel, config: TrainConfig, device: torch.device, dist: SingleProcess
) -> TrainState:
    """Place a model on each process's device, the same on all of them, and give it an optimizer."""
    frozen = config.freeze_norms
    unsynced = dist.prepare_model(model.to(device), sync_norms=config.sync_norms and not frozen)
    state = TrainState.create(model, config, device)
    state.unsynced_norm_stats = [] if frozen else unsynced
    return state


def read_checkpoint(run: RunDir, lock: FolderLock) -> CheckpointState:
    """What a run resumes from; its directory is locked first, so that it stays the newest.

    Raises:
        UserError: it is missing, damaged, not one of a run, or not finite; or the run is still running.
    """
    if run.path.is_dir():
        lock.acquire(run.path)
    saved = run.read_checkpoint("last")
    facts_of(saved, run.last, ("names", "data_fingerprint", "wandb_id"))
    for weights in (saved["model"], saved.get("ema") or {}):
        check_finite(weights, run.last)
    return saved


def check_same_experiment(
    saved: CheckpointState | None, config: Config, dataset: Dataset, run: RunDir
) -> None:
    """Refuse to go on with another configuration, or with other pixels in images of the same size.

    Raises:
        UserError: something of the two was changed since the checkpoint.
    """
    facts = saved["extra"] if saved is not None else {}
    if changed := edited(facts.get("config", {}), config):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{run.config_file}: was changed since the run began: {changed[0]}{more}; change it back, or "
            f"begin another run: {TRAIN} --config {run.config_file} run.dir=ANOTHER"
        )
    if dataset.pixels and facts.get("pixel_fingerprint", dataset.pixels) not in (dataset.pixels, ""):
        raise UserError(f"{config.data.path}: the images changed since {run} was trained on them")


def conditions(config: Config, dataset: Dataset, state: TrainState) -> dict[str, object]:
    """What must be the same on all processes of a run."""
    where = f"{state.device.type} in {state.precision_name}"
    sections = config.model_dump(mode="json", exclude={"run"})
    keys = {f"{section}.{key}": value for section, own in sections.items() for key, value in own.items()}
    data = {"the data itself (its fingerprint)": dataset.fingerprint, "its images": dataset.pixels}
    return keys | {"device": where} | data


def memory_advice(config: Config) -> str:
    """What to do when memory runs out.

    Half a batch twice would need less, but it is another experiment: batch norm would see half as many
    images. So the batch stays what the user wrote, and the choice is theirs.
    """
    workers = ", data.workers" if config.data.workers else ""
    return (
        f"lower train.batch={config.train.batch}, data.image_size={config.data.image_size}{workers} or the "
        f"model's widths in a new run (train.accumulate makes up for a smaller batch), or free memory"
    )


def notes(config: Config, dataset: Dataset, schedule: Schedule) -> list[str]:
    """What a person should know of a run before it starts."""
    images = sum(map(len, dataset.splits.values()))
    lines = said(dataset.notes, check_command(config.data, config.train.seed), images)
    if config.data.mixes and mixing_epochs(config.data, schedule.epochs) == 0:
        shorter = f"it has no more than data.close_mosaic={config.data.close_mosaic} epochs"
        lines.append(f"no mosaic or mixup in this run: {shorter}")
    return lines + _short_run(config.train, schedule.steps)


def _short_run(train: TrainConfig, steps: int) -> list[str]:
    """What a run has too few steps for."""
    lines = []
    rising = min(steps, train.warmup_steps + 1)
    some = [*range(0, rising, max(1, rising // 1000)), rising - 1]
    peak = max(learning_rate(step, steps, train) for step in some)
    if peak < ALMOST * train.lr:
        lines.append(
            f"the learning rate rises to {peak:.2g} only, not to train.lr={train.lr:g}: "
            f"train.warmup_steps={train.warmup_steps} is long for {steps} steps; try {steps // 10}"
        )
    if train.eval_every is not None and train.eval_every > steps:
        lines.append(
            f"evaluated once, at the end: train.eval_every={train.eval_every} is more than {steps} steps"
        )
    return lines
