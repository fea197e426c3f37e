"""Changes how large the gradient is along the trunk, and nothing else: is its size why nothing is learnt?

`ImposedProfile` gives each layer's activation gradient the norm that it has in another run, relative to the
last layer's. `equalise` gives each layer's weight gradient the same size relative to the weights. The forward
pass and the direction of each of these gradients stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from detector.errors import UserError
from detector.gradients.layers import tensors, trainable_weights
from detector.gradients.norms import joint_norm, norm
from detector.gradients.profile import Profile
from detector.gradients.signal import Gather, alone


class ImposedProfile:
    """Rescales the gradient at each layer's output as it comes back, to a multiple of the last layer's.

        imposed = ImposedProfile(layers, profile)
        imposed.begin(step)     # hooks on: they stay until `remove`, so put them on before a recorder's
        loss.backward()         # once, or once a micro-batch
        imposed.raw()           # the norms as they arrived, and a check that all could be rescaled

    What arrives at a layer comes from a layer that has been rescaled already, so `raw` is what the network
    does to the imposed gradient of the layer behind. Where an output also feeds the neck, the sum of both
    gradients is rescaled. A gradient of zero has no direction, and stays zero; one that is not finite is left
    to whatever guards the step.

    Each micro-batch is rescaled by itself, relative to its own last layer, so that their joint norms have the
    profile's ratios too. All shards of a batch are rescaled alike.

    Args:
        points: the layers by their names, in network order, each with one tensor as its output.
        profile: of the same layers.
        gather: stacks a tensor of every shard, (…) -> (shards, …).
    """

    def __init__(self, points: Mapping[str, nn.Module], profile: Profile, gather: Gather = alone) -> None:
        self.points, self.profile, self.gather = dict(points), profile, gather
        self._last = list(self.points)[-1]
        self._ratios: Mapping[str, float] = {}
        self._reference: Tensor | None = None  # ‖g‖ of the last layer in this backward pass
        self._squares: dict[str, list[Tensor]] = {}
        self._refused: dict[str, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = [
            module.register_forward_hook(self._watch(name)) for name, module in self.points.items()
        ]

    def begin(self, step: int) -> None:
        """Take the profile of this step, and forget the one before."""
        self._ratios = self.profile.at(step)
        self._reference, self._squares, self._refused = None, {}, {}

    def raw(self) -> dict[str, Tensor]:
        """Each layer's norm as it arrived, over all micro-batches and shards: float64 scalars on the device.

        Raises:
            UserError: the profile asks for more than the gradient's type can hold; nothing of the kind was
                written.
        """
        refused = {name: torch.stack(flags).any() for name, flags in self._refused.items()}
        if refused and bool(torch.stack(list(refused.values())).any()):  # one look at the device a step
            name = next(name for name, flag in refused.items() if bool(flag))
            raise UserError(
                f"gradients.impose={self.profile.source}: at {name} it asks for a gradient of "
                f"{self._ratios[name]:.3g} times the last layer's, which is more than a number can hold; "
                "nothing was changed there"
            )
        return {
            name: torch.stack(self._squares[name]).sum().sqrt()
            for name in self.points
            if name in self._squares
        }

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, name: str) -> Callable[..., None]:
        def forward_hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if torch.is_grad_enabled() and self._ratios:
                for tensor in tensors(output):
                    if tensor.requires_grad:
                        tensor.register_hook(lambda grad: self._rescale(name, grad))

        return forward_hook

    @torch.no_grad()
    def _rescale(self, name: str, grad: Tensor) -> Tensor | None:
        square = self.gather(norm(grad).square()).sum()
        self._squares.setdefault(name, []).append(square)
        arrived = square.sqrt()
        if name == self._last:
            self._reference = arrived
            return None
        if self._reference is None:
            raise RuntimeError(f"{name} is not in front of {self._last}: the layers are not in network order")
        wanted = self._reference * self._ratios[name]
        possible = wanted <= torch.finfo(grad.dtype).max
        known = torch.isfinite(arrived) & torch.isfinite(self._reference) & (arrived > 0)
        self._refused.setdefault(name, []).append(known & ~possible)
        # In two steps: the factor alone may be too large a number for the gradient's type.
        root = torch.where(known & possible, wanted / arrived, 1.0).sqrt()
        return grad * root * root


@torch.no_grad()
def equalise(model: nn.Module, points: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Give each layer's weight gradient the same norm relative to its weights: that of the rest of the model.

    ‖dL/dw‖ / ‖w‖ is taken over a layer's convolutions; its biases and norms are rescaled by the same factor.
    As in layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888), which has a constant in place
    of the rest's ratio. A layer without a gradient stays without one.

    Args:
        model: after its backward pass, the gradients complete and unscaled; they are changed in place.
        points: the layers, parts of the model.

    Returns:
        ‖dL/dw‖ of each layer before.

    Raises:
        UserError: the model has nothing besides these layers that learns.
    """
    inside = {id(p) for module in points.values() for p in module.parameters()}
    rest = [p for p in trainable_weights(model) if p.grad is not None and id(p) not in inside]
    if not rest:
        raise UserError(
            "gradients.equalise: the model has no trained weights besides its trunk to be measured by"
        )
    common = _gradient(rest) / joint_norm(list(rest))
    found = {}
    for name, module in points.items():
        weights = [p for p in trainable_weights(module) if p.grad is not None]
        if not weights:
            continue
        found[name] = size = _gradient(weights)
        factor = common * joint_norm(list(weights)) / size
        possible = torch.isfinite(factor) & (factor > 0)
        root = torch.where(possible, factor, 1.0).sqrt()
        for p in module.parameters():
            if p.grad is not None:
                p.grad.mul_(root).mul_(root)
    return found


def _gradient(weights: list[nn.Parameter]) -> Tensor:
    return joint_norm([p.grad for p in weights if p.grad is not None])
