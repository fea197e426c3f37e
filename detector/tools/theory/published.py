"""Statements of papers about random networks, each measured again in seconds: not all of them hold exactly.

Every row names what was simulated. The formula is the paper's, evaluated here; a number that a paper prints
itself stands in a column of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.analysis.theory import Layer, Signal
from detector.tools.theory.measure import Check

SEEDS = (0, 1, 2)
WIDTH = 256

Kind = Literal["plain", "residual", "residual + BN"]


def check_published(seeds: Sequence[int] = SEEDS) -> Iterator[Check]:
    """One paper after the other."""
    for rows in (shattering, fluctuations, branches, small_weights, small_batches, critical_weights):
        yield from rows(seeds)


def shattering(seeds: Sequence[int]) -> Iterator[Check]:
    """Correlation between the gradients of two independent inputs: Balduzzi et al. 2017, arXiv:1702.08591.

    The formulas take each unit to be active for half of the inputs, for any two of them independently. Behind
    a batch norm, which the plain chains have, this is so; on a residual path inputs grow alike. With both the
    paper says only how the correlation falls, as about 1/√L: without the constant in front.
    """
    formulas: dict[Kind, Callable[[int], float]] = {
        "plain": lambda layers: 0.5**layers,
        "residual": lambda layers: 0.75**layers,
        "residual + BN": lambda layers: layers**-0.5,
    }
    for kind, formula in formulas.items():
        for layers in (1, 2, 4) if kind == "plain" else (1, 4, 8):
            measured = tuple(gradient_correlation(kind, layers, seed) for seed in seeds)
            what = f"correlation, {kind}, L = {layers}"
            yield Check(what, "Balduzzi et al. 2017", formula(layers), measured, tolerance=0.1)


def gradient_correlation(kind: Kind, layers: int, seed: int, networks: int = 20, inputs: int = 64) -> float:
    """E[g(x)·g(x')] / E[|g(x)|²] of the input's gradient, over random inputs x, x' and random ReLU networks.

    Batch statistics are held fixed, as in the paper: each input's gradient is of that input's output alone.
    """
    generator = torch.Generator().manual_seed(seed)
    together = alone = 0.0
    for _ in range(networks):
        x = torch.randn(inputs, WIDTH, generator=generator).requires_grad_()
        h = x
        for _ in range(layers):
            weight = torch.randn(WIDTH, WIDTH, generator=generator) * math.sqrt(2 / WIDTH)
            if kind == "plain":
                z = h @ weight
                h = F.relu((z - z.mean(0).detach()) / z.std(0).detach())
            else:
                u = (h - h.mean(0).detach()) / h.std(0).detach() if kind == "residual + BN" else h
                h = h + F.relu(u) @ weight
        (g,) = torch.autograd.grad((h @ torch.randn(WIDTH, generator=generator)).sum(), x)
        squares = float(g.square().sum())
        together += (float(g.sum(0).square().sum()) - squares) / (inputs - 1)
        alone += squares
    return together / alone


def fluctuations(seeds: Sequence[int], width: int = 64, layers: int = 30) -> Iterator[Check]:
    """ln of the squared gradient norm is about N(-β/2, β), β = 5Σ1/n: Hanin & Nica 2018, arXiv:1812.05994.

    So narrow networks of one and the same initialisation differ by decades from seed to seed.
    """
    beta = 5 * layers / width
    logs = [log_gradient_power(width, layers, seed) for seed in seeds]
    source = "Hanin & Nica 2018"
    means, variances = (tuple(f(sample) for sample in logs) for f in (_mean, _variance))
    yield Check(f"mean of ln |g|², width {width}, L = {layers}", source, -beta / 2, means, tolerance=0.1)
    yield Check(f"variance of ln |g|², width {width}", source, beta, variances, tolerance=0.15)


def log_gradient_power(width: int, layers: int, seed: int, networks: int = 400) -> Tensor:
    """ln(|g(input)|² / |g(output)|²) of so many ReLU networks with He's weights: (networks,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(networks, 1, width, generator=generator)
    weights, masks = [], []
    for _ in range(layers):
        weights.append(torch.randn(networks, width, width, generator=generator) * math.sqrt(2 / width))
        z = x @ weights[-1]
        masks.append(z > 0)
        x = z * masks[-1]
    start = torch.randn(networks, 1, width, generator=generator)
    g = start
    for weight, mask in zip(reversed(weights), reversed(masks), strict=True):
        g = (g * mask) @ weight.transpose(1, 2)
    return (g.square().sum((1, 2)) / start.square().sum((1, 2))).double().log()


def _mean(sample: Tensor) -> float:
    return float(sample.mean())


def _variance(sample: Tensor) -> float:
    return float(sample.var())


def branches(seeds: Sequence[int]) -> Iterator[Check]:
    """With batch norm at the head of each branch Var(x) = l + 1 after l blocks (De & Smith 2020).

    arXiv:2002.10444. So block l adds a share of 1 / (l + 1): a deep network starts close to its shortcuts.
    """
    runs = [residual_variances(32, seed) for seed in seeds]
    for blocks in (1, 4, 16, 32):
        measured = tuple(variances[blocks - 1] for variances in runs)
        yield Check(f"Var(x) after {blocks} blocks", "De & Smith 2020", blocks + 1, measured, tolerance=0.05)


def residual_variances(blocks: int, seed: int) -> list[float]:
    """Var(x) after each block x + W·ReLU(BN(x)), He's weights, on white inputs."""
    generator = torch.Generator().manual_seed(seed)
    h, found = torch.randn(512, WIDTH, generator=generator), []
    for _ in range(blocks):
        weight = torch.randn(WIDTH, WIDTH, generator=generator) * math.sqrt(2 / WIDTH)
        h = h + F.relu(F.batch_norm(h, None, None, training=True)) @ weight
        found.append(float(h.var()))
    return found


VGG_B = (64, 128, 128, 256, 256, 512, 512, 512, 512)  # filters of conv2 to conv10


def small_weights(seeds: Sequence[int]) -> Iterator[Check]:
    """How much gradient weights of std 0.01 cost VGG-B from conv10 to conv2: He et al. 2015, section 2.2.

    arXiv:1502.01852 prints 1.7·10⁴, of ratios rounded to two digits; the formula is theirs with none rounded.
    """
    measured = tuple(vgg_gradient("he", seed) / vgg_gradient("0.01", seed + 1000) for seed in seeds)
    formula = math.prod(math.sqrt(2 / (9 * filters)) / 0.01 for filters in VGG_B)
    yield Check("VGG-B, He's std / std 0.01", "He et al. 2015", formula, measured, 1.7e4, tolerance=0.1)


def vgg_gradient(std: Literal["he", "0.01"], seed: int) -> float:
    """‖g(conv2's input)‖ / ‖g(conv10's output)‖ on white images of 4 x 4 pixels that wrap around."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, VGG_B[0], 4, 4, generator=generator).requires_grad_()
    h, c_in = x, VGG_B[0]
    for filters in VGG_B:
        deviation = math.sqrt(2 / (9 * filters)) if std == "he" else 0.01
        weight = torch.randn(filters, c_in, 3, 3, generator=generator) * deviation
        h, c_in = F.relu(F.conv2d(F.pad(h, (1, 1, 1, 1), mode="circular"), weight)), filters
    start = torch.randn(h.shape, generator=generator)
    (g,) = torch.autograd.grad(h, x, start)
    return float(g.double().norm() / start.double().norm())


def small_batches(seeds: Sequence[int]) -> Iterator[Check]:
    """Batch norm without a non-linearity: |g|² grows by (B - 2) / (B - 3) a layer (Yang et al. 2019).

    The smaller the batch B, the more; for B = 3 it is infinite. arXiv:1902.08129.
    """
    for batch in (4, 5, 8, 16):
        measured = tuple(linear_batch_norm(batch, seed) for seed in seeds)
        formula = (batch - 2) / (batch - 3)
        what = f"identity + batch norm, B = {batch}"
        yield Check(what, "Yang et al. 2019", formula, measured, tolerance=0.05)


def linear_batch_norm(batch: int, seed: int, layers: int = 12, networks: int = 10) -> float:
    """The factor of |g|² a layer: the geometric mean over layers, but for those at the ends, and networks."""
    generator = torch.Generator().manual_seed(seed)
    logs = []
    for _ in range(networks):
        h, outputs = torch.randn(batch, 2 * WIDTH, generator=generator).requires_grad_(), []
        for _ in range(layers):
            weight = torch.randn(2 * WIDTH, 2 * WIDTH, generator=generator) / math.sqrt(2 * WIDTH)
            h = F.batch_norm(h @ weight, None, None, training=True, eps=1e-12)
            outputs.append(h)
        grads = torch.autograd.grad((h * torch.randn(h.shape, generator=generator)).sum(), outputs)
        first, last = (float(g.double().square().sum()) for g in (grads[1], grads[-3]))
        logs.append(math.log(first / last) / (layers - 4))
    return math.exp(sum(logs) / len(logs))


def critical_weights(seeds: Sequence[int]) -> Iterator[Check]:
    """tanh with biases of variance 0.05: σ_w² = 1.76 is critical, χ = 1 (Schoenholz et al. 2017).

    arXiv:1611.01232. Elsewhere |g|² changes by χ a layer: its scale of depth is 1 / |ln χ|.
    """
    for gain in (1.0, 1.76, 2.5):
        measured = tuple(tanh_chi(gain, 0.05, seed) for seed in seeds)
        what = f"χ, tanh, σ_w² = {gain}, σ_b² = 0.05"
        yield Check(what, "Schoenholz et al. 2017", fixed_point_chi(gain, 0.05), measured, tolerance=0.02)


def fixed_point_chi(gain: float, bias: float) -> float:
    """χ of a tanh layer far down a plain chain."""
    layer, signal, chi = Layer("tanh", "none", gain, bias), Signal(0.0, 1.0, 1.0), math.nan
    for _ in range(200):
        signal, chi = layer(signal)
    return chi


def tanh_chi(gain: float, bias: float, seed: int, width: int = 512, layers: int = 30) -> float:
    """The factor of |g|² a layer, layers 10 to 25 of a plain tanh chain of biased layers."""
    generator = torch.Generator().manual_seed(seed)
    h, outputs = torch.randn(64, width, generator=generator).requires_grad_(), []
    for _ in range(layers):
        weight = torch.randn(width, width, generator=generator) * math.sqrt(gain / width)
        h = torch.tanh(h @ weight + math.sqrt(bias) * torch.randn(width, generator=generator))
        outputs.append(h)
    grads = torch.autograd.grad((h * torch.randn(h.shape, generator=generator)).sum(), outputs)
    first, last = (float(g.double().square().sum()) for g in (grads[10], grads[25]))
    return float((first / last) ** (1 / 15))
