"""Can anything learn from these features? A linear probe, and how shattered the gradient behind them is.

Both need passes alone, no training: they say at initialisation what a trunk hands to whatever learns on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.gradients.layers import tensors
from detector.gradients.norms import measurable

FOLDS = 4
CELLS = 4096  # a level at most, evenly spaced: enough for a few hundred weights
RIDGE = 1e-3  # of the number of cells, on standardised features
POINTS, PIXELS = 32, 96  # on the line between two images; their size there


def auc(scores: Tensor, positive: Tensor) -> float:
    """The chance that a positive's score is above a negative's, ties counting half (Mann & Whitney 1947).

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        NaN if there are no positives, or nothing else.
    """
    n, p = len(scores), int(positive.sum())
    if p in (0, n):
        return math.nan
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts.double() - 1) / 2)[place]  # from 1; of equal scores the middle
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))


def probe_auc(features: Tensor, positive: Tensor, image: Tensor) -> float:
    """How well a linear probe tells positive cells from the others on images that it was not fitted to.

    Ridge regression on standardised features, in up to four folds of whole images; the AUC is their mean.

    Args:
        features: (N, c) float64, one row a cell.
        positive: (N,) bool.
        image: (N,) int, from 0: which image a cell is of.

    Returns:
        NaN if no fold has positives and negatives to fit and to test, or a feature is not finite.
    """
    if not bool(features.isfinite().all()):
        return math.nan
    folds = min(FOLDS, int(image.max()) + 1)
    found = []
    for fold in range(folds):
        test = image % folds == fold
        fit = ~test
        if 0 < int(positive[fit].sum()) < int(fit.sum()):
            found.append(auc(_ridge(features[fit], positive[fit], features[test]), positive[test]))
    known = [value for value in found if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _ridge(features: Tensor, positive: Tensor, others: Tensor) -> Tensor:
    mean, deviation = features.mean(0), features.std(0, correction=0)
    varies = deviation > 0
    x, z = (((f - mean) / deviation)[:, varies] for f in (features, others))
    y = positive.double() - positive.double().mean()  # so that no constant is needed beside centred features
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights: Tensor = z @ torch.linalg.solve(gram, x.T @ y)
    return weights


def inside(boxes: Tensor, batch_idx: Tensor, images: int, height: int, width: int) -> Tensor:
    """Which cells' middles lie in an object.

    Args:
        boxes: (N, 4) xywh, fractions of the image.
        batch_idx: (N,) which image an object is in.
        images: how many there are.
        height: cells of the grid.
        width: cells of the grid.

    Returns:
        (images, height, width) bool.
    """
    y = ((torch.arange(height) + 0.5) / height).view(1, -1, 1)
    x = ((torch.arange(width) + 0.5) / width).view(1, 1, -1)
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    low, high = ((middle + sign * half)[:, :, None, None] for sign in (-1, 1))
    hit = (x >= low[:, 0]) & (x <= high[:, 0]) & (y >= low[:, 1]) & (y <= high[:, 1])  # (N, height, width)
    found = torch.zeros(images, height, width, dtype=torch.bool)
    for image, cells in zip(batch_idx.long().tolist(), hit, strict=True):
        found[image] |= cells
    return found


def position(images: int, height: int, width: int) -> Tensor:
    """Features that know a cell's place alone, (images · height · width, 5): x, y, x², y², xy in [0, 1]."""
    y, x = torch.meshgrid(
        torch.linspace(0, 1, height).double(), torch.linspace(0, 1, width).double(), indexing="ij"
    )
    return torch.stack([x, y, x * x, y * y, x * y], -1).reshape(-1, 5).repeat(images, 1)


def probe_levels(maps: Mapping[str, Tensor], boxes: Tensor, batch_idx: Tensor) -> dict[str, float]:
    """The probe on each level's features, and on position alone: what it must beat to have seen anything.

    Args:
        maps: (B, c, h, w) by level, on the CPU.
        boxes: see `inside`.
        batch_idx: see `inside`.

    Returns:
        `p3` and `p3_position` and so on; those that do not exist are left out.
    """
    found: dict[str, float] = {}
    for level, features in maps.items():
        images, _, height, width = features.shape
        labels = inside(boxes, batch_idx, images, height, width).reshape(-1)
        image = torch.arange(images).repeat_interleave(height * width)
        step = -(-len(labels) // CELLS)
        step += step > 1 and width % step == 0  # else it would see the same columns of every image
        rows = measurable(features).double().permute(0, 2, 3, 1).flatten(0, 2)
        for name, x in ((level, rows), (f"{level}_position", position(images, height, width))):
            value = probe_auc(x[::step], labels[::step], image[::step])
            if math.isfinite(value):
                found[name] = value
    return found


@contextmanager
def outputs_of(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Keep what these layers put out in the passes inside, the first tensor of each."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            kept[name] = next(tensors(output))
            if torch.is_grad_enabled() and not kept[name].requires_grad:  # behind a frozen layer
                kept[name].requires_grad_()

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def gradient_autocorrelation(
    model: nn.Module, layers: Sequence[nn.Module], first: Tensor, second: Tensor
) -> float:
    """How alike the gradients of neighbouring inputs are: 1 smooth, 0 as white noise, "shattered".

    Balduzzi et al. 2017 (arXiv:1702.08591), section 2: along a line of inputs in one batch, the lag-1
    autocorrelation of the gradient with respect to the input. Here the line leads from one image to another,
    and the gradient is that of a fixed random readout of the last layer at the output of the first:
    Σ ⟨q_t, q_t+1⟩ / Σ ⟨q_t, q_t⟩ · T / (T - 1), with q_t the gradient less its mean over the T points.

    Args:
        model: in the mode that it is to be measured in; norms take in the line's statistics.
        layers: the trunk's in network order.
        first: an image, (3, H, W) in [0, 1].
        second: another.

    Returns:
        NaN where nothing varies, or a number is not finite.
    """
    ends = F.interpolate(torch.stack([first, second]), (PIXELS, PIXELS), mode="bilinear", antialias=True)
    share = torch.linspace(0, 1, POINTS, device=ends.device).view(-1, 1, 1, 1)
    with torch.enable_grad(), outputs_of({"first": layers[0], "last": layers[-1]}) as kept:
        model(ends[:1] * (1 - share) + ends[1:] * share)
        last = kept["last"].float()
        readout = torch.randn(last.shape[1:], generator=torch.Generator().manual_seed(0)).to(last.device)
        (gradient,) = torch.autograd.grad((last * readout).sum(), kept["first"])
    return lag_one(measurable(gradient).double().flatten(1))


def lag_one(series: Tensor) -> float:
    """The lag-1 autocorrelation of vectors, (T, n): see `gradient_autocorrelation`."""
    q = series - series.mean(0)
    own = float((q * q).sum())
    count = len(q)
    if not (math.isfinite(own) and own > 0):
        return math.nan
    return float((q[:-1] * q[1:]).sum()) / own * count / (count - 1)
