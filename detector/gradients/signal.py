"""The forward signal at a layer: how large it is, and how much of it depends on the image.

A gradient can only teach what the signal carries: where every image gives the same activations, or
activations that are almost zero, the fault lies in the forward pass, whatever the gradient does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from detector.gradients.norms import measurable
from detector.rows import Key

Gather = Callable[[Tensor], Tensor]  # stacks a tensor of every shard, (…) -> (shards, …)
CHUNK = 2**22  # values that are held in float64 at a time: 32 MB, whatever the batch


def alone(tensor: Tensor) -> Tensor:
    """The `gather` of a batch that is in one piece: (…) -> (1, …)."""
    return tensor[None]


class SignalMeter:
    """Measures chosen layers' outputs during a step, over all its micro-batches and shards as one batch.

    For each it has two numbers, over all channels and positions (c, h, w) of the B images:

    - the RMS of the activations
    - the input dependence I = sqrt(mean over (c, h, w) of the variance between the images) / RMS: 0 when
      all images give the same, 1 when they have nothing in common at any position. Of images that are drawn
      independently it is about sqrt((B - 1) / B), and of a single image it does not exist.

    The variance is taken at a fixed position, since the edge of the padded image alone gives every layer a
    spatial pattern, which has nothing to do with the image.

    Args:
        layers: the recorded layers to measure, by level, such as p3; the level "" has no RMS in the record.
        gather: stacks a tensor of every shard, (…) -> (shards, …).
    """

    def __init__(self, layers: Mapping[str, str], gather: Gather) -> None:
        self.layers, self.gather = dict(layers), gather
        self._moments: dict[str, list[Tensor]] = {}

    def watch(self, layer: str, output: Tensor) -> None:
        """Take in the output of a forward pass, (B, …), if the layer is to be measured."""
        if layer in self.layers.values():
            self._moments.setdefault(layer, []).append(moments(output.detach()))

    def clear(self) -> None:
        """Forget the step."""
        self._moments = {}

    def measure(self) -> dict[str, Tensor]:
        """The measured values as scalars on their device; `report` turns them into the record's."""
        found: dict[str, Tensor] = {}
        joint = {
            layer: join(torch.cat([self.gather(m) for m in ms]))
            for layer, ms in self._moments.items()
            if len({m.shape for m in ms}) == 1
        }
        for level, layer in self.layers.items():
            if layer in joint:
                counts, rms, dependence = summary_of(joint[layer])
                found |= {f"images/{level}": counts, f"rms/{level}": rms, f"dependence/{level}": dependence}
        return found

    def report(self, values: Mapping[str, float]) -> dict[str, float]:
        """The record's keys, from what `measure` returned: `signal/rms_p3`, `signal/input_dependence`, …"""
        record: dict[str, float] = {}
        for level in self.layers:
            if f"rms/{level}" not in values:
                continue
            suffix = f"_{level}" if level else ""
            if suffix:
                record[Key.RMS + suffix] = values[f"rms/{level}"]
            if values[f"images/{level}"] > 1:
                record[Key.INPUT_DEPENDENCE + suffix] = values[f"dependence/{level}"]
        return record


def input_dependence(x: Tensor) -> Tensor:
    """I of an activation (B, …): see `SignalMeter`."""
    return summary_of(moments(x))[2]


def moments(x: Tensor) -> Tensor:
    """What RMS and I are made of, so that they can be put together from several batches.

    Deviations are taken from the first image, so that equal images deviate by exactly nothing.

    Args:
        x: (B, …), B possibly 0.

    Returns:
        (3, P) in float64 for the P values of an image: how many images, their mean, and the sum of their
        squared deviations from it.
    """
    x = measurable(x)
    count, size = len(x), x[:1].numel() if len(x) else x.new_empty(1, *x.shape[1:]).numel()
    if not count:  # an empty share of a batch
        return x.new_zeros(3, size, dtype=torch.float64)
    # As a matrix in the order of the memory: over four dimensions a sum takes ten times as long.
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    inner = x.movedim(1, -1) if last else x
    rows = inner.flatten(1) if x.dim() > 1 else inner[:, None]
    first = rows[0].double()
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for images in rows.split(max(1, CHUNK // max(size, 1))):
        deviation = images.double() - first
        total += deviation.sum(0)
        squares += deviation.square_().sum(0)
    spread = (squares - total.square() / count).clamp_min(0)
    found = torch.stack([torch.full_like(first, count), first + total / count, spread])
    return found.view(3, *inner.shape[1:]).movedim(-1, 1).flatten(1) if last else found


def join(parts: Tensor) -> Tensor:
    """The moments of a batch whose parts have these, (parts, 3, P) -> (3, P) (Chan et al. 1979)."""
    count, mean, spread = parts[0]
    for more, other, its_spread in parts[1:]:
        both = (count + more).clamp_min(1)
        step = other - mean
        spread = spread + its_spread + step.square() * count * more / both
        mean = torch.where(count > 0, mean + step * more / both, other)
        count = count + more
    return torch.stack([count, mean, spread])


def summary_of(joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, RMS and I of a batch with these moments, (3, P)."""
    count, mean, spread = joint
    variance = (spread / count.clamp_min(1)).mean()
    rms = (variance + mean.square().mean()).sqrt()
    return count.amax(), rms, variance.sqrt() / rms.clamp_min(torch.finfo(torch.float64).tiny)
