"""The configuration: a typed schema, and nothing that guesses.

Every key an experiment may set is a field below, with its default and its range. An unknown key,
a wrong type or a value out of range is an error that names the file and the key: `detector.config.loading`
reads the files and words the errors. Importing this module loads no PyTorch, so `--help` is instant.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from detector.config import rules
from detector.config.names import NameOf
from detector.config.section import (
    COMPARED_OTHERWISE,
    MEASUREMENT,
    RUNTIME,
    Checks,
    Fraction,
    Positive,
    Section,
    Text,
)
from detector.config.whereabouts import RunConfig, TrackingConfig

Channels = Annotated[int, Field(gt=0, le=8192)]
Depth = Annotated[int, Field(gt=0, le=1000)]
Batch = Annotated[int, Field(gt=0, le=65536), BeforeValidator(rules.automatic_is_another_key)]
Device = Annotated[
    str,
    Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$", description="auto, cpu, cuda, cuda:N, mps"),
    BeforeValidator(rules.gpu_by_number),
]


class DataConfig(Section):
    """Which images, at what size, and how they are augmented in training.

    With `fliplr`, `translate` and `scale` alone, `detector/data/augment.py` augments. Any of the keys in
    `YOLO_KEYS` brings in ultralytics' transforms instead, for those three as well.
    """

    checks: ClassVar[Checks] = (
        rules.close_mosaic_is_used,
        rules.perspective_keeps_the_image_in_front,
    )

    path: Annotated[Text, COMPARED_OTHERWISE] = "datasets/coco8.yaml"  # a data YAML
    format: Annotated[str, NameOf("dataset"), COMPARED_OTHERWISE] = "yolo"  # what reads it
    image_size: Annotated[int, Field(ge=32, le=16384, multiple_of=32)] = 256  # letterboxed square, pixels
    fliplr: Fraction = 0.0  # probability of a horizontal flip
    translate: Fraction = 0.0  # random shift, as a fraction of the image
    scale: Fraction = 0.0  # random zoom, 1 ± scale
    mosaic: Fraction = 0.0  # probability that four images are put together
    mixup: Fraction = 0.0  # probability that two are blended, after mosaic
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0  # random rotation, ± degrees
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0  # random shear in x and in y, ± degrees
    perspective: Annotated[float, Field(ge=0, le=0.001)] = 0.0  # random tilt; its range is tiny
    hsv_h: Fraction = 0.0  # random change of hue, as a fraction of the colour circle
    hsv_s: Fraction = 0.0  # of saturation, a factor 1 ± hsv_s
    hsv_v: Fraction = 0.0  # of brightness, a factor 1 ± hsv_v
    flipud: Fraction = 0.0  # probability of a vertical flip
    close_mosaic: Annotated[int, Field(ge=0)] = 10  # epochs at the end without mosaic and mixup; 0: none
    # Show images of classes that fewer than this share of train shows more often (repeat factors); 0: off.
    balance: Fraction = 0.0
    # A bad label line or image: stop, or drop and count it.
    on_error: Annotated[Literal["raise", "skip"], COMPARED_OTHERWISE] = "raise"
    # Read what has one meaning only (polygons, a box given twice, …) and count it; false: that is an error.
    repair: Annotated[bool, COMPARED_OTHERWISE] = True
    # A sixth field of a label line, a score, is not used; false: it is an error.
    ignore_scores: Annotated[bool, COMPARED_OTHERWISE] = False
    # Hold out so much of train as val, by train.seed, where the data has no val; look-alikes stay together.
    val_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    # A list file may name images outside the dataset's folder.
    allow_outside: Annotated[bool, RUNTIME] = False
    fallback: Annotated[Literal["shapes", "none"], RUNTIME] = "shapes"  # if COCO8 is not available
    # Keep letterboxed images in memory, or on disk, if they fit; disk: there, in the user's cache folder.
    cache: Annotated[bool | Literal["disk"], RUNTIME] = True
    # Loader processes; 0 loads in the training process.
    workers: Annotated[int, Field(ge=0, le=1024), RUNTIME] = 0
    # Seconds to wait for a batch from loader processes.
    timeout: Annotated[int, Field(gt=0, le=10**6), RUNTIME] = 300

    @property
    def mixes(self) -> bool:
        """Whether an augmented image can show parts of several: what `close_mosaic` ends."""
        return self.mosaic > 0 or self.mixup > 0

    @property
    def uses_yolo_augmentation(self) -> bool:
        """Whether ultralytics' transforms augment, instead of our own three."""
        return any(getattr(self, key) > 0 for key in YOLO_KEYS)


# What our own augmentation does not do.
YOLO_KEYS = "mosaic", "mixup", "degrees", "shear", "perspective", "hsv_h", "hsv_s", "hsv_v", "flipud"


class ModelConfig(Section):
    """The detector's size and its ablatable components."""

    checks: ClassVar[Checks] = (
        rules.init_std_is_used,
        rules.act_slope_is_used,
        rules.fixup_has_no_norm,
        rules.chain_has_concatenations,
        rules.fits_into_memory,
        rules.pretrained_brings_its_architecture,
    )

    depths: tuple[Depth, Depth, Depth, Depth] = (2, 10, 4, 2)  # blocks at strides 4, 8, 16, 32
    # Channels of the stem, then of the stages.
    widths: tuple[Channels, Channels, Channels, Channels, Channels] = (16, 24, 48, 64, 96)
    neck_width: Channels = 48
    reg_max: Annotated[int, Field(ge=2, le=1024)] = 16  # bins of the box distribution (DFL)
    act: Annotated[str, NameOf("activation")] = "silu"
    # Only for act=tailored_relu: its slope below 0; None: as the trunk's depth asks for.
    act_slope: Fraction | None = None
    norm: Annotated[str, NameOf("norm")] = "batch"
    shortcut: Annotated[str, NameOf("shortcut")] = "residual"
    # Where act, norm and shortcut apply; the other part keeps the defaults: SiLU and batch norm.
    scope: Literal["all", "trunk", "neck_and_head"] = "all"
    init: Annotated[str, NameOf("init")] = "he"
    init_std: Annotated[float, Field(gt=0)] = 0.01  # only for init=naive: N(0, init_std)
    block: Annotated[str, NameOf("block")] = "basic"  # what the stages are built from
    name: Annotated[str, NameOf("model")] = "compact"  # the whole network
    pretrained: Text | None = None  # a YOLO's .pt or .yaml, or our best.pt: brings its own architecture
    # act, norm, shortcut and scope change a pretrained network too: go on where it has nothing to change.
    allow_noop: Annotated[bool, RUNTIME] = False
    # Or how many of the first layers keep their weights.
    freeze: Literal["none", "backbone"] | Positive = "none"

    def part(self, name: Literal["trunk", "neck_and_head"]) -> ModelConfig:
        """The model as one of its parts is built: outside `scope` with the default act, norm and shortcut."""
        if self.scope in ("all", name):
            return self
        fields = type(self).model_fields
        return self.model_copy(update={key: fields[key].default for key in ("act", "norm", "shortcut")})


class TrainConfig(Section):
    """How the weights are fitted."""

    checks: ClassVar[Checks] = (
        rules.max_skipped_is_used,
        rules.clip_by_is_used,
        rules.monitor_is_measured,
        rules.patience_is_used,
        rules.one_length,
    )

    # The range that every random generator accepts.
    seed: Annotated[int, Field(ge=0, lt=2**32), COMPARED_OTHERWISE] = 0
    steps: Positive | None = 150  # optimiser steps; set exactly one of steps and epochs
    epochs: Positive | None = None
    batch: Batch = 4  # images a forward pass, of all processes together
    auto_batch: bool = False  # on a GPU: the largest batch that fits, in place of `batch`
    accumulate: Positive = 1  # forward passes an optimiser step
    optimizer: Annotated[str, NameOf("optimizer")] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # Nesterov for sgd, beta1 for adamw and its like
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4  # never on norms and biases
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 20
    backbone_lr: Annotated[float, Field(gt=0, le=1)] = 1.0  # the backbone's learning rate, as a factor of lr
    freeze_norms: bool = False  # batch norms keep the running statistics that pretrained weights came with
    sync_norms: bool = True  # batch norms see the images of all processes; false: each its own
    # Of batch norms; null: as the model has it.
    norm_momentum: Annotated[float, Field(gt=0, le=1)] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_lr: Fraction = 0.05  # the schedule's end, as a fraction of lr
    clip: Annotated[float, Field(gt=0)] | None = 10.0  # global gradient norm; null: no clipping
    clip_by: Literal["all", "part"] = "all"  # part: the trunk's norm and that of all other weights apart
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the averaged weights; null: off
    # fp16 needs CUDA; auto is bf16 where the hardware multiplies in it, else fp32: seen when the run starts
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    channels_last: Annotated[bool, RUNTIME] = True
    device: Annotated[Device, RUNTIME] = "auto"
    # CPU threads; null: torch's default.
    threads: Annotated[Annotated[int, Field(gt=0, le=4096)] | None, RUNTIME] = None
    # Of several processes: seconds that one waits for the others.
    timeout: Annotated[int, Field(gt=0, le=10**6), RUNTIME] = 300
    box_gain: Annotated[float, Field(ge=0)] = 7.5
    cls_gain: Annotated[float, Field(ge=0)] = 0.5
    dfl_gain: Annotated[float, Field(ge=0)] = 1.5
    # Steps between evaluations; null: only at the end.
    eval_every: Annotated[Positive | None, MEASUREMENT] = 50
    eval_train: Annotated[bool, MEASUREMENT] = True  # evaluate the training images too: what was memorised
    patience: Positive | None = (
        None  # epochs without a better evaluation, after which the run ends; null: off
    )
    metrics: Annotated[tuple[Annotated[str, NameOf("metric")], ...], MEASUREMENT] = ()  # besides COCO's mAP
    monitor: Annotated[str, NameOf("metric"), MEASUREMENT] = "mAP50-95"  # what makes the best checkpoint
    # A NaN or Inf: exit 3, record it as the finding (exit 0), or skip that step.
    on_nonfinite: Literal["stop", "record", "skip"] = "stop"
    max_skipped: Positive = 10  # steps skipped in a row; one more is as with stop

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_the_default_steps(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is not None and "steps" not in values:
            return {**values, "steps": None}
        return values


class GradientsConfig(Section):
    """What is measured, and how often; and an experiment on the gradient's size: see `gradients.impose`."""

    # Steps between recordings; the first and last step are always recorded.
    every: Annotated[Positive, MEASUREMENT] = 5
    # Layers: the trunk's. Blocks, convs or a pattern of names: these too, in the whole network.
    points: Annotated[Text, MEASUREMENT] = "layers"
    # Every operation's backward factor, at the first and the last step; not where a curve is imposed.
    ledger: Annotated[bool, MEASUREMENT] = True
    # Rescale the trunk's activation gradients to another curve: flat, a run's directory, or a JSON file.
    impose: Text | None = None
    equalise: bool = False  # give the weight gradients of all trunk layers one size relative to the weights
    # Before the first step and after the last: does a linear probe find the objects in the trunk's features?
    probe: Annotated[bool, MEASUREMENT] = True


class Config(Section):
    """A complete experiment."""

    checks: ClassVar[Checks] = (
        rules.trunk_learns_where_its_gradient_is_changed,
        rules.groups_hold_more_than_one_value,
    )

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    gradients: GradientsConfig = GradientsConfig()
    tracking: TrackingConfig = TrackingConfig()
    run: RunConfig = RunConfig()
