"""Page 1: a neuron, and the chain rule."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detector.analysis.theory import layer_factor
from detector.rows import Key, by_layer
from scripts.lesson_steps.common import SEEDS, Found, network, picture, record, shapes, spread, table


def neuron() -> Found:
    """One neuron learns to tell two clouds of points apart, with a bias and without."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 2, generator=generator) * 0.6
    y = (torch.arange(80) % 2).float()
    x += torch.tensor([1.0, 1.0]) + y[:, None] * torch.tensor([1.6, 1.2])  # both clouds away from the origin

    def loss(w: Tensor, b: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x @ w + b, y)

    w, b = torch.tensor([0.5, -0.3], requires_grad=True), torch.tensor(0.1, requires_grad=True)
    loss(w, b).backward()
    assert w.grad is not None
    by_hand = ((torch.sigmoid(x @ w + b) - y)[:, None] * x).mean(0)  # the chain rule: dL/dz · dz/dw
    small = 1e-3
    nudged = [(loss(w + small * e, b) - loss(w - small * e, b)).item() / (2 * small) for e in torch.eye(2)]
    rows = [
        (f"dL/dw{i + 1}", f"{by_hand[i]:+.4f}", f"{w.grad[i]:+.4f}", f"{nudged[i]:+.4f}") for i in range(2)
    ]
    text = table(("", "by hand", "autograd", "nudging w"), rows)

    figure, axes = picture()
    for label, colour in ((0, "#0072B2"), (1, "#D55E00")):
        axes.scatter(*x[y == label].T.numpy(), s=18, color=colour, label=f"class {label}")
    results = []
    for name, style, biased in (("with a bias", "-", True), ("without", "--", False)):
        w, b = torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)
        for _ in range(2000):
            (dw, db) = torch.autograd.grad(loss(w, b), (w, b))
            with torch.no_grad():
                w -= 0.5 * dw
                b -= 0.5 * db * biased
        with torch.no_grad():
            right = float((((x @ w + b) > 0) == (y > 0)).float().mean())
            results.append((name, f"{float(loss(w, b)):.3f}", f"{100 * right:.0f} %"))
        line = np.linspace(-1, 5, 2)
        w1, w2, offset = *w.tolist(), float(b.detach())
        axes.plot(line, -(w1 * line + offset) / w2, style, color="black", label=name)
    axes.set(xlim=(-1, 5), ylim=(-1, 4.5), xlabel="input 1", ylabel="input 2")
    axes.legend(ncols=2, loc="upper left", columnspacing=1, handlelength=1.4)
    return Found(f"{text}\n\n{table(('after 2000 steps', 'loss', 'right'), results)}", figure)


def chain() -> Found:
    """A product of as many factors as there are layers, by autograd, and in a real trunk."""
    depths = (10, 41, 100)
    rows = []
    figure, axes = picture()
    for factor in (1.1, 1.0, 0.9, 0.25):
        measured = [chained(factor, n) for n in depths]
        rows.append((f"{factor:g}", *(f"{value:.2g}" for value in measured)))
        axes.semilogy(range(101), [max(chained(factor, n), 1e-61) for n in range(101)], label=f"{factor:g}ⁿ")
    # P3's ten blocks are twenty convolutions; each factor is that of the eight blocks in between.
    found = [trunk_profile(seed)[4:15] for seed in SEEDS]
    factors = [(stage[0] / stage[8]) ** (1 / 16) for stage in found]
    left = np.median([np.array(stage[::-1]) / stage[-1] for stage in found], axis=0)
    axes.semilogy(range(0, 21, 2), left, "k.:", linewidth=2.5, label="measured")
    axes.set(
        xlabel="layers that it has come through", ylabel="what is left of the gradient", ylim=(1e-20, 1e5)
    )
    axes.legend(ncols=2, loc="lower left")
    theory = layer_factor("sigmoid", "none", 2.0)
    text = table(("factor of a layer", *(f"n = {n}" for n in depths)), rows)
    text += f"\n\nplain_sigmoid, in P3, n = {len(SEEDS)} seeds: {spread(factors, 3)} a layer"
    return Found(f"{text}\nmean-field theory, He's weights: {theory:.3f}", figure)


def chained(factor: float, layers: int) -> float:
    """d(output)/d(input) of y = w·w·…·x, by autograd."""
    x = torch.ones((), dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(layers):
        y = factor * y
    return float(torch.autograd.grad(y, x)[0]) if layers else 1.0


def trunk_profile(seed: int) -> list[float]:
    """‖dL/d(output)‖ of each layer of the plain sigmoid trunk, on four images of shapes."""
    model = network(seed, shortcut="none", norm="none", act="sigmoid")
    return list(by_layer(record(model, shapes()), Key.ACTIVATION_GRAD).values())


def far() -> Found:
    """How much gradient each layer's weights get, from the loss back to the image."""
    figure, axes = picture()
    rows = []
    for name, settings in (
        ("plain_sigmoid", {"shortcut": "none", "norm": "none", "act": "sigmoid"}),
        ("baseline", {}),
    ):
        found = [record(network(seed, **settings), shapes()) for seed in SEEDS]
        curves = [list(by_layer(row, Key.WEIGHT_GRAD).values()) for row in found]
        axes.semilogy(np.median(curves, axis=0), label=name)
        axes.fill_between(range(len(curves[0])), np.min(curves, axis=0), np.max(curves, axis=0), alpha=0.2)
        decades = [math.log10(curve[0] / curve[-1]) for curve in curves]
        rows.append((name, f"{np.median([c[0] for c in curves]):.1e}",
                     f"{np.median([c[-1] for c in curves]):.1e}", spread(decades, 1, "+")))  # fmt: skip
    axes.set(xlabel="layer: 0 sees the image, 22 is nearest the loss", ylabel="‖dL/dw‖")
    axes.legend()
    heads = ("‖dL/dw‖", "first layer", "last layer", f"decades, n = {len(SEEDS)}")
    return Found(table(heads, rows), figure)


STEPS = {"neuron": neuron, "chain": chain, "far": far}
