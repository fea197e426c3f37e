"""Ultralytics' blocks without what goes past their convolutions: additions, and concatenations.

A C2f hands its last convolution not only what its bottlenecks make, but also what goes into them and what
they never see: `cv2([a | b | m₁(b) | m₂(m₁(b))])`, a and b the halves of `cv1(x)`. Without their additions,
these concatenations are the skips that are left in such a block. A chain keeps the last branch alone:

    cv2(m₂(m₁(b)))

That is the same function as with zeros in the other places, and the weights that remain are the same: of
`cv1` the filters that make b, of `cv2` what it applied to the last branch. The shapes of input and output
stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detector.errors import UserError


class PlainPSA(nn.Module):
    """Ultralytics' `PSA` without its two additions, its parts under their names: (B, c, H, W) -> the same."""

    was = "PSA"

    def __init__(self, psa: Any) -> None:
        super().__init__()
        self.cv1, self.cv2, self.attn, self.ffn = psa.cv1, psa.cv2, psa.attn, psa.ffn

    def forward(self, x: Tensor) -> Tensor:
        """Attention over one half of the channels; the other passes by."""
        a, b = self.cv1(x).chunk(2, 1)  # (B, c / 2, H, W) each
        out: Tensor = self.cv2(torch.cat((a, self.ffn(self.attn(b))), 1))
        return out


class PlainABlock(nn.Sequential):
    """Ultralytics' `ABlock` without its two additions: its parts in a row, under their names."""


class Chain(nn.Module):
    """A block whose parts follow each other, under their names: (B, c_in, H, W) -> (B, c_out, H, W)."""

    def __init__(self, was: str, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.was = was  # the name of the block
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """Each of them on what the one before gives; a list is its own chain."""
        for part in self.children():
            for module in part if isinstance(part, nn.ModuleList) else (part,):
                x = module(x)
        return x


class Form(NamedTuple):
    """How a block concatenates."""

    body: tuple[str, ...]  # the parts that one branch goes through
    last: str  # the convolution over all branches
    halved: bool  # whether the body gets the second half of what the first convolution makes, or all of it
    first: bool = False  # whether its branch stands first among those of the last convolution, or last


FORMS = {
    **dict.fromkeys(("C2f", "C2fCIB", "C2fPSA", "C2PSA", "C3k2"), Form(("m",), "cv2", halved=True)),
    "PSA": Form(("attn", "ffn"), "cv2", halved=True),
    "A2C2f": Form(("m",), "cv2", halved=False),
    **dict.fromkeys(("C3", "C3k"), Form(("m",), "cv3", halved=False, first=True)),
}
# Those whose concatenation is another, and not known here. SPP and SPPF pool, and stay as they are.
OTHERS = {"BottleneckCSP", "C2", "C2fAttn", "C3f", "ELAN1", "HGBlock", "RepC3", "RepNCSPELAN4", "SPPELAN"}


def kind_of(module: nn.Module) -> str:
    """The name of ultralytics' block, "" of any other module."""
    return type(module).__name__ if type(module).__module__.startswith("ultralytics.") else ""


def chained(block: Any) -> Chain | None:
    """A block without its concatenation, made of its own parts; None of one that has none.

    Raises:
        UserError: it has one that is not known here.
    """
    kind = PlainPSA.was if isinstance(block, PlainPSA) else kind_of(block)
    form = FORMS.get(kind)
    if form is None:
        kinds = {kind.__name__ for kind in type(block).__mro__ if kind.__module__.startswith("ultralytics.")}
        if kinds & {*FORMS, *OTHERS}:
            what = f"the concatenation out of a {type(block).__name__}"
            raise UserError(f"model.shortcut=chain: not known here is how to take {what}")
        return None
    first, last = block.cv1, getattr(block, form.last)
    width = first.conv.out_channels // (2 if form.halved else 1)
    if form.halved:
        _narrow(first, outputs=slice(width, None))
    _narrow(last, inputs=slice(None, width) if form.first else slice(-width, None))
    body = {name: getattr(block, name) for name in form.body}
    return Chain(kind, {"cv1": first, **body, form.last: last})


def _narrow(unit: Any, *, outputs: slice = slice(None), inputs: slice = slice(None)) -> None:
    """Keep some of a unit's filters, with their norm, and some of the channels that they are applied to."""
    conv, norm = unit.conv, unit.bn
    _keep(conv, "weight", (outputs, inputs))
    conv.out_channels, conv.in_channels = conv.weight.shape[:2]
    for name in ("bias", "gain"):
        _keep(conv, name, outputs)
    for name in ("weight", "bias", "running_mean", "running_var"):
        _keep(norm, name, outputs)
    if isinstance(norm, nn.GroupNorm):
        norm.num_channels, norm.num_groups = conv.out_channels, gcd(norm.num_groups, conv.out_channels)
    elif hasattr(norm, "num_features"):
        norm.num_features = conv.out_channels


def _keep(module: nn.Module, name: str, part: slice | tuple[slice, slice]) -> None:
    old = getattr(module, name, None)
    if isinstance(old, Tensor):
        new = old.detach()[part].clone()
        is_weight = isinstance(old, nn.Parameter)
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad) if is_weight else new)
