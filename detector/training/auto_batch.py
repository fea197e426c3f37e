"""The largest batch that a GPU's memory holds, found by trying: only where `train.auto_batch` asks for it.

The number that is found takes the place of `train.batch` before anything else uses it, so that it is in
config.yaml and in every checkpoint, and a resumed or repeated run does not look again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from detector.config.loading import LoadedConfig, difference
from detector.config.schema import Config
from detector.data.batch import Batch
from detector.data.dataset import Dataset
from detector.errors import UserError, say
from detector.models.build import build_model
from detector.models.loss import DetectionLoss
from detector.runtime.device import choose_device
from detector.runtime.distributed import SingleProcess
from detector.training.engine import backward
from detector.training.state import TrainState

SHARE = 0.7  # of the free memory: the rest is for what is recorded, for evaluation and for other programs
MOST = 65536  # images, as many as train.batch accepts
Fits = Callable[[int], bool]  # does a step of so many images?


def with_batch(
    loaded: LoadedConfig,
    dataset: Dataset,
    dist: SingleProcess,
    trial: Callable[[Config, Dataset], Fits] | None = None,
) -> LoadedConfig:
    """The configuration with the batch that was found, and said; as it is where none is to be found.

    Args:
        loaded: what to train.
        dataset: what on: a batch is never larger than its training images.
        dist: the processes of the run, of which there must be one.
        trial: makes the question whether a batch fits; by default a step of it is tried on the GPU.

    Raises:
        UserError: there is no GPU, there are several processes, or not even one image fits.
    """
    config = loaded.config
    if not config.train.auto_batch:
        return loaded
    if dist.world_size > 1:
        raise UserError("train.auto_batch: is for one process; write train.batch, of all processes together")
    fits = (trial or GpuTrial)(config, dataset)
    batch = largest(fits, min(len(dataset.splits["train"]), MOST))
    if not batch:
        size = config.data.image_size
        raise UserError(f"train.auto_batch: not even one image of {size} px fits into the GPU's free memory")
    say(
        f"train.auto_batch: train.batch={batch} is the most of this data that fits into {SHARE:.0%} of the "
        f"GPU's free memory; train.lr={config.train.lr:g} stays as it is"
    )
    train = config.train.model_copy(update={"batch": batch, "auto_batch": False})
    config = config.model_copy(update={"train": train})
    return replace(loaded, config=config, difference=difference(loaded.base, config))


def largest(fits: Fits, most: int) -> int:
    """The largest number up to `most` that fits, or a sixteenth less; 0 if not even 1 does.

    By doubling, then halving the gap: what fits must do so with every smaller number too.
    """
    good, bad = 0, 1
    while fits(bad):
        good, bad = bad, min(2 * bad, most)
        if good == most:
            return most
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


class GpuTrial:
    """Whether a step of so many images stays within its share of the free memory of a GPU."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        """Build the network that is to be trained. Raises UserError without a GPU."""
        device = choose_device(config.train.device)
        if device.type != "cuda":
            raise UserError(
                f"train.auto_batch: fills the memory of a GPU, and this run is on {device.type}; leave it "
                f"out, and train.batch={config.train.batch} counts"
            )
        free, _ = torch.cuda.mem_get_info(device)
        self.limit = SHARE * free
        model, _ = build_model(config.model, dataset.names)
        self.state = TrainState.create(model, config.train, device)
        self.loss = DetectionLoss(model, config.train)
        self.size = config.data.image_size
        crowd = max(len(item.boxes) for item in dataset.splits["train"])
        # A mosaic shows four images' objects, and mixup those of two.
        self.objects = max(1, crowd) * (4 if config.data.mosaic else 1) * (2 if config.data.mixup else 1)
        # The optimizer, which has not stepped yet, keeps up to two numbers a weight.
        self.later = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)

    def __call__(self, batch: int) -> bool:
        """Try it."""
        device = self.state.device
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            one_pass(self.state, self.loss, noise(batch, self.size, self.objects))
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved(device) + self.later <= self.limit


def one_pass(state: TrainState, loss: DetectionLoss, batch: Batch) -> None:
    """Forward and backward, as in training; no weight changes."""
    state.train_mode()
    state.optimizer.zero_grad(set_to_none=True)
    backward(state, loss, batch)


def noise(images: int, size: int, objects: int) -> Batch:
    """So many images of noise, each with as many objects: what the loss needs goes by the fullest image."""
    total = images * objects
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, size, size, 3), generator=generator, dtype=torch.uint8)
    return Batch(
        images=pixels.permute(0, 3, 1, 2),
        batch_idx=torch.arange(images).repeat_interleave(objects).float(),
        cls=torch.zeros(total),
        boxes=torch.full((total, 4), 0.5),
        indices=(0,) * images,
        letterboxes=(),
    )
