"""Rules between several keys of a section: a key that would silently do nothing is worse than an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detector.config.names import BUILT_IN
from detector.config.section import Section, broken_rule
from detector.errors import shorten

if TYPE_CHECKING:
    from detector.config.schema import Config, DataConfig, ModelConfig, TrainConfig

STRIPPED = "act", "norm", "shortcut"  # what can be taken out of a network that stands already
BESIDE_PRETRAINED = "pretrained", "freeze", "scope", "allow_noop"
FROM_SCRATCH = "init", "init_std"  # of a network of which there is only the description
MOST_WEIGHTS = 1_000_000_000  # of the detector: with gradients and momentum, 12 GB


def default(section: Section, key: str) -> Any:
    """A key's default."""
    return type(section).model_fields[key].default


def close_mosaic_is_used(data: DataConfig) -> None:
    """`close_mosaic` ends what is there."""
    if not data.mixes and data.close_mosaic != default(data, "close_mosaic"):
        raise broken_rule("close_mosaic", "only data.mosaic and data.mixup use it, and both are 0")


def perspective_keeps_the_image_in_front(data: DataConfig) -> None:
    """No pixel may come to lie behind the viewer."""
    # A point at (x, y) from the centre is divided by 1 + px·x + py·y, which must not reach zero
    # anywhere on the canvas: on a mosaic, |x| and |y| go up to the image size.
    reach = data.image_size * (2 if data.mosaic > 0 else 1)
    if data.perspective * reach >= 1:
        problem = f"must be below {1 / reach:.2g} at this image_size, or parts lie behind the viewer"
        raise broken_rule("perspective", problem)


def init_std_is_used(model: ModelConfig) -> None:
    """`init_std` belongs to one initialisation."""
    if model.init != "naive" and model.init_std != default(model, "init_std"):
        raise broken_rule("init_std", f"only model.init=naive uses it, and model.init is {model.init}")


def act_slope_is_used(model: ModelConfig) -> None:
    """`act_slope` belongs to one activation."""
    if model.act_slope is not None and model.act != "tailored_relu":
        raise broken_rule("act_slope", f"only act=tailored_relu uses it, and model.act is {model.act}")


def fixup_has_no_norm(model: ModelConfig) -> None:
    """A Fixup block stands in place of a norm."""
    if model.block == "fixup" and model.norm != "none":
        raise broken_rule("norm", "model.block=fixup is built without one: write model.norm=none")


def weights_of(model: ModelConfig) -> int:
    """About how many weights the compact detector has."""
    stages = zip(model.depths, model.widths, model.widths[1:], strict=False)
    weights = sum(9 * (before * width + 2 * depth * width**2) for depth, before, width in stages)
    return weights + 9 * model.neck_width**2 * 22 + 3 * 4 * model.reg_max * model.neck_width


def chain_has_concatenations(model: ModelConfig) -> None:
    """Our own network has additions only."""
    if model.shortcut == "chain" and model.pretrained is None:
        problem = "is for model.pretrained, whose blocks concatenate; our own trunk is a chain with none"
        raise broken_rule("shortcut", problem)


def fits_into_memory(model: ModelConfig) -> None:
    """The network must not be larger than any machine."""
    # Refused before anything is allocated: the system may end a process that asks for too much.
    if model.name != "compact":
        return
    if (weights := weights_of(model)) > MOST_WEIGHTS:
        sizes = ("widths", "depths", "neck_width", "reg_max")
        key = next(k for k in sizes if getattr(model, k) != default(model, k))
        problem = f"the model would have {weights:.0e} weights, and at most {MOST_WEIGHTS:.0e} are accepted"
        raise broken_rule(key, problem)


def pretrained_brings_its_architecture(model: ModelConfig) -> None:
    """Pretrained weights come with their network; components can be taken out of it."""
    if model.pretrained is None:
        return
    scratch = model.pretrained.endswith((".yaml", ".yml"))
    for key, field in type(model).model_fields.items():
        if key in (*BESIDE_PRETRAINED, *STRIPPED) or getattr(model, key) == field.default:
            continue
        if key not in FROM_SCRATCH:
            what = "it is our own network's, and model.pretrained brings its own architecture"
            raise broken_rule(key, f"{what}; leave this key out")
        if not scratch:
            what = f"model.pretrained={shorten(model.pretrained)} brings its weights"
            raise broken_rule(key, f"{what}; {key} is for a network from scratch, such as yolo26n.yaml")
    if model.act.startswith("tailored_"):
        raise broken_rule("act", f"{model.act} is shaped for the depth of our own trunk, not of another's")


def max_skipped_is_used(train: TrainConfig) -> None:
    """`max_skipped` belongs to skipping."""
    if train.on_nonfinite != "skip" and train.max_skipped != default(train, "max_skipped"):
        what = f"train.on_nonfinite is {train.on_nonfinite}"
        raise broken_rule("max_skipped", f"only train.on_nonfinite=skip uses it, and {what}")


def clip_by_is_used(train: TrainConfig) -> None:
    """`clip_by` belongs to clipping."""
    if train.clip_by == "part" and train.clip is None:
        raise broken_rule("clip_by", "only train.clip uses it, and train.clip is null")


def monitor_is_measured(train: TrainConfig) -> None:
    """The best checkpoint is chosen by something that is measured."""
    if train.monitor not in (*BUILT_IN["metric"], *train.metrics):
        raise broken_rule("monitor", f"{train.monitor} is not measured; add it to train.metrics")


def patience_is_used(train: TrainConfig) -> None:
    """Only an evaluation can tell that nothing gets better."""
    if train.patience is not None and train.eval_every is None:
        raise broken_rule("patience", "needs evaluations on the way: set train.eval_every, in steps")


def one_length(train: TrainConfig) -> None:
    """A run has one length, in steps or in epochs."""
    if train.steps is not None and train.epochs is not None:
        raise broken_rule("epochs", "set exactly one of train.steps and train.epochs, not both")
    if train.steps is None and train.epochs is None:
        raise broken_rule("steps", "set exactly one of train.steps and train.epochs: both are null")


def trunk_learns_where_its_gradient_is_changed(config: Config) -> None:
    """To change the gradient of a frozen trunk would change nothing."""
    for key in ("impose", "equalise"):
        if config.model.freeze == "backbone" and getattr(config.gradients, key):
            problem = "model.freeze=backbone: the gradient of a frozen trunk changes nothing"
            raise broken_rule(f"gradients.{key}", problem)


def groups_hold_more_than_one_value(config: Config) -> None:
    """Group norm averages over a group's channels and pixels; of one alone, nothing is left."""
    model, size = config.model, config.data.image_size
    if model.norm != "group" or model.name != "compact" or model.pretrained is not None or size >= 64:
        return
    widths = {"trunk": model.widths[-1], "neck_and_head": model.neck_width}  # at stride 32, where 32 px are 1
    for part, width in widths.items():
        if model.scope in ("all", part) and 8 % width == 0:
            problem = f"at data.image_size={size} its groups in layers of {width} channels are a single value"
            raise broken_rule("model.norm", f"{problem}; take 64 pixels, or more channels")


def automatic_is_another_key(value: Any) -> Any:
    """A batch is a number; ultralytics' -1 asks for the largest."""
    if value in (-1, "auto"):
        raise broken_rule("batch", "is a number; train.auto_batch=true finds the largest that a GPU holds")
    return value


def gpu_by_number(value: Any) -> Any:
    """A device as ultralytics takes it: 1 is cuda:1."""
    several = value if isinstance(value, list | tuple) else str(value).split(",")
    words = [str(one).strip() for one in several]
    if words and all(word.isdecimal() for word in words):
        if len(words) > 1:
            many = f"torchrun --nproc-per-node {len(words)} train.py …"
            raise broken_rule("device", f"is one device; to train on {len(words)} GPUs: {many}")
        return f"cuda:{words[0]}"
    return value
