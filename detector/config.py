"""The configuration: a typed schema, and nothing that guesses.

Every key an experiment may set is a field below, with its default and its range. An unknown key,
a wrong type or a value out of range is an error that names the file and the key: `detector.loading`
reads the files and words the errors. Importing this module loads no PyTorch, so `--help` is instant.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# A pattern's description is what an error says the value must be.
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", description="one line of text")]
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f/\\]{1,100}$", description="text without slashes")]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$", description="auto, cpu, cuda, cuda:N")]


def broken_rule(key: str, problem: str) -> PydanticCustomError:
    """A rule between several keys is broken; `key` is the one to blame, so that its line can be named."""
    return PydanticCustomError("broken_rule", "{key}: {problem}", {"key": key, "problem": problem})


class Section(BaseModel):
    """Strict and immutable: a typo fails at once, and no code can change what the user wrote."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        # YAML and JSON know only lists; everything else about a value stays strict (no "4" for 4).
        return tuple(value) if isinstance(value, list) else value


class DataConfig(Section):
    """Which images, at what size."""

    path: Text = "datasets/coco8.yaml"  # a data YAML in the YOLO format
    image_size: Annotated[int, Field(ge=32, multiple_of=32)] = 256  # letterboxed square, pixels
    fliplr: Fraction = 0.0  # probability of a horizontal flip in training
    translate: Fraction = 0.0  # random shift in training, as a fraction of the image
    scale: Fraction = 0.0  # random zoom in training, 1 ± scale
    on_error: Literal["raise", "skip"] = "raise"  # a bad label line or image: stop, or drop and count it
    fallback: Literal["shapes", "none"] = "shapes"  # if COCO8 cannot be had
    cache: bool = True  # keep letterboxed images in RAM when they fit
    workers: Annotated[int, Field(ge=0)] = 0  # loader processes; 0 loads in the training process


class ModelConfig(Section):
    """The detector's size and its four ablatable components."""

    depths: tuple[Positive, Positive, Positive, Positive] = (2, 10, 4, 2)  # blocks at strides 4, 8, 16, 32
    widths: tuple[Positive, Positive, Positive, Positive, Positive] = (
        16,
        24,
        48,
        64,
        96,
    )  # stem, then stages
    neck_width: Positive = 48
    reg_max: Annotated[int, Field(ge=2)] = 16  # bins of the box distribution (DFL)
    act: Literal["silu", "relu", "leaky_relu", "tanh", "sigmoid", "identity"] = "silu"
    norm: Literal["batch", "group", "none"] = "batch"
    shortcut: Literal["residual", "none", "gated"] = "residual"
    init: Literal["he", "xavier", "lecun", "default", "naive"] = "he"
    init_std: Annotated[float, Field(gt=0)] = 0.01  # only for init=naive: N(0, init_std)
    pretrained: Text | None = None  # a YOLO's .pt or .yaml, or our best.pt: brings its own architecture
    freeze: Literal["none", "backbone"] | Positive = (
        "none"  # or how many of the first layers keep their weights
    )

    @model_validator(mode="after")
    def _init_std_is_used(self) -> Self:
        # A key that silently does nothing is worse than an error: the student would believe it mattered.
        if self.init != "naive" and self.init_std != type(self).model_fields["init_std"].default:
            raise broken_rule("init_std", f"only model.init=naive uses it, and model.init is {self.init}")
        return self

    @model_validator(mode="after")
    def _pretrained_brings_its_architecture(self) -> Self:
        if self.pretrained is not None:
            for key, field in type(self).model_fields.items():
                if key not in ("pretrained", "freeze") and getattr(self, key) != field.default:
                    raise broken_rule(key, "model.pretrained brings its own architecture; leave this key out")
        return self


class TrainConfig(Section):
    """How the weights are fitted."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # the range that every random generator accepts
    steps: Positive | None = 150  # optimiser steps; set exactly one of steps and epochs
    epochs: Positive | None = None
    batch: Positive = 4  # images a forward pass, of all processes together
    accumulate: Positive = 1  # forward passes an optimiser step
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # Nesterov for SGD, beta1 for AdamW
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4  # never on norms and biases
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    backbone_lr: Annotated[float, Field(gt=0, le=1)] = 1.0  # the backbone's learning rate, as a factor of lr
    freeze_norms: bool = False  # batch norms keep the running statistics that pretrained weights came with
    sync_norms: bool = True  # batch norms see the images of all processes; false: each its own
    norm_momentum: Annotated[float, Field(gt=0, le=1)] | None = (
        None  # of batch norms; null: as the model has it
    )
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_lr: Fraction = 0.05  # the schedule's end, as a fraction of lr
    clip: Annotated[float, Field(gt=0)] | None = 10.0  # global gradient norm; null: no clipping
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the averaged weights; null: off
    # fp16 needs CUDA; auto is bf16 where the hardware multiplies in it, else fp32: seen when the run starts
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    channels_last: bool = True
    device: Device = "auto"
    threads: Positive | None = None  # CPU threads; null: torch's default
    timeout: Positive = 300  # of several processes, seconds that one waits for the others
    box_gain: Annotated[float, Field(ge=0)] = 7.5
    cls_gain: Annotated[float, Field(ge=0)] = 0.5
    dfl_gain: Annotated[float, Field(ge=0)] = 1.5
    eval_every: Positive | None = 50  # steps between evaluations; null: only at the end
    eval_train: bool = True  # evaluate the training images too: what was memorised
    on_nonfinite: Literal["stop", "record"] = "stop"  # a NaN or Inf: exit 3, or record it as the finding

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_the_default_steps(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is not None and "steps" not in values:
            return {**values, "steps": None}
        return values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise broken_rule("epochs", "set exactly one of train.steps and train.epochs, not both")
        if self.steps is None and self.epochs is None:
            raise broken_rule("steps", "set exactly one of train.steps and train.epochs: both are null")
        return self


class GradientsConfig(Section):
    """What is measured, and how often."""

    every: Positive = 5  # steps between recordings; the first and last step are always recorded
    ledger: bool = True  # every operation's backward factor, at the first and the last step


class TrackingConfig(Section):
    """Where the curves go. `history.jsonl` is always written: it is the truth."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online with a key, else offline
    project: Text = "detector-gradients"
    entity: Text | None = None
    group: Text | None = None  # null: the ablation's name
    tags: tuple[Text, ...] = ()
    plots: bool = True
    images: Annotated[int, Field(ge=0)] = 4  # predictions drawn at an evaluation


class RunConfig(Section):
    """Where the run's files go. Never inherited from a base: a child is another run."""

    dir: Text | None = None  # null: runs/<ablation>-s<seed>-<time>
    name: Name | None = None  # the ablation's name; null: the config file's stem


class Config(Section):
    """A complete experiment."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    gradients: GradientsConfig = GradientsConfig()
    tracking: TrackingConfig = TrackingConfig()
    run: RunConfig = RunConfig()
