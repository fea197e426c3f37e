"""Taking components out of a network that stands already, whoever wrote it: ablations of any YOLO.

Our own detector is built without a component (`detector.models.blocks`). Here modules of a built network are
exchanged, and ultralytics' own `add` is switched off where a block has one. No forward pass of theirs is
rewritten but that of `PSA`, whose additions cannot be exchanged otherwise.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from detector.config.names import TORCH, known
from detector.errors import UserError, shorten
from detector.models.blocks import ACTIVATIONS, NORMS, SHORTCUTS, NoShortcut, Residual
from detector.models.init import Draw, drawing
from detector.models.plain import Chain, PlainABlock, PlainPSA, chained, kind_of
from detector.models.shortcuts import HighwayGate, SkipInit
from detector.models.standardised import StandardisedConv2d, variance_gain
from detector.models.tailored import TailoredReLU, TailoredTanh
from detector.registry import lookup

Network = TypeVar("Network", bound=nn.Module)

GATES = "Sigmoid", "Hardsigmoid", "LogSigmoid", "Identity"  # a factor between 0 and 1, or a score
RECTIFIERS = (
    TailoredReLU,
    TailoredTanh,
    *(getattr(nn, name) for name in TORCH["activation"] if name not in GATES),
)
NORM_LAYERS = _BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm
# Blocks of ultralytics whose `add` says whether their input is added to their output.
ADDING = {"Bottleneck", "CIB", "HGBlock", "RepBottleneck", "SPPF"}
# Those with two additions, each around one of these parts. PSABlock has an `add` for both.
ATTENDING = {"PSABlock": ("attn", "ffn"), "ABlock": ("attn", "mlp"), "PSA": ("attn", "ffn")}
# Those that add their input in a way that is not known here, and what a residual is called elsewhere.
UNKNOWN = {"AIFI", "C1", "Residual", "TransformerBlock", "TransformerEncoderLayer", "TransformerLayer"}
OUR_SHORTCUTS = Residual, NoShortcut, HighwayGate, SkipInit
ADD_LIKE = "add", "downsample", "residual", "shortcut", "skip", "use_res_connect", "use_shortcut"


class Site(NamedTuple):
    """A module, and where it is held."""

    name: str
    parent: nn.Module
    key: str
    module: nn.Module

    def put(self, module: nn.Module) -> None:
        """Exchange it. Ultralytics keeps a layer's place in the network as attributes of the layer."""
        for fact in ("f", "i", "type", "np"):
            if fact in vars(self.module):
                setattr(module, fact, vars(self.module)[fact])
        module.train(self.module.training)
        self.parent._modules[self.key] = module


class Around(nn.Module):
    """A block that adds nothing any more, with another shortcut around it: (B, c, H, W) -> (B, c, H, W)."""

    def __init__(self, block: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.block, self.shortcut = block, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """`shortcut(x, block(x))`."""
        out: Tensor = self.shortcut(x, self.block(x))
        return out


def kind_name(layer: nn.Module) -> str:
    """What a layer is called: the same whatever was taken out of it or put around it."""
    block = layer.block if isinstance(layer, Around) else layer
    return block.was if isinstance(block, Chain | PlainPSA) else type(block).__name__


def strip(
    model: Network,
    *,
    act: str | None = None,
    norm: str | None = None,
    shortcut: str | None = None,
    scope: str = "all",
    init: Draw | str | None = "he",
    allow_noop: bool = False,
) -> Network:
    """Exchange or take out components of any network, in place; all weights that still fit are kept.

    >>> from torch import nn
    >>> from detector import strip
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU())
    >>> [type(module).__name__ for module in strip(net, act="relu", norm="none")]
    ['Conv2d', 'Identity', 'ReLU']
    >>> net[0].bias.shape
    torch.Size([8])

    - `act`: modules only. A sigmoid is left alone unless it is a unit's `act`: elsewhere it is a gate.
    - `norm`: another norm keeps scale and shift. Where one is taken out, the convolution before it gets a
      bias; one that no convolution precedes is just taken out.
    - `shortcut`: the identity additions of ultralytics' blocks (`Bottleneck`, `CIB`, `SPPF`, `HGBlock`,
      `PSABlock`, `ABlock`, `PSA`, `A2C2f` with its factor) and of our own. Concatenations stay, and so does
      the positional encoding within attention, which is a convolution beside it. `chain` is `none`, and the
      concatenations within ultralytics' blocks go too: see `detector.models.plain`.

    Args:
        model: changed in place.
        act, norm, shortcut: names as in a configuration; None: as it is.
        scope: all, trunk, or neck_and_head.
        init: how convolutions that lose their norm start: a name of `model.init`, with bias 0, or a function
            that draws a layer. None: with their weights, the removed batch norm's running statistics, scale
            and shift folded in.
        allow_noop: accept that there is nothing of what is to be stripped.

    Returns:
        The model, or what replaces it if it is such a block itself.

    Raises:
        UserError: nothing is there to be stripped, a block may have a shortcut that is not known here, or
            there is no trunk to tell apart.
    """
    for kind, part in (("activation", act), ("norm", norm), ("shortcut", shortcut)):
        if part is not None and (part not in known(kind) or part.startswith("tailored_")):
            what = f"{shorten(str(part))} is no {kind} that can be put into a network that stands already"
            raise UserError(f"strip: {what}; if it is a plugin's, add --plugin FILE.py")
    if scope not in ("all", "trunk", "neck_and_head"):
        raise UserError(f"strip: scope is all, trunk or neck_and_head, not {shorten(str(scope))}")
    holder = nn.ModuleDict({"model": model})
    within = _scope(model, scope)

    def sites() -> Iterator[Site]:
        for outer, parent in list(holder.named_modules()):
            for key, module in list(parent._modules.items()):
                if module is not None and within(parent, module):
                    name = f"{outer}.{key}".removeprefix("model.").strip(".")
                    yield Site(name, parent, key, module)

    found: dict[str, int] = {}
    if shortcut is not None:
        count = _exchange_shortcuts(list(sites()), "none" if shortcut == "chain" else shortcut)
        if shortcut == "chain":
            count += _take_concatenations_out(list(sites()))
        found[f"shortcut={shortcut}"] = count
    if norm is not None:
        gain = variance_gain(lookup("activation", act or "silu", ACTIVATIONS, nn))
        found[f"norm={norm}"] = _exchange_norms(list(sites()), norm, init, gain)
    if act is not None:
        units = [site for site in sites() if _is_activation(site)]
        for site in units:
            site.put(lookup("activation", act, ACTIVATIONS, nn)())
        found[f"act={act}"] = len(units)
    for key, count in found.items():
        if not count and not allow_noop:
            what = {"s": "residual addition", "n": "norm", "a": "activation"}[key[0]]
            what += " or concatenation" if key == "shortcut=chain" else ""
            where = "network" if scope == "all" else scope.replace("_", " ")
            raise UserError(
                f"model.{key}: there is no {what} in this {where}; model.allow_noop=true goes on without"
            )
    return holder["model"]  # type: ignore[return-value]


def _scope(model: nn.Module, scope: str) -> Callable[[nn.Module, nn.Module], bool]:
    """Whether a module, told by its parent too, belongs to a part of the network.

    By its parent, since all of ultralytics' convolutions share one activation.
    """
    if scope == "all":
        return lambda parent, module: True
    backbone: Any = getattr(model, "backbone_modules", None) or getattr(model, "backbone", None)
    if backbone is None:
        raise UserError(f"model.scope={scope}: {type(model).__name__} has no backbone to tell apart")
    roots: list[nn.Module] = [backbone] if isinstance(backbone, nn.Module) else backbone()
    ends = {id(root) for root in roots}
    inside = {id(module) for root in roots for module in root.modules() if list(module.children())}
    return lambda parent, module: (id(parent) in inside or id(module) in ends) == (scope == "trunk")


def _is_activation(site: Site) -> bool:
    unit = site.key == "act" and isinstance(getattr(site.parent, "conv", None), _ConvNd)
    return isinstance(site.module, RECTIFIERS) or (unit and not isinstance(site.module, nn.Identity))


def _exchange_norms(sites: list[Site], norm: str, init: Draw | str | None, gain: float) -> int:
    factory = lookup("norm", norm, NORMS)
    norms = [site for site in sites if isinstance(site.module, NORM_LAYERS)]
    for site in norms:
        old: Any = site.module
        if isinstance(old, nn.LayerNorm) and norm not in ("none", "weight"):
            raise UserError(f"model.norm={norm}: {site.name} is a LayerNorm, which can only be taken out")
        before = _convolution_before(site)
        new = factory(_channels(old))
        fitting = {key: value for key, value in old.state_dict().items() if key in new.state_dict()}
        new.load_state_dict(new.state_dict() | fitting)
        site.put(new.to(next(old.parameters(), torch.empty(0)).device))
        if before is None or not isinstance(new, nn.Identity):
            continue
        conv: Any = before.module
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(_channels(old)))
        if norm == "weight":
            before.put(_standardised(conv, gain))
        elif init is not None:
            (drawing(init) if isinstance(init, str) else init)(conv)
        elif isinstance(conv, nn.Conv2d) and getattr(old, "running_mean", None) is not None:
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, old.running_mean, old.running_var, old.eps, old.weight, old.bias
            )
    return len(norms)


def _channels(norm: Any) -> int:
    if isinstance(norm, nn.LayerNorm):
        return int(norm.normalized_shape[-1])
    return int(norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features)


def _convolution_before(site: Site) -> Site | None:
    """The convolution or linear layer whose output a norm gets: the module defined before it, if it fits."""
    keys = list(site.parent._modules)
    at = keys.index(site.key)
    module = site.parent._modules[keys[at - 1]] if at else None
    if not isinstance(module, _ConvNd | nn.Linear):
        return None
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return Site("", site.parent, keys[at - 1], module) if outputs == _channels(site.module) else None


def _standardised(conv: nn.Module, gain: float) -> nn.Module:
    """The same convolution with its filters normalised, its weights and bias kept."""
    if not isinstance(conv, nn.Conv2d) or conv.weight[0].numel() == 1:
        raise UserError(f"model.norm=weight: a {type(conv).__name__} has no filters to standardise")
    new = StandardisedConv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
        conv.groups, gain=gain,
    )  # fmt: skip
    new.weight, new.bias = conv.weight, conv.bias
    return new.to(conv.weight.device)


def _exchange_shortcuts(sites: list[Site], shortcut: str) -> int:
    make = lookup("shortcut", shortcut, SHORTCUTS)

    def factory(channels: int) -> nn.Module:
        module = make(channels)
        if callable(start := getattr(module, "init_weights", None)):
            start(drawing("he"))
        return module

    unknown = [f"{site.name} ({type(site.module).__name__})" for site in sites if _may_add(site.module)]
    if unknown:
        more = ", …" if len(unknown) > 3 else ""
        raise UserError(
            f"model.shortcut={shortcut}: not known here is how to take the shortcut out of "
            f"{', '.join(unknown[:3])}{more}"
        )
    count = 0
    for site in sites:
        block: Any = site.module
        kind = kind_of(block)
        if kind in ADDING and getattr(block, "add", False):
            block.add = False
            _put_around(site, factory, shortcut)
            count += 1
        elif kind in ATTENDING and getattr(block, "add", True):
            count += 2
            parts = ATTENDING[kind]
            if kind == "PSABlock":
                block.add = False
            elif kind == "ABlock":
                block = PlainABlock(OrderedDict((name, getattr(block, name)) for name in parts))
                site.put(block)
            else:
                block = PlainPSA(block)
                site.put(block)
            for name in parts:
                _put_around(Site("", block, name, getattr(block, name)), factory, shortcut)
        elif kind == "A2C2f" and block.gamma is not None:
            width = block.gamma.numel()
            block.gamma = None  # ultralytics' own way to have no addition here
            _put_around(site, factory, shortcut, width)
            count += 1
        elif isinstance(block, Residual | HighwayGate | SkipInit):
            site.put(factory(_width(site.parent) if shortcut != "none" else 0))
            count += 1
    return count


def _take_concatenations_out(sites: list[Site]) -> int:
    plain = [(site, block) for site in sites if (block := chained(site.module)) is not None]
    for site, block in plain:
        site.put(block)
    return len(plain)


def _put_around(
    site: Site, factory: Callable[[int], nn.Module], shortcut: str, width: int | None = None
) -> None:
    if shortcut != "none":
        site.put(Around(site.module, factory(width or _width(site.module))))


def _width(block: nn.Module) -> int:
    """The channels that a block gives: those of its last convolution."""
    return [module for module in block.modules() if isinstance(module, _ConvNd)][-1].out_channels


def _may_add(module: nn.Module) -> bool:
    """Whether a block that is not known here looks as if it added its input."""
    if kind_of(module) in {*ADDING, *ATTENDING, "A2C2f"} or type(module).__module__.startswith("detector."):
        return False
    held = {**vars(module), **module._modules, **module._parameters}
    inherits = any(
        kind.__name__ in {*ADDING, *ATTENDING, *UNKNOWN} and kind.__module__.startswith("ultralytics.")
        for kind in type(module).__mro__
    )
    values = [held.get(name, False) for name in ADD_LIKE]
    return inherits or any(v is not False and not isinstance(v, OUR_SHORTCUTS) for v in values)
