"""The tables of `detector theory`, and the images to measure the detector's backbone on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from detector.analysis.theory import power_exponent
from detector.config.schema import DataConfig, ModelConfig, TrainConfig
from detector.data.batch import Batch
from detector.data.geometry import letterbox
from detector.data.loader import Loader
from detector.data.sources import load_dataset
from detector.models.loss import DetectionLoss
from detector.tools.theory.measure import HEADER, Check, check_backbone, check_plain, check_residual
from detector.tools.theory.published import check_published
from detector.training.engine import backward
from detector.training.state import TrainState

IMAGE_SIZE, IMAGES = 192, 4


def print_tables(source: str | None) -> list[Check]:
    """Print the tables, row by row as they are measured, and return the rows.

    `source`: the images to measure the detector's backbone on, see `images`; None leaves it out.
    """
    print(
        "Backward factor of a layer, ‖g(input)‖ / ‖g(output)‖, at initialisation. Fully connected networks of"
    )
    print("width 512, batch 512 and 30 layers; mean and standard deviation over 3 seeds.\n")
    checks = show(check_plain())
    print("\nThe same over a whole chain of residual blocks with batch norm: polynomial in depth.\n")
    checks += show(check_residual())
    print(
        "\nWhat else papers say of gradients at initialisation, in random networks as they describe them.\n"
    )
    checks += show(check_published())
    if source is not None:
        batches, classes = images(source)
        print(f"\nA layer of the detector's trunk (its P3 stage) on {source} images, ", end="")
        print(f"{IMAGE_SIZE} px, 3 seeds.\n")
        checks += show(check_backbone(ModelConfig(), lambda seed: one_pass(batches(seed)), classes))
    if missed := [check.what for check in checks if not check.holds]:
        print(f"\nFurther off than its tolerance (2 % of a layer's factor): {'; '.join(missed)}.")
    silu, relu = power_exponent("silu"), power_exponent("relu")
    print(
        "\nWhy SiLU + batch norm is off: the theory takes the activations of all inputs to be of one\n"
        f"size. If those of one input are 1 % larger in power, SiLU makes that {silu:.2f} % (ReLU "
        f"{relu:.2f} %).\nA batch norm rescales the batch as a whole and does not take it back, "
        "so over the layers a\nfew inputs outgrow the rest."
    )
    return checks


def show(checks: Iterable[Check]) -> list[Check]:
    """Print rows as they come, and return them."""
    print(HEADER)
    rows = []
    for check in checks:
        print(check, flush=True)
        rows.append(check)
    return rows


def images(source: str) -> tuple[Callable[[int], Batch], int]:
    """Seed -> a batch to measure on, and the number of classes."""
    if source == "random":
        return random_batch, 80
    config = DataConfig(path=f"datasets/{source}.yaml", image_size=IMAGE_SIZE, fallback="none")
    dataset = load_dataset(config.path)
    loader = Loader(dataset.splits["train"][: 8 * IMAGES], config)
    return lambda seed: next(iter(loader.train_batches(batch=IMAGES, seed=seed))), len(dataset.names)


def random_batch(seed: int) -> Batch:
    """Images of uniform noise with one centred object each."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE), generator=generator, dtype=torch.uint8)
    _, whole = letterbox(pixels[0].permute(1, 2, 0).numpy(), IMAGE_SIZE)
    box = torch.tensor([0.5, 0.5, 0.3, 0.3]).repeat(IMAGES, 1)
    every = torch.arange(IMAGES, dtype=torch.float32)
    return Batch(pixels, every, every, box, tuple(range(IMAGES)), (whole,) * IMAGES)


def one_pass(batch: Batch) -> Callable[[nn.Module], object]:
    """A forward and backward pass of the detection loss, as in training."""
    config = TrainConfig(device="cpu")

    def run(model: nn.Module) -> object:
        state = TrainState.create(model, config, torch.device("cpu"))  # type: ignore[arg-type]
        return backward(state, DetectionLoss(state.model, config), batch)

    return run
