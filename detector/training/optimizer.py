"""The optimizer, its schedule as a pure function of the step, and the averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from inspect import Parameter, signature, unwrap
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detector.config.schema import TrainConfig
from detector.errors import UserError
from detector.registry import lookup


def parameter_groups(
    model: nn.Module, weight_decay: float, backbone: Sequence[nn.Module] = (), backbone_lr: float = 1.0
) -> list[dict[str, object]]:
    """Decay the weights that multiply activations; never biases and the scales and shifts of norms.

    With `backbone_lr` other than 1, the backbone's parameters form two groups of their own, whose learning
    rate is that factor of the others'.
    """
    slow = {id(p) for module in backbone for p in module.parameters()} if backbone_lr != 1 else set()
    trainable = [p for p in model.parameters() if p.requires_grad]
    parts = [(1.0, [p for p in trainable if id(p) not in slow])]
    if slow:
        parts.append((backbone_lr, [p for p in trainable if id(p) in slow]))
    groups: list[dict[str, object]] = []
    for factor, members in parts:
        decayed, others = [p for p in members if p.dim() > 1], [p for p in members if p.dim() <= 1]
        groups.append({"params": decayed, "weight_decay": weight_decay, "lr_factor": factor})
        groups.append({"params": others, "weight_decay": 0.0, "lr_factor": factor})
    return groups


def build_optimizer(
    model: nn.Module, config: TrainConfig, backbone: Sequence[nn.Module] = ()
) -> torch.optim.Optimizer:
    """The optimizer that `train.optimizer` names: of `OPTIMIZERS`, of `torch.optim`, or a registered one.

    Raises:
        UserError: it does not take one of the configuration's settings, or cannot train this model.
    """
    groups = parameter_groups(model, config.weight_decay, backbone, config.backbone_lr)
    if config.optimizer in OPTIMIZERS:
        return OPTIMIZERS[config.optimizer](groups, config)
    make: Any = lookup("optimizer", config.optimizer, {}, torch.optim)
    if isinstance(make, type) and make.__module__.startswith("torch.optim"):
        make = without_compiler(make)
    try:
        optimizer: torch.optim.Optimizer = make(groups, **settings(make, config))
    except (TypeError, ValueError) as error:
        raise UserError(f"train.optimizer={config.optimizer}: {' '.join(str(error).split())}") from error
    return optimizer


def sgd(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum.

    Fused: one pass over each weight instead of one an operation, a third of the time. The results are the
    same to the last digit or two.
    """
    momentum = config.momentum
    made: torch.optim.Optimizer = SGD(
        groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=True
    )
    return made


def adamw(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with `momentum` as its beta1, fused as `sgd`."""
    made: torch.optim.Optimizer = AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    return made


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], TrainConfig], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
}


def settings(make: Callable[..., Any], config: TrainConfig) -> dict[str, Any]:
    """The configuration's settings as the arguments of any optimizer that takes groups of parameters.

    `lr` is passed on as it is, `momentum` under that name or as the first of `betas`; `weight_decay` is in
    the groups already.

    Raises:
        UserError: a setting other than 0 has no argument; to ignore it would be to lie about the run.
    """
    arguments = signature(make).parameters
    takes_all = any(argument.kind is Parameter.VAR_KEYWORD for argument in arguments.values())
    found: dict[str, Any] = {"lr": config.lr}
    if "momentum" in arguments:
        found["momentum"] = config.momentum
    elif "betas" in arguments:
        others = arguments["betas"].default
        others = others[1:] if isinstance(others, tuple) else (0.999,)
        found["betas"] = (config.momentum, *others)
    elif config.momentum and not takes_all:
        raise _not_taken(config, "momentum")
    if config.weight_decay and "weight_decay" not in arguments and not takes_all:
        raise _not_taken(config, "weight_decay")
    return found


def _not_taken(config: TrainConfig, key: str) -> UserError:
    value = getattr(config, key)
    return UserError(f"train.{key}={value}: {config.optimizer} takes no {key}; write train.{key}=0")


def without_compiler(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """The same optimizer, whose methods do not import torch.compile's compiler (torch._dynamo).

    PyTorch wraps them so that compiled programs leave them out, and the wrappers import it before the first
    step: half as long again as all of PyTorch. What they wrap is what runs here.
    """
    names = "add_param_group", "zero_grad", "state_dict", "load_state_dict"
    methods = {name: unwrap(getattr(kind, name)) for name in names}
    step = torch.no_grad()(unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step})


SGD, AdamW = without_compiler(torch.optim.SGD), without_compiler(torch.optim.AdamW)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, config: TrainConfig) -> float:
    """Give every group its rate for step `step` of `steps`; return the one before the groups' own factors."""
    rate = learning_rate(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
    return rate


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The rate of optimiser step `step` (from 0) of `steps`: a linear warm-up times a decay to `final_lr`.

    A function of the step alone, so that resuming needs no scheduler state.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    progress = step / steps
    decay = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[config.schedule]
    return config.lr * warmup * (config.final_lr + (1 - config.final_lr) * decay)


class MovingAverage(AveragedModel):
    """An exponential moving average of weights and statistics, trusted less while it is young.

    The decay at update n is min(decay, (1 + n) / (10 + n)), so that a short run's average is not
    dominated by the random initialisation. The first update copies.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay
        mine, theirs = _tensors(self.module), _tensors(model)
        floats = [i for i, tensor in enumerate(mine) if tensor.is_floating_point()]
        counters = sorted(set(range(len(mine))) - set(floats))  # such as the batches a norm has seen
        # Listed once: to go through a model's modules takes longer than to average its weights.
        self._source = (model,)  # in a tuple, so that it does not become a part of the average
        self._averaged = [mine[i] for i in floats], [theirs[i] for i in floats]
        self._copied = [mine[i] for i in counters], [theirs[i] for i in counters]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights as they are now, of the model that this was made from."""
        if model is not self._source[0]:
            raise ValueError("an average follows the model that it was made from")
        count = int(self.n_averaged)
        if count:
            torch._foreach_lerp_(*self._averaged, 1 - min(self.decay, (1 + count) / (10 + count)))
        else:
            torch._foreach_copy_(*self._averaged)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)
        self.n_averaged += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]
