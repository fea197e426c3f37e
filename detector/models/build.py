"""Building the model that a configuration or a checkpoint describes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from detector.config.names import plugin_needed
from detector.config.rules import STRIPPED, default, weights_of
from detector.config.schema import DataConfig, ModelConfig
from detector.errors import UserError
from detector.models.base import DetectionModel, freeze
from detector.models.detector import build_detector
from detector.models.init import Draw, drawing
from detector.models.pretrained import load_pretrained
from detector.models.stored import check_same, check_tensors, settings_of
from detector.models.strip import strip
from detector.models.weights import Pretrained, find, read_description, read_weights
from detector.models.yolo import YoloModel
from detector.registry import lookup
from detector.runtime.checkpoint_check import without_constructors
from detector.runtime.checkpoint_file import evaluated_weights, read_if_own
from detector.runtime.memory_check import count_numbers
from detector.runtime.ultralytics_import import import_ultralytics

LAYERS = nn.Conv2d, nn.ConvTranspose2d, nn.Linear  # what an initialisation draws


class Built(NamedTuple):
    """A model, and where its weights come from."""

    model: DetectionModel
    origin: str  # what was kept of pretrained weights, for a person; "" where all are random


def build_model(config: ModelConfig, names: Sequence[str]) -> Built:
    """Build the configured model for these classes; what is random comes from torch's global generator.

    >>> from detector import build_model, load_config
    >>> model, _ = build_model(load_config("no_residual").config.model, ["cat", "dog"])
    >>> model.num_classes, model.strides
    (2, (8, 16, 32))

    `config.pretrained` is None for our own detector, a `.yaml` of ultralytics for one of their networks
    from scratch, a `.pt` of theirs with its weights, or a checkpoint of this project.

    Raises:
        UserError: a file is missing or broken.
    """
    if config.pretrained is None:
        return Built(build_network(config, len(names)), "")
    if config.pretrained.endswith((".yaml", ".yml")):
        description = read_description(config.pretrained) | {"nc": len(names)}
        network = YoloModel(description, len(names))
        origin, init = "", drawing(config.init, config.init_std)
        init_as_configured(network, config)
        model: DetectionModel = network
    else:
        path, init = find(config.pretrained), None
        trained = read_trained(path)
        model = rebuild(trained.architecture, len(names), trained.weights)
        try:
            kept = load_pretrained(trained.weights, trained.names, model, names)
        except (RuntimeError, IndexError, TypeError) as error:
            raise UserError(f"{path}: its tensors do not fit its classes; it is damaged") from error
        origin = f"weights of {path.name}: {kept}"
    strip_as_configured(model, config, init)
    freeze(model, config.freeze)
    return Built(model, origin)


def init_as_configured(model: YoloModel, config: ModelConfig) -> None:
    """Draw the weights of a network from scratch as `model.init` says; its default leaves them as they are.

    All but those of the head's predictors, as in our own network, and a norm's.

    Raises:
        UserError: they are drawn so already.
    """
    if config.init == default(config, "init"):
        return
    stripped = config.norm != default(config, "norm")  # what loses its norm is drawn anew otherwise
    if config.init == "default" and not stripped and not config.allow_noop:
        same = "ultralytics' networks start as PyTorch's layers do already"
        raise UserError(f"model.init=default: {same}; model.allow_noop=true goes on without")
    draw, predictors = drawing(config.init, config.init_std), model.predictors()
    for module in model.modules():
        if isinstance(module, LAYERS) and module.weight.requires_grad and module not in predictors:
            draw(module)  # type: ignore[arg-type]


def strip_as_configured(model: DetectionModel, config: ModelConfig, init: Draw | str | None) -> None:
    """Take out of a built network what a configuration changes, and note it for `describe`.

    Args:
        model: changed in place.
        config: its defaults leave a network as it is.
        init: see `detector.models.strip.strip`.

    Raises:
        UserError: it is not there, or cannot be taken out.
    """
    wanted = {key: getattr(config, key) for key in STRIPPED if getattr(config, key) != default(config, key)}
    if wanted:
        wanted["scope"] = config.scope
        strip(model, **wanted, init=init, allow_noop=config.allow_noop)
        model.stripped = (*model.stripped, wanted)


def describe(model: DetectionModel) -> dict[str, Any]:
    """Plain data from which `rebuild` makes the same network, weights aside: also one that was stripped."""
    told = {"stripped": list(model.stripped)} if model.stripped else {}
    return {**model.architecture(), **told}


# What `model.name` may be; a plugin registers more.
MODELS: dict[str, Callable[[ModelConfig, int], DetectionModel]] = {"compact": build_detector}


def build_network(config: ModelConfig, num_classes: int) -> DetectionModel:
    """The network that `config.name` names, with random weights.

    Raises:
        UserError: a plugin's network is not one that can be trained here.
    """
    model = lookup("model", config.name, MODELS)(config, num_classes)
    if not isinstance(model, DetectionModel):
        kind = type(model).__name__
        raise UserError(
            f"model.name={config.name}: must make a detector.models.base.DetectionModel, not {kind}"
        )
    model.config = config
    freeze(model, config.freeze)
    return model


class Trained(NamedTuple):
    """What a file of weights holds, whoever wrote it."""

    architecture: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    names: tuple[str, ...]  # of its classes
    image_size: int  # it was trained at, pixels
    step: int | None  # of this project's checkpoints
    config: Mapping[str, Any] | None = None  # likewise: the run's configuration, as plain data
    model: DetectionModel | None = (
        None  # of ultralytics' files: it is built to be compared with what they hold
    )


def read_trained(path: Path) -> Trained:
    """Read a checkpoint of this project or of ultralytics; no code in it is ever run.

    Raises:
        UserError: it is missing or broken.
    """
    saved = read_if_own(path)
    if saved is None:
        model, source = read_yolo(path)
        weights: Mapping[str, Tensor] = {
            f"net.{key}": value for key, value in source.net.state_dict().items()
        }
        check_finite(weights, path)
        return Trained(model.architecture(), weights, source.names, source.image_size, None, None, model)
    extra = facts_of(saved, path)
    size = extra["config"]["data"]["image_size"]
    weights = evaluated_weights(saved)
    check_finite(weights, path)
    return Trained(
        architecture_of(saved),
        weights,
        tuple(extra["names"]),
        size,
        saved["step"],
        extra["config"],
    )


def read_yolo(path: Path) -> tuple[YoloModel, Pretrained]:
    """The network in a file of ultralytics, built anew, and the stored one; they do the same.

    Raises:
        UserError: the file is damaged, or its layers are not those that this ultralytics builds.
    """
    source = read_weights(path)
    with torch.random.fork_rng(devices=[]):  # its random weights are replaced, and nobody else's change
        try:
            model = YoloModel(source.description, len(source.names), numbers=count_numbers(source.net))
        except UserError as error:  # it is the file that is to be named, by whichever key or command it came
            raise UserError(f"{path}: {str(error).removeprefix('model.pretrained: ')}") from error
    stored, built = source.net, model.net
    try:
        settings = settings_of(stored, built)
        check_tensors(stored, built)
        if settings:
            model.set_layers(settings)
        built.load_state_dict(stored.state_dict())
        with without_constructors():  # a layer may hold a class where a function belongs
            check_same(stored, built, 2 * max(model.strides))
    except (ValueError, RuntimeError, AttributeError, TypeError, UserError) as error:
        reason = " ".join(str(error).split())[:200]
        here = import_ultralytics("utils").__version__
        wrote = f"it was written by ultralytics {source.version} or by a fork, and this is {here}"
        raise UserError(f"{path}: {reason}; {wrote}") from error
    return model.train(), source


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError for the first layer that holds a number that is not finite: it would find nothing."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            layer = name.rpartition(".")[0]
            raise UserError(f"{path}: the weights of {layer} are not finite; take an earlier checkpoint")


def facts_of(saved: Mapping[str, Any], path: Path, needed: Collection[str] = ("names",)) -> Mapping[str, Any]:
    """What a checkpoint of this project says of its run; `needed` are the facts that must be among them.

    Raises:
        UserError: something of it is missing or no longer what a run writes.
    """
    extra = saved.get("extra", {})
    try:
        DataConfig(image_size=extra["config"]["data"]["image_size"])
        complete = extra.keys() >= set(needed) and bool(extra["names"])
    except (KeyError, TypeError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"{path}: the checkpoint is damaged: it does not say what it was trained on")
    return dict(extra)


def architecture_of(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint of this project says of its network; early ones have only the configuration."""
    architecture: Mapping[str, Any] | None = saved["extra"].get("architecture")
    return architecture or {"kind": "compact", "model": saved["extra"]["config"].get("model")}


def rebuild(
    architecture: Mapping[str, Any], num_classes: int, weights: Mapping[str, Tensor] | None = None
) -> DetectionModel:
    """The network that `describe` describes, its weights aside.

    Args:
        architecture: what `describe` gave, or a stranger.
        num_classes: that it is to tell apart.
        weights: what will be put into it; a network of a wholly other size is not built.

    Raises:
        UserError: no network can be built from it.
    """
    numbers = None if weights is None else sum(tensor.numel() for tensor in weights.values())
    model = _unstripped(architecture, num_classes, numbers)
    try:
        for parts in architecture.get("stripped", ()):
            strip(model, **parts, init=None, allow_noop=True)
            model.stripped = (*model.stripped, parts)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError("the checkpoint describes no network that can be built; it is damaged") from error
    return model


def _unstripped(architecture: Mapping[str, Any], num_classes: int, numbers: int | None) -> DetectionModel:
    try:
        if architecture["kind"] == "yolo":
            return YoloModel(architecture["description"], num_classes, architecture.get("settings"), numbers)
        config = ModelConfig.model_validate({**architecture["model"], "freeze": "none"})
        if numbers is not None and weights_of(config) > 10 * numbers + 1_000_000:  # a block may have fewer
            raise ValueError("it has far more weights than the file")
    except (KeyError, TypeError, ValueError) as error:  # pydantic's is a ValueError
        if isinstance(error, ValidationError) and (need := plugin_needed(error, "model.")):
            raise UserError(f"the checkpoint's network {need}") from None
        raise UserError("the checkpoint describes no network that can be built; it is damaged") from error
    return build_network(config, num_classes)


class Loaded(NamedTuple):
    """A trained model, ready to predict."""

    model: DetectionModel  # in evaluation mode, float32, on the CPU
    names: tuple[str, ...]
    image_size: int
    step: int | None
    config: Mapping[str, Any] | None = None


def load_model(path: Path) -> Loaded:
    """The trained model in a checkpoint of this project or of ultralytics.

    Raises:
        UserError: it is missing or broken.
    """
    trained = read_trained(path)
    model = trained.model or rebuild(trained.architecture, len(trained.names), trained.weights)
    try:
        model.load_state_dict(dict(trained.weights))
    except RuntimeError as error:
        raise UserError(f"{path}: its tensors are not those of the network it describes") from error
    return Loaded(model.eval(), trained.names, trained.image_size, trained.step, trained.config)
